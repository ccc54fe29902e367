"""What loading would do with inert values: texts that it runs, methods that the file replaces,
bytes that it loads, parts of sparse and nested tensors."""

from __future__ import annotations

from ptinspect.pickling.pyobjects import global_path, resolve_global
from ptinspect.pickling.values import Blob, Call, Global, Python2Str, SetOf, Value

MAPPING_METHODS = ("keys", "items")
"""The methods by which `__setstate__` uses a state that is not a dictionary."""

_MAX_EXAMINED = 4096  # values that are searched for a text that is run as source


def codec_name(value: Value) -> str:
    """Return the name of a codec as Python normalizes it: `latin1` for "Latin-1"."""
    return value.lower().replace("-", "").replace("_", "") if isinstance(value, str) else ""


def runs_source(func: Global, args: Value) -> bool:
    """Return True for a class of sympy with a text that could be a call: sympify() evaluates it."""
    if func.module.partition(".")[0] != "sympy":
        return False
    seen: set[int] = set()
    todo = [args]
    while todo and len(seen) < _MAX_EXAMINED:
        value = todo.pop()
        if isinstance(value, str) and "(" in value:
            return True
        if id(value) in seen:
            continue
        if isinstance(value, tuple | list | dict | SetOf):
            seen.add(id(value))
            todo += value
            todo += value.values() if isinstance(value, dict) else ()
        elif isinstance(value, Call):  # sympify() evaluates str(value) of what it does not know
            seen.add(id(value))
            if not (global_path(value.func) or "").startswith("sympy."):
                todo += (value.args, value.state)
    return False


def overridden_method(value: Value, methods: tuple[str, ...]) -> str | None:
    """Return the first of the methods that the file has replaced on an object, or None."""
    if not isinstance(value, Call) or (value.changes is None and not value.args):
        return None
    for state in (value.state, *value.args[:4]):  # set by BUILD, or by the call itself
        for attributes in state[:4] if isinstance(state, tuple) else (state,):
            if isinstance(attributes, dict):
                for name in methods:
                    if isinstance(attributes.get(name), Call | Global):
                        return name
    return None


def literal_bytes(value: Value) -> bytes | Blob | str | None:
    """Return bytes that the pickle holds literally, or None.

    Protocols 0 to 2 write bytes as `_codecs.encode(text, "latin1")`: the text is returned, since
    many calls may share it.
    """
    if isinstance(value, bytes | Blob):
        return value
    if isinstance(value, str):  # of Python 2
        return value.raw if isinstance(value, Python2Str) else value
    if not isinstance(value, Call) or not isinstance(value.func, Global):
        return None
    if value.func.path == "_codecs.encode" and len(value.args) == 2:
        text, codec = value.args[0], codec_name(value.args[1])
        # Writers use latin1; in other codecs only ASCII has the same bytes.
        is_latin1 = codec in ("latin1", "iso88591")
        is_ascii = isinstance(text, str) and codec in ("utf8", "ascii") and text.isascii()
        return text if isinstance(text, str) and (is_latin1 or is_ascii) else None
    return b"" if value.func.path == "builtins.bytes" and not value.args else None


MAX_DEPTH = 8
"""Nesting of calls in arguments of calls that is followed; honest files have two."""

# --- sparse and nested tensors ------------------------------------------------------------

_NESTED_MODULE = "torch.nested._internal.nested_tensor."
_REBUILDS_NESTED, _NESTED_TENSOR = f"{_NESTED_MODULE}_rebuild_njt", f"{_NESTED_MODULE}NestedTensor"
_REBUILDS_INDEXED = (
    "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_sparse_csr_tensor",
    _REBUILDS_NESTED, _NESTED_TENSOR,
)  # fmt: skip


def has_indices(func: Global | None, args: Value) -> bool:
    """Return True if a call makes a tensor whose indices or offsets say where its values are."""
    for _ in range(MAX_DEPTH):
        if func is None or not isinstance(args, tuple) or func.path in _REBUILDS_INDEXED:
            break
        if not func.name.startswith("_rebuild_from_type") or len(args) < 3:
            return False
        func, args = resolve_global(args[0], MAX_DEPTH), args[2]
    return func is not None


def replaces_nested_parts(func: Global, args: tuple[Value, ...], state: Value) -> bool:
    """Return True if a call sets the parts of a nested tensor to others than it was created with.

    Source: NestedTensor.__reduce_ex__, which before torch 2.5 created it without its lengths.
    """
    parts: dict[str, object] = dict.fromkeys(("_values", "_offsets", "_lengths", "_ragged_idx"), ())
    inner = args[2] if len(args) == 4 and func.name.startswith("_rebuild_from_type") else None
    if isinstance(inner, tuple) and inner:
        creates, first = resolve_global(args[0], MAX_DEPTH), inner[0]
        if creates and creates.path == _NESTED_TENSOR:
            parts = dict(zip(("_values", "_offsets"), inner, strict=False))
        elif creates and creates.path == _REBUILDS_NESTED and isinstance(first, dict):
            first = {"_ragged_idx": 1, **first}
            parts = {name: first.get(name if name in first else name[1:]) for name in parts}
    return any(
        attributes[name] is not part
        for attributes in (state if isinstance(state, tuple) else (state,))
        if isinstance(attributes, dict)
        for name, part in parts.items()
        if name in attributes
    )
