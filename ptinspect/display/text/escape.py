"""Text of a file, escaped for a terminal, a JSON string or a Markdown cell.

Escaped is what a reader cannot see, or what acts on a terminal or an editor: control characters,
bidi controls, zero-width and other format characters, line and paragraph separators, lone
surrogates, unassigned characters, and the few letters that have no shape. Everything else stays as
it is, spaces of other scripts included.
"""

from __future__ import annotations

import codecs

from ptinspect.limits import LIMITS, Limits
from ptinspect.text import escape_char

# Letters and marks that are printed as nothing, or as a blank.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
# Spaces other than the common one, which `isprintable` does not count as printable.
_SPACES = frozenset(
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u3000"
)


def is_visible(char: str) -> bool:
    """Return True if the character may be printed as it is."""
    return (char.isprintable() and char not in _INVISIBLE) or char in _SPACES


def safe(text: str) -> str:
    """Return the text with Python's escapes in it: `\\x1b`, `\\u202e`, `\\n`."""
    if text.isascii() and text.isprintable():
        return text if type(text) is str else str(text)
    return "".join([char if is_visible(char) else escape_char(char) for char in text])


def cut(text: str, limits: Limits = LIMITS) -> str:
    """Return `safe(text)`, cut after `limits.text_width` characters."""
    left_out = len(text) - limits.text_width
    if left_out <= 0:
        return safe(text)
    return f"{safe(text[: limits.text_width])}… ({left_out:,} more characters)"


def quoted(text: str) -> str:
    """Return the text as a JSON string, with ASCII escapes for what must not be printed. Not
    `json.dumps`, which leaves DEL and the bidi characters as they are or escapes Korean."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join([_json_char(char) for char in text]) + '"'


def quoted_all(texts: list[str]) -> list[str]:
    """Return `quoted` of each text. Faster: one look at all of them finds if any needs escapes."""
    joined = "".join(texts)
    if joined.isascii() and joined.isprintable() and '"' not in joined and "\\" not in joined:
        return [f'"{text}"' for text in texts]
    return [quoted(text) for text in texts]


_JSON_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _json_char(char: str) -> str:
    if char in _JSON_ESCAPES:
        return _JSON_ESCAPES[char]
    if is_visible(char):
        return char
    units, _ = codecs.utf_16_be_encode(char, "surrogatepass")  # imports no codec
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


_MARKDOWN = str.maketrans({
    **{char: "\\" + char for char in "\\`*_[]|~#"},
    "<": "&lt;", ">": "&gt;", "&": "&amp;",
})  # fmt: skip


def markdown(text: str) -> str:
    """Return `safe(text)` as Markdown text without emphasis, links, cell borders or HTML."""
    return safe(text).translate(_MARKDOWN)
