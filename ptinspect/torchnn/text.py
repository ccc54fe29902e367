"""Values as Python prints them: `repr(value)`, and `format(value)` as f-strings have it.

Addresses in memory are omitted: `<function relu>`, `<models.Head object>`. An OrderedDict is
printed as Python 3.12 and later do. Text is cut at `width` characters, with `…` at its end.
Nothing recurses.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES, QSCHEMES
from ptinspect.limits import LIMITS
from ptinspect.pickling.numpy_objects import as_scalar
from ptinspect.pickling.pyobjects import ORDERED_DICT
from ptinspect.pickling.values import Blob, Call, Global, Inert, SetOf, Value, key_value
from ptinspect.torchnn.attributes import items_of, no_tensors

if TYPE_CHECKING:
    from ptinspect.torchnn.attributes import Describe

_BUILTIN_TYPES = {name for name, value in vars(builtins).items() if isinstance(value, type)}

# Dataclasses of torch that an extra_repr prints: their fields, in order.
_DATACLASS_FIELDS = {
    "torch.nn.modules.linear_cross_entropy_options.LinearCrossEntropyOptions": (
        "allow_retain_graph", "batch_chunk_size", "chunking_method", "acc_policy", "acc_dtype",
    )
}  # fmt: skip

_MAX_TEXT = 2_000  # characters of a name or of bytes in a call


class _Piece(str):
    """Finished text, among values that are still to be written."""

    __slots__ = ()


class _End(int):
    """The end of the container with this id, among values that are still to be written."""


@dataclass(frozen=True, slots=True)
class ValueFormatter:
    """Formats values in at most `width` characters each. `escape` is applied to strings of the file
    that are printed without quotes."""

    describe: Describe = no_tensors
    escape: Callable[[str], str] | None = None
    width: int = LIMITS.text_width

    def format(self, value: Value) -> str:
        """Return `f"{value}"`: as `repr`, but strings bare, a 0-dim tensor as its number."""
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
        """Return a string of the file without quotes: cut, and escaped if that was asked for."""
        text = self._cut(text)
        return self.escape(text) if self.escape is not None else str(text)

    def repr(self, value: Value) -> str:
        if not isinstance(value, tuple | list | dict | Inert):
            return self._cut(self._write(value, [], set()))
        if (
            isinstance(value, tuple)
            and len(value) < 9
            and all(isinstance(item, int) and item.bit_length() < 64 for item in value)
        ):
            return repr(value)  # most settings of most modules
        pieces: list[str] = []
        remaining = self.width
        stack: list[object] = [value]
        open_ids: set[int] = set()
        while stack:
            item = stack.pop()
            if isinstance(item, _End):
                open_ids.discard(item)
                continue
            piece = item if isinstance(item, _Piece) else self._write(item, stack, open_ids)
            pieces.append(piece)
            remaining -= len(piece)
            if remaining < 0:
                return "".join(pieces)[: self.width] + "…"
        return "".join(pieces)

    def _cut(self, text: str) -> str:
        return text if len(text) <= self.width else text[: self.width] + "…"

    def _write(self, value: Value, stack: list[object], open_ids: set[int]) -> str:
        """Return the text of a value; of a container the opening, with its items pushed."""
        if value is None or isinstance(value, bool | float | complex):
            return repr(value)
        if isinstance(value, int):
            bits = value.bit_length()  # Python refuses to write more than 4,300 digits
            few = bits < 3 * LIMITS.int_digits
            return str(int(value)) if few else f"<an integer of {bits} bits>"
        if isinstance(value, str | bytes):
            return repr(value[: self.width + 1])
        if isinstance(value, Blob):
            text = repr(value.read(0, self.width + 1))
            return f"bytearray({text})" if value.mutable else text
        if isinstance(value, Global):
            return self.bare(global_text(value))
        facts = self.describe(value)
        if facts is not None:
            text_of_tensor = facts.text()
            if text_of_tensor is not None:
                return text_of_tensor
            return f"tensor(..., size={tuple(facts.shape)}, dtype=torch.{facts.dtype})"
        container = _container_parts(value)
        if container is None:
            name = f"<{type(value).__name__}>"
            if not isinstance(value, Call):
                return name
            if (number := numpy_number(value)) is not None:
                return number[1]
            if isinstance(value.func, Global):
                name = self.bare(f"<{value.func.path} object>")
            call_text = _call_text(value)
            return self.bare(call_text) if call_text is not None else name
        opening, items, closing, cycle = container
        if id(value) in open_ids:
            return cycle
        open_ids.add(id(value))
        stack.append(_End(id(value)))
        stack.append(_Piece(closing))
        pending: list[object] = []
        for item in items[: self.width]:
            if pending:
                pending.append(_Piece(", "))
            pending.extend(item)
        if len(items) > self.width:
            pending.append(_Piece("…"))
        stack.extend(reversed(pending))
        return opening


_Items = list[list[object]]


def _container_parts(value: Value) -> tuple[str, _Items, str, str] | None:
    """Return a container's opening, items, closing, and its text inside itself; None for others."""
    if isinstance(value, tuple):
        return "(", [[v] for v in value], ",)" if len(value) == 1 else ")", "(...)"
    if isinstance(value, list):
        return "[", [[v] for v in value], "]", "[...]"
    if isinstance(value, dict):
        return "{", _key_value_items(value), "}", "{...}"
    if isinstance(value, SetOf):
        if not len(value):
            return "frozenset(" if value.frozen else "set(", [], ")", "set(...)"
        braces = ("frozenset({", "})") if value.frozen else ("{", "}")
        return braces[0], [[v] for v in value], braces[1], "set(...)"
    if isinstance(value, Call) and isinstance(value.func, Global):
        path = value.func.path
        if path == "torch.Size" and len(value.args) == 1 and isinstance(value.args[0], tuple):
            return "torch.Size([", [[v] for v in value.args[0]], "])", "torch.Size(...)"
        if path == ORDERED_DICT:
            items = _key_value_items(items_of(value))
            braces = ("({", "})") if items else ("(", ")")
            return f"OrderedDict{braces[0]}", items, braces[1], "..."
        if path in _DATACLASS_FIELDS and isinstance(value.state, list):
            names = _DATACLASS_FIELDS[path]
            pairs = zip(names, value.state, strict=False)
            fields: _Items = [[_Piece(f"{name}="), item] for name, item in pairs]
            return f"{path.rpartition('.')[2]}(", fields, ")", "..."
    return None


def _key_value_items(mapping: Mapping[Value, Value]) -> _Items:
    return [[key_value(key), _Piece(": "), item] for key, item in mapping.items()]


def global_text(value: Global) -> str:
    """Return the text of a dtype, class or function, as far as the name tells which it is."""
    module, name = value.module, value.name
    if module == "torch" and (name in DTYPES or name in QSCHEMES):
        return f"torch.{name}"
    last = name.rpartition(".")[2]
    if module == "builtins":
        is_class = name in _BUILTIN_TYPES or last[:1].isupper()
        return f"<class '{name}'>" if is_class else f"<built-in function {name}>"
    if last.lstrip("_")[:1].isupper():
        return f"<class '{value.path}'>"
    is_built_in = module == "math" or module.startswith("torch._C")
    return f"<built-in function {last}>" if is_built_in else f"<function {name}>"


def device_parts(value: Call) -> list[str]:
    """Return type and, if recorded, index of `torch.device("cuda", 0)`; empty for other calls."""
    if not isinstance(value.func, Global) or value.func.path != "torch.device":
        return []
    first, *rest = value.args or (None,)
    if not isinstance(first, str) or not all(isinstance(i, int) and i < 1 << 31 for i in rest):
        return []
    return [*first.split(":"), *map(str, rest)][:2]


def _call_text(value: Call) -> str | None:
    """Return the text of an object that torch or Python does not print as a call."""
    path = value.func.path if isinstance(value.func, Global) else ""
    args = value.args
    if device := device_parts(value):
        index = "".join(f", index={part}" for part in device[1:])
        return f"device(type={device[0]!r}{index})"
    if path == "torch.serialization._get_layout" and args and isinstance(args[0], str):
        return str(args[0])
    if path == "builtins.complex" and len(args) == 2:
        real, imaginary = args
        if isinstance(real, float) and isinstance(imaginary, float):
            return repr(complex(real, imaginary))
    if path == "builtins.bytearray" and args and isinstance(args[0], bytes):
        return repr(bytearray(args[0][:_MAX_TEXT]))
    if path == "builtins.getattr" and len(args) == 2 and isinstance(args[1], str):
        return f"<built-in method {args[1][:_MAX_TEXT]}>"
    if path == "functools.partial" and args and isinstance(args[0], Global):
        return f"functools.partial({global_text(args[0])})"
    return None


def numpy_number(value: Call) -> tuple[str, str] | None:
    """Return `str` and numpy 2's `repr` of a numpy number: ("0.1", "np.float64(0.1)"). Real models
    have them as settings that were computed."""
    scalar = as_scalar(value)
    if scalar is None or not isinstance(scalar[1], bool | int | float):
        return None
    name, number = scalar[0].rstrip("_"), scalar[1]
    letter = DTYPES[name].letter
    text = str(number)
    if isinstance(number, float) and letter is not None:
        # The shortest digits of a float16 or float32 that round-trip, as numpy prints them.
        rounded = (float(f"{number:.{digits}g}") for digits in range(1, 10))
        raw = struct.pack(letter, number)
        text = repr(next((n for n in rounded if struct.pack(letter, n) == raw), number))
    return str(number), f"np.{name}({text})"


def type_name(value: Value) -> str:
    """Return `type(value).__name__` of the object that the value stands for."""
    if isinstance(value, SetOf):
        return "frozenset" if value.frozen else "set"
    if isinstance(value, Blob):
        return "bytearray" if value.mutable else "bytes"
    if isinstance(value, Global):
        text = global_text(value)
        if text.startswith("torch."):
            return "qscheme" if value.name in QSCHEMES else "dtype"
        if text.startswith("<class"):
            return "type"
        return "function" if text.startswith("<function") else "builtin_function_or_method"
    if isinstance(value, Call) and isinstance(value.func, Global):
        number = numpy_number(value)
        name = number[1][3:].partition("(")[0] if number else value.func.name
        return name.rpartition(".")[2]
    if isinstance(value, Inert):
        return "object"
    return "str" if isinstance(value, str) else type(value).__name__
