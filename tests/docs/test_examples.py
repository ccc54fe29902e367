"""The examples of the pages that need nothing but the fixtures; and that no page is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs import consoles, test_howto_convert, test_howto_stub

DOCS = ROOT / "docs"
FOLLOWED = [DOCS / "index.md", *sorted((DOCS / "reference").rglob("*.md"))]
# Followed by tests of their own, which have the files that the pages speak of.
ELSEWHERE = {
    DOCS / "tutorial.md",
    DOCS / "howto" / "prove-a-resume.md",
    *(
        DOCS / "howto" / f"{page}.md"
        for page in (*test_howto_convert.FILES, *test_howto_stub.FILES)
    ),
}


@pytest.mark.parametrize("page", FOLLOWED, ids=[str(page.relative_to(DOCS)) for page in FOLLOWED])
def test_a_page_says_what_is_printed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else: `python -m tests.docs.consoles PAGE` writes what is printed today."""
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)  # an example may write files
    blocks = len(re.findall(r"^```(?:console|python)$", page.read_text("utf-8"), re.MULTILINE))
    assert consoles.follow(page) == blocks


def test_a_page_that_says_what_is_not_so_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    page = tmp_path / "page.md"
    page.write_text("text\n\n```console\n$ ptinspect --version\nptinspect 0.0\n```\n", "utf-8")
    with pytest.raises(Exception, match=r"line 3.*did not evaluate|ptinspect 0\.0"):
        consoles.follow(page)
    page.write_text(consoles.renewed(page.read_text("utf-8")), "utf-8")
    assert consoles.follow(page) == 1


def test_lines_that_are_left_out_stand_for_any() -> None:
    assert consoles.agrees("a\n…\nd\n", "a\nb\nc\nd\n")
    assert consoles.agrees("a\n…\n", "a\n")
    assert not consoles.agrees("a\n…\nd\n", "a\nb\nc\n")
    assert not consoles.agrees("a\n", "a\nb\n")


def test_every_page_with_commands_is_followed() -> None:
    pages = [page for page in DOCS.rglob("*.md") if "```console" in page.read_text("utf-8")]
    assert [page for page in pages if page not in {*FOLLOWED, *ELSEWHERE}] == []
