"""TorchScript: the zip of torch.jit.save, presented as the module it was. Since torch 1.4:

    FOLDER/data.pkl            objects: GLOBAL `__torch__.pkg.mod Class`, NEWOBJ, BUILD {attributes}
    FOLDER/data/N              storages of data.pkl
    FOLDER/code/**.py          classes with `__parameters__`, `__buffers__`, constants and methods
    FOLDER/constants.pkl       a tuple of tensors, which the code calls CONSTANTS.c0, c1, …
    FOLDER/constants/N         their storages, numbered on their own
    FOLDER/bytecode.pkl        for the mobile interpreter
    FOLDER/extra/NAME          extra files

From torch 1.0 to 1.2:

    FOLDER/model.json          modules with their parameters, and the table of the tensors
    FOLDER/tensors/N           bytes of a tensor
    FOLDER/code/**.py          methods of a module, without a class
    FOLDER/libs/**.py          since 1.1: classes and functions that they use
    FOLDER/attributes.pkl      since 1.2: a list of the values of attributes

Which attribute is a parameter or a buffer is in the code. Before torch 1.6 there is no
`__buffers__`: every other tensor was a buffer. Nothing of the code is run; only its class
headers and `def` lines are read. Sources: export_module.cpp, import.cpp and python_print.cpp in
torch/csrc/jit/serialization.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from ptinspect.dtypes import dtype_by_name
from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.formats.archive import declared_storages, prefix_storage_keys
from ptinspect.formats.safetensors import dense_tensor, ordered_dict, parse_json
from ptinspect.formats.torch.zip_file import TorchZip, open_zip
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.numpy_objects import required_numel
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, iter_children
from ptinspect.pickling.values import SCRIPT_OBJECT, Call, Global, Value
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from ptinspect.formats.zip_directory import ZipDirectory
    from ptinspect.pickling.machine import Pickled
    from ptinspect.source.base import Source

MAX_CODE = 64 << 20
"""Bytes of code that are read, all records together."""

CONSTANTS = "CONSTANTS"

_CLASS = re.compile(r"^class (\w+)\((\w*)\):$")
_NAMES = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]$")
_CONSTANT = re.compile(r"^  (\w+) : Final\[\w+\] = (.{1,200})$")
_DEF = re.compile(r"^  def (\w+)\(self")
_OLD_DEF = re.compile(r"^ *def (\w+)\(self")
_MANGLE = re.compile(r"___torch_mangle_\d+\.")
_WORDS: dict[str, Value] = {"True": True, "False": False, "None": None}
_TYPED = "torch.jit._pickle."
_GROUPS = ("_parameters", "_buffers", "_modules")
_DATA_TYPES = {
    "FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "INT8": "int8",
    "UINT8": "uint8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
"""caffe2.TensorProto.DataType."""


@dataclass(slots=True)
class ScriptClass:
    """What the code says of one class.

    Attributes:
        buffers: None in code of torch before 1.6, which does not list them.
        methods: the `def` line of each method, joined, by name.
        code: the methods of a class in `model.json`, which has a record of its own.
    """

    is_module: bool
    parameters: list[str] = field(default_factory=list)
    buffers: list[str] | None = None
    constants: dict[Value, Value] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    code: str = ""


class TorchScript(TorchZip):
    """See the module's docstring. `value` is the module, with its parameters, buffers and children
    distinguished.

    Attributes:
        objects: the module as the file describes it, an object of one of `classes`.
        constants: the tensors that the code uses, by name.
        classes: the recorded classes by path.
        code_folder: where their code is.
        code_size: bytes of code that were read.
    """

    format = "torchscript"
    objects: Value = None
    constants: dict[Value, Value]
    classes: dict[str, ScriptClass]
    code_folder = "code"
    code_size = 0

    def read_code(self, record: str) -> str:
        """Return the code in a record. LimitError if all together are larger than `MAX_CODE`."""
        data = self.read_record(record, MAX_CODE)
        self.code_size += len(data)
        if self.code_size > MAX_CODE:
            raise LimitError(f"more than {MAX_CODE:,} bytes of code", limit="pickle_bytes")
        return data.decode("utf-8", "replace")


def read_torchscript(
    source: Source, directory: ZipDirectory, folder: str, limits: Limits = LIMITS
) -> TorchScript:
    """Read an archive of torch.jit.save. DamagedError if a pickle is damaged or a storage
    incomplete, LimitError if the code is larger than `MAX_CODE`."""
    if f"{folder}data.pkl" in directory.index:
        main = _run(directory, f"{folder}data.pkl", limits)
        zipped = open_zip(source, directory, folder, limits, TorchScript, main)
        assert isinstance(zipped, TorchScript)
        archive = zipped
        archive.classes = _read_code(archive, folder)
        archive.objects = archive.pickled.root
        constants = _run(directory, name := f"{folder}constants.pkl", limits)
        archive.streams = [*archive.streams, constants]
        for key, declared in declared_storages(constants).items():
            archive.check_record(f"{folder}constants/{key}", declared.nbytes, "a constant", name)
        prefix_storage_keys(constants, "constants")
        archive.inner["constants"] = TorchZip(source, directory, limits, f"{folder}constants/")
        values = enumerate(as_sequence(constants.root) or ())
        archive.constants = {f"c{number}": value for number, value in values}
    else:
        archive = TorchScript(source, directory, limits, folder)
        _ModelJson(archive, folder).read()
        archive.facts["reader"] = "torchscript before 1.4"
    modules = _Modules(archive.classes)
    archive.value = modules.convert(archive.objects)
    state = archive.value.state if isinstance(archive.value, Call) else None
    if archive.constants and isinstance(state, dict):
        state[CONSTANTS] = archive.constants
    code = f"{folder}code/", f"{folder}libs/"
    archive.facts["script"] = {
        "methods": modules.methods,
        "code": [name[len(folder) :] for name in directory.names if name.startswith(code)],
        "extra_files": [
            {"name": name[len(folder) + 6 :], "size": directory.sizes[index]}
            for name, index in directory.index.items()
            if name.startswith(f"{folder}extra/")
        ],
        "constants": len(archive.constants),
        "bytecode": f"{folder}bytecode.pkl" in directory.index,
    }
    return archive


def _run(directory: ZipDirectory, name: str, limits: Limits) -> Pickled:
    """Run a pickle. The texts of TorchScript are bytes, and torch.jit.load takes them as they are:
    bytes that are not utf-8 become lone surrogates."""
    data = directory.read(directory.index[name])
    return run(data, record=name, limits=limits, text_errors="surrogateescape")


class _ModelJson:
    """Reads an archive of torch 1.0 to 1.2, whose modules and tensors are listed in `model.json`.
    Source: caffe2/proto/torch.proto of torch 1.2 (ModelDef, ModuleDef, TensorDef)."""

    def __init__(self, archive: TorchScript, folder: str) -> None:
        self.archive = archive
        self.folder = folder
        archive.classes, archive.constants, archive.code_folder = {}, {}, "libs"
        record = f"{folder}model.json"
        self.model: Any = parse_json(archive.read_record(record, MAX_CODE), "model.json")
        if not isinstance(self.model, dict) or not isinstance(self.model.get("mainModule"), dict):
            raise DamagedError("model.json describes no module", where=Place(record, 0))
        self.tensors = _list(self.model.get("tensors"))
        self.attributes: Sequence[Value] = ()

    def read(self) -> None:
        """Set the archive's objects as a data.pkl has them: each module has a class of its own."""
        archive, directory = self.archive, self.archive.directory
        archive.version = archive.read_record(f"{self.folder}version", 64).decode("latin1").strip()
        if (name := f"{self.folder}attributes.pkl") in directory.index:
            pickled = _run(directory, name, archive.limits)
            archive.streams, self.attributes = [pickled], as_sequence(pickled.root) or ()
            values, seen = [pickled.root], {id(pickled.root): pickled.root}
            while values:  # replace references to the table of tensors
                value = values.pop()
                if _is_function(value, f"{_TYPED}build_tensor_from_id"):
                    tensor = self._tensor(value.args[0] if value.args else None)
                    value.func, value.args = tensor.func, tensor.args
                    continue
                children = [child for _, child in iter_children(value) if id(child) not in seen]
                seen |= {id(child): child for child in children}
                values += children
        archive.objects = root = self._object()
        stack: list[tuple[dict[str, Any], Call]] = [(self.model["mainModule"], root)]
        while stack:
            entry, call = stack.pop()
            script, state = archive.classes[_path(call)], dict[Value, Value]()
            assert script.buffers is not None
            for item in _list(entry.get("parameters")):
                name = str(item.get("name"))
                is_buffer = item.get("isBuffer") is True
                (script.buffers if is_buffer else script.parameters).append(name)
                state[name] = self._tensor(item.get("tensorId"))
            for item in _list(entry.get("attributes")):
                index, name = _integer(item.get("id")), str(item.get("name"))
                if index is None or index >= len(self.attributes):
                    raise DamagedError(
                        f"attributes.pkl has no value {bounded_repr(item.get('id'))}"
                    )
                state[name] = self.attributes[index]
                if item.get("type") == "Tensor" and isinstance(state[name], Call):
                    script.buffers.append(name)
            for item in _list(entry.get("submodules")):
                child = state[str(item.get("name"))] = self._object()
                stack.append((item, child))
            call.change().states.append(state)
            self._read_methods(script, entry.get("torchscriptArena"))

    def _object(self) -> Call:
        """Return a module without its content; what its class was called is not recorded."""
        count = len(self.archive.classes)
        path = f"__torch__.torch.jit.___torch_mangle_{count}", "ScriptModule"
        self.archive.classes[".".join(path)] = ScriptClass(True, buffers=[])
        return Call(Global(*path, 0), (), SCRIPT_OBJECT, 0)

    def _read_methods(self, script: ScriptClass, arena: Any) -> None:
        record = f"{self.folder}{arena.get('key')}" if isinstance(arena, dict) else ""
        if record not in self.archive.directory.index:
            return
        script.code = self.archive.read_code(record)
        lines = iter(script.code.split("\n"))
        for line in lines:
            if match := _OLD_DEF.match(line):
                script.methods[match[1]] = _schema(line, lines)
        for number in sorted(set(re.findall(r"\bCONSTANTS\.c(\d{1,9})\b", script.code)), key=int):
            self.archive.constants[f"c{number}"] = self._tensor(number)

    def _tensor(self, number: Any) -> Call:
        """Return the call that builds a tensor of the table."""
        where = Place(f"{self.folder}model.json")
        index = _integer(number)
        if index is None or index >= len(self.tensors):
            raise DamagedError(f"model.json has no tensor {bounded_repr(number)}", where=where)
        entry = self.tensors[index]
        sizes = (_list(entry.get(name), str) for name in ("dims", "strides"))
        dims, strides = ([_integer(number) for number in numbers] for numbers in sizes)
        dtype = dtype_by_name(_DATA_TYPES.get(str(entry.get("dataType")), ""))
        offset = _integer(entry.get("offset", "0"))
        data = entry.get("data")
        key = str(data.get("key")) if isinstance(data, dict) else ""
        if None in (*dims, *strides, offset) or dtype is None or len(dims) != len(strides):
            raise DamagedError(f"the tensor {index:,} has no dtype or shape", where=where)
        shape, stride = tuple(map(int, dims)), tuple(map(int, strides))  # type: ignore[arg-type]
        start = int(offset or 0)
        needed = required_numel(start, shape, stride) * dtype.itemsize
        nbytes = self.archive.check_record(f"{self.folder}{key}", needed, f"the tensor {index:,}")
        return dense_tensor(
            key, dtype, shape, str(entry.get("device") or "cpu"), stride=stride, offset=start,
            nbytes=nbytes, requires_grad=entry.get("requiresGrad") is True,
        )  # fmt: skip


def _list(value: Any, kind: type = dict) -> list[Any]:
    """Return the items of that kind in a list of JSON; a name that is missing has none."""
    return [item for item in value if isinstance(item, kind)] if isinstance(value, list) else []


def _integer(value: Any) -> int | None:
    """Return an integer as protobuf writes it in JSON: as a text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _read_code(archive: TorchScript, folder: str) -> dict[str, ScriptClass]:
    classes: dict[str, ScriptClass] = {}
    prefix = f"{folder}code/"
    for name in archive.directory.index:
        if not name.startswith(prefix) or not name.endswith(".py"):
            continue
        module = name[len(prefix) : -3].replace("/", ".")
        current: ScriptClass | None = None
        lines = iter(archive.read_code(name).split("\n"))
        for line in lines:
            if match := _CLASS.match(line):
                current = classes[f"{module}.{match[1]}"] = ScriptClass(match[2] == "Module")
            elif current is None:
                continue
            elif match := _NAMES.match(line):
                setattr(current, match[1], re.findall(r'"([^"\\]*)"', match[2]))
            elif match := _CONSTANT.match(line):
                current.constants[match[1]] = _WORDS.get(match[2], match[2].strip('"'))
                with suppress(ValueError):
                    is_integer = re.fullmatch(r"-?\d{1,18}", match[2])
                    current.constants[match[1]] = (int if is_integer else float)(match[2])
            elif match := _DEF.match(line):
                current.methods[match[1]] = _schema(line, lines)
    return classes


def _schema(line: str, lines: Iterator[str]) -> str:
    """Return the schema in a `def` line and those that continue it."""
    while not line.endswith(":") and (more := next(lines, None)) is not None:
        line += f" {more.strip()}"
    text = _MANGLE.sub("", line.strip().removeprefix("def ").removesuffix(":"))
    return re.sub(r"\(self(?:: [\w.]+)?(?:, )?", "(", text.replace("__torch__.", ""), count=1)


class _Modules:
    """Turns the objects of data.pkl into modules as torch.nn pickles them."""

    def __init__(self, classes: dict[str, ScriptClass]) -> None:
        self.classes = classes
        self.methods: list[dict[str, str]] = []
        self._converted: dict[int, Call] = {}

    def convert(self, root: Value) -> Value:
        """Return the module for an object, its submodules included."""
        if not self._is_module(root):
            return root
        stack: list[tuple[Call, str]] = [(root, "")]  # type: ignore[list-item]
        result = self._shell(root)
        while stack:
            call, path = stack.pop()
            shell = self._converted[id(call)]
            script = self.classes[_path(call)]
            for name, schema in script.methods.items():
                self.methods.append({"module": path, "name": name, "schema": schema})
            groups: dict[str, dict[str, Value]] = {name: {} for name in _GROUPS}
            others = dict(script.constants)
            state = as_mapping(call.state)
            if state is None:  # of a class with `__setstate__`: packed weights
                state = dict(enumerate(as_sequence(call.state) or ()))
            for key, value in state.items():
                name = str(key)
                if self._is_module(value):
                    if id(value) not in self._converted:
                        self._shell(value)
                        stack.append((value, f"{path}.{name}" if path else name))  # type: ignore[arg-type]
                    groups["_modules"][name] = self._converted[id(value)]
                elif name in script.parameters:
                    groups["_parameters"][name] = value
                elif name in (script.buffers or ()) or (
                    script.buffers is None and _is_function(value, "torch._utils._rebuild_")
                ):
                    groups["_buffers"][name] = value
                else:  # a list or dict of one type is a call (`build_intlist`, `restore_type_tag`)
                    others[name] = value
                    if _is_function(value, _TYPED) and value.args:
                        others[name] = value.args[0]
            members: dict[Value, Value] = {k: ordered_dict(group) for k, group in groups.items()}
            shell.change().states.append(members | others)
        self.methods.sort(key=lambda method: method["module"])
        return result

    def _is_module(self, value: Value) -> bool:
        if not isinstance(value, Call) or not isinstance(value.func, Global):
            return False
        script = self.classes.get(_path(value))
        return script is not None and script.is_module

    def _shell(self, value: Value) -> Call:
        assert isinstance(value, Call) and isinstance(value.func, Global)
        module, name = _MANGLE.sub("", _path(value)).rpartition(".")[::2]
        module = module.removeprefix("__torch__.") if module != "__torch__" else "__main__"
        call = Call(Global(module, name, value.func.offset), (), SCRIPT_OBJECT, value.offset)
        self._converted[id(value)] = call
        return call


def _path(value: Call) -> str:
    assert isinstance(value.func, Global)
    return value.func.path


def _is_function(value: Value, prefix: str) -> TypeGuard[Call]:
    return isinstance(value, Call) and getattr(value.func, "path", "").startswith(prefix)
