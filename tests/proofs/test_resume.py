"""`check resume` as its user meets it: text, JSON, refusals, crashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptinspect.errors import PtInspectError
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume import check_resume
from tests.cli.running import CHECKPOINT, run
from tests.proofs.seed import seed_files
from tests.proofs.test_schemas import valid

torch = pytest.importorskip("torch")

from tests.proofs.trainings import NET, Training  # noqa: E402


def test_the_command_tells_the_cause_and_exits_with_1(
    tmp_path: Path, forked_training: None
) -> None:
    files = seed_files(tmp_path)
    result = run(
        "check", "resume", CHECKPOINT, "--model", files["model"], "--data", files["data"],
        "-f", "json", "--steps", "2",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (1, "")
    made = valid("resume", json.loads(result.stdout))
    assert (made["verdict"], made["steps"]) == ("differs", 2)
    assert [cause["kind"] for cause in made["causes"]] == ["rng-shuffling"]
    assert made["first"] == {"step": 1, "what": "the batch", "more": 0}
    assert len(made["losses"]["resumed"]) == 4


@pytest.mark.slow
def test_a_model_is_asked_for(workers: Workers) -> None:
    with pytest.raises(PtInspectError, match="no model") as caught:
        check_resume(str(CHECKPOINT), workers=workers)
    assert caught.value.hint == "give model=FILE.py:CLASS"


@pytest.mark.parametrize("second", ["model_1.safetensors", "optimizer_1.bin"])
def test_a_folder_of_several_models_is_refused(second: str, tmp_path: Path) -> None:
    for name in ("model.safetensors", "optimizer.bin", second):
        (tmp_path / name).touch()
    with pytest.raises(PtInspectError, match=f"several models or optimizers .{second}"):
        check_resume(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "said"),
    [
        ("raise ValueError('broken')", "cannot be imported: ValueError: broken"),
        ("class Other: pass", "has no Net"),
        (NET.replace("nn.Linear(3, 4)", "nn.Linear(3, 5)"), "body.weight has another shape"),
        (NET.replace("body", "trunk").replace("norm", "bn").replace("head", "top"), "do not fit"),
        (NET.replace("return self.head(", "return self.none("), "step 1 fails: AttributeError"),
    ],
)
def test_what_cannot_be_run_is_said(net: str, said: str, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts(), net)
    with pytest.raises(PtInspectError, match=said.replace("(", r"\(")):
        check_resume(given.pop("path"), **given, workers=workers)


@pytest.mark.slow
def test_a_crash_of_the_child_is_reported_as_one(tmp_path: Path, workers: Workers) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    training = Training(tmp_path)
    given = training.save(training.parts(), crash)
    with pytest.raises(PtInspectError, match=r"crashed \(SIGSEGV\)"):
        check_resume(given.pop("path"), **given, workers=workers)


@pytest.mark.slow
def test_a_child_that_takes_too_long_is_ended(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts(), "import time\ntime.sleep(60)\n")
    workers.timeout, before = 1, workers.timeout
    try:
        with pytest.raises(PtInspectError, match="took more than 1 seconds"):
            check_resume(given.pop("path"), **given, workers=workers)
    finally:
        workers.timeout = before


@pytest.mark.slow
def test_a_child_that_wants_too_much_memory_is_refused_it(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts(), "held = bytearray(1 << 50)\n")
    with pytest.raises(PtInspectError, match="MemoryError"):
        check_resume(given.pop("path"), **given, workers=workers)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_is_asked_for_where_there_is_none(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    with pytest.raises(PtInspectError, match="no CUDA device"):
        check_resume(given.pop("path"), **given, workers=workers, device="cuda")
