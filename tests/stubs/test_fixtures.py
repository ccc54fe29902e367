"""Every fixture with its stub: loaded both ways, printed, built anew and loaded strictly."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import FIXTURES
from tests.corpus.files import REFUSED, fixtures, truth_of
from tests.stubs.trying import Try, attempt, failures, outcomes

pytestmark = pytest.mark.slow

OLD_CLASSES = {
    # the pickled object is of an older torch's class, which prints otherwise than one built today
    "old/torch-1.0.0-py36/layers.pickle2.pkl",
    "old/torch-1.0.0-py36/bygone.pickle2.pkl",
    "old/torch-1.4.0-py36/bygone.zip.pth",
    "old/torch-1.8.1-py38/bygone.zip.pth",
    "old/torch-1.6.0-py36/quantized_model.zip.pth",
    "old/torch-1.8.1-py38/quantized_model.zip.pth",
    "old/torch-1.10.2-py38/quantized_model.zip.pth",
}
EXPECTED = {
    # torch itself fails on what it loads from these
    "modules/quantized-conv.pt": {"print", "state_dict"},
    # without numbers there is nothing to load
    "tensors/meta-module.pt": {"strict"},
    # code by value needs the package that wrote it
    "pickles/cloudpickle-functions.pkl": {"load"},
    "pickles/cloudpickle-model.pkl": {"load"},
    "pickles/cloudpickle.pt": {"load"},
    "pickles/dill-functions.pkl": {"load"},
    "pickles/dill-model.pkl": {"load"},
    "pickles/dill.pt": {"load"},
    # pickle.load has no map_location
    "pickles/cuda.pkl": {"load"},
    # numbers that only the program that wrote it had registered
    "pickles/extension.pkl": {"load"},
}  # fmt: skip


MODELS = ("modules/", "checkpoints/", "seed/", "containers/", "optimizers/")
"""Where state_dicts are those of models."""


def names() -> list[str]:
    return [name for name in fixtures() if name not in REFUSED]


def unexpected(name: str, bad: dict[str, Any]) -> dict[str, Any]:
    """What failed and should not have; what should have failed and did not."""
    bad = dict(bad)
    package = name.partition("/")[2].partition(".")[0].partition("-")[0]
    if package in ("cloudpickle", "dill") and find_spec(package) is not None:
        return {}  # the package is there, and makes the classes anew
    for key in EXPECTED.get(name, ()):
        if bad.pop(key, None) is None:
            bad[key] = "no longer a failure"
    if name in OLD_CLASSES:
        bad = {k: v for k, v in bad.items() if k not in ("built_print", "print", "print_built")}
    truth = truth_of(name)
    if truth["kind"] != "module" and not name.startswith(MODELS):
        # tensors of every kind that torch itself does not copy into a model
        bad = {key: value for key, value in bad.items() if key not in ("strict", "build")}
    if not truth["load"]:
        # nobody loads the file: what matters is that the stub can be imported
        bad = {key: value for key, value in bad.items() if key in ("import", "build")}
    return bad


def test_the_stubs_do_what_they_are_for(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tries = [attempt(name, FIXTURES / name) for name in names()]
    said = outcomes(tries, tmp_path)
    found = {one.name: unexpected(one.name, failures(one, said[one.name])) for one in tries}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_all_are_as_ruff_would_have_them(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    for number, name in enumerate(names()):
        one: Try = attempt(name, FIXTURES / name)
        (tmp_path / f"stub_{number}.py").write_text(one.source, "utf-8")
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("name", ["seed/model.pth", "checkpoints/yolov5.pt"])
def test_the_same_file_gives_the_same_bytes(name: str) -> None:
    first = attempt(name, FIXTURES / name).source
    code = f"from ptinspect.stubs import stub; print(stub({str(FIXTURES / name)!r}), end='')"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(FIXTURES.parent)},
        encoding="utf-8",
    )
    assert other.stdout == first
