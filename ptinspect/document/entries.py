"""Entries: the numbers, strings and objects of a file that are not tensors or modules.

`describe` gives the name of a value's type and, if it fits on a line, its value as JSON has it:
None, bool, int, float, str, list, or a dict with length and head.

Any part of a file is selected by its path, as `--entry` takes it: `model_state_dict`,
`optimizer.state[0]`, `models[1].ema`, or the dotted key that `show` prints. Every command that has
`--entry` resolves it here, and takes its error messages from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, ModuleInfo, module_of
from ptinspect.dtypes import QSCHEMES, dtype_by_name
from ptinspect.errors import PtInspectError
from ptinspect.limits import LIMITS
from ptinspect.pickling.numpy_objects import as_array, as_scalar, dtype_code
from ptinspect.pickling.pyobjects import (
    GETATTR,
    ObjectParts,
    Path,
    as_bytes,
    attributes_of,
    bracketed,
    brief_repr,
    class_path,
    constructor_arguments,
    dotted,
    function_path,
    global_path,
    iter_children,
    object_parts,
)
from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    OutOfBand,
    PersistentId,
    SetOf,
    Value,
    key_value,
)
from ptinspect.text import cut, join_names, safe

HEAD = 16
"""Items of a long list that are listed."""

MAX_ITEMS = 6
"""Items of a long list that a line shows."""

FLOAT_DIGITS = {"float32": 6, "float16": 4, "bfloat16": 4}
"""Digits of a number of these dtypes that mean something."""

Description = tuple[str, Value]
"""Type and value of a leaf; the value is None also if it cannot be written on a line."""

_COMPLEX = "builtins.complex"


class Entry(NamedTuple):
    """A value that is not a tensor or module. `type` is `int`, `str`, `list`, or the path of its
    class; `describe` explains `value`."""

    path: Path
    type: str
    value: Value

    @property
    def text(self) -> str:
        """`5999`, `'CustomModel'`, `list of 400: 1, 2, …`, or the class of an object."""
        value, name = self.value, cut(self.type)
        if isinstance(value, dict) and "shape" in value:  # of an array, without its numbers
            return f"{name} {safe(str(value.get('dtype')))} {safe(str(value['shape']))}"
        if isinstance(value, dict):
            head, length = value.get("head"), value.get("length")
            if not isinstance(length, int):
                return name
            text = f"{name} of {length:,}"
            if isinstance(head, str) and head:  # bytes, as hexadecimal digits
                return f"{text}: {head}" + ("…" if 2 * length > len(head) else "")
            listed = head[:MAX_ITEMS] if isinstance(head, list) else []
            more = ", …" if length > len(listed) else ""
            return text + (f": {', '.join(map(scalar_text, listed))}{more}" if listed else "")
        if isinstance(value, list):
            items = ", ".join(map(scalar_text, value[: 2 * MAX_ITEMS]))
            items += f", … ({len(value):,} in all)" if len(value) > 2 * MAX_ITEMS else ""
            if self.type == "list":
                return f"[{items}]"
            return f"({items})" if self.type == "tuple" else f"{name}({items})"  # a call
        if self.type in ("str", "int", "float", "bool", "NoneType", "None"):
            return scalar_text(value)
        digits = FLOAT_DIGITS.get(self.type.removeprefix("numpy."))
        is_short = isinstance(value, float) and digits is not None
        text = f"{value:.{digits}g}" if is_short else scalar_text(value)
        return f"{text}  {name}" if value is not None else name


def is_simple(value: Value) -> bool:
    """Return True if `value` is a number, a string or None."""
    return isinstance(value, bool | int | float | str | None)


def scalar_text(value: Value) -> str:
    """Return a value as Python prints it, escaped and bounded in length."""
    if isinstance(value, str):
        text = safe(repr(str(value[: LIMITS.text_width])))
        left_out = len(value) - LIMITS.text_width
        return text if left_out <= 0 else f"{text}… ({left_out:,} more characters)"
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length():,} bits"
    return safe(repr(value))


def describe(value: Value) -> Description | None:
    """Return type and value of a leaf; None for a value whose children are to be visited."""
    if value is None:
        return "NoneType", None
    if isinstance(value, str):
        return "str", str(value)
    if isinstance(value, bool | int | float):
        return type(value).__name__, value
    if isinstance(value, bytes | bytearray | Blob):
        return _describe_bytes(value)
    if isinstance(value, SetOf):
        return _describe_items("frozenset" if value.frozen else "set", list(value))
    if isinstance(value, list | tuple):
        return _describe_items(type(value).__name__, value)
    if isinstance(value, dict):
        return None if value else ("dict", {"length": 0, "head": []})
    if isinstance(value, Global):
        return _describe_global(value.module, value.name)
    if isinstance(value, Call):
        return _describe_call(value)
    if isinstance(value, PersistentId):
        parts = value.value
        if isinstance(parts, tuple) and len(parts) >= 5 and parts[0] == "storage":
            kind = parts[1].path if isinstance(parts[1], Global) else "storage"
            return kind, {"length": parts[4], "head": []}
        path = global_path(value)
        return ("global", path) if path else ("persistent id", brief_repr(parts))
    if isinstance(value, Extension):
        return "extension", value.code
    return "buffer", value.index if isinstance(value, OutOfBand) else None


def _describe_bytes(value: bytes | bytearray | Blob) -> Description:
    head = value.read(0, HEAD) if isinstance(value, Blob) else bytes(value[:HEAD])
    is_mutable = isinstance(value, bytearray) or (isinstance(value, Blob) and value.mutable)
    return "bytearray" if is_mutable else "bytes", {"length": len(value), "head": head.hex()}


def _describe_items(kind: str, items: list[Value] | tuple[Value, ...]) -> Description | None:
    """Describe a sequence of simple values; None for one that holds anything else."""
    items = [
        _complex_text(item) if isinstance(item, Call) and function_path(item) == _COMPLEX else item
        for item in items
    ]
    if not all(map(is_simple, items)):
        return None
    if len(items) <= HEAD and kind in ("list", "tuple"):
        return kind, items
    return kind, {"length": len(items), "head": items[:HEAD]}


_MEMORY_FORMATS = ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")


def _describe_global(module: str, name: str) -> Description:
    if module.split(".", 1)[0] == "torch":
        # A memory format is written as `torch._utils torch.channels_last`.
        short_name = name.removeprefix("torch.")
        if dtype_by_name(short_name):
            return "torch.dtype", f"torch.{short_name}"
        if short_name in QSCHEMES or short_name in _MEMORY_FORMATS:
            kind = "qscheme" if short_name in QSCHEMES else "memory_format"
            return f"torch.{kind}", f"torch.{short_name}"
    return "global", f"{module}.{name}"


def _describe_call(call: Call) -> Description | None:
    """Describe an object that fits on a line: a numpy scalar, a path, a date, an enum member."""
    array = as_array(call)
    if array is not None:
        return "numpy.ndarray", {"dtype": array.name, "shape": list(array.shape)}
    scalar = as_scalar(call)
    if scalar is not None:
        return f"numpy.{scalar[0]}", scalar[1]
    code = dtype_code(call)
    if code is not None:
        return "numpy.dtype", code
    parts = object_parts(call)
    if parts.data is not None:
        is_mutable = parts.path == "builtins.bytearray"
        return _describe_bytes(bytearray(parts.data) if is_mutable else parts.data)
    return describe_object(call, parts)


def describe_object(call: Call, parts: ObjectParts) -> Description | None:
    """Describe an object that is neither numpy's nor bytes."""
    path = parts.path or "object"
    if path in _OBJECT_TEXTS:
        return _PUBLIC_NAMES.get(path, path), _OBJECT_TEXTS[path](call)
    if function_path(call) == GETATTR:  # a nested class or an enum member
        # There is no name for a method of an object, whose children are visited.
        return None if parts.name is None else _describe_global(*parts.name)
    if parts.is_by_value:
        return "code", ".".join(parts.name) if parts.name else None
    # Containers of simple values, and classes called with them, such as `Color(1)`.
    kind = path.removeprefix("builtins.")
    if parts.sequence is not None and not parts.attributes:
        return _describe_items(kind, parts.sequence)
    if parts.items is not None:
        is_empty = not parts.items and not parts.attributes
        return (path, {"length": 0, "head": []}) if is_empty else None
    arguments = parts.arguments
    if call.changes is not None or call.kwargs or not all(map(is_simple, arguments)):
        return None
    if call.opcode == "NEWOBJ" and len(arguments) > 1:
        return None  # a named tuple: an entry for each of its items
    return kind, arguments[0] if len(arguments) == 1 else list(arguments) or None


def _joined(separator: str) -> Callable[[Call], Value]:
    return lambda call: separator.join(str(part) for part in constructor_arguments(call))


def _first(call: Call) -> Value:
    arguments = constructor_arguments(call)
    return arguments[0] if arguments and is_simple(arguments[0]) else None


def _complex_text(call: Call) -> Value:
    parts = [part for part in call.args if isinstance(part, int | float)]
    return str(complex(*parts[:2])) if len(parts) == len(call.args) else None


def _date_text(call: Call) -> Value:
    """Return a date or time as `isoformat()` does, with the class of a time zone whose rules no
    file has. Source: Modules/_datetimemodule.c, `__reduce__`: bytes, then a time zone."""
    import datetime

    kind = getattr(datetime, (class_path(call) or "").rpartition(".")[2])
    raw, *zones = constructor_arguments(call) or (None,)
    zone = next((zone for zone in zones if isinstance(zone, Call)), None)
    path = class_path(zone) if zone is not None else None
    try:
        if zone is None or path != "datetime.timezone":
            return kind(as_bytes(raw)).isoformat() + (f" ({path})" if zone is not None else "")
        delta = constructor_arguments(zone)[0]
        numbers = constructor_arguments(delta) if isinstance(delta, Call) else ()
        offset = datetime.timedelta(*[number for number in numbers if isinstance(number, int)])
        return kind(as_bytes(raw), datetime.timezone(offset)).isoformat()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _uuid_text(call: Call) -> Value:
    number = key_value(attributes_of(call).get("int"))
    if not isinstance(number, int):
        return None
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _path_text(call: Call) -> Value:
    from pathlib import PurePosixPath, PureWindowsPath

    is_windows = (class_path(call) or "").endswith("WindowsPath")
    kind = PureWindowsPath if is_windows else PurePosixPath
    return str(kind(*map(str, constructor_arguments(call))))


_OBJECT_TEXTS: dict[str, Callable[[Call], Value]] = {
    "torch.device": _joined(":"),
    "torch.serialization._get_layout": _first,
    _COMPLEX: _complex_text,
    "decimal.Decimal": _first,
    "fractions.Fraction": _joined("/"),
    "datetime.datetime": _date_text,
    "datetime.date": _date_text,
    "datetime.time": _date_text,
    "uuid.UUID": _uuid_text,
}
for _name in ("PosixPath", "PurePosixPath", "Path", "PurePath", "WindowsPath", "PureWindowsPath"):
    _OBJECT_TEXTS[f"pathlib.{_name}"] = _OBJECT_TEXTS[f"pathlib._local.{_name}"] = _path_text

_PUBLIC_NAMES = {"torch.serialization._get_layout": "torch.layout", _COMPLEX: "complex"}


# --- selecting a part by its path ------------------------------------------------------------

MAX_LISTED = 12
"""Number of candidates that an error lists."""


class Subtree(NamedTuple):
    """A value in a file and the path that leads to it."""

    path: Path
    value: Value

    @property
    def name(self) -> str:
        """The path as `--entry` takes it."""
        return dotted(self.path)


def resolve_path(root: Value, entry: str) -> Subtree:
    """Return the one value that `entry` names, else PtInspectError. A key that contains dots counts
    as one step."""
    matches: list[Subtree] = []
    unfinished = [(Subtree((), root), entry)]
    while unfinished and len(matches) <= MAX_LISTED:
        parent, rest = unfinished.pop()
        if not rest:
            matches.append(parent)
            continue
        for step, value in named_children(parent.value):
            remainder = _strip_step(step, rest)
            if remainder is not None:
                unfinished.append((Subtree((*parent.path, step), value), remainder))
    if not matches:
        raise no_entry_error("entry", entry, [(step,) for step, _ in named_children(root)])
    if len({id(match.value) for match in matches}) > 1:
        raise _ambiguous_error(entry, [match.path for match in matches])
    return matches[0]


def select_path(paths: Iterable[Path], entry: str, noun: str) -> Path:
    """Return the one of `paths` that `entry` names, else PtInspectError. `noun` says what they are:
    `module`, `optimizer state`."""
    candidates = list(dict.fromkeys(paths))
    matches = [path for path in candidates if path_matches(path, entry)]
    if not matches:
        raise no_entry_error(noun, entry, candidates)
    if len(matches) > 1:
        raise _ambiguous_error(entry, matches)
    return matches[0]


def select_model(
    modules: Sequence[ModuleInfo], state_dicts: Iterable[Path], entry: str | None
) -> tuple[Module | None, Path | None]:
    """Return the module, or else the path of the state_dict, that `entry` names; without an entry
    the first module that is in no other, or else the first state_dict."""
    roots = [info for info in modules if not info.name]
    if entry is None:
        return (roots[0].module, None) if roots else (None, next(iter(state_dicts), None))
    by_path = {info.path: info.module for info in reversed(modules)}
    paths = [*(info.path for info in roots), *state_dicts, *by_path]
    path = select_path(paths, entry, "module or state_dict")
    return by_path.get(path), None if path in by_path else path


def path_matches(path: Path, entry: str) -> bool:
    """Return True if `entry` is a way to write `path`."""
    rest: str | None = entry
    for step in path:
        rest = _strip_step(step, rest) if rest else None
    return rest == ""


def value_at(root: Value, path: Path) -> Value:
    """Return the value at an exact path, or None."""
    return value_finder(root)(path)


def value_finder(root: Value) -> Callable[[Path], Value]:
    """Return `value_at` for many paths below one root: each container is walked only once."""
    children: dict[Path, dict[str | int, Value]] = {}

    def find(path: Path) -> Value:
        value = root
        for depth, step in enumerate(path):
            container = path[:depth]
            if container not in children:
                names = children[container] = {}
                for name, child in named_children(value):
                    names.setdefault(name, child)
            if step not in children[container]:
                return None
            value = children[container][step]
        return value

    return find


def named_children(value: Value) -> Iterator[tuple[str | int, Value]]:
    """Yield the parts of a value, or of a module the parameters, buffers and children under their
    own names, with the path steps that lead to them."""
    module = module_of(value)
    if module is None:
        yield from iter_children(value)
        return
    for store in (PARAMETERS, BUFFERS, MODULES):
        yield from module.members(store)


def no_entry_error(noun: str, entry: str | None, paths: Iterable[Path]) -> PtInspectError:
    """Return the error for a `noun` that the file does not have, at `entry` or at all."""
    names = [_printable(dotted(path)) for path in paths if path]
    message = f"the file has no {noun}" if entry is None else f"there is no {noun} at {entry!r}"
    hint = f"--entry can be one of: {join_names(names, MAX_LISTED)}" if names else None
    return PtInspectError(message, hint=hint)


def several_entries_error(noun: str, paths: Iterable[Path], hint: str = "") -> PtInspectError:
    """Return the error for several candidates, from which the user has to choose."""
    names = [_printable(dotted(path)) for path in paths]
    return PtInspectError(
        f"the file has {len(names)} {noun}s: choose one with --entry",
        hint=hint or f"--entry can be one of: {join_names(names, MAX_LISTED)}",
    )


def _ambiguous_error(entry: str, paths: list[Path]) -> PtInspectError:
    names = join_names(map(bracketed, paths), MAX_LISTED)
    return PtInspectError(f"the entry {entry!r} is ambiguous: it could be {names}")


def _strip_step(step: str | int, text: str) -> str | None:
    """Return what follows `step` in a path's text, or None if the text starts otherwise."""
    forms = [f'["{step}"]', str(step)]
    if isinstance(step, int):
        forms.insert(0, f"[{step}]")
    for form in forms:
        if form and text.startswith(form):
            rest = text[len(form) :]
            if not rest or rest[0] == "[":
                return rest
            if rest[0] == "." and len(rest) > 1:
                return rest[1:]
    return None


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
