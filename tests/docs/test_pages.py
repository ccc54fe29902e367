"""Pages that name tests, commands and files: what they name is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[p.stem for p in PAGES])
def test_the_paths_and_commands_of_a_page_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    paths = re.findall(r"`((?:tests|benchmarks|fixtures|ptinspect)/[\w./-]+)`", text)
    for path in [path for path in paths if "NAME" not in path]:
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert importlib.util.find_spec(module), module
    for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / link).exists(), link


def test_the_times_of_the_readme_are_measured() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    times = re.findall(r"^\| `[\w -]+` \| .+ \| (\d+ ms) \|$", readme, re.MULTILINE)
    measured = re.findall(r"\d+ ms\b", (ROOT / "docs" / "performance.md").read_text("utf-8"))
    assert len(times) == 7
    assert set(times) <= set(measured)


def test_the_rooms_and_their_first_files_exist() -> None:
    """The table of CONTRIBUTING.md: each room, and the file to start reading in."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| (`\w+`.*?) \| (.+) \| `([\w/.]+)` \|$", text, re.MULTILINE)
    rooms = [room for rooms, _, _ in rows for room in re.findall(r"`(\w+)`", rooms)]
    folders = {path.parent.name for path in (ROOT / "ptinspect").glob("*/__init__.py")}
    assert set(rooms) == folders
    for rooms_of_row, meaning, first in rows:
        room = ROOT / "ptinspect" / re.findall(r"`(\w+)`", rooms_of_row)[0]
        assert (room / first).is_file(), first
        for path in re.findall(r"`(\w+(?:/\w+\.py|/|\.py|\.txt))`", meaning):
            assert (room / path).exists(), path


def test_the_attacks_are_met_by_tests() -> None:
    rows = (ROOT / "docs" / "security.md").read_text("utf-8").split("|---|---|---|\n")[1]
    for row in rows.split("\n\n")[0].splitlines():
        *_, test, _ = row.split("|")
        assert re.fullmatch(r"`tests/[\w/]+\.py`", test.strip()), row
