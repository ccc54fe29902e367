"""A tar's members; and the tar of torch 0.1, whose members are pickles with numbers between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import PtInspectError
from ptinspect.formats.signatures import TAR_BLOCK
from ptinspect.formats.torch_tar import (
    MEMBERS,
    Member,
    MemberReader,
    iter_members,
    read_storages,
    read_tensors,
)
from ptinspect.safety.containers.dispatch import scan_inside
from ptinspect.safety.containers.pickles import Streams
from ptinspect.source.base import SliceSource

if TYPE_CHECKING:
    from ptinspect.pickling.values import Value
    from ptinspect.safety.report.scan_state import Part
    from ptinspect.source.base import Source


def read_tar(source: Source, part: Part) -> None:
    """Looks into each member."""
    seen: dict[str, Member] = {}
    end = 0
    try:
        for member in iter_members(source, part.limits):
            name = member.name.removeprefix("./")
            if name in seen:
                part.find("tar-duplicate", f"{name[:200]!r} is in it twice", part.record)
            seen[name] = member
            _member(source, part, member)
            if member.present < member.size:
                part.errors.append(_cut(member))
            end = member.start + -(-member.size // TAR_BLOCK) * TAR_BLOCK
        _behind(source, part, end)
    except PtInspectError as error:
        part.errors.append(error)
    if part.format == "torch-legacy-tar":
        _numbers(source, part, seen)


def _behind(source: Source, part: Part, end: int) -> None:
    """Two empty blocks end a tar. `tarfile` goes on behind them where it is told to, and `zipfile`
    takes a zip that stands there."""
    while end < source.size:
        block = source.read(end, min(TAR_BLOCK, source.size - end))
        if any(block):
            why = f"{source.size - end:,} bytes stand behind the end of the tar"
            part.find("trailing-bytes", why, part.record)
            scan_inside(
                part, SliceSource(source, end, source.size - end), f"behind the tar @ {end}"
            )
            return
        end += TAR_BLOCK


def _cut(member: Member) -> PtInspectError:
    from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place

    message = f"{member.present:,} of {member.size:,} bytes are there"
    return DamagedError(message, where=Place(member.name), hint=DOWNLOAD_AGAIN)


def _member(source: Source, part: Part, member: Member) -> None:
    """One member; those of torch's that mix pickles and numbers are read by `_numbers`."""
    if (part.format == "torch-legacy-tar" and member.name in MEMBERS[2:]) or not member.present:
        return
    scan_inside(part, SliceSource(source, member.start, member.present), member.name)


class _Judging(MemberReader):
    """Reads as torch does, and judges each pickle on the way."""

    def __init__(self, source: Source, member: Member, part: Part) -> None:
        super().__init__(source, member, part.limits)
        at = self.pos
        self.judged = Streams(part, self.data, at, self.stop, member.name)

    def read_pickle(self) -> Value:
        """See `MemberReader.read_pickle`."""
        made = self.judged.one(self.pos)
        self.judged.part.streams.append(made)
        self.pos = made.end
        return made.root


def _numbers(source: Source, part: Part, found: dict[str, Member]) -> None:
    for name in ("tensors", "storages"):
        member = found.get(name)
        if member is None:
            continue
        reader = _Judging(source, member, part)
        try:
            if name == "tensors":
                read_tensors(reader)
            else:
                read_storages(reader, None)
        except PtInspectError as error:
            part.errors.append(error)
