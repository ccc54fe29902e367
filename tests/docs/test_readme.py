"""The README's examples, run: what they print is what the README says."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.docs.consoles import Example, examples, run

README = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = list(examples(README))


@pytest.mark.parametrize("example", EXAMPLES, ids=[e.command for e in EXAMPLES])
def test_an_example_prints_what_the_readme_says(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(example.command) == example.said


def test_the_python_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "layer.weight torch.float32 (1, 2) cuda:0",
        "layer.bias torch.float32 (1,) cuda:0",
    ]


def test_every_page_that_it_names_exists() -> None:
    named = re.findall(r"\]\(([\w./-]+)\)", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
