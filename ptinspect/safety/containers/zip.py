"""A zip, with every record in it: also those that torch would not look at, and all that readers
may disagree about."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, FormatError, Place, PtInspectError
from ptinspect.formats.archive import CHUNK, Finding, read_chunks
from ptinspect.formats.persistent_ids import declared_storages
from ptinspect.formats.signatures import identify_zip
from ptinspect.formats.torch_zip import torch_refusal_reasons
from ptinspect.formats.zip.directory import SECRET, STORED, ZipDirectory
from ptinspect.formats.zip.records import CENTRAL, END, LOCAL
from ptinspect.formats.zip.salvage import iter_local_records
from ptinspect.safety.containers.dispatch import MODELS, scan_inside
from ptinspect.safety.containers.pickles import announced, read_pickles
from ptinspect.safety.report.findings import DANGEROUS, UNKNOWN
from ptinspect.source.base import MemorySource, SliceSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.safety.report.scan_state import Part
    from ptinspect.source.base import Source

HOSTILE = frozenset(("zip-duplicate", "zip-overlap", "zip-outside", "zip-local"))
"""What no writer does and two readers see differently."""

UNREAD = frozenset(("zip-encrypted", "zip-compression"))
"""What shows as an error where the record is read."""

TORCH = frozenset(("torch-zip", "torchscript", "torch-export", "torch-package"))
"""Zips whose readers take records as bare numbers."""

BZIP2, LZMA = 12, 14
FACT = 64
_FACT = re.compile(rb"[0-9]{1,64}\n?|little|big")
"""What torch writes beside its pickle: a version, a byte order. No opcode that imports, calls or
changes anything can be written with these characters."""
DESCRIPTOR = 24
"""Bytes of the longest data descriptor, which follows a record."""


def read_zip(source: Source, part: Part) -> None:
    """Looks into every record of the zip that `source` is."""
    try:
        directory = ZipDirectory(source, part.limits)
    except DamagedError as error:
        rows = list(in_a_row(source))
        if len(rows) > 1:
            _several(source, part, rows)
        else:
            part.format = "zip"
            _remains(source, part)
            part.errors.append(error)
        return
    Zip(source, directory, part).read()


def in_a_row(source: Source) -> Iterator[tuple[int, int]]:
    """(start, stop) of zips that stand one behind the other, as torch.distributed.checkpoint
    writes one per tensor."""
    buffer, base, end = source.window()
    pos = at = base
    while True:
        at = buffer.find(END, at, end)
        if at < 0 or at + 22 > end:
            return
        size = int.from_bytes(buffer[at + 12 : at + 16], "little")
        start = int.from_bytes(buffer[at + 16 : at + 20], "little")
        comment = int.from_bytes(buffer[at + 20 : at + 22], "little")
        first = pos + start
        if (
            buffer[first : first + 4] == CENTRAL
            and first + size <= at
            and buffer[pos : pos + 4] == LOCAL
        ):
            stop = min(at + 22 + comment, end)
            yield pos - base, stop - base
            pos = at = stop
        else:
            at += 4


def _several(source: Source, part: Part, rows: list[tuple[int, int]]) -> None:
    part.format, part.what = "torch-dcp", f"{len(rows):,} zips in a row"
    for start, stop in rows:
        scan_inside(part, SliceSource(source, start, stop - start), f"zip @ {start}")
    if rows[-1][1] < source.size:
        why = f"{source.size - rows[-1][1]:,} bytes follow the last zip"
        part.find("trailing-bytes", why, part.record)


def _remains(source: Source, part: Part) -> None:
    """Of a zip without a directory: the records that its local headers tell of."""
    for left in iter_local_records(source):
        inner = left.name.rpartition("/")[0].endswith("data")
        if left.method == STORED and left.size and not inner:
            scan_inside(part, SliceSource(source, left.start, left.size), left.name)


def zip_at_the_end(source: Source) -> Source | None:
    """The zip that `zipfile` sees in a file that does not begin as one; None if there is none."""
    tail_at = max(source.size - 22 - 0xFFFF, 0)
    tail = source.read(tail_at, source.size - tail_at)
    at = tail.rfind(END, 0, max(len(tail) - 18, 0))
    if at < 0:
        return None
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    start = int.from_bytes(tail[at + 16 : at + 20], "little")
    shift = tail_at + at - size - start
    for begin in (shift, shift - 76):  # 76: the two records of a zip64
        fits = begin >= 0 and source.size - begin >= 22 and begin + start + 4 <= source.size
        if fits and source.read(begin + start, 4) == CENTRAL:
            return SliceSource(source, begin, source.size - begin)
    return None


class Zip:
    """One zip, read into a part."""

    def __init__(self, source: Source, directory: ZipDirectory, part: Part) -> None:
        self.source = source
        self.directory = directory
        self.part = part
        self.storages: set[str] = set()
        self.numbers = 0
        self.announced: set[int] = set()
        self.starts: dict[int, int] = {}  # of the records whose local headers are in order
        identity, self.folder = identify_zip(directory.names, directory.index)
        part.format, part.what, part.hint = identity.format, identity.description, identity.hint
        part.facts["folder"] = self.folder.rstrip("/")
        part.facts["refused"] = torch_refusal_reasons(directory)

    def read(self) -> None:
        """Everything, the main pickle first: it says which records are bare numbers."""
        for odd in self.directory.findings:
            if odd.kind not in UNREAD:
                self.part.odd(odd, DANGEROUS if odd.kind in HOSTILE else UNKNOWN)
        self._local_headers()
        if self.directory.headers and min(self.directory.headers):
            self._hidden(0, min(self.directory.headers), self.directory.names[0])
        names = self.directory.names
        mains = [f"{self.folder}{name}.pkl" for name in ("data", "constants")]
        first = [i for i, name in enumerate(names) if name in mains]
        for i in [*first, *(i for i in range(len(names)) if i not in set(first))]:
            if names[i] not in self.storages:
                self._record(i, names[i])
            elif i in self.announced:
                self._storage(i, names[i])
        self._kind()

    def _kind(self) -> None:
        part = self.part
        if self.numbers:
            part.notes.append(f"{self.numbers:,} records are bare numbers")
        if part.format == "torchscript":
            why = "TorchScript code, which runs in torch.jit.load's own interpreter: not judged"
            part.find("torchscript-code", why, None)
        elif part.format == "torch-package":
            why = "Python source, which torch.package runs when the file is opened: not judged"
            part.find("python-source", why, None)

    def _storage(self, i: int, name: str) -> None:
        """A storage that begins as a pickle does: numbers, unless it is one that acts."""
        try:
            child = self.part.inside(name)
        except PtInspectError as error:
            self.part.errors.append(error)
            return
        with self._open(i) as source:
            data, start, stop = source.window()
            if read_pickles(child, data, start, stop, name).harm:
                why = "the bytes of a storage are a pickle that acts"
                self.part.find("storage-pickle", why, name)

    # --- local headers --------------------------------------------------------------------

    def _local_headers(self) -> None:
        """Holds each local header against the directory, and looks between the records."""
        directory = self.directory
        buffer, base = self.source.headers()
        start, packed, stops = directory.start, directory.packed, directory.stops
        for i in range(len(directory)):
            try:
                begin = self.starts[i] = start(i)
            except DamagedError:
                for odd in directory.check_local(i):
                    self.part.odd(odd, DANGEROUS if odd.kind in HOSTILE else UNKNOWN)
                continue
            gap = stops[i] - begin - packed[i]
            if gap > DESCRIPTOR:
                self._hidden(begin + packed[i], gap, directory.names[i])
            at = base + begin
            if packed[i] > 1 and buffer[at : at + 1] == b"\x80" and announced(buffer[at : at + 2]):
                self.announced.add(i)

    def _hidden(self, start: int, size: int, beside: str) -> None:
        """Looks for a record in bytes that belong to none."""
        buffer, base = self.source.headers()
        at = buffer.find(LOCAL, base + start, base + start + size)
        if at >= 0:
            where = Place(beside, None)
            message = "beside it lies a record that the directory does not list"
            self.part.odd(Finding("zip-hidden", message, where), DANGEROUS)
            inner = SliceSource(self.source, at - base, start + size - (at - base))
            _remains(inner, self.part)

    # --- records --------------------------------------------------------------------------

    def _record(self, i: int, name: str) -> None:
        directory, part = self.directory, self.part
        size = directory.sizes[i]
        if not size and (name.endswith("/") or not name.endswith(".pkl")):
            return
        if size <= FACT and self._is_fact(i, size):
            return
        try:
            source = self._open(i)
            child = part.inside(name)
        except PtInspectError as error:
            error.where = error.where or Place(name)
            part.errors.append(error)
            return
        from ptinspect.safety.containers.dispatch import scan_source

        with source:
            scan_source(source, child)
            self._crc(i, source)
            self._take(child, name)

    def _is_fact(self, i: int, size: int) -> bool:
        """Whether the record is one of those short ones, whole; most of a small file's are."""
        directory, start = self.directory, self.starts.get(i)
        if (
            start is None
            or directory.methods[i] != STORED
            or directory.packed[i] != size
            or directory.flags[i] & SECRET
        ):
            return False
        try:
            data = self.source.read(start, size)
        except PtInspectError:
            return False  # it will be met again
        if not _FACT.fullmatch(data):
            return False
        return not directory.has_crcs or zlib.crc32(data) == directory.crcs[i]

    def _take(self, child: Part, name: str) -> None:
        part = self.part
        refused = bool(child.errors) and all(isinstance(e, FormatError) for e in child.errors)
        bare = refused and part.format in TORCH and not name.lower().endswith(MODELS)
        if bare and not child.findings.list():
            self.numbers += 1
            return
        if child.format == "program" and part.format in TORCH:
            part.find("program", f"it holds {child.what}", name)
        if child.format == "git-lfs":  # no `git lfs pull` brings what it stands for in here
            message = "it is a Git LFS pointer, and its content is elsewhere"
            part.errors.append(FormatError(message, where=Place(name)))
        part.take(child)
        if child.streams and part.format in TORCH:
            self._declared(child, name)

    def _open(self, i: int) -> Source:
        """The record's real bytes: in place where they are stored, else unpacked."""
        directory, name = self.directory, self.directory.names[i]
        if directory.methods[i] == STORED and not directory.flags[i] & SECRET:
            if directory.packed[i] != directory.sizes[i]:
                raise DamagedError("the record is stored, and yet has two sizes", where=Place(name))
            return SliceSource(self.source, directory.start(i), directory.sizes[i])
        if directory.methods[i] == BZIP2 and not directory.flags[i] & SECRET:
            from ptinspect.safety.containers.decompress import unpacked

            packed = SliceSource(self.source, directory.start(i), directory.packed[i])
            made, error = unpacked(packed, "bzip2", self.part)
            if error is not None:
                self.part.errors.append(error)
            return made
        self.part.budget.unpack(directory.sizes[i], name)
        if directory.methods[i] == LZMA and not directory.flags[i] & SECRET:
            from ptinspect.safety.containers.decompress import unpacked_lzma

            data = self.source.read(directory.start(i), directory.packed[i])
            return MemorySource(
                unpacked_lzma(data, directory.sizes[i], name), self.part.path, base=None
            )
        return MemorySource(directory.read(i), self.part.path, base=None)

    def _crc(self, i: int, source: Source) -> None:
        if not self.directory.has_crcs:
            return
        crc = 0
        for chunk in read_chunks(source, 0, source.size, CHUNK):
            crc = zlib.crc32(chunk, crc)
        if crc != self.directory.crcs[i]:
            message = f"CRC {self.directory.crcs[i]:#010x}, its bytes have {crc:#010x}"
            self.part.odd(Finding("zip-crc", message, Place(self.directory.names[i])), UNKNOWN)

    def _declared(self, child: Part, name: str) -> None:
        """The records that a pickle names as storages, and whether they are large enough: torch
        before 2.10 did not ask (CVE-2026-24747)."""
        index, sizes = self.directory.index, self.directory.sizes
        folder, _, main = name.rpartition("/")
        place = "constants" if main == "constants.pkl" else "data"
        prefix = f"{folder}/{place}/" if folder else f"{place}/"
        old = f"{self.folder}tensors/"
        for stream in child.streams:
            try:
                wanted = declared_storages(stream)
            except PtInspectError as error:
                self.part.errors.append(error)
                continue
            missing = []
            for key, (numel, itemsize) in wanted.items():
                record = f"{prefix}{key}"
                if record not in index and f"{old}{key}" in index:
                    record = f"{old}{key}"
                    self.part.facts["tensors_folder"] = True
                number = index.get(record)
                if number is None:
                    missing.append(record)
                    continue
                self.storages.add(record)
                if sizes[number] < numel * itemsize:
                    why = (
                        f"{numel * itemsize:,} bytes are declared, the record has {sizes[number]:,}"
                    )
                    self.part.find("storage-size", why, record, DANGEROUS)
            if missing and self.part.format == "torch-zip":
                message = f"{len(missing):,} storages are missing, {missing[0]} the first"
                self.part.errors.append(DamagedError(message, where=Place(name)))
