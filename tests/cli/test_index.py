"""A model in several files, as its user meets it: show, scan and convert of its index."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from ptinspect.cli import cli
from tests.formats.shards import model

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return model(tmp_path, {"a.weight": b"abcd"}, {"b.weight": b"ef"})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def told(package: str, schema: str, *arguments: object) -> Any:
    result = run(*arguments)
    made = json.loads(result.stdout)
    text = files(package).joinpath(schema).read_text("utf-8")
    jsonschema.Draft202012Validator(json.loads(text)).validate(made)
    return made


def test_show(index: Path) -> None:
    result = run("show", index)
    assert result.exit_code == 0, result.output
    assert "safetensors-index, state_dict" in result.stdout
    assert "2 tensors, 6 elements, 6 bytes" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[-2:]] == ["a.weight", "b.weight"]


def test_show_json_says_which_file_has_what(index: Path) -> None:
    made = told("ptinspect.display", "show.schema.json", "show", "-f", "json", index)
    assert made["file"]["format"] == "safetensors-index"
    assert made["file"]["shards"] == [FIRST, SECOND]
    assert made["file"]["pickle_protocol"] is None
    assert made["file"]["size"] == sum(path.stat().st_size for path in index.parent.iterdir())
    for tensor, name, want in zip(made["tensors"], (FIRST, SECOND), (b"abcd", b"ef"), strict=True):
        storage = tensor["storage"]
        assert storage["file"] == name
        raw = (index.parent / name).read_bytes()
        at = storage["file_offset"]
        assert raw[at : at + storage["nbytes"]] == want


def test_a_folder_with_an_index_is_one_model(index: Path) -> None:
    made = told("ptinspect.display", "show.schema.json", "show", "-f", "json", index.parent)
    assert made["file"]["format"] == "safetensors-index"
    assert made["file"]["shards"] == [FIRST, SECOND]
    assert [tensor["key"] for tensor in made["tensors"]] == ["a.weight", "b.weight"]


def test_scan(index: Path) -> None:
    made = told("ptinspect.safety", "scan.schema.json", "scan", "-f", "json", index)
    assert (made["verdict"], made["format"]) == ("clean", "safetensors-index")
    assert [member["path"] for member in made["members"]] == [
        str(index.parent / FIRST), str(index.parent / SECOND),
    ]  # fmt: skip
    (index.parent / SECOND).write_bytes(b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00a\x85R.")
    result = run("scan", index)
    assert result.exit_code == 1
    assert f"{index.parent / SECOND}: dangerous" in result.stdout
    (index.parent / SECOND).unlink()
    assert run("scan", index).exit_code == 2


def test_a_missing_shard_is_one_line_and_what_to_do(index: Path) -> None:
    (index.parent / SECOND).unlink()
    at = index.read_bytes().index(f'"{SECOND}"'.encode())
    for command in ("show", "convert"):
        result = run(command, index, *(["o.pt"] if command == "convert" else []))
        assert result.exit_code == 2
        wrong, hint = result.stderr.splitlines()
        assert wrong == (f"ptinspect: {index}: 1 of its 2 shards is missing: {SECOND}, byte {at}")
        assert str(index.parent) in hint


def test_convert(index: Path, tmp_path: Path) -> None:
    made = told(
        "ptinspect.conversion", "convert.schema.json",
        "convert", index, tmp_path / "o.pt", "-f", "json", "--verify",
    )  # fmt: skip
    assert made["source"] == str(index)
    assert [tensor["key"] for tensor in made["tensors"]] == ["a.weight", "b.weight"]
    assert made["bytes"] == {"copied": 6, "changed": 0}
    assert made["verified"]
