"""What of a damaged file can still be read: its pickle, its storages, and what speaks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, Place
from ptinspect.formats.archive import CHUNK, Archive, Span, check_range
from ptinspect.recovery.report import LOST, PLAUSIBLE, PROVED, Damage

if TYPE_CHECKING:
    from ptinspect.limits import Limits
    from ptinspect.pickling.machine import Pickled
    from ptinspect.source.base import Source

NO_CHECKSUM = "no checksum covers it"


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


class MemorySpan(Span):
    """The bytes of a storage that was compressed in the file, unpacked."""

    __slots__ = ("data",)

    def __init__(self, record: str | None, data: bytes) -> None:
        super().__init__(record, len(data), None, None)
        self.data = data


class SalvagedArchive(Archive):
    """An archive whose storages may be missing. Those that are there can be read as usual."""

    def __init__(self, source: Source, pickled: Pickled, container: str, limits: Limits) -> None:
        super().__init__(source, pickled, limits=limits)
        self.format = container
        self.origin = None

    def chunks(
        self, span: Span, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        if not isinstance(span, MemorySpan):
            return super().chunks(span, start, stop, size)
        start, stop = check_range(span, start, stop)
        return (span.data[at : min(at + size, stop)] for at in range(start, stop, size))


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
