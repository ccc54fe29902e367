"""Where two recorded runs differ first, and where a resumed one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptinspect.proofs.script import _first_of_ranks
from ptinspect.proofs.script_report import compare_runs
from ptinspect.proofs.script_runs import (
    Record,
    Run,
    Trace,
    first_difference,
    read_trace,
    resumed_at,
)


def step(number: int, **changes: Any) -> Record:
    record: Record = {
        "optimizer": 0, "weights": f"w{number}", "state": f"s{number}", "states": 2,
        "settings": [{"lr": 0.1, "momentum": 0.9}], "gradients": f"g{number}",
        "rng": {"torch": "t", "numpy": f"n{number}"}, "batch": f"b{number}",
        "loader": {"sampler": "SequentialSampler", "epoch": None, "generator": None},
    }  # fmt: skip
    return {**record, **changes}


WHOLE = [step(number) for number in range(6)]


def test_the_weights_say_where_a_resume_goes_on() -> None:
    assert resumed_at(WHOLE, WHOLE[4:], killed_after=4) == 4
    assert resumed_at(WHOLE, WHOLE, killed_after=4) == 0
    assert resumed_at(WHOLE, [], killed_after=4) is None
    assert resumed_at(WHOLE, [step(9)], killed_after=4) is None


def test_weights_that_stay_the_same() -> None:
    """As in a warm-up that begins at zero: the optimizer's state decides."""
    still = [step(number, weights="w") for number in range(6)]
    assert [resumed_at(still, still[n:], killed_after=4) for n in (0, 2, 4)] == [0, 2, 4]
    plain = [step(number, weights="w", state="") for number in range(6)]
    assert resumed_at(plain, plain[4:], killed_after=4) == 4


GENERATOR = {"sampler": "RandomSampler", "epoch": None, "generator": "x"}
OTHER = {"gradients": "other"}


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"weights": "x"}, "weights", "the weights before step 5"),
        ({"state": "x", "states": 0}, "optimizer-state",
         "the optimizer's state before step 5: of 0 parameters, not of 2"),
        ({"settings": [{"lr": 0.2, "momentum": 0.9}]}, "scheduler",
         "lr before step 5: 0.2, not 0.1"),
        ({"settings": [{"lr": 0.1, "momentum": 0.5}]}, "settings",
         "momentum before step 5: 0.5, not 0.9"),
        (OTHER, "gradients", "the gradients of step 5"),
        ({**OTHER, "rng": {"torch": "x", "numpy": "x"}}, "rng", "numpy's RNG at step 5"),
        ({**OTHER, "batch": "b0"}, "data-again",
         "the batch of step 5, which is that of step 1"),
        ({**OTHER, "batch": "b5"}, "data-skipped",
         "the batch of step 5, which is that of step 6"),
        ({**OTHER, "batch": "x"}, "data-order", "the batch of step 5"),
        ({**OTHER, "batch": "x", "loader": GENERATOR}, "generator",
         "the state of the DataLoader's generator at step 5"),
        ({**OTHER, "batch": "x", "rng": {"torch": "x", "numpy": "x"}}, "rng",
         "torch's and numpy's RNG at step 5"),
    ],
)  # fmt: skip
def test_what_differs_first(changes: dict[str, Any], kind: str, text: str) -> None:
    resumed = [step(4, **changes), step(5, weights="later")]
    difference = first_difference(WHOLE, resumed, 4)
    assert difference is not None
    assert (difference.kind, str(difference), difference.step) == (kind, text, 5)


def test_a_generator_that_nobody_draws_from_is_no_cause() -> None:
    """Such as numpy's, which the script imports and never seeds; the data need no DataLoader."""
    whole = [step(number, batch=None, loader=None) for number in range(6)]
    other = {**OTHER, "rng": {"torch": "x", "numpy": "n4"}}
    resumed = [step(4, batch=None, loader=None, **other)]
    difference = first_difference(whole, resumed, 4)
    assert difference is not None
    assert (difference.kind, str(difference)) == ("gradients", "the gradients of step 5")
    # Before the first step it may have shuffled the data.
    first = first_difference(whole, [step(0, batch=None, loader=None, **other)], 0)
    assert first is not None
    assert str(first) == "torch's and numpy's RNG at step 1"


def test_runs_that_agree() -> None:
    # A scheduler that was not loaded: the rate falls later than in the whole run.
    falling = [step(n, settings=[{"lr": 0.1 if n < 5 else 0.01}]) for n in range(6)]
    resumed = [step(n, settings=[{"lr": 0.1}]) for n in (4, 5)]
    difference = first_difference(falling, resumed, 4)
    assert difference is not None
    assert (difference.kind, difference.step) == ("scheduler", 6)
    assert first_difference(WHOLE, WHOLE, 0) is None
    assert first_difference(WHOLE, WHOLE[4:], 4) is None
    unset = [step(4, settings=[{"lr": 0.1, "limit": float("nan")}])]
    assert first_difference([*WHOLE[:4], *unset], json.loads(json.dumps(unset)), 4) is None
    # A generator that nothing depends on is no difference.
    assert first_difference(WHOLE, [step(4, rng={"torch": "x"})], 4) is None


def test_the_process_that_has_the_cause_is_named() -> None:
    """DDP averages the gradients: those of rank 0 differ because of rank 1's generator."""
    other = [step(0, **OTHER)], [step(0, **OTHER, rng={"torch": "t", "numpy": "x"})]
    whole, second = Trace({0: WHOLE, 1: WHOLE}), Trace(dict(enumerate(other)))
    difference = _first_of_ranks(whole, second, {})
    assert difference is not None
    assert str(difference) == "numpy's RNG at step 1 (rank 1)"


def test_a_line_that_the_kill_cut(tmp_path: Path) -> None:
    lines = [{"pid": 1, "session": 2}, {"rank": 1, "environment": {}}, step(0), {"saved_after": 1}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "1-1.jsonl").write_text(text + '{"weights": "w')
    trace = read_trace(str(tmp_path))
    assert (trace.steps, trace.saves, trace.processes) == (1, [1], [(1, 2)])
    assert list(trace.ranks) == [1]


def test_each_start_writes_into_a_folder_of_its_own(tmp_path: Path) -> None:
    """The killed run's files and those of the resumed one are together those of the whole run."""

    def run(name: str, files: dict[str, int]) -> Run:
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(file[-4:])
        state = {file: (written, 4, 1) for file, written in files.items()}
        return Run(str(tmp_path / name), state, Trace(), 0, None, "", 0, 0)

    whole = run("whole", {"at-1/0.pt": 1, "at-1/1.pt": 2, "at-1/2.pt": 3, "at-1/last": 3})
    resumed = run(
        "resumed", {"at-4/0.pt": 4, "at-4/1.pt": 5, "at-4/last": 5, "at-7/2.pt": 7, "at-7/last": 8}
    )
    checkpoints = compare_runs(whole, resumed, 6)
    assert [(checkpoint.name, checkpoint.other) for checkpoint in checkpoints] == [
        ("at-1/0.pt", "at-4/0.pt"),
        ("at-1/1.pt", "at-4/1.pt"),
        ("at-1/2.pt", "at-7/2.pt"),
        ("at-1/last", "at-7/last"),
    ]
    assert not any(checkpoint.items for checkpoint in checkpoints)
