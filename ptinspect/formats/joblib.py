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

import os
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from ptinspect.dtypes import by_numpy_code, numpy_itemsize
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import CHUNK, PicklelessArchive, Span, read_chunks
from ptinspect.formats.numpy_files import ArrayHeader, NumpyFile
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import Pickled, run
from ptinspect.pickling.numpy_objects import dtype_code
from ptinspect.pickling.pyobjects import function_path
from ptinspect.pickling.state import Recorder
from ptinspect.pickling.values import Call, Value
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.pickling.state import Machine
    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_NAME = b"NumpyArrayWrapper"

_MAGIC = (
    (b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\xfd7zXZ\0", "lzma"), (b"\x5d\0\0", "lzma"),
    (b"\x78\x01", "zlib"), (b"\x78\x5e", "zlib"), (b"\x78\x9c", "zlib"), (b"\x78\xda", "zlib"),
    (b"\x04\x22\x4d\x18", "lz4"),
)  # fmt: skip
_PEEK = 1 << 16
"""Decompressed bytes that are searched for joblib's name."""

_RATIO_FREE_BYTES = 1 << 20
_MAX_LZMA_MEMORY = 1 << 30


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
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    decompressor = _decompressor(kind) if kind is not None else None
    if decompressor is None:
        return None
    try:
        start = decompressor.decompress(head, _PEEK)
    except Exception:  # noqa: BLE001 - each library has its own errors; it is something else
        return None
    if _NAME not in start and b"joblib" not in start:
        return None
    import tempfile

    from ptinspect.source.local import LocalSource

    with tempfile.TemporaryFile() as file:
        total, most = 0, _RATIO_FREE_BYTES + source.size * limits.compression_ratio
        for chunk in _decompressed(source, kind or ""):
            total += len(chunk)
            if total > most:
                message = f"it decompresses to more than {most:,} bytes"
                raise LimitError(message, limit="compression_ratio")
            file.write(chunk)
        file.flush()
        unpacked = LocalSource(os.dup(file.fileno()), source.path)
    unpacked.base = None
    try:
        return read_joblib(unpacked, limits, packed=source)
    except BaseException:
        unpacked.close()
        raise


def _decompressor(kind: str) -> Any:
    """Return a decompressor; None if its library is not installed."""
    if kind in ("gzip", "zlib"):
        import zlib

        return zlib.decompressobj(31 if kind == "gzip" else 15)
    if kind == "bz2":
        import bz2

        return bz2.BZ2Decompressor()
    if kind == "lzma":
        import lzma

        return lzma.LZMADecompressor(memlimit=_MAX_LZMA_MEMORY)
    try:
        import lz4.frame
    except ImportError:
        return None
    return lz4.frame.LZ4FrameDecompressor()


def _decompressed(source: Source, kind: str) -> Iterator[bytes]:
    """Yield the content of a compressed stream in pieces of at most `CHUNK` bytes."""
    decompressor = _decompressor(kind)
    try:
        for chunk in read_chunks(source, 0, source.size, CHUNK):
            data = chunk
            while data or not getattr(decompressor, "needs_input", True):
                yield decompressor.decompress(data, CHUNK)
                data = getattr(decompressor, "unconsumed_tail", b"")
                if decompressor.eof:
                    return
    except Exception as error:
        if isinstance(error, GeneratorExit):
            raise
        message = f"its compressed data is damaged ({error})"
        raise DamagedError(message, hint=DOWNLOAD_AGAIN) from None
    raise DamagedError("its compressed data is cut off", hint=DOWNLOAD_AGAIN)
