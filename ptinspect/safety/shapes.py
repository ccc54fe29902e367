"""The shapes in which the writers of a callable call it, build its result, and fill it.

`policy.txt` has them and explains the notation. A shape is parsed at the first call of its name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import lru_cache
from types import NoneType, UnionType
from typing import NamedTuple

from ptinspect.pickling.numpy_objects import MAX_DIMS
from ptinspect.pickling.pyobjects import RECONSTRUCTORS, class_path
from ptinspect.pickling.values import (
    Blob,
    Call,
    Global,
    Inert,
    OutOfBand,
    PersistentId,
    SetOf,
    TensorCall,
    Value,
)
from ptinspect.safety.policy import listed_words
from ptinspect.safety.values import MAPPING_METHODS, codec_name

Kind = Callable[[Value], bool]
"""Returns True if a value is of the kind."""


class CallShape(NamedTuple):
    """One way in which a callable is called.

    Attributes:
        how: R (REDUCE), N (NEWOBJ) or C (another callable gets the class, and creates an object).
        args: kinds of the arguments, as one tuple.
        judged: (index, "class") of arguments of which the callable creates an object, (index,
            "pickle") of those that it loads.
        acts: True if the call does harm.
    """

    how: str
    args: Kind
    judged: tuple[tuple[int, str], ...]
    acts: bool


class Shapes(NamedTuple):
    """All that is done with a callable.

    Attributes:
        calls: its calls.
        states: kinds of the states that BUILD sets.
        fills: the opcodes that fill its result.
        keywords_act: True if a call with keyword arguments does harm. No writer makes one.
        methods: the methods of its arguments that it calls.
    """

    calls: tuple[CallShape, ...]
    states: tuple[Kind, ...]
    fills: frozenset[str]
    keywords_act: bool
    methods: tuple[str, ...]

    def find_call(self, args: tuple[Value, ...], how: str) -> CallShape | None:
        """Return the shape of a call without keyword arguments."""
        for shape in self.calls:
            if shape.how == how and shape.args(args):
                return shape
        return None


# --- kinds of values ----------------------------------------------------------------------

_LARGE_EXPONENT = re.compile(r"e[+-]?0*[1-9][0-9_]{4}", re.IGNORECASE)
_MAX_KEY_SIZE = 10_000
"""Values in a key: a tuple of tuples that are shared is hashed as often as it is reached."""

_DTYPES = ("numpy.dtype", "numpy._core._internal._convert_to_stringdtype_kwargs")
_CODECS = ("latin1", "iso88591", "utf8", "ascii")
_BYTES_TYPES = (bytes, str, Blob, OutOfBand)
_CONTENT_TYPES = (list, tuple, dict, str, bytes, int, SetOf)
_BYTES = ("_codecs.encode", "builtins.bytes", "builtins.bytearray")
_GENERIC_MODULES = ("typing", "typing_extensions", "builtins", "collections", "collections.abc")
_ITERATORS = listed_words("iterators")
_FILLS = {
    "+pairs": ("SETITEM", "SETITEMS"),
    "+items": ("APPEND", "APPENDS"),
    "+members": ("ADDITEMS",),
}
# Sources: torch/_utils.py; torch/nn/parameter.py (Parameter.__new__ calls data.detach()); and
# Objects/dictobject.c (dict_update_arg looks up keys()).
_METHODS = {
    "&tensor": ("detach", "requires_grad_", "to", "numpy", "as_subclass"),
    "&mapping": MAPPING_METHODS,
}


def _made_by(value: Value) -> str:
    """Return the name of the class or function that made an object; "" for other values."""
    if not isinstance(value, Call):
        return ""
    func = value.func
    if isinstance(func, Global) and func.path not in RECONSTRUCTORS:
        return func.path
    return class_path(value) or ""


def _is_shape(value: Value) -> bool:
    """Sizes, strides or a torch.Size, all of them from 0 on."""
    if isinstance(value, Call) and _made_by(value) == "torch.Size":
        value = value.args[0] if value.args else ()
    if not isinstance(value, tuple | list) or len(value) > MAX_DIMS:
        return False
    return all(isinstance(size, int) and size >= 0 for size in value)


def _is_tensor(value: Value) -> bool:
    if isinstance(value, TensorCall | PersistentId):
        return True
    path = _made_by(value)
    is_made = "_rebuild_" in path or path.endswith(("Tensor", "Parameter", "Buffer"))
    return is_made and path.startswith("torch.")


_LAST_POSITIONS = {"pos": 624, "buffer_pos": 4}
"""Positions up to which MT19937 and Philox have numbers. numpy reads on at any other."""


def _is_generator_state(value: Value) -> bool:
    """The state of a random generator: numbers, and a position inside of them."""
    if isinstance(value, tuple):  # ("MT19937", key, position, …)
        return len(value) > 2 and isinstance(value[2], int) and 0 <= value[2] <= 624
    if not isinstance(value, dict) or not isinstance(value.get("state", {}), dict | int):
        return False
    inner = value.get("state")
    for state in (value, inner if isinstance(inner, dict) else {}):
        for name, last in _LAST_POSITIONS.items():
            position = state.get(name, 0)
            if not isinstance(position, int) or not 0 <= position <= last:
                return False
    return True


def _is_hashable(value: Value) -> bool:
    """Members of a set. Tuples that share parts may take more than any time to hash."""
    if isinstance(value, list) and not any(isinstance(item, tuple) for item in value):
        return True
    sizes: dict[int, int] = {}

    def size(item: Value, depth: int) -> int:
        if not isinstance(item, tuple):
            return 1
        if depth > MAX_DIMS:
            return _MAX_KEY_SIZE + 1
        if id(item) not in sizes:
            sizes[id(item)] = 1 + sum(size(part, depth + 1) for part in item)
        return sizes[id(item)]

    if not isinstance(value, list | tuple):
        return False
    return all(size(item, 0) <= _MAX_KEY_SIZE for item in value)


_TYPES: dict[str, type | UnionType] = {
    "any": object, "callable": Inert | None, "class": Inert, "dict": dict, "float": float,
    "hooks": dict | Call | None, "int": int, "list": list, "name": Inert, "none": NoneType,
    "num": int | float | complex, "object": Call | PersistentId, "pickle": object, "str": str,
    "tuple": tuple,
}  # fmt: skip
_KINDS: dict[str, Kind] = {
    "array": lambda value: _made_by(value).startswith("numpy."),
    "bool": lambda value: isinstance(value, int) and value in (0, 1),
    "bytes": lambda value: isinstance(value, _BYTES_TYPES) or _made_by(value) in _BYTES,
    "codec": lambda value: codec_name(value) in _CODECS,
    # what the file holds, or an iterator over it
    "content": lambda value: isinstance(value, _CONTENT_TYPES) or _made_by(value) in _ITERATORS,
    "dtype": lambda value: _made_by(value) in _DTYPES,
    "flags": lambda value: isinstance(value, dict) and set(map(type, value.values())) <= {bool},
    # `List` in `List[int]`
    "generic": lambda value: (
        isinstance(value, Global)
        and value.module in _GENERIC_MODULES
        and value.name.isidentifier()
        and not value.name.startswith("_")
    ),
    "generator": _is_generator_state,
    "hashable": _is_hashable,
    # the arguments of a table's labels; other iterables could be expanded without an end
    "index": lambda value: (
        isinstance(value, dict)
        and all(
            _made_by(item).startswith(("numpy.", "pandas.", "builtins.slice"))
            for item in value.values()
            if isinstance(item, Call)
        )
    ),
    "nat": lambda value: isinstance(value, int) and value >= 0,
    # its text, without an exponent that makes it huge
    "number": lambda value: isinstance(value, str) and not _LARGE_EXPONENT.search(value),
    "pair": lambda value: (
        isinstance(value, list | tuple) and len(value) == 2 and _is_hashable(value[:1])
    ),
    "shape": _is_shape,
    "storage": lambda value: (
        isinstance(value, PersistentId)
        or _made_by(value).endswith(("Storage", "._load_from_bytes"))
    ),
    "tensor": _is_tensor,
}


def block_exceeds_table(args: tuple[Value, ...]) -> bool:
    """Return True if a block of pandas' BlockManager(blocks, axes) may be outside of its table.

    pandas writes to memory where a block says that it belongs, without a look at the axis.
    """
    if not args:
        return False  # created by NEWOBJ, and filled by BUILD
    blocks, axes = args
    index = axes[0] if isinstance(axes, list) and axes else None
    fields = index.args[1] if isinstance(index, Call) and len(index.args) == 2 else None
    length = _axis_length(fields) if isinstance(fields, dict) else None
    for block in blocks if isinstance(blocks, tuple) else (blocks,):
        placement = block.args[1] if isinstance(block, Call) and len(block.args) > 1 else None
        bounds = placement.args if isinstance(placement, Call) else ()
        start, stop, step = bounds if len(bounds) == 3 else (None, None, None)
        is_range = isinstance(start, int) and isinstance(stop, int) and step in (1, None)
        if length is None or not is_range or not 0 <= start <= stop <= length:  # type: ignore[operator]
            return True
    return False


def _axis_length(fields: dict[Value, Value]) -> int | None:
    """Return the number of labels of `_new_Index(class, fields)`, or None if it is not recorded."""
    start, stop, step = (fields.get(name) for name in ("start", "stop", "step"))
    if isinstance(start, int) and isinstance(stop, int) and step == 1:
        return max(stop - start, 0)
    data = fields.get("data")
    if not isinstance(data, Call) or not isinstance(data.func, Global):
        return None
    shape = data.state[1] if isinstance(data.state, tuple) and len(data.state) == 5 else None
    if data.func.name == "_frombuffer":
        shape = data.args[2] if len(data.args) > 2 else None
    length = shape[0] if isinstance(shape, tuple) and len(shape) == 1 else None
    return length if isinstance(length, int) else None


# --- notation -----------------------------------------------------------------------------

_TOKEN = re.compile(r"[()\[\]|?*=!]|[+&]\w+|[^\s()\[\]|?*=!]+")


@lru_cache(1024)
def parse_shapes(text: str) -> Shapes:
    """Parse the shapes of a line of the policy."""
    return _Parser(text).shapes()


class _Parser:
    """Recursive descent over the notation of `policy.txt`."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)[::-1]
        self.judged = ""

    def _accept(self, token: str) -> bool:
        if self.tokens and self.tokens[-1] == token:
            self.tokens.pop()
            return True
        return False

    def shapes(self) -> Shapes:
        calls: list[CallShape] = []
        states: list[Kind] = []
        fills: list[str] = []
        methods: tuple[str, ...] = ()
        keywords_act = False
        while self.tokens:
            if self._accept("-"):
                continue
            if self._accept("="):
                states.append(self._kind())
            elif self.tokens[-1] in _FILLS:
                fills += _FILLS[self.tokens.pop()]
            elif self.tokens[-1] in _METHODS:
                methods = _METHODS[self.tokens.pop()]
            else:
                acts = self._accept("!")
                if acts and self._accept("keywords"):
                    keywords_act = True
                    continue
                how = self.tokens.pop()
                if not self._accept("("):
                    raise ValueError("a call without its arguments")
                args, judged = self._items()
                calls.append(CallShape(how, args, judged, acts))
        return Shapes(tuple(calls), tuple(states), frozenset(fills), keywords_act, methods)

    def _items(self) -> tuple[Kind, tuple[tuple[int, str], ...]]:
        """Parse the kinds up to `)`. Return the kind of the whole tuple, and which are judged."""
        kinds: list[Kind] = []
        judged: list[tuple[int, str]] = []
        required, rest = 0, None
        while not self._accept(")"):
            self.judged = ""
            kind = self._kind()
            if self.judged:
                judged.append((len(kinds), self.judged))
            if self._accept("*"):
                rest = kind
                continue
            kinds.append(kind)
            required += not self._accept("?")
        most = len(kinds) if rest is None else sys.maxsize

        def matches(value: Value) -> bool:
            if type(value) is not tuple or not required <= len(value) <= most:
                return False
            for kind, item in zip(kinds, value, strict=False):
                if not kind(item):
                    return False
            return rest is None or all(map(rest, value[len(kinds) :]))

        return matches, tuple(judged)

    def _kind(self) -> Kind:
        kinds = [self._single_kind()]
        while self._accept("|"):
            kinds.append(self._single_kind())
        if len(kinds) == 1:
            return kinds[0]
        first, *others = kinds
        second = others[0] if len(others) == 1 else lambda value: any(k(value) for k in others)
        return lambda value: first(value) or second(value)

    def _single_kind(self) -> Kind:
        token = self.tokens.pop()
        if token == "(":
            return self._items()[0]
        if token == "[":
            kind = self._kind()
            if not self._accept("]"):
                raise ValueError("a list without an end")
            return lambda value: isinstance(value, list) and all(map(kind, value))
        if token[0] == "@":
            name = token[1:]
            return lambda value: isinstance(value, Global) and value.path == name
        if token[0] == "<":
            name = token[1:-1]
            return lambda value: _made_by(value) == name
        if token.isdigit():
            number = int(token)
            return lambda value: isinstance(value, int) and value == number
        if token[0] == '"':
            return lambda value: value == token[1:-1]
        if token in ("class", "pickle"):
            self.judged = token
        types = _TYPES.get(token)
        return _KINDS[token] if types is None else lambda value: isinstance(value, types)
