"""No false alarm: checkpoints from which training goes on exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptinspect.proofs.optimizer import check_optimizer
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume import check_resume
from tests.conftest import ROOT

torch = pytest.importorskip("torch")
from torch import optim  # noqa: E402
from torch.optim import lr_scheduler as lrs  # noqa: E402

from tests.proofs.trainings import DATA, DROPOUT, NET, SHUFFLED, SPARSE, Training  # noqa: E402

pytestmark = pytest.mark.slow

Make = Callable[[Any], Any]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd-momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "sgd-nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adam-amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adam-tensor-lr": lambda p: optim.Adam(p, lr=torch.tensor(0.01)),
    "adamw": lambda p: optim.AdamW(p, betas=(0.8, 0.95)),
    "adamax": lambda p: optim.Adamax(p),
    "nadam": lambda p: optim.NAdam(p, decoupled_weight_decay=True, weight_decay=0.1),
    "radam": lambda p: optim.RAdam(p),
    "rmsprop": lambda p: optim.RMSprop(p, centered=True, momentum=0.5),
    "rprop": lambda p: optim.Rprop(p),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.05),
    "adadelta": lambda p: optim.Adadelta(p),
    "asgd": lambda p: optim.ASGD(p),
    "adafactor": lambda p: optim.Adafactor(p),
    "lbfgs": lambda p: optim.LBFGS(p, lr=0.1, history_size=3, max_iter=3),
}

SCHEDULERS: dict[str, Make] = {
    "step": lambda o: lrs.StepLR(o, 2),
    "multistep": lambda o: lrs.MultiStepLR(o, [1, 3, 3]),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.9),
    "cosine": lambda o: lrs.CosineAnnealingLR(o, 10),
    "restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 5, 2),
    "linear": lambda o: lrs.LinearLR(o, 0.5, 1.0, 5),
    "constant": lambda o: lrs.ConstantLR(o, 0.1, 4),
    "polynomial": lambda o: lrs.PolynomialLR(o, 9),
    "plateau": lambda o: lrs.ReduceLROnPlateau(o, patience=0),
}


def sound(workers: Workers, given: dict[str, Any], **more: Any) -> Any:
    """Both proofs: that without torch, and that by training."""
    path = given.pop("path")
    alone = check_optimizer(path)
    assert alone.exit_code == 0, alone.text()
    report = check_resume(path, **given, **more, steps=3, workers=workers)
    assert (report.verdict, report.first, report.causes) == ("same", None, []), report.text()
    assert report.exit_code == 0
    return report


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, OPTIMIZERS[name])
    report = sound(workers, training.save(training.parts()))
    assert report.training["optimizer"].endswith(type(training.optimizer).__name__)


def test_sparse_gradients(tmp_path: Path, workers: Workers) -> None:
    words = DATA.replace("TensorDataset(torch.sin(at), ", "TensorDataset(at.long() % 12, ")
    training = Training(
        tmp_path, lambda p: optim.SparseAdam(p, lr=0.1), net=SPARSE, data=words
    )  # fmt: skip
    report = sound(workers, training.save(training.parts()))
    assert report.training["optimizer"] == "torch.optim.SparseAdam"
    assert len(set(report.losses[0])) > 1


@pytest.mark.skipif(not hasattr(optim, "Muon"), reason="this torch has no Muon")
def test_muon_over_the_matrices_alone(tmp_path: Path, workers: Workers) -> None:
    training = Training(
        tmp_path,
        lambda p: optim.Muon(p, lr=0.1),
        parameters=lambda model: [p for p in model.parameters() if p.ndim == 2],
    )
    report = sound(workers, training.save(training.parts()))
    assert report.training["optimizer"] == "torch.optim.Muon"


def test_no_optimizer_of_torch_is_left_out() -> None:
    there = {
        name
        for name in optim.__all__
        if isinstance(kind := getattr(optim, name), type) and issubclass(kind, optim.Optimizer)
    }
    made = {
        type(make([torch.zeros(2, requires_grad=True)])).__name__ for make in OPTIMIZERS.values()
    }
    assert made | {"SparseAdam", "Muon", "Optimizer"} >= there


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler(name: str, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, OPTIMIZERS["sgd-momentum"], scheduler=SCHEDULERS[name])
    report = sound(workers, training.save(training.parts()))
    assert report.training["scheduler"] == type(training.scheduler).__name__
    assert report.training["per_step"] is False


def test_a_scheduler_that_is_stepped_after_each_batch(tmp_path: Path, workers: Workers) -> None:
    def one_cycle(optimizer: Any) -> Any:
        return lrs.OneCycleLR(optimizer, 0.1, total_steps=40)

    training = Training(tmp_path, scheduler=one_cycle, per_step=True)
    report = sound(workers, training.save(training.parts()))
    assert (report.training["scheduler"], report.training["per_step"]) == ("OneCycleLR", True)


@pytest.mark.parametrize(
    "made",
    [
        "lrs.SequentialLR(optimizer, [lrs.ConstantLR(optimizer, 0.1, 2), "
        "lrs.ExponentialLR(optimizer, 0.9)], [3])",
        "lrs.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2, cycle_momentum=False)",
        "lrs.MultiplicativeLR(optimizer, lambda epoch: 0.95)",
        "lrs.LambdaLR(optimizer, lambda epoch: 0.9**epoch)",
    ],
    ids=["sequential", "cyclic", "multiplicative", "lambda"],
)
def test_schedulers_that_only_the_user_can_make(
    made: str, tmp_path: Path, workers: Workers
) -> None:
    more = f"""

def make_scheduler(optimizer):
    from torch.optim import lr_scheduler as lrs

    return {made}
"""

    def make(optimizer: Any) -> Any:
        return eval(made, {"lrs": lrs, "optimizer": optimizer})

    training = Training(tmp_path, net=NET + more, scheduler=make)
    sound(workers, training.save(training.parts()))


@pytest.mark.parametrize("net", [NET, DROPOUT], ids=["plain", "dropout"])
def test_shuffling_and_dropout_with_the_states_of_the_generators(
    net: str, tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path, net=net, data=SHUFFLED)
    report = sound(workers, training.save({**training.parts(), **training.rng()}))
    assert report.training["rng_saved"] == ["numpy", "python", "torch"]
    assert report.notes == []


def test_no_states_where_nothing_is_drawn(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    report = sound(workers, training.save(training.parts()))
    assert any("nothing that was compared depends on them" in note for note in report.notes)


def test_data_shuffled_by_numpy_and_python(tmp_path: Path, workers: Workers) -> None:
    drawn = (
        DATA
        + """

def batches():
    import random
    import numpy as np

    class Drawn:
        def __len__(self):
            return 3

        def __iter__(self):
            order = np.random.permutation(12).tolist()
            random.shuffle(order)
            x, y = samples().tensors
            for at in range(0, 12, 4):
                yield x[order[at : at + 4]], y[order[at : at + 4]]

    return Drawn()
"""
    )
    training = Training(tmp_path, data=drawn)
    sound(workers, training.save({**training.parts(), **training.rng()}))


def test_amp_in_bfloat16(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, amp=True)
    report = sound(workers, training.save(training.parts()))
    assert report.training["autocast"] == "bfloat16"


def test_a_scaler(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, scaler=True)
    report = sound(workers, training.save(training.parts()))
    assert (report.training["scaler"], report.training["autocast"]) == (True, None)
    assert any("does not record autocast" in note for note in report.notes)


def test_everything_at_once(tmp_path: Path, workers: Workers) -> None:
    """AMP, a scaler, a schedule, an average, shuffling, dropout, and all states that it takes."""
    training = Training(
        tmp_path, OPTIMIZERS["adamw"], net=DROPOUT, data=SHUFFLED, amp=True, scaler=True,
        scheduler=SCHEDULERS["cosine"],
    )  # fmt: skip
    made = {**training.parts(), **training.rng(), "model_ema": training.ema}
    report = sound(workers, training.save(made))
    facts = report.training
    assert (facts["autocast"], facts["scaler"], facts["averages"]) == ("bfloat16", True, 1)
    assert facts["scheduler"] == "CosineAnnealingLR"


def test_an_average_of_the_weights(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    report = sound(workers, training.save({**training.parts(), "model_ema": training.ema}))
    assert report.training["averages"] == 1


def test_groups_with_rates_of_their_own(tmp_path: Path, workers: Workers) -> None:
    def split(model: Any) -> Any:
        return [
            {"params": model.body.parameters(), "lr": 0.02},
            {"params": [*model.norm.parameters(), *model.head.parameters()]},
        ]

    training = Training(tmp_path, parameters=split)
    sound(workers, training.save(training.parts()))


def test_named_parameters(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, parameters=lambda model: model.named_parameters())
    sound(workers, training.save(training.parts()))


def test_what_the_class_itself_freezes(tmp_path: Path, workers: Workers) -> None:
    frozen = NET.replace(
        "        self.head", "        self.body.requires_grad_(False)\n        self.head", 1
    )
    training = Training(tmp_path, net=frozen)
    sound(workers, training.save(training.parts()))
    training = Training(
        tmp_path,
        net=frozen,
        parameters=lambda model: [p for p in model.parameters() if p.requires_grad],
    )
    sound(workers, training.save(training.parts()))


def test_an_optimizer_that_the_user_makes_over_a_part(tmp_path: Path, workers: Workers) -> None:
    more = """

def make_optimizer(model):
    return torch.optim.Adam(model.head.parameters(), lr=0.01)
"""
    training = Training(tmp_path, net=NET + more, parameters=lambda model: model.head.parameters())
    sound(workers, training.save(training.parts()))


def test_a_model_in_half_precision(tmp_path: Path, workers: Workers) -> None:
    half = NET.replace("nn.Linear(4, 2)", "nn.Linear(4, 2)\n        self.half_()")
    half = half.replace("class Net", "class Half").replace("self.half_()", "self.bfloat16()")
    half += """

class Net(Half):
    def forward(self, x):
        return super().forward(x.bfloat16()).float()
"""
    training = Training(tmp_path, net=half)
    sound(workers, training.save(training.parts()))


def test_the_epoch_is_the_next_one(tmp_path: Path, workers: Workers) -> None:
    by_epoch = DATA.replace("def batches():", "def batches(epoch=0):").replace(
        "samples(), batch",
        "torch.utils.data.Subset(samples(), [(i + epoch) % 12 for i in range(12)]), batch",
    )
    training = Training(tmp_path, data=by_epoch)
    made = training.parts()
    for epoch in (1, 2):  # the last one finished, or the next one: two steps per epoch tell which
        sound(workers, training.save({**made, "epoch": epoch}))


def test_a_whole_model(tmp_path: Path, workers: Workers) -> None:
    import sys

    training = Training(tmp_path)
    name = type(training.model).__module__
    main: Any = sys.modules["__main__"]
    main.Net, type(training.model).__module__ = type(training.model), "__main__"
    try:
        made = training.parts()
        made["model"] = training.model
        sound(workers, training.save(made))
    finally:
        type(training.model).__module__ = name
        del main.Net


def test_a_model_wrapped_when_it_was_saved(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    made = training.parts()
    made["model"] = {f"module.{key}": value for key, value in made["model"].items()}
    sound(workers, training.save(made))


def test_inputs_alone_and_inputs_made_up(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    del given["data"]
    report = sound(workers, given)
    assert any("made up for the first layer, body" in note for note in report.notes)


def test_a_generator_of_batches(tmp_path: Path, workers: Workers) -> None:
    generated = (
        DATA
        + """

def generated():
    x, y = samples().tensors
    for at in range(0, 12, 4):
        yield x[at : at + 4], y[at : at + 4]
"""
    )
    training = Training(tmp_path, data=generated)
    given = training.save(training.parts())
    given["data"] = given["data"].replace(":batches", ":generated")
    sound(workers, given)


def test_the_same_set_without_torch(tmp_path: Path) -> None:
    """`check optimizer` reads what each optimizer of torch leaves, and finds what is wrong of it,
    where neither torch nor numpy can be imported."""
    paths = []
    for name, make in OPTIMIZERS.items():
        training = Training(tmp_path, make)
        made = training.parts()
        for fault in ("", "-lost"):
            if fault:
                made["optimizer"]["state"] = {}
            torch.save(made, tmp_path / f"{name}{fault}.pt")
            paths.append(str(tmp_path / f"{name}{fault}.pt"))
    code = """
import json, sys
sys.modules["torch"] = sys.modules["numpy"] = None
from ptinspect.proofs.optimizer import check_optimizer
print(json.dumps({path: check_optimizer(path).exit_code for path in sys.argv[1:]}))
"""
    command = [sys.executable, "-c", code, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    codes = {Path(path).stem: code for path, code in json.loads(done.stdout).items()}
    sound_ones = dict.fromkeys(OPTIMIZERS, 0)
    lost = {f"{name}-lost": int(name != "sgd") for name in OPTIMIZERS}  # plain SGD keeps nothing
    assert codes == {**sound_ones, **lost}
