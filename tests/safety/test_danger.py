"""show gives no line to paste for a file that scan calls dangerous."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import ptinspect
from ptinspect.cli import cli
from ptinspect.safety.load_advice import dangerous_findings, load_advice
from tests.conftest import FIXTURES

# What `pickle.dumps` writes for an object whose __reduce__ is (os.system, ("echo",)).
CALLS = b"cposix\nsystem\n(S'echo'\ntR."


def test_a_file_that_would_act_gets_no_line_to_paste(tmp_path: Path) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(CALLS)
    shown = CliRunner().invoke(cli, ["show", str(file)])
    assert "do not load it: byte " in shown.stdout
    assert "posix.system('echo')" in shown.stdout
    assert "pickle.load" not in shown.stdout
    told = json.loads(CliRunner().invoke(cli, ["show", "-f", "json", str(file)]).stdout)
    assert told["load"]["call"] is None
    assert told["load"]["blockers"][0].startswith("dangerous: byte ")


@pytest.mark.parametrize(
    "name", ["seed/model.pth", "seed/checkpoint-6.pt", "checkpoints/yolov5.pt"]
)
def test_an_honest_file_keeps_its_line(name: str) -> None:
    with ptinspect.open(FIXTURES / name) as document:
        assert dangerous_findings(document) == []


def test_code_that_comes_by_value_is_no_harmless_file() -> None:
    with ptinspect.open(FIXTURES / "pickles/cloudpickle.pt") as document:
        assert dangerous_findings(document)[0].name.startswith("cloudpickle.")


def test_what_is_popped_from_the_stack_counts() -> None:
    with ptinspect.open(io.BytesIO(CALLS[:-1] + b"0" + pickle.dumps(1, 0))) as document:
        assert [finding.name for finding in dangerous_findings(document)] == ["posix.system"]


def test_a_zip_newer_than_torch_reads_is_said(tmp_path: Path) -> None:
    file = tmp_path / "new.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("new/data.pkl", pickle.dumps({"epoch": 1}, 2))
        archive.writestr("new/version", "11\n")
    with ptinspect.open(file) as document:
        advice = load_advice(document)
    assert not advice.weights_only
    assert advice.blockers == ["version 11 of the zip: torch 2.13 reads up to 10"]


def test_a_state_dict_is_of_no_class() -> None:
    with ptinspect.open(FIXTURES / "seed/model_state_dict.pt") as document:
        assert (document.kind, document.class_path) == ("state_dict", None)
