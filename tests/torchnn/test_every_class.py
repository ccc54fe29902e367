# ruff: noqa: E402  (all that follows importorskip needs torch)
"""The tables hold every module class of torch, and each constructor as torch has it."""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from ptinspect.torchnn.attributes import MISSING, Argument, Name
from ptinspect.torchnn.classes import lookup, renamed
from tests.torchnn.nodes import known_paths

EXCLUDED = {  # beginnings of paths, each with why no file of torch.save holds such a module
    "torch.jit.": "ScriptModules: pickle refuses them, torch.jit.save writes them",
    "torch.utils.mkldnn.": "ScriptModules as well",
    "torch.backends._nnapi.": "holds a compiled network, which pickle refuses",
    "torch.nn.cpp.": "wraps a module of C++, which pickle refuses",
    "torch.distributed.nn.api.remote_module.": "refuses to be pickled",
    "torch.distributed.optim.optimizer.": "an optimizer in TorchScript",
    "torch.distributed.pipelining.": "stages of a pipeline, made anew in each process",
    "torch._dynamo.functional_export.": "made while a model is traced",
    "torch._dynamo.output_graph.": "made while a model is traced",
    "torch._dynamo.utils.": "made while a model is traced",
    "torch._functorch.": "made for one functional call",
    "torch.fx.passes.": "made while a graph is rewritten",
    "torch.fx.experimental.": "pickled as a GraphModule",
    "torch._export.": "examples, and parts of exported programs",
    "torch.export.": "parts of exported programs, which torch.export.save writes",
    "torch.onnx.": "abstract: what the ONNX exporter takes",
    "torch.nativert.": "holds a compiled library, which pickle refuses",
}
INDIRECT = {  # constructors that hand *args and **kwargs on: whose they are, without what
    "torch.ao.nn.quantized.dynamic.modules.rnn.LSTM": ("RNNBase", "mode"),
    "torch.ao.nn.quantized.dynamic.modules.rnn.GRU": ("RNNBase", "mode"),
    "torch.ao.nn.quantized.dynamic.modules.rnn.LSTMCell": ("RNNCellBase", "num_chunks"),
    "torch.ao.nn.quantized.reference.modules.rnn.LSTM": ("RNNBase", "mode"),
    "torch.ao.nn.quantized.reference.modules.rnn.GRU": ("RNNBase", "mode proj_size"),
}


@pytest.fixture(scope="module")
def walked() -> list[str]:
    script = Path(__file__).with_name("enumerate_classes.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_each_class_has_a_row_and_each_row_a_class(walked: list[str]) -> None:
    wanted = {path for path in walked if not path.startswith(tuple(EXCLUDED))}
    wanted = {p for p in wanted if "<locals>" not in p and ".Parametrized" not in p}
    assert sorted(wanted) == sorted(known_paths())


def test_each_exclusion_excludes_something(walked: list[str]) -> None:
    unused = [prefix for prefix in EXCLUDED if not any(p.startswith(prefix) for p in walked)]
    assert unused == []


def class_of(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    assert f"{found.__module__}.{found.__qualname__}" == path
    return found


def signature_of(path: str) -> list[inspect.Parameter]:
    """The constructor's parameters; for one that only hands on, those of the real one."""
    made = class_of(path)
    if path in INDIRECT:
        base, dropped = INDIRECT[path]
        kept = signature_of(f"{path.rpartition('.')[0]}.{base}")
        return [p for p in kept if p.name not in dropped.split()]
    init = made.__init__
    overloads = typing.get_overloads(init) if sys.version_info >= (3, 11) else []
    if init is torch.nn.Module.__init__:
        return []
    return list(inspect.signature(overloads[0] if overloads else init).parameters.values())[1:]


def default_of(parameter: inspect.Parameter) -> object:
    """The default as the tables write it: an object of torch's by its name."""
    value = parameter.default
    if value is inspect.Parameter.empty:
        return MISSING
    if isinstance(value, torch.dtype | torch.qscheme):
        return Name(value)
    if isinstance(value, enum.Enum):
        return Name(f"{type(value).__module__}.{type(value).__qualname__}.{value.name}")
    if callable(value):
        return Name(f"{value.__module__}.{value.__qualname__}")
    return value


def kind_of(parameter: inspect.Parameter) -> str:
    return {
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }.get(parameter.kind, "plain")


def written(argument: Argument) -> tuple[str, str, str, object]:
    return argument.name, argument.kind, type(argument.default).__name__, argument.default


def test_constructors_are_torchs() -> None:
    for path in known_paths():
        row = lookup(path)
        assert row is not None, path
        want = []
        for parameter in signature_of(path):
            default = default_of(parameter)
            want.append((parameter.name, kind_of(parameter), type(default).__name__, default))
        # LSTM takes proj_size by keyword; its overload does not say so.
        if path.endswith(".LSTM") and ".modules.rnn." in path and "proj_size" not in str(want):
            mine = [written(a) for a in row.arguments if a.name != "proj_size"]
        else:
            mine = [written(a) for a in row.arguments]
        assert mine == want, path


def test_old_spellings_lead_to_rows() -> None:
    modules = {old: new for old, new in renamed().items() if old.endswith(".")}
    for old, new in modules.items():
        samples = [path for path in known_paths() if path.startswith(new)]
        assert samples, new
        for path in samples:
            row = lookup(old + path[len(new) :])
            assert row is not None
            assert row.path == path
    for old, path in renamed().items():
        if old in modules:
            continue
        row = lookup(old)
        assert row is not None
        assert row.path == path


def test_public_and_parametrized_names() -> None:
    public = {name: made for name, made in vars(torch.nn).items() if isinstance(made, type)}
    modules = {name: made for name, made in public.items() if issubclass(made, torch.nn.Module)}
    assert len(modules) > 150
    for name, made in modules.items():
        row = lookup(f"torch.nn.{name}")
        assert row is not None
        assert row.path == f"{made.__module__}.{made.__qualname__}"
        row = lookup(f"torch.nn.utils.parametrize.Parametrized{name}")
        assert row is not None
        assert row.name == name


@pytest.mark.parametrize(
    "path",
    ["Linear", "torch", "torch.nn.Nothing", "torch.nn.modules.linear.Nothing", "models.Linear",
     "torch.nn.utils.parametrize.Parametrized", "torch.nn.modules", "", "torch.nn.", "torch.ao."],
)  # fmt: skip
def test_what_torch_has_not_has_no_row(path: str) -> None:
    assert lookup(path) is None
