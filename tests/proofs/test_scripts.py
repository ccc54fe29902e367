"""Sound checkpoints as scripts leave them, in which something looks like a fault and is none."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ptinspect.proofs.optimizer import check_optimizer
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume_report import ResumeReport

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402

from tests.proofs.running import fails, run  # noqa: E402
from tests.proofs.trainings import NET, SHUFFLED, Training, module  # noqa: E402

pytestmark = pytest.mark.slow


def sound(workers: Workers, given: dict[str, Any], **more: Any) -> ResumeReport:
    report = run(workers, given, **more)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    return report


# --- fewer steps than batches -------------------------------------------------------------


def scaled(tmp_path: Path, infinite: int, steps: int) -> dict[str, Any]:
    """A training with a GradScaler whose first gradients are not finite: it leaves these out."""
    left = [infinite]

    def hook(gradient: Any) -> Any:
        left[0] -= 1
        return gradient * float("inf") if left[0] >= 0 else gradient

    training = Training(
        tmp_path,
        prepare=lambda model: model.body.weight.register_hook(hook),
        scaler=True,
        steps=steps,
    )
    made = training.parts()
    assert int(made["optimizer"]["state"][0]["step"]) == steps - infinite
    return training.save(made)


def test_steps_that_the_scaler_left_out(tmp_path: Path, workers: Workers) -> None:
    report = sound(workers, scaled(tmp_path, 2, 9))
    assert "the GradScaler left out 2 of 9 steps" in " ".join(report.notes)


def test_a_scaler_that_left_out_none_hides_no_fault(tmp_path: Path, workers: Workers) -> None:
    report = run(workers, scaled(tmp_path, 0, 8))
    assert [cause.kind for cause in report.causes] == ["mid-epoch"], report.text()


def test_gradients_accumulated_over_batches(tmp_path: Path, workers: Workers) -> None:
    """Nine batches in three epochs, of which two make a step."""
    training = Training(tmp_path, steps=9)
    made = training.parts()
    for kept in made["optimizer"]["state"].values():
        kept["step"] = torch.tensor(4.0)
    report = sound(workers, training.save(made))
    assert "accumulated over 2 batches" in " ".join(report.notes)


# --- random numbers -----------------------------------------------------------------------

OWN = SHUFFLED.replace("shuffle=True", "shuffle=True, generator=torch.Generator().manual_seed(7)")


@pytest.mark.parametrize("others", [True, False], ids=["beside torch's own", "alone"])
def test_the_state_of_the_loaders_own_generator(
    others: bool, tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path, data=OWN)
    made = {**training.parts(), **(training.rng() if others else {})}
    made["generator_state"] = training.batches.generator.get_state()
    report = sound(workers, training.save(made))
    assert "data" in report.training["rng_saved"]


def test_a_generators_state_where_the_data_have_none(tmp_path: Path, workers: Workers) -> None:
    """It can be that of torch's own only."""
    training = Training(tmp_path, data=SHUFFLED)
    made = {**training.parts(), "generator": torch.get_rng_state()}
    assert sound(workers, training.save(made)).training["rng_saved"] == ["torch"]


def test_numpys_state_as_a_dict(tmp_path: Path, workers: Workers) -> None:
    drawn = SHUFFLED.replace("import torch\n", "import numpy as np\nimport torch\n", 1).replace(
        "shuffle=True", "sampler=Drawn()"
    )
    drawn += """

class Drawn:
    def __len__(self):
        return 12

    def __iter__(self):
        return iter(np.random.permutation(12).tolist())
"""
    training = Training(tmp_path, data=drawn)
    made = {**training.parts(), "numpy": np.random.get_state(legacy=False)}
    assert sound(workers, training.save(made)).training["rng_saved"] == ["numpy"]


# --- groups, and schedulers of schedulers -------------------------------------------------

ALIKE = NET.replace("nn.Linear(4, 2)", "nn.Linear(4, 4)").replace(
    "self.norm = nn.BatchNorm1d(4)", "self.norm = nn.Linear(4, 4)"
).replace("self.norm(self.body(x))))", "self.norm(self.body(x))))[:, :2]")  # fmt: skip

SPLIT = """

def groups(model):
    every = list(model.parameters())
    return [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in every if p.dim() < 2], "weight_decay": 0.0},
    ]
"""

MAKE = """

def make_optimizer(model):
    return torch.optim.AdamW(groups(model), lr=0.01)
"""


def adamw(groups: Any) -> Any:
    return torch.optim.AdamW(groups, lr=0.01)


@pytest.mark.parametrize("make", ["", MAKE], ids=["told by the file", "made by the user"])
def test_weight_decay_for_the_matrices_alone(make: str, tmp_path: Path, workers: Workers) -> None:
    net = ALIKE + SPLIT
    (tmp_path / "groups.py").write_text("import torch\n" + SPLIT)
    groups = module(tmp_path / "groups.py").groups
    training = Training(tmp_path, adamw, net=net + make, parameters=groups)
    report = sound(workers, training.save(training.parts()))
    # Exactly one split keeps the model's order in each group, so nothing has to be assumed.
    assert "it is assumed" not in " ".join(report.notes)


def test_a_scheduler_chained_of_others(tmp_path: Path, workers: Workers) -> None:
    make = """

def make_scheduler(optimizer):
    from torch.optim import lr_scheduler as lrs

    return lrs.ChainedScheduler([lrs.LinearLR(optimizer, 0.1), lrs.ExponentialLR(optimizer, 0.9)])
"""
    (tmp_path / "make.py").write_text(make)
    scheduler = module(tmp_path / "make.py").make_scheduler
    training = Training(tmp_path, net=NET + make, scheduler=scheduler)
    report = sound(workers, training.save(training.parts()))
    assert report.training["scheduler"] == "ChainedScheduler"


def test_a_scheduler_that_the_file_only_hints_at(tmp_path: Path, workers: Workers) -> None:
    """Nothing is proved: the training was replayed without the scheduler that it had."""
    training = Training(tmp_path, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1))
    made = training.parts()
    del made["scheduler"]
    given = training.save(made)
    alone = check_optimizer(given["path"])
    assert (alone.exit_code, len(alone.optimizers[0].undecided)) == (0, 1), alone.text()
    assert "the learning rate was scheduled" in alone.text()
    report = run(workers, given)
    assert (report.verdict, report.exit_code, report.first) == ("undecided", 2, None)
    assert "the learning rate was scheduled" in " ".join(report.undecided)
    assert "make_scheduler(optimizer)" in report.text()


def test_a_class_that_is_nowhere(tmp_path: Path, workers: Workers) -> None:
    class Config:
        pass

    Config.__module__, Config.__qualname__ = "configs", "Config"
    sys.modules["configs"] = types.SimpleNamespace(Config=Config)  # type: ignore[assignment]
    training = Training(tmp_path)
    try:
        given = training.save({**training.parts(), "config": Config()})
    finally:
        del sys.modules["configs"]
    error = fails(workers, given, trust=True)
    assert "No module named 'configs'" in error.message
    assert error.hint == "make the module importable; a class of __main__ belongs in the model file"


def test_a_scaler_below_another_key(tmp_path: Path, workers: Workers) -> None:
    make = "\n\ndef make_scaler():\n    return torch.amp.GradScaler('cpu', growth_interval=2)\n"
    training = Training(tmp_path, net=NET + make, scaler=True)
    report = sound(workers, training.save({"version": 1, "state": training.parts()}))
    assert report.training["scaler"] is True
