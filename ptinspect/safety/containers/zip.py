"""Scan every record of a zip, including those that torch ignores and those that readers dispute."""

from __future__ import annotations

import re
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, FormatError, Place, PtInspectError
from ptinspect.formats import zip_records as records
from ptinspect.formats.archive import Finding, declared_storages, read_chunks
from ptinspect.formats.detect import HEAD_BYTES, identify_head
from ptinspect.formats.signatures import identify_zip, looks_like_file
from ptinspect.formats.torch.zip_file import torch_refusal_reasons
from ptinspect.formats.zip_directory import (
    DEFLATED,
    SECRET,
    STORED,
    ZipDirectory,
    find_concatenated_zips,
    lzma_file,
    pack_again,
)
from ptinspect.safety.containers.pickles import UNREAD_FORMATS, scan_suspect
from ptinspect.safety.report import DANGEROUS, UNKNOWN
from ptinspect.safety.scan_state import scan_member
from ptinspect.source.base import MemorySource, SliceSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.limits import Limits
    from ptinspect.safety.scan_state import ScanState
    from ptinspect.source.base import Source


_DANGEROUS_KINDS = frozenset(("zip-duplicate", "zip-overlap", "zip-outside", "zip-local"))
"""Findings that no writer causes, and by which two readers see different content."""

_ERROR_KINDS = frozenset(("zip-encrypted", "zip-compression"))
"""Findings that become an error when the record is read."""

_TORCH_FORMATS = frozenset(("torch-zip", "torchscript", "torch-export", "torch-package"))
"""Formats whose records may be bare numbers."""

_SOURCE_ENDS = (".py\n", ".pyc\n", "/.data/extern_modules\n")
_BZIP2, _LZMA = 12, 14
_HEAD = 1024
_MAX_DESCRIPTOR = 24  # bytes of the longest data descriptor, which follows a record

# A version or a byte order, which torch stores in records of their own. No opcode that imports,
# calls or changes anything can be written with these characters.
_FACT = re.compile(rb"[0-9]{1,64}\n?|little|big")
_MAX_FACT = 64


def scan_zip(source: Source, state: ScanState) -> None:
    """Scan every record of the zip that begins with the source's first byte, in each directory
    that some reader would use."""
    directory, error = None, None
    try:
        directory = ZipDirectory(source, state.limits)
    except DamagedError as damage:
        error = damage
    if directory and directory.bounds.is_plain and not directory.has_uncounted_bytes:
        ZipScanner(source, directory, state).scan()
        return
    spans = find_concatenated_zips(source, state.limits)
    seen: set[tuple[int, int]] = set()
    last = spans[-1][1] if spans else source.size
    rest = SliceSource(source, last, source.size - last)
    if len(spans) > 1 or _is_safetensors(rest, state.limits):
        error = None
        seen = {(place, count) for _, _, place, count in spans}
        state.format, state.description = "torch-dcp", f"{len(spans):,} zips in a row"
        for start, stop, _, _ in spans:
            scan_member(state, SliceSource(source, start, stop - start), f"zip @ {start}")
        for start, size in _gaps(source, spans):  # `.metadata` may say that it is a file
            content = SliceSource(source, start, size)
            if not _is_safetensors(content, state.limits):
                state.find("trailing-bytes", f"{size:,} bytes belong to no zip", state.record)
            scan_member(state, content, f"byte {start}")
    elif directory is not None:
        seen.add((directory.bounds.start, len(directory)))
        ZipScanner(source, directory, state).scan()
        for start, size in _gaps(source, spans):
            scan_suspect(state, SliceSource(source, start, size), f"byte {start}")
    else:
        state.format = "zip"
    for shift, bounds in records.find_directories(source):
        place = shift + bounds.start
        if (place, bounds.entries) in seen:
            continue
        seen.add((place, bounds.entries))
        part = SliceSource(source, shift, source.size - shift)
        name = f"directory @ {place}"
        try:
            other = ZipDirectory(part, state.limits, bounds)
            inside = (header for header in other.headers if header + 4 <= part.size)
            if all(part.read(header, 4) != records.LOCAL for header in inside):
                continue  # without a local header of its entries, nobody can use it
            member = state.new_member(name)
            ZipScanner(part, other, member).scan()
            state.members.append(member)
        except PtInspectError as damage:
            state.errors.append(damage)
        reason = "some readers of zips use another directory than others"
        state.find("zip-directories", reason, name, DANGEROUS)
    if error is not None:
        if not seen:
            _scan_without_directory(source, state)
        state.errors.append(error)


def _is_safetensors(source: Source, limits: Limits) -> bool:
    """Return True if bytes behind zips are the tensors of a file of torch.distributed.checkpoint
    with `serialization_format=SAFETENSORS`."""
    identity = identify_head(source, source.read(0, min(source.size, HEAD_BYTES)), limits)
    return identity is not None and identity.format == "safetensors"


def _gaps(source: Source, spans: list[tuple[int, int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (start, size) of the bytes that belong to no zip, unless they are zeros."""
    position = 0
    for start, stop, *_ in [*spans, (source.size, source.size)]:
        if start > position and any(map(any, read_chunks(source, position, start))):
            yield position, start - position
        position = max(position, stop)


def _scan_without_directory(source: Source, state: ScanState) -> None:
    """Scan the records of a zip that lost its directory, by their local headers."""
    for record in records.iter_local_records(source):
        content: Source = SliceSource(source, record.start, record.size)
        if record.method == DEFLATED:
            content, _ = state.decompress(content, "deflate")
        elif record.method != STORED:
            continue
        window = content.window()
        if record.name.rpartition("/")[0].endswith("data"):
            if looks_like_file(*window):
                scan_suspect(state, content, record.name)
        elif content.size:
            scan_member(state, content, record.name)


class ZipScanner:
    """Scans one zip into a state."""

    def __init__(self, source: Source, directory: ZipDirectory, state: ScanState) -> None:
        self.source = source
        self.directory = directory
        self.state = state
        self.storages: set[str] = set()
        self.bare_numbers = 0
        self.suspects: set[int] = set()
        self.starts: dict[int, int] = {}  # only of records with a valid local header
        identity, self.folder = identify_zip(directory.names, directory.index)
        state.format, state.hint = identity.format, identity.advice(state.real_path)
        state.description = identity.description
        state.facts["folder"] = self.folder.rstrip("/")
        state.facts["refused"] = torch_refusal_reasons(directory)
        if not set(directory.methods) <= {STORED, DEFLATED}:
            state.facts["repair"] = pack_again(state.real_path)

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
            try:
                if names[i] not in self.storages:
                    self._scan_record(i)
                elif i in self.suspects or self.directory.methods[i] != STORED:
                    self._scan_storage(i)
            except PtInspectError as error:
                error.where = error.where or Place(names[i])
                self.state.errors.append(error)
        state = self.state
        if self.bare_numbers:
            state.notes.append(f"{self.bare_numbers:,} records are bare numbers")
        joined = "\n".join((*names, ""))
        if state.format == "torchscript":
            reason = "TorchScript code, which torch.jit.load interprets, was not judged"
            state.find("torchscript-code", reason, None)
        elif state.format == "torch-package" or any(end in joined for end in _SOURCE_ENDS):
            reason = "Python source, which its loader may run, was not judged"
            state.find("python-source", reason, None)
        if {"config.json", "metadata.json"} <= self.directory.index.keys():
            reason = "a Keras model, whose Lambda layers are code, was not judged"
            state.find("keras-config", reason, None)

    def _add_finding(self, finding: Finding) -> None:
        verdict = DANGEROUS if finding.kind in _DANGEROUS_KINDS else UNKNOWN
        where = finding.where
        self.state.find(finding.kind, finding.message, where.record, verdict, where.offset)

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
            if packed[i] > 3 and looks_like_file(buffer, head, head + packed[i]):
                self.suspects.add(i)

    def _find_hidden_record(self, start: int, size: int, neighbour: str) -> None:
        """Look for a record in bytes that belong to none."""
        buffer, base = self.source.headers()
        header = buffer.find(records.LOCAL, base + start, base + start + size)
        if header >= 0:
            message = "the directory does not list a record that is stored next to it"
            self.state.find("zip-hidden", message, neighbour, DANGEROUS)
            header -= base
            hidden = SliceSource(self.source, header, start + size - header)
            _scan_without_directory(hidden, self.state)

    # --- records --------------------------------------------------------------------------

    def _scan_record(self, i: int) -> None:
        state, directory = self.state, self.directory
        name, size = directory.names[i], directory.sizes[i]
        if not size and (name.endswith("/") or not name.endswith(".pkl")):
            return
        start = self.starts.get(i)
        if (
            size <= _MAX_FACT
            and start is not None
            and directory.methods[i] == STORED
            and directory.packed[i] == size
            and not directory.flags[i] & SECRET
        ):  # an intact version or byte order, as most records of small files are
            with suppress(PtInspectError):  # the error is reported when the record is opened
                fact = self.source.read(start, size)
                is_intact = not directory.has_crcs or zlib.crc32(fact) == directory.crcs[i]
                if is_intact and _FACT.fullmatch(fact):
                    return
        with self._open(i) as source:
            member = state.new_member(name)
            state.budget.scan_source(source, member)
            if directory.has_crcs:
                data, start, stop = source.window()
                crc = zlib.crc32(memoryview(data)[start:stop])
                if crc != directory.crcs[i]:
                    message = f"CRC {directory.crcs[i]:#010x}, its bytes have {crc:#010x}"
                    state.find("zip-crc", message, name)
            if directory.methods[i] != STORED:
                for stream in member.streams:  # values refer to the bytes they were read from
                    stream.root = None
                    for each in stream.globals:
                        each.changes = None
        is_torch = state.format in _TORCH_FORMATS
        is_named = member.format == "compressed" or member.has_model_name or member.findings
        if is_torch and not is_named and set(map(type, member.errors)) == {FormatError}:
            self.bare_numbers += 1
            return
        if member.format == "program" or member.format in UNREAD_FORMATS:
            reason = f"it contains {member.description}, which is not judged"
            state.find(member.format, reason, name)
        if member.format == "git-lfs":  # `git lfs pull` cannot fetch it into an archive
            message = "it is a Git LFS pointer, and its content is elsewhere"
            state.errors.append(FormatError(message, where=Place(name)))
        state.add_member(member)
        if member.streams and is_torch:
            self._check_storages(member, name)

    def _open(self, i: int) -> Source:
        """Return the record's content: in place if it is stored, else decompressed."""
        directory, path = self.directory, self.state.path
        method, size, packed_size = directory.methods[i], directory.sizes[i], directory.packed[i]
        if directory.flags[i] & SECRET or method not in (STORED, _BZIP2, _LZMA):
            self.state.budget.count_unpacked(size, directory.names[i])
            return MemorySource(directory.read(i), path, base=None)
        if method == STORED and packed_size != size:
            message = "the record is stored, but has two different sizes"
            raise DamagedError(message, where=Place(directory.names[i]))
        packed: Source = SliceSource(self.source, directory.start(i), packed_size)
        if method == STORED:
            return packed
        if method == _LZMA:
            data = packed.read(0, packed_size)
            packed = MemorySource(lzma_file(data, directory.flags[i], size), path)
        content, error = self.state.decompress(packed, "bzip2" if method == _BZIP2 else "lzma")
        if error is not None:
            error.where = Place(directory.names[i])
            self.state.errors.append(error)
        return content

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

    def _scan_storage(self, i: int) -> None:
        """Scan a storage that begins like a file: numbers, unless it does something."""
        if self.directory.methods[i] == DEFLATED:
            head = next(self.directory.chunks(i, 0, _HEAD, _HEAD), b"")
            if not looks_like_file(head, 0, len(head)):
                return
        with self._open(i) as source:
            if looks_like_file(*source.window()):
                scan_suspect(self.state, source, self.directory.names[i])
