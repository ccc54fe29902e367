"""Values as Python prints them: `repr(value)`, and `format(value)` as f-strings have it.

What Python would print with an address of its memory (functions, objects) is printed
without: `<function relu>`, `<models.Head object>`. An OrderedDict is printed as Python 3.12
and later do. Text is cut at `width` characters, with `…` at its end; nothing recurses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptinspect.limits import LIMITS
from ptinspect.pickling.values import Blob, Call, Global, Inert, SetOf, Value, key_value
from ptinspect.torchnn.attributes import items_of
from ptinspect.torchnn.known import device_parts, global_text, known_call, numpy_number
from ptinspect.torchnn.protocols import no_tensors

if TYPE_CHECKING:
    from ptinspect.torchnn.protocols import Describe, TensorFacts

OPTIONS = "torch.nn.modules.linear_cross_entropy_options.LinearCrossEntropyOptions"
FIELDS = {  # dataclasses of torch that an extra_repr prints: their fields, in order
    OPTIONS: (
        "allow_retain_graph",
        "batch_chunk_size",
        "chunking_method",
        "acc_policy",
        "acc_dtype",
    )
}


class _Piece(str):
    """Text that is ready, among values that are still to be written."""

    __slots__ = ()


class _Leave:
    """Among values to be written: the container with this id ends here."""

    __slots__ = ("id",)

    def __init__(self, id: int) -> None:
        self.id = id


class Writer:
    """Writes values. `escape` is applied to strings of the file that are written bare."""

    __slots__ = ("describe", "escape", "width")

    def __init__(
        self,
        describe: Describe = no_tensors,
        escape: Callable[[str], str] | None = None,
        width: int = LIMITS.text_width,
    ) -> None:
        self.describe = describe
        self.escape = escape
        self.width = width

    def format(self, value: Value) -> str:
        """`f"{value}"`: as `repr`, but strings bare, a 0-dim tensor as its number."""
        if isinstance(value, str):
            return self.bare(value)
        if isinstance(value, Call):
            number = numpy_number(value)
            if number is not None:
                return number[0]
            if device := device_parts(value):
                return self.bare(":".join(device))
        if isinstance(value, Inert):
            facts = self.describe(value)
            item = facts.item() if facts is not None and not tuple(facts.shape) else None
            if item is not None:
                return str(item)
        return self.repr(value)

    def bare(self, text: str) -> str:
        """A string of the file: escaped where that was asked for, and cut."""
        text = self._cut(text)
        return self.escape(text) if self.escape is not None else str(text)

    def _cut(self, text: str) -> str:
        return text if len(text) <= self.width else text[: self.width] + "…"

    def repr(self, value: Value) -> str:
        """`repr(value)`."""
        if not isinstance(value, tuple | list | dict | Inert):
            return self._cut(self._write(value, [], set()))
        if isinstance(value, tuple) and len(value) < 9 and all(map(is_small, value)):
            return repr(value)  # most settings of most modules
        out: list[str] = []
        left = self.width
        todo: list[object] = [value]
        open_ids: set[int] = set()
        while todo:
            item = todo.pop()
            if isinstance(item, _Leave):
                open_ids.discard(item.id)
                continue
            piece = item if isinstance(item, _Piece) else self._write(item, todo, open_ids)
            out.append(piece)
            left -= len(piece)
            if left < 0:
                return "".join(out)[: self.width] + "…"
        return "".join(out)

    def _write(self, value: Value, todo: list[object], open_ids: set[int]) -> str:
        """The text of a value; a container's opening, with its parts put on `todo`."""
        if value is None or isinstance(value, bool | float | complex):
            return repr(value)
        if isinstance(value, int):
            return int_text(value)
        if isinstance(value, str):
            return repr(value[: self.width + 1])
        if isinstance(value, bytes):
            return repr(value[: self.width + 1])
        if isinstance(value, Blob):
            text = repr(value.read(0, self.width + 1))
            return f"bytearray({text})" if value.mutable else text
        if isinstance(value, Global):
            return self.bare(global_text(value))
        facts = self.describe(value)
        if facts is not None:
            return tensor_text(facts)
        shown = shape_of(value)
        if shown is None:
            return self._object(value)
        opening, parts, closing, cycle = shown
        if id(value) in open_ids:
            return cycle
        open_ids.add(id(value))
        todo.append(_Leave(id(value)))
        todo.append(_Piece(closing))
        pieces: list[object] = []
        for part in parts[: self.width]:
            if pieces:
                pieces.append(_Piece(", "))
            pieces.extend(part)
        if len(parts) > self.width:
            pieces.append(_Piece("…"))
        todo.extend(reversed(pieces))
        return opening

    def _object(self, value: Value) -> str:
        if isinstance(value, Call):
            number = numpy_number(value)
            if number is not None:
                return number[1]
            known = known_call(value)
            if known is None and isinstance(value.func, Global):
                known = f"<{value.func.path} object>"
            if known is not None:
                return self.bare(known)
        return f"<{type(value).__name__}>"


Parts = list[list[object]]


def shape_of(value: Value) -> tuple[str, Parts, str, str] | None:
    """How a container is written: opening, parts, closing, and what stands for it inside
    itself; None for all else."""
    if isinstance(value, tuple):
        return "(", [[v] for v in value], ",)" if len(value) == 1 else ")", "(...)"
    if isinstance(value, list):
        return "[", [[v] for v in value], "]", "[...]"
    if isinstance(value, dict):
        return "{", _entries(value), "}", "{...}"
    if isinstance(value, SetOf):
        name = "frozenset" if value.frozen else "set"
        if not len(value):
            return f"{name}(", [], ")", "set(...)"
        braces = ("frozenset({", "})") if value.frozen else ("{", "}")
        return braces[0], [[v] for v in value], braces[1], "set(...)"
    if isinstance(value, Call) and isinstance(value.func, Global):
        path = value.func.path
        if path == "torch.Size" and len(value.args) == 1 and isinstance(value.args[0], tuple):
            return "torch.Size([", [[v] for v in value.args[0]], "])", "torch.Size(...)"
        if path == "collections.OrderedDict":
            held = items_of(value)
            braces = ("({", "})") if held else ("(", ")")
            return f"OrderedDict{braces[0]}", _entries(held), braces[1], "..."
        if path in FIELDS and isinstance(value.state, list):
            names = FIELDS[path]
            fields: Parts = [[_Piece(f"{n}="), v] for n, v in zip(names, value.state, strict=False)]
            return f"{path.rpartition('.')[2]}(", fields, ")", "..."
    return None


def _entries(held: object) -> Parts:
    assert isinstance(held, dict)
    return [[key_value(k), _Piece(": "), v] for k, v in held.items()]


def is_small(value: Value) -> bool:
    """Whether a value is a small number."""
    return isinstance(value, int) and -(1 << 63) <= value < 1 << 63


def int_text(value: int) -> str:
    """Python refuses to write an integer of more than 4,300 digits, and so does this."""
    bits = value.bit_length()
    return str(int(value)) if bits < 3 * LIMITS.int_digits else f"<an integer of {bits} bits>"


def tensor_text(facts: TensorFacts) -> str:
    """torch's repr; where the numbers are not at hand, what torch prints without them."""
    text = facts.text()
    if text is not None:
        return text
    return f"tensor(..., size={tuple(facts.shape)}, dtype=torch.{facts.dtype})"
