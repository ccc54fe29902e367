"""The run on a GPU, proved on the CPU; and the rules about which tests see a GPU."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ptinspect.proofs.processes import Workers
from tests import conftest
from tests.conftest import ROOT

torch = pytest.importorskip("torch")

from benchmarks.gpu.__main__ import Run  # noqa: E402
from benchmarks.gpu.checks import Check, Planner  # noqa: E402
from benchmarks.gpu.memory import MemorySampler  # noqa: E402


@pytest.mark.slow
def test_the_run_on_the_cpu_gives_the_right_answers(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", "--jobs", "2",
        "--budget", "3000", "--out", str(tmp_path),
    ]  # fmt: skip
    before = os.times()
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    after = os.times()
    assert result.returncode == 0, result.stdout + result.stderr
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    assert seconds < 240  # of the processors: other processes may keep them busy
    results = json.loads((tmp_path / "gpu.json").read_text())
    rows = results["checks"]
    assert (len(rows), [row["name"] for row in rows if not row["good"]]) == (29, [])
    assert {test["exit_code"] for test in results["tests"].values()} == {0}
    assert results["failures"] == {}
    of_the_seed = [row for row in rows if "seed" in row["name"]]
    assert {row["name"]: (row["good"], row["verdict"], row["causes"]) for row in of_the_seed} == {
        "roundtrip seed model.pth": (True, "same", []),
        "roundtrip seed model_state_dict.pt": (True, "same", []),
        "roundtrip seed checkpoint-6.pt": (True, "same", []),
        "resume seed checkpoint-6.pt, to the CPU and back": (True, "differs", ["rng-shuffling"]),
    }
    assert all(row["name"] in (tmp_path / "gpu.md").read_text() for row in rows)
    assert [len(row["crossings"]) for row in rows if row["crossings"]] == [2, 2, 2, 2]


def test_what_fails_leaves_the_others_running(tmp_path: Path) -> None:
    options = argparse.Namespace(out=tmp_path, device="cpu", small=True, budget=60.0, jobs=1)
    run = Run(options, tmp_path, False, MemorySampler(False))
    checks = [Check("answers", ("-c", "print('{\"verdict\": \"same\"}')")),
              Check("crashes", ("-c", "import os; os.abort()")),
              Check("lists", ("-c", "print('[1]')")),
              Check("is last", ("-c", "print('{\"verdict\": \"same\"}')"))]  # fmt: skip
    for number, check in enumerate(checks, 1):
        run.step(run.check, check)
        results = json.loads((tmp_path / "gpu.json").read_text())
        assert len(results["checks"]) + len(results["failures"]) == number
        assert check.name in (tmp_path / "gpu.md").read_text()
    assert {row["name"]: (row["good"], row["verdict"]) for row in results["checks"]} == {
        "answers": (True, "same"), "crashes": (False, "no answer"), "is last": (True, "same"),
    }  # fmt: skip
    (failure,) = results["failures"]
    assert "'lists'" in failure


def test_the_checks_of_honest_trainings_come_first(tmp_path: Path) -> None:
    checks = Planner("cuda", tmp_path).checks()
    assert [check.is_timed for check in checks[:4]] == [True, True, True, False]
    verdicts = [check.verdict == "same" for check in checks]
    assert verdicts == sorted(verdicts, reverse=True)


@pytest.mark.parametrize(
    ("label", "on_cuda"),
    [("lstm-dropout", ("differs", ("cudnn-dropout",))),  # the state of cuDNN is in no checkpoint
     ("grid-sample", ("not-deterministic", ("non-determinism",)))],
)  # fmt: skip
def test_the_right_answer_depends_on_the_device(
    label: str, on_cuda: tuple[str, tuple[str, ...]], tmp_path: Path
) -> None:
    for device, right in (("cuda", on_cuda), ("cpu", ("same", ()))):
        checks = {check.name: check for check in Planner(device, tmp_path).checks()}
        check = checks[f"resume {label} honest"]
        assert (check.verdict, check.causes) == right


def test_only_marked_tests_see_a_gpu(workers: Workers) -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("cuda", "driver", "reason"),
    [(None, None, "needs CUDA: torch 9.9 is built without it"),
     ("13.0", None, "needs CUDA: no NVIDIA driver is loaded for torch 9.9 for CUDA 13.0"),
     ("13.0", "580\n", "needs CUDA: torch 9.9 for CUDA 13.0 finds no device with the driver 580")],
)  # fmt: skip
def test_the_reason_for_a_skip(
    cuda: str | None, driver: str | None, reason: str, tmp_path: Path, monkeypatch: Any
) -> None:
    if driver is not None:
        (tmp_path / "version").write_text(driver)
    monkeypatch.setattr(conftest, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch, "__version__", "9.9")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert conftest.why_no_gpu() == reason


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("needed", "result"), [("0", "1 skipped"), ("1", "1 error")])
def test_a_needed_gpu_turns_skips_into_failures(needed: str, result: str) -> None:
    test = "tests/proofs/test_cross_device.py::test_a_round_trip_on_cuda"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", test]
    env = {**os.environ, "PTINSPECT_NEED_GPU": needed}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert result in done.stdout
    assert "needs CUDA: " in done.stdout
