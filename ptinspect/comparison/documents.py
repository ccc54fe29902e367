"""`diff`: open two documents, match their tensors, and compare what both have."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ptinspect.comparison.keys import Change, Lone, Side, find_patterns, find_renames
from ptinspect.comparison.metadata import (
    Note,
    compare_attributes,
    compare_entries,
    compare_modules,
    compare_optimizers,
)
from ptinspect.comparison.numbers import ValueChange, compare_numbers, same_bytes
from ptinspect.comparison.report import DiffReport
from ptinspect.conversion.options import KeyEdits, nothing_selected
from ptinspect.conversion.output.sink import ByteCounter
from ptinspect.document import Document
from ptinspect.document import open as open_document
from ptinspect.document.warnings import checksum_warnings
from ptinspect.limits import Limits

_WITHOUT_DEVICES = {"safetensors", "safetensors-index", "gguf", "npy", "npz"}
"""Formats that record no devices, gradients or roles."""

_PICKLES = {"torch-zip", "torch-legacy", "torch-index", "pickle"}
"""Formats that record of a tensor outside a module whether it is an nn.Parameter."""

_Result = tuple[bool, ValueChange | None, str | None]
"""Whether values differ, how, and why they could not be compared."""

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from ptinspect.document import TensorInfo
    from ptinspect.document.tensor import Tensor

    File = str | PathLike[str] | BinaryIO


def diff(
    a: File, b: File, *, tolerance: float = 0.0,
    include: Collection[str] = (), exclude: Collection[str] = (),
    limits: Limits | None = None, progress: Callable[[int, int], None] | None = None,
) -> DiffReport:  # fmt: skip
    """Compare two documents of any format, tensor by tensor, in bounded memory.

    Args:
        tolerance: `|a - b| <= tolerance + tolerance * |a|` does not count as a change.
        include: globs of tensor keys; others are not compared. With `include` or `exclude`, only
            tensors are compared.
        exclude: globs of tensor keys that are not compared.
        progress: called with the bytes compared and those to compare.

    Raises:
        PtInspectError: one of them cannot be read, as `ptinspect.open` raises it, or `include` and
            `exclude` leave no tensor of either.
        ValueError: the tolerance is negative or not a number.
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError("the tolerance must be a number that is not negative")
    with open_document(a, limits=limits) as first, open_document(b, limits=limits) as second:
        edits = KeyEdits(tuple(include), tuple(exclude))
        return _compare(first, second, tolerance, edits, progress)


def _compare(
    a: Document, b: Document, tolerance: float, edits: KeyEdits,
    progress: Callable[[int, int], None] | None,
) -> DiffReport:  # fmt: skip
    tensors_a, tensors_b = _selected(a, b, edits), _selected(b, a, edits)
    everything = not edits.include and not edits.exclude
    if not everything and not tensors_a and not tensors_b:
        raise nothing_selected([*a.tensors, *b.tensors])
    removed = {key: info for key, info in tensors_a.items() if key not in tensors_b}
    added = {key: info for key, info in tensors_b.items() if key not in tensors_a}
    renames = find_renames(removed, added)
    common = [key for key in tensors_a if key in tensors_b]
    pairs = [(tensors_a[key], tensors_b[key]) for key in common]
    pairs += [(removed.pop(rename.a), added.pop(rename.b)) for rename in renames]
    equal = {rename.a for rename in renames if rename.evidence == "bytes"}
    values = _Values(tolerance, ByteCounter(sum(x.nbytes for x, _ in pairs), progress))
    # Pairs of roles that differ; none if a format records no devices, gradients or roles. A module
    # is the same as its state_dict, which has plain tensors.
    formats, roles = {a.archive.format, b.archive.format}, list[set[str]]()
    if not formats & _WITHOUT_DEVICES:
        has_classes = formats <= _PICKLES and bool(a.modules) == bool(b.modules)
        roles = [{"parameter", "buffer"}, *([{"parameter", "tensor"}] if has_classes else [])]
    changes = (_change(x, y, values, x.key in equal, roles) for x, y in pairs)
    changed = [change for change in changes if change is not None]
    different = [tensors_a[c.a].path for c in changed] + [tensors_b[c.b].path for c in changed]
    different += [info.path for info in (*removed.values(), *added.values())]
    different += [tensors_a[rename.a].path for rename in renames]
    first_keys = {tensors_a[key].tensor.view_key: key for key in reversed(common)}
    return DiffReport(
        Side(a.path, a.archive.format, a.kind),
        Side(b.path, b.archive.format, b.kind),
        float(tolerance),
        len(set(common) - {change.a for change in changed}),
        tuple(_lone(added.values(), b, {})),
        tuple(_lone(removed.values(), a, first_keys)),
        tuple(renames),
        tuple(find_patterns(renames)),
        tuple(changed),
        (*compare_entries(a, b), *compare_attributes(a, b)) if everything else (),
        tuple(compare_modules(a, b) if everything else ()),
        tuple(compare_optimizers(a, b, different) if everything else ()),
        (
            *container_notes(a, b),
            *_tensor_notes(common, tensors_a, tensors_b),
            *_checksum_notes("A", [tensors_a[c.a] for c in changed if "values" in c.what]),
            *_checksum_notes("B", [tensors_b[c.b] for c in changed if "values" in c.what]),
        ),
    )


def _selected(document: Document, other: Document, edits: KeyEdits) -> dict[str, TensorInfo]:
    """Return the tensors to compare by key. Against a file that is not a full model, buffers and
    attributes of modules that a state_dict leaves out do not count."""
    recorded = document.kind == other.kind
    return {
        key: info
        for key, info in document.tensors.items()
        if (info.persistent or recorded) and edits.selects(key)
    }


class _Values:
    """Compares the values of tensors, tied weights once, and counts their bytes."""

    def __init__(self, tolerance: float, counter: ByteCounter) -> None:
        self._tolerance = tolerance
        self._counter = counter
        self._results: dict[tuple[object, object], _Result] = {}

    def compare(self, x: Tensor, y: Tensor, is_equal: bool) -> _Result:
        """Compare two tensors, unless their bytes are known to be equal."""
        views = (x.view_key, y.view_key)
        if views not in self._results:
            self._results[views] = self._compare(x, y, is_equal)
        return self._results[views]

    def _compare(self, x: Tensor, y: Tensor, is_equal: bool) -> _Result:
        """Compare two tensors, decoding them only if their bytes differ."""
        if x.shape != y.shape:
            return False, None, None
        start, advance = self._counter.done, self._counter.add
        if is_equal:
            advance(x.nbytes)
            return False, None, None
        comparable = (x.dtype, x.encoding, x.layout) == (y.dtype, y.encoding, y.layout)
        if comparable and same_bytes(x, y, advance):
            return False, None, None
        advance(start - self._counter.done)
        values = compare_numbers(x, y, self._tolerance, advance)
        if values is None:
            advance(x.nbytes)
            return True, None, "the elements are not plain numbers"
        return values.changed > 0, values, None


def _change(
    x: TensorInfo, y: TensorInfo, values: _Values, is_equal: bool, roles: list[set[str]]
) -> Change | None:
    """Return how two tensors differ; None if they do not. Devices and gradients count only if
    there are `roles`, the pairs of roles that differ."""
    differ, numbers, reason = values.compare(x.tensor, y.tensor, is_equal)
    shapes, dtypes, devices = (x.shape, y.shape), (_dtype(x), _dtype(y)), (x.device, y.device)
    pair = {x.role, y.role}
    is_comparable = bool(roles) and (len(pair) == 1 or ("tensor" in pair and pair in roles))
    grads = x.tensor.requires_grad, y.tensor.requires_grad
    aspects = {
        "shape": shapes[0] != shapes[1],
        "dtype": dtypes[0] != dtypes[1],
        "device": bool(roles) and devices[0] != devices[1],
        "requires_grad": is_comparable and grads[0] != grads[1],
        "role": pair in roles,
        "values": differ,
    }
    what = tuple(aspect for aspect, changed in aspects.items() if changed)
    if not what:
        return None
    numbers = numbers if differ or aspects["dtype"] else None
    return Change(
        x.key, y.key, what, shapes, dtypes, devices, grads, (x.role, y.role), numbers, reason
    )


def _dtype(info: TensorInfo) -> str | None:
    """Return the name of the element type, or of the encoding of a type that torch lacks."""
    return info.dtype.name if info.dtype else info.tensor.encoding


def _lone(
    infos: Iterable[TensorInfo], document: Document, first_keys: Mapping[tuple[object, ...], str]
) -> Iterator[Lone]:
    """Yield tensors of only one document; `first_keys` has the views with keys that both have."""
    models = {*document.contents.state_dicts, *(info.root for info in document.modules)}
    for info in infos:
        starts = (info.path[:length] for length in range(len(info.path) + 1))
        in_model = info.role != "optimizer" and any(start in models for start in starts)
        tied_to = first_keys.get(info.tensor.view_key)
        yield Lone(info.key, info.path, _dtype(info), info.shape, in_model, tied_to)


def _tensor_notes(
    common: list[str], tensors_a: dict[str, TensorInfo], tensors_b: dict[str, TensorInfo]
) -> Iterator[Note]:
    if common != [key for key in tensors_b if key in tensors_a]:
        yield Note("order", "the tensors are in another order")
    if _shared(tensors_a, common) != _shared(tensors_b, common):
        yield Note("sharing", "tensors share memory in one file that do not in the other")


def _shared(tensors: dict[str, TensorInfo], keys: list[str]) -> set[frozenset[str]]:
    """Return the groups of keys that are one tensor."""
    groups: dict[object, list[str]] = {}
    for key in keys:
        tensor = tensors[key].tensor
        if tensor.storage is not None and tensor.numel:
            groups.setdefault(tensor.view_key, []).append(key)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def _checksum_notes(side: str, infos: list[TensorInfo]) -> list[Note]:
    """Return notes on changed tensors whose bytes do not match their recorded CRC-32."""
    return [Note("checksum", f"{side}: {w.message}") for w in checksum_warnings(infos)]


def container_notes(a: Document, b: Document) -> list[Note]:
    """Return notes on what the files record besides the compared contents."""
    facts = (
        ("format", a.archive.format, b.archive.format),
        ("kind", a.kind, b.kind),
        ("byteorder", f"{a.archive.byteorder}-endian", f"{b.archive.byteorder}-endian"),
    )
    return [Note(kind, f"{x} and {y}") for kind, x, y in facts if x != y]
