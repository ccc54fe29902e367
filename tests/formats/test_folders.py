"""Folders that are one model: shown once, converted as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import ptinspect
from ptinspect.formats.folders import main_file
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
