from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptinspect.display.table import FoldedKey, fold_keys

SAME = ("float32", "(2,)")


def folded(*keys: str) -> list[str]:
    return [f"{item.key} × {item.times}" for item in fold_keys((key, SAME) for key in keys)]


def test_repeated_blocks_are_one_line() -> None:
    keys = [f"layers.{n}.attn.{kind}" for n in range(32) for kind in ("weight", "bias")]
    assert folded(*keys) == ["layers.{0..31}.attn.weight × 32", "layers.{0..31}.attn.bias × 32"]


def test_repetition_inside_repetition() -> None:
    keys = [f"layers.{n}.experts.{m}.w" for n in range(4) for m in range(8)]
    assert folded(*keys) == ["layers.{0..3}.experts.{0..7}.w × 32"]


def test_only_what_agrees_is_folded() -> None:
    rows = [(f"layers.{n}.w", "cuda:0" if n < 4 else "cuda:1") for n in range(8)]
    assert fold_keys(rows) == [
        FoldedKey("layers.{0..3}.w", (0, 1, 2, 3), "cuda:0"),
        FoldedKey("layers.{4..7}.w", (4, 5, 6, 7), "cuda:1"),
    ]


def test_only_runs_are_folded() -> None:
    assert folded("a.0", "a.1", "a.2", "a.5") == ["a.{0..2} × 3", "a.5 × 1"]
    assert folded("a.0", "a.1") == ["a.0 × 1", "a.1 × 1"]
    assert folded("a.2", "a.1", "a.0") == ["a.{0..2} × 3"]
    assert folded("a.00", "a.01", "a.02") == ["a.00 × 1", "a.01 × 1", "a.02 × 1"]


def test_the_order_is_that_of_the_first() -> None:
    keys = ["embed", "h.0.a", "h.0.b", "h.1.a", "h.1.b", "h.2.a", "h.2.b", "head"]
    assert folded(*keys) == ["embed × 1", "h.{0..2}.a × 3", "h.{0..2}.b × 3", "head × 1"]


key = st.lists(st.sampled_from(["a", "b", "0", "1", "2", "3"]), min_size=1, max_size=4)


@given(st.lists(key.map(".".join), unique=True, max_size=30))
def test_nothing_is_lost_and_every_pattern_can_be_read_back(keys: list[str]) -> None:
    made = fold_keys((key, None) for key in keys)
    assert sum(item.times for item in made) == len(keys)
    back = [name for item in made for name in expanded(item.key)]
    assert sorted(back) == sorted(keys)


def expanded(pattern: str) -> list[str]:
    head, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    numbers, _, tail = rest.partition("}")
    first, _, last = numbers.partition("..")
    return [
        f"{head}{number}{end}"
        for number in range(int(first), int(last) + 1)
        for end in expanded(tail)
    ]
