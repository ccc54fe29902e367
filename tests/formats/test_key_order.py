"""The order of modules where a file does not record it: numeric names as numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ptinspect
from ptinspect.formats.safetensors import order_keys

BLOCKS = [f"blocks.{n}.{name}" for n in range(12) for name in ("bias", "weight")]
ROOT = [f"{n}.weight" for n in range(12)]


@pytest.mark.parametrize("keys", [BLOCKS, ROOT])
def test_a_safetensors_file_lists_blocks_as_numbers(keys: list[str], tmp_path: Path) -> None:
    save_file({key: np.zeros(2, np.float32) for key in keys}, tmp_path / "a.safetensors")
    with ptinspect.open(tmp_path / "a.safetensors") as document:
        assert list(document.tensors) == keys
    ptinspect.convert(tmp_path / "a.safetensors", tmp_path / "a.pt")
    with ptinspect.open(tmp_path / "a.pt") as document:
        assert list(document.tensors) == keys


def test_so_do_the_shards_of_an_index(tmp_path: Path) -> None:
    weight_map = {}
    for number, part in enumerate((sorted(BLOCKS)[::2], sorted(BLOCKS)[1::2]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({key: np.zeros(2, np.float32) for key in part}, tmp_path / name)
        weight_map |= dict.fromkeys(part, name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 192}, "weight_map": weight_map}))
    with ptinspect.open(index) as document:
        order = [key.split(".")[1] for key in document.tensors]
        assert list(dict.fromkeys(order)) == [str(n) for n in range(12)]


def test_types_do_not_tear_modules_apart(tmp_path: Path) -> None:
    """safetensors writes the larger types first."""
    tensors = {
        f"bn.{n}.{name}": np.zeros(1, dtype)
        for n in (2, 10)
        for name, dtype in (("count", np.int64), ("weight", np.float32))
    }
    save_file(tensors, tmp_path / "a.safetensors")
    with ptinspect.open(tmp_path / "a.safetensors") as document:
        assert list(document.tensors) == list(tensors)


def test_a_key_that_is_also_a_prefix_comes_first() -> None:
    assert order_keys(["w.absmax", "w", "a.10", "a.9", "a.b"]) == [
        "w.absmax", "w", "a.9", "a.10", "a.b",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_stub_builds_the_blocks_in_their_order(suffix: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layers = [torch.nn.Linear(3, 3) for _ in range(12)]
    tensors = {
        f"{n}.{k}": v.detach() for n, m in enumerate(layers) for k, v in m.named_parameters()
    }
    if suffix == "pt":  # as other converters leave them
        torch.save(dict(sorted(tensors.items())), tmp_path / "a.pt")
    else:
        from safetensors.torch import save_file as save_torch

        save_torch(tensors, tmp_path / "a.safetensors")
    source = ptinspect.stub(tmp_path / f"a.{suffix}")
    namespace: dict[str, object] = {}
    exec(source, namespace)
    model = namespace["build"]()  # type: ignore[operator]
    model.load_state_dict(tensors)
    x = torch.randn(2, 3)
    expected = torch.nn.Sequential(*layers)(x)
    actual = (
        torch.nn.Sequential(*model.children())(x)
        if not isinstance(model, torch.nn.Sequential)
        else model(x)
    )
    assert torch.equal(actual, expected)
