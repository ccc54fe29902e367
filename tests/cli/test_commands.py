"""The program as such: commands, help, exit codes, errors."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from ptinspect import __version__
from ptinspect.cli import COMMANDS, cli
from ptinspect.errors import DamagedError, Place
from tests.cli.running import CHECKPOINT, MODEL, STATE_DICT, cut_file, process, run


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: ptinspect {name} ")
    command = COMMANDS[name]()
    assert command.name == name
    assert command.help
    for option in command.params:
        assert isinstance(option, click.Argument) or getattr(option, "help", None), option.name


def test_help_names_the_commands() -> None:
    result = run("-h")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.output for name in COMMANDS)
    assert run("--help").output == result.output


def test_version() -> None:
    assert run("-V").output == f"ptinspect {__version__}\n"
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"ptinspect {__version__}\n")


def test_no_command_is_show() -> None:
    assert run(MODEL).output == run("show", MODEL).output
    assert run(MODEL, "-f", "tree").output == run("show", "-f", "tree", MODEL).output
    assert run("-f", "tree", MODEL).output == run("show", "-f", "tree", MODEL).output


def test_python_m_is_the_same() -> None:
    assert process("show", MODEL).stdout.decode() == run("show", MODEL).stdout


def test_a_mistyped_command_is_said_to_be_one() -> None:
    result = run("shwo", MODEL)
    assert result.exit_code == 2
    assert "'shwo' is neither a command nor a file" in result.stderr
    assert all(name in result.stderr for name in COMMANDS)
    assert "did you mean show?" in result.stderr
    assert "did you mean show?" in run("shw").stderr


def test_help_of_a_command() -> None:
    assert run("help", "show").output == run("show", "--help").output
    assert run("help").output == run("--help").output
    assert run("help", "check", "resume").output == run("check", "resume", "--help").output


def test_errors_of_usage_read_like_others() -> None:
    assert run("show", "-f", "yaml", "x").stderr == (
        "ptinspect: invalid value for '-f' / '--format': 'yaml' is not one of 'summary', 'table', "
        "'tree', 'json', 'jsonl', 'markdown'\n  ptinspect show --help lists the options\n"
    )


def test_a_file_that_reads_as_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.pth").write_bytes(MODEL.read_bytes())
    result = run("-dash.pth")
    assert result.exit_code == 2
    assert "write ./-dash.pth for the file of that name" in result.stderr
    assert run("./-dash.pth").exit_code == 0


def test_standard_input_needs_a_name_to_be_converted() -> None:
    result = run("convert", "-", "--to", "safetensors")
    assert result.exit_code == 2
    assert "`ptinspect convert - model.safetensors`" in result.stderr


def test_a_missing_file_is_said_to_be_one() -> None:
    result = run("no_such.pth")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("ptinspect: no_such.pth: no such file")


def test_a_dangling_link_is_said_to_be_one(tmp_path: Path) -> None:
    link = tmp_path / "model.pth"
    link.symlink_to("nowhere.pth")
    assert run("show", link).stderr == (
        f"ptinspect: {link}: it is a link to nowhere.pth, which does not exist\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [["show"], ["show", "--no-such-option", "x"], ["show", "-f", "yaml", "x"],
     ["show", "--depth", "-1", "x"], ["--nonsense", "x"]],
)  # fmt: skip
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


def test_a_cut_file_says_where_and_what_next(tmp_path: Path) -> None:
    cut = cut_file(tmp_path)
    result = run("show", cut)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"ptinspect: {cut}: ")
    assert "download or copy the file again" in result.stderr.split("\n")[1]


def test_the_exit_code_of_several_files(tmp_path: Path) -> None:
    """1 (a check failed) beats 2 (it could not be done) beats 0; each file is answered."""
    wrong = tmp_path / "model-00000000.pth"
    wrong.write_bytes(MODEL.read_bytes())
    cut = cut_file(tmp_path)
    assert run("show", "--hash", MODEL, STATE_DICT).exit_code == 0
    assert run("show", "--hash", MODEL, cut).exit_code == 2
    assert run("show", "--hash", wrong).exit_code == 1
    result = run("show", "--hash", cut, wrong, MODEL)
    assert result.exit_code == 1
    assert "MISMATCH: the name says 00000000" in result.stdout
    assert f"ptinspect: {cut}: " in result.stderr
    assert str(MODEL) in result.stdout


def test_without_debug_there_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw asks to be reported, stops no other file, and exits with 2."""
    from ptinspect.cli import show

    def broken(path: str) -> object:
        if path == str(MODEL):
            raise ZeroDivisionError("x\x1b[31m")
        return real(path)

    real = show.open_document
    monkeypatch.setattr(show, "open_document", broken)
    result = run("show", MODEL, CHECKPOINT)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"ptinspect: {MODEL}: a bug in ptinspect: ZeroDivisionError: x\\x1b[31m\n  please report"
    )
    assert str(CHECKPOINT) in result.stdout
    assert isinstance(run("--debug", "show", MODEL).exception, ZeroDivisionError)


def test_with_debug_there_is_one(tmp_path: Path) -> None:
    done = process("--debug", "show", cut_file(tmp_path))
    assert b"Traceback" in done.stderr
    assert b"DamagedError" in done.stderr
    assert done.returncode == 2


def test_an_error_of_a_command_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("scan")
    def failing() -> None:
        raise DamagedError("bad \u202e name", path="x.pt", where=Place("a", 3), hint="do\nthis")

    monkeypatch.setitem(COMMANDS, "failing", lambda: failing)
    result = run("failing")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "ptinspect: x.pt: bad \\u202e name, a @ 3\n  do\n  this\n"


@pytest.mark.parametrize(
    ("raised", "code"),
    [(KeyboardInterrupt(), 130), (click.Abort(), 130), (click.ClickException("no"), 2),
     (MemoryError(), 2), (RecursionError(), 2)],
)  # fmt: skip
def test_each_way_to_end(raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("failing")
    def failing() -> None:
        raise raised

    monkeypatch.setitem(COMMANDS, "failing", lambda: failing)
    assert run("failing").exit_code == code


def test_a_command_loads_when_it_is_called() -> None:
    import subprocess
    import sys

    code = "import sys, ptinspect.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"ptinspect.cli.show", "ptinspect.document", "ptinspect.display.summary"} & loaded


def test_the_group_can_be_called_from_python() -> None:
    assert cli(["show", str(MODEL), "-f", "tree"], standalone_mode=False) == 0
    with pytest.raises(click.UsageError):
        cli(["show"], standalone_mode=False)
