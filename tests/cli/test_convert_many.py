"""`ptinspect convert` of several SRC, and what it says as JSON where one cannot be converted."""

from __future__ import annotations

import json
import os
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ptinspect.cli import cli
from ptinspect.conversion.output import sink as copy
from tests.conftest import FIXTURES


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, args)])


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """A model, a file that is not there, and another model."""
    names = [tmp_path / "a.pth", tmp_path / "missing.pth", tmp_path / "b.pth"]
    for name in (names[0], names[2]):
        shutil.copy(FIXTURES / "seed" / "model.pth", name)
    return names


def test_an_error_stops_none_of_the_others(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    result = run(*three, tmp_path / "out", "--to", "safetensors")
    assert result.exit_code == 2
    assert f"ptinspect: {three[1]}: no such file\n" in result.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["a.safetensors", "b.safetensors"]


def test_json_has_the_error_in_its_place(three: list[Path], tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(files("ptinspect.conversion").joinpath("convert.schema.json").read_text())
    (tmp_path / "out").mkdir()
    several = run(*three, tmp_path / "out", "--to", "safetensors", "-f", "json")
    alone = run(three[1], "--to", "safetensors", "-f", "json")
    assert (several.exit_code, alone.exit_code) == (2, 2)
    made = json.loads(several.stdout)
    assert [made[0]["source"], made[1]["file"]["path"], made[2]["source"]] == list(map(str, three))
    assert [each.get("written") for each in made] == [True, None, True]
    assert made[1] == json.loads(alone.stdout)
    assert made[1]["error"]["message"] == "no such file"
    for answer in (made, made[1]):
        jsonschema.validate(answer, schema)


def test_what_nobody_foresaw_stops_none_either(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def falls(*_: object, **__: object) -> None:
        raise ZeroDivisionError("here")

    monkeypatch.setattr(copy.Sink, "write_pieces", falls)
    (tmp_path / "out").mkdir()
    result = run(three[0], three[2], tmp_path / "out", "--to", "state_dict")
    assert result.exit_code == 2
    assert result.stderr.count("a bug in ptinspect: ZeroDivisionError: here") == 2
    assert os.listdir(tmp_path / "out") == []


def test_dst_is_no_pipe(three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(three[0], "-", "--to", "safetensors")
    assert (result.exit_code, os.path.exists("-")) == (2, False)
    assert "DST cannot be standard output" in result.stderr
