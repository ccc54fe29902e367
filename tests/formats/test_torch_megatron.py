"""Folders of Megatron-LM, laid out as its `get_checkpoint_name` and `generate_state_dict` do."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest

import ptinspect
from tests.cli.running import run

torch = pytest.importorskip("torch")
STEP = "iter_0000020"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tensor-parallel ranks: a weight that is cut, and a norm that both have."""
    torch.manual_seed(0)
    for rank in (0, 1):
        state = {
            "args": argparse.Namespace(
                tensor_model_parallel_size=2, pipeline_model_parallel_size=1
            ),
            "checkpoint_version": 3.0,
            "iteration": 20,
            "model": {"layers.0.weight": torch.randn(4, 3), "norm.weight": torch.ones(3)},
        }
        path = tmp_path / "ck" / STEP / f"mp_rank_{rank:02d}"
        path.mkdir(parents=True)
        torch.save(state, path / "model_optim_rng.pt")
    (tmp_path / "ck/latest_checkpointed_iteration.txt").write_text("20")
    return tmp_path / "ck"


def test_the_ranks_are_shown_side_by_side(folder: Path) -> None:
    shown = json.loads(run("show", "-f", "json", folder).stdout)
    assert shown["file"]["format"] == "megatron"
    files = [f"mp_rank_0{rank}/model_optim_rng.pt" for rank in (0, 1)]
    assert shown["set"] == {"ranks": 2, "tag": STEP, "files": files, "missing": []}
    same = json.loads(
        run("show", "-f", "json", folder / "latest_checkpointed_iteration.txt").stdout
    )
    assert same["tensors"] == shown["tensors"]
    truth = torch.load(folder / STEP / files[1], weights_only=False)["model"]
    with ptinspect.open(folder) as document:
        tensors = {info.path: info for info in document.tensors.values()}
        assert len(tensors) == 4
        own = tensors["mp_rank_01", "model", "layers.0.weight"]
        assert torch.equal(own.torch(), truth["layers.0.weight"])
    shown = run("show", folder).stdout
    assert "no file records along which dimension" in shown
    assert "`convert --entry mp_rank_00.model` writes one rank; tools/checkpoint/convert" in shown


def test_convert_takes_one_rank_and_never_joins(folder: Path, tmp_path: Path) -> None:
    result = run("convert", folder, tmp_path / "out.pt")
    assert result.exit_code == 2 and "mp_rank_00" in result.stderr and "mp_rank_01" in result.stderr
    result = run("convert", folder, tmp_path / "out.pt", "--entry", "mp_rank_01.model")
    assert result.exit_code == 0, result.stderr
    assert "each rank is a part of the model" in result.stderr
    saved = torch.load(tmp_path / "out.pt")
    assert list(saved) == ["layers.0.weight", "norm.weight"] and saved["norm.weight"].shape == (3,)


def test_the_call_to_load_is_that_for_a_file_of_a_rank(folder: Path) -> None:
    call = json.loads(run("show", "-f", "json", folder).stdout)["load"]["call"]
    loaded = eval(call, {"torch": torch})
    assert loaded["iteration"] == 20


def test_a_harmful_pickle_of_one_rank_is_shown(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, ("echo harm",)

    torch.save({"model": {}, "x": Evil()}, folder / STEP / "mp_rank_01/model_optim_rng.pt")
    assert json.loads(run("show", "-f", "json", folder).stdout)["load"]["call"] is None


def test_the_file_of_the_distributed_optimizer_is_named(folder: Path) -> None:
    torch.save({"0": torch.ones(2)}, folder / STEP / "mp_rank_00/distrib_optim.pt")
    shown = run("show", folder).stdout
    assert "files of torch.save that are not read: mp_rank_00/distrib_optim.pt" in shown


def test_a_missing_rank_is_named(folder: Path) -> None:
    (folder / STEP / "mp_rank_01/model_optim_rng.pt").unlink()
    (folder / STEP / "mp_rank_01").rmdir()
    result = run("show", folder)
    assert result.exit_code == 0
    assert "files are missing: mp_rank_01/model_optim_rng.pt" in result.stdout


@pytest.mark.parametrize("text", ["", "../..", "x", "21", "-1", "9" * 300])
def test_a_folder_that_names_no_checkpoint_is_a_list_of_files(text: str, folder: Path) -> None:
    (folder / "latest_checkpointed_iteration.txt").write_text(text)
    result = run("show", "-f", "json", folder)
    shown = json.loads(result.stdout)
    assert isinstance(shown, list) and "Traceback" not in result.stderr


def test_a_cut_file_is_named(folder: Path) -> None:
    path = folder / STEP / "mp_rank_00/model_optim_rng.pt"
    path.write_bytes(path.read_bytes()[:700])
    result = run("show", folder)
    assert result.exit_code == 2 and "mp_rank_00" in result.stderr


def test_ranks_without_a_model_are_an_error(folder: Path) -> None:
    for path in (folder / STEP).rglob("*.pt"):
        path.unlink()
    result = run("show", folder)
    assert result.exit_code == 2 and "has a file of its model" in result.stderr
