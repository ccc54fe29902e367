"""Scan the members of a tar, and the tar of torch 0.1, which mixes pickles and numbers."""

from __future__ import annotations

from posixpath import normpath
from typing import TYPE_CHECKING

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place, PtInspectError
from ptinspect.formats.signatures import TAR_BLOCK, is_tar
from ptinspect.formats.torch import tar as torch_tar
from ptinspect.safety.containers.pickles import PickleScanner
from ptinspect.safety.report import DANGEROUS
from ptinspect.safety.scan_state import scan_member
from ptinspect.source.base import MemorySource, SliceSource
from ptinspect.text import is_outside

if TYPE_CHECKING:
    from ptinspect.formats.torch.tar import Member
    from ptinspect.pickling.values import Value
    from ptinspect.safety.scan_state import ScanState
    from ptinspect.source.base import Source

_MIXED_MEMBERS = torch_tar.MEMBERS[2:]
"""Members of torch's tar in which pickles and numbers alternate."""

_MAX_SPARSE = 1 << 26  # bytes of a sparse member that is put together in memory
_SEARCHED_BLOCKS = 1 << 11  # blocks behind the end of a tar in which a further header is searched


def scan_tar(source: Source, state: ScanState) -> None:
    """Scan each member of a tar."""
    members: dict[str, Member] = {}
    mixed: list[Member] = []
    links: set[str] = set()
    end = 0
    try:
        for member in torch_tar.iter_members(source, state.limits):
            if state.budget.is_exhausted:
                break
            end = member.end
            _judge_path(member, links, state)
            if not member.is_file:
                continue
            name = member.name.removeprefix("./")
            if name in members:
                reason = f"it has two members named {name[:200]!r}"
                state.find("tar-duplicate", reason, state.record)
            members[name] = member
            if member.name in _MIXED_MEMBERS:
                mixed.append(member)
            elif member.size:
                _scan_content(source, member, state)
            if member.present < member.size and member.regions is None:
                message = f"{member.present:,} of {member.size:,} bytes are present"
                where = Place(member.name)
                state.errors.append(DamagedError(message, where=where, hint=DOWNLOAD_AGAIN))
    except PtInspectError as error:
        state.errors.append(error)
    is_torch = set(torch_tar.MEMBERS) <= members.keys()
    for member in mixed:
        errors = len(state.errors)
        reader = _JudgingReader(source, member, state)
        try:
            if member.name == "tensors":
                torch_tar.read_tensors(reader)
            else:
                torch_tar.read_storages(reader, None)
        except PtInspectError as error:
            state.errors.append(error)
        reader.scanner.scan_found()
        if len(state.errors) > errors and not is_torch:
            del state.errors[errors:]
            _scan_content(source, member, state)
    try:
        _scan_trailing_bytes(source, end, state)
    except PtInspectError as error:
        state.errors.append(error)


def _scan_content(source: Source, member: Member, state: ScanState) -> None:
    content: Source = SliceSource(source, member.start, member.present)
    if member.regions is not None:
        state.find("tar-sparse", "a sparse file: readers disagree about its content", member.name)
        if member.size > _MAX_SPARSE:
            message = f"it is sparse, and has {member.size:,} bytes"
            where = Place(member.name)
            state.errors.append(LimitError(message, limit="inflated_bytes", where=where))
            return
        state.budget.count_unpacked(member.size, member.name)
        whole, position = bytearray(member.size), member.start
        for offset, size in member.regions:
            part = source.read(position, min(size, max(source.size - position, 0)))
            whole[offset : offset + len(part)] = part
            position += size
        content = MemorySource(bytes(whole[: member.size]), source.path, base=None)
    if content.size:
        scan_member(state, content, member.name)


def _judge_path(member: Member, links: set[str], state: ScanState) -> None:
    """Report what is written outside the folder in which a tar is unpacked, by its name or through
    one of the `links` that lead outside, so far."""
    name = normpath(member.name)
    parts = name.split("/")
    parents = ("/".join(parts[: index + 1]) for index in range(len(parts) if links else 0))
    if is_outside(name) or not links.isdisjoint(parents):
        reason = "it is written outside the folder in which the tar is unpacked"
        state.find("tar-path", reason, member.name, DANGEROUS)
    if member.link is not None and is_outside(normpath(member.link)):
        links.add(name)
        reason = f"a link to {member.link[:200]!r}, outside the folder of the tar"
        state.find("tar-link", reason, member.name)


def _scan_trailing_bytes(source: Source, end: int, state: ScanState) -> None:
    """Scan what follows the two empty blocks that end a tar.

    `tarfile` can be made to continue there, also behind blocks that are no header, and `zipfile`
    reads a zip that follows.
    """
    while end < source.size and not any(source.read(end, min(TAR_BLOCK, source.size - end))):
        end += TAR_BLOCK
    if end >= source.size:
        return
    rest = source.size - end
    state.find("trailing-bytes", f"{rest:,} bytes follow the end of the tar", state.record)
    starts = [end]
    for start in range(end + TAR_BLOCK, source.size, TAR_BLOCK)[:_SEARCHED_BLOCKS]:
        if is_tar(source.read(start, min(TAR_BLOCK, source.size - start))):
            starts.append(start)
            break
    for start in starts:
        content = SliceSource(source, start, source.size - start)
        scan_member(state, content, f"after the tar @ {start}")


class _JudgingReader(torch_tar.MemberReader):
    """Reads a mixed member as torch does, and judges each of its pickles."""

    def __init__(self, source: Source, member: Member, state: ScanState) -> None:
        super().__init__(source, member, state.limits)
        self.scanner = PickleScanner(state, self.data, self.pos, self.stop, member.name)

    def read_pickle(self) -> Value:
        """Return the value of the next pickle."""
        pickled = self.scanner.scan_at(self.pos)
        self.scanner.state.streams.append(pickled)
        self.pos = pickled.end
        return pickled.root
