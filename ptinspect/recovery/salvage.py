"""What can still be read of a damaged file, and the evidence for it; the containers without
checksums: the legacy stream, the tar, and safetensors.

Nothing proves the bytes of a storage in those: whole ones are plausible at best.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place, PtInspectError
from ptinspect.formats.archive import Archive, Span, declared_storages
from ptinspect.pickling.machine import run

if TYPE_CHECKING:
    from ptinspect.limits import Limits
    from ptinspect.pickling.machine import Pickled
    from ptinspect.source.base import Source

PROVED, PLAUSIBLE, LOST = "proved", "plausible", "lost"

NO_CHECKSUM = "no checksum covers it"


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in the file that is not as its writer left it. The kinds are "cut", "directory",
    "checksum", "frame", "description", "overwritten" and "shifted"."""

    kind: str
    offset: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """How sure the bytes of a storage, or of the pickle, are. `reason`: why it is not proved."""

    status: str
    reason: str = ""

    def combined(self, evidence: Evidence) -> Evidence:
        order = (PROVED, PLAUSIBLE, LOST)
        return max(self, evidence, key=lambda item: order.index(item.status))


PROOF = Evidence(PROVED)
UNCHECKED = Evidence(PLAUSIBLE, NO_CHECKSUM)


def cut_off(available: int, length: int) -> Evidence:
    """Return the evidence for bytes if only the first `available` of them are in the file."""
    have = f"{max(available, 0):,} of {length:,} bytes are there"
    return Evidence(LOST, f"it is cut off: {have}")


class MemorySpan(Span):
    """The bytes of a storage that was compressed in the file, unpacked."""

    __slots__ = ("data",)

    def __init__(self, record: str | None, data: bytes) -> None:
        super().__init__(record, len(data), None, None)
        self.data = data

    def chunks(self, source: Source, start: int, stop: int, size: int) -> Iterator[bytes]:
        return (self.data[at : min(at + size, stop)] for at in range(start, stop, size))


def salvaged_archive(source: Source, pickled: Pickled, format: str, limits: Limits) -> Archive:
    """Return an archive whose storages may be missing. Those that are there can be read as
    usual."""
    archive = Archive(source, pickled, limits=limits)
    archive.format = format
    archive.origin = None
    return archive


@dataclass(slots=True)
class Salvage:
    """What could be read of a damaged file.

    Attributes:
        archive: gives the value of the pickle; its `storages` are those that are not lost.
        description: the evidence for the pickle that describes the tensors.
        storages: the evidence for each storage that the pickle refers to, by key.
    """

    archive: Archive
    description: Evidence
    storages: dict[str, Evidence]
    damage: list[Damage] = field(default_factory=list)


def nothing_left(message: str, record: str | None = None) -> DamagedError:
    return DamagedError(
        f"nothing can be saved: {message}",
        where=Place(record),
        hint="download or copy the file again, or use an older checkpoint",
    )


def salvage_legacy(source: Source, limits: Limits) -> Salvage:
    """Return what can be read of the stream of torch 0.1.11 to 1.5 (`_legacy_save`); DamagedError
    if the pickles in front of the storages are lost.

    A storage is an int64 count and its elements. A count that is not the one that the pickle refers
    to is a broken frame: the storage is lost, and so is the one in front of it, whose bytes may be
    the ones that moved.
    """
    data, start, stop = source.window()
    main, keys = _legacy_pickles(source, limits)
    declared = declared_storages(main)
    names = keys.root
    if not isinstance(names, list) or not all(type(key) in (str, int) for key in names):
        raise nothing_left("the list of storages is damaged")
    damage: list[Damage] = []
    spans: dict[object, Span] = {}
    evidence = {
        str(key): Evidence(LOST, "the list of storages does not name it") for key in declared
    }
    position = keys.end
    previous: str | None = None
    for key in names:
        if key not in declared:
            damage.append(Damage("description", keys.end - start, "an unknown storage is listed"))
            break
        name, numel = str(key), declared[key].numel
        length = numel * declared[key].itemsize
        available = stop - position - 8
        count = bytes(data[position : position + 8])
        if available < length:
            if not any(item.kind == "cut" for item in damage):
                damage.append(Damage("cut", source.size, "the file is cut off"))
            evidence[name] = cut_off(available, length)
            previous = None
        elif numel in (int.from_bytes(count, "little"), int.from_bytes(count, "big")):
            spans[name] = Span(None, length, position + 8 - start, source.base)
            evidence[name] = UNCHECKED
            previous = name
        else:
            offset = position - start
            damage.append(Damage("frame", offset, f"the count of storage {name} is wrong"))
            evidence[name] = Evidence(LOST, "the frame around its bytes is broken")
            if previous is not None:
                evidence[previous] = Evidence(LOST, "the frame behind its bytes is broken")
                spans.pop(previous, None)
            previous = None
        position += 8 + length
    if position < stop and not damage:
        extra = f"{stop - position:,} bytes follow the last storage"
        damage.append(Damage("shifted", position - start, extra))
    archive = salvaged_archive(source, main, "torch-legacy", limits)
    archive.storages = spans
    return Salvage(archive, UNCHECKED, evidence, damage)


def _legacy_pickles(source: Source, limits: Limits) -> tuple[Pickled, Pickled]:
    data, start, stop = source.window()
    position = start
    try:
        for _ in range(3):  # magic number, protocol version, sys_info
            position = run(data, position, stop=stop, limits=limits).end
        main = run(data, position, stop=stop, limits=limits)
        declared_storages(main)  # raises for what torch does not write
        return main, run(data, main.end, stop=stop, limits=limits)
    except PtInspectError as error:
        raise nothing_left(f"the pickle that describes the tensors: {error.message}") from error


def salvage_safetensors(source: Source, limits: Limits) -> Salvage:
    """Return what can be read of a safetensors file; DamagedError if its header is lost."""
    from ptinspect.formats.safetensors import read_safetensors

    damage: list[Damage] = []
    try:
        archive = read_safetensors(source, limits, any_size=True)
    except PtInspectError as error:
        raise nothing_left(f"the header is damaged: {error.message}") from error
    start = 8 + int.from_bytes(source.read(0, 8), "little")
    expected = start + max((entry.end for entry in archive.tensors.values()), default=0)
    if source.size < expected:
        damage.append(Damage("cut", source.size, "the file is cut off"))
    elif source.size > expected:
        extra = f"{source.size - expected:,} bytes follow the last tensor"
        damage.append(Damage("shifted", expected, extra))
    return _with_lengths(archive, source, damage)


def _with_lengths(archive: Archive, source: Source, damage: list[Damage]) -> Salvage:
    """Judge storages by whether all their bytes are in the file."""
    evidence: dict[str, Evidence] = {}
    spans: dict[object, Span] = {}
    for key, span in archive.storages.items():
        assert span.start is not None
        available = source.size - span.start
        if available < span.length:
            evidence[str(key)] = cut_off(available, span.length)
        elif any(item.kind == "shifted" for item in damage):
            reason = "the file is longer than its header says: its bytes may have moved"
            evidence[str(key)] = Evidence(LOST, reason)
        else:
            evidence[str(key)] = UNCHECKED
            spans[key] = span
    archive.storages = spans
    return Salvage(archive, UNCHECKED, evidence, damage)


def salvage_tar(source: Source, limits: Limits) -> Salvage:
    """Return what can be read of the tar of torch 0.1; DamagedError if the members that describe
    the tensors are lost."""
    from ptinspect.formats.torch.tar import read_tar

    try:
        archive = read_tar(source, limits, allow_truncated=True)
    except PtInspectError as error:
        raise nothing_left(error.message) from error
    referred = declared_storages(archive.pickled)
    missing = [str(key) for key in referred if str(key) not in archive.storages]
    damage = [Damage("cut", source.size, "the file is cut off")] if missing else []
    salvage = _with_lengths(archive, source, damage)
    salvage.storages.update(dict.fromkeys(missing, Evidence(LOST, "it is cut off")))
    return salvage
