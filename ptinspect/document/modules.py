"""Modules: an object whose attributes are those of `torch.nn.Module`.

Source: `torch.nn.Module.__init__` (the attributes), `Module.__setstate__` (those that older
versions lack), `Module.state_dict` and `named_modules` (order and names).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ptinspect.pickling.pyobjects import (
    as_mapping,
    as_sequence,
    attributes_of,
    class_path,
    global_path,
)
from ptinspect.pickling.values import Call, Value
from ptinspect.torchnn.classes import lookup
from ptinspect.torchnn.reading import OPTIMIZED, unusual

PARAMETERS, BUFFERS, MODULES = "_parameters", "_buffers", "_modules"

_BOOKKEEPING = {
    PARAMETERS, BUFFERS, MODULES, "_non_persistent_buffers_set", "training", "_backend",
    "_is_full_backward_hook", "_version", "call_super_init", "dump_patches", "_compiled_call_impl",
}  # fmt: skip
HOOKS = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip
_HOOK_FLAGS = {
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
}  # fmt: skip
_DERIVED = {"_flat_weights", "_flat_weight_refs"}  # of RNNBase: its parameters once more


class ModuleInfo(NamedTuple):
    """A module at one of its places. root: the path of the module that is the root; name: as
    `named_modules(remove_duplicate=False)` has it below that root; training: None where the
    file does not record it."""

    root: tuple[str | int, ...]
    name: str
    module: Module

    @property
    def path(self) -> tuple[str | int, ...]:
        """The exact path in the file."""
        return (*self.root, *(self.name.split(".") if self.name else ()))


class Module:
    """A module as the file has it. `class_path` is the dotted path of its class, `call` the
    object, `attributes` its `__dict__`."""

    __slots__ = ("attributes", "call", "class_path")

    def __init__(self, call: Call, own: dict[Value, Value], path: str | None = None) -> None:
        self.call = call
        self.attributes = own
        self.class_path = path or class_path(call) or "unknown"

    @property
    def class_name(self) -> str:
        """The class's own name, as print(model) has it."""
        return self.class_path.rsplit(".", 1)[-1]

    @property
    def training(self) -> bool | None:
        """The flag that train() and eval() set; a compiled module's is that of the one inside
        (`torch._dynamo.eval_frame.OptimizedModule.training`)."""
        flag = self.attributes.get("training")
        if flag is None and self.class_path == OPTIMIZED:
            for _, inner in self.members(MODULES):
                flag = attributes_of(inner).get("training") if isinstance(inner, Call) else None
        return flag if isinstance(flag, bool) else None

    def members(self, name: str) -> Iterator[tuple[str, Value]]:
        """The items of `_parameters`, `_buffers` or `_modules`, in order, None included."""
        for key, value in (as_mapping(self.attributes.get(name)) or {}).items():
            if isinstance(key, str):
                yield key, value

    @property
    def non_persistent(self) -> frozenset[str]:
        """Names of the buffers that state_dict() leaves out; empty where the file is too old to
        say so (torch before 1.6), which reads them all as persistent, as torch does."""
        names = as_sequence(self.attributes.get("_non_persistent_buffers_set")) or ()
        return frozenset(name for name in names if isinstance(name, str))

    @property
    def packs(self) -> bool:
        """Whether attributes other than parameters and buffers go into the state_dict, as the
        packed weights of quantized modules do."""
        return ".quantized." in self.class_path

    @property
    def hooks(self) -> dict[str, list[str]]:
        """Hooks by the attribute that holds them: what each one is."""
        found = {}
        for kind in HOOKS:
            hooks = as_mapping(self.attributes.get(kind)) or {}
            if hooks:
                found[kind] = [global_path(hook) or _described(hook) for hook in hooks.values()]
        return found

    @property
    def others(self) -> Iterator[tuple[str, Value]]:
        """The attributes that are neither members nor bookkeeping."""
        for key, value in self.attributes.items():
            if not isinstance(key, str) or key in _BOOKKEEPING or key in _HOOK_FLAGS:
                continue
            if key in HOOKS or key in _DERIVED:
                continue
            yield key, value


def _described(value: Value) -> str:
    return (class_path(value) if isinstance(value, Call) else None) or type(value).__name__


def module_of(value: Value) -> Module | None:
    """The module that `value` is; None where it is none."""
    if not isinstance(value, Call):
        return None
    own = attributes_of(value)
    if PARAMETERS not in own or MODULES not in own or BUFFERS not in own:
        return _unusual(value)
    if any(as_mapping(own[name]) is None for name in (PARAMETERS, BUFFERS, MODULES)):
        return None
    return Module(value, own)


def _unusual(value: Call) -> Module | None:
    """A module of torch's that is pickled otherwise than by its `__dict__`."""
    odd = unusual(value)
    if odd is not None and lookup(odd[0]) is not None:
        return Module(value, dict(odd[1]), odd[0])
    path, state = class_path(value) or "", value.state
    if path.endswith(".LinearPackedParams") and isinstance(state, tuple) and len(state) == 4:
        # torch 1.3 to 1.12, `__getstate__`: (weight, bias, training, dtype)
        weight, bias, training, dtype = state
        state_of: dict[Value, Value] = {
            "training": training,
            "dtype": dtype,
            "_packed_params": ((weight, bias),),
        }
        return Module(value, state_of)
    return None
