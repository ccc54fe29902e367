"""scan of the index of a model in several files: what cannot be read is never clean."""

from __future__ import annotations

from pathlib import Path

import pytest

import ptinspect
from ptinspect.safety.report import exit_code
from tests.formats.shards import index_text, model, safetensors

SECOND = "model-00002-of-00002.safetensors"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return model(tmp_path, {"a": b"a"}, {"c": b"ccc"})


def test_a_missing_shard_is_unreadable_and_the_others_are_read(index: Path) -> None:
    (index.parent / "model-00001-of-00002.safetensors").unlink()
    report = ptinspect.scan(index)
    assert report.verdict == "unreadable"
    assert [member.verdict for member in report.members] == ["unreadable", "clean"]
    assert exit_code([report]) == 2


def test_a_pointer_is_one(index: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 4911\n"
    (index.parent / SECOND).write_text(pointer)
    report = ptinspect.scan(index)
    assert report.verdict == "pointer"
    assert exit_code([report]) == 0
    assert exit_code([report], "pointer") == 1


@pytest.mark.parametrize("name", ["../up.safetensors", "/etc/hostname", "C:x", 3])
def test_names_that_lead_elsewhere_are_not_followed(index: Path, name: object) -> None:
    index.write_text(index_text({"a": name, "c": SECOND}))
    report = ptinspect.scan(index)
    assert report.verdict == ("unreadable" if name == 3 else "dangerous")
    assert [error.kind for error in report.errors] == ["damaged"]
    assert not report.members


def test_a_shard_that_is_something_else(index: Path) -> None:
    (index.parent / "readme.txt").write_text("a text")
    index.write_text(index_text({"a": "readme.txt"}))
    assert ptinspect.scan(index).verdict == "unreadable"


def test_indexes_that_name_one_another_come_to_an_end(tmp_path: Path) -> None:
    names = [f"{number}.json" for number in range(10)]
    for name in names:
        (tmp_path / name).write_text(index_text(dict(zip(names, names, strict=True))))
    report = ptinspect.scan(tmp_path / names[0])
    assert report.verdict == "unreadable"
    assert len(report.members) == 10
    assert not any(member.members for member in report.members)


def test_a_pickle_named_as_safetensors_is_read_as_a_pickle(index: Path) -> None:
    (index.parent / SECOND).write_bytes(b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00a\x85R.")
    report = ptinspect.scan(index)
    assert report.verdict == "dangerous"


def test_an_index_on_standard_input_has_no_shards(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with index.open("rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        report = ptinspect.scan("-")
    assert report.verdict == "unreadable"
    assert "pass its path" in report.errors[0].message


def test_a_folder_is_scanned_with_its_index(index: Path) -> None:
    reports = ptinspect.scan_many([index.parent])
    assert [report.verdict for report in reports] == ["clean"] * 3
    (index.parent / SECOND).write_bytes(safetensors({"c": b"ccc"})[:-1])
    assert [report.verdict for report in ptinspect.scan_many([index.parent])] == [
        "clean", "unreadable", "unreadable",
    ]  # fmt: skip
