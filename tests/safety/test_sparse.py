"""Sparse and nested tensors whose indices lead outside, which torch.load does not check itself."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable

import pytest

import ptinspect
from tests.safety.corpus.building import torch_records, zipped
from tests.safety.corpus.sample import calling, named, stream, tuple_of

torch = pytest.importorskip("torch")

LAYOUTS = ("coo", "csr", "csc", "bsr", "bsc")
WRITERS: dict[str, Callable[[object, io.BytesIO], None]] = {
    "zip": lambda value, file: torch.save({"w": value}, file),
    "legacy": lambda value, file: torch.save(value, file, _use_new_zipfile_serialization=False),
    "pickle": pickle.dump,
}


def sparse(layout: str, batches: int, *, plain: int = 0, compressed: int = 0) -> object:
    """A sparse matrix of 4 x 6, or a batch of two, with `plain` added to the last index of the
    values, and `compressed` to the first end of a row, or of the first index of a coo tensor."""
    dense = torch.zeros([2] * batches + [4, 6])
    dense[..., 1, 2], dense[..., 3, 5] = 1, 2
    kind = getattr(torch, f"sparse_{layout}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if layout == "coo":
            whole = dense.to_sparse()
            indices = whole.indices().clone()
            indices[-1, -1] += plain
            indices[0, 0] += compressed
            return torch.sparse_coo_tensor(
                indices, whole.values(), whole.shape, check_invariants=False
            )
        whole = dense.to_sparse(layout=kind, blocksize=(2, 3) if layout[0] == "b" else None)
        names = ("crow", "col") if layout[2] == "r" else ("ccol", "row")
        ends, places = (getattr(whole, f"{name}_indices")().clone() for name in names)
        ends[..., 1] += compressed
        places[..., -1] += plain
        return torch.sparse_compressed_tensor(
            ends, places, whole.values(), whole.shape, layout=kind, check_invariants=False
        )


def verdict(value: object, writer: str) -> str:
    file = io.BytesIO()
    WRITERS[writer](value, file)
    return ptinspect.scan(io.BytesIO(file.getvalue())).verdict


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_indices_inside_are_clean_and_outside_dangerous(layout: str, writer: str) -> None:
    for batches in (0, 1):
        assert verdict(sparse(layout, batches), writer) == "clean"
        for wrong in (1, -7, 1 << 40):
            assert verdict(sparse(layout, batches, plain=wrong), writer) == "dangerous"
        for wrong in (7, -7):
            assert verdict(sparse(layout, batches, compressed=wrong), writer) == "dangerous"


def test_a_member_of_an_archive_is_checked() -> None:
    inner, outer = io.BytesIO(), io.BytesIO()
    torch.save(sparse("coo", 0, plain=9), inner)
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("model.pt", inner.getvalue())
    report = ptinspect.scan(io.BytesIO(outer.getvalue()))
    assert [finding.name for finding in report.all_findings()] == ["sparse-indices"]
    assert report.verdict == "dangerous"


def test_parts_that_do_not_fit_together_are_dangerous() -> None:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(torch.eye(3).to_sparse_csr(), file)
    changed = file.getvalue().replace(b"K\x03K\x03\x86", b"K\x09K\x03\x86")  # the size (3, 3)
    assert changed != file.getvalue()
    names = [finding.name for finding in ptinspect.scan(io.BytesIO(changed)).findings]
    assert "sparse-indices" in names


def jagged(offsets: list[int], lengths: list[int] | None = None, dim: int = 1) -> object:
    """A nested tensor of two parts, which are rows (or columns) of a matrix of 5 x 2."""
    from torch.nested._internal.nested_tensor import NestedTensor

    sizes = None if lengths is None else torch.tensor(lengths)
    values = torch.arange(10.0).reshape(5, 2)
    return NestedTensor(values, torch.tensor(offsets), lengths=sizes, _ragged_idx=dim)


NESTED_OUTSIDE = [
    ([0, 3, 6], None), ([-1, 3, 5], None), ([0, 4, 3], None), ([0, 3, 1 << 60], None),
    ([0, 3, 5], [2, 3]), ([0, 3, 5], [-1, 2]), ([0, 7, 5], [2, 2]),
]  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_offsets_of_nested_tensors_are_compared_with_their_values(writer: str) -> None:
    parts = [torch.ones(3, 2), torch.ones(2, 2)]
    made = torch.nested.nested_tensor(parts, layout=torch.jagged)
    for inside in (made, jagged([0, 3, 5]), jagged([0, 3, 5], [2, 2]), jagged([0, 1, 2], dim=2)):
        assert verdict(inside, writer) == "clean"
    assert verdict({"model": {"w": made}, "epoch": 1}, writer) == "clean"
    for offsets, lengths in NESTED_OUTSIDE:
        assert verdict(jagged(offsets, lengths), writer) == "dangerous", (offsets, lengths)
    assert verdict(jagged([0, 1, 3], dim=2), writer) == "dangerous"


class Pretends:
    """Is pickled like a nested tensor, with another state or by another function."""

    def __init__(self, change: Callable[[object, tuple[object, ...]], tuple[object, ...]]) -> None:
        self.change = change

    def __reduce__(self) -> tuple[object, ...]:
        function, args = jagged([0, 3, 5]).__reduce_ex__(2)
        return function, self.change(function, args)


def test_other_parts_of_nested_tensors_are_not_clean() -> None:
    outside = {"_offsets": torch.tensor([0, 3, 1 << 40])}
    values, _ = parts = torch.ones(5, 2), torch.tensor([0, 3, 5])
    old = jagged([0, 3, 5]).__class__  # what torch before 2.5 called

    for change in (
        lambda _, args: (*args[:3], {**args[3], **outside}),
        lambda f, args: (f, args[1], args, outside),
        lambda _, args: (old, args[1], parts, outside),
        lambda _, args: (
            torch._utils._rebuild_parameter_with_state, args[1], (values, False, {}, outside), {}
        ),
    ):  # fmt: skip
        assert verdict(Pretends(change), "zip") == "unknown"
    for lengths, expected in (([2, 2], "clean"), ([2, 3], "dangerous")):
        state = {"_values": parts[0], "_offsets": parts[1], "_lengths": torch.tensor(lengths)}
        old_form = Pretends(lambda _, args, state=state: (old, args[1], parts, state))
        assert verdict(old_form, "zip") == expected


def test_sparse_tensors_of_a_subclass_are_checked() -> None:
    function, args = sparse("coo", 0, plain=9).__reduce_ex__(2)

    class OfType:
        def __reduce__(self) -> tuple[object, ...]:
            inner = (function, torch.Tensor, args, {})
            return torch._tensor._rebuild_from_type_v2, inner

    assert verdict(OfType(), "zip") == "dangerous"


def indices_as(kind: str, number: float, first: str | None = None) -> bytes:
    """A sparse matrix of 1 x 2e9 in a zip. Its indices are of the type `kind`; an earlier tensor
    may share their storage as the type `first`."""
    import numpy

    def tensor(storage: str, key: str, numel: int, shape: tuple[int, ...]) -> bytes:
        fields = tuple_of("storage", named(f"torch.{storage}"), key, "cpu", numel) + b"Q"
        hooks = calling("collections.OrderedDict")
        strides = (1,) * len(shape)
        rest = (0, shape, strides, False, hooks)
        return calling("torch._utils._rebuild_tensor_v2", fields, *rest)

    layout = calling("torch.serialization._get_layout", "torch.sparse_coo")
    indices, values = tensor(kind, "0", 2, (2, 1)), tensor("CharStorage", "1", 1, (1,))
    parts = tuple_of(indices, values, (1, 2_000_000_000))
    sparse = calling("torch._utils._rebuild_sparse_tensor", layout, parts)
    others = [tensor(first, "0", 2, (2,))] if first else []
    raw = numpy.array([0, number], {"Float": "<f4", "Int": "<i4", "Char": "i1"}[kind[:-7]])
    records = dict(torch_records(stream(*others, sparse)))
    records |= {"archive/data/0": raw.tobytes(), "archive/data/1": b"\1"}
    return zipped(records.items())


@pytest.mark.parametrize("kind", ["FloatStorage", "CharStorage"])
def test_indices_that_torch_converts_are_not_clean(kind: str) -> None:
    """The bits of 1e30 as a float are a small number, and the float itself is a large one."""
    data = indices_as(kind, 1e30 if kind == "FloatStorage" else 1)
    assert ptinspect.scan(io.BytesIO(data)).verdict == "unknown"


def test_a_storage_of_two_types_is_dangerous() -> None:
    """torch reads all tensors of a storage as the type that comes first."""
    assert ptinspect.scan(io.BytesIO(indices_as("IntStorage", 7))).verdict == "clean"
    data = indices_as("IntStorage", 7, first="FloatStorage")
    report = ptinspect.scan(io.BytesIO(data))
    assert (report.verdict, report.findings[0].name) == ("dangerous", "storage")
