"""Dumps of joblib: pickles with arrays of numpy, perhaps compressed.

A dump is a pickle with the bytes of each array between its opcodes, perhaps compressed.

    … BUILD of joblib.numpy_pickle.NumpyArrayWrapper {shape, order, dtype, …}
    one byte: the length of the padding; the padding      since joblib 1.2, if the wrapper has
                                                          `numpy_array_alignment_bytes`
    the array's bytes; or, for an array of objects, a pickle of its own
    … the pickle continues

A compressed dump is one stream of zlib, gzip, bz2, lzma, xz or lz4. It is decompressed to a
temporary file. Before joblib 0.10, each array is a file next to the dump, which the pickle names:
NAME_01.npy, or NAME_01.npy.z with its bytes in joblib's zlib. Sources: joblib/numpy_pickle.py
(NumpyArrayWrapper.write_array, read_array; NumpyUnpickler.load_build), joblib/compressor.py,
joblib/numpy_pickle_compat.py (read_zfile, NDArrayWrapper, ZNDArrayWrapper).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING

from ptinspect.dtypes import by_numpy_code, numpy_itemsize
from ptinspect.errors import (
    DOWNLOAD_AGAIN,
    DamagedError,
    FormatError,
    LimitError,
    Place,
    PtInspectError,
    UnsupportedError,
    add_error_path,
)
from ptinspect.formats.archive import Finding, OutsideFolderError, PicklelessArchive, Span
from ptinspect.formats.numpy_files import (
    MAX_HEADER,
    ArrayHeader,
    NumpyFile,
    array_nbytes,
    is_shape,
    read_header,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import Pickled, run
from ptinspect.pickling.numpy_objects import dtype_code
from ptinspect.pickling.pyobjects import as_sequence, attributes_of, class_path
from ptinspect.pickling.state import Recorder
from ptinspect.pickling.values import Call, Value
from ptinspect.source.decompressed import decompress, decompressed_chunks, detect_compression
from ptinspect.source.local import LocalSource, open_source
from ptinspect.text import bounded_repr, is_outside, join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.pickling.state import Machine
    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

WRAPPER = re.compile(r"(?:.*\.)?joblib\.numpy_pickle\.(NumpyArrayWrapper|Z?NDArrayWrapper)")
"""The classes that stand for arrays. Older versions of scikit-learn have joblib in a package."""
_NAME = b"NumpyArrayWrapper"
PLAIN_PICKLE = re.compile(rb"\x80[\2-\5](?!\x8a\nl\xfc)")
"""The start of a pickle, as a dump without arrays is one. Not torch's magic number."""

_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_PEEK = 1 << 16
"""Decompressed bytes that are searched for joblib's name."""


class JoblibDump(NumpyFile):
    """See the module's docstring. `packed` is the compressed file, or None; `parts` are the files
    of arrays, and `unpacked` the temporary files."""

    def __init__(self, source: Source, limits: Limits, packed: Source | None) -> None:
        super().__init__(source, "joblib", limits)
        self.file = packed or source
        self.unpacked = [source] if packed else []

    @property
    def size(self) -> int:
        return self.file.size + sum(part.source.size for part in self.parts)

    @property
    def files(self) -> Sequence[Source]:
        """See `Archive.files`."""
        return [self.source]

    def close(self) -> None:
        super().close()
        for source in self.unpacked:
            source.close()


def locate_array(
    m: Machine, pos: int, wrapper: dict[Value, Value], itemsize: int
) -> tuple[tuple[int, ...], int, int]:
    """Return the shape of an array whose wrapper was built before `pos`, and where its elements
    begin and end. DamagedError if the wrapper has no shape, or fewer bytes are left."""
    shape = wrapper.get("shape")
    if not is_shape(shape):
        raise m.damaged("an array's shape is invalid")
    if wrapper.get("numpy_array_alignment_bytes") is not None:
        m.check_left(pos, 1)
        pos += 1 + m.data[pos]
    nbytes = prod(shape) * itemsize
    m.check_left(pos, nbytes)
    return shape, pos, pos + nbytes


class _ArrayRecorder(Recorder):
    """Skips the bytes of arrays, and remembers where they are."""

    def __init__(self, limits: Limits, depth: int = 0) -> None:
        super().__init__()
        self.limits = limits
        self.depth = depth
        self.arrays: list[tuple[Call, ArrayHeader]] = []
        self.objects: list[tuple[Call, Pickled]] = []
        self.other_files: list[Call] = []

    def after_build(self, m: Machine, pos: int) -> int:
        wrapper = m.stack[-1]
        match = WRAPPER.fullmatch(class_path(wrapper) or "") if isinstance(wrapper, Call) else None
        if not isinstance(wrapper, Call) or match is None:
            return pos
        if match[1] != "NumpyArrayWrapper":
            self.other_files.append(wrapper)
            return pos
        self.events.clear()
        state = wrapper.state if isinstance(wrapper.state, dict) else {}
        code = dtype_code(state.get("dtype"))
        if code is not None and code.lstrip("<>=|") == "O8":
            if self.depth >= self.limits.nested_archives:
                message = "arrays of objects are nested too deep"
                raise LimitError(message, limit="nested_archives", where=Place(m.record, pos))
            inner = _ArrayRecorder(self.limits, self.depth + 1)
            pickled = run(
                m.data, pos, stop=m.stop, record=m.record, limits=self.limits, recorder=inner
            )
            self.arrays += inner.arrays
            self.objects += [*inner.objects, (wrapper, pickled)]
            self.other_files += inner.other_files
            return pickled.end
        itemsize = numpy_itemsize(code) if code is not None else None
        if code is None or itemsize is None or "O" in code:
            raise UnsupportedError(
                f"an array has the element type {bounded_repr(code)}, which is not read",
                where=Place(m.record, m.offset),
            )
        shape, start, stop = locate_array(m, pos, state, itemsize)
        self.arrays.append((wrapper, ArrayHeader(code, state.get("order") == "F", shape, start)))
        return stop


def has_arrays(data: Buffer, start: int, stop: int) -> bool:
    """Return True if the bytes contain the name of joblib's wrapper."""
    return data.find(_NAME, start, stop) >= 0


def read_joblib(
    source: Source, limits: Limits = LIMITS, packed: Source | None = None
) -> JoblibDump:
    """Read a dump, decompressed; `packed` is the compressed file. DamagedError if the pickle is
    damaged or the bytes of an array are incomplete."""
    data, start, stop = source.window()
    recorder = _ArrayRecorder(limits)
    pickled = run(data, start, stop=stop, limits=limits, recorder=recorder)
    archive = JoblibDump(source, limits, packed)
    archive.pickled = pickled
    archive.streams = [pickled, *(inner for _, inner in recorder.objects)]
    archive.origin = None if source.base is None else source.base - start
    for wrapper, inner in recorder.objects:
        _become(wrapper, inner.root)
    for number, (wrapper, header) in enumerate(recorder.arrays):
        name = f"array_{number}"
        nbytes = prod(header.shape) * (numpy_itemsize(header.descr) or 0)
        span = Span(None, nbytes, header.start - start, source.base)
        if by_numpy_code(header.descr) is None and "V" not in header.descr:
            header = header._replace(descr=header.descr.lstrip("|="))
        _become(wrapper, archive.add(name, header, span))
    if recorder.other_files:
        _read_other_files(archive, recorder.other_files)
    archive.value = pickled.root
    if pickled.end < stop:
        text = f"{stop - pickled.end:,} bytes follow the dump, which joblib.load does not read"
        where = Place(None, pickled.end - start)
        archive.warnings.append(Finding("trailing-bytes", text, where))
    return archive


def _read_other_files(archive: JoblibDump, wrappers: list[Call]) -> None:
    """Read the arrays that a dump of joblib before 0.10 has in files next to it."""
    folder, name = os.path.split(archive.file.path)
    names: list[str] = []
    try:
        for wrapper in wrappers:
            file = attributes_of(wrapper).get("filename")
            if not isinstance(file, str) or not file or is_outside(file):
                raise OutsideFolderError(f"the file {bounded_repr(file)} is outside the folder")
            names.append(str(file))
        missing = [n for n in names if not os.path.isfile(os.path.join(folder, n))]
        if missing:
            raise DamagedError(
                f"the files of its arrays are missing: {join_names(map(printable_name, missing))}",
                hint="copy them into the folder of the dump",
            )
        for wrapper, file in zip(wrappers, names, strict=True):
            with add_error_path(os.path.join(folder, file)):
                source, fields = open_source(os.path.join(folder, file)), attributes_of(wrapper)
                archive.parts.append(PicklelessArchive(source, archive.limits))
                if "state" not in fields:
                    header = read_header(source.read(0, min(source.size, MAX_HEADER + 12)))
                else:  # compressed bytes: their shape is in the pickle
                    state = as_sequence(fields["state"]) or ()
                    _, shape, dtype, order = (*state, *[None] * 4)[:4]
                    code = dtype_code(dtype)
                    if code is None or not is_shape(shape) or "O" in code:
                        raise DamagedError("the array's shape or element type is invalid")
                    header = ArrayHeader(code, order is True, shape, 0, numpy_itemsize(code))
                    source = _unpack(source, "joblib's zlib", archive.limits)
                    archive.unpacked.append(source)
                nbytes = array_nbytes(header, source.size - header.start, None)
                span = Span(os.path.basename(file), nbytes, header.start, source.base)
                key = f"array_{len(archive.arrays)}"
                _become(wrapper, archive.add(key, header, span, source))
    except PtInspectError:
        archive.close()
        raise
    archive.facts["set"] = {"files": [name, *names], "missing": []}


def _become(wrapper: Call, value: Value) -> None:
    """Make the object in the pickle what joblib.load puts in its place."""
    if isinstance(value, Call):
        wrapper.func, wrapper.args, wrapper.opcode = value.func, value.args, value.opcode
        wrapper.kwargs, wrapper.changes = value.kwargs, value.changes


# Compressed dumps


def open_compressed(source: Source, head: bytes, limits: Limits) -> JoblibDump | None:
    """Open a compressed dump; None for other content. LimitError if it decompresses to more than
    `limits.compression_ratio` times its size."""
    compression = detect_compression(head)
    if compression is None and head.startswith(_LZ4_MAGIC) and find_spec("lz4") is not None:
        compression = "lz4"
    if compression is None:
        return None
    try:
        start = next(decompressed_chunks(source, compression), b"")[:_PEEK]
    except DamagedError:  # it only looks compressed
        return None
    if compression != "joblib's zlib":
        if _NAME not in start and b"joblib" not in start and not PLAIN_PICKLE.match(start):
            return None
    elif not start.startswith(b"\x80"):
        raise FormatError(
            "it has the bytes of an array of a joblib dump, without their type and shape",
            hint="name the dump, which is next to it: NAME of NAME_01.npy.z",
        )
    with ExitStack() as opened:
        unpacked = opened.enter_context(_unpack(source, compression, limits))
        dump = read_joblib(unpacked, limits, packed=source)
        opened.pop_all()
    return dump


def _unpack(source: Source, compression: str, limits: Limits) -> LocalSource:
    """Return the decompressed bytes. DamagedError if they are not as many as joblib recorded."""
    unpacked, error = decompress(source, compression, limits)
    if error is None and compression == "joblib's zlib":
        recorded = source.read(2, min(19, source.size - 2)).strip().decode("latin1")
        if recorded != hex(unpacked.size):
            text = f"{unpacked.size:,} bytes, its header says {bounded_repr(recorded)}"
            error = DamagedError(f"it decompresses to {text}")
    if error is not None:
        unpacked.close()
        error.hint = DOWNLOAD_AGAIN if isinstance(error, DamagedError) else error.hint
        raise error
    return unpacked
