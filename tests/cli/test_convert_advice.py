"""scan and the hooks on every fixture: none is dangerous, and every advised command does what it
says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ptinspect.cli.pre_commit import check
from ptinspect.safety.scan import scan
from tests.cli.running import run
from tests.conftest import FIXTURES
from tests.corpus.files import fixtures, sampled
from tests.safety.corpus.malicious import RANK

ALLOWED = {
    "containers/prefixed.pt": "unknown",  # bytes stand in front of its zip
    # The file itself holds code, which loading makes functions of; torch.fx even runs it.
    "modules/graph-module.pt": "dangerous",
    "pickles/cloudpickle-functions.pkl": "dangerous",
    "pickles/cloudpickle-model.pkl": "dangerous",
    "pickles/cloudpickle.pt": "dangerous",
    "pickles/dill-functions.pkl": "dangerous",
    "pickles/dill-model.pkl": "dangerous",
    "pickles/dill.pt": "dangerous",
}
"""Fixtures about which scan has something to say, and the worst that it may say."""


def works(line: str, target: Path) -> bool:
    """Run an advised command, with a DST so that nothing is written among the fixtures."""
    words = shlex.split(line)
    assert words[:2] == ["ptinspect", "convert"]
    done = run("convert", words[2], target, *words[3:])
    assert not done.exception or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code == 0


@pytest.mark.parametrize("name", sampled(fixtures()))
def test_a_fixture_is_harmless_and_advised_commands_convert(name: str, tmp_path: Path) -> None:
    file = FIXTURES / name
    report = scan(file, commands=("convert",))
    why = [(found.chain, found.reason) for found in report.all_findings()]
    assert report.verdict != "unreadable", report.errors
    assert RANK[report.verdict] <= RANK[ALLOWED.get(name, "unknown")], why
    advised = report.steps
    line = f"ptinspect convert {file} --to safetensors"
    if line in advised:
        lines = [text.strip() for text in run("scan", "-v", file).stdout.splitlines()]
        printed = any(text.removeprefix("next: ").startswith(line) for text in lines)
        assert printed == works(line, tmp_path / "out.safetensors")
    for rule, suffix in (("state-dict-only", "pt"), ("prefer-safetensors", "safetensors")):
        _, message = check(str(file), rule)
        lines = [text.strip() for text in message.splitlines()]
        for number, text in enumerate(lines):
            if text.startswith("ptinspect convert "):
                assert works(text, tmp_path / f"{rule}{number}.{suffix}")


def test_quantized_model_gets_no_advice_to_write_safetensors() -> None:
    name = FIXTURES / "modules" / "quantized-static.pt"
    assert "--to safetensors" not in run("scan", "-v", name).stdout
    assert "--to safetensors" not in run("scan", "-f", "json", name).stdout


def test_a_model_still_gets_it() -> None:
    name = FIXTURES / "seed" / "model.pth"
    assert f"ptinspect convert {name} --to safetensors" in run("scan", "-v", name).stdout


def test_the_hook_names_a_command_for_each_model() -> None:
    name = FIXTURES / "modules" / "in-list.pt"
    code, message = check(str(name), "prefer-safetensors")
    assert code == 1
    for words in ("--entry '[0]'", "--entry '[1].ema'", "--all-entries"):
        assert f"  ptinspect convert {name} --to safetensors {words}" in message.splitlines()
