"""docs/errors.md: each file is made, torch says what the page says, and so does ptinspect."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from ptinspect.cli import cli
from tests.conftest import ROOT
from tests.docs.consoles import run
from tests.docs.error_cases import CASES

PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
_SECTION = re.compile(
    r"^### `([^\n]+)`\n\n```text\n(.*?)\n```\n(.*?)\n```text\n\$ ([^\n]+)\n(.*?)\n```$",
    re.MULTILINE | re.DOTALL,
)


class Section(NamedTuple):
    """Its title, what torch says, what it means, the command, and what that prints. `…` stands
    for what is left out, in both answers."""

    title: str
    error: str
    cause: str
    command: str
    output: str


SECTIONS = {match[1]: Section(*match.groups()) for match in _SECTION.finditer(PAGE)}


def pattern(text: str) -> re.Pattern[str]:
    """`…` in a text as anything, also nothing, and so the white space around it."""
    return re.compile(".*?".join(map(re.escape, re.split(r"\s*…\s*", text))), re.DOTALL)


@pytest.mark.parametrize("title", SECTIONS)
def test_torch_says_so_and_ptinspect_shows_why(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    section, case = SECTIONS[title], CASES[title]
    monkeypatch.chdir(tmp_path)
    file = Path(case.name)
    case.make(file)
    with warnings.catch_warnings(), pytest.raises(Exception) as caught:
        warnings.simplefilter("ignore")
        case.use(file)
    kind = type(caught.value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    # `python -m pytest` has another main module than `pytest`.
    message = str(caught.value).replace("<module 'pytest.__main__'", "<module '__main__'")
    assert pattern(section.error).match(f"{name}: {message}")
    assert_printed(section.output, run(section.command))


REMEDIES = [
    (title, command)
    for title, text in re.findall(
        r"^### `([^\n]+)`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    for command in re.findall(r"`ptinspect ((?:convert|stub|scan) [^`]+)`", text)
]


@pytest.mark.parametrize(("title", "command"), REMEDIES)
def test_a_remedy_works(
    title: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch, case = pytest.importorskip("torch"), CASES[title]
    monkeypatch.chdir(tmp_path)
    case.make(Path(case.name))
    name, *words = shlex.split(command)
    result = CliRunner().invoke(cli, [name, *words])
    assert result.exit_code == (1 if name == "scan" else 0), result.output
    if name == "convert":
        assert torch.load(words[1], map_location="cpu", weights_only=True)
    elif name == "stub":
        compile(Path("model_def.py").read_text("utf-8"), "model_def.py", "exec")


def assert_printed(said: str, printed: str) -> None:
    """Every line of the page is in the output, in that order."""
    rest = iter(printed.splitlines())
    for line in said.splitlines():
        if line != "…":
            assert any(pattern(line).fullmatch(other) for other in rest), (line, printed)


def test_each_section_has_its_file_and_each_file_its_section() -> None:
    assert len(SECTIONS) == PAGE.count("\n### ") == len(re.findall(r"^- \[`", PAGE, re.M))
    assert list(SECTIONS) == [title for title in SECTIONS if title in CASES]
    assert set(CASES) == set(SECTIONS)
    assert len(REMEDIES) >= 15


def test_the_messages_that_people_paste_are_there() -> None:
    for message in (
        "Can't get attribute", "No module named 'models'", "Weights only load failed",
        "Invalid magic number; corrupt file?", "failed finding central directory",
        "unexpected EOF, expected N more bytes", "Unsupported operand 118",
        "Attempting to deserialize object on a CUDA device", "cannot instantiate 'PosixPath'",
        "No module named 'numpy._core'", "persistent IDs in protocol 0 must be ASCII strings",
        "Ran out of input", "version_ <= kMaxSupportedFileFormatVersion",
        "has no attribute 'state_dict'", "expected scalar type Half", "padding_mode",
    ):  # fmt: skip
        assert message in PAGE, message


def test_the_commands_show_and_nothing_else() -> None:
    assert {section.command.split()[1] for section in SECTIONS.values()} == {"show"}
    assert all(section.command.endswith(CASES[section.title].name) for section in SECTIONS.values())
