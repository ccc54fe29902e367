"""A file's name within lines that somebody pastes: a name is text of whoever sent the file."""

from __future__ import annotations

import os

_PLAIN = frozenset("-_./:+@%,") | (frozenset("\\") if os.name == "nt" else frozenset())


def shell_word(path: str) -> str:
    """The path as one word of a shell, never an option. `FILE` stands for standard input, which
    is gone once it was read."""
    if path == "-":
        return "FILE"
    if path.startswith("-"):
        path = f"./{path}"
    if path and all((char.isascii() and char.isalnum()) or char in _PLAIN for char in path):
        return path
    return shell_quoted(path)


def shell_quoted(text: str) -> str:
    """Any text of a file as one word of a shell, on one line, of which nothing acts there."""
    if text.isprintable():
        return "'" + text.replace("'", "'\"'\"'") + "'"
    return "$'" + "".join(map(_in_dollar_quotes, text)) + "'"


def _in_dollar_quotes(char: str) -> str:
    if char.isprintable() and char not in "'\\":
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def python_literal(path: str) -> str:
    """The path as a Python string in double quotes, printable whatever the name holds."""
    path = "FILE" if path == "-" else path
    if not path.isprintable() or '"' in path or "\\" in path:
        path = "".join(map(_in_quotes, path))
    return f'"{path}"'


def _in_quotes(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else char.encode("unicode_escape").decode()
