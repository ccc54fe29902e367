"""Names of a file as names of a program: what may stand as an identifier, and what is quoted."""

from __future__ import annotations

import builtins
import keyword
import unicodedata

_OURS = frozenset(
    (  # noqa: SIM905
        "F OrderedDict SAFE_GLOBALS argparse build collections datetime enum functools importlib"
        " math nn np operator os pathlib self sys torch types typing warnings cls args kwargs"
        " attributes mode match case type l I O"
        " _Finder _Loader _REACHED _Result _assembled _finder _reach _register"
    ).split()
)
RESERVED = _OURS | frozenset(dir(builtins)) | frozenset(keyword.kwlist)
"""What no class, function or argument of a stub may be called."""


def plain(name: str) -> bool:
    """Whether a name can stand in source as it is, and Python reads it as it is written."""
    if not name.isidentifier() or keyword.iskeyword(name) or len(name) > 200:
        return False
    return name.isascii() or unicodedata.normalize("NFKC", name) == name


def attribute(name: str) -> bool:
    """Whether `self.name` means the attribute: no dunder, and nothing that a class body mangles."""
    return plain(name) and not name.startswith("__")


def identifier(name: str, fallback: str = "name") -> str:
    """An identifier that is like `name`, and is nothing that a stub or Python uses itself."""
    if not plain(name):
        name = "".join(char if char.isascii() and char.isalnum() else "_" for char in name[:60])
        name = name.strip("_") or fallback
        name = f"{fallback}_{name}" if name[0].isdigit() else name
    if name.startswith("__"):
        name = name.strip("_") or fallback
    return f"{name}_" if name in RESERVED or not plain(name) else name


class Names:
    """Gives each thing an identifier of its own."""

    def __init__(self, taken: set[str] | None = None) -> None:
        self._taken = set(taken or ())

    def new(self, name: str, fallback: str = "name") -> str:
        """An identifier like `name` that was not given before."""
        made = wanted = identifier(name, fallback)
        number = 2
        while made in self._taken:
            made = f"{wanted}_{number}" if not wanted.endswith("_") else f"{wanted}{number}"
            number += 1
        self._taken.add(made)
        return made

    def free(self, name: str) -> None:
        """Takes an identifier back."""
        self._taken.discard(name)


def string(text: str) -> str:
    """A string literal as ruff would have it: double quotes unless that costs escapes, and
    escapes for all that must not be seen as it is."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join([_char(char, quote) for char in str(text)]) + quote


_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _char(char: str, quote: str) -> str:
    if char == quote:
        return "\\" + char
    if char in _SHORT:
        return _SHORT[char]
    if char.isascii():
        return char if char.isprintable() else f"\\x{ord(char):02x}"
    if char.isprintable() and unicodedata.category(char)[0] in "LN":
        return char
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def prose(text: str) -> str:
    """`text` for a comment or a docstring: one line of letters, without quotes or backslashes
    that could end it."""
    quoted = string(text)[1:-1]
    return quoted.replace("\\", "/").replace('"', "'")[:200]
