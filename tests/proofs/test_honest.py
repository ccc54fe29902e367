"""Honest trainings that are easily misread, and faults that are easily missed beside another."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ptinspect.proofs.optimizer import check_optimizer  # noqa: E402
from ptinspect.proofs.processes import Workers  # noqa: E402
from ptinspect.proofs.roundtrip import check_roundtrip  # noqa: E402
from tests.proofs.running import fails, run  # noqa: E402
from tests.proofs.trainings import DATA, DROPOUT, NET, SHUFFLED, SPARSE, Training  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["LBFGS", "Adafactor"])
def test_the_class_of_the_optimizer_may_be_named(
    name: str, tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path, lambda p: getattr(torch.optim, name)(p, lr=0.1))
    given = training.save(training.parts())
    report = run(workers, given, optimizer_class=f"torch.optim.{name}")
    assert (report.verdict, report.training["optimizer"]) == ("same", f"torch.optim.{name}")


def test_sparse_adam_may_be_named(tmp_path: Path, workers: Workers) -> None:
    words = DATA.replace("TensorDataset(torch.sin(at), ", "TensorDataset(at.long() % 12, ")
    training = Training(
        tmp_path, lambda p: torch.optim.SparseAdam(p, lr=0.1), net=SPARSE, data=words
    )  # fmt: skip
    given = training.save(training.parts())
    report = run(workers, given, optimizer_class="torch.optim.SparseAdam")
    assert report.verdict == "same", report.text()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_may_be_named(tmp_path: Path, workers: Workers) -> None:
    training = Training(
        tmp_path,
        lambda p: torch.optim.Muon(p, lr=0.1),
        parameters=lambda model: [p for p in model.parameters() if p.ndim == 2],
    )
    given = training.save(training.parts())
    report = run(workers, given, optimizer_class="torch.optim.Muon")
    assert report.verdict == "same", report.text()


def test_another_class_than_the_files_is_still_refused(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    error = fails(workers, training.save(training.parts()), optimizer_class="torch.optim.SGD")
    assert "is not of SGD" in error.message


def head_first(model: Any) -> list[dict[str, Any]]:
    return [
        {"params": model.head.parameters(), "lr": 0.05},
        {"params": [*model.body.parameters(), *model.more.parameters(), *model.norm.parameters()]},
    ]


def test_the_head_before_the_backbone(tmp_path: Path, workers: Workers) -> None:
    """Two layers of the backbone have the same shape, so that shapes alone leave two orders."""
    net = NET.replace("nn.Linear(3, 4)", "nn.Linear(3, 4)\n        self.more = Deep()")
    net = net.replace("self.norm(self.body(x))", "self.norm(self.more(self.body(x)))")
    net += """

class Deep(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
"""
    training = Training(tmp_path, net=net, parameters=head_first)
    given = training.save(training.parts())
    (fit,) = check_optimizer(given["path"]).optimizers
    assert (fit.faults, fit.undecided) == ([], [])
    assert fit.names[:3] == ["head.weight", "head.bias", "body.weight"]
    report = run(workers, given)
    assert (report.verdict, report.undecided) == ("same", []), report.text()


@pytest.mark.parametrize("size", [16, 5056])
def test_bytes_in_a_buffer_are_no_generator_state(
    size: int, tmp_path: Path, workers: Workers
) -> None:
    buffer = f"self.register_buffer('mask', torch.arange({size}).to(torch.uint8))"
    net = NET.replace("nn.Linear(4, 2)", f"nn.Linear(4, 2)\n        {buffer}")
    training = Training(tmp_path, net=net)
    report = run(workers, training.save(training.parts()))
    assert (report.verdict, report.training["rng_saved"]) == ("same", []), report.text()
    flat = {**training.model.state_dict(), "torch_rng_state": torch.get_rng_state()}
    report = run(workers, training.save(flat), optimizer_class="torch.optim.Adam")
    assert report.training["rng_saved"] == ["torch"]


def test_an_optimizer_whose_numbering_is_unknown_still_trains_a_round_trip(
    tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path, lambda p: torch.optim.SGD(p, lr=0.1))
    given = training.save(training.parts())
    report = check_roundtrip(given.pop("path"), **given, workers=workers)
    assert (report.exit_code, report.optimizer) == (0, "SGD"), report.text()


# --- faults ---------------------------------------------------------------------------------------


def kinds(report: Any) -> list[str]:
    assert (report.verdict, report.exit_code) == ("differs", 1), report.text()
    return sorted(cause.kind for cause in report.causes)


def test_adafactor_without_its_state(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, lambda p: torch.optim.Adafactor(p, lr=0.1))
    parts = training.parts()
    parts["optimizer"]["state"] = {}
    report = run(workers, training.save(parts))
    assert kinds(report) == ["optimizer-state"]


def test_dropout_and_shuffling_beside_another_fault(tmp_path: Path, workers: Workers) -> None:
    """The commonest checkpoint there is: nothing of the random numbers is saved."""
    training = Training(tmp_path, net=DROPOUT, data=SHUFFLED)
    parts = training.parts()
    parts["optimizer"]["state"] = {}
    report = run(workers, training.save(parts))
    assert kinds(report) == ["optimizer-state", "rng"]


def test_dropout_and_shuffling_in_the_middle_of_an_epoch(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, net=DROPOUT, data=SHUFFLED, steps=5)
    report = run(workers, training.save(training.parts()))
    assert kinds(report) == ["mid-epoch", "rng"]


DISTRIBUTED = """
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def batches():
    at = torch.arange(36, dtype=torch.float32).reshape(12, 3)
    samples = TensorDataset(torch.sin(at), torch.cos(at[:, :2]))
    sampler = DistributedSampler(samples, num_replicas=1, rank=0, shuffle=True)
    return DataLoader(samples, batch_size=4, sampler=sampler)
"""


def test_a_distributed_sampler_and_no_epoch(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, data=DISTRIBUTED)
    parts = training.parts()
    del parts["epoch"]
    report = run(workers, training.save(parts))
    assert kinds(report) == ["epoch"]
    assert "set_epoch" in report.causes[0].message


@pytest.mark.parametrize(
    ("recorded", "autocast"),
    [
        ({"amp": False}, None),
        ({"args": {"use_amp": False}}, None),
        ({"amp": True}, "bfloat16"),
        ({"amp_dtype": torch.bfloat16}, "bfloat16"),
    ],
)
def test_a_disabled_scaler_has_an_empty_state(
    recorded: dict[str, Any], autocast: str | None, tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path, amp=autocast is not None)
    disabled = torch.amp.GradScaler("cpu", enabled=False).state_dict()
    assert disabled == {}
    parts = {**training.parts(), "scaler": disabled}
    parts.pop("amp", None)
    report = run(workers, training.save({**parts, **recorded}))
    assert report.verdict == "same", report.text()
    assert (report.training["scaler"], report.training["autocast"]) == (False, autocast)


def test_a_round_trip_of_a_whole_model_beside_its_optimizer(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = type(training.model)
    monkeypatch.setattr(kind, "__module__", "net")
    monkeypatch.setitem(sys.modules, "net", types.SimpleNamespace(Net=kind))
    given = training.save({**training.parts(), "model": training.model})
    report = check_roundtrip(given.pop("path"), **given, steps=3, workers=workers)
    assert report.exit_code == 0, report.text()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_that_was_trained_in_another_dtype(
    dtype: Any, tmp_path: Path, workers: Workers
) -> None:
    """The script casts the model; the optimizer's state has the same dtype."""
    data = DATA.replace("torch.sin(at)", f"torch.sin(at).to({dtype})")
    training = Training(tmp_path, data=data, prepare=lambda model: model.to(dtype))
    parts = training.parts()
    (tmp_path / "batches.py").write_text(DATA)
    report = run(workers, training.save(parts))
    assert report.verdict == "same", report.text()
    name = str(dtype).removeprefix("torch.")
    assert f"trained in {name}, like the optimizer's state" in report.notes


def test_a_model_of_which_one_layer_was_trained_in_bfloat16(
    tmp_path: Path, workers: Workers
) -> None:
    net = NET.replace(
        "self.head(torch.tanh(self.norm(self.body(x))))",
        "self.head(torch.tanh(self.norm(self.body(x))).to(self.head.weight)).float()",
    )
    training = Training(tmp_path, net=net, prepare=lambda model: model.head.bfloat16())
    report = run(workers, training.save(training.parts()))
    assert report.verdict == "same", report.text()
    assert "trained in bfloat16, like the optimizer's state" in report.notes
