"""Text helpers that every room uses: lists of names, sizes, counts, quoting, and escaping.

A file's name is text of whoever sent the file, so it is quoted wherever a message contains a
command or a line of Python to paste. Text of a file is escaped for a terminal, a JSON string or a
Markdown cell: all that a reader cannot see, or that acts on a terminal or an editor. Those are
control characters, bidi controls, zero-width and other format characters, line and paragraph
separators, lone surrogates, unassigned characters, and the few letters that have no shape.
Everything else stays as it is, spaces of other scripts included.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Sequence

from ptinspect.limits import LIMITS, Limits

_PLAIN = frozenset("-_./:+@%,") | (frozenset("\\") if os.name == "nt" else frozenset())


def read_package_file(path: str) -> str:
    """Return a text file of the package, also from a zip: `safety/policy.txt`."""
    # importlib.resources would do the same, but importing it takes 10 ms, a fifth of `show`.
    path = os.path.join(os.path.dirname(__file__), *path.split("/"))
    data: bytes = __spec__.loader.get_data(path)  # type: ignore[union-attr]
    return data.decode()


def read_sections(path: str) -> dict[str, list[str]]:
    """Return the lines of a text file of the package, by the words after `===` above them."""
    sections = read_package_file(path).split("\n=== ")[1:]
    pairs = [section.rstrip("\n").split("\n", 1) for section in sections]
    return {head: text.split("\n") for head, text in pairs}


def is_selected(key: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Return True if the globs select a key. `*` matches dots too, as in `*.weight`."""
    if not include and not exclude:
        return True
    from fnmatch import fnmatchcase  # not at the start of every command

    is_included = not include or any(fnmatchcase(key, glob) for glob in include)
    return is_included and not any(fnmatchcase(key, glob) for glob in exclude)


MAX_NAMES = 6
"""Names that `join_names` lists before it counts the rest."""


def join_names(names: Iterable[str], limit: int = MAX_NAMES, separator: str = ", ") -> str:
    """Return the first `limit` names and how many more there are: `a, b and 3 more`."""
    listed = list(names)
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return separator.join(listed[:limit]) + more


def count_text(count: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: `1 parameter`, `2 parameters`, `25,557,032 elements`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def size_text(size: int) -> str:
    """Return a number of bytes in a fitting unit, in powers of 1000: `12 bytes`, `2.7 kB`."""
    if size < 1000:
        return count_text(size, "byte")
    value, unit = size / 1000, "kB"
    for larger_unit in ("MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger_unit
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def shell_word(path: str) -> str:
    """Return a path as one word of a shell command, never an option.

    Standard input, which cannot be read twice, is written as `FILE`.
    """
    if path == "-":
        return "FILE"
    if path.startswith("-"):
        path = f"./{path}"
    if path and all((char.isascii() and char.isalnum()) or char in _PLAIN for char in path):
        return path
    return shell_quoted(path)


def shell_quoted(text: str) -> str:
    """Return any text as one word of a shell command, on one line, with nothing expanded."""
    if text.isprintable():
        return "'" + text.replace("'", "'\"'\"'") + "'"
    return "$'" + "".join(map(_in_dollar_quotes, text)) + "'"


def _in_dollar_quotes(char: str) -> str:
    if char.isprintable() and char not in "'\\":
        return char
    # Bytes of a file name that is not UTF-8 are restored; other surrogates cannot be in one.
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))


def python_literal(path: str) -> str:
    """Return a path as a Python string literal in double quotes, with only printable characters."""
    path = "FILE" if path == "-" else path
    if not path.isprintable() or '"' in path or "\\" in path:
        path = "".join(map(_in_quotes, path))
    return f'"{path}"'


def _in_quotes(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else escape_char(char)


def escape_char(char: str) -> str:
    """Return Python's escape of a character. Unlike `char.encode`, it imports no codec."""
    return codecs.unicode_escape_encode(char)[0].decode()


def bounded_repr(value: object) -> str:
    """Return a value of a file for a message: short, quoted, without control characters.

    Containers are named by their type only, because their repr is recursive.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f"{value[:80]}…")
    if isinstance(value, int) and value.bit_length() <= 64:
        return f"{value:,}"
    return f"a value of type {type(value).__name__}"


def printable_name(name: str) -> str:
    """Return the name of a record or file for a message, quoted only where it needs escapes."""
    return name if name.isprintable() and len(name) <= 200 else bounded_repr(name)


def is_outside(path: str) -> bool:
    """Return True if a path that a file names may lead outside its folder on some system."""
    parts = path.replace("\\", "/").split("/")
    return not parts[0] or ".." in parts or parts[0][1:2] == ":"


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
