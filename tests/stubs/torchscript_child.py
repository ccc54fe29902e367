"""Compares programs of TorchScript with their stubs, in a process of its own.

Run as a script with a folder and names: NAME.py is the stub of NAME.pt, NAME.keys its tensors.
Each call of NAME.calls is made twice with both, and everything must be equal bit for bit: results,
their types, and the tensors of the state_dict before and after.
"""
# mypy: ignore-errors
# ruff: noqa: B905, BLE001

import copy
import importlib.util
import sys
import warnings

import torch

warnings.simplefilter("ignore")


def same(a, b, where):
    """Raise AssertionError unless both values are equal."""
    if isinstance(a, torch.Tensor):
        facts = [(t.dtype, t.shape, t.requires_grad, t.is_quantized) for t in (a, b)]
        assert facts[0] == facts[1], (where, facts)
        if a.is_quantized:
            a, b = a.int_repr(), b.int_repr()
        assert torch.equal(a.detach().isnan(), b.detach().isnan()), where
        assert torch.equal(a.detach().nan_to_num(0), b.detach().nan_to_num(0)), (where, a, b)
    elif isinstance(a, (list, tuple)):
        assert isinstance(b, list if isinstance(a, list) else tuple), where
        assert getattr(a, "_fields", None) == getattr(b, "_fields", None), where
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{where}[{index}]")
    elif isinstance(a, dict):
        assert list(a) == list(b), (where, list(a), list(b))
        for key in a:
            same(a[key], b[key], f"{where}[{key!r}]")
    else:
        assert type(a) is type(b) and (a == b or (a != a and b != b)), (where, a, b)


def call(program, arguments):
    arguments = copy.deepcopy(list(arguments))
    function = program
    if arguments and isinstance(arguments[0], str) and hasattr(program, arguments[0]):
        function = getattr(program, arguments.pop(0))
    torch.manual_seed(3)
    return function(*arguments)


def check(folder, name):
    path = f"{folder}/{name}.py"
    spec = importlib.util.spec_from_file_location(f"stub_{name}", path)
    stub = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = stub
    spec.loader.exec_module(stub)
    tensors = torch.load(f"{folder}/{name}.keys")
    zeros = stub.build().state_dict()
    for arguments in torch.load(f"{folder}/{name}.calls", weights_only=False):
        program, model = torch.jit.load(f"{folder}/{name}.pt"), stub.build(tensors)
        expected = dict(program.state_dict())
        same(expected, dict(model.state_dict()), "state_dict")
        assert {k: (v.shape, v.dtype) for k, v in zeros.items()} == {
            k: (v.shape, v.dtype) for k, v in expected.items()
        }
        for _ in range(2):
            same(call(program, arguments), call(model, arguments), "result")
        same(dict(program.state_dict()), dict(model.state_dict()), "state_dict after")


for name in sys.argv[2:]:
    try:
        check(sys.argv[1], name)
        print(name, "equal")
    except Exception as error:
        print(name, type(error).__name__, str(error)[:300].replace("\n", " "))
