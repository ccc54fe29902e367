"""Kinds of trainings that real scripts have: honest ones raise no alarm, and each fault is named.

A row is a training and what the report says of it; a fault is a cause whose mend was tried.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import optim  # noqa: E402
from torch.optim import lr_scheduler as lrs  # noqa: E402
from torch.optim.swa_utils import SWALR  # noqa: E402

from ptinspect.proofs.processes import Workers  # noqa: E402
from tests.proofs.running import run  # noqa: E402
from tests.proofs.trainings import DATA, DROPOUT, NET, SHUFFLED, Training  # noqa: E402

pytestmark = pytest.mark.slow

Given = dict[str, Any]
Row = Callable[[Path], Given]

ROWS: dict[str, Row] = {}
FAULTS: dict[str, tuple[str, Row]] = {}


def honest(row: Row) -> Row:
    ROWS[row.__name__.replace("_", " ")] = row
    return row


def faulty(kind: str) -> Callable[[Row], Row]:
    def add(row: Row) -> Row:
        FAULTS[row.__name__.replace("_", " ")] = (kind, row)
        return row

    return add


# --- several optimizers over one model ------------------------------------------------------------


def parts_of(model: Any) -> list[list[Any]]:
    every = list(model.parameters())
    return [[p for p in every if p.ndim == 2], [p for p in every if p.ndim != 2]]


def muon_and_adamw(parts: Any) -> list[Any]:
    first = getattr(optim, "Muon", optim.RMSprop)
    return [first(parts[0], lr=0.1), optim.AdamW(parts[1], lr=0.01)]


def cosines(optimizers: Any) -> list[Any]:
    return [lrs.CosineAnnealingLR(one, 9) for one in optimizers]


def split(folder: Path, **more: Any) -> Training:
    return Training(folder, muon_and_adamw, parameters=parts_of, **more)


@honest
def muon_for_the_matrices_and_adamw(folder: Path) -> Given:
    training = split(folder)
    return training.save(training.parts())


@honest
def two_optimizers_with_a_scheduler_each(folder: Path) -> Given:
    training = split(folder, scheduler=cosines)
    return training.save(training.parts())


@honest
def two_optimizers_under_names_of_their_own(folder: Path) -> Given:
    training = split(folder, net=DROPOUT, data=SHUFFLED)
    parts = training.parts()
    parts["muon"], parts["adamw"] = parts.pop("optimizer")
    return training.save({**parts, **training.rng()})


@honest
def two_optimizers_of_one_class_that_the_user_makes(folder: Path) -> Given:
    """Shapes alone do not tell which of them covers what: SGD with momentum 0 keeps no state."""
    make = """

def make_optimizer(model):
    return [torch.optim.Adam(model.head.parameters(), lr=0.05),
            torch.optim.Adam([*model.body.parameters(), *model.norm.parameters()], lr=0.01)]
"""

    def two(groups: Any) -> list[Any]:
        return [optim.Adam(groups[0], lr=0.05), optim.Adam(groups[1], lr=0.01)]

    def groups(model: Any) -> list[list[Any]]:
        rest = [*model.body.parameters(), *model.norm.parameters()]
        return [list(model.head.parameters()), rest]

    training = Training(folder, two, net=NET + make, parameters=groups)
    return training.save(training.parts())


@faulty("optimizer-state")
def one_of_two_optimizers_without_its_state(folder: Path) -> Given:
    training = split(folder)
    parts = training.parts()
    parts["optimizer"][1]["state"] = {}
    return training.save(parts)


@faulty("scheduler")
def one_of_two_schedulers_is_not_saved(folder: Path) -> Given:
    make = """

def make_scheduler(optimizers):
    from torch.optim.lr_scheduler import CosineAnnealingLR
    return [CosineAnnealingLR(one, 9) for one in optimizers]
"""
    training = split(folder, net=NET + make, scheduler=cosines)
    parts = training.parts()
    parts["scheduler"] = parts["scheduler"][0]
    return training.save(parts)


GENERATOR_AND_CRITIC = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))
"""


@honest
def the_generator_of_a_gan(folder: Path) -> Given:
    """Two models, two optimizers; --entry says which of them is to be trained."""
    training = Training(folder, net=GENERATOR_AND_CRITIC)
    critic = torch.nn.Linear(2, 1)
    other = optim.Adam(critic.parameters())
    critic(torch.ones(1, 2)).sum().backward()
    other.step()
    parts = training.parts()
    made = {
        "epoch": parts["epoch"], "generator": parts["model"], "critic": critic.state_dict(),
        "generator_optimizer": parts["optimizer"], "critic_optimizer": other.state_dict(),
    }  # fmt: skip
    return {**training.save(made), "entry": "generator"}


# --- schedulers whose keys tell the class ---------------------------------------------------------

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "swa": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=3),
    "cyclic": lambda o: lrs.CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
    "sequential": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.1, total_iters=3), lrs.CosineAnnealingLR(o, 9)], [3]
    ),
    "chained": lambda o: lrs.ChainedScheduler(
        [lrs.LinearLR(o, 0.1), lrs.ExponentialLR(o, 0.9)], optimizer=o
    ),
}


def scheduled(folder: Path, name: str) -> Given:
    training = Training(folder, scheduler=SCHEDULERS[name], steps=9)
    return training.save(training.parts())


for name in SCHEDULERS:
    ROWS[f"{name} scheduler"] = lambda folder, name=name: scheduled(folder, name)  # type: ignore[misc]


# --- precision ------------------------------------------------------------------------------------


def scaled(folder: Path, **more: Any) -> Given:
    training = Training(folder, scaler=True)
    return {**training.save({**training.parts(), **more}), "autocast": "float16"}


@honest
def amp_with_a_scaler_is_float16(folder: Path) -> Given:
    return scaled(folder, amp=True)


@honest
def precision_16_in_hyper_parameters(folder: Path) -> Given:
    return scaled(folder, hyper_parameters={"precision": 16, "lr": 0.1})


@honest
def mixed_precision_in_the_arguments(folder: Path) -> Given:
    given = scaled(folder, args=argparse.Namespace(lr=0.1, mixed_precision="bf16"))
    return {**given, "trust": True, "autocast": "bfloat16"}


@honest
def fp16_of_a_trainer(folder: Path) -> Given:
    return scaled(folder, config={"bf16": False, "fp16": True})


# --- modules --------------------------------------------------------------------------------------

LAZY = NET.replace("nn.Linear(3, 4)", "nn.LazyLinear(4)").replace(
    "nn.BatchNorm1d(4)", "nn.LazyBatchNorm1d()"
)


def called(model: Any) -> None:
    model(torch.ones(2, 3))


@honest
def lazy_modules(folder: Path) -> Given:
    training = Training(folder, net=LAZY, prepare=called)
    return training.save(training.parts())


NOISE = NET.replace(
    "        self.head",
    "        self.noise = torch.Generator().manual_seed(3)\n        self.head",
    1,
).replace("        return", "        x = x + torch.rand(3, generator=self.noise)\n        return")


@honest
def a_generator_of_the_model_whose_state_is_saved(folder: Path) -> Given:
    training = Training(folder, net=NOISE)
    return training.save({**training.parts(), "noise_generator": training.model.noise.get_state()})


@faulty("rng")
def a_generator_of_the_model_whose_state_is_not_saved(folder: Path) -> Given:
    training = Training(folder, net=NOISE)
    return training.save({**training.parts(), **training.rng()})


TWO_NOISES = (
    NET.replace(
        "        self.head",
        "        self.noises = nn.Sequential(Noise(), Noise())\n        self.head",
        1,
    ).replace("self.body(x)", "self.noises(self.body(x))")
    + """

class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.drawn = torch.Generator().manual_seed(3)

    def forward(self, x):
        return x + torch.rand(x.shape, generator=self.drawn)
"""
)


@honest
def two_generators_of_the_model_whose_states_are_saved(folder: Path) -> Given:
    training = Training(folder, net=TWO_NOISES)
    states = [noise.drawn.get_state() for noise in training.model.noises]
    return training.save({**training.parts(), "generators": dict(enumerate(states))})


@faulty("rng")
def two_generators_of_the_model_whose_states_are_not_saved(folder: Path) -> Given:
    training = Training(folder, net=TWO_NOISES)
    message = "(drawn of Net.noises.0, drawn of Net.noises.1)"
    return {**training.save({**training.parts(), **training.rng()}), "message": message}


PUT = NET.replace(
    "        return", "        x = x.clone().put_(torch.tensor([0]), torch.ones(1))\n        return"
)


@honest
def an_operation_without_a_deterministic_kernel(folder: Path) -> Given:
    """torch is asked to be strict first, and the training is run again where it only warns."""
    training = Training(folder)
    return training.save(training.parts(), PUT)


SETTINGS = "import torch\ntorch.backends.cudnn.benchmark = True\n" + NET


@honest
def settings_in_the_users_files(folder: Path) -> Given:
    training = Training(folder, net=SETTINGS)
    note = "--model or --data had changed torch.backends.cudnn.benchmark; the proof runs without"
    return {**training.save(training.parts()), "note": note}


# --- data -----------------------------------------------------------------------------------------

SAMPLER = (
    DATA.replace("shuffle=False", "sampler=Drawn()")
    + """

class Drawn:
    def __init__(self):
        import numpy
        self.rng = numpy.random.default_rng(5)

    def __len__(self):
        return 12

    def __iter__(self):
        return iter(self.rng.permutation(12).tolist())
"""
)


@honest
def a_generator_of_the_sampler_whose_state_is_saved(folder: Path) -> Given:
    training = Training(folder, data=SAMPLER)
    state = copy.deepcopy(training.batches.sampler.rng.bit_generator.state)
    return training.save({**training.parts(), "sampler": state})


@faulty("seed-set-again")
def a_generator_of_the_sampler_whose_state_is_not_saved(folder: Path) -> Given:
    training = Training(folder, data=SAMPLER)
    return training.save({**training.parts(), **training.rng()})


AUGMENTED = (
    DATA
    + """

def batches():
    return Noisy(samples())


class Noisy:
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return 3

    def __iter__(self):
        for x, y in DataLoader(self.dataset, batch_size=4):
            yield x + 0.1 * torch.randn(4, 3), y
"""
)


@honest
def augmented_data_with_the_state_of_the_generators(folder: Path) -> Given:
    training = Training(folder, data=AUGMENTED)
    return training.save({**training.parts(), **training.rng()})


@faulty("rng-shuffling")
def augmented_data_without_the_state_of_the_generators(folder: Path) -> Given:
    training = Training(folder, data=AUGMENTED)
    message = "the data are drawn, dropped or augmented differently after a resume"
    return {**training.save(training.parts()), "message": message}


BY_EPOCH = DATA.replace("def batches():", "def batches(epoch=0):").replace(
    "samples(), batch",
    "torch.utils.data.Subset(samples(), [(i + epoch) % 12 for i in range(12)]), batch",
)


def by_step(folder: Path, steps: int, recorded: int) -> Given:
    training = Training(folder, data=BY_EPOCH, steps=steps)
    parts = {**training.parts(), "step": recorded}
    del parts["epoch"]
    return training.save(parts)


@honest
def a_step_and_no_epoch(folder: Path) -> Given:
    """The epoch follows from the step: the data of epoch 2 come next, not those of epoch 0."""
    return by_step(folder, 6, 6)


@faulty("mid-epoch")
def a_step_in_the_middle_of_an_epoch(folder: Path) -> Given:
    return by_step(folder, 5, 5)


# --- layouts of frameworks ------------------------------------------------------------------------


@honest
def a_checkpoint_of_lightning(folder: Path) -> Given:
    training = Training(folder, net=DROPOUT, scheduler=cosines_of_one)
    parts = training.parts()
    made = {
        "epoch": parts["epoch"], "global_step": training.made, "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{key}": value for key, value in parts["model"].items()},
        "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {},
        "optimizer_states": [parts["optimizer"]], "lr_schedulers": [parts["scheduler"]],
        "hparams_name": "kwargs", "hyper_parameters": {"lr": 0.01},
    }  # fmt: skip
    return training.save({**made, **training.rng()})


def folder_of(training: Training, folder: Path, *, rng: bool = True) -> Given:
    """The files that transformers.Trainer 5 writes to checkpoint-6."""
    from safetensors.torch import save_file

    given, parts = training.save(None), training.parts()
    made = folder / "checkpoint-6"
    made.mkdir()
    save_file(parts["model"], made / "model.safetensors")
    torch.save(parts["optimizer"], made / "optimizer.pt")
    torch.save(parts["scheduler"], made / "scheduler.pt")
    if rng:
        states = training.rng()
        torch.save(
            {
                "python": states["python_rng_state"], "numpy": states["numpy_rng_state"],
                "cpu": states["torch_rng_state"],
            },
            made / "rng_state.pth",
        )  # fmt: skip
    state = {"epoch": 2.0, "global_step": 6, "max_steps": 9, "log_history": []}
    (made / "trainer_state.json").write_text(json.dumps(state))
    return {**given, "path": str(made)}


@honest
def a_folder_of_a_trainer(folder: Path) -> Given:
    training = Training(folder, net=DROPOUT, data=SHUFFLED, scheduler=cosines_of_one)
    return folder_of(training, folder)


@honest
def a_folder_of_a_trainer_with_several_processes(folder: Path) -> Given:
    given = a_folder_of_a_trainer(folder)
    states = Path(given["path"]) / "rng_state.pth"
    states.rename(states.with_name("rng_state_0.pth"))
    return given


@faulty("rng")
def a_folder_without_the_states_of_the_generators(folder: Path) -> Given:
    training = Training(folder, net=DROPOUT, data=SHUFFLED, scheduler=cosines_of_one)
    return folder_of(training, folder, rng=False)


HIDDEN = (
    NET.replace(
        "        self.head",
        "        self.rnn = nn.LSTM(4, 4, 2, dropout=0.3)\n        self.head",
        1,
    )
    .replace("import torch\n", "import random\n\nimport torch\n\nSTATE = random.Random(3)\n", 1)
    .replace(
        "        return self.head(torch.tanh(",
        "        x = x + (STATE.random() if torch.backends.cudnn.enabled else 0)\n"
        "        return self.head(torch.tanh(",
    )
)


@faulty("cudnn-dropout")
def a_state_of_cudnn_that_no_checkpoint_holds(folder: Path) -> Given:
    """Acted by a generator that is used as long as cuDNN is switched on: this runs without CUDA."""
    training = Training(folder, net=HIDDEN)
    return training.save({**training.parts(), **training.rng()})


def cosines_of_one(optimizer: Any) -> Any:
    return lrs.CosineAnnealingLR(optimizer, 9)


# --- both tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_an_honest_training_raises_no_alarm(name: str, tmp_path: Path, workers: Workers) -> None:
    given = ROWS[name](tmp_path)
    autocast, note = given.pop("autocast", None), given.pop("note", None)
    report = run(workers, given)
    assert (report.verdict, report.causes, report.exit_code) == ("same", [], 0), report.text()
    assert report.training["autocast"] == autocast
    assert note is None or note in report.notes


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(name: str, tmp_path: Path, workers: Workers) -> None:
    kind, row = FAULTS[name]
    given = row(tmp_path)
    message = given.pop("message", "")
    report = run(workers, given)
    assert (report.verdict, report.exit_code) == ("differs", 1), report.text()
    assert [cause.kind for cause in report.causes] == [kind], report.text()
    assert message in report.causes[0].message
