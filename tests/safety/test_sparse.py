"""Sparse tensors whose indices lead outside, which torch.load does not check unless asked to."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable

import pytest

import ptinspect

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
