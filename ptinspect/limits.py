"""All limits, in one place.

Work and memory grow with the input, and these limits keep them in proportion to it. The defaults
admit every honest file that we have seen, by a factor of ten or more. A test meets each limit.
Raise one with `ptinspect.open(path, limits=Limits(...))`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Limits:
    """Limits on what a file may ask for. Sizes are in bytes unless the text says otherwise."""

    # the machine
    stack_items: int = 1 << 25
    """Values on the pickle machine's stack at once (a tuple of n items needs n)."""
    memo_items: int = 1 << 26
    """Values in the memo."""
    mark_depth: int = 1 << 20
    """MARKs open at once."""
    int_bytes: int = 1 << 16
    """Size of one integer."""
    int_digits: int = 4_000
    """Digits of one integer written as text (its conversion is quadratic)."""
    string_bytes: int = 1 << 28
    """Size of one string (bytes objects are not copied, and so not bounded)."""
    key_items: int = 10_000
    """Parts of one dictionary key (a tuple of tuples), counted as hashing would visit them."""
    key_depth: int = 200
    """Nesting of one dictionary key."""
    warnings: int = 100
    """Warnings of one stream; further ones are only counted."""

    # containers
    pickle_bytes: int = 1 << 32
    """Size of one pickle record of an archive (storages are not bounded)."""
    zip_entries: int = 4_000_000
    """Entries in a zip's directory."""
    compression_ratio: int = 1_100
    """Real size of a record over its compressed size (deflate itself ends at 1,032)."""
    pickle_ratio: int = 100
    """Real size of a compressed pickle over its compressed size, above 16 MiB: each of its bytes
    is an opcode to run."""
    inflated_bytes: int = 1 << 32
    """Real size of one compressed record that is decompressed in memory."""
    nested_archives: int = 3
    """Archives inside archives, and legacy streams inside pickles."""
    streams: int = 100_000
    """Pickles in a row in one file, and streams inside one pickle."""
    index_bytes: int = 1 << 27
    """Size of the index of a model in several files (JSON, parsed in one piece)."""
    shards: int = 10_000
    """Files that one index names."""

    # the objects in a file
    graph_items: int = 50_000_000
    """Values that a walk through a file's objects visits."""
    view_items: int = 10_000
    """Objects visited under second and further paths, counted by the steps of these paths, in
    addition to as many as the file has objects."""
    path_depth: int = 500
    """Nesting of the objects that a walk follows."""
    dims: int = 512
    """Dimensions of one tensor."""

    # output
    text_width: int = 2_000
    """Characters of one string of the file in text output."""
    name_chars: int = 500
    """Characters of one name, reason or call in a report of scan."""
    reported_items: int = 10_000
    """Findings, errors and members in a report of scan, of each kind; further ones are counted."""
    report_bytes: int = 1 << 25
    """Size of the JSON of scan's report on one file; a note counts what is left out."""
    reports_bytes: int = 1 << 28
    """Size of the JSON of scan's reports on several files: each one may take an equal part, and at
    least 32 KiB."""

    def shared_by(self, files: int) -> Limits:
        """Return the limits on each of several files, whose reports share `reports_bytes`."""
        share = max(self.reports_bytes // max(files, 1), 1 << 15)
        return replace(self, report_bytes=min(self.report_bytes, share))


LIMITS = Limits()
