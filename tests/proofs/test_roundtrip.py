"""`check roundtrip`: whole models, state_dicts and checkpoints, through all three forms."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ptinspect.errors import PtInspectError
from ptinspect.proofs import roundtrip
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.roundtrip import FORMS, check_roundtrip
from tests.cli.running import MODEL, STATE_DICT, run
from tests.conftest import FIXTURES
from tests.proofs.seed import seed_files
from tests.proofs.test_schemas import valid
from tests.torch_child import torch_python

torch = pytest.importorskip("torch")

from tests.proofs.trainings import NET, Training  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("path", [MODEL, STATE_DICT], ids=lambda path: path.name)
def test_the_seeds_files(path: Path, tmp_path: Path, workers: Workers) -> None:
    files = seed_files(tmp_path)
    report = check_roundtrip(str(path), **files, steps=3, workers=workers)
    assert [(form.name, form.differs, form.error) for form in report.forms] == [
        (name, [], None) for name in FORMS
    ]
    assert (report.exit_code, report.optimizer) == (0, "SGD")
    assert "  loss          MSELoss\n" in report.text()


@pytest.mark.slow
def test_a_class_of_the_fixtures_that_is_missing(workers: Workers) -> None:
    report = check_roundtrip(str(FIXTURES / "modules/sequential.pt"), workers=workers)
    assert report.exit_code == 0, report.text()
    assert "the class MySequential is missing; a stub was used in its place" in report.notes


@pytest.mark.slow
def test_a_class_that_is_missing_and_inherits_its_forward(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stacked(torch.nn.Sequential):  # type: ignore[misc]
        pass

    Stacked.__module__, Stacked.__qualname__ = "__main__", "Stacked"
    monkeypatch.setattr("__main__.Stacked", Stacked, raising=False)
    torch.save(Stacked(torch.nn.Linear(3, 2), torch.nn.ReLU()), tmp_path / "stacked.pt")
    report = check_roundtrip(str(tmp_path / "stacked.pt"), workers=workers)
    assert report.exit_code == 0, report.text()
    assert "the class Stacked is missing; a stub was used in its place" in report.notes


@pytest.mark.slow
def test_a_stub_does_not_know_forward(workers: Workers) -> None:
    with pytest.raises(PtInspectError, match=r"does not record CustomModel\.forward") as caught:
        check_roundtrip(str(MODEL), workers=workers)
    assert caught.value.hint == "give its class as model=FILE.py:CLASS"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Adam", "LBFGS"])
def test_the_optimizer_of_a_checkpoint(name: str, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, lambda p: getattr(torch.optim, name)(p, lr=0.1))
    given = training.save(training.parts())
    report = check_roundtrip(given.pop("path"), **given, workers=workers)
    assert (report.exit_code, report.optimizer) == (0, name), report.text()


@pytest.mark.slow
def test_tied_weights(tmp_path: Path, workers: Workers) -> None:
    tied = NET.replace("nn.Linear(4, 2)", "nn.Linear(4, 2)\n        self.again = self.head")
    training = Training(tmp_path, net=tied)
    given = training.save(training.model.state_dict())
    report = check_roundtrip(given.pop("path"), **given, workers=workers)
    assert report.exit_code == 0, report.text()


@pytest.mark.slow
def test_a_conversion_that_changed_the_weights_is_found(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = roundtrip.convert

    def wrong(path: str, target: str, **given: object) -> object:
        state = torch.load(STATE_DICT, map_location="cpu")
        torch.save({key: value * 2 for key, value in state.items()}, tmp_path / "wrong.pt")
        return right(str(tmp_path / "wrong.pt"), target, to=given["to"])  # type: ignore[arg-type]

    monkeypatch.setattr(roundtrip, "convert", wrong)
    files = seed_files(tmp_path)
    report = check_roundtrip(str(STATE_DICT), **files, workers=workers)
    assert report.exit_code == 1
    assert report.forms[0].differs[:2] == ["weights and buffers", "outputs in eval mode"]


def test_the_command(tmp_path: Path, forked_training: None) -> None:
    files = seed_files(tmp_path)
    result = run("check", "roundtrip", MODEL, "--model", files["model"], "-f", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    made = valid("roundtrip", json.loads(result.stdout))
    assert made["verdict"] == "same"
    assert [form["name"] for form in made["forms"]] == list(FORMS)
    assert any("made up" in note for note in made["notes"])


# --- No false alarm, and failures of the machine -----------------------------------------------


def roundtrip_report(workers: Workers, given: dict[str, Any], **more: Any) -> Any:
    return check_roundtrip(given.pop("path"), **given, **more, workers=workers)


@pytest.mark.slow
def test_states_of_generators_in_the_checkpoint(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save({**training.parts(), **training.rng()})
    report = roundtrip_report(workers, given)
    assert [form.differs for form in report.forms] == [[], [], []], report.text()
    valid("roundtrip", report.as_dict())


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module._orig_mod."])
def test_wrappers_prefixes(prefix: str, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    state = {f"{prefix}{key}": value for key, value in training.model.state_dict().items()}
    report = roundtrip_report(workers, training.save(state))
    assert report.exit_code == 0, report.text()


@pytest.mark.slow
def test_autocast_that_the_file_records(tmp_path: Path, workers: Workers) -> None:
    """The outputs are those of bfloat16: a form that is converted runs under autocast too."""
    (tmp_path / "seen").mkdir()
    watching = NET.replace(
        "        return",
        f"        open({str(tmp_path / 'seen')!r} + '/' + str(self.body(x).dtype), 'w').close()\n"
        "        return",
    )
    training = Training(tmp_path, net=watching, amp=True)
    for path in (tmp_path / "seen").iterdir():
        path.unlink()
    report = roundtrip_report(workers, training.save(training.parts()))
    assert report.exit_code == 0, report.text()
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"torch.bfloat16"}


@pytest.mark.slow
def test_lazy_modules(tmp_path: Path, workers: Workers) -> None:
    lazy = NET.replace("nn.Linear(3, 4)", "nn.LazyLinear(4)").replace(
        "nn.BatchNorm1d(4)", "nn.LazyBatchNorm1d()"
    )
    training = Training(tmp_path, net=lazy, prepare=lambda model: model(torch.ones(2, 3)))
    report = roundtrip_report(workers, training.save(training.parts()))
    assert [(form.differs, form.error) for form in report.forms] == [([], None)] * 3, report.text()


@pytest.mark.slow
def test_one_name_of_tied_weights_is_enough(tmp_path: Path, workers: Workers) -> None:
    tied = NET.replace("nn.Linear(4, 2)", "nn.Linear(4, 2)\n        self.again = self.head")
    training = Training(tmp_path, net=tied)
    state = {k: v for k, v in training.model.state_dict().items() if not k.startswith("again")}
    report = roundtrip_report(workers, training.save(state))
    assert report.exit_code == 0, report.text()


@pytest.mark.slow
def test_a_model_that_does_not_repeat_its_numbers(tmp_path: Path, workers: Workers) -> None:
    noise = NET.replace("self.norm(self.body(x))", "self.norm(self.body(x)) + noise()")
    noise += """

def noise():
    import os
    return int.from_bytes(os.urandom(4), "little") / 2**32
"""
    training = Training(tmp_path)
    report = roundtrip_report(workers, training.save(training.model.state_dict(), noise))
    assert report.exit_code == 3, report.text()
    assert "outputs in eval mode" in report.unstable
    assert "weights and buffers" not in report.unstable
    assert valid("roundtrip", report.as_dict())["verdict"] == "not-deterministic"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\)"),
        ("bytearray(1 << 50)", "more memory than there is"),
        ("torch.empty(1 << 50)", "more memory than there is"),
    ],
    ids=["crash", "memory", "torch's memory"],
)
def test_a_child_that_fails_with_a_form_is_no_difference(
    statement: str, message: str, tmp_path: Path, workers: Workers
) -> None:
    """The second process that runs the model fails, which is that of the first form."""
    marker = tmp_path / "ran"
    fails = (
        NET
        + f"""

class Net(Net):
    def forward(self, x):
        import os, signal
        if self.training:
            return super().forward(x)
        if os.path.exists({str(marker)!r}):
            {statement}
        open({str(marker)!r}, "w").close()
        return super().forward(x)
"""
    )
    training = Training(tmp_path)
    given = training.save(training.model.state_dict(), fails)
    with pytest.raises(PtInspectError, match=message):
        roundtrip_report(workers, given)


@pytest.mark.slow
def test_a_filled_in_stub_is_code_that_the_user_trusts(tmp_path: Path, workers: Workers) -> None:
    """stub -> fill in forward -> roundtrip: the story of this tool."""
    path = save_small_cnn(tmp_path)
    stub = tmp_path / "small_cnn.py"
    assert run("stub", str(path), "-o", str(stub)).exit_code == 0
    text = stub.read_text()
    line = next(line for line in text.splitlines() if "raise NotImplementedError" in line)
    stub.write_text(text.replace(line, "        return self.head(self.features(*args).flatten(1))"))
    report = check_roundtrip(str(path), model=f"{stub}:SmallCNN", workers=workers)
    assert (report.exit_code, report.notes[0][:6]) == (0, "inputs"), report.text()


@pytest.mark.slow
def test_a_class_that_an_installed_module_has_is_not_the_users(
    tmp_path: Path, workers: Workers
) -> None:
    path = save_small_cnn(tmp_path, "click")
    (tmp_path / "net.py").write_text(
        "import click\n"
        "class SmallCNN: pass\n"
        "class Other: pass\n"
        "click.SmallCNN = Other\n"
        "def _register(*names): pass\n"
        "_register(SmallCNN, 'click', 'SmallCNN')\n"
    )
    with pytest.raises(PtInspectError, match="not the one in the model file"):
        check_roundtrip(str(path), model=f"{tmp_path / 'net.py'}:SmallCNN", workers=workers)


def save_small_cnn(folder: Path, module: str = "nets") -> Path:
    """A model whose class no module has any more."""
    code = f"""
import sys, types, torch
from torch import nn
module = sys.modules.setdefault({module!r}, types.ModuleType({module!r}))
class SmallCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(4, 3)
SmallCNN.__module__, SmallCNN.__qualname__ = {module!r}, "SmallCNN"
module.SmallCNN = SmallCNN
torch.save(SmallCNN(), "cnn.pth")
"""
    subprocess.run([torch_python(), "-c", code], check=True, cwd=folder)
    return folder / "cnn.pth"
