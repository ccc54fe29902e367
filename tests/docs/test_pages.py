"""Pages that name tests, commands and files: what they name is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[p.stem for p in PAGES])
def test_the_paths_and_commands_of_a_page_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for path in re.findall(r"`((?:tests|benchmarks|fixtures|ptinspect)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert importlib.util.find_spec(module), module
    for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / link).exists(), link


def test_the_attacks_are_met_by_tests() -> None:
    rows = (ROOT / "docs" / "security.md").read_text("utf-8").split("|---|---|---|\n")[1]
    for row in rows.split("\n\n")[0].splitlines():
        *_, test, _ = row.split("|")
        assert re.fullmatch(r"`tests/[\w/]+\.py`", test.strip()), row
