"""The bar with the loss, and the picture of both curves: what is seen of a training."""

from __future__ import annotations

import os
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from ptinspect.cli.output import training_line, training_progress
from ptinspect.errors import PtInspectError, UnsupportedError
from ptinspect.proofs.processes import Progress, Workers
from ptinspect.proofs.resume import check_resume
from ptinspect.proofs.resume_report import check_plot_path, plot_losses


def test_the_line() -> None:
    assert training_line(Progress("training"), 80) == "training …"
    half = training_line(Progress("training", 2, 4, 0.123456), 80)
    assert half == "training  [############------------]  2/4  loss 0.1235"
    assert training_line(Progress("training", 9, 4, float("nan")), 80).endswith("]  9/4  loss nan")
    assert len(training_line(Progress("training", 2, 4, 0.5), 20)) == 19


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals here")
def test_a_bar_with_the_loss_on_a_terminal(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from tests.proofs.trainings import Training

    training = Training(tmp_path)
    given = training.save(training.parts())
    ours, theirs = os.openpty()
    seen: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                seen.append(data)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("COLUMNS", "200")
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with training_progress(hidden=True) as watch:
            assert watch is None
        with training_progress() as watch:
            report = check_resume(given["path"], model=given["model"], data=given["data"],
                                  steps=3, workers=workers, progress=watch)  # fmt: skip
    reader.join()
    os.close(ours)
    text = b"".join(seen).decode()
    assert report.exit_code == 0
    drawn = text.split("\r\x1b[K")
    assert drawn[0] == drawn[-1] == ""  # the line is left as it was found
    assert "training without interruption …" in drawn
    assert "resuming in a new process …" in drawn
    last = [one for one in drawn if "  6/6  loss " in one]
    assert last and all(f"{report.losses[0][-1]:.4g}" in one for one in last)


def test_no_bar_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress() as watch:
        assert watch is None
    assert capsys.readouterr().err == ""


# --- the picture --------------------------------------------------------------------------

LOSSES = ([3.0, 2.0, 1.0, 0.5, 0.4, 0.3], [3.0, 2.0, 1.0, 0.5, 0.4, 0.3])


def points(path: Path) -> dict[str, int]:
    """Per curve of an SVG, its points."""
    spaced = "{http://www.w3.org/2000/svg}"
    made = {}
    for group in ElementTree.parse(path).iter(f"{spaced}g"):
        if group.get("id") in ("uninterrupted", "resumed"):
            first = next(group.iter(f"{spaced}path"))
            made[str(group.get("id"))] = sum(mark in "ML" for mark in str(first.get("d")))
    return made


@pytest.mark.slow
def test_both_curves_are_drawn_from_a_run(tmp_path: Path, workers: Workers) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    from tests.proofs.trainings import Training

    training = Training(tmp_path)
    given: dict[str, Any] = {**training.save(training.parts()), "steps": 3, "workers": workers}
    path = given.pop("path")
    for name in ("losses.svg", "losses.png"):
        report = check_resume(path, plot=str(tmp_path / name), **given)
        assert report.exit_code == 0
    assert points(tmp_path / "losses.svg") == {"uninterrupted": 6, "resumed": 3}
    picture = (tmp_path / "losses.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture[12:16] == b"IHDR"
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (700, 400)
    assert len(picture) > 5_000
    with pytest.raises(PtInspectError, match="already exists"):
        check_resume(path, plot=str(tmp_path / "losses.svg"), **given)
    check_resume(path, plot=str(tmp_path / "losses.svg"), force=True, **given)


@pytest.mark.slow
def test_the_same_losses_make_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.png", "other.png", "one.pdf"):
        plot_losses(str(tmp_path / name), LOSSES, 3)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF-")
    odd = ([float("nan"), float("inf")], [float("nan"), float("inf")])
    plot_losses(str(tmp_path / "odd.png"), odd, 1)


def test_what_hinders_a_picture_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PtInspectError, match="its folder does not exist"):
        check_plot_path(str(tmp_path / "nowhere" / "x.png"), False)
    with pytest.raises(PtInspectError, match="a plot needs one of the suffixes"):
        check_plot_path(str(tmp_path / "x.jpeg"), False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="matplotlib is not installed") as caught:
        check_plot_path(str(tmp_path / "x.png"), False)
    assert "ptinspect[plot]" in str(caught.value.hint)
