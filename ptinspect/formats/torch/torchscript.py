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
    FOLDER/code/**.py          methods; since 1.2 in classes
    FOLDER/attributes.pkl      since 1.2: a list of the values of attributes

Which attribute is a parameter or a buffer is in the code. Before torch 1.6 there is no
`__buffers__`: every other tensor was a buffer. Nothing of the code is run; only its class
headers and `def` lines are read. Sources: export_module.cpp, import.cpp and python_print.cpp in
torch/csrc/jit/serialization.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ptinspect.dtypes import dtype_by_name
from ptinspect.errors import DamagedError, LimitError, Place
from ptinspect.formats.archive import declared_storages, prefix_storage_keys
from ptinspect.formats.safetensors import dense_tensor, ordered_dict, parse_json
from ptinspect.formats.torch.zip_file import TorchZip, open_zip
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.numpy_objects import required_numel
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, function_path
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
    """

    is_module: bool
    parameters: list[str] = field(default_factory=list)
    buffers: list[str] | None = None
    constants: dict[Value, Value] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)


class TorchScript(TorchZip):
    """See the module's docstring. `value` is the module, with its parameters, buffers and children
    distinguished."""

    format = "torchscript"


def read_torchscript(
    source: Source, directory: ZipDirectory, folder: str, limits: Limits = LIMITS
) -> TorchScript:
    """Read an archive of torch.jit.save. DamagedError if a pickle is damaged or a storage
    incomplete, LimitError if the code is larger than `MAX_CODE`."""
    if f"{folder}data.pkl" not in directory.index:
        return _read_model_json(TorchScript(source, directory, limits, folder), folder)
    main = _run(directory, f"{folder}data.pkl", limits)
    archive = open_zip(source, directory, folder, limits, TorchScript, main)
    assert isinstance(archive, TorchScript)
    modules = _Modules(_read_code(directory, folder))
    archive.value = modules.convert(archive.pickled.root)
    constants = _read_constants(archive, directory, folder, limits)
    if constants:
        _attributes(archive.value)[CONSTANTS] = constants
    archive.facts["script"] = _facts(archive, folder, modules.methods, len(constants))
    return archive


def _run(directory: ZipDirectory, name: str, limits: Limits) -> Pickled:
    """Run a pickle. The texts of TorchScript are bytes, and torch.jit.load takes them as they are:
    bytes that are not utf-8 become lone surrogates."""
    data = directory.read(directory.index[name])
    return run(data, record=name, limits=limits, text_errors="surrogateescape")


def _facts(
    archive: TorchScript, folder: str, methods: list[dict[str, str]], constants: int
) -> dict[str, object]:
    directory = archive.directory
    return {
        "methods": methods,
        "code": [n[len(folder) :] for n in directory.names if n.startswith(f"{folder}code/")],
        "extra_files": [
            {"name": name[len(folder) + 6 :], "size": directory.sizes[index]}
            for name, index in directory.index.items()
            if name.startswith(f"{folder}extra/")
        ],
        "constants": constants,
        "bytecode": f"{folder}bytecode.pkl" in directory.index,
    }


def _read_model_json(archive: TorchScript, folder: str) -> TorchScript:
    """Read an archive of torch 1.0 to 1.2, whose modules and tensors are listed in `model.json`."""
    record, directory = f"{folder}model.json", archive.directory
    model = parse_json(archive.read_record(record, MAX_CODE), "model.json")
    if not isinstance(model, dict) or not isinstance(model.get("mainModule"), dict):
        raise DamagedError("model.json describes no module", where=Place(record, 0))
    attributes: Sequence[Value] = ()
    if f"{folder}attributes.pkl" in directory.index:
        name = f"{folder}attributes.pkl"
        pickled = _run(directory, name, archive.limits)
        archive.streams, attributes = [pickled], as_sequence(pickled.root) or ()
    archive.version = archive.read_record(f"{folder}version", 64).decode("latin1").strip()
    reader = _ModelJson(archive, folder, _list(model.get("tensors")), attributes)
    archive.value = reader.convert(model["mainModule"])
    archive.facts["script"] = _facts(archive, folder, reader.methods, 0)
    return archive


class _ModelJson:
    """Turns the modules of `model.json` into modules as torch.nn pickles them. Source:
    caffe2/proto/torch.proto of torch 1.2 (ModelDef, ModuleDef, TensorDef)."""

    def __init__(
        self, archive: TorchScript, folder: str, tensors: list[Any], attributes: Sequence[Value]
    ) -> None:
        self.archive = archive
        self.folder = folder
        self.tensors = tensors
        self.attributes = attributes
        self.methods: list[dict[str, str]] = []

    def convert(self, main: dict[str, Any]) -> Value:
        """Return the module for an entry, its submodules included."""
        root = self._module()
        stack: list[tuple[dict[str, Any], Call, str]] = [(main, root, "")]
        while stack:
            entry, call, path = stack.pop()
            groups: dict[str, dict[str, Value]] = {name: {} for name in _GROUPS}
            others: dict[Value, Value] = {}
            for item in _list(entry.get("parameters")):
                kind = "_buffers" if item.get("isBuffer") is True else "_parameters"
                groups[kind][str(item.get("name"))] = self._tensor(item.get("tensorId"))
            for item in _list(entry.get("attributes")):
                value = self._attribute(item.get("id"))
                is_buffer = item.get("type") == "Tensor" and isinstance(value, Call)
                (groups["_buffers"] if is_buffer else others)[str(item.get("name"))] = value
            for item in _list(entry.get("submodules")):
                name = str(item.get("name"))
                child = groups["_modules"][name] = self._module()
                stack.append((item, child, f"{path}.{name}" if path else name))
            self._add_methods(path, entry.get("torchscriptArena"))
            members: dict[Value, Value] = {k: ordered_dict(group) for k, group in groups.items()}
            call.change().states.append(members | others)
        self.methods.sort(key=lambda method: method["module"])
        return root

    def _module(self) -> Call:
        """Return a module without its content: the file does not record its class."""
        return Call(Global("torch.jit", "ScriptModule", 0), (), SCRIPT_OBJECT, 0)

    def _add_methods(self, path: str, arena: Any) -> None:
        index = self.archive.directory.index
        record = f"{self.folder}{arena.get('key')}" if isinstance(arena, dict) else ""
        text = ""
        if record in index:
            text = self.archive.read_record(record, MAX_CODE).decode("utf-8", "replace")
        lines = iter(text.split("\n"))
        for line in lines:
            if match := _OLD_DEF.match(line):
                schema = _schema(_whole_header(line, lines))
                self.methods.append({"module": path, "name": match[1], "schema": schema})

    def _tensor(self, number: Any) -> Value:
        """Return the call that builds a tensor of the table."""
        where = Place(f"{self.folder}model.json")
        index = _integer(number)
        if index is None or index >= len(self.tensors):
            raise DamagedError(f"model.json has no tensor {bounded_repr(number)}", where=where)
        entry = self.tensors[index]
        dims, strides = ([_integer(n) for n in _list(entry.get(k))] for k in ("dims", "strides"))
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

    def _attribute(self, number: Any) -> Value:
        """Return a value of attributes.pkl, perhaps a tensor of the table."""
        index = _integer(number)
        if index is None or index >= len(self.attributes):
            raise DamagedError(f"attributes.pkl has no value {bounded_repr(number)}")
        value = self.attributes[index]
        if isinstance(value, Call) and (function_path(value) or "").endswith(
            "build_tensor_from_id"
        ):
            return self._tensor(value.args[0] if value.args else None)
        return _untyped(value)


def _list(value: Any) -> list[Any]:
    """Return the objects in a list of JSON; names that are missing have no items."""
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, (dict, str))]


def _integer(value: Any) -> int | None:
    """Return an integer as protobuf writes it in JSON: as a text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _read_constants(
    archive: TorchScript, directory: ZipDirectory, folder: str, limits: Limits
) -> dict[Value, Value]:
    name = f"{folder}constants.pkl"
    pickled = _run(directory, name, limits)
    archive.streams = [*archive.streams, pickled]
    for key, declared in declared_storages(pickled).items():
        archive.check_record(f"{folder}constants/{key}", declared.nbytes, "a constant", name)
    prefix_storage_keys(pickled, "constants")
    archive.inner["constants"] = TorchZip(archive.source, directory, limits, f"{folder}constants/")
    return {f"c{number}": value for number, value in enumerate(as_sequence(pickled.root) or ())}


def _read_code(directory: ZipDirectory, folder: str) -> dict[str, ScriptClass]:
    classes: dict[str, ScriptClass] = {}
    total, prefix = 0, f"{folder}code/"
    for name, index in directory.index.items():
        if not name.startswith(prefix) or not name.endswith(".py"):
            continue
        total += directory.sizes[index]
        if total > MAX_CODE:
            raise LimitError(f"more than {MAX_CODE:,} bytes of code", limit="pickle_bytes")
        module = name[len(prefix) : -3].replace("/", ".")
        text = directory.read(index).decode("utf-8", "replace")
        current: ScriptClass | None = None
        lines = iter(text.split("\n"))
        for line in lines:
            if match := _CLASS.match(line):
                current = classes[f"{module}.{match[1]}"] = ScriptClass(match[2] == "Module")
            elif current is None:
                continue
            elif match := _NAMES.match(line):
                setattr(current, match[1], re.findall(r'"([^"\\]*)"', match[2]))
            elif match := _CONSTANT.match(line):
                current.constants[match[1]] = _literal(match[2])
            elif match := _DEF.match(line):
                current.methods[match[1]] = _schema(_whole_header(line, lines))
    return classes


def _whole_header(line: str, lines: Iterator[str]) -> str:
    """Return a `def` line with those that continue it."""
    while not line.endswith(":") and (more := next(lines, None)) is not None:
        line += f" {more.strip()}"
    return line


def _schema(line: str) -> str:
    text = _MANGLE.sub("", line.strip().removeprefix("def ").removesuffix(":"))
    return re.sub(r"\(self(?:: [\w.]+)?(?:, )?", "(", text.replace("__torch__.", ""), count=1)


def _literal(text: str) -> Value:
    """Return a constant of the code: a number, a string, True, False or None; else its text."""
    words: dict[str, Value] = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text.strip('"')


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
                    script.buffers is None and _is_tensor(value)
                ):
                    groups["_buffers"][name] = value
                else:
                    others[name] = _untyped(value)
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


def _attributes(module: Value) -> dict[Value, Value]:
    state = module.state if isinstance(module, Call) else None
    return state if isinstance(state, dict) else {}


def _is_tensor(value: Value) -> bool:
    return (
        isinstance(value, Call)
        and isinstance(value.func, Global)
        and value.func.path.startswith("torch._utils._rebuild_")
    )


def _untyped(value: Value) -> Value:
    """Return the plain value of a typed list or dict (`build_intlist`, `restore_type_tag`)."""
    is_typed = isinstance(value, Call) and getattr(value.func, "path", "").startswith(_TYPED)
    return value.args[0] if isinstance(value, Call) and is_typed and value.args else value
