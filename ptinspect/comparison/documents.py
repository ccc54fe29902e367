"""`diff`: open two documents, match their tensors, and compare what both have."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ptinspect.comparison.keys import find_patterns, find_renames
from ptinspect.comparison.metadata import (
    compare_entries,
    compare_modules,
    compare_optimizers,
    container_notes,
)
from ptinspect.comparison.numbers import ValueChange, compare_numbers, same_bytes
from ptinspect.comparison.report import Change, DiffReport, Lone, Note, Side
from ptinspect.conversion.options import KeyEdits, nothing_selected
from ptinspect.document import Document
from ptinspect.document import open as open_document
from ptinspect.document.checksums import checksum_warnings
from ptinspect.limits import Limits

_WITHOUT_DEVICES = {"safetensors", "safetensors-index", "gguf", "npy", "npz"}
"""Formats that record no devices, gradients or roles."""

_PICKLES = {"torch-zip", "torch-legacy", "torch-index", "pickle"}
"""Formats that record of a tensor outside a module whether it is an nn.Parameter."""

_Values = tuple[bool, ValueChange | None, str | None]
"""Whether values differ, how, and why they could not be compared."""

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from ptinspect.document import TensorInfo

    File = str | PathLike[str] | BinaryIO


def diff(
    a: File,
    b: File,
    *,
    tolerance: float = 0.0,
    include: Collection[str] = (),
    exclude: Collection[str] = (),
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DiffReport:
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
    a: Document,
    b: Document,
    tolerance: float,
    edits: KeyEdits,
    progress: Callable[[int, int], None] | None,
) -> DiffReport:
    tensors_a, tensors_b = _selected(a, b, edits), _selected(b, a, edits)
    everything = not edits.include and not edits.exclude
    if not everything and not tensors_a and not tensors_b:
        raise nothing_selected([*a.tensors, *b.tensors])
    removed = {key: info for key, info in tensors_a.items() if key not in tensors_b}
    added = {key: info for key, info in tensors_b.items() if key not in tensors_a}
    renames = find_renames(removed, added)
    pairs = [(key, key) for key in tensors_a if key in tensors_b]
    pairs += [(rename.a, rename.b) for rename in renames]
    for rename in renames:
        del removed[rename.a], added[rename.b]
    equal = {rename.a for rename in renames if rename.evidence == "bytes"}
    infos = [(tensors_a[x], tensors_b[y], x in equal) for x, y in pairs]
    changed = _changes(infos, a, b, tolerance, progress)
    different = [tensors_a[c.a].path for c in changed] + [tensors_b[c.b].path for c in changed]
    different += [info.path for info in (*removed.values(), *added.values())]
    different += [tensors_a[rename.a].path for rename in renames]
    changed_keys = {change.a for change in changed}
    common = {
        info.tensor.view_key(): key
        for key, info in reversed(tensors_a.items())  # the first of several counts
        if key in tensors_b
    }
    return DiffReport(
        _side(a),
        _side(b),
        float(tolerance),
        sum(x == y and x not in changed_keys for x, y in pairs),
        tuple(_lone(added.values(), b, {})),
        tuple(_lone(removed.values(), a, common)),
        tuple(renames),
        tuple(find_patterns(renames)),
        tuple(changed),
        tuple(compare_entries(a, b) if everything else ()),
        tuple(compare_modules(a, b) if everything else ()),
        tuple(compare_optimizers(a, b, different) if everything else ()),
        (
            *container_notes(a, b),
            *_tensor_notes(pairs, tensors_a, tensors_b),
            *_checksum_notes("A", [tensors_a[c.a] for c in changed if "values" in c.what]),
            *_checksum_notes("B", [tensors_b[c.b] for c in changed if "values" in c.what]),
        ),
    )


def _changes(
    pairs: list[tuple[TensorInfo, TensorInfo, bool]],
    a: Document,
    b: Document,
    tolerance: float,
    progress: Callable[[int, int], None] | None,
) -> list[Change]:
    """Compare pairs of tensors, each with whether its bytes are known to be equal."""
    total, done = sum(x.nbytes for x, _, _ in pairs), 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(min(done, total), total)

    changes: list[Change] = []
    compared: dict[tuple[object, object], _Values] = {}
    for x, y, is_equal in pairs:
        views = (x.tensor.view_key(), y.tensor.view_key())
        if views not in compared:  # tied weights are compared once
            compared[views] = _compare_values(x, y, tolerance, is_equal, advance)
        differ, values, reason = compared[views]
        aspects = [*_differences(x, y, a, b), *(["values"] if differ else [])]
        if aspects:
            values = values if "values" in aspects or "dtype" in aspects else None
            shapes, dtypes = (x.shape, y.shape), (_dtype(x), _dtype(y))
            devices = (x.device, y.device)
            changes.append(
                Change(x.key, y.key, tuple(aspects), shapes, dtypes, devices, values, reason)
            )
    return changes


def _selected(document: Document, other: Document, edits: KeyEdits) -> dict[str, TensorInfo]:
    """Return the tensors to compare by key. Against a file that is not a full model, buffers and
    attributes of modules that a state_dict leaves out do not count."""
    recorded = document.kind == other.kind
    return {
        key: info
        for key, info in document.tensors.items()
        if (info.persistent or recorded) and edits.selects(key)
    }


def _compare_values(
    a: TensorInfo,
    b: TensorInfo,
    tolerance: float,
    known_equal: bool,
    advance: Callable[[int], None],
) -> _Values:
    """Compare the values of two tensors, decoding them only if their bytes differ."""
    if a.shape != b.shape:
        return False, None, None
    x, y = a.tensor, b.tensor
    if known_equal:
        advance(a.nbytes)
        return False, None, None
    comparable = (x.dtype, x.encoding, x.layout) == (y.dtype, y.encoding, y.layout)
    seen = 0

    def count(nbytes: int) -> None:
        nonlocal seen
        seen += nbytes
        advance(nbytes)

    if comparable and same_bytes(x, y, count):
        return False, None, None
    advance(-seen)
    values = compare_numbers(x, y, tolerance, advance)
    if values is None:
        advance(a.nbytes)
        return True, None, "the elements are not plain numbers"
    return values.changed > 0, values, None


def _differences(x: TensorInfo, y: TensorInfo, a: Document, b: Document) -> list[str]:
    """Return what differs besides the values; only what both formats record is compared."""
    aspects = []
    if x.shape != y.shape:
        aspects.append("shape")
    if _dtype(x) != _dtype(y):
        aspects.append("dtype")
    if not {a.archive.format, b.archive.format} & _WITHOUT_DEVICES:
        if x.device != y.device:
            aspects.append("device")
        is_parameter_here_only = {x.role, y.role} == {"parameter", "tensor"} and (
            # A module is the same as its state_dict, which has plain tensors.
            {a.archive.format, b.archive.format} <= _PICKLES and bool(a.modules) == bool(b.modules)
        )
        is_same_role = x.role == y.role or is_parameter_here_only
        if is_same_role and x.tensor.requires_grad != y.tensor.requires_grad:
            aspects.append("requires_grad")
        if is_parameter_here_only or {x.role, y.role} == {"parameter", "buffer"}:
            aspects.append("role")
    return aspects


def _dtype(info: TensorInfo) -> str | None:
    """Return the name of the element type, or of the encoding of a type that torch lacks."""
    return info.dtype.name if info.dtype else info.tensor.encoding


def _lone(
    infos: Iterable[TensorInfo], document: Document, common: Mapping[tuple[object, ...], str]
) -> Iterator[Lone]:
    """Yield tensors of only one document; `common` has the views with keys that both have."""
    models = {*document.contents.state_dicts, *(info.root for info in document.modules)}
    for info in infos:
        starts = (info.path[:length] for length in range(len(info.path) + 1))
        in_model = info.role != "optimizer" and any(start in models for start in starts)
        tied_to = common.get(info.tensor.view_key())
        yield Lone(info.key, info.path, _dtype(info), info.shape, in_model, tied_to)


def _side(document: Document) -> Side:
    return Side(document.path, document.archive.format, document.kind)


def _tensor_notes(
    pairs: Iterable[tuple[str, str]],
    tensors_a: dict[str, TensorInfo],
    tensors_b: dict[str, TensorInfo],
) -> list[Note]:
    notes = []
    keys = [pair for pair in pairs if pair[0] == pair[1]]
    order = [key for key in tensors_b if key in tensors_a]
    if [key for key, _ in keys] != order:
        notes.append(Note("order", "the tensors are in another order"))
    shared_a = _shared([tensors_a[key] for key, _ in keys])
    shared_b = _shared([tensors_b[key] for _, key in keys])
    if shared_a != shared_b:
        notes.append(Note("sharing", "tensors share memory in one file that do not in the other"))
    return notes


def _checksum_notes(side: str, infos: list[TensorInfo]) -> list[Note]:
    """Return notes on changed tensors whose bytes do not match their recorded CRC-32."""
    return [Note("checksum", f"{side}: {w.message}") for w in checksum_warnings(infos)]


def _shared(infos: list[TensorInfo]) -> set[frozenset[int]]:
    """Return which of the tensors, by position, are one."""
    groups: dict[object, list[int]] = {}
    for number, info in enumerate(infos):
        if info.tensor.storage is not None and info.tensor.numel:
            groups.setdefault(info.tensor.view_key(), []).append(number)
    return {frozenset(group) for group in groups.values() if len(group) > 1}
