"""Real scripts: the lesson's training, two processes, Lightning, Trainer, accelerate.

Each raises no alarm as it is, and its fault is named.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ptinspect.proofs.script_report import ScriptReport
from tests.conftest import FIXTURES
from tests.proofs.script.running import SCRIPTS, check, replaced
from tests.torch_child import torch_python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("torch") is None, reason="the scripts import torch"),
]

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
OPTIONS: dict[str, dict[str, Any]] = {
    "seed": {"checkpoint": ["checkpoint-*.pt"]},
    "ddp": {"python": TORCHRUN},
    "lightning": {"checkpoint": ["runs/*.ckpt"]},
    "trainer": {"checkpoint": ["runs/checkpoint-*"]},
    "accelerated": {"checkpoint": ["runs/*"]},
}
PACKAGES = {
    "seed": "pandas", "lightning": "lightning", "trainer": "transformers",
    "accelerated": "accelerate",
}  # fmt: skip


def run(name: str, folder: Path, *replacements: tuple[str, str], **options: Any) -> ScriptReport:
    package = PACKAGES.get(name, "torch")
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    shutil.copy(FIXTURES / "seed" / "dataset.csv", folder)
    source = replaced((SCRIPTS / f"{name}.py").read_text("utf-8"), *replacements)
    return check(folder, source, **{**OPTIONS[name], **options})


@pytest.mark.parametrize("name", OPTIONS)
def test_an_honest_script_raises_no_alarm(name: str, tmp_path: Path) -> None:
    # test_no_process_outlives_the_kill starts that one without a fork.
    options = {"executable": torch_python(trains=True)} if name == "ddp" else {}
    report = run(name, tmp_path, **options)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert report.steps is not None
    assert 0 < report.steps.resumed_after < report.steps.whole
    if name == "seed":
        assert report.not_compared == ["saved_at"]


PREPARED = (
    "model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)"
)
STEPPED = ("StepLR(optimizer, 4, 0.7)", "LambdaLR(optimizer, (0.9).__pow__)")
FAULTS: dict[str, tuple[str, list[tuple[str, str]], str, str]] = {
    "the seed's own file has no RNG state": (
        "seed", [('    torch.set_rng_state(saved["rng_state"])\n', "")], "rng", "torch's RNG",
    ),
    "set_epoch counts from the resume": (
        "ddp", [("sampler.set_epoch(epoch)", "sampler.set_epoch(epoch - start)")],
        "sampler-epoch", "DistributedSampler.epoch: 0, not 2",
    ),
    "no set_epoch after a resume": (
        "ddp", [("    sampler.set_epoch(epoch)", "    start or sampler.set_epoch(epoch)")],
        "sampler-epoch", "DistributedSampler.epoch: 0, not 2",
    ),
    "the momentum of DDP's optimizer": (
        "ddp", [('    optimizer.load_state_dict(checkpoint["optimizer"])\n', "")],
        "optimizer-state", "the optimizer's state",
    ),
    "dropout without Lightning's RNG state": (
        "lightning", [("DROPOUT = 0.0", "DROPOUT = 0.5")], "rng", "torch's RNG",
    ),
    "Trainer that skips no data": (
        "trainer",
        [("    logging_steps=2,", "    logging_steps=2, ignore_data_skip=True,")], "generator", "",
    ),
    "a scheduler that accelerate does not know": (
        "accelerated", [(PREPARED, PREPARED.replace(", scheduler", "")), STEPPED],
        "scheduler", "lr before step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, tmp_path: Path) -> None:
    name, replacements, cause, first = FAULTS[fault]
    report = run(name, tmp_path, *replacements, executable=torch_python(trains=True))
    assert (report.verdict, report.exit_code, report.causes) == ("differs", 1, [cause]), (
        report.text()
    )
    assert first in str(report.first), report.text()


def test_lightning_survives_a_kill_inside_a_save(tmp_path: Path) -> None:
    report = run("lightning", tmp_path, kill_during_save=True)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert "it serializes in memory: it was killed before the file got its name" in report.notes
    assert "it went on from an older checkpoint; 4 steps done again" in report.notes


def test_trainer_takes_half_a_folder_for_a_checkpoint(tmp_path: Path) -> None:
    report = run("trainer", tmp_path, kill_during_save=True)
    assert (report.verdict, report.exit_code) == ("fails", 1), report.text()
    assert report.kill is not None
    assert report.kill.partial == ["runs/checkpoint-9/training_args.bin"]
    assert "trainer_state.json" in report.output[-1]


def test_no_process_outlives_the_kill(tmp_path: Path) -> None:
    """torchrun's workers have sessions of their own."""
    from ptinspect.proofs.script_runs import read_trace

    (tmp_path / "script").mkdir()
    source = (SCRIPTS / "ddp.py").read_text("utf-8")
    work = tmp_path / "work"
    report = check(tmp_path / "script", source, python=TORCHRUN, work=str(work))
    assert report.verdict == "same", report.text()
    processes = read_trace(str(work / "killed-trace")).processes
    assert len({session for _, session in processes}) == 3
    for pid, _ in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
