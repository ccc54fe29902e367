"""Statistics against numpy's own, of what torch wrote."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest

from ptinspect.display.measure import Stats, stats_of
from ptinspect.document import elements, to_array
from ptinspect.document import open as open_document
from tests.display.making import shown

np = pytest.importorskip("numpy")


def near(mine: float | None, theirs: float) -> bool:
    if mine is None:
        return math.isnan(theirs)
    return math.isclose(mine, theirs, rel_tol=1e-9, abs_tol=1e-12)


def test_blocks_together_are_the_whole() -> None:
    numbers = np.random.default_rng(0).normal(1e6, 1.0, 10_000)  # far from 0: sums would cancel
    made = Stats()
    for at in range(0, 10_000, 137):
        made.add(numbers[at : at + 137])
    assert (made.min, made.max) == (numbers.min(), numbers.max())
    assert near(made.mean, numbers.mean())
    assert math.isclose(made.std or 0, numbers.std(ddof=1), rel_tol=1e-9)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    made = Stats()
    made.add(np.array([1.0, 0.0, -0.0, np.nan, np.inf, -np.inf, 3.0]))
    assert (made.min, made.max, made.mean) == (0.0, 3.0, 1.0)
    assert (made.zeros, made.nan, made.inf) == (2, 1, 2)


def test_nothing_and_one() -> None:
    made = Stats()
    made.add(np.array([np.nan]))
    assert (made.min, made.max, made.mean, made.std, made.nan) == (None, None, None, None, 1)
    made.add(np.array([2.0]))
    assert (made.min, made.mean, made.std) == (2.0, 2.0, None)


def test_integers_stay_exact() -> None:
    made = Stats()
    made.add(np.array([2**63 - 1, -(2**63), 0]))
    assert (made.min, made.max, made.zeros) == (-(2**63), 2**63 - 1, 1)


def test_complex_numbers_have_no_order() -> None:
    made = Stats()
    made.add(np.array([1 + 2j, 0j, complex("nan")]))
    assert (made.min, made.max, made.mean, made.std) == (None, None, None, None)
    assert (made.zeros, made.nan) == (1, 1)


@pytest.mark.parametrize(
    "name",
    ["tensors/dtypes-zip.pt", "tensors/dtypes-new-zip.pt", "tensors/views-zip.pt",
     "tensors/shapes-legacy.pt", "containers/big-endian.pt", "containers/rezip-deflated.pt",
     "tensors/conj-neg.pt", "tensors/shared-zip.pt"],
)  # fmt: skip
def test_of_fixtures(name: str) -> None:
    made = json.loads(shown(name, "json", stats=True))
    checked = 0
    for tensor in made["tensors"]:
        told = tensor["stats"]
        if told is None:
            assert tensor["unreadable"]
            continue
        flat = all_numbers(name, tensor["key"])
        checked += 1
        assert told["zeros"] == int((flat == 0).sum())
        if np.iscomplexobj(flat):
            continue
        finite = flat[np.isfinite(flat)].astype("f8")
        assert told["nan"] == int(np.isnan(flat).sum())
        assert told["inf"] == int(np.isinf(flat).sum())
        if finite.size:
            assert near(told["mean"], finite.mean())
            assert (told["min"], told["max"]) == (finite.min(), finite.max())
        if finite.size > 1:
            assert near(told["std"], finite.std(ddof=1))
    assert checked


def all_numbers(name: str, key: str) -> Any:
    from tests.display.making import FIXTURES

    with open_document(FIXTURES / name) as document:
        blocks = list(to_array.iter_numbers(document.tensors[key].tensor))
    return np.concatenate([np.asarray(block) for block in blocks]) if blocks else np.zeros(0)


# --- against torch ------------------------------------------------------------------------


def saved(tensor: Any) -> Any:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return open_document(file)


def test_a_large_tensor_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(elements, "CHUNK", 1 << 12)
    passed: list[int] = []
    tensor = torch.randn(64, 257)
    for form in (tensor, tensor.t(), tensor[::3, 1:], tensor.bfloat16()):
        with saved(form) as document:
            made = stats_of(document.tensors[""].tensor, passed.append)
        double = form.double()
        assert near(made.mean, double.mean().item())
        assert math.isclose(made.std or 0, double.std().item(), rel_tol=1e-9)
        assert (made.min, made.max) == (double.min().item(), double.max().item())
    assert max(passed) <= 1 << 13  # bfloat16 is widened
    assert len(passed) > 10


def test_an_expanded_tensor_is_read_once() -> None:
    """A number that stands for a million million: counted, not visited."""
    torch = pytest.importorskip("torch")
    with saved(torch.tensor([[2.0], [0.0]]).expand(2, 10**12)) as document:
        made = stats_of(document.tensors[""].tensor, lambda count: None)
    assert (made.min, made.max, made.mean) == (0.0, 2.0, 1.0)
    assert (made.zeros, made.count) == (10**12, 2 * 10**12)
    assert math.isclose(made.std or 0, 1.0)


def test_quantized_tensors_tell_what_their_integers_stand_for() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    q = torch.quantize_per_tensor(x, 0.5, 3, torch.qint8)
    with saved(q) as document:
        made = stats_of(document.tensors[""].tensor, lambda count: None)
    assert (made.min, made.max, made.mean, made.zeros) == (-1.0, 2.0, 0.375, 1)


def test_sparse_ones_say_that_they_are_not_told() -> None:
    text = shown("tensors/sparse-coo.pt", "table", stats=True)
    assert "no statistics of the layout sparse_coo" in text
