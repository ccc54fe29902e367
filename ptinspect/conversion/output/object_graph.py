"""From the inert values of one or more files to the pickle and the storages of a new file.

Every dense tensor is written as today's torch.save writes it, whichever version wrote the source;
everything else is written as it was. The values are traversed twice: first to collect the
tensors, whose storages are then laid out together, and then to write them.

Sources: `torch._tensor.Tensor._reduce_ex_internal` for the calls and their arguments,
`torch.serialization._save.persistent_id` for the five parts of a storage's id,
`torch.storage._dtype_to_storage_type_map` and `_new_dtypes` for its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ptinspect.conversion.output.pieces import PlannedTensor, locate_pieces
from ptinspect.conversion.output.sink import OutputFile
from ptinspect.conversion.output.torch_zip import (
    OutputStorage,
    StorageLayout,
    TensorOptions,
    folder_name,
    write_torch_zip,
)
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensor_readers import array_tensor
from ptinspect.document.tensors import REBUILD_FROM_TYPE, REBUILD_PARAMETERS
from ptinspect.document.walk import walk
from ptinspect.dtypes import DTYPES, STORAGE_ITEMSIZE, is_untyped
from ptinspect.errors import UnsupportedError
from ptinspect.formats.safetensors import ordered_dict
from ptinspect.pickling.numpy_objects import Array, contiguous_strides
from ptinspect.pickling.pyobjects import ORDERED_DICT, function_path
from ptinspect.pickling.values import (
    Call,
    Global,
    Inert,
    PersistentId,
    TensorCall,
    TensorForm,
    TensorRun,
    Value,
    key_value,
)
from ptinspect.pickling.writer import PickleWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ptinspect.conversion.output.pieces import Piece
    from ptinspect.document import Document
    from ptinspect.document.tensor_readers import Reference
    from ptinspect.dtypes import DType

_UNTYPED_STORAGE = Global("torch.storage", "UntypedStorage", 0)
_REBUILD_TENSOR_V3 = Global("torch._utils", "_rebuild_tensor_v3", 0)
_REBUILD_QTENSOR = Global("torch._utils", "_rebuild_qtensor", 0)
_RUN = TensorRun(
    Global("torch._utils", "_rebuild_tensor_v2", 0),
    "storage",
    (),
    Global("collections", "OrderedDict", 0),
)
REBUILD_PARAMETER = Global("torch._utils", "_rebuild_parameter", 0)
_STORAGE_GLOBALS = {
    name: Global("torch", dtype.storage, 0) for name, dtype in DTYPES.items() if dtype.storage
}

_DENSE_FUNCTIONS = {
    f"torch._utils.{name}"
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")
}
_DEVICE_FUNCTIONS = {
    f"torch._utils.{name}"
    for name in (
        "_rebuild_device_tensor_from_cpu_tensor", "_rebuild_device_tensor_from_numpy",
        "_rebuild_xla_tensor", "_rebuild_mlc_tensor",
    )
}  # fmt: skip
"""Tensors of devices without shared storages: `--device` turns them into ordinary ones."""


@dataclass(slots=True, eq=False)
class _DenseTensor:
    """A dense tensor, the argument with scheme, scale and so on of a quantized one, and the call of
    `_rebuild_from_type` around it."""

    tensor: Tensor
    quantizer: Value = None
    subclass_call: Call | None = None

    def extras(self, value: Inert) -> tuple[Value, ...]:
        """Return values that are written with the tensor and may contain further tensors."""
        extras: list[Value] = [] if self.quantizer is None else [self.quantizer]
        for call in (value, self.subclass_call):
            if call is not None and call.changes is not None and not _is_pre_04_tensor(call):
                extras += call.changes.states
        if self.subclass_call is not None:
            extras.append(self.subclass_call.args[3])
        return tuple(extras)


UNREPRESENTABLE = object()
"""Placeholder for a value that the output cannot have."""


class ObjectGraph:
    """The values of one output: `collect` each part, then call `output_file`. `tensors` are the
    dense ones that were collected. `is_saved` is False for tensors that are lost."""

    def __init__(
        self, options: TensorOptions, is_saved: Callable[[Tensor], bool] = lambda tensor: True
    ) -> None:
        self.options = options
        self.is_saved = is_saved
        self.tensors: list[Tensor] = []
        self._layout = StorageLayout(options)
        self._dense: dict[int, _DenseTensor | Tensor | None] = {}  # by the ids of values
        self._bare_storages: dict[int, Reference] = {}
        self._written: list[OutputStorage] = []
        self._forms: dict[object, TensorForm] = {}
        self._alive: list[Value] = []  # keeps values alive, so that ids stay unique
        self._owners: dict[int, Document] = {}  # of values from other files than the first
        self._first: Document | None = None

    def collect(self, value: Value, document: Document) -> None:
        """Collect the tensors in a value that `document` has, or that was built from its values.
        UnsupportedError if a part of it cannot be written."""
        self._first = self._first or document

        def replace(part: Inert) -> Value:
            if id(part) not in self._dense:
                dense = self._dense[id(part)] = self._find_dense(part, document)
                self._alive.append(part)
                if document is not self._first:
                    self._owners[id(part)] = document
                if dense is not None:
                    self._add(dense.tensor)
            known = self._dense[id(part)]
            return known.extras(part) if isinstance(known, _DenseTensor) else known and ()

        def add_storage(pid: PersistentId) -> Value:
            reference = document.storage_of(pid)
            if reference is not None and id(pid) not in self._bare_storages:
                self._alive.append(pid)
                self._layout.add_storage(reference.storage, reference.dtype)
                self._bare_storages[id(pid)] = reference
            return ()

        is_ordered_dict = (
            isinstance(value, Call) and function_path(value) == ORDERED_DICT and not value.args
        )
        if document is self._first and (is_ordered_dict or isinstance(value, dict)):
            # Most of a state_dict are tensors in which nothing is left to traverse.
            changes = value.changes if isinstance(value, Call) else None
            rest: list[Value] = [*changes.states] if changes else []
            items = value if isinstance(value, dict) else changes.pairs if changes else {}
            for key, item in items.items():
                if type(key) is not str:
                    rest.append(key_value(key))
                if type(item) is not TensorCall or item.changes is not None:
                    rest.append(item)
                elif id(item) not in self._dense:
                    tensor = document.tensor_of(item)
                    if tensor is None:
                        rest.append(item)
                    else:
                        self._dense[id(item)] = tensor
                        self._alive.append(item)
                        self._add(tensor, item.form)
            value = rest
        # The writer knows how to traverse every kind of value; its output is not used here.
        PickleWriter(replace, add_storage).dump(value)

    def add_new(self, tensor: Tensor, quantizer: Value = None) -> Call:
        """Return a value for a tensor that is not itself a value of any file."""
        call = Call(_RUN.rebuild, (), "REDUCE", 0)
        self._dense[id(call)] = _DenseTensor(tensor, quantizer)
        self._alive.append(call)
        self._add(tensor)
        return call

    def add_detached(self, value: Value, tensor: Tensor | None) -> Value:
        """Return a value for what `tensor.detach()` gives: the same bytes, without a gradient,
        and not a parameter. Values that are not tensors are returned unchanged."""
        inner = _unwrap_parameter(value)
        if tensor is not None and not self.is_saved(tensor):
            return UNREPRESENTABLE
        if tensor is None or tensor.uninitialized or not isinstance(inner, Call | PersistentId):
            return value
        if tensor.storage is None or tensor.stride is None or tensor.subclass:
            return copy(inner) if isinstance(inner, Call) else inner
        detached = copy(tensor)
        detached.requires_grad = detached.parameter = False
        detached.state = {}
        return self.add_new(detached, _quantizer(inner, tensor))

    def detach(self, document: Document, value: Value) -> Value:
        """Return the value for a tensor of `document`, or with the elements of an array; the array
        itself if torch lacks its dtype."""
        if isinstance(value, Array) and (tensor := array_tensor(value, document.archive)):
            return self.add_new(tensor)
        return self.add_detached(value, document.tensor_of(value))

    def __contains__(self, value: object) -> bool:
        return self._dense.get(id(value)) is not None

    def dense_tensor(self, value: Value) -> Tensor | None:
        """Return the dense tensor that a collected value is, or None."""
        dense = self._dense.get(id(value))
        return dense.tensor if isinstance(dense, _DenseTensor) else dense

    def written_tensor(self, value: Value) -> tuple[Tensor | None, DType | None]:
        """Return the tensor that a collected value is, like `Document.tensor_of`, and after
        `output_file` the dtype with which it is written. None for a tensor that is not dense, and
        two for any other value."""
        plain = self._dense.get(id(value))
        if isinstance(plain, Tensor):
            return plain, self._layout.placements[id(plain)].dtype
        dense = self.dense_tensor(_unwrap_parameter(value))
        document = self._owners.get(id(value), self._first)
        tensor = document.tensor_of(value) if document else None
        values = tensor.parts.get("values", dense) if tensor else dense  # of sparse, nested tensors
        placement = self._layout.placements.get(id(values))
        return tensor or dense, placement.dtype if placement else None

    def dump(self, root: Value) -> tuple[bytes, list[tuple[str, Sequence[Piece]]]]:
        """Return the pickle of `root`, and key and pieces of its storages in order."""
        self._written = []
        pickle = PickleWriter(self._replacement, self._persistent_id).dump(root)
        return pickle, [(storage.key or "", storage.pieces) for storage in self._written]

    def output_file(self, path: str, root: Value) -> OutputFile:
        """Lay out what was collected and return a file of torch.save with `root`."""
        self._layout.plan()
        pickle, storages = self.dump(root)
        locate_pieces([piece for _, pieces in storages for piece in pieces])
        folder = folder_name(path)
        write = partial(write_torch_zip, folder=folder, pickle=pickle, storages=storages)
        return OutputFile(path, write, pickle, storages)

    def planned_tensors(
        self, root: Value, document: Document, source_keys: Mapping[str, str]
    ) -> list[PlannedTensor]:
        """Return all tensors in a value that is laid out. `source_keys` has the keys in SRC by key
        in the output, where they differ."""
        dtypes: dict[int, DType | None] = {}
        has_arrays = document.has_numpy_weights and document.contents.state_dicts
        weight_of = document.weight_of if has_arrays and not self.tensors else None

        def read(value: Value) -> Tensor | None:
            tensor, dtype = self.written_tensor(value)
            if tensor is None and weight_of and (tensor := weight_of(value)) is not None:
                dtype = tensor.dtype
            if tensor is not None:
                dtypes[id(tensor)] = dtype
            return tensor

        first_keys: dict[object, str] = {}
        for key, info in document.tensors.items():
            first_keys.setdefault(id(info.tensor), key)
            first_keys.setdefault(info.tensor.view_key, key)
        planned = []
        for key, info in walk(root, read, document.limits).by_key.items():
            tensor = info.tensor
            source = source_keys.get(key) or first_keys.get(id(tensor))
            source = source or first_keys.get(tensor.view_key) or key
            planned.append(PlannedTensor(key, source, tensor, dtypes[id(tensor)]))
        return planned

    # --- collecting -----------------------------------------------------------------------

    def _add(self, tensor: Tensor, form: TensorForm | None = None) -> None:
        self._layout.add_tensor(tensor, form)
        self.tensors.append(tensor)

    def _find_dense(self, value: Inert, document: Document) -> _DenseTensor | None:
        """Return the dense tensor that a value rebuilds, or None."""
        if isinstance(value, PersistentId):
            tensor = document.tensor_of(value)
            return _DenseTensor(tensor) if tensor else None
        if not isinstance(value, Call):
            return None
        path = function_path(value) or ""
        subclass_call = None
        if path in REBUILD_FROM_TYPE and len(value.args) == 4:
            func, _, args, _ = value.args
            if not isinstance(args, tuple):
                return None
            subclass_call, value = value, Call(func, args, "REDUCE", value.offset)
            path = function_path(value) or ""
            if path not in _DENSE_FUNCTIONS:
                return None
        is_dense = path in _DENSE_FUNCTIONS or (path in _DEVICE_FUNCTIONS and self.options.device)
        if not is_dense and not (value.changes is not None and _is_pre_04_tensor(value)):
            return None
        tensor = document.tensor_of(value)
        if tensor is None or tensor.storage is None or tensor.stride is None:
            return None
        return _DenseTensor(tensor, _quantizer(value, tensor), subclass_call)

    # --- writing --------------------------------------------------------------------------

    def _replacement(self, value: Inert) -> Value:
        """Return the value that is written in place of `value`; None for itself."""
        dense = self._dense.get(id(value))
        if type(dense) is Tensor:
            return self._tensor_call(dense, None)
        if dense is None:
            if isinstance(value, PersistentId) and isinstance(value.value, tuple):
                named = value.value
                if len(named) > 1 and named[0] == "module":  # a class with its source code
                    return named[1]
            return None
        assert isinstance(dense, _DenseTensor)
        call = self._tensor_call(dense.tensor, dense.quantizer)
        if dense.subclass_call is not None:
            original = dense.subclass_call
            _, subclass, _, state = original.args
            outer = Call(original.func, (call.func, subclass, call.args, state), "REDUCE", 0)
            outer.changes = original.changes
            return outer
        if _is_pre_04_tensor(value):
            if not dense.tensor.parameter:
                return call
            args: tuple[Value, ...] = (call, dense.tensor.requires_grad, ordered_dict())
            return Call(REBUILD_PARAMETER, args, "REDUCE", 0)
        if isinstance(value, Call):
            call.changes = value.changes
        return call

    def _tensor_call(self, tensor: Tensor, quantizer: Value) -> Call:
        """Return the call with which torch.save of today writes a dense tensor."""
        storage, offset, dtype, is_reordered = self._layout.placements[id(tensor)]
        kind = _STORAGE_GLOBALS.get(dtype.name, _UNTYPED_STORAGE)
        stride = contiguous_strides(tensor.shape) if is_reordered else (*(tensor.stride or ()),)
        call = TensorCall.__new__(TensorCall)
        _, _, call.storage_key, call.location, numel = self._storage_id(storage, kind)
        parts = (id(kind), numel, offset, tensor.shape, stride, tensor.requires_grad)
        form = self._forms.get(parts)
        if form is None:
            form = TensorForm(_RUN, kind, numel, offset, tensor.shape, stride, tensor.requires_grad)
            self._forms[parts] = form
        call.form, call.offset = form, 0
        call.changes = call._args = call.first_memo_index = None
        if tensor.quantizer:
            args = (*call.args[:4], quantizer, *call.args[4:])
            return Call(_REBUILD_QTENSOR, args, "REDUCE", 0)
        func = _RUN.rebuild
        more: list[Value] = []
        if kind is _UNTYPED_STORAGE:
            func = _REBUILD_TENSOR_V3
            more.append(Global("torch", dtype.name, 0))
        if (tensor.conj or tensor.neg) and not is_reordered:
            more.append({name: True for name in ("conj", "neg") if getattr(tensor, name)})
        return Call(func, (*call.args, *more), "REDUCE", 0) if more else call

    def _persistent_id(self, pid: PersistentId) -> Value:
        """Return the id of a storage that the source refers to as such."""
        reference = self._bare_storages.get(id(pid))
        if reference is None:
            is_storage = isinstance(pid.value, tuple) and pid.value[:1] == ("storage",)
            if pid.offset and self._first and (is_storage or self._first.storage_of(pid)):
                # It was not collected. Its key may be that of another storage of the output.
                raise UnsupportedError("a storage has an unknown type, or a place without a tensor")
            return pid.value  # of a tensor that is written
        name = "" if is_untyped(reference.type) else reference.dtype.name
        kind = _STORAGE_GLOBALS.get(name, _UNTYPED_STORAGE)
        return self._storage_id(self._layout.by_source[id(reference.storage)], kind)

    def _storage_id(
        self, storage: OutputStorage, kind: Global
    ) -> tuple[str, Global, str, str, int]:
        """Return ("storage", class, key, location, number of elements)."""
        key = storage.key
        if key is None:
            key = storage.key = str(len(self._written))
            self._written.append(storage)
        location = storage.location
        if location != "cpu":
            # A new string object: torch's pickler does not find it in its memo either.
            location = "".join([location[:1], location[1:]])
        return _RUN.word, kind, key, location, storage.nbytes // STORAGE_ITEMSIZE[kind.name]


def _quantizer(value: Value, tensor: Tensor) -> Value:
    is_recorded = tensor.quantizer and isinstance(value, Call) and len(value.args) > 4
    return value.args[4] if is_recorded and isinstance(value, Call) else None


def _unwrap_parameter(value: Value) -> Value:
    """Return the tensor's own call within the call of a parameter."""
    while isinstance(value, Call) and function_path(value) in REBUILD_PARAMETERS and value.args:
        value = value.args[0]
    return value


def _is_pre_04_tensor(call: Inert) -> bool:
    """Return True for a tensor, Variable or Parameter as torch before 0.4 pickled it: its class,
    then a state."""
    if not isinstance(call, Call):
        return False
    path = function_path(call) or ""
    if path in ("torch.nn.parameter.Parameter", "torch.autograd.variable.Variable"):
        return True
    return path.startswith("torch.") and path.endswith("Tensor") and isinstance(call.state, tuple)
