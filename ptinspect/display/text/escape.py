"""Text of a file, made fit for a terminal, a JSON string or a Markdown cell.

What a reader cannot see, or what acts on a terminal or an editor, is written as an escape:
control characters, bidi controls, zero-width and other format characters, line and paragraph
separators, lone surrogates, what is not assigned, and the few letters that Unicode has no
shape for. All else stays, spaces of other scripts included.
"""

from __future__ import annotations

from ptinspect.limits import LIMITS, Limits

# Letters and marks that are printed as nothing, or as a blank.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
# Spaces other than the common one, which `isprintable` does not count as printable.
_SPACES = frozenset(
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u3000"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(char: str) -> bool:
    """Whether a character may be printed as it is."""
    return (char.isprintable() and char not in _INVISIBLE) or char in _SPACES


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def safe(text: str) -> str:
    """`text` with what must not be printed as Python's escapes: `\\x1b`, `\\u202e`, `\\n`."""
    if text.isascii() and text.isprintable():
        return text if type(text) is str else str(text)
    return "".join([char if visible(char) else _escaped(char) for char in text])


def cut(text: str, limits: Limits = LIMITS) -> str:
    """`safe(text)`, with the end of what is longer than `limits.text_width` left out."""
    if len(text) <= limits.text_width:
        return safe(text)
    left = len(text) - limits.text_width
    return f"{safe(text[: limits.text_width])}… ({left:,} more characters)"


def quoted(text: str) -> str:
    """`text` as a JSON string: ASCII escapes for what must not be printed, all else as it is.

    Written out, not `json.dumps`: that would leave DEL and the bidi characters as they are or
    turn Korean into escapes.
    """
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join([_json_char(char) for char in text]) + '"'


def quoted_all(texts: list[str]) -> list[str]:
    """`quoted` of each, but that one look at all of them tells whether any needs escapes."""
    joined = "".join(texts)
    if joined.isascii() and joined.isprintable() and '"' not in joined and "\\" not in joined:
        return [f'"{text}"' for text in texts]
    return [quoted(text) for text in texts]


_JSON = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _json_char(char: str) -> str:
    if char in _JSON:
        return _JSON[char]
    if visible(char):
        return char
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


_MARKDOWN = str.maketrans({
    **{char: "\\" + char for char in "\\`*_[]|~#"},
    "<": "&lt;", ">": "&gt;", "&": "&amp;",
})  # fmt: skip


def markdown(text: str) -> str:
    """`safe(text)` as Markdown text: no emphasis, link, cell border or HTML comes of it."""
    return safe(text).translate(_MARKDOWN)
