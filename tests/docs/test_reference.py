"""docs/reference: what is made from the code is as the code is today."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

import ptinspect
from ptinspect.cli import cli
from tests.docs.reference import PAGES, REFERENCE, renewed
from tests.docs.reference.command_line import Command, commands, options
from tests.docs.reference.limits import meanings
from tests.docs.reference.schemas import files, gaps

TRAINING = """--model --data --loss --optimizer-class --steps --device --seed --allow-tf32 --trust
 --timeout"""
REPORT = "-f --format -o --output --force"
# The whole command line: an option that is not here is not to be, and has to be agreed first.
COMMANDS = {
    "": "-V --version --debug",
    "show": f"""{REPORT} --brief --include --exclude --sort --depth --all --values --stats --hash
 --check --textconv --no-progress""",
    "stub": """-o --output --package --force --entry --class --no-recovered-source --guess-forward
 --check""",
    "convert": """--to --entry --all-entries --allow-overflow --include --exclude --strip-prefix
    --add-prefix --rename --dtype
 --device --contiguous --shared --set --metadata --optimizer --plain --max-shard-size --verify
 --force --dry-run -f --format --no-progress""",
    "diff": "-f --format -o --output --tolerance --include --exclude --no-progress",
    "recover": f"{REPORT} --proved-only --no-progress",
    "scan": f"""{REPORT} -v --verbose -q --quiet --allow --config --exclude --fail-on -j --jobs
 --no-progress""",
    "check": "",
    "check roundtrip": f"{TRAINING} {REPORT} --entry --no-progress",
    "check resume": f"{TRAINING} {REPORT} --entry --no-cross --plot --no-progress",
    "check optimizer": f"{REPORT} --entry",
    "check script": f"""{REPORT} --checkpoint --resume-command --at --kill-during-save --work
 --timeout --no-progress""",
}
ALL = list(commands())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_the_code_is(name: str) -> None:
    """Else: `python -m tests.docs.reference` writes it anew."""
    assert (REFERENCE / name).read_text("utf-8") == renewed(name)


def test_there_are_these_commands_and_options_and_no_others() -> None:
    there = {here.words: {name for option in options(here) for name in option.opts} for here in ALL}
    assert there == {words: {*names.split(), "-h", "--help"} for words, names in COMMANDS.items()}


@pytest.mark.parametrize("here", ALL, ids=lambda here: here.words or "ptinspect")
def test_help_says_the_same(here: Command) -> None:
    """Each option with its names, its value and its help, on the page and in --help."""
    words = here.words.split()
    result = CliRunner().invoke(cli, [*words, "--help"], terminal_width=400)
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    page = (REFERENCE / "cli.md").read_text("utf-8")
    section = page.partition(f"\n## {' '.join(['ptinspect', *words])}\n")[2].partition("\n## ")[0]
    assert section
    for option in options(here):
        assert option.help, option.opts
        assert " ".join(option.help.split()) in said
        row = next(line for line in section.splitlines() if f"`{option.opts[-1]}`" in line)
        assert all(f"`{name}`" in row for name in option.opts)
        names = re.escape(", ".join(option.opts))
        assert re.search(rf"(^| ){names} ", said), option.opts


def test_each_key_of_the_json_has_a_meaning() -> None:
    """In its schema, as `description`; or in tests/docs/reference/meanings.py."""
    assert {"show", "scan"} <= set(files())
    without, unused = gaps()
    assert without == []
    assert unused == set()


def test_each_limit_has_its_row() -> None:
    page = (REFERENCE / "limits.md").read_text("utf-8")
    names = [name for name, _ in meanings()]
    assert names == list(ptinspect.Limits.__dataclass_fields__)
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_the_api_page_has_each_public_name() -> None:
    page = (REFERENCE / "api.md").read_text("utf-8")
    named = re.findall(r"^::: ptinspect\.(\w+)$", page, re.M)
    assert sorted([*named, "__version__"]) == ptinspect.__all__
    assert "`ptinspect.__version__`" in page
