"""TorchScript: the zip of torch.jit.save since torch 1.4, presented as the module it was.

    FOLDER/data.pkl            objects: GLOBAL `__torch__.pkg.mod Class`, NEWOBJ, BUILD {attributes}
    FOLDER/data/N              storages of data.pkl
    FOLDER/code/**.py          classes with `__parameters__`, `__buffers__`, constants and methods
    FOLDER/constants.pkl       a tuple of tensors, which the code calls CONSTANTS.c0, c1, …
    FOLDER/constants/N         their storages, numbered on their own
    FOLDER/bytecode.pkl        for the mobile interpreter
    FOLDER/extra/NAME          extra files

Which attribute is a parameter or a buffer is in the code. Before torch 1.6 there is no
`__buffers__`: every other tensor was a buffer. Nothing of the code is run; only its class
headers and `def` lines are read. Sources: export_module.cpp, import.cpp and python_print.cpp in
torch/csrc/jit/serialization.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.errors import LimitError
from ptinspect.formats.archive import declared_storages, prefix_storage_keys
from ptinspect.formats.safetensors import ordered_dict
from ptinspect.formats.torch.zip_file import TorchZip, open_zip
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.pyobjects import as_mapping, as_sequence
from ptinspect.pickling.values import SCRIPT_OBJECT, Call, Global, Value

if TYPE_CHECKING:
    from ptinspect.formats.zip.directory import ZipDirectory
    from ptinspect.source.base import Source

MAX_CODE = 64 << 20
"""Bytes of code that are read, all records together."""

CONSTANTS = "CONSTANTS"

_CLASS = re.compile(r"^class (\w+)\((\w*)\):$")
_NAMES = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]$")
_CONSTANT = re.compile(r"^  (\w+) : Final\[\w+\] = (.{1,200})$")
_DEF = re.compile(r"^  def (\w+)\(self")
_MANGLE = re.compile(r"___torch_mangle_\d+\.")
_TYPED = "torch.jit._pickle."


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
    told apart."""

    format = "torchscript"


def read_torchscript(
    source: Source, directory: ZipDirectory, folder: str, limits: Limits = LIMITS
) -> TorchScript:
    """Read an archive of torch.jit.save. DamagedError if a pickle is damaged or a storage
    incomplete, LimitError if the code is larger than `MAX_CODE`."""
    archive = open_zip(source, directory, folder, limits, TorchScript)
    assert isinstance(archive, TorchScript)
    modules = _Modules(_read_code(directory, folder))
    archive.value = modules.convert(archive.pickled.root)
    constants = _read_constants(archive, directory, folder, limits)
    if constants:
        _attributes(archive.value)[CONSTANTS] = constants
    archive.facts["script"] = {
        "methods": modules.methods,
        "code": [n[len(folder) :] for n in directory.names if n.startswith(f"{folder}code/")],
        "extra_files": [
            {"name": name[len(folder) + 6 :], "size": directory.sizes[index]}
            for name, index in directory.index.items()
            if name.startswith(f"{folder}extra/")
        ],
        "constants": len(constants),
        "bytecode": f"{folder}bytecode.pkl" in directory.index,
    }
    return archive


def _read_constants(
    archive: TorchScript, directory: ZipDirectory, folder: str, limits: Limits
) -> dict[Value, Value]:
    name = f"{folder}constants.pkl"
    pickled = run(directory.read(directory.index[name]), record=name, limits=limits)
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
                while not line.endswith(":") and (more := next(lines, None)) is not None:
                    line += f" {more.strip()}"
                current.methods[match[1]] = _schema(line)
    return classes


def _schema(line: str) -> str:
    text = _MANGLE.sub("", line.strip().removeprefix("def ").removesuffix(":"))
    return re.sub(r"\(self: [\w.]+(?:, )?", "(", text.replace("__torch__.", ""), count=1)


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
            groups: dict[str, dict[str, Value]] = {
                "_parameters": {}, "_buffers": {}, "_modules": {},
            }  # fmt: skip
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
