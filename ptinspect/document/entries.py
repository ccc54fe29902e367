"""Entries: the numbers, strings and objects of a file that are not tensors or modules.

`describe` gives a value its type's name and, where a line can say it, its value: a JSON-like
one (None, bool, int, float, str, or a dict that tells length and head).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ptinspect.dtypes import dtype_by_name
from ptinspect.pickling.numpy_objects import as_array, as_scalar, dtype_code
from ptinspect.pickling.pyobjects import (
    as_bytes,
    as_mapping,
    as_sequence,
    attributes_of,
    brief_repr,
    class_path,
    constructor_arguments,
    function_path,
    global_path,
    is_pickled_by_value,
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


class Entry(NamedTuple):
    """path: where it lies. type: `int`, `str`, `list`, or the path of its class. value: what a
    line can say of it (see `describe`); None also where nothing can be said."""

    path: tuple[str | int, ...]
    type: str
    value: Value


HEAD = 16
"""Items that a long list shows."""

SIMPLE = (bool, int, float, str, type(None))


def is_simple(value: Value) -> bool:
    """Whether `value` is a number, a string or None."""
    return isinstance(value, SIMPLE)


def describe(value: Value) -> tuple[str, Value] | None:
    """Type and value of a leaf; None where `value` has insides that are to be visited."""
    if value is None:
        return "NoneType", None
    if isinstance(value, str):
        return "str", str(value)
    if isinstance(value, bool | int | float):
        return type(value).__name__, value
    if isinstance(value, bytes | bytearray | Blob):
        return _bytes(value)
    if isinstance(value, list | tuple | SetOf):
        return _sequence(value)
    if isinstance(value, dict):
        return None if value else ("dict", {"length": 0, "head": []})
    if isinstance(value, Global):
        return _named(value)
    if isinstance(value, PersistentId):
        return _persistent(value)
    if isinstance(value, Call):
        return _object(value)
    if isinstance(value, Extension):
        return "extension", value.code
    return "buffer", value.index if isinstance(value, OutOfBand) else None


def _bytes(value: bytes | bytearray | Blob) -> tuple[str, Value]:
    head = value.read(0, HEAD) if isinstance(value, Blob) else bytes(value[:HEAD])
    mutable = isinstance(value, bytearray) or (isinstance(value, Blob) and value.mutable)
    return "bytearray" if mutable else "bytes", {"length": len(value), "head": head.hex()}


def _sequence(value: list[Value] | tuple[Value, ...] | SetOf) -> tuple[str, Value] | None:
    """A list of plain values is one entry; one that holds more is visited."""
    kind = type(value).__name__
    if isinstance(value, SetOf):
        kind = "frozenset" if value.frozen else "set"
    return listed(kind, list(value) if isinstance(value, SetOf) else value)


def listed(kind: str, items: list[Value] | tuple[Value, ...]) -> tuple[str, Value] | None:
    """A sequence of plain values as {"length", "head"}; short ones whole, as a list."""
    items = [_number(item) for item in items]
    if not all(map(is_simple, items)):
        return None
    if len(items) <= HEAD and kind in ("list", "tuple"):
        return kind, list(items)
    return kind, {"length": len(items), "head": list(items[:HEAD])}


def _number(item: Value) -> Value:
    """A complex number as text, all else as it is."""
    return _complex(item) if isinstance(item, Call) and global_path(item.func) == _COMPLEX else item


_COMPLEX = "builtins.complex"


def _named(value: Global) -> tuple[str, Value]:
    """A class, function or constant that is referred to, not called."""
    if value.module.split(".", 1)[0] != "torch":
        return "global", value.path
    name = value.name.removeprefix("torch.")  # `torch._utils torch.channels_last`: it has no module
    kind = "torch.dtype" if dtype_by_name(name) else _CONSTANTS.get(name)
    return ("global", value.path) if kind is None else (kind, f"torch.{name}")


_CONSTANTS = {
    **dict.fromkeys(
        ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d"),
        "torch.memory_format",
    ),
    **dict.fromkeys(
        (
            "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
            "per_channel_symmetric", "per_channel_affine_float_qparams",
        ),
        "torch.qscheme",
    ),
}  # fmt: skip


def _persistent(value: PersistentId) -> tuple[str, Value]:
    named = value.value
    if isinstance(named, tuple) and len(named) >= 5 and named[0] == "storage":
        kind = named[1].path if isinstance(named[1], Global) else "storage"
        return kind, {"length": named[4], "head": []}
    path = global_path(value)
    return ("global", path) if path else ("persistent id", brief_repr(named))


# --- objects that a line can say ----------------------------------------------------------


def _joined(separator: str) -> Callable[[Call], Value]:
    return lambda call: separator.join(str(part) for part in constructor_arguments(call))


def _first(call: Call) -> Value:
    found = constructor_arguments(call)
    return found[0] if found and is_simple(found[0]) else None


def _complex(call: Call) -> Value:
    parts = [part for part in call.args if isinstance(part, int | float)]
    return str(complex(*parts[:2])) if len(parts) == len(call.args) else None


def _fraction(call: Call) -> Value:
    return "/".join(str(part) for part in constructor_arguments(call))


def _date(call: Call) -> Value:
    """As `isoformat()` says it. Source: Modules/_datetimemodule.c, `__reduce__`: a date is its
    year (2 bytes), month and day; a time its hour, minute, second and microsecond (3); the highest
    bit of the month, or of a time's hour, is the fold. A time zone is the second argument."""
    given = constructor_arguments(call)
    raw = as_bytes(given[0]) if given else None
    if raw is None or len(raw) not in (4, 6, 10):
        return None
    day = (
        ""
        if len(raw) == 6
        else f"{int.from_bytes(raw[:2], 'big'):04}-{raw[2] & 127:02}-{raw[3]:02}"
    )
    if len(raw) == 4:
        return day
    hour, minute, second, *rest = raw[-6:]
    micro = int.from_bytes(bytes(rest), "big")
    tail = f".{micro:06}" if micro else ""
    zone = _zone(given[1]) if len(given) > 1 else ""
    return f"{day}{'T' if day else ''}{hour & 127:02}:{minute:02}:{second:02}{tail}{zone}"


def _zone(value: Value) -> str:
    """`+09:00` for a `datetime.timezone`; the class of any other, whose rules no file records."""
    given = constructor_arguments(value) if isinstance(value, Call) else ()
    if not isinstance(value, Call) or class_path(value) != "datetime.timezone" or not given:
        return f" ({class_path(value)})" if isinstance(value, Call) else ""
    delta = constructor_arguments(given[0]) if isinstance(given[0], Call) else ()
    parts = [part for part in delta[:2] if isinstance(part, int)]
    if len(parts) != 2:
        return ""
    seconds = parts[0] * 86_400 + parts[1]
    sign, seconds = "-" if seconds < 0 else "+", abs(seconds)
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}" + (
        f":{seconds % 60:02}" if seconds % 60 else ""
    )


def _uuid(call: Call) -> Value:
    number = attributes_of(call).get("int")
    number = key_value(number) if number is not None else None
    if not isinstance(number, int):
        return None
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _windows(call: Call) -> Value:
    parts = [str(part) for part in constructor_arguments(call)]
    return (
        parts[0] + "\\".join(parts[1:]) if parts and parts[0].endswith("\\") else "\\".join(parts)
    )


def _posix(call: Call) -> Value:
    parts = [str(part) for part in constructor_arguments(call)]
    return "/" + "/".join(parts[1:]) if parts[:1] == ["/"] else "/".join(parts)


_SAYS: dict[str, Callable[[Call], Value]] = {
    "torch.device": _joined(":"),
    "torch.serialization._get_layout": _first,
    "builtins.complex": _complex,
    "decimal.Decimal": _first,
    "fractions.Fraction": _fraction,
    "datetime.datetime": _date,
    "datetime.date": _date,
    "datetime.time": _date,
    "uuid.UUID": _uuid,
    **{
        f"{module}.{name}": _posix
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "Path", "PurePath")
    },
    **{
        f"{module}.{name}": _windows
        for module in ("pathlib", "pathlib._local")
        for name in ("WindowsPath", "PureWindowsPath")
    },
}


_CALLED = {"torch.serialization._get_layout": "torch.layout", _COMPLEX: "complex"}


def _object(call: Call) -> tuple[str, Value] | None:
    """An object that one line can say: a number of numpy's, a path, a date, an enum's member."""
    array = as_array(call)
    if array is not None:
        return "numpy.ndarray", {"dtype": array.name, "shape": list(array.shape)}
    scalar = as_scalar(call)
    if scalar is not None:
        return f"numpy.{scalar[0]}", scalar[1]
    code = dtype_code(call)
    if code is not None:
        return "numpy.dtype", code
    path = class_path(call) or "object"
    raw = as_bytes(call)
    if raw is not None:
        return _bytes(bytearray(raw) if path == "builtins.bytearray" else raw)
    if path in _SAYS:
        return _CALLED.get(path, path), _SAYS[path](call)
    if function_path(call) == "builtins.getattr":  # a nested class, an enum's member
        named = global_path(call)  # None for a method of an object, which is looked into
        return None if named is None else ("global", named)
    if is_pickled_by_value(call):
        return "code", global_path(call)
    return _container(call, path)


def _container(call: Call, path: str) -> tuple[str, Value] | None:
    """Containers by call that hold plain values only, and enum members: `Color(1)`."""
    items = as_sequence(call)
    if items is not None and not attributes_of(call):
        return listed(path.removeprefix("builtins."), items)
    held = as_mapping(call)
    if held is not None:
        return (path, {"length": 0, "head": []}) if not held and not attributes_of(call) else None
    given = constructor_arguments(call)
    if call.changes is None and all(map(is_simple, given)) and not call.kwargs:
        if call.opcode == "NEWOBJ" and len(given) > 1:
            return None  # a named tuple: an entry for each of its items
        return path.removeprefix("builtins."), given[0] if len(given) == 1 else list(given) or None
    return None


def own_line(call: Call) -> Entry | None:
    """What the line of an object with insides says: its class; None for plain containers."""
    if as_mapping(call) is not None and class_path(call) in ("collections.OrderedDict",):
        return None
    return Entry((), (class_path(call) or "object").removeprefix("builtins."), None)


__all__ = ["HEAD", "Entry", "describe", "is_simple", "listed", "own_line"]
