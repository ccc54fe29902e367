"""Dumps of joblib: a pickle with the bytes of each array between its opcodes, perhaps compressed.

    … BUILD of joblib.numpy_pickle.NumpyArrayWrapper {shape, order, dtype, …}
    one byte: the length of the padding; the padding      since joblib 1.2, if the wrapper has
                                                          `numpy_array_alignment_bytes`
    the array's bytes; or, for an array of objects, a pickle of its own
    … the pickle continues

A compressed dump is one stream of zlib, gzip, bz2, lzma, xz or lz4. It is decompressed to a
temporary file. Sources: joblib/numpy_pickle.py (NumpyArrayWrapper.write_array, read_array;
NumpyUnpickler.load_build) and joblib/compressor.py.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING

from ptinspect.dtypes import by_numpy_code, numpy_itemsize
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import PicklelessArchive, Span
from ptinspect.formats.numpy_files import ArrayHeader, NumpyFile
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import Pickled, run
from ptinspect.pickling.numpy_objects import dtype_code
from ptinspect.pickling.pyobjects import function_path
from ptinspect.pickling.state import Recorder
from ptinspect.pickling.values import Call, Value
from ptinspect.source.decompressed import decompress, decompressed_chunks, detect_compression
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.pickling.state import Machine
    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_NAME = b"NumpyArrayWrapper"

_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_PEEK = 1 << 16
"""Decompressed bytes that are searched for joblib's name."""


class JoblibDump(NumpyFile):
    """See the module's docstring. `packed` is the compressed file, or None."""

    def __init__(self, source: Source, limits: Limits, packed: Source | None) -> None:
        super().__init__(source, "joblib", limits)
        self.packed = packed
        self.packed_size = source.size if packed is None else packed.size

    @property
    def size(self) -> int:
        return self.packed_size

    def close(self) -> None:
        super().close()
        if self.packed is not None:
            self.source.close()


class _ArrayRecorder(Recorder):
    """Skips the bytes of arrays, and remembers where they are."""

    def __init__(self, limits: Limits, depth: int = 0) -> None:
        super().__init__()
        self.limits = limits
        self.depth = depth
        self.arrays: list[tuple[Call, ArrayHeader]] = []
        self.objects: list[tuple[Call, Pickled]] = []

    def after_build(self, m: Machine, pos: int) -> int:
        wrapper = m.stack[-1]
        if not isinstance(wrapper, Call) or function_path(wrapper) != WRAPPER:
            return pos
        self.events.clear()
        state = wrapper.state if isinstance(wrapper.state, dict) else {}
        code, shape = dtype_code(state.get("dtype")), state.get("shape")
        if not isinstance(shape, tuple) or not all(
            type(size) is int and 0 <= size < 1 << 62 for size in shape
        ):
            raise m.damaged("an array's shape is invalid")
        if code is not None and code.lstrip("<>=|") == "O8":
            return self._object_array(m, wrapper, pos)
        itemsize = numpy_itemsize(code) if code is not None else None
        if code is None or itemsize is None or "O" in code:
            raise UnsupportedError(
                f"an array has the element type {bounded_repr(code)}, which is not read",
                where=Place(m.record, m.offset),
            )
        if state.get("numpy_array_alignment_bytes") is not None:
            m.check_left(pos, 1)
            pos += 1 + m.data[pos]
        nbytes = prod(shape) * itemsize
        m.check_left(pos, nbytes)
        header = ArrayHeader(code, state.get("order") == "F", shape, pos)
        self.arrays.append((wrapper, header))
        return pos + nbytes

    def _object_array(self, m: Machine, wrapper: Call, pos: int) -> int:
        """Run the pickle of an array of objects."""
        if self.depth >= self.limits.nested_archives:
            message = "arrays of objects are nested too deep"
            raise LimitError(message, limit="nested_archives", where=Place(m.record, pos))
        inner = _ArrayRecorder(self.limits, self.depth + 1)
        pickled = run(m.data, pos, stop=m.stop, record=m.record, limits=self.limits, recorder=inner)
        self.arrays += inner.arrays
        self.objects += [*inner.objects, (wrapper, pickled)]
        return pickled.end


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
        array = PicklelessArchive(source, limits)
        array.format = "joblib"
        nbytes = prod(header.shape) * (numpy_itemsize(header.descr) or 0)
        array.storages = {name: Span(None, nbytes, header.start - start, source.base)}
        if by_numpy_code(header.descr) is None and "V" not in header.descr:
            header = header._replace(descr=header.descr.lstrip("|="))
        _become(wrapper, archive.add(name, header, array))
    archive.value = pickled.root
    return archive


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
    if _NAME not in start and b"joblib" not in start:
        return None
    with ExitStack() as opened:
        unpacked, error = decompress(source, compression, limits)
        opened.enter_context(unpacked)
        if error is not None:
            error.hint = DOWNLOAD_AGAIN if isinstance(error, DamagedError) else error.hint
            raise error
        dump = read_joblib(unpacked, limits, packed=source)
        opened.pop_all()
    return dump
