"""What allowed functions call on their arguments: where the file has put something in a method's
place, they call that."""

from __future__ import annotations

from ptinspect.pickling.values import Call, Global, Value

_TENSOR = ("detach", "requires_grad_", "to", "numpy", "as_subclass")
_MAPPING = ("keys", "items")

CALLED: dict[str, tuple[str, ...]] = {
    # torch/_utils.py, torch/nn/parameter.py: Parameter.__new__ calls data.detach()
    "torch._utils._rebuild_parameter": _TENSOR,
    "torch._utils._rebuild_parameter_with_state": _TENSOR,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _TENSOR,
    "torch.nn.parameter.Parameter": _TENSOR,
    "torch.nn.parameter.Buffer": _TENSOR,
    "torch.nn.Parameter": _TENSOR,
    # Objects/dictobject.c: dict_update_arg asks for keys()
    "builtins.dict": _MAPPING,
    "collections.OrderedDict": _MAPPING,
    "collections.defaultdict": _MAPPING,
    "collections.Counter": _MAPPING,
    "collections.UserDict": _MAPPING,
}
"""By the name of an allowed function: the methods of an argument that it may call."""


def put_in_place(func: Global, args: tuple[Value, ...]) -> str | None:
    """The name of a method that `func` would call, and that the file has put there."""
    names = CALLED.get(func.path)
    if names is None:
        return None
    return next((name for arg in args[:3] if (name := _put(arg, names))), None)


def put_in_state(state: Value) -> str | None:
    """The same of a state that is no dictionary: `__setstate__` would take it as a mapping."""
    return _put(state, _MAPPING)


def _put(made: Value, names: tuple[str, ...]) -> str | None:
    for part in _attributes(made) if isinstance(made, Call) else ():
        for name in names:
            if isinstance(part.get(name), Call | Global):
                return name
    return None


def _attributes(made: Call) -> list[dict[Value, Value]]:
    """What BUILD gave an object, or the call that made it."""
    found: list[dict[Value, Value]] = []
    for state in (made.state, *made.args[:4]):
        parts = state[:4] if isinstance(state, tuple) else (state,)
        found += [part for part in parts if isinstance(part, dict)]
    return found
