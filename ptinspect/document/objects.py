"""What common pickled objects are: classes, attributes, mappings, sequences, bytes.

The machine records calls; here the handful of calls that stand for plain Python things are
read as those. Each function answers None where the value is not of that kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ptinspect.pickling.values import (
    Blob,
    Call,
    Global,
    PersistentId,
    Python2Str,
    SetOf,
    Value,
    key_value,
)

ORDERED_DICT = "collections.OrderedDict"
PARTIAL = "functools.partial"

_EMPTY: dict[Value, Value] = {}

# Functions that make an instance of the class that is their first argument.
# Sources: copyreg.py; pickle.py's save_reduce below protocol 2.
_CONSTRUCTORS = {"copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__"}

# Classes by value: (argument that holds the name, argument that may hold a dict with the
# module's name). Sources: cloudpickle.py (`_make_skeleton_class`, `_make_skeleton_enum`,
# `_make_function`), dill/_dill.py (`_create_type`, `save_type`).
_BY_VALUE = {
    "cloudpickle.cloudpickle._make_skeleton_class": (1, 3),
    "cloudpickle.cloudpickle._make_skeleton_enum": (1, 4),
    "cloudpickle.cloudpickle_fast._make_skeleton_class": (1, 3),
    "dill._dill._create_type": (1, 3),
}
_MODULE_ARGUMENT = {"cloudpickle.cloudpickle._make_skeleton_enum": 4}


def path_of(value: Value) -> str | None:
    """The dotted path of a class or function that `value` names: a global, a class that comes
    with its source (legacy files), `getattr(Outer, "Inner")`, or a class pickled by value."""
    names: list[str] = []
    while True:
        if isinstance(value, Global):
            return ".".join([value.path, *reversed(names)])
        if isinstance(value, PersistentId):
            value = module_class(value)
        elif isinstance(value, Call) and path_of_function(value) == "builtins.getattr":
            if len(value.args) < 2 or not isinstance(value.args[1], str):
                return None
            names.append(value.args[1])
            value = value.args[0]
        elif isinstance(value, Call):
            made = _class_by_value(value)
            return ".".join([made, *reversed(names)]) if made else None
        else:
            return None


def path_of_function(call: Call) -> str | None:
    """The path of what `call` calls, where that is simply a global."""
    return call.func.path if isinstance(call.func, Global) else None


def module_class(value: PersistentId) -> Value:
    """The class in a legacy file's ("module", class, source file, source); None for others.

    Source: `torch.serialization._legacy_save.persistent_id`.
    """
    named = value.value
    return (
        named[1] if isinstance(named, tuple) and len(named) > 1 and named[0] == "module" else None
    )


def _class_by_value(call: Call) -> str | None:
    known = _BY_VALUE.get(path_of_function(call) or "")
    if known is None or len(call.args) <= known[0] or not isinstance(call.args[known[0]], str):
        return None
    name, module = call.args[known[0]], None
    holder = call.args[known[1]] if len(call.args) > known[1] else None
    if isinstance(holder, str):
        module = holder
    for place in (holder, call.state[0] if isinstance(call.state, tuple) else call.state):
        if isinstance(place, dict) and isinstance(place.get("__module__"), str):
            module = place["__module__"]
    return f"{module or '__main__'}.{name}"


def by_value(value: Value) -> bool:
    """Whether a class or function comes as code inside the pickle (cloudpickle, dill)."""
    path = path_of_function(value) if isinstance(value, Call) else None
    return (
        bool(path)
        and str(path).split(".")[0] in ("cloudpickle", "dill")
        and path != ("cloudpickle.cloudpickle.subimport")
    )


def class_of(call: Call) -> str | None:
    """The path of the class that `call` makes an instance of, or of the function that makes it."""
    path = path_of(call.func)
    if path in _CONSTRUCTORS and call.args:
        return path_of(call.args[0])
    if path == "torch.fx.graph_module.reduce_graph_module":
        return "torch.fx.graph_module.GraphModule"
    if path is None:
        made = _partial_new(call)
        return path_of(made[0]) if made else None
    return path


def arguments_of(call: Call) -> tuple[Value, ...]:
    """The arguments of the class that `class_of` names."""
    path = path_of_function(call)
    if path == "copyreg._reconstructor":  # (class, base, state of the base)
        return call.args[2:3] if len(call.args) > 2 and call.args[2] is not None else ()
    if path is None:
        made = _partial_new(call)
        return made[1:] if made else call.args
    return call.args[1:] if path in _CONSTRUCTORS else call.args


def _partial_new(call: Call) -> tuple[Value, ...] | None:
    """Class and arguments of `partial(Class.__new__, Class, *args, **kwargs)()`.

    Source: pickle.py, `save_reduce`: how protocols 2 and 3 write an object whose class has
    `__getnewargs_ex__`.
    """
    inner = call.func
    if not isinstance(inner, Call) or path_of_function(inner) != PARTIAL or call.args:
        return None
    state = inner.state
    if (
        not isinstance(state, tuple)
        or len(state) < 2
        or not (path_of(state[0]) or "").endswith(".__new__")
    ):
        return None
    return state[1] if isinstance(state[1], tuple) and state[1] else None


def attributes(call: Call) -> dict[Value, Value]:
    """The instance's attributes: the dicts that BUILD was given, slots included."""
    if call.changes is None or not call.changes.states:
        if path_of_function(call) == "torch.fx.graph_module.reduce_graph_module" and call.args:
            return call.args[0] if isinstance(call.args[0], dict) else _EMPTY
        return _EMPTY
    states = call.changes.states
    if len(states) == 1 and isinstance(states[0], dict):
        return states[0]
    merged: dict[Value, Value] = {}
    for state in states:
        for part in _parts_of(state) or ():
            merged.update(part)
    return merged


def _parts_of(state: Value) -> list[dict[Value, Value]] | None:
    """The dicts of attributes in a state; None where it is something else, for a `__setstate__`.

    Source: pickle.py, `load_build`: a dict, or a pair of that (or None) and the slots'.
    """
    pair = isinstance(state, tuple) and len(state) == 2
    made = []
    for part in state if isinstance(state, tuple) and pair else (state,):
        held = mapping(part)
        if held is None and (part is not None or not pair):
            return None
        made.append(held or {})
    return made


def mapping(value: Value) -> dict[Value, Value] | None:
    """The items of a dict, OrderedDict, defaultdict, Counter or another subclass of dict."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Call):
        return None
    if value.changes is not None and value.changes.pairs:
        return value.changes.pairs
    path = path_of_function(value)
    if path == ORDERED_DICT:
        return _pairs(value.args[0]) if value.args else _EMPTY
    if path == "collections.Counter":
        return (mapping(value.args[0]) if value.args else None) or _EMPTY
    if path == "collections.defaultdict":
        return _EMPTY
    return None


def _pairs(value: Value) -> dict[Value, Value]:
    """The items of an OrderedDict of Python 2 or protocol 0: a list of [key, value]."""
    if isinstance(value, dict):
        return value
    made: dict[Value, Value] = {}
    for pair in value if isinstance(value, list | tuple) else ():
        if isinstance(pair, list | tuple) and len(pair) == 2:
            key = pair[0]
            made[key if isinstance(key, str | int | float | None) else id(key)] = pair[1]
    return made


def sequence(value: Value) -> list[Value] | tuple[Value, ...] | None:
    """The items of a list, tuple, set, torch.Size, deque or a subclass of list."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, SetOf):
        return list(value)
    if not isinstance(value, Call):
        return None
    path = path_of_function(value)
    if path in ("torch.Size", "builtins.set", "builtins.frozenset", "builtins.list"):
        inner = value.args[0] if value.args else ()
        return inner if isinstance(inner, list | tuple) else None
    if value.changes is not None and value.changes.items:
        return value.changes.items
    if path == "collections.deque":
        inner = value.args[0] if value.args else ()
        return inner if isinstance(inner, list | tuple) else ()
    return None


def text(value: Value) -> str | None:
    """A string, of Python 2 too."""
    return value if isinstance(value, str) else None


def raw_bytes(value: Value) -> bytes | None:
    """A bytes or bytearray object, however the protocol writes it: as itself, as a str of
    Python 2, or as `_codecs.encode(text, "latin1")`, which is how Python 3 writes bytes below
    protocol 3 (pickle.py, `save_bytes`). A long one is copied."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Blob):
        return value.read()
    if isinstance(value, Python2Str):
        return value.raw
    if isinstance(value, str):
        return value.encode("latin1", "replace") if value.isascii() else None
    if isinstance(value, Call):
        return _called_bytes(value)
    return None


def _called_bytes(call: Call) -> bytes | None:
    path, args = path_of_function(call), call.args
    if path == "_codecs.encode" and len(args) == 2 and args[1] in ("latin1", "latin-1"):
        source = args[0]
        try:
            return source.encode("latin1") if isinstance(source, str) else None
        except UnicodeEncodeError:
            return None
    if path in ("builtins.bytes", "builtins.bytearray"):
        return raw_bytes(args[0]) if args else b""
    return None


def children(value: Value) -> Iterator[tuple[str | int, Value]]:
    """What lies inside `value`, with the step that leads there: a key, an index, an attribute's
    name; `args` and `kwargs` of a call stand under those names where nothing better is known."""
    items = mapping(value)
    if items is not None:
        for key, item in items.items():
            yield step(key), item
    else:
        parts = sequence(value)
        if parts is not None:
            yield from enumerate(parts)
    if isinstance(value, Call):
        yield from _inside(value, items is not None or sequence(value) is not None)


def beyond_items(value: Value) -> Iterator[tuple[str | int, Value]]:
    """What `children` tells of a mapping behind its items: what an object of such a class holds
    besides."""
    return _inside(value, True) if isinstance(value, Call) else iter(())


def _inside(call: Call, contained: bool) -> Iterator[tuple[str | int, Value]]:
    """Of a call: its arguments, unless they are the items already told; what it was built with."""
    state = call.state
    if path_of_function(call) == PARTIAL and isinstance(state, tuple):
        parts = zip(("func", "args", "keywords", "__dict__"), state, strict=False)
        yield from ((name, part) for name, part in parts if name != "__dict__" or part)
        return
    states = call.changes.states if call.changes is not None else ()
    if not contained:
        as_items = call.opcode == "NEWOBJ" and not states  # a named tuple's are its items
        for index, item in enumerate(arguments_of(call)):
            yield index if as_items else f"args[{index}]", item
    for key, item in (call.kwargs or _EMPTY).items():
        yield f"kwargs[{step(key)}]", item
    for key, item in attributes(call).items():
        if key != "_metadata" or path_of_function(call) != ORDERED_DICT:
            yield step(key), item  # a state_dict's `_metadata` are its modules' versions
    for state in states:
        if _parts_of(state) is None:  # of a `__setstate__` that takes something else
            items = sequence(state)
            yield from enumerate(items) if items is not None else [("state", state)]
    for item in call.added if not contained else ():
        yield "added", item


def step(key: Value) -> str | int:
    """A dictionary key as a step of a path."""
    key = key_value(key)
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return short(key) if is_huge(key) else key
    raw = raw_bytes(key) if isinstance(key, Call) else None
    return short(key if raw is None else raw)


def is_huge(value: Value) -> bool:
    """Whether an integer has so many digits that Python may refuse to write them."""
    return isinstance(value, int) and value.bit_length() > 1_000


def short(value: Value) -> str:
    """A value in a few words, without going deep: for odd keys and for arguments."""
    if isinstance(value, int) and is_huge(value):
        return f"an integer of {value.bit_length():,} bits"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        shown = repr(str(value) if isinstance(value, str) else value)
        return shown if len(shown) <= 80 else shown[:77] + "..."
    if isinstance(value, tuple):
        inner = ", ".join(_leaf(item) for item in value[:8])
        more = ", ..." if len(value) > 8 else "," if len(value) == 1 else ""
        return f"({inner}{more})"
    return _leaf(value)


def _leaf(value: Value) -> str:
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return short(value)
    if isinstance(value, Global):
        return value.path
    if isinstance(value, Call):
        path = class_of(value) or "object"
        first = value.args[0] if len(value.args) == 1 else None
        inside = repr(first) if isinstance(first, str | int) and not is_huge(first) else "..."
        return f"{path}({inside})"
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return repr(value)
