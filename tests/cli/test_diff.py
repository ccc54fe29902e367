"""`ptinspect diff`: formats, exit codes and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import CHECKPOINT, MODEL, STATE_DICT, process, run


def test_a_model_and_its_state_dict_are_the_same() -> None:
    result = run("diff", MODEL, STATE_DICT)
    assert result.exit_code == 0
    assert "\nsame: 2 tensors\n" in result.stdout
    assert result.stderr == ""


def test_a_checkpoint_and_an_older_state_dict() -> None:
    result = run("diff", CHECKPOINT, STATE_DICT)
    assert result.exit_code == 1
    first = result.stdout.splitlines()[3]
    assert first.startswith("different: 2 keys renamed (model_state_dict.{} became {})")
    assert "optimizer dropped" in first
    assert "'CustomModel 체크포인트-6'" in result.stdout


@pytest.mark.parametrize("output_format", ["text", "json", "markdown", "html"])
def test_formats_to_a_file_and_to_standard_output(output_format: str, tmp_path: Path) -> None:
    to_stdout = run("diff", "-f", output_format, CHECKPOINT, STATE_DICT)
    target = tmp_path / "report"
    target.write_text("an older report")
    to_file = run("diff", "-f", output_format, "-o", target, CHECKPOINT, STATE_DICT)
    assert to_stdout.exit_code == to_file.exit_code == 1
    assert to_file.stdout == ""
    assert target.read_text("utf-8") == to_stdout.stdout
    if output_format == "json":
        assert json.loads(to_stdout.stdout)["totals"]["renamed"] == 2


def test_what_a_tensor_is_in_each_file_is_shown(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, a)
    torch.save({"w": torch.ones(2)}, b)
    rows = [line.split() for line in run("diff", a, b).stdout.splitlines()]
    assert ["w", "requires_grad", "True", "False"] in rows
    assert ["w", "role", "parameter", "tensor"] in rows


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "cut.pth"
    damaged.write_bytes(MODEL.read_bytes()[:1000])
    for pair in ((MODEL, damaged), (damaged, MODEL)):
        result = run("diff", *pair)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith(f"ptinspect: {damaged}: ")


def test_no_model_is_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    model.write_bytes(MODEL.read_bytes())
    result = run("diff", model, STATE_DICT, "-o", model)
    assert result.exit_code == 2
    assert model.read_bytes() == MODEL.read_bytes()


def test_equal_files_are_compared_without_numpy() -> None:
    code = (
        "import sys; from ptinspect.comparison import diff; "
        f"assert diff({str(MODEL)!r}, {str(STATE_DICT)!r}).same; "
        "sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    )
    import subprocess
    import sys

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_runs_as_a_process() -> None:
    result = process("diff", MODEL, STATE_DICT)
    assert result.returncode == 0


def test_two_dropped_optimizers_are_counted(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(1, 1)
    states = {name: torch.optim.SGD(model.parameters(), 0.1).state_dict() for name in ("a", "b")}
    torch.save({"model": model.state_dict(), **states}, tmp_path / "with.pt")
    torch.save({"model": model.state_dict()}, tmp_path / "without.pt")
    text = run("diff", tmp_path / "with.pt", tmp_path / "without.pt").stdout
    assert "different: 2 optimizers dropped\n" in text
