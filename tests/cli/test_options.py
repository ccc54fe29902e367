"""Each option of each command has an effect in each format, or is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.running import CHECKPOINT, MODEL, STATE_DICT, run
from tests.conftest import FIXTURES

DEEP = FIXTURES / "modules" / "everything.pt"

SHOW = (
    "--include *weight", "--exclude *weight", "--sort key", "--sort size", "--depth 0", "--values",
    "--stats", "--hash", "--textconv", "--brief",
)  # fmt: skip


def is_ignored(arguments: list[object], option: str) -> bool:
    """True if neither output nor exit code nor messages depend on the option."""
    plain, used = run(*arguments), run(*arguments, *option.split())
    assert plain.exit_code in (0, 1), plain.stderr
    if used.exit_code == 2:
        assert f"{option.split()[0]} " in used.stderr.replace("\n", " "), option
        assert " cannot be used with " in used.stderr, option
    return (plain.output, plain.exit_code) == (used.output, used.exit_code)


@pytest.mark.parametrize("format", ["summary", "table", "tree", "json", "jsonl", "markdown"])
@pytest.mark.parametrize("path", [DEEP, CHECKPOINT], ids=["model", "checkpoint"])
def test_no_option_of_show_is_ignored(format: str, path: Path) -> None:
    options = [option for option in SHOW if option != "--sort size" or path == DEEP]
    arguments: list[object] = ["show", path, "-f", format]
    assert [option for option in options if is_ignored(arguments, option)] == []


@pytest.mark.parametrize(
    "options",
    [
        "-f json --depth 1", "-f tree --hash", "-f table --stats --depth 1", "--textconv -f json",
        "--textconv --depth 1", "--textconv --values", "-f jsonl --depth 1", "--brief --depth 1",
        "--brief -f json", "--brief --all", "--brief --include x", "--brief --exclude x",
        "--brief --sort key", "--brief --values", "--brief --stats", "--brief --hash",
        "--brief --textconv",
    ],
)  # fmt: skip
def test_options_of_show_that_exclude_each_other(options: str) -> None:
    result = run("show", CHECKPOINT, *options.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert " cannot be used with --" in result.stderr


@pytest.mark.parametrize("format", ["text", "json", "jsonl", "sarif"])
def test_no_option_of_scan_is_ignored(format: str, tmp_path: Path) -> None:
    for path in (MODEL, STATE_DICT):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    options = ["--verbose", "--allow *CustomModel", "--exclude *model.pth", "--fail-on dangerous"]
    arguments: list[object] = ["scan", tmp_path, "-f", format]
    assert [option for option in options if is_ignored(arguments, option)] == []
    for path in tmp_path.iterdir():
        path.write_bytes(STATE_DICT.read_bytes())
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'x'\ntR.")
    assert not is_ignored(arguments, "--allow os.system")


@pytest.mark.parametrize("format", ["text", "json", "markdown", "html"])
def test_no_option_of_diff_is_ignored(format: str) -> None:
    arguments: list[object] = ["diff", STATE_DICT, CHECKPOINT, "-f", format]
    options = ["--tolerance 0.9", "--include *weight", "--exclude *weight"]
    assert [option for option in options if is_ignored(arguments, option)] == []


CONVERT = (
    "--include *weight", "--exclude *bias", "--strip-prefix layer.", "--add-prefix x.",
    "--rename layer=fc", "--dtype float16", "--allow-overflow", "--device cuda:1",
    "--shared duplicate", "--set note=1", "--metadata a=b", f"--optimizer {CHECKPOINT}", "--plain",
    "--max-shard-size 8", "--verify", "--dry-run",
)  # fmt: skip


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("to", ["state_dict", "checkpoint", "safetensors", "npz", "same"])
def test_no_option_of_convert_is_ignored(to: str, format: str, tmp_path: Path) -> None:
    def result(option: str) -> tuple[object, ...]:
        """Exit code, messages and bytes of a conversion with an option."""
        arguments = ["convert", CHECKPOINT, tmp_path / "out", "--to", to, "-f", format]
        done = run(*arguments, "--force", *option.split())
        if done.exit_code == 2:
            name = "an option that changes keys" if "cannot" in done.stderr else option.split()[0]
            words = f"({re.escape(option.split()[0])}|{name}) (cannot be used with|needs) "
            assert re.search(words, done.stderr), done.stderr
        data = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
        for path in tmp_path.iterdir():
            path.unlink()
        return done.exit_code, done.output, data

    plain = result("")
    ignored = [option for option in CONVERT if result(option) == plain]
    # It decides only about tensors that share memory, which this file does not have.
    assert ignored == (["--shared duplicate"] if to in ("safetensors", "npz") else [])


def test_verifying_needs_a_file(tmp_path: Path) -> None:
    result = run("convert", MODEL, tmp_path / "x.pt", "--dry-run", "--verify")
    assert result.exit_code == 2
    assert result.stderr == "ptinspect: --verify cannot be used with --dry-run\n"


def test_a_class_that_a_state_dict_does_not_need() -> None:
    result = run("stub", STATE_DICT, "--class", "Net")
    assert result.exit_code == 2
    assert result.stderr.endswith("the file needs no class Net\n  the file needs: Model\n")


@pytest.mark.parametrize("option", ["--allow-tf32", "--no-cross"])
def test_options_of_cuda_need_it(option: str) -> None:
    result = run("check", "resume", CHECKPOINT, "--device", "cpu", option)
    assert result.exit_code == 2
    assert f"{option} cannot be used with --device cpu" in result.stderr


@pytest.mark.parametrize("to", ["state_dict", "checkpoint", "safetensors"])
def test_a_glob_that_matches_no_key_is_told(to: str, tmp_path: Path) -> None:
    arguments = ["convert", CHECKPOINT, tmp_path / "out", "--to", to, "--strip-prefix", "layer."]
    words = "--include *weight --include *wieght --exclude *bais --rename ^weight=w --rename fc=w"
    result = run(*arguments, *words.split())
    assert result.exit_code == 0
    lines = [line.rpartition(": ")[2] for line in result.stderr.splitlines() if "no key" in line]
    assert lines == [
        "no key matches --include '*wieght'",
        "no key matches --exclude '*bais'",
        "no key matches --rename 'fc=w'",
    ]
