"""What a file is, told by its content and never by its name, and the one way to open it.

The order is torch's: a file that begins as a zip does is one, a tar with torch's members is a
tar, and all else that is not known to be something else is read as pickles. What a zip does
not need is imported when it is met: most files are zips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError
from ptinspect.formats.signatures import (
    Identity,
    identify_index,
    identify_signature,
    identify_text,
    is_tar,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.opcodes import BY_CODE

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive
    from ptinspect.formats.zip.directory import ZipDirectory
    from ptinspect.source.base import Source


INDEX = 1 << 20
"""Bytes of a JSON in which the weight_map of an index is looked for."""

MODELS = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
"""How the names of members end that are worth a look."""


def identify_head(source: Source, head: bytes, limits: Limits) -> Identity | None:
    """The format of what begins as no pickle can, or as no pickle does; None for the rest.
    `head`: the first few kilobytes."""
    if not source.size:
        return Identity("empty", "an empty file (0 bytes)", DOWNLOAD_AGAIN)
    if not any(head):
        return _zeros(source)
    if head.startswith((b"PK\x05\x06", b"PK\x07\x08")):
        return Identity("zip", "an empty zip, or the first part of one in several files")
    tail = source.read(max(source.size - 8, 0), min(source.size, 8))
    found = identify_signature(head, tail, source.size)
    if found:
        return found
    if is_tar(head):
        return _tar_kind(source, limits)
    if head[0] in BY_CODE:
        return None
    named = identify_text(head, source.size)
    if named is not None and named.format == "json" and source.size > len(head):
        more = source.read(0, min(source.size, INDEX))  # metadata may stand in front of the map
        return identify_index(more.decode("utf-8", "replace")) or named
    return named


def _zeros(source: Source) -> Identity:
    """A file that was given its length, and not (all of) its content."""
    count = min(source.size, 1 << 20)
    if any(source.read(0, count)):
        what = "a file that begins with zeros"
    elif count == source.size:
        what = f"a file of {count:,} zero bytes"
    else:
        what = f"a file whose first {count:,} bytes are zero"
    return Identity("zeros", what, f"its content was never written: {DOWNLOAD_AGAIN}")


def _tar_kind(source: Source, limits: Limits) -> Identity:
    from ptinspect.formats.torch_tar import MEMBERS, members

    found = members(source, limits)
    if next(iter(found), None) == MEMBERS[0] or set(MEMBERS) <= set(found):
        return Identity("torch-legacy-tar", "a file of torch.save before 0.1.11")
    inner = next((name for name in found if name.endswith(MODELS)), None)
    hint = (
        "unpack it (tar -xf FILE) and show the model in it" if inner else "unpack it: tar -xf FILE"
    )
    return Identity("tar", f"a tar of {len(found):,} files", hint)


# ---


ZIP_MAGIC = b"PK\x03\x04"

HEAD_BYTES = 4096
"""Bytes that are looked at before it is decided what a file is."""


def open_archive(source: Source, limits: Limits = LIMITS, *, inside: bool = False) -> Archive:
    """Opens what `source` holds. inside: it is a shard, and no index of others.

    Raises FormatError, which names what it is, for what torch.save does not write;
    DamagedError for what is cut off or inconsistent; LimitError.
    """
    head = source.read(0, min(source.size, HEAD_BYTES))
    if head.startswith(ZIP_MAGIC):
        return _open_zip(source, limits)

    named = identify_head(source, head, limits)
    if named is None:
        from ptinspect.formats.pickles import open_pickle

        return open_pickle(source, head, limits)
    if named.format == "safetensors":
        from ptinspect.formats.safetensors import read_safetensors

        return read_safetensors(source, limits)
    if named.format == "torch-legacy-tar":
        from ptinspect.formats.torch_tar import members, read_tar

        return read_tar(source, members(source, limits), limits)
    if named.format in ("safetensors-index", "torch-index") and not inside:
        from ptinspect.formats.sharded import read_index

        return read_index(source, limits)
    raise named.error()


def read_zip_directory(source: Source, limits: Limits) -> tuple[ZipDirectory, Identity, str]:
    """The zip's directory, what it is, and the folder that torch.save's pickle is in."""
    from ptinspect.formats.signatures import SEVERAL, identify_zip
    from ptinspect.formats.zip.directory import ZipDirectory
    from ptinspect.formats.zip.records import has_end_record, several

    if not has_end_record(source):
        from ptinspect.formats.zip.salvage import truncated_zip_error

        raise truncated_zip_error(source, limits)
    try:
        directory = ZipDirectory(source, limits)
    except DamagedError:
        if several(source):
            raise SEVERAL.error() from None
        raise
    return directory, *identify_zip(directory.names, directory.index)


def _open_zip(source: Source, limits: Limits) -> Archive:
    directory, kind, folder = read_zip_directory(source, limits)
    if kind.format != "torch-zip":
        raise kind.error()
    from ptinspect.formats.torch_zip import open_zip

    return open_zip(source, directory, folder, limits)
