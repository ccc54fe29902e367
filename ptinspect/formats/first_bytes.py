"""What a file is that is no zip, by the bytes that it begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.formats import texts
from ptinspect.formats.damage import FETCH_AGAIN
from ptinspect.formats.identity import Identity
from ptinspect.formats.signatures import signature
from ptinspect.formats.tar_members import is_tar, members
from ptinspect.pickling.opcodes import BY_CODE

if TYPE_CHECKING:
    from ptinspect.limits import Limits
    from ptinspect.source.base import Source

INDEX = 1 << 20
"""Bytes of a JSON in which the weight_map of an index is looked for."""

MODELS = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
"""How the names of members end that are worth a look."""


def first_bytes(source: Source, head: bytes, limits: Limits) -> Identity | None:
    """The format of what begins as no pickle can, or as no pickle does; None for the rest.
    `head`: the first few kilobytes."""
    if not source.size:
        return Identity("empty", "an empty file (0 bytes)", FETCH_AGAIN)
    if not any(head):
        return _zeros(source)
    if head.startswith((b"PK\x05\x06", b"PK\x07\x08")):
        return Identity("zip", "an empty zip, or the first part of one in several files")
    tail = source.read(max(source.size - 8, 0), min(source.size, 8))
    found = signature(head, tail, source.size)
    if found:
        return found
    if is_tar(head):
        return _tar_kind(source, limits)
    if head[0] in BY_CODE:
        return None
    named = texts.text(head, source.size)
    if named is not None and named.format == "json" and source.size > len(head):
        more = source.read(0, min(source.size, INDEX))  # metadata may stand in front of the map
        return texts.index(more.decode("utf-8", "replace")) or named
    return named


def _zeros(source: Source) -> Identity:
    """A file that was given its length, and not (all of) its content."""
    count = min(source.size, 1 << 20)
    if any(source.read(0, count)):
        what = "a file that begins with zeros"
    elif count == source.size:
        what = f"a file of {count:,} zero bytes"
    else:
        what = f"a file whose first {count:,} bytes are zero"
    return Identity("zeros", what, f"its content was never written: {FETCH_AGAIN}")


def _tar_kind(source: Source, limits: Limits) -> Identity:
    from ptinspect.formats.torch_tar import MEMBERS

    found = members(source, limits)
    if next(iter(found), None) == MEMBERS[0] or set(MEMBERS) <= set(found):
        return Identity("torch-legacy-tar", "a file of torch.save before 0.1.11")
    inner = next((name for name in found if name.endswith(MODELS)), None)
    hint = (
        "unpack it (tar -xf FILE) and show the model in it" if inner else "unpack it: tar -xf FILE"
    )
    return Identity("tar", f"a tar of {len(found):,} files", hint)
