"""`ptinspect recover`: exit codes, outputs and the hint that names it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ptinspect
from ptinspect.recovery import recover
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


@pytest.mark.parametrize("name", ["src.pt", "symlink.pt", "hardlink.pt"])
def test_the_source_is_never_the_target(name: str, tmp_path: Path) -> None:
    source, data = tmp_path / "src.pt", CHECKPOINT.read_bytes()
    source.write_bytes(data)
    (tmp_path / "symlink.pt").symlink_to(source)
    (tmp_path / "hardlink.pt").hardlink_to(source)
    for pair in ((source, tmp_path / name), (tmp_path / name, source)):
        result = run("recover", "--force", *pair)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"ptinspect: {pair[1]}: cannot be overwritten: it is the")
    assert source.read_bytes() == data
    assert run("recover", tmp_path / "symlink.pt", tmp_path / "saved.pt").exit_code == 0


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    source = tmp_path / "src.pt"
    source.write_bytes(CHECKPOINT.read_bytes())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [sys.executable, "-B", "-m", "ptinspect", "recover", source, tmp_path / "saved.pt"]
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"ptinspect: {tmp_path}/saved.pt: cannot be written: ")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_an_interrupted_recovery_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(CHECKPOINT, tmp_path / "saved.pt", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


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
