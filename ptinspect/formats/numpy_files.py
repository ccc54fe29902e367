"""numpy's files: one array (.npy), and a zip of arrays (.npz).

    "\x93NUMPY"  major minor  length of the header  header  elements

The header is a Python dict: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }. Source:
numpy/lib/format.py (versions 1.0 to 3.0). Arrays of objects are a pickle and are refused.
"""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from ptinspect.dtypes import by_numpy_code, numpy_itemsize
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, Place, PtInspectError, UnsupportedError
from ptinspect.formats.archive import Archive, Finding, PicklelessArchive, Span
from ptinspect.formats.safetensors import dense_tensor, encoded_tensor, ordered_dict
from ptinspect.formats.zip_directory import ZipSpan
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.values import Value
from ptinspect.text import bounded_repr, count_text, join_names, printable_name, shell_word

if TYPE_CHECKING:
    from ptinspect.formats.zip_directory import ZipDirectory
    from ptinspect.source.base import Source

MAGIC = b"\x93NUMPY"
MAX_HEADER = 1 << 16

_TOKEN = re.compile(
    r"""[\s\[\](){},:]+|[bru]?'(?:[^'\\\n]|\\.)*'|[bru]?"(?:[^"\\\n]|\\.)*"|[0-9]+L?
    |True|False|None""",
    re.VERBOSE | re.IGNORECASE,
)
# An item access or a call: numpy writes neither, and both nest without end.
_CHAIN = re.compile(r"[\])}]\s*[\[(]")

_NUMBERS = re.compile(
    r"[<>=|]?(?:[?bBhHiIlLqQpPefdgFDG]|[biufc][0-9]{1,2}|[SUaV][0-9]{0,10}"
    r"|[Mm]8?(?:\[[0-9]*[a-zA-Z]{1,7}\])?)"
)


class ArrayHeader(NamedTuple):
    """The header of an array: numpy's notation of the element type ("<f4"), order, shape, the
    offset of the elements, and the bytes of each; None if the notation is unknown."""

    descr: str
    fortran_order: bool
    shape: tuple[int, ...]
    start: int
    itemsize: int | None = None


class NumpyFile(PicklelessArchive):
    """See the module's docstring. Each array is an archive of its own, with its byte order."""

    def __init__(self, source: Source, format: str, limits: Limits) -> None:
        super().__init__(source, limits, format)
        self.arrays: dict[str, Archive] = {}

    def resolve_storage(self, key: str) -> tuple[Archive, str]:
        return self.arrays.get(key, self), key

    def add(
        self, name: str, header: ArrayHeader, span: Span, source: Source | None = None
    ) -> Value:
        """Add an array and return the call that builds its tensor. `source` is another file that
        contains it."""
        array = PicklelessArchive(source or self.source, self.limits, self.format)
        self.arrays[name], array.storages = array, {name: span}
        array.byteorder = "big" if header.descr.startswith(">") else "little"
        dtype = by_numpy_code(header.descr.lstrip("<>=|"))
        if dtype is None:
            return encoded_tensor(name, header.descr, header.shape, span.length)
        return dense_tensor(name, dtype, header.shape, is_fortran=header.fortran_order)


def header_bounds(head: bytes) -> tuple[int, int]:
    """Return where the header's text starts and ends; `head` is the first 12 bytes or more."""
    start = 10 if head[6:7] == b"\x01" else 12
    return start, start + int.from_bytes(head[8:start], "little")


def parse_header(head: bytes) -> object:
    """Return the value of a header, a literal of Python; None if numpy would not have written it.
    `head` is all of it, from the magic number on."""
    start, end = header_bounds(head)
    text = head[start:end].decode("utf-8" if head[6:7] == b"\x03" else "latin1", "replace")
    position = 0
    while position < len(text):  # token by token: a pattern for all of them would backtrack
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
    if _CHAIN.search(text):
        return None
    import ast

    for literal in (text, re.sub(r"(?<=[0-9])L", "", text)):  # 3L: of Python 2
        try:
            value: object = ast.literal_eval(literal.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        return value
    return None


def read_header(head: bytes, record: str | None = None, path: str = "-") -> ArrayHeader:
    """Return the header that `head`, the first bytes of an array, begins with. DamagedError if it
    is truncated, or not as numpy writes it."""
    where = Place(record, 0)
    start, end = header_bounds(head)
    if head[:6] != MAGIC or len(head) < max(end, 12) or end - start > MAX_HEADER:
        message = "the array's header is truncated or too long"
        raise DamagedError(message, where=where, hint=DOWNLOAD_AGAIN)
    fields = parse_header(head[:end])
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise DamagedError("the array's header is not as numpy writes it", where=where)
    descr, order, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(descr, (str, list)) or not isinstance(order, bool) or not is_shape(shape):
        raise DamagedError("the array's header is not as numpy writes it", where=where)
    itemsize = item_size(descr)
    if itemsize is None and _has_objects(descr):
        raise UnsupportedError(
            "the array has objects as elements, which are a pickle",
            where=where,
            hint=f"`ptinspect scan {shell_word(path)}` says whether allow_pickle=True is safe",
        )
    text = descr if isinstance(descr, str) else repr(descr)
    return ArrayHeader(text, order, shape, end, itemsize)


def locate_elements(
    source: Source, offset: int, errors: list[PtInspectError]
) -> tuple[int, int | None]:
    """Return where the elements of the array at `offset` begin, and how many bytes they are; None
    for a pickle of them.

    numpy has several notations for a dtype, and its versions do not agree on them: anything but a
    plain notation for numbers counts as objects. So does what follows a header that is added to
    `errors`. DamagedError if the header is cut off, or has no shape. Source: numpy/lib/format.py.
    """
    left = source.size - offset
    head = source.read(offset, min(left, MAX_HEADER + 12))
    start, end = header_bounds(head)
    if len(head) < 12 or end > left:
        raise DamagedError("the array's header is cut off", where=Place(None, 8))
    header = parse_header(head[:end]) if end - start <= MAX_HEADER else None
    if not isinstance(header, dict):
        message = "the array's header is too long, or not a dictionary"
        errors.append(DamagedError(message, where=Place(None, start)))
        return offset + end, None
    size, shape = item_size(header.get("descr")), header.get("shape")
    if size is None:
        return offset + end, None
    if not is_shape(shape):
        raise DamagedError("the array's header has no shape", where=Place(None, start))
    return offset + end, prod(shape) * size


def _has_objects(dtype: object) -> bool:
    """Return True if an element is an object, or has a field that is one."""
    if isinstance(dtype, str):
        return dtype.lstrip("<>=|").startswith("O")
    if isinstance(dtype, tuple):
        return bool(dtype) and _has_objects(dtype[0])
    fields = dtype if isinstance(dtype, list) else ()
    return any(isinstance(field, tuple) and _has_objects(field[1:]) for field in fields)


def item_size(dtype: object) -> int | None:
    """Return the bytes of one element; None unless the dtype surely has only numbers and text.

    A dtype is a name, a pair of a dtype and a shape, or a list of fields: (name, dtype) and
    (name, dtype, shape), where a name may be (title, name).
    """
    if isinstance(dtype, str) and _NUMBERS.fullmatch(dtype):
        return numpy_itemsize(dtype) or 0
    if isinstance(dtype, tuple) and len(dtype) == 2:
        size, shape = item_size(dtype[0]), dtype[1]
        sizes = shape if isinstance(shape, tuple) else (shape,)
        are_sizes = all(type(each) is int and each >= 0 for each in sizes)
        return None if size is None or not are_sizes else size * prod(sizes)
    if not isinstance(dtype, list):
        return None
    total = 0
    for field in dtype:
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            return None
        names = field[0] if isinstance(field[0], tuple) else (field[0],)
        size = item_size(field[1] if len(field) == 2 else field[1:])
        if size is None or len(names) > 2 or not all(isinstance(name, str) for name in names):
            return None
        total += size
    return total


def is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    """Return True for a tuple of sizes."""
    return isinstance(value, tuple) and all(
        type(size) is int and 0 <= size < 1 << 62 for size in value
    )


def array_nbytes(header: ArrayHeader, left: int, record: str | None) -> int:
    """Return the size of an array's elements; DamagedError if fewer bytes are left."""
    if header.itemsize is None:
        return left
    needed = prod(header.shape) * header.itemsize
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
    header = read_header(source.read(0, min(source.size, MAX_HEADER + 12)), path=source.path)
    archive = NumpyFile(source, "npy", limits)
    nbytes = array_nbytes(header, source.size - header.start, None)
    span = Span(None, nbytes, header.start, source.base)
    archive.value = archive.add("array", header, span)
    _warn_of_rest(archive, None, header.start + nbytes, source.size)
    return archive


def _warn_of_rest(archive: NumpyFile, record: str | None, end: int, size: int) -> None:
    """Add a warning of the bytes behind an array."""
    if end < size:
        text = f"{size - end:,} bytes follow the array, which numpy.load does not read"
        archive.warnings.append(Finding("trailing-bytes", text, Place(record, end)))


def read_npz(
    source: Source, directory: ZipDirectory, folder: str = "", limits: Limits = LIMITS
) -> NumpyFile:
    """Read a zip of arrays; their names are those of `numpy.load`. Raises as `read_npy`, but an
    array of objects next to others is a warning."""
    archive = NumpyFile(source, "npz", limits)
    values: dict[str, Value] = {}
    refused: dict[str, UnsupportedError] = {}
    for index, record in enumerate(directory.names):
        head = b"".join(directory.chunks(index, 0, min(directory.sizes[index], MAX_HEADER + 12)))
        name = record.removesuffix(".npy")
        if name in values or name in refused:
            raise DamagedError(f"the array {bounded_repr(name)} is there twice")
        try:
            header = read_header(head, record, source.path)
        except UnsupportedError as error:
            refused[name] = error
            continue
        nbytes = array_nbytes(header, directory.sizes[index] - header.start, record)
        span = ZipSpan(directory, index, header.start, nbytes, head[: header.start])
        values[name] = archive.add(name, header, span)
        _warn_of_rest(archive, record, header.start + nbytes, directory.sizes[index])
    if refused and not values:
        raise next(iter(refused.values()))
    if refused:
        text = f"{count_text(len(refused), 'array')} with objects as elements, which are a pickle,"
        text += f" cannot be read: {join_names(map(printable_name, refused), 3)}"
        archive.warnings.append(Finding("unreadable-array", text))
    archive.value = ordered_dict(values)
    return archive
