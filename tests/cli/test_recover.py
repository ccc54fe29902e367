"""`ptinspect recover`: exit codes, outputs and the hint that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ptinspect
from tests.cli.running import CHECKPOINT, MODEL, run
from tests.conftest import FIXTURES

OLD_TAR = FIXTURES / "old/torch-0.1-by-hand/model.tar.pth"


def test_an_undamaged_checkpoint_is_saved_whole(tmp_path: Path) -> None:
    result = run("recover", CHECKPOINT, tmp_path / "saved.pt")
    assert result.exit_code == 0, result.output
    assert "saved 3 of 3 tensors (3 proved), 16 bytes" in result.stdout
    assert ptinspect.diff(CHECKPOINT, tmp_path / "saved.pt").same


def test_a_cut_file_is_saved_in_part(tmp_path: Path) -> None:
    data = MODEL.read_bytes()
    damaged, saved = tmp_path / "cut.pth", tmp_path / "saved.pt"
    damaged.write_bytes(data[: data.index(b"data/1") + 10])
    result = run("recover", damaged, saved, "-f", "json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [tensor["status"] for tensor in report["tensors"]] == ["proved", "lost"]
    assert report["dropped"] == [], "a lost tensor is not a dropped value too"
    with ptinspect.open(saved) as document, ptinspect.open(MODEL) as original:
        assert list(document.tensors) == ["layer.weight"]
        assert document.tensors["layer.weight"].read() == original.tensors["layer.weight"].read()


def test_nothing_to_save_writes_nothing(tmp_path: Path) -> None:
    damaged = tmp_path / "cut.pth"
    damaged.write_bytes(MODEL.read_bytes()[:100])
    result = run("recover", damaged, tmp_path / "saved.pt")
    assert result.exit_code == 2
    assert "nothing could be saved" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pth"]


def test_the_tar_of_torch_0_1(tmp_path: Path) -> None:
    data = OLD_TAR.read_bytes()
    with ptinspect.open(OLD_TAR) as document:
        truth = {key: tensor.read() for key, tensor in document.tensors.items()}
        spans = [t.tensor.storage.file_offset for t in document.tensors.values()]  # type: ignore[union-attr]
    (tmp_path / "cut.tar").write_bytes(data[: max(spans) + 1])  # type: ignore[type-var]
    result = run("recover", tmp_path / "cut.tar", tmp_path / "saved.pt", "-f", "json")
    statuses = [tensor["status"] for tensor in json.loads(result.stdout)["tensors"]]
    assert result.exit_code == 1 and statuses.count("lost") == 1
    with ptinspect.open(tmp_path / "saved.pt") as document:
        for key, tensor in document.tensors.items():
            assert tensor.read() == truth[key]


@pytest.mark.parametrize("command", ["show", "convert", "stub"])
def test_an_error_on_a_damaged_file_names_recover(command: str, tmp_path: Path) -> None:
    damaged = tmp_path / "cut.pth"
    damaged.write_bytes(MODEL.read_bytes()[:-300])
    arguments = [damaged, tmp_path / "x.pt"] if command == "convert" else [damaged]
    result = run(command, *arguments)
    assert result.exit_code == 2
    assert f"ptinspect recover {damaged} " in result.stderr
