"""Checkpoints of DeepSpeed: the float32 weights that zero_to_fp32 would give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.cli.running import run
from tests.formats.deepspeed_making import TAG, deepspeed_classes, expected, save

torch = pytest.importorskip("torch")


def network() -> Any:
    """Odd sizes, tied weights, frozen parameters, buffers of several types."""
    torch.manual_seed(0)

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(5, 7)
            self.norm = torch.nn.BatchNorm1d(7)
            self.second = torch.nn.Linear(7, 3)
            self.frozen = torch.nn.Linear(3, 3, bias=False)
            self.tied = torch.nn.Linear(5, 7, bias=False)
            self.tied.weight = self.first.weight
            self.register_buffer("mean", torch.randn(3))

    return Model()


FLAT = "single_partition_of_fp32_groups"
CASES = [
    (stage, ranks, half, aligned)
    for stage, ranks, half, aligned in (
        (0, 1, "float16", False), (1, 2, "bfloat16", False), (2, 2, "float16", False),
        (2, 3, "bfloat16", True), (3, 2, "bfloat16", False), (3, 4, "float16", False),
    )
]  # fmt: skip


@pytest.mark.parametrize(("stage", "ranks", "half", "aligned"), CASES)
def test_weights_are_those_of_training(
    stage: int, ranks: int, half: str, aligned: bool, tmp_path: Path
) -> None:
    model, dtype = network(), getattr(torch, half)
    save(tmp_path / "ds", model, stage, ranks, dtype, aligned)
    truth = expected(model, stage, dtype)
    with ptinspect.open(tmp_path / "ds") as document:
        assert document.archive.format == "deepspeed"
        assert set(document.tensors) == set(truth)
        for key, tensor in truth.items():
            own = document.tensors[key].torch()
            assert own.dtype == tensor.dtype and torch.equal(own, tensor), key
            is_parameter = document.tensors[key].role == "parameter"
            assert is_parameter == ((stage > 0 and key in dict(model.named_parameters())) or (
                stage > 0 and key == "tied.weight"
            )), key  # fmt: skip
        first, tied = (document.tensors[f"{name}.weight"] for name in ("first", "tied"))
        assert stage == 0 or first.tensor.storage is tied.tensor.storage
        assert document.archive.facts["set"]["ranks"] == ranks  # type: ignore[index]
    assert run("convert", tmp_path / "ds", tmp_path / "out.pt").exit_code == 0
    saved = torch.load(tmp_path / "out.pt")
    assert all(torch.equal(saved[key], tensor) for key, tensor in truth.items())
    assert set(saved) == set(truth)


@pytest.mark.parametrize(("stage", "ranks", "half", "aligned"), CASES)
def test_the_pieces_are_where_the_files_have_them(
    stage: int, ranks: int, half: str, aligned: bool, tmp_path: Path
) -> None:
    model, dtype = network(), getattr(torch, half)
    save(tmp_path / "ds", model, stage, ranks, dtype, aligned)
    paths = (tmp_path / "ds" / TAG).iterdir()
    with deepspeed_classes():
        files = {path.name: torch.load(path, weights_only=False) for path in paths}
    vectors = "fp32_flat_groups" if stage == 3 else FLAT
    shown = json.loads(run("show", "-f", "json", tmp_path / "ds").stdout)["tensors"]
    truth = expected(model, stage, dtype)
    assert {tensor["key"] for tensor in shown} == set(truth)
    for tensor in shown:
        key, parts = tensor["key"], []
        for piece in tensor["pieces"]:
            state = files[piece["file"]]
            if "group" in piece:
                source = state["optimizer_state_dict"][vectors][piece["group"]]
            else:
                frozen = stage > 0 and key not in state["buffer_names"]
                source = state["frozen_param_fragments" if frozen else "module"][key]
            parts.append(source.flatten()[slice(*piece["elements"])])
        whole = torch.cat(parts).reshape(tensor["shape"]).to(truth[key].dtype)
        assert tensor["storage"] is None and torch.equal(whole, truth[key]), key


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(tmp_path / "ds", network(), 2, 2, torch.float16)
    return tmp_path / "ds"


def test_the_folder_is_one_document(checkpoint: Path) -> None:
    shown = json.loads(run("show", "-f", "json", checkpoint).stdout)
    assert shown["file"]["format"] == "deepspeed"
    assert shown["set"]["tag"] == TAG and len(shown["set"]["files"]) == 3
    same = json.loads(run("show", "-f", "json", checkpoint / "latest").stdout)
    assert same["tensors"] == shown["tensors"]
    assert "not put together" in run("show", checkpoint).stdout
    assert run("scan", checkpoint).exit_code == 1
    for finding in ptinspect.scan(checkpoint / TAG / "mp_rank_00_model_states.pt").findings:
        assert finding.verdict != "dangerous"


def test_a_missing_rank_is_named(checkpoint: Path) -> None:
    (checkpoint / TAG / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    result = run("show", checkpoint)
    assert result.exit_code == 2
    assert "2 ranks, files are missing: zero_pp_rank_1_mp_rank_00_optim_states" in result.stderr


@pytest.mark.parametrize(
    "name", ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"]
)
def test_a_cut_file_is_named(name: str, checkpoint: Path) -> None:
    path = checkpoint / TAG / name
    path.write_bytes(path.read_bytes()[:700])
    result = run("show", checkpoint)
    assert result.exit_code == 2 and name in result.stderr and "Traceback" not in result.stderr


def changed(checkpoint: Path, name: str, **changes: Any) -> Any:
    """Save a file again with other entries, which a dict of changes replaces."""
    path = checkpoint / TAG / name
    with deepspeed_classes():
        state = torch.load(path, weights_only=False)
        inner = state.get("optimizer_state_dict", state)
        inner.update(changes)
        torch.save(state, path)
    return run("show", checkpoint)


OPTIMIZER, MODEL = "zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (OPTIMIZER, {FLAT: []}, "other parameter groups"),
        (OPTIMIZER, {FLAT: [3, 4]}, "is not a tensor"),
        (OPTIMIZER, {FLAT: [torch.ones(2), torch.ones(2)]}, "of a vector that has"),
        (OPTIMIZER, {FLAT: [torch.ones(90), torch.ones(90)]}, "its parameters have"),
        (OPTIMIZER, {"zero_stage": 7}, "stage 7 of ZeRO"),
        (OPTIMIZER, {"partition_count": "two"}, "number of ranks is not recorded"),
        (MODEL, {"param_shapes": [{"first.weight": "x"}, {}]}, "has no shape"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(
    name: str, changes: dict[str, Any], words: str, checkpoint: Path
) -> None:
    result = changed(checkpoint, name, **changes)
    assert result.exit_code == 2 and words in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def test_tensor_parallelism_is_an_error(checkpoint: Path) -> None:
    target = checkpoint / TAG
    shutil.copy(target / MODEL, target / "mp_rank_01_model_states.pt")
    result = run("show", checkpoint)
    assert result.exit_code == 2 and "tensor parallelism" in result.stderr


@pytest.mark.parametrize("tag", ["../ds/" + TAG, "/etc", "", "nowhere", "a\nb", "x" * 300])
def test_a_tag_that_is_no_folder_beside_it_is_not_followed(tag: str, checkpoint: Path) -> None:
    (checkpoint / "latest").write_text(tag)
    result = run("show", checkpoint / "latest")
    assert result.exit_code == 2 and "Traceback" not in result.stderr
