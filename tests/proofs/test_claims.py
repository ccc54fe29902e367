"""`check resume` claims what was shown, no more: what is wrong or undecided in the file counts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ptinspect.proofs.processes import Workers  # noqa: E402
from tests.proofs.running import run  # noqa: E402
from tests.proofs.test_schemas import valid  # noqa: E402
from tests.proofs.trainings import NET, Training  # noqa: E402

pytestmark = pytest.mark.slow

TIED = NET.replace("nn.Linear(4, 2)", "nn.Linear(4, 2)\n        self.again = self.head")


def test_a_state_that_contradicts_itself_is_no_proof(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    parts = training.parts()
    parts["optimizer"]["state"][0]["exp_avg_sq"][0, 0] = -1e-12
    parts["optimizer"]["state"][1]["exp_avg"][0] = float("nan")
    report = run(workers, training.save(parts))
    assert (report.verdict, report.exit_code, report.ok) == ("inconsistent", 1, False)
    assert report.wrong == [
        "body.weight: exp_avg_sq contains negative numbers; it is an average of squares",
        "body.bias: exp_avg contains NaN",
    ]
    assert "the recorded state is not consistent" in report.text()


def test_zeroed_momentum_is_no_proof(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    parts = training.parts()
    for state in parts["optimizer"]["state"].values():
        state["exp_avg"].zero_()
    report = run(workers, training.save(parts))
    assert (report.verdict, report.exit_code) == ("inconsistent", 1)
    assert "momentum of body.weight, body.bias" in report.wrong[0]


def test_tied_weights_with_different_numbers(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, net=TIED)
    parts = training.parts()
    assert run(workers, training.save(parts)).exit_code == 0
    parts["model"]["again.bias"] = parts["model"]["again.bias"] + 1
    report = run(workers, training.save(parts))
    assert (report.verdict, report.exit_code) == ("inconsistent", 1)
    assert report.wrong == [
        "head.bias and again.bias are one tensor of the model, but the file has different numbers "
        "for them"
    ]


def test_steps_that_are_not_those_of_the_epochs(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    parts = {**training.parts(), "epoch": 5}
    report = run(workers, training.save(parts))
    assert report.undecided == [
        "the optimizer has made 6 steps and the recorded epoch is 5, but an epoch of --data has 3 "
        "batches"
    ]


def test_a_scheduler_that_was_saved_before_its_step(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5))
    parts = training.parts()
    assert run(workers, training.save(parts)).undecided == []
    parts["scheduler"] |= {"last_epoch": 1, "_step_count": 2, "_last_lr": [0.005]}
    parts["optimizer"]["param_groups"][0]["lr"] = 0.005
    assert run(workers, training.save(parts)).undecided == [
        "the optimizer has made 6 steps, which are 2 epochs of --data, and the scheduler 1: it was "
        "saved before scheduler.step()"
    ]


def test_an_average_that_equals_the_model(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    parts: dict[str, Any] = training.parts()
    parts["ema"] = {key: value.clone() for key, value in parts["model"].items()}
    report = run(workers, training.save(parts))
    assert report.undecided[0].startswith("ema has the same numbers as the model")


def test_the_report_says_where_it_was_proved_and_how_to_repeat_it(
    tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    report = run(workers, dict(given), seed=7)
    answer = valid("resume", report.as_dict())
    assert answer["environment"]["torch"] == torch.__version__
    assert answer["environment"]["driver"] is None
    assert answer["environment"]["precision"]["deterministic"] is True
    assert shlex.split(answer["reproduce"]) == [
        "ptinspect", "check", "resume", given["path"], "--model", given["model"],
        "--data", given["data"], "--steps", "3", "--seed", "7",
    ]  # fmt: skip
