"""Text where a model should be: what a failed download leaves, mostly."""

from __future__ import annotations

import re

from ptinspect.formats.damage import said
from ptinspect.formats.signatures import Identity

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_JSON = re.compile(r'[{\[]\s*(?:["{}\[\]\d-]|true|false|null|$)')
_LFS = "version https://git-lfs.github.com/spec/v"


def text(head: bytes, size: int) -> Identity | None:
    """What the text in `head`, the first kilobytes of a file of `size` bytes, is; None for
    what is no text.

    A pickle of protocol 0 is text as well; so ask this of what no pickle begins with, or what
    could not be run as one.
    """
    decoded = _decoded(head, len(head) < size)
    if decoded is None:
        return None
    start = decoded.lstrip("\ufeff \t\r\n")
    if start.startswith(_LFS):
        return _pointer(start)
    lower = start[:200].lower()
    if lower.startswith(("<!doctype html", "<html", "<head", "<body")):
        title = _TITLE.search(start)
        named = f" titled {bounded_repr(' '.join(title[1].split()))}" if title else ""
        return Identity(
            "html",
            f"a web page{named}",
            "the download gave a page instead of the file: take the link to the file itself"
            ' (on Hugging Face "resolve" in place of "blob"), and log in where it asks for it',
        )
    if lower.startswith("<"):
        return Identity("xml", f"XML, which begins {bounded_repr(start[:60])}", _again("error message"))
    if _JSON.match(start):
        return _json(start)
    return Identity("text", f"a text, which begins {bounded_repr(start[:60])}")


def _again(what: str) -> str:
    return f"if it is the {what} of a server, download the file again"


def _decoded(head: bytes, cut: bool) -> str | None:
    """As text, if it is: utf-8 (the last character may be cut in two) without control codes."""
    try:
        decoded = head.decode()
    except UnicodeDecodeError as error:
        if not cut or error.start < len(head) - 3:
            return None
        decoded = head[: error.start].decode()
    if any(ord(char) < 32 and char not in "\t\n\r\f\x1b" for char in decoded):
        return None
    return decoded


def _pointer(start: str) -> Identity:
    """A Git LFS pointer: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md"""
    fields = dict(line.partition(" ")[::2] for line in start.splitlines()[:20])
    oid, size = fields.get("oid", "?"), fields.get("size", "?")
    real = f"{int(size):,} bytes" if size.isdigit() and len(size) < 20 else "of unknown size"
    return Identity(
        "git-lfs",
        f"a Git LFS pointer to a file of {real} ({bounded_repr(oid)})",
        "fetch the file itself, in its repository: git lfs pull",
    )


def index(start: str) -> Identity | None:
    """The index of a model in several files, if JSON that begins so is one."""
    if '"weight_map"' not in start:
        return None
    kind = "safetensors-index" if ".safetensors" in start else "torch-index"
    return Identity(
        kind,
        "the index of a model in several files (JSON)",
        "show it where the files lie that its weight_map names: ptinspect show FOLDER",
    )


def _json(start: str) -> Identity:
    found = index(start)
    if found:
        return found
    message = re.search(r'"(?:error|message|detail|error_message)"\s*:\s*"([^"]{1,200})', start)
    if message:
        return Identity("json", f"JSON, which says {bounded_repr(message[1])}", _again("error message"))
    return Identity("json", f"JSON, which begins {bounded_repr(start[:60])}", _again("error message"))
