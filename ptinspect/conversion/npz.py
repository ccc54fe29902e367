"""The target `npz`: a zip of arrays that are stored without compression, as numpy.savez writes it.

Sources: `numpy.lib.format._write_array_header` and `_wrap_header` for the header of an array, its
spare spaces included; `numpy.lib._npyio_impl` for the names of the records (`_savez`), and for how
names are looked up (`NpzFile`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ptinspect.conversion.output.sink import OutputFile
from ptinspect.conversion.output.torch_zip import MAX_UINT16, ZipWriter
from ptinspect.conversion.safetensors import Entry, TensorFormat, encoding_problems
from ptinspect.dtypes import DTYPES, numpy_code
from ptinspect.errors import UnsupportedError
from ptinspect.formats.numpy_files import MAGIC

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ptinspect.conversion.options import ConvertOptions
    from ptinspect.conversion.output.pieces import Piece
    from ptinspect.conversion.output.sink import Sink
    from ptinspect.dtypes import DType

MAX_DIMENSIONS = 64
"""The largest number of dimensions of an array: NPY_MAXDIMS of numpy 2."""

_SUFFIX = ".npy"
_HEADER_ALIGNMENT, _GROWTH_DIGITS = 64, 21  # ARRAY_ALIGN and GROWTH_AXIS_MAX_DIGITS of numpy


def _files(
    path: str, entries: Sequence[Entry], aliases: dict[str, str], options: ConvertOptions
) -> list[OutputFile]:
    """Return a zip with an array for each tensor."""
    if not entries:
        raise UnsupportedError("there are no tensors, and a zip without records is no npz")
    headers = []
    for (key, _, tensor, dtype), _ in entries:
        if len(tensor.shape) > MAX_DIMENSIONS:
            raise UnsupportedError(
                f"{key} has {len(tensor.shape):,} dimensions, numpy has at most {MAX_DIMENSIONS}"
            )
        assert dtype is not None
        headers.append(array_header(dtype, tensor.shape))
    records = [(planned.key, (piece,)) for planned, piece in entries]
    return [OutputFile(path, partial(_write, headers, records), b"", records)]


def array_header(dtype: DType, shape: tuple[int, ...]) -> bytes:
    """Return what precedes the elements of an array in C order, in version 1.0 of the format."""
    text = f"{{'descr': '{numpy_code(dtype)}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (_GROWTH_DIGITS - len(str(shape[0])) if shape else 0)
    # numpy adds a whole unit of spaces where none is needed.
    text += " " * (_HEADER_ALIGNMENT - (len(MAGIC) + 4 + len(text) + 1) % _HEADER_ALIGNMENT) + "\n"
    return MAGIC + b"\1\0" + len(text).to_bytes(2, "little") + text.encode()


def _write(
    headers: Sequence[bytes], records: Sequence[tuple[str, Sequence[Piece]]], sink: Sink
) -> None:
    writer = ZipWriter(sink, "")
    for header, (key, pieces) in zip(headers, records, strict=True):
        writer.write_record(key + _SUFFIX, pieces, header)
    writer.write_directory()


def _key_problems(keys: Collection[str]) -> dict[str, str]:
    """Return the keys that cannot be the name of a record, with the reasons."""
    problems = encoding_problems(keys)
    for key in keys:
        if key in problems:
            continue
        if "\0" in key:
            problems[key] = "has a name with a NUL, where readers of a zip end it"
        elif len(key.encode()) + len(_SUFFIX) > MAX_UINT16:
            problems[key] = f"has a name of {len(key):,} characters, which is too long for a zip"
        elif key.endswith(_SUFFIX) and key.removesuffix(_SUFFIX) in keys:
            problems[key] = (
                f"has the name of the record of {key.removesuffix(_SUFFIX)}, which numpy.load"
                " would read in its place (--rename changes it)"
            )
    return problems


NPZ = TensorFormat(
    "npz",
    {name for name, dtype in DTYPES.items() if dtype.numpy},
    _key_problems,
    "arr_0",
    "written once: {}; the file misses {}: write them all with --shared duplicate",
    False,
    _files,
)
