"""safetensors: a length, a header in JSON, the tensors' bytes.

    uint64        length of the header
    header        {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …,
                   "__metadata__": {"format": "pt"}}
    bytes         of each tensor, C order, little-endian, without gaps

There is no pickle in it. What it holds is given the form that a state_dict has in a torch file,
so that whoever reads values need not know of this format. Tensors that `save_model` of
safetensors dropped as one with another are recorded in the metadata ({dropped: kept}), and stand
here again. Source: safetensors' `SafeTensors::read_metadata` and `Metadata::validate`; checks in
the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import DTYPES, STORAGE_CLASSES, DType
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place, UnsupportedError
from ptinspect.formats.archive import Archive, Finding, Span
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Call, Global, PersistentId, Value
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.source.base import Source

HEADER_BYTES = 100_000_000
"""The longest header that safetensors itself reads (`MAX_HEADER_SIZE`)."""

# In the order of safetensors' enum, by which its writer sorts.
NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16",
    "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64",
    "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip
"""safetensors' name of each element type, and torch's."""

_EMPTY = b"\x80\x02N."


class Listed(NamedTuple):
    """A tensor of the header; `begin` and `end` in the bytes behind it."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


class Safetensors(Archive):
    """See the module. listed: the tensors of the header. metadata: its texts."""

    format = "safetensors"

    def __init__(self, source: Source, limits: Limits) -> None:
        super().__init__(source, run(_EMPTY), limits=limits)
        self.streams = []
        self.origin = None
        self.listed: list[Listed] = []
        self.metadata: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.state_dict: Value = None

    @property
    def root(self) -> Value:
        """The tensors as a state_dict."""
        return self.state_dict


def read_safetensors(source: Source, limits: Limits = LIMITS) -> Safetensors:
    """The file that `source` holds. DamagedError where the header and the bytes do not agree."""
    header, start = _header(source)
    archive = Safetensors(source, limits)
    archive.metadata = _metadata(header)
    archive.listed = _checked(header, source.size - start)
    archive.facts = {"metadata": archive.metadata} if archive.metadata else {}
    archive.storages = {
        each.name: Span(None, each.end - each.begin, start + each.begin, source.base)
        for each in archive.listed
    }
    known = {each.name: each for each in archive.listed}
    pairs = {name: dense(name, each.dtype, each.shape) for name, each in known.items()}
    for dropped, kept in archive.metadata.items():
        if dropped not in known and kept in known:
            archive.aliases[dropped] = kept
            pairs[dropped] = dense(kept, known[kept].dtype, known[kept].shape)
    archive.state_dict = ordered(pairs)
    if archive.aliases:
        message = f"{len(archive.aliases):,} tensors are one with another, as the metadata says"
        archive.warnings.append(Finding("safetensors-alias", message))
    return archive


def _header(source: Source) -> tuple[dict[str, Value], int]:
    """The header, and where the tensors' bytes begin."""
    if source.size < 8:
        raise DamagedError(
            f"{source.size} bytes, too few for a header's length", hint=DOWNLOAD_AGAIN
        )
    length = int.from_bytes(source.read(0, 8), "little")
    if length > HEADER_BYTES:
        raise LimitError(
            f"the header is said to have {length:,} bytes, safetensors reads {HEADER_BYTES:,}",
            limit="pickle_bytes",
            where=Place(None, 0),
            hint=DOWNLOAD_AGAIN,
        )
    if 8 + length > source.size:
        raise DamagedError(
            f"the header is said to have {length:,} bytes, {source.size - 8:,} follow",
            where=Place(None, 0),
            hint=DOWNLOAD_AGAIN,
        )
    return _parsed(source.read(8, length)), 8 + length


def _parsed(raw: bytes) -> dict[str, Value]:
    import json

    place = Place(None, 8)
    try:
        made = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        why = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        raise DamagedError(
            f"the header is no JSON: {why}", where=place, hint=DOWNLOAD_AGAIN
        ) from None
    if not isinstance(made, dict):
        raise DamagedError("the header is no JSON object", where=place)
    return made


def _once(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands in it twice")
    return made


def _metadata(header: dict[str, Value]) -> dict[str, str]:
    found = header.pop("__metadata__", None) or {}
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise DamagedError("the header's metadata holds more than texts", where=Place(None, 8))
    return found


def _checked(header: dict[str, Value], size: int) -> list[Listed]:
    """The tensors, if their bytes follow each other without gap and overlap to the file's end."""
    made = [_listed(name, fields) for name, fields in header.items()]
    at = 0
    for each in sorted(made, key=lambda each: (each.begin, each.end)):
        if each.begin != at:
            what = "overlaps what is before it" if each.begin < at else "leaves a gap before it"
            raise DamagedError(f"the tensor {bounded_repr(each.name)} {what}", where=Place(None, 8))
        at = each.end
    if at != size:
        what = f"{size - at:,} bytes too many" if size > at else f"{at - size:,} bytes are missing"
        raise DamagedError(
            f"the tensors have {at:,} bytes, {size:,} follow the header: {what}",
            hint=DOWNLOAD_AGAIN,
        )
    return made


def _listed(name: str, fields: Value) -> Listed:
    place = Place(None, 8)
    if not isinstance(fields, dict):
        raise DamagedError(
            f"the header says nothing of the tensor {bounded_repr(name)}", where=place
        )
    kind = fields.get("dtype")
    shape, ends = _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    dtype = DTYPES.get(NAMES.get(kind, "")) if isinstance(kind, str) else None
    if dtype is None:
        raise UnsupportedError(
            f"the tensor {bounded_repr(name)} is of the unknown type {bounded_repr(kind)}",
            where=place,
        )
    if shape is None or ends is None or len(ends) != 2:
        raise DamagedError(
            f"shape or place of the tensor {bounded_repr(name)} is broken", where=place
        )
    begin, end = ends
    need = dtype.itemsize
    for dim in shape:
        need *= dim
    if end - begin != need:
        raise DamagedError(
            f"the tensor {bounded_repr(name)} needs {bounded_repr(need)} bytes,"
            f" it has {end - begin:,}",
            where=place,
        )
    return Listed(name, dtype, shape, begin, end)


def _counts(value: Value) -> tuple[int, ...] | None:
    """A list of sizes or offsets; None for anything else."""
    if isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value):
        return tuple(value)
    return None


# --- the same as values of a torch file ---------------------------------------------------

_REBUILD = {n: Global("torch._utils", f"_rebuild_tensor_v{n}", 0) for n in (2, 3)}
_ORDERED = Global("collections", "OrderedDict", 0)


def dense(key: str, dtype: DType, shape: tuple[int, ...], location: str = "cpu") -> Call:
    """The call that makes a contiguous tensor of the storage with that key."""
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    numel = 0 if 0 in shape else step
    kind = STORAGE_CLASSES.get(dtype.name)
    named = Global("torch", kind, 0) if kind else Global("torch.storage", "UntypedStorage", 0)
    size = numel if kind else numel * dtype.itemsize
    pid = PersistentId(("storage", named, key, location, size), 0)
    args: tuple[Value, ...] = (pid, 0, shape, tuple(reversed(stride)), False, ordered({}))
    if kind:
        return Call(_REBUILD[2], args, "REDUCE", 0)
    return Call(_REBUILD[3], (*args, Global("torch", dtype.name, 0)), "REDUCE", 0)


def ordered(pairs: Mapping[str, Value] | Iterable[tuple[str, Value]]) -> Call:
    """An OrderedDict."""
    made = Call(_ORDERED, (), "REDUCE", 0)
    items = dict(pairs)
    if items:
        made.change().pairs.update(items)
    return made
