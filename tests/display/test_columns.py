from __future__ import annotations

import pytest
import tabulate
from hypothesis import given
from hypothesis import strategies as st

from ptinspect.display.table import (
    Table,
    display_width,
    draw_table,
    fit_widths,
    pad,
    shorten_middle,
)

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=9)


@given(st.lists(st.tuples(words, words, words), min_size=1, max_size=6))
def test_the_layout_is_tabulates(rows: list[tuple[str, str, str]]) -> None:
    tabulate.MIN_PADDING = 0
    headers = ["key", "dtype", "count"]
    aligned = ["left", "left", "right"]
    theirs = tabulate.tabulate(rows, headers, "simple", disable_numparse=True, colalign=aligned)
    mine = draw_table(Table(headers, [*rows], frozenset({2})))
    assert mine == [line.rstrip() for line in theirs.split("\n")]


def test_wide_characters_count_twice() -> None:
    assert (display_width("가나"), display_width("ab"), display_width("e\u0301")) == (4, 2, 1)
    assert pad("가", 4) == "가  "
    assert draw_table(Table(["key", "n"], [("체크", "1"), ("abcdef", "2")])) == [
        "key     n",
        "------  -",
        "체크    1",
        "abcdef  2",
    ]


@given(st.text(max_size=40), st.integers(3, 30))
def test_shortened_text_fits_and_keeps_its_ends(text: str, width: int) -> None:
    made = shorten_middle(text, width)
    assert display_width(made) <= width
    if display_width(text) <= width:
        assert made == text
    else:
        head, _, tail = made.partition("…")
        assert text.startswith(head)
        assert text.endswith(tail)


def test_both_ends_of_a_key_stay() -> None:
    assert shorten_middle("model.layers.31.self_attn.q_proj.weight", 20) == "model.laye…oj.weight"


@pytest.mark.parametrize("width", [76, 80, 100])
def test_a_table_is_made_to_fit(width: int) -> None:
    rows = [("a" * 90, "parameter", "float32", "(1, 2)", "= " + "b" * 40)]
    lines = draw_table(Table(["key", "role", "dtype", "shape", "note"], [*rows]), width)
    assert max(map(display_width, lines)) <= width
    assert "(1, 2)" in lines[2]


def test_the_note_gives_before_the_key_and_the_shape_never() -> None:
    assert fit_widths([50, 30, 20], 96) == [50, 30, 12]
    assert fit_widths([50, 30, 20], 90) == [44, 30, 12]
    assert fit_widths([50, 30, 20], 20) == [32, 30, 12]  # too narrow for this table
    assert fit_widths([10, 30, 8], 20) == [10, 30, 8]
