from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptinspect.limits import Limits
from ptinspect.text import cut, markdown, quoted, quoted_all, safe

any_text = st.text(st.characters(codec=None, exclude_categories=()))
ESCAPE = r"\\([nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
BAD = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def hidden(text: str) -> list[str]:
    """Characters that must not reach a terminal."""
    return [char for char in text if unicodedata.category(char) in BAD]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layer.weight", "layer.weight"),
        ("CustomModel 체크포인트-6", "CustomModel 체크포인트-6"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\x7f\x80\x9b", "\\x7f\\x80\\x9b"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\u2028\u2029\ufeff\u00ad", "\\u2028\\u2029\\ufeff\\xad"),
        ("\u3164\u115f", "\\u3164\\u115f"),
        ("\u3000全角", "\u3000全角"),
        ("🔥 é", "🔥 é"),
    ],
)
def test_what_is_escaped(text: str, expected: str) -> None:
    assert safe(text) == expected


@given(any_text)
@example("\x1b]0;title\x07")
@example("\ud83d\ude00")
def test_nothing_that_acts_on_a_terminal_is_left(text: str) -> None:
    for made in (safe(text), cut(text), markdown(text), quoted(text)):
        assert hidden(made) == []


@given(any_text)
@example("\\r")
def test_what_can_be_seen_stays(text: str) -> None:
    assert safe(text) == "".join(map(safe, text))
    for char in text:
        seen = unicodedata.category(char)[0] in "LNPS" and "FILLER" not in unicodedata.name(
            char, ""
        )
        assert safe(char) == char or (not seen and re.fullmatch(ESCAPE, safe(char)))


@given(any_text)
@example('quote " and \\')
@example("\U0001f525\u202e")
def test_a_json_string_says_the_text(text: str) -> None:
    assert json.loads(quoted(text)).encode("utf-16", "surrogatepass") == text.encode(
        "utf-16", "surrogatepass"
    )


@given(st.lists(any_text, max_size=5))
def test_many_at_once_are_the_same(texts: list[str]) -> None:
    assert quoted_all(texts) == [quoted(text) for text in texts]


def test_korean_stays_readable_in_json() -> None:
    assert quoted("체크포인트-6") == '"체크포인트-6"'


def test_long_text_is_cut_and_says_so() -> None:
    assert cut("x" * 30, Limits(text_width=10)) == "xxxxxxxxxx… (20 more characters)"
    assert cut("x" * 10, Limits(text_width=10)) == "x" * 10


def test_markdown_stays_text() -> None:
    assert markdown("a|b <script> *x* [y](z) `c` &amp; __main__") == (
        "a\\|b &lt;script&gt; \\*x\\* \\[y\\](z) \\`c\\` &amp;amp; \\_\\_main\\_\\_"
    )
