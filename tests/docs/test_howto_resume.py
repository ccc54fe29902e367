"""docs/howto/prove-a-resume.md, followed; and each cause that check can name is in its table."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import ptinspect
from ptinspect.cli import cli
from ptinspect.proofs.script_report import CAUSES
from tests.conftest import FIXTURES, ROOT
from tests.docs.consoles import examples

PAGE = (ROOT / "docs" / "howto" / "prove-a-resume.md").read_text("utf-8")
DATA = """
import torch


def batches():
    return [(torch.full((4, 2), float(n)), torch.ones(4, 1)) for n in range(2)]
"""


@pytest.mark.slow
def test_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked_training: None
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIXTURES / "seed" / "checkpoint-6.pt", "checkpoint.pt")
    (script,) = re.findall(r"^```python\n(# (\S+)\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path(script[1]).write_text(script[0], "utf-8")
    Path("data.py").write_text(DATA, "utf-8")
    commands = [example.command.split() for example in examples(PAGE)]
    assert [words[:3] for words in commands] == [
        ["ptinspect", "check", "optimizer"],
        ["ptinspect", "check", "resume"],
    ]
    for words in commands:
        result = CliRunner().invoke(cli, words[1:])
        assert result.exit_code == 0, result.output


def test_python_is_asked_as_the_page_says() -> None:
    """Not run once more: that the function takes what it is given, and answers what is read."""
    (call,) = re.findall(r"ptinspect\.check_resume\((.+)\)$", PAGE, re.MULTILINE)
    arguments = ast.parse(f"f({call})", mode="eval").body
    assert isinstance(arguments, ast.Call)
    given = {word.arg: ast.literal_eval(word.value) for word in arguments.keywords if word.arg}
    inspect.signature(ptinspect.check_resume).bind(*arguments.args, **given)
    read = set(re.findall(r"report\.(\w+)", PAGE))
    assert read
    assert read <= set(dir(ptinspect.ResumeReport))


def test_each_cause_is_in_the_table() -> None:
    schema = ROOT / "ptinspect" / "proofs" / "check-resume.schema.json"
    cause = json.loads(schema.read_text("utf-8"))["$defs"]["cause"]
    script, resume = (_names(part) for part in PAGE.split("\n## One file\n"))
    assert resume == set(cause["properties"]["kind"]["enum"])
    assert script == set(CAUSES)


def _names(text: str) -> set[str]:
    """The names in the first column of the table of causes."""
    table = text.partition("| cause in the report |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
