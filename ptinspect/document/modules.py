"""Modules: objects whose attributes are those of `torch.nn.Module`.

Source: `torch.nn.Module.__init__` (the attributes), `Module.__setstate__` (those that older
versions lack), `Module.state_dict` and `named_modules` (order and names).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.pickling.pyobjects import (
    Path,
    as_mapping,
    as_sequence,
    attributes_of,
    class_path,
    global_path,
)
from ptinspect.pickling.values import SCRIPT_OBJECT, Call, Value
from ptinspect.torchnn.attributes import OPTIMIZED_MODULE, special_module
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor

PARAMETERS, BUFFERS, MODULES = "_parameters", "_buffers", "_modules"

PACKED_OBJECTS = ("param", "_packed_weight_ih", "_packed_weight_hh")
"""Attributes of the dynamic recurrent modules whose objects are entries of the state_dict:
`PackedParameter` and `RNNCellBase` in torch.ao.nn.quantized.dynamic.modules.rnn."""

HOOKS = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip

_WRAPPED_HOOK = "torch.nn.modules.module._WrappedHook"
# Attributes that torch maintains itself, and those of RNNBase that repeat its parameters.
BOOKKEEPING = {
    PARAMETERS, BUFFERS, MODULES, *HOOKS, "_non_persistent_buffers_set", "training", "_backend",
    "_is_full_backward_hook", "_version", "call_super_init", "dump_patches", "_compiled_call_impl",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
    "_flat_weights", "_flat_weight_refs",
}  # fmt: skip


class ModuleInfo(NamedTuple):
    """A module at one of its paths: the path of the model that it belongs to, and its name below
    that, as `named_modules(remove_duplicate=False)` has it."""

    root: Path
    name: str
    module: Module

    @property
    def path(self) -> Path:
        """The exact path in the file."""
        return (*self.root, *(self.name.split(".") if self.name else ()))


@dataclass(slots=True, eq=False)
class Module:
    """A module as the file records it. The same module has the same `call`; `attributes` is its
    `__dict__`."""

    call: Call
    attributes: dict[Value, Value]
    class_path: str

    @property
    def class_name(self) -> str:
        return self.class_path.rsplit(".", 1)[-1]

    @property
    def training(self) -> bool | None:
        """The flag that train() and eval() set; None if it is not recorded. A compiled module's is
        that of the wrapped one (`torch._dynamo.eval_frame.OptimizedModule.training`)."""
        flag = self.attributes.get("training")
        if flag is None and self.class_path == OPTIMIZED_MODULE:
            for _, child in self.members(MODULES):
                flag = attributes_of(child).get("training") if isinstance(child, Call) else None
        return flag if isinstance(flag, bool) else None

    def members(self, store: str) -> Iterator[tuple[str, Value]]:
        """Yield the items of `_parameters`, `_buffers` or `_modules`, None included."""
        for key, value in (as_mapping(self.attributes.get(store)) or {}).items():
            if isinstance(key, str):
                yield key, value

    def children(self) -> Iterator[tuple[str, Module]]:
        for name, value in self.members(MODULES):
            child = module_of(value)
            if child is not None:
                yield name, child

    def walk(self) -> Iterator[tuple[str, Module]]:
        """Yield this module ("") and all below it by dotted name, as `named_modules()` does: depth
        first, parents before children, each once."""
        stack: list[tuple[str, Module]] = [("", self)]
        seen: set[int] = set()
        while stack:
            name, module = stack.pop()
            if id(module.call) in seen:
                continue
            seen.add(id(module.call))
            yield name, module
            children = [
                (f"{name}.{key}" if name else key, child) for key, child in module.children()
            ]
            stack += reversed(children)

    @property
    def non_persistent(self) -> frozenset[str]:
        """Names of the buffers that state_dict() omits; none for files of torch before 1.6, which
        do not record it: torch treats those buffers as persistent."""
        names = as_sequence(self.attributes.get("_non_persistent_buffers_set")) or ()
        return frozenset(name for name in names if isinstance(name, str))

    @property
    def packs_weights(self) -> bool:
        """True if the state_dict has attributes too: the packed weights of quantized modules.
        Their own code adds them, which TorchScript does not have."""
        return ".quantized." in self.class_path and self.call.opcode != SCRIPT_OBJECT

    @property
    def packed_keys(self) -> list[str]:
        """The keys that a quantized class itself adds to those of its parameters and buffers.
        Source: `_save_to_state_dict` of the classes in torch.ao.nn.quantized."""
        attributes, name = self.attributes, self.class_name
        if not self.packs_weights or name in ("HistogramObserver", "FakeQuantize"):
            return []
        if name == "LinearPackedParams":
            return ["dtype", "_packed_params"]
        if name == "EmbeddingPackedParams":
            return ["dtype", "_packed_weight"]
        keys = [key for key in PACKED_OBJECTS if key in attributes]
        if "weight" in attributes and "bias" in attributes:  # a convolution
            keys += ["weight", "bias"]
        has_scale = isinstance(attributes.get("scale"), float)
        return [*keys, "scale", "zero_point"] if has_scale and "zero_point" in attributes else keys

    @property
    def hooks(self) -> dict[str, list[str]]:
        """The names of the functions, or of the classes of the objects, in each kind of hooks."""
        hooks: dict[str, list[str]] = {}
        for store in HOOKS:
            for value in (as_mapping(self.attributes.get(store)) or {}).values():
                path = class_path(value) if isinstance(value, Call) else None
                if isinstance(value, Call) and path == _WRAPPED_HOOK:  # with its module
                    value = attributes_of(value).get("hook")
                    path = class_path(value) if isinstance(value, Call) else None
                name = global_path(value) or path or type(value).__name__
                hooks.setdefault(store, []).append(name)
        return hooks

    def other_attributes(self) -> Iterator[tuple[str, Value]]:
        """Yield the attributes that are neither members nor torch's bookkeeping."""
        for key, value in self.attributes.items():
            if isinstance(key, str) and key not in BOOKKEEPING:
                yield key, value


def module_of(value: Value) -> Module | None:
    """Return the module that `value` is; None for other values."""
    if not isinstance(value, Call):
        return None
    attributes = attributes_of(value)
    if PARAMETERS in attributes and MODULES in attributes and BUFFERS in attributes:
        stores = (attributes[name] for name in (PARAMETERS, BUFFERS, MODULES))
        if None in map(as_mapping, stores):
            return None
        return Module(value, attributes, class_path(value) or "unknown")
    special = special_module(value)
    if special is not None and lookup(special[0]) is not None:
        return Module(value, dict(special[1]), special[0])
    return None


def registers_itself(value: Value, tensor_of: Callable[[Value], Tensor | None]) -> bool:
    """Return True if assigning the value to an attribute makes it a child or parameter."""
    if not isinstance(value, Call):
        return False
    tensor = tensor_of(value)
    return tensor.parameter if tensor is not None else module_of(value) is not None
