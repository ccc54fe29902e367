"""`ptinspect stub`, as its user meets it."""

from __future__ import annotations

import pickle
from pathlib import Path

from tests.cli.running import CHECKPOINT, MODEL, STATE_DICT, cut_file, run
from tests.conftest import FIXTURES


def test_the_stub_goes_to_standard_output() -> None:
    result = run("stub", MODEL)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "class CustomModel(nn.Module):" in result.stdout
    compile(result.stdout, "stub", "exec")


def test_a_file_is_written_whole_and_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "model_def.py"
    assert run("stub", MODEL, "-o", target).exit_code == 0
    first = target.read_text("utf-8")
    again = run("stub", STATE_DICT, "-o", target)
    assert again.exit_code == 2
    assert "already exists" in again.stderr and "--force" in again.stderr
    assert target.read_text("utf-8") == first
    assert run("stub", STATE_DICT, "-o", target, "--force").exit_code == 0
    assert "class Model(nn.Module):" in target.read_text("utf-8")


def test_a_cut_file_says_where_and_writes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "model_def.py"
    result = run("stub", cut_file(tmp_path), "-o", target)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"ptinspect: {tmp_path / 'cut.pth'}: ")
    assert not target.exists()


def test_a_checkpoint_names_its_model() -> None:
    result = run("stub", CHECKPOINT)
    assert "class CustomModel(nn.Module):" in result.stdout
    assert "inferred" in result.stdout


def test_an_entry_is_the_model_that_build_makes() -> None:
    file = FIXTURES / "checkpoints" / "yolov5.pt"
    assert (
        "    model = DetectionModel()\n    model.eval()"
        in run("stub", file, "--entry", "model").stdout
    )
    wrong = run("stub", file, "--entry", "nowhere")
    assert wrong.exit_code == 2
    assert "there is no module or state_dict at 'nowhere'" in wrong.stderr
    assert "--entry can be one of: model" in wrong.stderr


def test_a_guessed_forward_warns() -> None:
    plain, guessed = run("stub", MODEL).stdout, run("stub", MODEL, "--guess-forward").stdout
    assert "raise NotImplementedError" in plain and "guessed" not in plain
    assert "CustomModel.forward is guessed: its children in order" in guessed
    assert "for child in self.children():" in guessed


def test_a_file_that_needs_none_says_so() -> None:
    result = run("stub", FIXTURES / "optimizers" / "adadelta.pt")
    assert result.exit_code == 0
    assert "needs no classes other than torch's and Python's" in result.stdout
    compile(result.stdout, "stub", "exec")


def test_a_file_without_modules_has_no_build_to_advise(tmp_path: Path) -> None:
    source, target = tmp_path / "numbers.pkl", tmp_path / "numbers_def.py"
    source.write_bytes(pickle.dumps({"lr": 0.1}))
    result = run("stub", source, "-o", target)
    ending = "lines; the file holds no module, and needs no classes\n"
    assert (result.exit_code, result.stderr.endswith(ending)) == (0, True)
