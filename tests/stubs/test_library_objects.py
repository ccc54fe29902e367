"""Attributes that are objects of torch, numpy and the standard library, written as they are."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import math
import pathlib
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ptinspect

torch = pytest.importorskip("torch")
functional = torch.nn.functional

VALUES = {
    "complex": complex(1, -2),
    "slice": slice(1, None, 2),
    "range": range(1, 9, 2),
    "set": {3, 1, 2},
    "no set": set(),
    "frozenset": frozenset({"b", "a"}),
    "no frozenset": frozenset(),
    "deque": collections.deque([1, 2], maxlen=4),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "Counter": collections.Counter("aab"),
    "OrderedDict": collections.OrderedDict([("b", 1), ("a", (2,))]),
    "Namespace": argparse.Namespace(lr=0.1, names=["a"]),
    "SimpleNamespace": types.SimpleNamespace(a=1, b=None),
    "path": pathlib.PurePosixPath("a/b"),
    "timedelta": datetime.timedelta(days=2, seconds=3),
    "bytes": b"\x00\"'\n\xff",
    "bytearray": bytearray(b"ab\\"),
    "text": 'a\t"b"\'\u202e\u00e9\U0001f600\x7f',
    "Size": torch.Size([2, 3]),
    "device": torch.device("cuda", 1),
    "dtype": torch.float16,
    "layout": torch.strided,
    "function of torch": torch.relu,
    "function of torch.fft": torch.fft.fft,
    "function of torch._C._nn": functional.gelu,
    "method of a tensor": torch.Tensor.relu,
    "function of functional": functional.relu,
    "function of math": math.sqrt,
    "builtin": print,
    "class of torch": torch.nn.ReLU,
    "class of collections": collections.OrderedDict,
    "number of numpy": np.float32(0.5),
    "array": np.array([[1, 2], [3, 4]], dtype="int16"),
    "array of floats": np.array([0.5, -1.0]),
    "zeros": np.zeros((2, 0, 3), dtype="float16"),
    "many zeros": np.zeros(1_000, dtype="int64"),
    "dtype of numpy": np.dtype("float32"),
    "dtype of big-endian numbers": np.dtype(">i2"),
    "dtype of text": np.dtype("U5"),
    "dtype of bytes": np.dtype("S5"),
}


@pytest.fixture
def project() -> Iterator[types.ModuleType]:
    module = types.ModuleType("proj_config")
    sys.modules["proj_config"] = module
    module.Config = type("Config", (), {"__module__": "proj_config"})  # type: ignore[attr-defined]
    yield module
    sys.modules.pop("proj_config", None)


def restored(project: types.ModuleType, value: object, folder: Path) -> Any:
    """The value of the attribute that the stub's class sets, without the project's module."""
    config = project.Config()
    config.value = value
    path = folder / "config.pkl"
    path.write_bytes(pickle.dumps(config, 4))
    del sys.modules["proj_config"]
    with ptinspect.stubbed(path) as stub:
        return stub.Config().value


@pytest.mark.parametrize("name", VALUES)
def test_equal_value(project: types.ModuleType, tmp_path: Path, name: str) -> None:
    value: Any = VALUES[name]
    result = restored(project, value, tmp_path)
    assert type(result) is type(value)
    if isinstance(value, np.ndarray):
        assert result.dtype == value.dtype
        assert result.shape == value.shape
        assert np.array_equal(result, value)
    else:
        assert result == value


def test_partial(project: types.ModuleType, tmp_path: Path) -> None:
    value = functools.partial(functional.relu, inplace=True)
    result = restored(project, value, tmp_path)
    assert (result.func, result.args, result.keywords) == (value.func, (), {"inplace": True})


@pytest.mark.parametrize(
    "value",
    [
        functools.partial(functional.relu, **{"not a name": 1}),
        argparse.Namespace(**{"not a name": 1}),
        torch.sparse_csr,
        np.dtype([("a", "f4"), ("b", "i2")]),
    ],
    ids=["partial", "Namespace", "layout", "dtype of fields"],
)
def test_what_has_no_source_is_none_and_listed(
    project: types.ModuleType, tmp_path: Path, value: object
) -> None:
    assert restored(project, value, tmp_path) is None
    text = ptinspect.stub(tmp_path / "config.pkl")
    assert "Could not be written, and is None instead:\n" in text
    assert "Config.value" in text


def test_numbers_of_a_long_array_are_zeros_and_listed(
    project: types.ModuleType, tmp_path: Path
) -> None:
    result = restored(project, np.arange(1_000), tmp_path)
    assert result.shape == (1_000,)
    assert not result.any()
    assert "  - Config.value" in ptinspect.stub(tmp_path / "config.pkl")
