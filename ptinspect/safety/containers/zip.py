"""Scan every record of a zip, including those that torch ignores and those that readers dispute."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, FormatError, Place, PtInspectError
from ptinspect.formats.archive import CHUNK, Finding, read_chunks
from ptinspect.formats.persistent_ids import declared_storages
from ptinspect.formats.signatures import identify_zip
from ptinspect.formats.torch.zip_file import torch_refusal_reasons
from ptinspect.formats.zip.directory import SECRET, STORED, ZipDirectory
from ptinspect.formats.zip.records import CENTRAL, END, LOCAL
from ptinspect.formats.zip.salvage import iter_local_records
from ptinspect.safety.containers.pickles import begins_with_protocol, scan_pickles
from ptinspect.safety.report import DANGEROUS, UNKNOWN
from ptinspect.safety.scan_state import scan_member
from ptinspect.source.base import MemorySource, SliceSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.safety.scan_state import ScanSource, ScanState
    from ptinspect.source.base import Source

_DANGEROUS_KINDS = frozenset(("zip-duplicate", "zip-overlap", "zip-outside", "zip-local"))
"""Findings that no writer causes, and by which two readers see different content."""

_ERROR_KINDS = frozenset(("zip-encrypted", "zip-compression"))
"""Findings that become an error when the record is read."""

_TORCH_FORMATS = frozenset(("torch-zip", "torchscript", "torch-export", "torch-package"))
"""Formats whose records may be bare numbers."""

_BZIP2, _LZMA = 12, 14
_END_SIZE = 22
_ZIP64_END_SIZE = 76
_MAX_DESCRIPTOR = 24
"""Bytes of the longest data descriptor, which follows a record."""

# A version or a byte order, which torch stores in records of their own. No opcode that imports,
# calls or changes anything can be written with these characters.
_FACT = re.compile(rb"[0-9]{1,64}\n?|little|big")
_MAX_FACT = 64


def scan_zip(source: Source, state: ScanState, scan_source: ScanSource) -> None:
    """Scan every record of the zip that begins with the source's first byte."""
    try:
        directory = ZipDirectory(source, state.limits)
    except DamagedError as error:
        spans = list(find_concatenated_zips(source))
        if len(spans) > 1:
            _scan_concatenated(source, state, spans, scan_source)
        else:
            state.format = "zip"
            _scan_without_directory(source, state, scan_source)
            state.errors.append(error)
        return
    ZipScanner(source, directory, state, scan_source).scan()


def find_concatenated_zips(source: Source) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of zips that follow one another.

    torch.distributed.checkpoint writes one zip per tensor.
    """
    buffer, base, end = source.window()
    start = search_from = base
    while True:
        end_record = buffer.find(END, search_from, end)
        if end_record < 0 or end_record + _END_SIZE > end:
            return
        size = int.from_bytes(buffer[end_record + 12 : end_record + 16], "little")
        offset = int.from_bytes(buffer[end_record + 16 : end_record + 20], "little")
        comment = int.from_bytes(buffer[end_record + 20 : end_record + 22], "little")
        directory = start + offset
        if (
            buffer[directory : directory + 4] == CENTRAL
            and directory + size <= end_record
            and buffer[start : start + 4] == LOCAL
        ):
            stop = min(end_record + _END_SIZE + comment, end)
            yield start - base, stop - base
            start = search_from = stop
        else:
            search_from = end_record + 4


def _scan_concatenated(
    source: Source, state: ScanState, spans: list[tuple[int, int]], scan_source: ScanSource
) -> None:
    state.format, state.description = "torch-dcp", f"{len(spans):,} zips in a row"
    for start, stop in spans:
        content = SliceSource(source, start, stop - start)
        scan_member(state, content, f"zip @ {start}", scan_source)
    left = source.size - spans[-1][1]
    if left:
        state.find("trailing-bytes", f"{left:,} bytes follow the last zip", state.record)


def _scan_without_directory(source: Source, state: ScanState, scan_source: ScanSource) -> None:
    """Scan the records of a zip that lost its directory, by their local headers."""
    for record in iter_local_records(source):
        is_storage = record.name.rpartition("/")[0].endswith("data")
        if record.method == STORED and record.size and not is_storage:
            content = SliceSource(source, record.start, record.size)
            scan_member(state, content, record.name, scan_source)


def find_zip_at_end(source: Source) -> Source | None:
    """Return the zip that `zipfile` sees in a file that does not begin as one, or None."""
    tail_start = max(source.size - _END_SIZE - 0xFFFF, 0)
    tail = source.read(tail_start, source.size - tail_start)
    end_record = tail.rfind(END, 0, max(len(tail) - _END_SIZE + 4, 0))
    if end_record < 0:
        return None
    size = int.from_bytes(tail[end_record + 12 : end_record + 16], "little")
    offset = int.from_bytes(tail[end_record + 16 : end_record + 20], "little")
    start = tail_start + end_record - size - offset
    for candidate in (start, start - _ZIP64_END_SIZE):
        left = source.size - candidate
        is_inside = candidate >= 0 and left >= _END_SIZE and offset + 4 <= left
        if is_inside and source.read(candidate + offset, 4) == CENTRAL:
            return SliceSource(source, candidate, left)
    return None


class ZipScanner:
    """Scans one zip into a state."""

    def __init__(
        self, source: Source, directory: ZipDirectory, state: ScanState, scan_source: ScanSource
    ) -> None:
        self.source = source
        self.directory = directory
        self.state = state
        self.scan_source = scan_source
        self.storages: set[str] = set()
        self.bare_numbers = 0
        self.pickle_like: set[int] = set()
        self.starts: dict[int, int] = {}  # only of records with a valid local header
        identity, self.folder = identify_zip(directory.names, directory.index)
        state.format, state.hint = identity.format, identity.hint
        state.description = identity.description
        state.facts["folder"] = self.folder.rstrip("/")
        state.facts["refused"] = torch_refusal_reasons(directory)

    def scan(self) -> None:
        """Scan everything, the main pickle first: it names the records that are storages."""
        names, headers = self.directory.names, self.directory.headers
        for finding in self.directory.findings:
            if finding.kind not in _ERROR_KINDS:
                self._add_finding(finding)
        self._check_local_headers()
        if headers and min(headers):
            self._find_hidden_record(0, min(headers), names[0])
        mains = {f"{self.folder}{name}.pkl" for name in ("data", "constants")}
        for i in sorted(range(len(names)), key=lambda i: names[i] not in mains):
            if self.state.budget.is_exhausted:
                break
            if names[i] not in self.storages:
                self._scan_record(i)
            elif i in self.pickle_like:
                self._scan_pickle_like_storage(i)
        state = self.state
        if self.bare_numbers:
            state.notes.append(f"{self.bare_numbers:,} records are bare numbers")
        if state.format == "torchscript":
            reason = "TorchScript code, which torch.jit.load interprets, was not judged"
            state.find("torchscript-code", reason, None)
        elif state.format == "torch-package":
            reason = "Python source, which torch.package runs, was not judged"
            state.find("python-source", reason, None)

    def _add_finding(self, finding: Finding) -> None:
        verdict = DANGEROUS if finding.kind in _DANGEROUS_KINDS else UNKNOWN
        self.state.add_container_finding(finding, verdict)

    # --- headers --------------------------------------------------------------------------

    def _check_local_headers(self) -> None:
        """Compare each local header with the directory, and look between the records."""
        directory = self.directory
        buffer, base = self.source.headers()
        start_of, packed, stops = directory.start, directory.packed, directory.stops
        for i in range(len(directory)):
            try:
                start = self.starts[i] = start_of(i)
            except DamagedError:
                for finding in directory.check_local(i):
                    self._add_finding(finding)
                continue
            gap = stops[i] - start - packed[i]
            if gap > _MAX_DESCRIPTOR:
                self._find_hidden_record(start + packed[i], gap, directory.names[i])
            head = base + start
            if packed[i] > 1 and begins_with_protocol(buffer[head : head + 2]):
                self.pickle_like.add(i)

    def _find_hidden_record(self, start: int, size: int, neighbour: str) -> None:
        """Look for a record in bytes that belong to none."""
        buffer, base = self.source.headers()
        header = buffer.find(LOCAL, base + start, base + start + size)
        if header >= 0:
            message = "the directory does not list a record that is stored next to it"
            finding = Finding("zip-hidden", message, Place(neighbour, None))
            self.state.add_container_finding(finding, DANGEROUS)
            header -= base
            hidden = SliceSource(self.source, header, start + size - header)
            _scan_without_directory(hidden, self.state, self.scan_source)

    # --- records --------------------------------------------------------------------------

    def _scan_record(self, i: int) -> None:
        state, name, size = self.state, self.directory.names[i], self.directory.sizes[i]
        if not size and (name.endswith("/") or not name.endswith(".pkl")):
            return
        if size <= _MAX_FACT and self._is_fact(i, size):
            return
        try:
            source = self._open(i)
            member = state.new_member(name)
        except PtInspectError as error:
            error.where = error.where or Place(name)
            state.errors.append(error)
            return
        with source:
            self.scan_source(source, member)
            self._check_crc(i, source)
            if self.directory.methods[i] != STORED:
                member.forget_values()  # they would hold the memory of all records together
            self._add_record(member, name)

    def _is_fact(self, i: int, size: int) -> bool:
        """Return True for an intact version or byte order, as most records of small files are."""
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
            return False  # the error is reported when the record is opened
        if not _FACT.fullmatch(data):
            return False
        return not directory.has_crcs or zlib.crc32(data) == directory.crcs[i]

    def _open(self, i: int) -> Source:
        """Return the record's content: in place if it is stored, else decompressed."""
        directory, name = self.directory, self.directory.names[i]
        method, size, packed_size = directory.methods[i], directory.sizes[i], directory.packed[i]
        is_encrypted = bool(directory.flags[i] & SECRET)
        if method == STORED and not is_encrypted:
            if packed_size != size:
                message = "the record is stored, but has two different sizes"
                raise DamagedError(message, where=Place(name))
            return SliceSource(self.source, directory.start(i), size)
        if method == _BZIP2 and not is_encrypted:
            from ptinspect.safety.containers.decompress import decompress

            packed = SliceSource(self.source, directory.start(i), packed_size)
            content, error = decompress(packed, "bzip2", self.state)
            if error is not None:
                self.state.errors.append(error)
            return content
        self.state.budget.count_unpacked(size, name)
        if method == _LZMA and not is_encrypted:
            from ptinspect.safety.containers.decompress import decompress_zip_lzma

            data = self.source.read(directory.start(i), packed_size)
            data = decompress_zip_lzma(data, size, name)
        else:
            data = directory.read(i)
        return MemorySource(data, self.state.path, base=None)

    def _check_crc(self, i: int, source: Source) -> None:
        if not self.directory.has_crcs:
            return
        crc = 0
        for chunk in read_chunks(source, 0, source.size, CHUNK):
            crc = zlib.crc32(chunk, crc)
        if crc != self.directory.crcs[i]:
            message = f"CRC {self.directory.crcs[i]:#010x}, its bytes have {crc:#010x}"
            finding = Finding("zip-crc", message, Place(self.directory.names[i]))
            self.state.add_container_finding(finding, UNKNOWN)

    def _add_record(self, member: ScanState, name: str) -> None:
        state = self.state
        is_torch = state.format in _TORCH_FORMATS
        is_unidentified = bool(member.errors) and all(
            isinstance(error, FormatError) for error in member.errors
        )
        if is_unidentified and is_torch and not member.has_model_name and not member.findings:
            self.bare_numbers += 1
            return
        if member.format == "program" and is_torch:
            state.find("program", f"it contains {member.description}", name)
        if member.format == "git-lfs":  # `git lfs pull` cannot fetch it into an archive
            message = "it is a Git LFS pointer, and its content is elsewhere"
            state.errors.append(FormatError(message, where=Place(name)))
        state.add_member(member)
        if member.streams and is_torch:
            self._check_storages(member, name)

    def _check_storages(self, member: ScanState, name: str) -> None:
        """Check that the storages that a pickle names are present and large enough.

        torch before 2.10 did not check their size (CVE-2026-24747).
        """
        index, sizes = self.directory.index, self.directory.sizes
        folder, _, basename = name.rpartition("/")
        if basename == "traced_inputs.pkl":
            return  # torch.jit.save writes its tensors without their data (skip_tensor_data)
        subfolder = "constants" if basename == "constants.pkl" else "data"
        prefix = f"{folder}/{subfolder}/" if folder else f"{subfolder}/"
        old_prefix = f"{self.folder}tensors/"
        for stream in member.streams:
            try:
                storages = declared_storages(stream)
            except PtInspectError as error:
                self.state.errors.append(error)
                continue
            missing = []
            for key, (numel, itemsize) in storages.items():
                record = f"{prefix}{key}"
                if record not in index and f"{old_prefix}{key}" in index:
                    record = f"{old_prefix}{key}"
                    self.state.facts["tensors_folder"] = True
                if record not in index:
                    missing.append(record)
                    continue
                self.storages.add(record)
                needed, size = numel * itemsize, sizes[index[record]]
                if size < needed:
                    reason = f"the pickle declares {needed:,} bytes, the record has {size:,}"
                    self.state.find("storage-size", reason, record, DANGEROUS)
            if missing and self.state.format == "torch-zip":
                message = f"{len(missing):,} storages are missing, the first is {missing[0]}"
                self.state.errors.append(DamagedError(message, where=Place(name)))

    def _scan_pickle_like_storage(self, i: int) -> None:
        """Scan a storage that begins like a pickle: numbers, unless it does something."""
        name = self.directory.names[i]
        try:
            member = self.state.new_member(name)
        except PtInspectError as error:
            self.state.errors.append(error)
            return
        with self._open(i) as source:
            data, start, stop = source.window()
            if scan_pickles(member, data, start, stop, name).is_harmful:
                reason = "the bytes of a storage are a pickle that is not harmless"
                self.state.find("storage-pickle", reason, name)
