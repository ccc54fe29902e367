"""numpy's files: one array (.npy), or a zip of arrays (.npz).

    "\x93NUMPY"  major minor  length of the header  header  elements

The header is a Python dict: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }. Source:
numpy/lib/format.py (versions 1.0 to 3.0). Arrays of objects hold a pickle and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import DType, by_numpy_code
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, UnsupportedError
from ptinspect.formats.archive import CHUNK, Archive, PicklelessArchive, Span, check_range
from ptinspect.formats.safetensors import dense_tensor, encoded_tensor, ordered_dict
from ptinspect.formats.zip.directory import STORED
from ptinspect.limits import LIMITS, Limits
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.formats.zip.directory import ZipDirectory
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

MAGIC = b"\x93NUMPY"
MAX_HEADER = 1 << 16

# As numpy writes it; the lookahead at each item keeps the match linear in the header's length.
_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^'\n]{1,64}'|\[[^\n]{1,60000}?\]), "
    r"'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[0-9L, ]{0,2000})\),? ?\} *\n?"
)


class ArrayHeader(NamedTuple):
    """The header of an array: numpy's notation of the element type ("<f4"), order, shape, and the
    offset of the elements."""

    descr: str
    fortran_order: bool
    shape: tuple[int, ...]
    start: int


class NumpyFile(PicklelessArchive):
    """See the module's docstring. Each array is an archive of its own, with its byte order."""

    def __init__(self, source: Source, container: str, limits: Limits) -> None:
        super().__init__(source, limits)
        self.format = container
        self.arrays: dict[str, Archive] = {}

    def resolve_storage(self, key: str) -> tuple[Archive, str]:
        return self.arrays.get(key, self), key

    def add(self, name: str, header: ArrayHeader, spans: Archive) -> Value:
        """Add an array and return the call that builds its tensor."""
        code = header.descr.lstrip("<>=|")
        spans.byteorder = "big" if header.descr.startswith(">") else "little"
        self.arrays[name] = spans
        dtype = by_numpy_code(code)
        if dtype is None:
            (span,) = spans.storages.values()
            return encoded_tensor(name, header.descr, header.shape, span.length)
        return dense_tensor(name, dtype, header.shape, is_fortran=header.fortran_order)


class MemberArray(PicklelessArchive):
    """An array in a zip: its bytes follow the header inside the record."""

    format = "npz"

    def __init__(self, directory: ZipDirectory, index: int, start: int, limits: Limits) -> None:
        super().__init__(directory.source, limits)
        self.directory = directory
        self.index = index
        self.first = start

    def chunks(
        self, span: Span, start: int = 0, stop: int | None = None, size: int = CHUNK
    ) -> Iterator[bytes]:
        start, stop = check_range(span, start, stop)
        return self.directory.chunks(self.index, self.first + start, self.first + stop, size)


def read_header(head: bytes, record: str | None = None) -> ArrayHeader:
    """Return the header that `head`, the first bytes of an array, begins with. DamagedError if it
    is truncated, or not as numpy writes it."""
    wide = head[6:7] != b"\x01"
    begin = 12 if wide else 10
    length = int.from_bytes(head[8:begin], "little")
    where = Place(record, 0)
    if head[:6] != MAGIC or len(head) < begin + length or length > MAX_HEADER:
        message = "the array's header is truncated or too long"
        raise DamagedError(message, where=where, hint=DOWNLOAD_AGAIN)
    encoding = "utf-8" if head[6:7] == b"\x03" else "latin1"
    match = _HEADER.fullmatch(head[begin : begin + length].decode(encoding, "replace"))
    if match is None:
        raise DamagedError("the array's header is not as numpy writes it", where=where)
    sizes = [part.strip().rstrip("L") for part in match["shape"].split(",")]
    shape = tuple(int(size) for size in sizes if size.isdigit() and len(size) < 20)
    if len(shape) != sum(bool(size) for size in sizes):
        raise DamagedError("the array's header has no shape", where=where)
    descr = match["descr"].strip("'")
    if "O" in descr.lstrip("<>=|")[:1] or re.search(r"'[<>=|]?O", descr):
        raise UnsupportedError(
            "the array has objects as elements, which are a pickle",
            where=where,
            hint="`ptinspect scan` says whether it may be loaded with allow_pickle=True",
        )
    return ArrayHeader(descr, match["fortran"] == "True", shape, begin + length)


def _nbytes(header: ArrayHeader, left: int, record: str | None) -> int:
    """Return the size of an array's elements; DamagedError if fewer bytes are left."""
    dtype: DType | None = by_numpy_code(header.descr.lstrip("<>=|"))
    if dtype is None:
        return left
    needed = prod(header.shape) * dtype.itemsize
    if needed > left:
        raise DamagedError(
            f"the array needs {needed:,} bytes, {left:,} follow its header",
            where=Place(record, header.start),
            hint=DOWNLOAD_AGAIN,
        )
    return needed


def read_npy(source: Source, limits: Limits = LIMITS) -> NumpyFile:
    """Read a file with one array. DamagedError if it is truncated, UnsupportedError if its elements
    are objects."""
    header = read_header(source.read(0, min(source.size, MAX_HEADER + 12)))
    archive = NumpyFile(source, "npy", limits)
    array = PicklelessArchive(source, limits)
    array.format = "npy"
    nbytes = _nbytes(header, source.size - header.start, None)
    array.storages = {"array": Span(None, nbytes, header.start, source.base)}
    archive.value = archive.add("array", header, array)
    return archive


def read_npz(
    source: Source, directory: ZipDirectory, folder: str = "", limits: Limits = LIMITS
) -> NumpyFile:
    """Read a zip of arrays; their names are those of `numpy.load`. Raises as `read_npy`."""
    archive = NumpyFile(source, "npz", limits)
    values: dict[str, Value] = {}
    for index, record in enumerate(directory.names):
        head = b"".join(directory.chunks(index, 0, min(directory.sizes[index], MAX_HEADER + 12)))
        header = read_header(head, record)
        name = record.removesuffix(".npy")
        if name in values:
            raise DamagedError(f"the array {bounded_repr(name)} is there twice")
        member = MemberArray(directory, index, header.start, limits)
        nbytes = _nbytes(header, directory.sizes[index] - header.start, record)
        is_stored = directory.methods[index] == STORED
        start = directory.start(index) + header.start if is_stored else None
        member.storages = {name: Span(record, nbytes, start, source.base)}
        values[name] = archive.add(name, header, member)
    archive.value = ordered_dict(values)
    return archive
