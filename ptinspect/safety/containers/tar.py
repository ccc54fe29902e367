"""Scan the members of a tar, and the tar of torch 0.1, which mixes pickles and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, PtInspectError
from ptinspect.formats.signatures import TAR_BLOCK
from ptinspect.formats.torch.tar import (
    MEMBERS,
    MemberReader,
    iter_members,
    read_storages,
    read_tensors,
)
from ptinspect.safety.containers.pickles import PickleScanner
from ptinspect.safety.scan_state import scan_member
from ptinspect.source.base import SliceSource

if TYPE_CHECKING:
    from ptinspect.formats.torch.tar import Member
    from ptinspect.pickling.values import Value
    from ptinspect.safety.scan_state import ScanSource, ScanState
    from ptinspect.source.base import Source

_MIXED_MEMBERS = MEMBERS[2:]
"""Members of torch's tar in which pickles and numbers alternate."""


def scan_tar(source: Source, state: ScanState, scan_source: ScanSource) -> None:
    """Scan each member of a tar."""
    members: dict[str, Member] = {}
    is_torch = state.format == "torch-legacy-tar"
    end = 0
    try:
        for member in iter_members(source, state.limits):
            if state.budget.is_exhausted:
                break
            name = member.name.removeprefix("./")
            if name in members:
                reason = f"it has two members named {name[:200]!r}"
                state.find("tar-duplicate", reason, state.record)
            members[name] = member
            if member.present and not (is_torch and member.name in _MIXED_MEMBERS):
                content = SliceSource(source, member.start, member.present)
                scan_member(state, content, member.name, scan_source)
            if member.present < member.size:
                message = f"{member.present:,} of {member.size:,} bytes are present"
                where = Place(member.name)
                state.errors.append(DamagedError(message, where=where, hint=DOWNLOAD_AGAIN))
            end = member.start + -(-member.size // TAR_BLOCK) * TAR_BLOCK
        _scan_trailing_bytes(source, end, state, scan_source)
    except PtInspectError as error:
        state.errors.append(error)
    if is_torch:
        _scan_torch_members(source, state, members)


def _scan_trailing_bytes(
    source: Source, end: int, state: ScanState, scan_source: ScanSource
) -> None:
    """Scan what follows the two empty blocks that end a tar.

    `tarfile` can be made to continue there, and `zipfile` reads a zip that follows.
    """
    while end < source.size:
        if any(source.read(end, min(TAR_BLOCK, source.size - end))):
            rest = source.size - end
            state.find("trailing-bytes", f"{rest:,} bytes follow the end of the tar", state.record)
            scan_member(
                state, SliceSource(source, end, rest), f"after the tar @ {end}", scan_source
            )
            return
        end += TAR_BLOCK


class _JudgingReader(MemberReader):
    """Reads a mixed member as torch does, and judges each of its pickles."""

    def __init__(self, source: Source, member: Member, state: ScanState) -> None:
        super().__init__(source, member, state.limits)
        self._scanner = PickleScanner(state, self.data, self.pos, self.stop, member.name)

    def read_pickle(self) -> Value:
        """Return the value of the next pickle."""
        pickled = self._scanner.scan_at(self.pos)
        self._scanner.state.streams.append(pickled)
        self.pos = pickled.end
        return pickled.root


def _scan_torch_members(source: Source, state: ScanState, members: dict[str, Member]) -> None:
    for name in ("tensors", "storages"):
        if name not in members:
            continue
        reader = _JudgingReader(source, members[name], state)
        try:
            if name == "tensors":
                read_tensors(reader)
            else:
                read_storages(reader, None)
        except PtInspectError as error:
            state.errors.append(error)
