"""One file, whatever it is: which readers would take it, and what each of them would do.

What a file is says its content. A file may be two things at once: a zip behind a pickle, a pickle
in the first bytes of an image. So each reader that would take it is asked, and that there is more
than one is a finding.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, FormatError, LimitError, Place, PtInspectError
from ptinspect.formats.detect import HEAD_BYTES, ZIP_MAGIC, identify_head
from ptinspect.formats.sharded import index_folder, read_index_file
from ptinspect.formats.signatures import identify_text, is_tar, unknown_format_error
from ptinspect.formats.zip.records import has_end_record
from ptinspect.safety.containers.pickles import Streams, announced, may_begin, read_pickles
from ptinspect.safety.report.scan_state import Part
from ptinspect.source.base import MemorySource, SliceSource
from ptinspect.source.local import MAX_COPY_BYTES, open_source

if TYPE_CHECKING:
    from ptinspect.formats.signatures import Identity
    from ptinspect.source.base import Source


def scan_shards(source: Source, part: Part) -> None:
    """Adds a member per shard, the clean ones, too. One that is missing, or that cannot be read,
    makes the whole unreadable; an index inside another file is not followed."""
    part.hint = None
    content = read_index_file(source, part.limits)
    folder = index_folder(source)
    for name in content.shards:
        inner = part.inside(name)
        inner.path = os.path.join(folder, name)
        part.members.append(inner)
        try:
            with open_source(inner.path) as shard:
                scan_source(_at_hand(shard), inner)
                if inner.passed and not inner.members:
                    raise FormatError(f"it is {inner.what}, not a shard")
        except PtInspectError as error:
            inner.errors.append(error)


def _at_hand(source: Source) -> Source:
    """A small file in memory, where many small reads cost nothing."""
    if source.size > MAX_COPY_BYTES:
        return source
    data, start, stop = source.window()
    return MemorySource(data, source.path, start, stop, source.base)


# ---


HARMLESS = frozenset("image media pdf program sqlite parquet arrow text".split())  # noqa: SIM905
"""Formats that no reader of pickles takes, and that are no models: passed over."""

MODELS = (
    ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".pt2", ".model",
    ".safetensors", ".tar", ".zip", ".h5", ".keras", ".onnx", ".params", ".dump", ".p", ".sav",
)  # fmt: skip
"""How the names of models end. A text under such a name is not what it should be."""


def scan_source(source: Source, part: Part) -> None:
    """Looks into `source`, and writes into `part` what it finds. Raises nothing of its own: what
    could not be read stands in `part.errors`."""
    try:
        _scan(source, part)
    except PtInspectError as error:
        part.errors.append(error)
    except RecursionError:
        where = Place(part.record)
        part.errors.append(LimitError("it is nested too deep", limit="path_depth", where=where))


def scan_inside(outer: Part, source: Source, record: str) -> Part | None:
    """The same for what lies in a record; None where it lies too deep."""
    try:
        part = outer.inside(record)
    except LimitError as error:
        outer.errors.append(error)
        return None
    scan_source(source, part)
    outer.take(part)
    return part


def _scan(source: Source, part: Part) -> None:
    head = source.read(0, min(source.size, HEAD_BYTES))
    if head.startswith(ZIP_MAGIC):
        read_zip(source, part)
        if is_tar(head):
            _two(part, "a zip and a tar")
            _as_tar(source, part)
        return
    plain = announced(head)
    identity = None if plain or not head else identify_head(source, head, part.limits)
    behind = None
    if identity is None or identity.format not in ("tar", "torch-legacy-tar"):
        behind = _zip_behind(source)
    if may_begin(head) and _as_pickles(source, part, head, identity):
        pass
    elif behind is None or identity is not None:
        try:
            _as_named(source, part, head, identity)
        except PtInspectError as error:
            part.errors.append(error)
    else:  # whatever stands in front of it
        read_zip(behind, part)
        part.find("zip-prefix", "bytes stand in front of the zip", part.record)
        from ptinspect.formats.torch_zip import BYTES_BEFORE_ZIP

        part.facts["refused"] = [BYTES_BEFORE_ZIP]
        return
    if plain and is_tar(head):
        _two(part, "a pickle and a tar")
        _as_tar(source, part)
    if behind is not None:
        _two(part, f"{part.what or part.format} and a zip")
        part.passed = False
        child = part.inside("zip")
        read_zip(behind, child)
        part.members.append(child)


def read_zip(source: Source, part: Part) -> None:
    from ptinspect.safety.containers import zip

    zip.read_zip(source, part)


def _as_tar(source: Source, part: Part) -> None:
    from ptinspect.safety.containers.tar import read_tar

    read_tar(source, part)


def _two(part: Part, what: str) -> None:
    part.find("two-formats", f"it is {what} at once: readers disagree on what it is", part.record)


# --- pickles ------------------------------------------------------------------------------


def _as_pickles(source: Source, part: Part, head: bytes, identity: Identity | None) -> bool:
    """Whether it is a file of pickles, which then has been read."""
    data, start, stop = source.window()
    trial = Part(part.path, part.record, part.depth, part.budget)
    streams = read_pickles(trial, data, start, stop, part.record)
    if identity is not None:  # it begins as something else does
        if streams.harm:
            _two(part, f"{identity.description} and a pickle")
            _adopt(part, trial, streams)
        return False
    if trial.streams and not _by_chance(trial, head):
        _adopt(part, trial, streams)
        return True
    if streams.harm or announced(head) or _far(trial):
        trial.format = trial.format if trial.format != "unknown" else "pickle"
        _adopt(part, trial, streams)
        return True
    return False


def _far(trial: Part) -> bool:
    """Whether so much of a pickle was run that it must have been meant as one; or might have been,
    had a limit not ended it."""
    return any(
        isinstance(error, LimitError) or ((error.where and error.where.offset) or 0) >= 64
        for error in trial.errors
    )


def _by_chance(trial: Part, head: bytes) -> bool:
    """Whether a few bytes of something else happen to be a pickle: nothing came of it, and more
    follows."""
    return (
        head[:1] != b"\x80"
        and not trial.streams[0].globals
        and any(found.name == "trailing-bytes" for found in trial.findings.list())
        and not isinstance(trial.streams[0].root, dict | list | tuple)
    )


def _adopt(part: Part, trial: Part, streams: Streams) -> None:
    part.format, part.what, part.hint = trial.format, "a pickle", trial.hint
    for finding in trial.findings.list():
        part.findings.add(finding)
    part.errors += trial.errors
    part.streams += trial.streams
    part.notes += trial.notes
    part.unfit |= trial.unfit
    for name, data in streams.inner:
        scan_inside(part, MemorySource.of_value(data, part.path), name)


# --- everything else ----------------------------------------------------------------------


def _as_named(source: Source, part: Part, head: bytes, identity: Identity | None) -> None:
    if not head and part.path.lower().endswith(MODELS):
        raise FormatError("it is empty (0 bytes)", where=Place(part.record))
    identity = identity or identify_text(head, source.size)
    if identity is None:
        if _compressed(source, part, head):
            return
        raise unknown_format_error(head) if head else FormatError("an empty file (0 bytes)")
    part.format, part.what, part.hint = identity.format, identity.description, identity.hint
    if identity.format == "git-lfs":
        return
    if identity.format in ("tar", "torch-legacy-tar"):
        _as_tar(source, part)
    elif identity.format == "npy":
        _arrays(source, part)
    elif identity.format == "compressed":
        if not _compressed(source, part, head):
            raise FormatError(
                f"it is {identity.description}, which is not looked into", hint=identity.hint
            )
    elif identity.format == "safetensors":
        _safetensors(source)
    elif identity.format in ("safetensors-index", "torch-index") and not part.depth:
        scan_shards(source, part)
    elif _is_harmless(identity, part.path):
        part.passed = True
    else:
        raise FormatError(
            f"it is {identity.description}, which is not looked into", hint=identity.hint
        )


def _is_harmless(identity: Identity, path: str) -> bool:
    """Whether it is passed over; not what a failed download left under a model's name."""
    textual = identity.format in ("text", "html", "xml", "json", "empty", "zeros")
    textual = textual or identity.format in ("safetensors-index", "torch-index")
    if textual:
        return identity.format.endswith("-index") or not path.lower().endswith(MODELS)
    return identity.format in HARMLESS


def _compressed(source: Source, part: Part, head: bytes) -> bool:
    from ptinspect.safety.containers.decompress import packed_by, unpacked

    kind = packed_by(head)
    if kind is None:
        return False
    part.format, part.what = "compressed", f"compressed by {kind}"
    inner, error = unpacked(source, kind, part)
    with inner:
        if inner.size:
            scan_inside(part, inner, "unpacked")
    if error is not None:
        raise error
    return True


def _arrays(source: Source, part: Part) -> None:
    """One array after another: numpy.save writes them so into one file, and each numpy.load takes
    the next."""
    from ptinspect.safety.containers.npy import MAGIC

    pos = 0
    for _ in range(part.limits.streams):
        end = _array(source, pos, part)
        if end is None or end == source.size:
            return
        pos = end
        if pos > source.size:
            message = "the array is cut off: it has more elements than the file holds"
            raise DamagedError(message, where=Place(part.record, source.size))
        if source.read(pos, min(len(MAGIC), source.size - pos)) != MAGIC:
            part.find(
                "trailing-bytes", f"{source.size - pos:,} bytes follow the array", part.record
            )
            scan_inside(part, SliceSource(source, pos, source.size - pos), f"byte {pos}")
            return
    where = Place(part.record, pos)
    raise LimitError("too many arrays in a row", limit="streams", where=where)


def _array(source: Source, pos: int, part: Part) -> int | None:
    """Where the array that begins at `pos` ends; None where nothing that is left is an array."""
    from ptinspect.safety.containers.npy import MAGIC, array

    told = array(SliceSource(source, pos, source.size - pos))
    if told.error is not None:
        part.errors.append(told.error)
    if told.objects is None:
        return None if told.end is None else pos + told.end
    data, start, stop = source.window()
    read, skip = len(part.streams), pos + told.objects
    streams = read_pickles(part, data, start, stop, part.record, skip=skip, until=MAGIC)
    part.format = "npy"
    for name, value in streams.inner:
        scan_inside(part, MemorySource.of_value(value, part.path), name)
    end = part.streams[-1].end - start if len(part.streams) > read else source.size
    return end if source.read(end, min(len(MAGIC), source.size - end)) == MAGIC else None


def _safetensors(source: Source) -> None:
    """Its header is JSON that ends where it says, and the rest is the numbers it tells of."""
    import json

    length = int.from_bytes(source.read(0, 8), "little")
    place = Place(None, 8)
    try:
        header = json.loads(source.read(8, length))
    except (ValueError, RecursionError) as error:
        raise DamagedError("its header is no JSON", where=place) from error
    ends = [0]
    for name, row in header.items() if isinstance(header, dict) else ():
        told = row.get("data_offsets") if isinstance(row, dict) else None
        if name != "__metadata__":
            if not isinstance(told, list) or len(told) != 2 or type(told[1]) is not int:
                raise DamagedError("its header does not say where a tensor lies", where=place)
            ends.append(told[1])
    if 8 + length + max(ends) != source.size:
        message = f"it should have {8 + length + max(ends):,} bytes, and has {source.size:,}"
        raise DamagedError(message, where=Place(None, 8 + length))


def _zip_behind(source: Source) -> Source | None:
    """A zip that begins later in the file: `zipfile` takes it, whatever stands in front."""
    if not source.size or not has_end_record(source):
        return None
    from ptinspect.safety.containers.zip import zip_at_the_end

    return zip_at_the_end(source)
