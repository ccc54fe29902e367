"""Read inert objects as the plain Python things that they stand for.

The machine only records calls. This module recognizes the handful of calls that stand for classes,
instances with attributes, mappings, sequences and bytes. A function returns None for a value that
is not of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ptinspect.pickling.values import (
    Blob,
    Call,
    Global,
    Key,
    PersistentId,
    Python2Str,
    SetOf,
    Value,
    key_value,
)

ORDERED_DICT = "collections.OrderedDict"
COUNTER = "collections.Counter"
PARTIAL = "functools.partial"
GETATTR = "builtins.getattr"

Path = tuple[str | int, ...]
"""The steps from a file's root object to a value: keys, indexes and names of attributes."""

# Functions that make an instance of the class that is their first argument.
# Sources: copyreg.py; pickle.py's save_reduce below protocol 2.
RECONSTRUCTORS = frozenset(
    {"copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__"}
)

# Source: torch/fx/graph_module.py. The first dict among the arguments is the module's `__dict__`.
GRAPH_MODULE = "torch.fx.graph_module.GraphModule"
GRAPH_MODULE_REDUCERS = frozenset(
    f"torch.fx.graph_module.reduce_{kind}graph_module" for kind in ("", "package_", "deploy_")
)

# Classes pickled by value: (index of the argument with the name, index of the argument that may be
# the module's name or a dict with it). Sources: cloudpickle.py (`_make_skeleton_class`,
# `_make_skeleton_enum`), dill/_dill.py (`_create_type`, `save_type`).
_BY_VALUE = {
    "cloudpickle.cloudpickle._make_skeleton_class": (1, 3),
    "cloudpickle.cloudpickle._make_skeleton_enum": (1, 4),
    "cloudpickle.cloudpickle_fast._make_skeleton_class": (1, 3),
    "dill._dill._create_type": (1, 3),
}

_EMPTY: dict[Value, Value] = {}


# Names of classes and functions


def function_path(call: Call) -> str | None:
    """Return the dotted path of the function that `call` calls, if that is a plain global."""
    return call.func.path if isinstance(call.func, Global) else None


def global_path(value: Value) -> str | None:
    """Return the dotted path of the class or function that `value` names: see `global_name`."""
    if isinstance(value, Global):
        return value.path
    name = global_name(value)
    return f"{name[0]}.{name[1]}" if name else None


def global_name(value: Value) -> tuple[str, str] | None:
    """Return the module and qualified name of the class or function that `value` names. That is
    a global, a class saved with its source (legacy files), `getattr(Outer, "Inner")`, or a class
    pickled by value."""
    value, names = split_getattr(value)
    if isinstance(value, PersistentId):
        value, inner_names = split_getattr(legacy_class(value))
        names = (*inner_names, *names)
    if isinstance(value, Global):
        return value.module, ".".join([value.name, *names])
    by_value = _class_by_value(value) if isinstance(value, Call) else None
    return (by_value[0], ".".join([by_value[1], *names])) if by_value else None


def split_getattr(value: Value, max_depth: int = 64) -> tuple[Value, tuple[str, ...]]:
    """Return (base, names) of nested calls `getattr(base, name)`; (value, ()) without one.
    Protocols 0 to 3 write a dotted name this way (pickle.py, `save_global`). `max_depth` bounds
    the work per value, as a hostile file nests thousands."""
    names: list[str] = []
    while len(names) < max_depth and isinstance(value, Call) and function_path(value) == GETATTR:
        if len(value.args) != 2 or not isinstance(value.args[1], str):
            break
        names.append(str(value.args[1]))
        value = value.args[0]
    return value, tuple(reversed(names))


def resolve_global(value: Value, max_depth: int = 8) -> Global | None:
    """Return the global that `value` stands for, as strictly as a judgement on safety needs it.
    That is a global, the class of a legacy persistent id, or at most `max_depth` nested calls
    `getattr(Outer, "Inner")` of identifiers."""
    if isinstance(value, Global):
        return value
    if isinstance(value, PersistentId):
        candidate = legacy_class(value)
        return candidate if isinstance(candidate, Global) else None
    base, names = split_getattr(value, max_depth)
    if not isinstance(base, Global) or not isinstance(value, Call):
        return None
    is_name = all(name.isidentifier() for name in names)
    return Global(base.module, ".".join([base.name, *names]), value.offset) if is_name else None


def legacy_class(value: PersistentId) -> Value:
    """Return the class in a legacy file's ("module", class, source file, source), or in the
    (class, source file, source) of the tar of torch 0.1; None or text for other values.

    Source: `torch.serialization._legacy_save.persistent_id`.
    """
    parts = value.value
    if not isinstance(parts, tuple) or len(parts) < 3:
        return None
    return parts[1] if parts[0] == "module" else parts[0]


def is_pickled_by_value(value: Value) -> bool:
    """Return True if a class or function comes as code inside the pickle (cloudpickle, dill)."""
    path = (function_path(value) if isinstance(value, Call) else None) or ""
    is_of_package = path.partition(".")[0] in ("cloudpickle", "dill")
    return is_of_package and path != "cloudpickle.cloudpickle.subimport"


def _class_by_value(call: Call) -> tuple[str, str] | None:
    indexes = _BY_VALUE.get(function_path(call) or "")
    if indexes is None or len(call.args) <= indexes[0]:
        return None
    name, module = call.args[indexes[0]], "__main__"
    if not isinstance(name, str):
        return None
    holder = call.args[indexes[1]] if len(call.args) > indexes[1] else None
    if isinstance(holder, str):
        module = holder
    for namespace in (holder, call.state[0] if isinstance(call.state, tuple) else call.state):
        if isinstance(namespace, dict) and isinstance(namespace.get("__module__"), str):
            module = namespace["__module__"]
    return module or "__main__", name


# Instances


def class_path(call: Call) -> str | None:
    """Return the path of the class that `call` instantiates, or of the function that it calls."""
    path = global_path(_class_of(call))
    return GRAPH_MODULE if path in GRAPH_MODULE_REDUCERS else path


def class_name(call: Call) -> tuple[str, str] | None:
    """Return module and qualified name of the class that `call` instantiates, or its function."""
    return global_name(_class_of(call))


def _class_of(call: Call) -> Value:
    """Return the class that `call` instantiates, or the function that it calls."""
    if function_path(call) in RECONSTRUCTORS and call.args:
        return call.args[0]
    new_args = _partial_new(call)
    return new_args[0] if new_args else call.func


def constructor_arguments(call: Call) -> tuple[Value, ...]:
    """Return the arguments for the class that `class_path` names."""
    path = function_path(call)
    if path == "copyreg._reconstructor":  # (class, base, state of the base)
        return call.args[2:3] if len(call.args) > 2 and call.args[2] is not None else ()
    if path == "copyreg.__newobj_ex__":  # (class, arguments, keyword arguments)
        arguments = call.args[1] if len(call.args) == 3 else None
        return arguments if isinstance(arguments, tuple) else call.args[1:]
    if path is None:
        new_args = _partial_new(call)
        return new_args[1:] if new_args else call.args
    return call.args[1:] if path in RECONSTRUCTORS else call.args


def _partial_new(call: Call) -> tuple[Value, ...] | None:
    """Return class and arguments of `partial(Class.__new__, Class, *args, **kwargs)()`.
    Protocols 2 and 3 write an object whose class has `__getnewargs_ex__` this way (pickle.py,
    `save_reduce`)."""
    partial = call.func
    if not isinstance(partial, Call) or function_path(partial) != PARTIAL or call.args:
        return None
    state = partial.state
    if not isinstance(state, tuple) or len(state) < 2:
        return None
    if not (global_path(state[0]) or "").endswith(".__new__"):
        return None
    return state[1] if isinstance(state[1], tuple) and state[1] else None


def attributes_of(call: Call) -> dict[Value, Value]:
    """Return the instance's attributes: all dicts that BUILD received, slots included."""
    if call.changes is None or not call.changes.states:
        if function_path(call) in GRAPH_MODULE_REDUCERS:
            return next((arg for arg in call.args if isinstance(arg, dict)), _EMPTY)
        return _EMPTY
    states = call.changes.states
    if len(states) == 1 and isinstance(states[0], dict):
        return states[0]
    merged: dict[Value, Value] = {}
    for state in states:
        for attributes in _attribute_dicts(state) or ():
            merged.update(attributes)
    return merged


def _attribute_dicts(state: Value) -> list[dict[Value, Value]] | None:
    """Return the attributes in a state; None for a state that only a `__setstate__` understands.
    A state is a dict, or a pair of that (or None) and the slots' (pickle.py, `load_build`)."""
    is_pair = isinstance(state, tuple) and len(state) == 2
    dicts = []
    for part in state if isinstance(state, tuple) and is_pair else (state,):
        items = as_mapping(part)
        if items is None and (part is not None or not is_pair):
            return None
        dicts.append(items or {})
    return dicts


# Containers and bytes


# The argument of a constructor that has the first items.
_ITEMS_ARGUMENT = {ORDERED_DICT: 0, COUNTER: 0, "collections.defaultdict": 1}


def as_mapping(value: Value, max_depth: int = 8) -> dict[Value, Value] | None:
    """Return the items of a dict, OrderedDict, defaultdict, Counter or other subclass of dict, from
    the constructor's argument and from those set afterwards. `max_depth` bounds the work for a dict
    of a dict of a dict."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Call):
        return None
    pairs = value.changes.pairs if value.changes is not None else _EMPTY
    path = function_path(value) or ""
    index = _ITEMS_ARGUMENT.get(path)
    if index is None or len(value.args) <= index:
        return pairs or (None if index is None else _EMPTY)
    argument = value.args[index]
    items = as_mapping(argument, max_depth - 1) if max_depth else None
    if items is None and isinstance(argument, list | tuple) and path != COUNTER:
        items = {}  # a list of [key, value], as Python 2 and protocol 0 write an OrderedDict
        for pair in argument:
            if isinstance(pair, list | tuple) and len(pair) == 2:
                key = pair[0]
                is_plain = isinstance(key, str | int | float | None)
                items[key if is_plain else Key(key, id(key))] = pair[1]
    return {**(items or _EMPTY), **pairs} if pairs else items or _EMPTY


def as_sequence(value: Value) -> list[Value] | tuple[Value, ...] | None:
    """Return the items of a list, tuple, set, torch.Size, deque or subclass of list."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, SetOf):
        return list(value)
    if not isinstance(value, Call):
        return None
    path = function_path(value)
    first = value.args[0] if value.args else ()
    if path in ("torch.Size", "builtins.set", "builtins.frozenset", "builtins.list"):
        return first if isinstance(first, list | tuple) else None
    if value.changes is not None and value.changes.items:
        return value.changes.items
    if path == "collections.deque":
        return first if isinstance(first, list | tuple) else ()
    return None


def as_bytes(value: Value) -> bytes | None:
    """Return the content of a bytes or bytearray object. A long one is copied. Protocols below 3
    write bytes as `_codecs.encode(text, "latin1")` (pickle.py, `save_bytes`); Python 2 writes a
    str."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Blob):
        return value.read()
    if isinstance(value, Python2Str):
        return value.raw
    if isinstance(value, str):
        return value.encode("latin1") if value.isascii() else None
    if not isinstance(value, Call):
        return None
    path, args = function_path(value), value.args
    if path == "_codecs.encode" and len(args) == 2 and args[1] in ("latin1", "latin-1"):
        try:
            return args[0].encode("latin1") if isinstance(args[0], str) else None
        except UnicodeEncodeError:
            return None
    if path in ("builtins.bytes", "builtins.bytearray"):
        return as_bytes(args[0]) if args else b""
    return None


def metadata_of(value: Value) -> dict[str, Value] | None:
    """Return the `_metadata` that `Module.state_dict` sets on its OrderedDict."""
    if not isinstance(value, Call) or function_path(value) != ORDERED_DICT:
        return None
    metadata = as_mapping(attributes_of(value).get("_metadata"))
    return None if metadata is None else {str(key): item for key, item in metadata.items()}


class ObjectParts(NamedTuple):
    """What the functions of this module find in one object: None for what it is not. `path` is that
    of its class, `name` that of the class or function that it stands for itself."""

    path: str
    name: tuple[str, str] | None
    attributes: dict[Value, Value]
    metadata: dict[str, Value] | None
    items: dict[Value, Value] | None
    sequence: list[Value] | tuple[Value, ...] | None
    data: bytes | None
    arguments: tuple[Value, ...]
    is_by_value: bool


def object_parts(call: Call) -> ObjectParts:
    return ObjectParts(
        class_path(call) or "", global_name(call), attributes_of(call), metadata_of(call),
        as_mapping(call), as_sequence(call), as_bytes(call), constructor_arguments(call),
        is_pickled_by_value(call),
    )  # fmt: skip


# Children, and the paths that lead to them


def iter_children(value: Value) -> Iterator[tuple[str | int, Value]]:
    """Yield (step, child): the step is a key, an index or an attribute's name. `args` and
    `kwargs` of a call appear under those names unless they are its items."""
    items = as_mapping(value)
    elements = as_sequence(value) if items is None else None
    if items is not None:
        for key, item in items.items():
            yield path_step(key), item
    elif elements is not None:
        yield from enumerate(elements)
    if isinstance(value, Call):
        yield from _call_children(value, items is not None or elements is not None)


def iter_non_items(value: Value) -> Iterator[tuple[str | int, Value]]:
    """Yield what `iter_children` yields for a mapping after its items, such as attributes."""
    return _call_children(value, True) if isinstance(value, Call) else iter(())


def _call_children(call: Call, is_container: bool) -> Iterator[tuple[str | int, Value]]:
    """Yield a call's arguments, unless they are its items, and what it was built with."""
    state = call.state
    if function_path(call) == PARTIAL and isinstance(state, tuple):
        parts = zip(("func", "args", "keywords", "__dict__"), state, strict=False)
        yield from ((name, part) for name, part in parts if name != "__dict__" or part)
        return
    states = call.changes.states if call.changes is not None else ()
    if not is_container:
        is_named_tuple = call.opcode == "NEWOBJ" and not states  # its arguments are its items
        for index, item in enumerate(constructor_arguments(call)):
            yield index if is_named_tuple else f"args[{index}]", item
    kwargs: Value = call.kwargs
    if function_path(call) == "copyreg.__newobj_ex__" and len(call.args) == 3:
        kwargs = call.args[2]
    for key, item in (kwargs if isinstance(kwargs, dict) else _EMPTY).items():
        yield f"kwargs[{path_step(key)}]", item
    for key, item in attributes_of(call).items():
        # A state_dict's `_metadata` holds the versions of its modules.
        if key != "_metadata" or function_path(call) != ORDERED_DICT:
            yield path_step(key), item
    for state in states:
        if _attribute_dicts(state) is None:  # only the class's `__setstate__` understands it
            items = as_sequence(state)
            yield from enumerate(items) if items is not None else [("state", state)]
    for item in call.added if not is_container else ():
        yield "added", item


def path_step(key: Value) -> str | int:
    """Return a dictionary key as a step of a path."""
    key = key_value(key)
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return brief_repr(key) if is_huge_int(key) else key
    raw = as_bytes(key) if isinstance(key, Call) else None
    return brief_repr(key if raw is None else raw)


def dotted(path: Path) -> str:
    """Return a path as options take it: `optimizer.state[0]`, `models[1]["a.b"]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step and not any(char in step for char in '.["'):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text or "the root"


def bracketed(path: Path) -> str:
    """Return a path in which keys with dots are unambiguous: `["0"]["a.b"][0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f'["{step}"]' for step in path)


def is_huge_int(value: Value) -> bool:
    """Return True for an integer with so many digits that Python may refuse to write them."""
    return isinstance(value, int) and value.bit_length() > 1_000


def brief_repr(value: Value) -> str:
    """Return a short text for a value, without descending: for unusual keys and for arguments."""
    if isinstance(value, tuple):
        items = ", ".join(_brief_leaf(item) for item in value[:8])
        more = ", ..." if len(value) > 8 else "," if len(value) == 1 else ""
        return f"({items}{more})"
    return _brief_leaf(value)


def _brief_leaf(value: Value) -> str:
    if isinstance(value, int) and is_huge_int(value):
        return f"an integer of {value.bit_length():,} bits"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        text = repr(str(value) if isinstance(value, str) else value)
        return text if len(text) <= 80 else text[:77] + "..."
    if isinstance(value, Global):
        return value.path
    if isinstance(value, Call):
        first = value.args[0] if len(value.args) == 1 else None
        shown = repr(first) if isinstance(first, str | int) and not is_huge_int(first) else "..."
        return f"{class_path(value) or 'object'}({shown})"
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return repr(value)
