"""`ptinspect scan` as its user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from ptinspect.cli import cli
from tests.cli.running import forbid_listing
from tests.conftest import FIXTURES
from tests.safety.files import BAD, GOOD, OWN, legacy, torch_zip
from tests.safety.making import call, name, text, whole
from tests.safety.sarif import SARIF

SCHEMA = json.loads(files("ptinspect.safety").joinpath("scan.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "weights"
    made.mkdir()
    (made / "good.pt").write_bytes(torch_zip(GOOD))
    (made / "readme.txt").write_bytes(b"a text\n")
    return made


def run(*args: object, code: int | None = None, given: bytes | None = None) -> str:
    result = CliRunner().invoke(cli, ["scan", *map(str, args)], input=given)
    if code is not None:
        assert result.exit_code == code, result.output
    return result.stdout


def read(*args: object, code: int | None = None) -> Any:
    made = json.loads(run("-f", "json", *args, code=code))
    VALIDATOR.validate(made)
    return made


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_json_lines_are_the_objects_of_json(folder: Path) -> None:
    (folder / "bad\n.pt").write_bytes(torch_zip(BAD))
    for path, code in ((folder, 1), (folder / "good.pt", 0)):
        lines = run(path, "-f", "jsonl", code=code)
        objects = read(path, code=code)
        expected = objects if path == folder else [objects]
        assert [json.loads(line) for line in lines.split("\n")[:-1]] == expected
    assert run(folder / "good.pt", "-f", "jsonl", "--exclude", "*", code=0) == ""


def test_a_clean_folder(folder: Path) -> None:
    out = run(folder, "-v", code=0)
    assert f"{folder / 'good.pt'}: clean (torch-zip)" in out
    assert "readme" not in out
    assert out.splitlines()[-1] == "1 file: 1 clean; 1 skipped"


def test_a_dangerous_file_says_what_and_where(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(torch_zip(BAD))
    out = run(folder, code=1)
    assert "dangerous: archive/data.pkl @ 29: REDUCE posix.system('touch x')" in out
    assert "do not load it" in out
    assert "2 files: 1 dangerous, 1 clean; 1 skipped" in out


def test_an_unknown_class_names_itself(folder: Path) -> None:
    (folder / "own.pt").write_bytes(torch_zip(OWN))
    assert "needs your own class `mine.Thing`" in run(folder, code=1)
    run(folder, "--fail-on", "dangerous", code=0)
    run(folder, "--allow", "mine.Thing", code=0)
    run(folder, "--allow", "mine.*", code=0)
    run(folder, "--allow", "yours.*", code=1)


def test_a_glob_lifts_no_danger(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(BAD)
    run(folder, "--allow", "*", code=1)
    run(folder, "--allow", "posix.*", code=1)
    run(folder, "--allow", "posix.system", code=0)


def test_names_may_be_allowed_in_pyproject(folder: Path) -> None:
    (folder / "own.pt").write_bytes(OWN)
    config = folder.parent / "pyproject.toml"
    config.write_text('[tool.ptinspect]\nallow = ["mine.Thing"]\n')
    assert "note: allowed: mine.Thing" in run(folder, code=0)
    config.write_text("[tool.ptinspect]\nallow = 1\n")
    run(folder, code=2)
    config.write_text('[tool.ptinspect]\nalow = ["mine.Thing"]\n')
    run(folder, code=2)
    config.write_text("ptinspect = [")
    run(folder, code=2)


def test_a_configuration_lifts_no_danger(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(BAD)
    config = folder.parent / "pyproject.toml"
    config.write_text('[tool.ptinspect]\nallow = ["posix.system", "*"]\n')
    assert "bad.pt: dangerous" in run(folder, code=1)
    assert "bad.pt: dangerous" in run(folder, "--config", config, code=1)
    run(folder, "--allow", "posix.system", code=0)


@pytest.mark.parametrize("inside", ["", "below", "below/deeper"])
@pytest.mark.parametrize("scanned", [".", "..", "weights", "../weights"])
def test_the_scanned_cannot_vouch_for_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch, inside: str, scanned: str
) -> None:
    """A pyproject.toml from below a scanned folder is not read, wherever the user stands."""
    home = folder / inside
    home.mkdir(parents=True, exist_ok=True)
    (home / "own.pt").write_bytes(OWN)
    (home / "pyproject.toml").write_text('[tool.ptinspect]\nallow = ["mine.Thing"]\n')
    monkeypatch.chdir(folder.parent if "weights" in scanned else home)
    if scanned == "../weights":
        monkeypatch.chdir(folder)
    run(folder if scanned == ".." else scanned, code=1)
    run(home / "own.pt", "--config", home / "pyproject.toml", code=0)


def test_a_configuration_above_the_current_folder_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "own.pt").write_bytes(OWN)
    (folder.parent / "pyproject.toml").write_text('[tool.ptinspect]\nallow = ["mine.*"]\n')
    monkeypatch.chdir(folder)
    run("own.pt", code=1)
    run("own.pt", "--config", "../pyproject.toml", code=0)
    run("own.pt", "--config", "../none.toml", code=2)


def test_what_a_configuration_lifts_inside_an_archive_is_printed(folder: Path) -> None:
    with zipfile.ZipFile(folder / "several.zip", "w") as archive:
        archive.writestr("a/own.pt", torch_zip(OWN))
    config = folder.parent / "pyproject.toml"
    config.write_text('[tool.ptinspect]\nallow = ["mine.*"]\n')
    assert "note: allowed: mine.Thing" in run(folder, code=0)
    (report,) = (each for each in read(folder) if each["path"].endswith("several.zip"))
    assert "allowed: mine.Thing" in report["notes"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may list every folder")
def test_folders_that_cannot_be_listed_are_named(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0)
    assert "closed: unreadable" in run(folder, code=2)


def test_what_cannot_be_read_is_two_and_findings_are_one(folder: Path) -> None:
    (folder / "cut.pt").write_bytes(torch_zip(GOOD)[:-50])
    out = run(folder, code=2)
    assert "not read to its end" in out
    (folder / "bad.pt").write_bytes(BAD)
    run(folder, code=1)
    run(folder / "none.pt", code=2)


def test_pointers_fail_where_they_are_asked_for(folder: Path) -> None:
    (folder / "lfs.pt").write_bytes(POINTER)
    assert "git lfs pull" in run(folder, code=0)
    run(folder, "--fail-on", "pointer", code=1)


def test_exclude(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(BAD)
    run(folder, "--exclude", "bad.*", code=0)
    run(folder, "--exclude", "weights", code=0)
    run("weights", "--exclude", "weights/*.pt", code=0)


def test_globs(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(BAD)
    run("weights/b*.pt", code=1)
    run("weights/g*.pt", code=0)
    run("weights/x*.pt", code=2)


def test_the_folder_of_git_is_not_entered(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "bad").write_bytes(BAD)
    (folder / ".hidden").mkdir()
    run(folder, code=0)
    (folder / ".hidden" / "bad").write_bytes(BAD)
    run(folder, code=1)


def test_standard_input() -> None:
    assert "dangerous" in run("-", given=BAD, code=1)
    run("-", given=GOOD, code=0)


def test_json_of_one_file_is_an_object(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(torch_zip(BAD))
    made = read(folder / "bad.pt", code=1)
    assert (made["verdict"], made["format"]) == ("dangerous", "torch-zip")
    (found,) = made["findings"]
    assert found["name"] == "posix.system"
    assert (found["record"], found["offset"], found["opcode"]) == ("archive/data.pkl", 29, "REDUCE")
    assert made["load"] is None


def test_json_of_a_folder_is_a_list(folder: Path) -> None:
    made = read(folder, code=0)
    assert [each["path"] for each in made] == [str(folder / "good.pt")]
    assert made[0]["load"]["call"].startswith("torch.load(")
    assert len(read(folder / "good.pt", folder / "good.pt")) == 2


def test_inner_files_are_members(folder: Path) -> None:
    (folder / "in.pt").write_bytes(torch_zip(GOOD, ("archive/inner.pt", torch_zip(BAD))))
    made = read(folder / "in.pt", code=1)
    assert made["verdict"] == "dangerous"
    (member,) = made["members"]
    assert (member["verdict"], member["format"]) == ("dangerous", "torch-zip")


def test_json_of_every_fixture_is_valid() -> None:
    made = read(FIXTURES / "containers", FIXTURES / "pickles", FIXTURES / "old")
    assert len(made) > 100


def test_sarif_is_valid(folder: Path) -> None:
    for called, data in (("bad.pt", torch_zip(BAD)), ("own.pt", OWN), ("cut.pt", GOOD[:-1])):
        (folder / called).write_bytes(data)
    (folder / "p.pt").write_bytes(POINTER)
    made = json.loads(run("-f", "sarif", "weights", code=1))
    jsonschema.Draft202012Validator.check_schema(SARIF)
    jsonschema.Draft202012Validator(SARIF).validate(made)
    results = made["runs"][0]["results"]
    assert {each["level"] for each in results} == {"error", "warning", "note"}
    uris = {each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for each in results}
    assert uris == {"weights/bad.pt", "weights/own.pt", "weights/cut.pt", "weights/p.pt"}


def test_sarif_of_a_clean_file_has_no_results(folder: Path) -> None:
    made = json.loads(run("-f", "sarif", folder, code=0))
    assert made["runs"][0]["results"] == []


def test_output_to_a_file(folder: Path) -> None:
    target = folder.parent / "out.json"
    assert run(folder, "-f", "json", "-o", target, code=0) == ""
    assert json.loads(target.read_text())[0]["verdict"] == "clean"
    run(folder, "-o", target, code=0)
    assert target.read_text() == run(folder, code=0)
    result = CliRunner().invoke(cli, ["scan", str(folder), "-o", str(target)])
    assert result.stderr == "1 file: 1 clean; 1 skipped\n"
    run(folder, "-o", folder / "good.pt", code=2)
    assert (folder / "good.pt").read_bytes() == torch_zip(GOOD)


def test_of_a_folder_only_findings_are_listed_the_worst_last(folder: Path) -> None:
    (folder / "a_bad.pt").write_bytes(torch_zip(BAD))
    (folder / "b_own.pt").write_bytes(torch_zip(OWN))
    paths = [line.split(": ")[0] for line in run(folder, code=1).splitlines() if line[0] != " "]
    assert paths == [str(folder / "b_own.pt"), str(folder / "a_bad.pt"), "3 files"]
    assert f"{folder / 'good.pt'}: clean" in run(folder, "-v", code=1)
    assert run(folder, "-q", code=1).splitlines() == [
        f"{folder / 'b_own.pt'}: unknown (torch-zip)",
        f"{folder / 'a_bad.pt'}: dangerous (torch-zip)",
    ]
    assert run(folder / "good.pt", "-q", code=0) == ""


def test_a_folder_that_cannot_be_listed_is_unreadable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = folder / "closed"
    closed.mkdir()
    (closed / "bad.pt").write_bytes(BAD)
    forbid_listing(monkeypatch, closed)
    for path in (folder, closed):
        report = read(path, code=2)[-1]
        assert (report["path"], report["verdict"]) == (str(closed), "unreadable")
        assert report["error"]["message"] == "the folder cannot be listed: Permission denied"


def test_what_is_not_scanned_is_counted(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / "link").symlink_to(folder)
    (folder / "other.pt").write_bytes(torch_zip(GOOD))
    out = run(folder, "--exclude", "other.*", code=0)
    assert out.splitlines()[-1] == (
        "1 file: 1 clean; 1 skipped; "
        "not scanned: 1 excluded, 1 link to a folder, 1 version control folder"
    )


def test_an_allow_that_lifts_nothing_is_said(folder: Path) -> None:
    (folder / "bad.pt").write_bytes(torch_zip(BAD))
    (folder / "own.pt").write_bytes(torch_zip(OWN))
    result = CliRunner().invoke(
        cli, ["scan", str(folder), "--allow", "mine.*", "--allow", "posix.*", "--allow", "x.Y"]
    )
    assert result.stderr == (
        "ptinspect: --allow posix.* lifts nothing: posix.system is dangerous, write its full name\n"
        "ptinspect: --allow x.Y lifts nothing: no such finding\n"
    )


def test_text_of_the_file_does_not_act_on_the_terminal(folder: Path) -> None:
    hostile = "m\x1b[2J\u202e"
    (folder / "bad.pt").write_bytes(whole(call(name(hostile, "x"), text("\x1b]0;a\x07"))))
    for form in ("text", "json", "sarif"):
        out = run(folder, "-f", form, code=1)
        assert not {"\x1b", "\u202e", "\x07"} & set(out)


def test_jobs_give_the_same_answers(folder: Path) -> None:
    for number in range(20):
        (folder / f"{number}.pt").write_bytes(torch_zip((GOOD, OWN, BAD)[number % 3]))
    (folder / "legacy.pt").write_bytes(legacy(GOOD))
    assert read(folder, "-j", "2", code=1) == read(folder, code=1)


def test_scanning_imports_neither_torch_nor_numpy() -> None:
    code = "import sys; from ptinspect.cli import cli; cli(sys.argv[1:], standalone_mode=False)"
    code += "; print(*sys.modules, file=sys.stderr)"
    file = FIXTURES / "seed" / "model.pth"
    command = [sys.executable, "-c", code, "scan", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "safetensors", "multiprocessing"} & set(done.stderr.split())


def test_no_cr_in_names(folder: Path) -> None:
    odd = folder / "a\nb.pt"
    odd.write_bytes(BAD)
    assert "a\\nb.pt: dangerous" in run(folder, code=1)


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_a_folder_with_nothing_but_links_to_folders_is_not_scanned(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "bad.pt").write_bytes(BAD)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "model").symlink_to(tmp_path / "other")
    assert "1 link to a folder" in run(tmp_path / "links", code=2)


def test_advice_is_tried_only_where_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    tried: list[str] = []
    monkeypatch.setattr(
        "ptinspect.conversion.convert_file.find_refusal", lambda path, to: tried.append(path)
    )
    paths = [str(tmp_path / name) for name in ("a.pt", "b.pt")]
    for path in paths:
        torch.save(torch.nn.Linear(2, 2), path)
    assert run(*paths, code=0) == "2 files: 2 clean\n"
    assert run("-q", "-v", *paths, code=0) == ""
    assert tried == []
    assert run("-v", *paths, code=0).count("ptinspect convert") == 2
    read(*paths)
    run(paths[0])
    assert tried == [*paths, *paths, paths[0]]


def test_a_conversion_of_a_large_model_is_not_planned_for_its_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(600)]), "m.pt")
    with monkeypatch.context() as patch:
        patch.setattr("ptinspect.conversion.convert_file.find_refusal", None)
        out = run("m.pt", code=0)
    (step,) = [line for line in out.splitlines() if "ptinspect convert" in line]
    command = step.removeprefix("  next: ptinspect ").partition("  #")[0]
    assert command == "convert m.pt --to safetensors --dry-run"
    result = CliRunner().invoke(cli, command.split())
    assert result.exit_code == 0 and not Path("m.safetensors").exists()
