"""-o: a file that is there whole, or not at all."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from ptinspect.cli.output import open_output
from ptinspect.errors import PtInspectError
from tests.cli.running import CHECKPOINT, MODEL, STATE_DICT, cut_file, run


def test_the_answer_goes_to_the_file(tmp_path: Path) -> None:
    out = tmp_path / "answer.json"
    result = run("show", "-f", "json", MODEL, "-o", out)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert out.read_bytes() == run("show", "-f", "json", MODEL).stdout.encode()
    assert os.listdir(tmp_path) == ["answer.json"]


def test_several_answers_in_one_file(tmp_path: Path) -> None:
    out = tmp_path / "answer.json"
    run("show", "-f", "json", MODEL, STATE_DICT, "-o", out)
    assert len(json.loads(out.read_text("utf-8"))) == 2


def test_a_dash_is_standard_output() -> None:
    assert run("show", MODEL, "-o", "-").stdout == run("show", MODEL).stdout


def test_a_report_overwrites_a_text_but_no_model(tmp_path: Path) -> None:
    """As linters do; what no report is stays."""
    out = tmp_path / "answer.txt"
    out.write_text("an older report")
    assert run("show", MODEL, "-o", out).exit_code == 0
    assert "CustomModel" in out.read_text()
    for command in (["show", MODEL], ["diff", MODEL, MODEL], ["scan", MODEL],
                    ["check", "optimizer", CHECKPOINT]):  # fmt: skip
        out.write_bytes(STATE_DICT.read_bytes())
        result = run(*command, "-o", out)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"ptinspect: {out}: already exists and is not a text file")
        assert out.read_bytes() == STATE_DICT.read_bytes()
    assert run("show", MODEL, "-o", out, "--force").exit_code == 0


@pytest.mark.parametrize("output_format", ["text", "json"])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["diff", MODEL, STATE_DICT], "same: 2 tensors"),
        (
            ["check", "optimizer", CHECKPOINT],
            f"{CHECKPOINT}: the recorded optimizer state is consistent with the recorded model",
        ),
        (
            ["recover", "--force", CHECKPOINT, "saved.pt"],
            f"{CHECKPOINT}: saved 3 of 3 tensors (3 proved), 16 bytes, in saved.pt",
        ),
    ],
    ids=["diff", "check", "recover"],
)
def test_a_report_in_a_file_leaves_one_line(
    words: list[str], line: str, output_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [os.path.abspath(word) if os.path.exists(word) else word for word in words]
    monkeypatch.chdir(tmp_path)
    result = run(*words, "-f", output_format, "-o", "report")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{line}\n"
    assert run(*words, "-o", "-").stderr == ""


def test_a_stub_is_not_overwritten_without_force(tmp_path: Path) -> None:
    out = tmp_path / "model_def.py"
    out.write_text("mine")
    result = run("stub", MODEL, "-o", out)
    assert result.exit_code == 2
    assert result.stderr == (f"ptinspect: {out}: already exists\n  give --force to overwrite it\n")
    assert out.read_text() == "mine"


def test_an_input_is_never_the_output(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(MODEL.read_bytes())
    result = run("show", path, "-o", path, "--force")
    assert result.exit_code == 2
    assert "it is the same file as" in result.stderr
    assert path.read_bytes() == MODEL.read_bytes()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = run("show", MODEL, "-o", tmp_path / "no" / "answer.txt")
    assert result.exit_code == 2
    assert "its folder does not exist" in result.stderr


def test_no_regular_file_is_replaced(tmp_path: Path) -> None:
    assert "it is a folder" in run("show", MODEL, "-o", tmp_path, "--force").stderr
    if os.path.exists("/dev/null"):
        result = run("show", MODEL, "-o", "/dev/null", "--force")
        assert result.exit_code == 2 and "it is not a regular file" in result.stderr


def test_no_answer_no_file(tmp_path: Path) -> None:
    out = tmp_path / "answer.txt"
    assert run("show", cut_file(tmp_path), "-o", out).exit_code == 2
    assert not out.exists()


def test_an_error_that_is_an_answer_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "answer.json"
    assert run("show", "-f", "json", cut_file(tmp_path), "-o", out).exit_code == 2
    assert json.loads(out.read_text("utf-8"))["error"]["kind"] == "damaged"


def test_a_link_is_written_through(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    try:
        link.symlink_to(real)
    except OSError:
        pytest.skip("this file system has no links")
    assert run("show", MODEL, "-o", link, "--force").exit_code == 0
    assert link.is_symlink()
    assert "CustomModel" in real.read_text()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_failure(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a half-written file nor the temporary one; an old file stays as it was."""
    out = tmp_path / "answer.txt"
    out.write_text("old")

    def failing(*_: object) -> int:
        raise error

    monkeypatch.setattr("ptinspect.cli.output.os.write", failing)
    result = run("show", MODEL, "-o", out, "--force")
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert os.listdir(tmp_path) == ["answer.txt"]
    assert out.read_text() == "old"
    if isinstance(error, OSError):
        assert "cannot be written: No space left on device" in result.stderr


def test_who_comes_between_is_not_overwritten(tmp_path: Path) -> None:
    """The name was free when we began, and is not when we end."""
    out = tmp_path / "answer.txt"
    with pytest.raises(PtInspectError, match="already exists"), open_output(str(out)) as write:
        write("mine")
        out.write_text("theirs")
    assert out.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["answer.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    out = tmp_path / "answer.txt"
    before = os.umask(0o022)
    try:
        run("show", MODEL, "-o", out)
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o644


def test_a_file_is_utf_8(tmp_path: Path) -> None:
    from tests.cli.running import CHECKPOINT

    out = tmp_path / "answer.txt"
    run("show", CHECKPOINT, "-o", out)
    assert "체크포인트" in out.read_bytes().decode("utf-8")


@pytest.mark.parametrize(
    "words",
    [
        ["diff", MODEL, "absent.pt"],
        ["recover", "absent.pt", "saved.pt"],
        ["convert", "absent.pt", "saved.pt"],
        ["show", "absent.pt"],
        ["check", "optimizer", "absent.pt"],
        ["check", "roundtrip", "absent.pt"],
        ["check", "resume", "absent.pt"],
    ],
    ids=lambda words: "-".join(map(str, words[:2])).replace(str(MODEL), "model"),
)
def test_json_of_a_failure(
    words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same object from every command: on standard output, and with -o in the file."""
    monkeypatch.chdir(tmp_path)
    result = run(*words, "-f", "json")
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert list(answer) == ["schema", "file", "error"]
    assert answer["file"] == {"path": "absent.pt"}
    assert answer["error"]["message"] == "no such file"
    assert result.stderr.startswith("ptinspect: absent.pt: no such file")
    if words[0] != "convert":  # which has no -o
        assert run(*words, "-f", "json", "-o", "report.json").stdout == ""
        assert json.loads(Path("report.json").read_text("utf-8")) == answer
        failed = run(*words, "-f", "json", "-o", "nowhere/report.json")
        assert (failed.exit_code, failed.stdout) == (2, "")


def test_the_json_of_a_failure_replaces_no_input(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    report = tmp_path / "report.bin"
    report.write_bytes(b"\0")
    absent, source = tmp_path / "absent.pt", tmp_path / "a.bin"
    source.write_bytes(b"no model")
    for words in (["diff", absent, index], ["diff", index, absent], ["recover", index, absent]):
        result = run(*words, "-f", "json", "-o", index)
        assert result.exit_code == 2 and "it is the same file as" in result.stderr
        assert index.read_text() == "{}"
    # With --force the report may be binary, and the reason is that of the input.
    result = run("check", "optimizer", source, "-f", "json", "-o", report, "--force")
    assert result.exit_code == 2 and result.stderr.startswith(f"ptinspect: {source}: ")
    assert json.loads(report.read_text())["file"] == {"path": str(source)}
