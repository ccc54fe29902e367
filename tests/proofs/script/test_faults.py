"""Faults of scripts whose files are sound: each is found, and its usual cause is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proofs.script.running import PLAIN, check

pytestmark = pytest.mark.slow

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
    "EMA not restored": (
        [('    ema.load_state_dict(checkpoint["ema"])\n', "")], "average", "None",
    ),
    "generator of the data not saved": (
        [(SHUFFLED, f"{SHUFFLED[:-1]}, generator=torch.Generator().manual_seed(5))")],
        "generator", "the state of the DataLoader's generator at step 13",
    ),
    "epoch of the sampler": (
        [("\noptimizer = ", COUNTING_SAMPLER), ("\nscheduler = ", COUNTED + "scheduler = ")],
        "sampler-epoch", "the batch of step 13 (Counting.epoch): 0, not 3",
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
    source = PLAIN
    for old, new in replacements:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    report = check(tmp_path, source)
    assert (report.verdict, report.exit_code) == ("differs", 1), report.text()
    assert (report.causes, str(report.first)) == ([cause], first), report.text()
    if cause.startswith("epoch-"):
        left = {"late": "4 run", "early": "12 run" if "one" in name else "16 run"}
        assert str(report.steps_text()).startswith(left[cause[6:]]), report.text()


def test_the_honest_script_raises_no_alarm(tmp_path: Path) -> None:
    report = check(tmp_path, PLAIN)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert report.steps is not None
    assert (report.steps.whole, report.steps.resumed_after, report.steps.resumed) == (20, 12, 8)
    assert report.checkpoints == [f"runs/{epoch}.pt" for epoch in range(5)]
    assert report.environment is not None
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]
