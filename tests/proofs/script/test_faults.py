"""Faults of scripts whose files are sound: each is found, and its usual cause is named."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import ptinspect
from tests.proofs.script.running import PLAIN, check, check_forked, replaced
from tests.torch_child import torch_python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("torch") is None, reason="the scripts import torch"),
]

Replacements = list[tuple[str, str]]

LOADED = '    start = checkpoint["epoch"] + 1\n'
LAST_LINE = '.tmp", f"runs/{epoch}.pt")\n'
SHUFFLED = ", 6, shuffle=True)"
COUNTING_SAMPLER = """
class Counting(torch.utils.data.Sampler):
    epoch = 0

    def __len__(self):
        return 24

    def __iter__(self):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(self.epoch))
        self.epoch += 1
        return iter(order.tolist())


optimizer = """
COUNTED = "\nloader = torch.utils.data.DataLoader(loader.dataset, 6, sampler=Counting())\n"
ONE_LAYER = """    layer = {name[2:]: checkpoint["model"][name] for name in ("0.weight", "0.bias")}
    model[0].load_state_dict(layer)
"""

SCALED: Replacements = [
    ("optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)\n",
     "optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)\n"
     "scaler = torch.amp.GradScaler('cpu', growth_interval=3, init_scale=2.0**10)\n"),
    ("        nn.functional.mse_loss(model(inputs), target).backward()\n        optimizer.step()\n",
     "        with torch.autocast('cpu', torch.float16):\n"
     "            loss = nn.functional.mse_loss(model(inputs), target)\n"
     "        scaler.scale(loss).backward()\n        scaler.step(optimizer)\n"
     "        scaler.update()\n"),
    ('        "rng":', '        "scaler": scaler.state_dict(),\n        "rng":'),
]  # fmt: skip

FAULTS: dict[str, tuple[Replacements, str, str]] = {
    "RNG saved but not restored": (
        [('    torch.set_rng_state(checkpoint["rng"])\n', "")], "rng", "torch's RNG at step 13",
    ),
    "scheduler.step() after the save": (
        [("    scheduler.step()\n", ""), (LAST_LINE, LAST_LINE + "    scheduler.step()\n")],
        "scheduler-late", "lr before step 13: 0.0245, not 0.01715",
    ),
    "scheduler not restored": (
        [('    scheduler.load_state_dict(checkpoint["scheduler"])\n', "")], "scheduler", "None",
    ),
    "scheduler that seldom acts not restored": (
        [("ExponentialLR(optimizer, 0.7)", "ReduceLROnPlateau(optimizer, patience=1)"),
         ("    scheduler.step()\n", "    scheduler.step(1.0)\n"),
         ('    scheduler.load_state_dict(checkpoint["scheduler"])\n', "")],
        "scheduler", "None",
    ),
    "epoch late by one": (
        [('["epoch"] + 1', '["epoch"] + 2')], "epoch-late", "None",
    ),
    "epoch early by one": (
        [('["epoch"] + 1', '["epoch"]')], "epoch-early", "None",
    ),
    "epoch early by two": (
        [('["epoch"] + 1', '["epoch"] - 1')], "epoch-early", "None",
    ),
    "optimizer made again after loading": (
        [(LOADED, LOADED + "    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)\n")],
        "optimizer-state", "the optimizer's state before step 13: of 0 parameters, not of 6",
    ),
    "GradScaler not restored": (SCALED, "grad-scaler", "torch's RNG at step 17"),
    "EMA not restored": (
        [('    ema.load_state_dict(checkpoint["ema"])\n', "")], "average", "None",
    ),
    "generator of the data not saved": (
        [(SHUFFLED, f"{SHUFFLED[:-1]}, generator=torch.Generator().manual_seed(5))")],
        "generator", "the state of the DataLoader's generator at step 13",
    ),
    "epoch of the sampler": (
        [("\noptimizer = ", COUNTING_SAMPLER), ("\nscheduler = ", COUNTED + "scheduler = ")],
        "sampler-epoch", "the batch of step 13 (Counting.epoch: 0, not 3)",
    ),
    "one layer loaded": (
        [('    model.load_state_dict(checkpoint["model"])\n', ONE_LAYER)],
        "weights", "the weights before step 13",
    ),
    "buffers not restored": (
        [(LOADED, LOADED + "    model[1].reset_running_stats()\n")], "buffers", "None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(name: str, tmp_path: Path) -> None:
    replacements, cause, first = FAULTS[name]
    report = check_forked(tmp_path, replaced(PLAIN, *replacements))
    assert (report.verdict, report.exit_code) == ("differs", 1), report.text()
    assert (report.causes, str(report.first)) == ([cause], first), report.text()
    if cause.startswith("epoch-"):
        steps = {"epoch late by one": 4, "epoch early by one": 12, "epoch early by two": 16}
        assert f"after step 12: {steps[name]} steps run, 8 left" in report.text()


def test_an_attribute_of_a_model_that_is_saved_whole(tmp_path: Path) -> None:
    """It is in no state_dict, and print(model) does not show it."""
    source = replaced(
        PLAIN, ("ema = torch", "model.seen, model.config = 0, {'seed': start}\nema = torch"),
        ("EPOCHS = 5\n", "EPOCHS, start = 5, 0\n"),
        ("update_parameters(model)\n", "update_parameters(model)\n        model.seen += 1\n"),
        ("torch.load(saved[-1])", "torch.load(saved[-1], weights_only=False)"),
        ('"epoch": epoch,', '"epoch": epoch, "whole": model,'),
    )  # fmt: skip
    report = check_forked(tmp_path, source)
    assert (report.verdict, report.exit_code) == ("differs", 1), report.text()
    assert report.different[-1].text() == "1 entry: whole.seen 8, not 20"
    assert report.causes == ["entries"]


@pytest.mark.slow
def test_settings_that_no_optimizer_needs(tmp_path: Path) -> None:
    """A number too large for a float, and one that is not equal to itself."""
    groups = '[{"params": list(model.parameters()), "note": 10**400, "limit": float("nan")}]'
    report = check_forked(
        tmp_path, replaced(PLAIN, ("AdamW(model.parameters()", f"AdamW({groups}"))
    )
    assert (report.verdict, report.notes) == ("same", []), report.text()


def test_the_honest_script_raises_no_alarm(tmp_path: Path) -> None:
    (tmp_path / "script").mkdir()
    report = check(tmp_path / "script", PLAIN, work=str(tmp_path / "work"))
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert report.steps is not None
    assert (report.steps.whole, report.steps.resumed_after, report.steps.resumed) == (20, 12, 8)
    assert report.checkpoints == [f"runs/{epoch}.pt" for epoch in range(5)]
    assert report.environment is not None
    assert [path.name for path in (tmp_path / "script").iterdir()] == ["train.py"]
    # The recorder changes nothing: the script by itself writes the same numbers.
    subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path / "script", check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    alone = tmp_path / "script" / "runs" / "4.pt"
    assert ptinspect.diff(alone, tmp_path / "work" / "first" / "runs" / "4.pt").same


@pytest.mark.parametrize(
    ("replacement", "cause"),
    [
        (("torch.manual_seed(0)\n", "torch.seed()\n"), "no-seed"),
        (("mse_loss(model(inputs), target)", "mse_loss(model(inputs), target + NOISE)"), "kernel"),
    ],
)
def test_two_whole_runs_that_differ(
    replacement: tuple[str, str], cause: str, tmp_path: Path
) -> None:
    noise = "EPOCHS = 5\nNOISE = os.getpid() / 1e5\n"
    report = check_forked(tmp_path, replaced(PLAIN, replacement, ("EPOCHS = 5\n", noise)))
    assert (report.verdict, report.exit_code) == ("not-deterministic", 3), report.text()
    assert report.causes == [cause], report.text()
    assert report.first is not None
    first = "the weights before step 1" if cause == "no-seed" else "the gradients of step 1"
    assert report.first.what == first, report.text()
    assert report.kill is None


def test_a_script_that_never_resumes(tmp_path: Path) -> None:
    report = check_forked(tmp_path, replaced(PLAIN, ("if saved:", "if saved and False:")))
    assert (report.verdict, report.exit_code) == ("not-resumed", 2), report.text()


def test_another_command_starts_it_again(tmp_path: Path) -> None:
    """The command itself starts over; only with --resume it goes on."""
    source = replaced(
        PLAIN, ("if saved:", 'if "--resume" in sys.argv:'), ("import os", "import os, sys")
    )
    command = shlex.join([torch_python(trains=True), "train.py", "--resume"])
    report = check_forked(tmp_path, source, resume_command=command, at=1)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert report.steps is not None
    assert report.steps.resumed_after == 4
    assert f"--resume-command {shlex.quote(command)} --at 1" in report.reproduce


def test_recorded_options_of_the_second_start(tmp_path: Path) -> None:
    """A checkpoint has the options of the command line, as in torchvision's training scripts."""
    options = (
        'argparse.Namespace(resume="-r" in sys.argv, init_from=sys.argv[1:], start_epoch=start)'
    )
    source = replaced(
        PLAIN, ("if saved:", 'if "-r" in sys.argv:'), ("import os", "import argparse, os, sys"),
        ("torch.load(saved[-1])", "torch.load(saved[-1], weights_only=False)"),
        ('"epoch": epoch,', f'"epoch": epoch, "args": {options},'),
    )  # fmt: skip
    command = shlex.join([torch_python(trains=True), "train.py", "-r", "--init-from=last"])
    report = check_forked(tmp_path, source, resume_command=command)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert sorted(report.not_compared) == ["args.init_from", "args.resume", "args.start_epoch"]
