"""Entries as lines: a key and a value each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.text.escape import cut, safe
from ptinspect.document.walk import dotted

if TYPE_CHECKING:
    from ptinspect.display.options import Look
    from ptinspect.document import Document, TensorInfo
    from ptinspect.document.entries import Entry
    from ptinspect.document.walk import Path

HEAD = 6
"""Items of a list that a line shows."""


def lines_of(document: Document, look: Look) -> list[tuple[str, str]]:
    """The entries, and the 0-dim tensors that stand beside them, each as key and text."""
    made = [
        (cut(dotted(entry.path)), entry_text(entry))
        for entry in document.entries
        if look.depth is None or len(entry.path) <= max(look.depth, 1)
    ]
    made += [(cut(info.key) or "(root)", number_line(info)) for info in numbers(document)]
    return made


def entry_text(entry: Entry) -> str:
    """`5999`, `'CustomModel'`, `list of 4: 1, 2, 3, 4`, or the class of an object."""
    value, kind = entry.value, cut(entry.type)
    if isinstance(value, dict):
        return _long(kind, value)
    if isinstance(value, list):
        return _sequence(kind, value)
    if entry.type in ("str", "int", "float", "bool", "NoneType", "None"):
        return scalar_text(value)
    return kind if value is None else f"{scalar_text(value)}  {kind}"


def scalar_text(value: object) -> str:
    """As Python prints it, with nothing in it that acts on a terminal."""
    if isinstance(value, str):
        from ptinspect.limits import LIMITS

        shown = safe(repr(str(value[: LIMITS.text_width])))
        left = len(value) - LIMITS.text_width
        return shown if left <= 0 else f"{shown}… ({left:,} more characters)"
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length():,} bits"
    return safe(repr(value))


def _sequence(kind: str, items: list[object]) -> str:
    inner = ", ".join(scalar_text(item) for item in items[: 2 * HEAD])
    more = f", … ({len(items):,} in all)" if len(items) > 2 * HEAD else ""
    return f"({inner}{more})" if kind == "tuple" else f"[{inner}{more}]"


def _long(kind: str, value: dict[object, object]) -> str:
    """{"length", "head"} of a long list or of bytes; {"dtype", "shape"} of an array."""
    if "shape" in value:
        return f"{kind} {safe(str(value.get('dtype')))} {safe(str(value['shape']))}"
    head, length = value.get("head"), value.get("length")
    if not isinstance(length, int):
        return kind
    if isinstance(head, str) and head:
        return f"{kind} of {length:,}: {head}" + ("…" if 2 * length > len(head) else "")
    shown = head[:HEAD] if isinstance(head, list) else []
    inner = ", ".join(map(scalar_text, shown)) + (", …" if length > len(shown) else "")
    return f"{kind} of {length:,}" + (f": {inner}" if shown else "")


def numbers(document: Document) -> list[TensorInfo]:
    """The 0-dim tensors that belong to no model, state_dict or optimizer."""
    found = document.contents
    owners: set[Path] = {info.root for info in found.modules} | set(found.state_dicts)
    return [
        info
        for info in document.tensors.values()
        if info.role == "tensor"
        and info.tensor.shape == ()
        and not any(info.path[:length] in owners for length in range(len(info.path)))
    ]


def number_line(info: TensorInfo) -> str:
    """`0.0293  float32 tensor, requires grad`"""
    from ptinspect.display.numbers.decode import number_of
    from ptinspect.errors import PtInspectError

    try:
        number = number_of(info.tensor)
    except PtInspectError as error:
        return f"a tensor that cannot be read: {cut(error.message)}"
    kind = f"{info.tensor.dtype.name if info.tensor.dtype else 'unknown'} tensor"
    grad = ", requires grad" if info.tensor.requires_grad else ""
    return f"{kind}{grad}" if number is None else f"{shown(number, info)}  {kind}{grad}"


def shown(number: object, info: TensorInfo) -> str:
    """With the digits that the element type has."""
    name = info.tensor.dtype.name if info.tensor.dtype else ""
    if isinstance(number, float) and name in ("float32", "float16", "bfloat16"):
        return f"{number:.6g}" if name == "float32" else f"{number:.4g}"
    return safe(repr(number))
