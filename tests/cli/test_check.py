"""`ptinspect check`, as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptinspect.cli import COMMANDS
from tests.cli.running import CHECKPOINT, MODEL, process, run
from tests.conftest import FIXTURES

SCHEDULED = "the learning rate was scheduled, but the file has no scheduler's state"
STEPS = "the optimizer has made 2 steps, but the recorded epoch is {}"
EMA = "state_dict_ema is the model's own tensors, not a copy"
# What the files, which were made by hand, leave undecided.
SOUND: dict[Path, list[str]] = {
    CHECKPOINT: [],
    FIXTURES / "checkpoints/resumable.pt": [STEPS.format(3)],
    FIXTURES / "checkpoints/resumable-cuda.pt": [STEPS.format(3)],
    FIXTURES / "checkpoints/lightning.ckpt": [],
    FIXTURES / "checkpoints/mmengine.pth": [STEPS.format(12)],
    FIXTURES / "checkpoints/timm.pth.tar": [STEPS.format(9), EMA],
    FIXTURES / "checkpoints/whole-everything.pt": [SCHEDULED],
}


@pytest.mark.parametrize("name", ["optimizer", "resume", "roundtrip"])
def test_every_proof_has_help(name: str) -> None:
    result = run("check", name, "--help")
    assert (result.exit_code, result.output.startswith("Usage: ptinspect check")) == (0, True)
    assert name in run("check", "--help").output
    group = COMMANDS["check"]()
    for option in group.commands[name].params:  # type: ignore[attr-defined]
        assert getattr(option, "help", None) or option.name == "path"


@pytest.mark.parametrize("path", SOUND, ids=lambda path: path.name)
def test_a_sound_checkpoint_fits(path: Path) -> None:
    result = run("check", "optimizer", path)
    assert (result.exit_code, result.stderr) == (0, "")
    verdict = "the recorded optimizer state is consistent with the recorded model"
    if SOUND[path]:
        verdict = "nothing contradicts the recorded model, but not all is decided"
    assert result.stdout.startswith(f"{path}: {verdict}\n")
    undecided = [
        line.split(None, 1)[1]
        for line in result.stdout.splitlines()
        if line.startswith("  undecided")
    ]
    assert undecided == SOUND[path]


def test_all_optimizers_of_torch_have_nothing_wrong() -> None:
    paths = sorted((FIXTURES / "optimizers").glob("*.pt"))
    asked = 0
    for path in paths:
        result = run("check", "optimizer", path)
        if "has no optimizer state" in result.stderr:
            assert result.exit_code == 2
            continue
        asked += 1
        assert result.exit_code == 0, result.stdout
    assert asked > 25


# --- resume: what is said before torch is needed ------------------------------------------


def test_resume_loads_nothing_that_nobody_vouches_for() -> None:
    result = run("check", "resume", MODEL)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "__main__.CustomModel is not on the allowlist" in result.stderr
    assert "--model FILE.py:CLASS" in result.stderr


def test_resume_loads_nothing_dangerous(tmp_path: Path) -> None:
    import os
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"model": Evil()}))
    for trust in ([], ["--trust"]):
        result = run("check", "resume", tmp_path / "evil.pt", *trust)
        assert result.exit_code == 2
        assert "dangerous to load: " in result.stderr
    assert not (tmp_path / "ran").exists()


def test_resume_says_what_a_wrong_option_is(tmp_path: Path) -> None:
    assert "is not a device" in run("check", "resume", CHECKPOINT, "--device", "tpu").stderr
    assert "is not a device" in run("check", "resume", CHECKPOINT, "--device", "cpu:1").stderr
    picture = tmp_path / "x.txt"
    assert (
        "a plot needs one of the suffixes"
        in run("check", "resume", CHECKPOINT, "--plot", picture).stderr
    )
    assert run("check", "resume", CHECKPOINT, "--steps", "0").exit_code == 2


def test_json() -> None:
    result = run("check", "optimizer", CHECKPOINT, "-f", "json")
    made = json.loads(result.stdout)
    assert (made["check"], made["verdict"], made["schema"]) == ("optimizer", "fits", 1)
    (one,) = made["optimizers"]
    assert one["path"] == ["optimizer_state_dict"]
    assert one["model"] == ["model_state_dict"]
    assert one["names"] == ["layer.weight", "layer.bias"]


def test_an_optimizer_of_another_model_is_1() -> None:
    result = run("check", "optimizer", FIXTURES / "checkpoints/gan.pt")
    assert result.exit_code == 1
    assert "wrong       the groups cover 6 parameters" in result.stdout
    one = run("check", "optimizer", FIXTURES / "checkpoints/gan.pt", "--entry", "optimizers[1]")
    assert one.stdout.count("  optimizer ") == 1


def test_no_optimizer_is_2() -> None:
    result = run("check", "optimizer", MODEL)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has no optimizer state" in result.stderr


def test_the_answer_goes_into_a_file(tmp_path: Path) -> None:
    target = tmp_path / "answer.txt"
    assert run("check", "optimizer", CHECKPOINT, "-o", target).stdout == ""
    assert "is consistent with the recorded model" in target.read_text("utf-8")
    assert run("check", "optimizer", CHECKPOINT, "-o", target).exit_code == 0
    target.write_bytes(CHECKPOINT.read_bytes())
    assert run("check", "optimizer", CHECKPOINT, "-o", target).exit_code == 2
    assert run("check", "optimizer", CHECKPOINT, "-o", target, "--force").exit_code == 0


def test_it_runs_as_a_program_of_its_own() -> None:
    assert process("check", "optimizer", CHECKPOINT).returncode == 0
    assert process("check").returncode == 2
