"""Salvage of the zip of torch.save: with or without its directory, records found by their headers.

A record can be found in two ways: through the directory at the end of the file, and through its
local header, whose signature and name precede its bytes. Its CRC-32 is in the
directory and, since torch writes local headers without sizes, in the data descriptor behind the
bytes (APPNOTE.TXT 4.3.9). A record counts as proved if any of them matches.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import DamagedError, PtInspectError
from ptinspect.formats.archive import Span, declared_storages, read_chunks
from ptinspect.formats.zip_directory import DEFLATED, STORED, ZipDirectory
from ptinspect.formats.zip_records import DESCRIBED, DESCRIPTOR, END, LOCAL, LOCAL_HEADER
from ptinspect.pickling.machine import run
from ptinspect.recovery.salvage import (
    LOST,
    NO_CHECKSUM,
    PLAUSIBLE,
    PROOF,
    UNCHECKED,
    Damage,
    Evidence,
    MemorySpan,
    Salvage,
    cut_off,
    nothing_left,
    salvaged_archive,
)
from ptinspect.text import printable_name

if TYPE_CHECKING:
    from ptinspect.limits import Limits
    from ptinspect.source.base import Source

LONGEST_NAME = 1024
"""Bytes of a record's name; torch's are far shorter, and longer ones are taken for damage."""

MOST_PASSES = 8
"""How often all bytes of a file are read to check them. Honest files need three passes at most,
because a record may be in as many places."""

OVERLAPPING = "its bytes belong to too many other records"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place where a record may be.

    Attributes:
        start: offset of its bytes in the source.
        packed: bytes that it takes there; None if its end was not found.
        crc: the recorded CRC-32; None if none was found.
        header: offset of its local header in the source.
        doubt: why a matching CRC-32 does not prove that the bytes are this record; else empty.
    """

    name: str
    method: int
    start: int
    packed: int | None
    crc: int | None
    header: int
    doubt: str = ""


def local_candidates(source: Source) -> Iterator[Candidate]:
    """Yield the records whose local headers are in the file, in order. After a record whose end
    is not known the next signature is searched, so that damage hides no more records than it
    touches."""
    buffer, base, end = source.window()
    after, is_chained = base, True
    # Data descriptors by where the record before them starts, according to the lower 32 bits of
    # the size that they record.
    descriptors: dict[int, list[int]] = {}
    offset = buffer.find(DESCRIPTOR, base, end)
    while 0 <= offset <= end - 16:
        size = int.from_bytes(buffer[offset + 8 : offset + 12], "little")
        descriptors.setdefault((offset - size) & 0xFFFFFFFF, []).append(offset)
        offset = buffer.find(DESCRIPTOR, offset + 4, end)
    position = buffer.find(LOCAL, base, end)
    while position >= 0:
        is_chained = is_chained and position == after
        after = position + 4
        if position + 30 <= end:
            header = LOCAL_HEADER.unpack_from(buffer, position)
            _, flags, method, crc, packed, _, name, extra = header
            start = position + 30 + name + extra
            text = bytes(buffer[position + 30 : position + 30 + name]).decode("utf-8", "replace")
            if 0 < name <= LONGEST_NAME and start <= end and text.isprintable():
                if flags & DESCRIBED and not packed:
                    ends = descriptors.get(start & 0xFFFFFFFF, [])
                    number = bisect_left(ends, start)
                    crc = packed = None
                    after = start
                    if number < len(ends):
                        packed = ends[number] - start
                        after = ends[number] + 16
                        crc = int.from_bytes(buffer[after - 12 : after - 8], "little")
                else:
                    after = start + packed if start + packed <= end else start
                is_doubted = not is_chained and text.rpartition("/")[2] == "data.pkl"
                doubt = "data.pkl may be that of another file inside this one" if is_doubted else ""
                yield Candidate(text, method, start - base, packed, crc, position - base, doubt)
        position = buffer.find(LOCAL, after, end)


def salvage_zip(source: Source, limits: Limits) -> Salvage:
    """Return what can be read of a zip of torch.save; DamagedError if its data.pkl is lost."""
    damage: list[Damage] = []
    directory = _directory(source, limits, damage)
    candidates: dict[str, list[Candidate]] = {}
    for candidate in _all_candidates(source, directory, damage):
        candidates.setdefault(candidate.name, []).append(candidate)
    reader = _RecordReader(source, limits, candidates, damage)
    main = next((name for name in candidates if name.rpartition("/")[2] == "data.pkl"), None)
    if main is None:
        raise nothing_left("the record data.pkl, which describes the tensors, is not there")
    data, description = reader.small_record(main)
    if data is None:
        raise nothing_left(f"data.pkl, which describes the tensors, {description.reason}", main)
    try:
        pickled = run(data, record=main, limits=limits)
        declared = declared_storages(pickled)
    except PtInspectError as error:
        raise nothing_left(f"data.pkl is damaged: {error.message}", main) from error
    archive = salvaged_archive(source, pickled, "torch-zip", limits)
    folder = main[: -len("data.pkl")]
    # torch before 2.1 wrote no byteorder; without a directory it is unknown whether there was one.
    archive.byteorder, byteorder = "little", PROOF
    if f"{folder}byteorder" in reader.candidates:
        word, byteorder = reader.small_record(f"{folder}byteorder")
        order = (word or b"").decode("utf-8", "replace").strip()
        if order in ("little", "big"):
            archive.byteorder = order
        else:
            reason = "the record byteorder is damaged, little-endian is assumed"
            byteorder = Evidence(PLAUSIBLE, reason)
    elif directory is None:
        reason = "the record byteorder is not there, little-endian is assumed"
        byteorder = Evidence(PLAUSIBLE, reason)
    is_old = any(name.startswith(f"{folder}tensors/") for name in candidates)
    prefix = f"{folder}tensors/" if is_old else f"{folder}data/"
    spans: dict[object, Span] = {}
    evidence: dict[str, Evidence] = {}
    for key, storage in declared.items():
        span, evidence[str(key)] = reader.best(f"{prefix}{key}", storage.nbytes)
        if span is not None:
            spans[str(key)] = span
    archive.storages = spans
    return Salvage(archive, description.combined(byteorder), evidence, damage)


def _directory(source: Source, limits: Limits, damage: list[Damage]) -> ZipDirectory | None:
    """Return the directory at the end of the file; that of a file inside this one is not it."""
    try:
        directory = ZipDirectory(source, limits)
        end = next((f for f in directory.bounds.findings if f.kind == "zip-end"), None)
        if end is not None:
            raise DamagedError(end.message, where=end.where)
        return directory
    except DamagedError as error:
        offset = error.where.offset if error.where is not None else None
        damage.append(Damage("directory", offset, f"the zip's directory is lost: {error.message}"))
        return None


def _all_candidates(
    source: Source, directory: ZipDirectory | None, damage: list[Damage]
) -> list[Candidate]:
    """Return the places of records: those of the directory, then those with local headers, without
    the records of a zip that is itself a record."""
    found = list(local_candidates(source))
    if directory is None:
        mains = [c for c in found if c.name.rpartition("/")[2] == "data.pkl"]
        if len(mains) < 2 or mains[0].doubt:
            return found
        buffer, base, stop = source.window()
        begin = mains[1].header
        end = buffer.find(END, base + begin, stop)
        return [c for c in found if c.header < begin or (end >= 0 and c.header > end - base)]
    headers = {candidate.header: candidate for candidate in found}
    listed: list[Candidate] = []
    verified = -1  # up to here nothing has moved: other local headers are those of inner zips
    doubts: dict[int, str] = {}
    for number, name in enumerate(directory.names):
        header = directory.headers[number]
        try:
            starts = [directory.start(number)]
            verified = max(verified, header)
        except PtInspectError:
            # The bytes end before the next header, or before a data descriptor of 16 or 24 bytes.
            end = directory.stops[number] - directory.packed[number]
            starts = [end - n for n in (16, 24, 0) if end >= n] if directory.crcs[number] else []
            local = headers.get(header)
            if local is not None and local.name != name:
                doubts[header] = "the directory and its local header record different names"
                names = f"{printable_name(local.name)} has the name {printable_name(name)}"
                damage.append(Damage("directory", header, f"the record {names} in the directory"))
        listed += [
            Candidate(
                name, directory.methods[number], start, directory.packed[number],
                directory.crcs[number], header, doubts.get(header, ""),
            )
            for start in starts
        ]  # fmt: skip
    places = set(directory.headers)
    listed += [
        replace(candidate, doubt=doubts.get(candidate.header, ""))
        for candidate in found
        if candidate.header > verified or candidate.header in places
    ]
    return listed


class _Result(NamedTuple):
    """The bytes at one place, the evidence for them, and the damage that was seen."""

    span: Span | None
    evidence: Evidence
    damage: Damage | None = None


def _lost(reason: str, damage: Damage | None = None) -> _Result:
    return _Result(None, Evidence(LOST, reason), damage)


class _RecordReader:
    """Reads records from the first place that a checksum speaks for."""

    def __init__(
        self, source: Source, limits: Limits, candidates: dict[str, list[Candidate]],
        damage: list[Damage],
    ) -> None:  # fmt: skip
        self.source = source
        self.limits = limits
        self.candidates = candidates
        self.damage = damage
        self._bytes_left = MOST_PASSES * source.size
        self._crcs: dict[tuple[int, int], int] = {}
        # torch.serialization.set_crc32_options(False) writes zeros for all of them
        self.has_crcs = any(candidate.crc for group in candidates.values() for candidate in group)

    def small_record(self, name: str) -> tuple[bytes | None, Evidence]:
        span, evidence = self.best(name, None)
        if span is None:
            return None, evidence
        if isinstance(span, MemorySpan):
            return span.data, evidence
        if span.length > self.limits.pickle_bytes:
            return None, Evidence(LOST, "is larger than the limit pickle_bytes")
        assert span.start is not None
        return self.source.read(span.start, span.length), evidence

    def best(self, name: str, need: int | None) -> tuple[Span | None, Evidence]:
        best: tuple[Span | None, Evidence] = (None, Evidence(LOST, "its record is not in the file"))
        damage: Damage | None = None
        if name not in self.candidates and not any(d.kind == "cut" for d in self.damage):
            damage = Damage("overwritten", None, f"the header of {name} is not in the file")
        proofs: dict[int | None, tuple[Span, Evidence]] = {}
        for candidate in self.candidates.get(name, ()):
            span, evidence, new_damage = self._examine(candidate, need)
            if span is not None and evidence.status == PROOF.status:
                proofs.setdefault(candidate.crc, (span, evidence))
                continue
            if best[0] is None:
                best = span, evidence
            damage = new_damage or damage
        if len(proofs) > 1:
            damage = Damage("overwritten", None, f"{len(proofs)} different records are {name}")
            best = None, Evidence(LOST, "several records have its name")
        elif proofs:
            return next(iter(proofs.values()))
        if damage is not None:
            self.damage.append(damage)
        return best

    def _examine(self, candidate: Candidate, need: int | None) -> _Result:
        """Judge the bytes at one place, of which `need` are needed."""
        start, name, length = candidate.start, candidate.name, candidate.packed
        size, base = self.source.size, self.source.base
        available = size - start
        if candidate.method == DEFLATED:
            if length is None:
                return _lost("it is compressed, and its end is lost")
            return self._inflated(candidate, length, need)
        if candidate.method != STORED:
            return _lost(f"has unknown compression {candidate.method}")
        if length is None and need is not None and need <= available < need + 16:
            reason = f"{NO_CHECKSUM}: the file is cut off behind its bytes"
            cut = Damage("cut", size, "the file is cut off")
            return _Result(Span(name, need, start, base), Evidence(PLAUSIBLE, reason), cut)
        if max(length or 0, need or 0) > available:
            evidence = cut_off(available, need if need is not None else length or 0)
            return _Result(
                None, evidence, Damage("cut", size, f"the file is cut off within {name}")
            )
        if length is None:
            message = f"the end of {name} is not where it should be"
            return self._damaged(
                candidate, "the frame around its bytes is broken", "frame", message
            )
        if need is not None and length < need:
            sizes = f"has {length:,} of {need:,} bytes"
            return self._damaged(candidate, f"its record {sizes}", "frame", f"{name} {sizes}")
        span = Span(name, length, start, base)
        if candidate.crc is None or not self.has_crcs:
            return _Result(span, UNCHECKED)
        if (start, length) not in self._crcs:
            if length > self._bytes_left:
                return _lost(OVERLAPPING)
            self._bytes_left -= length
            crc = 0
            for chunk in read_chunks(self.source, start, start + length):
                crc = zlib.crc32(chunk, crc)
            self._crcs[start, length] = crc
        return self._compared(candidate, span, self._crcs[start, length])

    def _inflated(self, candidate: Candidate, packed: int, need: int | None) -> _Result:
        if packed > self._bytes_left:
            return _lost(OVERLAPPING)
        self._bytes_left -= packed
        most = min(self.limits.inflated_bytes, self.limits.pickle_bytes if need is None else need)
        inflate = zlib.decompressobj(-15)
        try:
            data = inflate.decompress(self.source.read(candidate.start, packed), most + 1)
        except (zlib.error, PtInspectError):
            message = f"{candidate.name} cannot be unpacked"
            reason = "its compressed bytes are damaged"
            return self._damaged(candidate, reason, "checksum", message)
        if len(data) > most or not inflate.eof or (need is not None and len(data) < need):
            message = f"{candidate.name} unpacks to another size"
            reason = "it unpacks to another size than it should"
            return self._damaged(candidate, reason, "frame", message)
        span = MemorySpan(candidate.name, data)
        if candidate.crc is None or not self.has_crcs:
            doubt = candidate.doubt
            return _Result(span, Evidence(PLAUSIBLE, doubt) if doubt else UNCHECKED)
        return self._compared(candidate, span, zlib.crc32(data))

    def _compared(self, candidate: Candidate, span: Span, crc: int) -> _Result:
        """Judge bytes by their CRC-32."""
        if crc != candidate.crc:
            message = f"the CRC-32 of {candidate.name} does not match"
            reason = "its bytes do not match their checksum"
            return self._damaged(candidate, reason, "checksum", message)
        doubt = candidate.doubt
        return _Result(span, Evidence(PLAUSIBLE, doubt) if doubt else PROOF)

    def _damaged(self, candidate: Candidate, reason: str, kind: str, message: str) -> _Result:
        offset = None if self.source.base is None else self.source.base + candidate.start
        return _lost(reason, Damage(kind, offset, message))
