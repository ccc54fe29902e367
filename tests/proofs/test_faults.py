"""For each usual cause a checkpoint built to have just that fault: found, named, and proved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptinspect.errors import PtInspectError
from ptinspect.proofs.optimizer import check_optimizer
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume import check_resume
from ptinspect.proofs.resume_report import ResumeReport

torch = pytest.importorskip("torch")
from torch.optim import lr_scheduler as lrs  # noqa: E402

from tests.proofs.trainings import DATA, DROPOUT, NET, SHUFFLED, Training  # noqa: E402

pytestmark = pytest.mark.slow


def faulty(
    workers: Workers, given: dict[str, Any], *, alone: int | None = 0, **more: Any
) -> ResumeReport:
    """alone: the exit code of `check optimizer`, which sees some of them without any training; None
    where there is no state to look at."""
    path = given.pop("path")
    if alone is None:
        with pytest.raises(PtInspectError, match="has no optimizer state"):
            check_optimizer(path)
    else:
        found = check_optimizer(path)
        assert found.exit_code == alone, found.text()
    report = check_resume(path, **given, **more, steps=3, workers=workers)
    assert (report.verdict, report.exit_code) == ("differs", 1), report.text()
    assert report.first is not None
    return report


def kinds(report: ResumeReport) -> list[str]:
    return [cause.kind for cause in report.causes]


# --- each cause by itself -----------------------------------------------------------------


def test_no_optimizer_state(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    made = training.parts()
    del made["optimizer"]
    report = faulty(workers, training.save(made), alone=None, optimizer_class="torch.optim.Adam")
    assert kinds(report) == ["optimizer-state"]
    assert "is not in the file" in report.causes[0].message


def test_an_empty_optimizer_state(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    made = training.parts()
    made["optimizer"]["state"] = {}
    report = faulty(workers, training.save(made), alone=1)
    assert kinds(report) == ["optimizer-state"]
    assert "empty" in report.causes[0].message


def test_an_optimizer_state_in_part(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    made = training.parts()
    for kept in made["optimizer"]["state"].values():
        del kept["exp_avg_sq"]
    assert kinds(faulty(workers, training.save(made), alone=1)) == ["optimizer-state"]


@pytest.mark.parametrize("alike", [False, True], ids=["other shapes", "same shapes"])
def test_another_order_of_the_parameters(alike: bool, tmp_path: Path, workers: Workers) -> None:
    net = NET.replace("nn.Linear(3, 4)", "nn.Linear(3, 4)\n        self.more = nn.Linear(4, 4)")
    net = net.replace("self.norm(self.body(x))", "self.norm(self.more(self.body(x)))")
    if alike:
        net = net.replace("nn.Linear(4, 2)", "nn.Linear(4, 4)").replace(
            "return self.head(", "return self.head("
        )
        net = net.replace("(self.more(self.body(x)))))", "(self.more(self.body(x)))))[:, :2]")
    training = Training(tmp_path, net=net)
    lines = net.split("\n")
    first = next(at for at, line in enumerate(lines) if "self.more = " in line)
    last = next(at for at, line in enumerate(lines) if "self.head = " in line)
    lines[first], lines[last] = lines[last], lines[first]
    report = faulty(workers, training.save(training.parts(), "\n".join(lines)))
    assert kinds(report) == ["parameter-order"]
    assert "more.weight" in report.causes[0].message or "head.weight" in report.causes[0].message


def test_another_set_is_trained(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, prepare=lambda model: model.body.requires_grad_(False))
    report = faulty(workers, training.save(training.parts()))
    assert kinds(report) == ["trainable-set"]
    assert "body.weight" in report.causes[0].message


def test_a_part_is_trained_and_the_class_does_not_say_so(tmp_path: Path, workers: Workers) -> None:
    training = Training(
        tmp_path,
        prepare=lambda model: model.body.requires_grad_(False),
        parameters=lambda model: [p for p in model.parameters() if p.requires_grad],
    )
    report = faulty(workers, training.save(training.parts()))
    assert kinds(report) == ["trainable-set"]
    assert report.first is not None
    assert "loading fails" in report.first.what


def test_buffers_given_to_the_optimizer(tmp_path: Path, workers: Workers) -> None:
    def everything(model: Any) -> list[Any]:
        own = dict(model.named_parameters())
        tensors = [own.get(name, value) for name, value in model.state_dict().items()]
        return [value for value in tensors if value.is_floating_point()]

    training = Training(tmp_path, parameters=everything)
    report = faulty(workers, training.save(training.parts()))
    assert kinds(report) == ["buffers-in-optimizer"]
    assert "norm.running_mean" in report.causes[0].message


def test_another_learning_rate(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, scheduler=lambda o: lrs.StepLR(o, 1, 0.5))
    made = training.parts()
    made["optimizer"]["param_groups"][0]["lr"] = 0.01  # that of the beginning
    assert kinds(faulty(workers, training.save(made), alone=1)) == ["learning-rate"]


def test_no_state_of_the_scheduler(tmp_path: Path, workers: Workers) -> None:
    more = """

def make_scheduler(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
"""
    training = Training(tmp_path, net=NET + more, scheduler=lambda o: lrs.StepLR(o, 2, 0.5))
    made = training.parts()
    made["epoch"] = 2
    del made["scheduler"]
    assert kinds(faulty(workers, training.save(made))) == ["scheduler"]


BY_EPOCH = (
    DATA.replace("def batches():", "def batches(epoch=0):").replace(
        "samples(), batch", "turned(epoch), batch"
    )
    + """

def turned(epoch):
    return torch.utils.data.Subset(samples(), [(at + epoch) % 12 for at in range(12)])
"""
)


@pytest.mark.parametrize("off", [-1, 1])
def test_an_epoch_off_by_one(off: int, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, data=BY_EPOCH, steps=12)
    made = training.parts()
    made["epoch"] += off + (off > 0)  # the last finished one and the next one are both usual
    report = faulty(workers, training.save(made))
    assert kinds(report) == ["epoch"]


@pytest.mark.parametrize("data", [DATA, SHUFFLED], ids=["in order", "shuffled"])
def test_in_the_middle_of_an_epoch(data: str, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, data=data, steps=5)
    made = {**training.parts(), **training.rng()}
    report = faulty(workers, training.save(made))
    assert kinds(report) == ["mid-epoch"]
    assert "after 2 of its batches" in report.causes[0].message


def test_shuffling_without_the_state_of_the_generator(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, data=SHUFFLED)
    assert kinds(faulty(workers, training.save(training.parts()))) == ["rng-shuffling"]


@pytest.mark.parametrize(
    ("draw", "mend"),
    [("np.random.permutation(12).tolist()", "rng-numpy"),
     ("random.sample(range(12), 12)", "rng-python")],
)  # fmt: skip
def test_another_generator(draw: str, mend: str, tmp_path: Path, workers: Workers) -> None:
    data = (
        DATA
        + f"""

def batches():
    import random
    import numpy as np

    class Drawn:
        def __len__(self):
            return 3

        def __iter__(self):
            x, y = samples().tensors
            order = {draw}
            for at in range(0, 12, 4):
                yield x[order[at : at + 4]], y[order[at : at + 4]]

    return Drawn()
"""
    )
    training = Training(tmp_path, data=data)
    report = faulty(workers, training.save(training.parts()))
    assert kinds(report) == ["rng-shuffling"]
    assert report.causes[0].fixes == (mend,)


def test_dropout(tmp_path: Path, workers: Workers) -> None:
    dropout = NET.replace("self.head = ", "self.drop = nn.Dropout(0.3)\n        self.head = ")
    dropout = dropout.replace("torch.tanh(", "self.drop(")
    training = Training(tmp_path, net=dropout)
    report = faulty(workers, training.save(training.parts()))
    assert kinds(report) == ["dropout"]


def test_dropout_and_shuffling(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, net=DROPOUT, data=SHUFFLED)
    report = faulty(workers, training.save(training.parts()))
    assert kinds(report) == ["rng"]
    assert "the order of the data and the model" in report.causes[0].message


def test_the_seed_is_set_again(tmp_path: Path, workers: Workers) -> None:
    again = SHUFFLED.replace(
        "    return DataLoader", "    torch.manual_seed(7)\n    return DataLoader"
    )
    training = Training(tmp_path, data=again)
    report = faulty(workers, training.save(training.parts()))
    assert kinds(report) == ["seed-set-again"]
    assert "the order of the first epoch repeats" in report.causes[0].message


def test_a_generator_of_the_loaders_own(tmp_path: Path, workers: Workers) -> None:
    own = SHUFFLED.replace(
        "shuffle=True", "shuffle=True, generator=torch.Generator().manual_seed(7)"
    )
    training = Training(tmp_path, data=own)
    report = faulty(workers, training.save({**training.parts(), **training.rng()}))
    assert kinds(report) == ["seed-set-again"]
    assert report.causes[0].fixes == ("generators",)


def test_an_order_from_nowhere(tmp_path: Path, workers: Workers) -> None:
    """A generator that only the script holds; each process begins it elsewhere."""
    hidden = (
        DATA
        + """

def batches():
    import os
    import random

    hidden = random.Random(os.environ.get("PTINSPECT_NONE", "7"))
    drawn = [hidden.sample(range(12), 12)]

    class Drawn:
        def __len__(self):
            return 3

        def __iter__(self):
            x, y = samples().tensors
            order = drawn[0]
            drawn[0] = hidden.sample(range(12), 12)
            for at in range(0, 12, 4):
                yield x[order[at : at + 4]], y[order[at : at + 4]]

    return Drawn()
"""
    )
    training = Training(tmp_path, data=hidden)
    report = faulty(workers, training.save({**training.parts(), **training.rng()}))
    assert kinds(report) == ["seed-set-again"]
    assert report.causes[0].fixes == ("replay",)


def test_an_empty_state_of_the_scaler(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, scaler=True)
    made = {**training.parts(), "scaler": {}}
    assert kinds(faulty(workers, training.save(made))) == ["grad-scaler"]


def test_no_state_of_the_scaler(tmp_path: Path, workers: Workers) -> None:
    """The script has one, the file does not."""
    more = "\n\ndef make_scaler():\n    return torch.amp.GradScaler('cpu', growth_interval=2)\n"
    training = Training(tmp_path, net=NET + more, scaler=True)
    made = training.parts()
    del made["scaler"]
    assert kinds(faulty(workers, training.save(made))) == ["grad-scaler"]


def test_amp_is_not_switched_on_again(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, net=NET + "\n\ndef autocast():\n    return None\n", amp=True)
    report = faulty(workers, training.save(training.parts()))
    assert kinds(report) == ["amp"]


def test_no_buffers(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    made = training.parts()
    made["model"] = {
        k: v for k, v in made["model"].items() if "running" not in k and "num_" not in k
    }
    report = faulty(workers, training.save(made))
    assert kinds(report) == ["buffers"]
    assert "BatchNorm" in report.causes[0].message


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_in_less_precision(dtype: str, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    made = training.parts()
    made["model"] = {
        k: v.to(getattr(torch, dtype)) if "weight" in k or "bias" in k else v
        for k, v in made["model"].items()
    }
    assert kinds(faulty(workers, training.save(made), alone=0)) == ["dtype"]


def test_a_missing_weight(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    made = training.parts()
    del made["model"]["head.bias"]
    report = faulty(workers, training.save(made), alone=1)
    assert "weights" in kinds(report)


def test_what_is_not_deterministic_is_told_apart(tmp_path: Path, workers: Workers) -> None:
    noisy = NET.replace("import torch\n", "import os\n\nimport torch\n", 1).replace(
        "self.head(torch", "self.head(1e-3 * int.from_bytes(os.urandom(1), 'big') + torch"
    )
    training = Training(tmp_path, net=noisy)
    given = training.save(training.parts())
    report = check_resume(given.pop("path"), **given, steps=3, workers=workers)
    assert (report.verdict, report.exit_code) == ("not-deterministic", 3)
    assert kinds(report) == ["non-determinism"]


def test_two_faults_are_both_named(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, data=SHUFFLED)
    made = training.parts()
    made["optimizer"]["state"] = {}
    report = faulty(workers, training.save(made), alone=1)
    assert sorted(kinds(report)) == ["optimizer-state", "rng-shuffling"]


def test_a_cause_that_is_none_of_the_usual(tmp_path: Path, workers: Workers) -> None:
    """A counter in Python, which no state_dict holds: no mend helps, and none is named."""
    counting = NET.replace(
        "        self.head", "        self.calls = 0\n        self.head", 1
    ).replace(
        "        return",
        "        self.calls += 1\n        x = x + 0.01 * self.calls\n        return",
    )
    training = Training(tmp_path, net=counting)
    report = faulty(workers, training.save(training.parts()))
    assert report.causes == []
    assert report.first is not None and report.first.step == 1
    assert "not found" in report.text()
