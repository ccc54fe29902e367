"""More than forty small models, each with its stub, in processes that never saw the classes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stubs.trying import attempt, failures, outcomes
from tests.torch_child import run_python

MAKER = Path(__file__).parent / "small_models.py"
REFUSED = {"lightning", "values"}
"""What weights_only cannot load, whatever it is told."""

WITH_TENSORS = {
    "Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "BatchNorm1d", "BatchNorm2d",
    "LayerNorm", "GroupNorm", "Embedding", "LSTM", "GRU", "RNN", "GRUCell", "MultiheadAttention",
    "TransformerEncoderLayer", "TransformerDecoderLayer", "Sequential", "ModuleList",
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("models")
    done = run_python(str(MAKER), str(folder))
    assert done.returncode == 0, done.stderr
    return {name: folder / f"{name}.pt" for name in done.stdout.split()}


@pytest.mark.slow
def test_each_is_loaded_printed_and_built_anew(saved: dict[str, Path], tmp_path: Path) -> None:
    assert len(saved) >= 40
    tries = [attempt(name, file) for name, file in saved.items()]
    said = outcomes(tries, tmp_path)
    found = {one.name: failures(one, said[one.name]) for one in tries}
    assert {name: bad for name, bad in found.items() if bad} == {}
    assert {one.name for one in tries if one.refused} == REFUSED


@pytest.mark.slow
def test_their_state_dicts_become_classes_that_take_them(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    files = {name: path.with_suffix(".state_dict.pt") for name, path in saved.items()}
    tries = [attempt(name, file) for name, file in files.items() if file.exists()]
    assert len(tries) >= 40
    said = outcomes(tries, tmp_path)
    found = {one.name: failures(one, said[one.name]) for one in tries}
    assert {name: bad for name, bad in found.items() if bad} == {}
    right = whole = 0
    for one in tries:
        assert "class Whole(nn.Module):" in one.source
        for name, kind in torch.load(one.file)["classes"].items():
            if kind in WITH_TENSORS and name in said[one.name]["classes"]:
                whole += 1
                right += said[one.name]["classes"][name] == kind
    assert right / whole >= 0.85, f"{right} of {whole} classes of torch.nn are right"


@pytest.mark.slow
def test_all_are_as_ruff_would_have_them(saved: dict[str, Path], tmp_path: Path) -> None:
    for name, file in saved.items():
        (tmp_path / f"{name}.py").write_text(attempt(name, file).source, "utf-8")
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:]


def test_a_class_is_written_once_with_what_varies_as_arguments(saved: dict[str, Path]) -> None:
    source = attempt("resnet", saved["resnet"]).source
    assert source.count("class BasicBlock(nn.Module):") == 1
    assert "nn.BatchNorm2d(out_channels)" in source
    assert "self.downsample = downsample" in source
    assert "BasicBlock(in_channels=4, out_channels=4)" in source


def test_repeated_children_are_a_loop(saved: dict[str, Path]) -> None:
    source = attempt("gpt", saved["gpt"]).source
    assert "nn.ModuleList([CausalSelfAttention() for _ in range(3)])" in source


def test_tied_weights_are_tied(saved: dict[str, Path]) -> None:
    source = attempt("gpt", saved["gpt"]).source
    assert 'self.lm_head.weight = self.transformer["wte"].weight' in source


def test_a_class_named_as_torchs_does_not_hide_it(saved: dict[str, Path]) -> None:
    source = attempt("gpt", saved["gpt"]).source
    assert "class LayerNorm(nn.Module):" in source
    assert "class GELU(nn.Module):" in source


def test_what_extends_a_torch_class_says_so_and_warns(saved: dict[str, Path]) -> None:
    source = attempt("extended_linear", saved["extended_linear"]).source
    assert "class FlaggedLinear(nn.Linear):" in source
    assert "FlaggedLinear.forward is inferred to be that of nn.Linear" in source
    assert "inferred: that it extends Linear" in source
