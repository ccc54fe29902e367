"""Stubs of TorchScript programs: the same results as torch.jit.load, and nothing unchecked."""

from __future__ import annotations

import ast
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.cli.running import run
from tests.conftest import FIXTURES
from tests.torch_child import run_python

HERE = Path(__file__).parent
MAKE = "import sys; from torchscript_models import main; main(*sys.argv[1:])"
LESSON = FIXTURES / "others/torchscript.pt"

SOME = (
    "conv_eval_trace", "control", "tup", "static", "stepped", "hooked", "hooked_twice", "picked",
)  # fmt: skip
MORE = (
    "conv", "lstm", "lstm_trace", "gru", "gru_trace", "attn", "attn_train", "attn_trace",
    "listdict", "inplace", "inplace_trace", "funcs", "iface", "cls", "buf", "drop_train", "mixed",
    "any", "fork", "frozen", "frozen_buf", "optimized", "function", "traced_function", "dynamic",
    "dynamic_trace", "trace_module", "qlstm", "q16", "static_frozen", "static_trace", "half",
    "double", "packed", "nums", "strs", "lists", "idx", "enum2", "types", "many", "dec",
    "dec_trace", "properties", "numbers_trace", "queue",
)  # fmt: skip


def outcomes(names: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Save the programs, write their stubs, and compare both."""
    torch = pytest.importorskip("torch")
    saved = run_python("-c", MAKE, str(folder), *names, path=[HERE])
    assert saved.returncode == 0, saved.stderr
    for name in names:
        path = folder / f"{name}.pt"
        with ptinspect.open(path) as document:
            tensors = {key: info.torch() for key, info in document.tensors.items()}
        torch.save(tensors, folder / f"{name}.keys")
        (folder / f"{name}.py").write_text(ptinspect.stub(path), "utf-8")
    done = run_python(str(HERE / "torchscript_child.py"), str(folder), *names)
    assert done.returncode == 0, done.stderr
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())  # type: ignore[misc]


def test_results_are_those_of_torch(tmp_path: Path) -> None:
    assert outcomes(SOME, tmp_path) == dict.fromkeys(SOME, "equal")


@pytest.mark.slow
def test_results_of_more_programs_are_those_of_torch(tmp_path: Path) -> None:
    assert outcomes(MORE, tmp_path) == dict.fromkeys(MORE, "equal")


def test_what_differs_from_torch_is_in_the_stub(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model, values = torch.nn.Module(), torch.arange(4.0)
    model.register_buffer("even", values[::2])
    for name, remarks in (("odd", 1), ("even", 0)):
        model.register_buffer(name, values[1::2] if name == "odd" else values[1::2].clone())
        torch.jit.save(torch.jit.script(model), tmp_path / "a.pt")
        assert ptinspect.stub(tmp_path / "a.pt").count("views of one storage") == remarks


def test_the_lessons_stub_reads_like_the_module() -> None:
    source = ptinspect.stub(LESSON)
    assert "class CustomModel(nn.Module):" in source
    assert "return aten.linear(input, weight, bias)" in source
    assert '_tensor(tensors, "layer.weight", torch.zeros(1, 2))' in source
    assert source.index("class Linear") < source.index("class CustomModel")
    assert source == ptinspect.stub(LESSON)


@pytest.mark.parametrize("options", [["--class", "Net"], ["--package", "net"]])
@pytest.mark.parametrize("name", ["torchscript.pt", "torchscript-1.0.pt"])
def test_a_part_of_a_program_is_refused_with_a_command_that_works(
    name: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(FIXTURES / "others" / name, tmp_path / "old.pt")
    monkeypatch.chdir(tmp_path)
    result = run("stub", "old.pt", *options)
    assert result.exit_code == 2
    problem, command = result.stderr.splitlines()
    assert problem.endswith("the code of a TorchScript program is written as one file")
    assert command.split() == ["ptinspect", "stub", "old.pt", "-o", "model_def.py"]
    assert run(*command.split()[1:]).exit_code == 0


def from_json(value: Any) -> Any:
    """Return a value that fixtures/old/torchscript.py recorded."""
    import torch

    if isinstance(value, dict) and "dtype" in value:
        return torch.tensor(value["data"], dtype=getattr(torch, value["dtype"]))
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def assert_same(value: Any, expected: Any) -> None:
    if isinstance(expected, list):
        assert len(value) == len(expected)
        for item, wanted in zip(value, expected, strict=True):
            assert_same(item, wanted)
    elif isinstance(expected, int | dict):
        assert value == expected and type(value) is type(expected)
    else:
        assert value.dtype == expected.dtype and value.equal(expected)


@pytest.mark.parametrize("version", ["1.0", "1.2"])
def test_programs_of_torch_before_1_4_have_the_results_of_that_torch(version: str) -> None:
    pytest.importorskip("torch")
    path = FIXTURES / f"others/torchscript-{version}-code.pt"
    calls = json.loads(path.with_suffix(".json").read_text())["calls"]
    assert len(calls) >= 3
    source = ptinspect.stub(path)
    assert "NotImplementedError" not in source and "Operators are today's: " in source
    namespace: dict[str, Any] = {"__name__": "old_stub"}
    exec(compile(source, "old_stub", "exec"), namespace)
    with ptinspect.open(path) as document:
        tensors = {key: info.torch() for key, info in document.tensors.items()}
    model = namespace["build"](tensors)
    for call in calls:
        result = getattr(model, call["method"])(*from_json(call["arguments"]))
        assert_same(result, from_json(call["result"]))


@pytest.mark.parametrize(
    "names", ['"missing"', '"x = 1\\n    import os\\n    "', '"__init__"', '"forward", "cut.off"']
)
def test_a_hook_that_is_no_method_is_an_error(names: str, tmp_path: Path) -> None:
    code = f"class CustomModel(Module):\n  __forward_hooks__ = [{names}, ]\n"
    path = with_code(
        tmp_path / "a.pt", code + "  def forward(self, x: Tensor) -> Tensor:\n    return x\n"
    )
    result = run("stub", path)
    assert result.exit_code == 2 and "no such method" in result.stderr


def with_code(path: Path, code: str) -> Path:
    """Write the lesson's program with other code for its root."""
    with zipfile.ZipFile(LESSON) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("__torch__.py"):
                data = code.encode()
            target.writestr(name, data)
    return path


METHODS = {
    "import": '__import__("os").system("id")',
    "open": 'open("x")',
    "exec": 'exec("1")',
    "dunder": "(self.__class__).__base__",
    "globals": "(self).forward.__globals__",
    "function of a value": "(x).tofile",
    "method of a value": '((x).numpy()).tofile("x", )',
    "file": 'torch.from_file("x", True, 3)',
    "save": 'torch.save(x, "x")',
    "other word": "os.system",
    "lambda": "(lambda: 1)()",
    "comprehension": "[i for i in x]",
    "walrus": "(y := x)",
    "text": 'f"{x}"',
    "keywords": "torch.relu(**x)",
    "star": "torch.relu(*x)",
    "getattr": 'getattr(self, "__class__")',
    "prim": "ops.prim.PythonOp(x)",
    "namespace": "ops.__class__.x(x)",
    "dunder operator": "torch.__reduce__(x)",
    "private namespace": "ops.__dict__.x(x)",
    "huge": "0x" + "f" * 20_000,
    "deep": "-" * 150 + "1",
    "condition": "1 if x else 2",
    "yield": "(yield x)",
}

FORBIDDEN = {"system", "os", "exec", "open", "__import__", "__base__", "__globals__", "tofile"}


@pytest.mark.parametrize("name", METHODS)
def test_code_outside_the_rules_is_not_written(name: str, tmp_path: Path) -> None:
    code = "class CustomModel(Module):\n  __parameters__ = []\n  def forward(self, x):\n"
    path = with_code(tmp_path / "evil.pt", f"{code}    y = {METHODS[name]}\n    return y\n")
    source = ptinspect.stub(path)
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    if name == "method of a value":  # it is called on objects of the stub only
        assert "_own(_own(x).numpy()).tofile('x')" in source
    elif name == "function of a value":
        assert "y = x.tofile\n" in source
    else:
        assert not names & FORBIDDEN
        assert "not translated: forward" in source
        assert "NotImplementedError in the stub: forward" in run("stub", path).stderr


def test_classes_with_odd_statements_are_written_without_them(tmp_path: Path) -> None:
    code = """
import os
os.system("id")
class CustomModel(os.system("id"), metaclass=print):
  __parameters__ = [os.system("id"), ]
  size : Final[int] = os.system("id")
  os.system("id")
  @os.system
  def forward(self, x=os.system("id")):
    return x
  def __del__(self):
    return None
  class Inner:
    pass
"""
    source = ptinspect.stub(with_code(tmp_path / "evil.pt", code))
    assert "system" not in source and "__del__" not in source and "metaclass" not in source
    assert "NotImplementedError('not translated: forward: its arguments are unusual')" in source


def test_code_that_is_not_python_is_an_error(tmp_path: Path) -> None:
    for code in ("class CustomModel(Module:\n", "x = " + "(" * 5000, "\0"):
        result = run("stub", with_code(tmp_path / "evil.pt", code))
        assert result.exit_code == 2 and "the code is not Python" in result.stderr
        assert "Traceback" not in result.stderr


def test_objects_in_a_circle_are_an_error(tmp_path: Path) -> None:
    # the root's attribute "a" is the root: GLOBAL, NEWOBJ, memo 0, {"a": memo 0}, BUILD
    pickle = b"\x80\x02c__torch__\nCustomModel\n)\x81q\0}X\1\0\0\0ah\0sb."
    with zipfile.ZipFile(LESSON) as source, zipfile.ZipFile(tmp_path / "c.pt", "w") as target:
        for name in source.namelist():
            is_data = name.endswith("/data.pkl")
            target.writestr(name, pickle if is_data else source.read(name))
    result = run("stub", tmp_path / "c.pt")
    assert result.exit_code == 2 and "objects of the program refer to each other" in result.stderr


def test_an_enum_of_torchscript_is_read(tmp_path: Path) -> None:
    # pickler.cpp writes the value itself, not a tuple, before REDUCE
    pickle = b"\x80\x02c__torch__\nCustomModel\n)\x81}X\1\0\0\0cc__torch__\nColor\nK\2Rsb."
    code = "class CustomModel(Module):\n  __parameters__ = []\nclass Color(Enum):\n  RED = 2\n"
    with_code(tmp_path / "a.pt", code)
    with zipfile.ZipFile(tmp_path / "a.pt") as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(tmp_path / "e.pt", "w") as target:
        for name, data in members.items():
            target.writestr(name, pickle if name.endswith("/data.pkl") else data)
    assert '"c": Color(2)' in ptinspect.stub(tmp_path / "e.pt")


def test_a_variable_named_views_is_no_view(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: int) -> int:
            views = x + 1
            return views * views

    torch.jit.save(torch.jit.script(Net()), tmp_path / "a.pt")
    text = ptinspect.stub(tmp_path / "a.pt")
    assert "views" in text and "Different views" not in text
