"""`check roundtrip`: whole models, state_dicts and checkpoints, through all three forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptinspect.errors import PtInspectError
from ptinspect.proofs import roundtrip
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.roundtrip import FORMS, check_roundtrip
from tests.cli.running import MODEL, STATE_DICT, run
from tests.conftest import FIXTURES
from tests.proofs.seed import seed_files
from tests.proofs.test_schemas import valid

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
    assert "--model" in (caught.value.hint or "")


@pytest.mark.slow
def test_the_optimizer_of_a_checkpoint(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    report = check_roundtrip(given.pop("path"), **given, workers=workers)
    assert (report.exit_code, report.optimizer) == (0, "Adam"), report.text()


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


def test_the_command(tmp_path: Path) -> None:
    files = seed_files(tmp_path)
    result = run("check", "roundtrip", MODEL, "--model", files["model"], "-f", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    made = valid("roundtrip", json.loads(result.stdout))
    assert made["verdict"] == "same"
    assert [form["name"] for form in made["forms"]] == list(FORMS)
    assert any("made up" in note for note in made["notes"])
