"""Folders that are one model: shown once, converted as a whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import ptinspect
from ptinspect.formats.detect import main_file
from ptinspect.safety.load_advice import load_advice
from tests.cli.running import run
from tests.conftest import FIXTURES

OTHERS = FIXTURES / "others"


def hugging_face(folder: Path, kind: str) -> Path:
    """Make a folder as transformers or PEFT save it."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if kind == "sharded":
        for name in OTHERS.glob("model*-of-*.safetensors"):
            shutil.copy(name, folder)
        shutil.copy(OTHERS / "model.safetensors.index.json", folder)
    elif kind == "single":
        shutil.copy(OTHERS / "model.safetensors", folder)
    elif kind == "bin":
        for name in (*OTHERS.glob("pytorch_model-*.bin"), OTHERS / "pytorch_model.bin.index.json"):
            shutil.copy(name, folder)
    elif kind == "adapter":
        (folder / "config.json").unlink()
        (folder / "adapter_config.json").write_text("{}")
        shutil.copy(OTHERS / "model.safetensors", folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("kind", ["sharded", "single", "bin", "adapter"])
def test_a_model_in_a_folder_is_one_document(kind: str, tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "hf", kind)
    main = main_file(str(folder))
    assert main is not None
    with ptinspect.open(folder) as document, ptinspect.open(main) as same:
        assert list(document.tensors) == list(same.tensors) and document.tensors
        assert document.path == str(folder)
    shown = json.loads(run("show", "-f", "json", folder).stdout)
    assert isinstance(shown, dict) and len(shown["tensors"]) == len(document.tensors)
    target = tmp_path / "out.safetensors"
    result = run("convert", folder, target)
    assert result.exit_code == 0, result.stderr
    assert ptinspect.diff(folder, target).same


@pytest.mark.parametrize("kind", ["sharded", "single", "bin", "adapter"])
def test_the_advised_line_loads_the_model_of_a_folder(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    folder = hugging_face(tmp_path / "hf", kind)
    with ptinspect.open(f"{folder}/") as document:
        names = {"torch": torch, "json": json, "os": os}
        names["safetensors"] = SimpleNamespace(torch=safetensors)
        assert set(eval(load_advice(document).call, names)) == {*document.tensors}
    stub = run("stub", f"{folder}/").stdout
    assert stub.startswith(f'"""The classes of {Path(str(main_file(str(folder)))).name},')


@pytest.mark.parametrize("name", ["", "/", "/.metadata"])
def test_the_advised_line_for_a_distributed_checkpoint_names_its_folder(name: str) -> None:
    folder = OTHERS / "dcp"
    with ptinspect.open(f"{folder}{name}") as document:
        assert f'checkpoint_id="{folder}")' in load_advice(document).call


def test_a_folder_of_models_is_a_list_with_each_model_once(tmp_path: Path) -> None:
    hugging_face(tmp_path / "a", "sharded")
    hugging_face(tmp_path / "b", "single")
    shutil.copy(FIXTURES / "seed/model.pth", tmp_path)
    shown = json.loads(run("show", "-f", "json", tmp_path).stdout)
    assert sorted(Path(item["file"]["path"]).name for item in shown) == ["a", "b", "model.pth"]


def test_any_other_folder_is_not_one_document(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "seed/model.pth", tmp_path)
    with pytest.raises(ptinspect.FormatError, match="not one checkpoint"):
        ptinspect.open(tmp_path)


def test_a_pipeline_lists_its_models_and_convert_asks_which(tmp_path: Path) -> None:
    """As diffusers writes it: a folder per component, some without weights."""
    lesson = FIXTURES / "others/model.safetensors"
    for name, weights in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (tmp_path / "pipe" / name).mkdir(parents=True)
        (tmp_path / "pipe" / name / "config.json").write_text("{}")
        shutil.copy(lesson, tmp_path / "pipe" / name / f"{weights}.safetensors")
    (tmp_path / "pipe/scheduler").mkdir()
    (tmp_path / "pipe/scheduler/scheduler_config.json").write_text("{}")
    (tmp_path / "pipe/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    shown = run("show", tmp_path / "pipe").stdout
    assert "unet" in shown and "text_encoder" in shown
    result = run("convert", tmp_path / "pipe", tmp_path / "out.pt")
    assert result.exit_code == 2 and "a pipeline of 2 models: text_encoder, unet" in result.stderr
    assert run("convert", tmp_path / "pipe/unet", tmp_path / "out.pt").exit_code == 0


@pytest.mark.parametrize(
    "name",
    ["model.fp16.safetensors", "pytorch_model.fp16.bin", "diffusion_pytorch_model.fp16.safetensors",
     "consolidated.safetensors", "consolidated.00.pth"],
)  # fmt: skip
def test_a_variant_of_a_model_is_one_document(name: str, tmp_path: Path) -> None:
    lesson = FIXTURES / "seed/model.pth" if name.endswith(("pth", "bin")) else "model.safetensors"
    shutil.copy(OTHERS / lesson, tmp_path / name)
    assert main_file(str(tmp_path)) is None
    (tmp_path / ("params.json" if name.startswith("con") else "config.json")).write_text("{}")
    with ptinspect.open(tmp_path) as document:
        assert document.tensors and not document.warnings
    assert main_file(str(tmp_path)) == str(tmp_path / name)


def test_the_index_of_a_variant_is_one_document(tmp_path: Path) -> None:
    """Source: `_add_variant` of transformers."""
    folder = hugging_face(tmp_path / "hf", "sharded")
    index = folder / "model.safetensors.index.json"
    index.rename(folder / "model.safetensors.index.fp16.json")
    with ptinspect.open(folder) as document:
        assert document.archive.format == "safetensors-index"
        assert not [each for each in document.warnings if each.kind == "other-models"]
    shown = json.loads(run("show", "-f", "json", tmp_path).stdout)
    assert [Path(item["file"]["path"]).name for item in shown] == ["hf"]


def test_the_other_models_of_a_folder_are_named(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "hf", "single")
    for name in ("model.fp16.safetensors", "consolidated.safetensors", "pytorch_model.bin"):
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "params.json").write_text("{}")
    assert main_file(str(folder)) == str(folder / "model.safetensors")
    text = "the folder has other models, which are not read: pytorch_model.bin,"
    text += " consolidated.safetensors, model.fp16.safetensors"
    assert text in run("show", folder).stdout
    assert text in run("convert", folder, tmp_path / "out.pt").stderr


def test_of_several_variants_convert_asks_which(tmp_path: Path) -> None:
    """As of the files of Llama, which are pieces, and none of which says along which dimension."""
    for name in ("consolidated.00.pth", "consolidated.01.pth"):
        shutil.copy(FIXTURES / "seed/model.pth", tmp_path / name)
    (tmp_path / "params.json").write_text("{}")
    result = run("convert", tmp_path, tmp_path / "out.pt")
    assert result.exit_code == 2
    assert "a folder with 2 models: consolidated.00.pth, consolidated.01.pth" in result.stderr
    assert f"name one of them: {tmp_path}/consolidated.00.pth" in result.stderr
    assert len(run("show", "--brief", tmp_path).stdout.splitlines()) == 2


def test_of_several_models_in_a_folder_it_is_the_one_that_transformers_loads(
    tmp_path: Path,
) -> None:
    """Source: `_get_resolved_checkpoint_files` of transformers, and its look for an adapter."""
    folder = hugging_face(tmp_path / "hf", "bin")
    names = ["pytorch_model.bin.index.json"]
    more = ["model.safetensors.index.json", "model.safetensors", "adapter_model.safetensors"]
    for name in more:
        shutil.copy(OTHERS / name.replace("adapter_", ""), folder / name)
        if name.startswith("adapter"):
            (folder / "adapter_config.json").write_text("{}")
        names.append(name)
        assert main_file(str(folder)) == str(folder / names[-1])
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").unlink()
    assert main_file(str(folder)) == str(folder / names[1])
