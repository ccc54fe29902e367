"""docs/reference/formats: the bytes that the pages quote are in the fixtures, their sources in
torch, and each format that ptinspect names has its page."""

from __future__ import annotations

import importlib
import re
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.docs.reference.schemas import files

FOLDER = ROOT / "docs" / "reference" / "formats"
PAGES = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}
SOURCES = sorted(
    {name for text in PAGES.values() for name in re.findall(r"`(torch(?:\.\w+)+)`", text)}
)
SCANNED = {"compressed", "tar", "git-lfs"}


class Dump(NamedTuple):
    """Bytes that a page quotes of a file: lines of offset, bytes, meaning."""

    page: str
    file: str
    lines: str


DUMPS = [
    Dump(page, *found)
    for page, text in PAGES.items()
    for found in re.findall(r'^```hex title="(\S+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("dump", DUMPS, ids=[dump.file for dump in DUMPS])
def test_the_bytes_are_those_of_the_file(dump: Dump) -> None:
    data = (ROOT / dump.file).read_bytes()
    for line in dump.lines.splitlines():
        match = re.fullmatch(r"(\d+) +((?:[0-9a-f]{2} ?)+) {2,}\S.*", line)
        assert match, line
        at, quoted = int(match[1]), bytes.fromhex(match[2])
        assert data[at : at + len(quoted)].hex(" ") == quoted.hex(" "), line


def test_every_page_of_a_container_quotes_one() -> None:
    assert set(PAGES) - {dump.page for dump in DUMPS} == {"index", "tensors"}
    assert len(SOURCES) >= 35


def test_every_format_has_its_page() -> None:
    shown = files()["show"]["$defs"]["file"]["properties"]["format"]["enum"]
    rows = re.findall(r"^\| \[([\w, -]+)\]\(([\w-]+)\.md\) \|", PAGES["index"], re.MULTILINE)
    pages = {name: page for names, page in rows for name in names.split(", ")}
    assert set(pages) == {*shown, *SCANNED}
    assert set(pages.values()) == set(PAGES) - {"index", "tensors"}
    for name in SCANNED:
        assert name in PAGES["scan-only"]


@pytest.mark.parametrize("source", SOURCES)
def test_torch_has_what_is_named_as_a_source(source: str) -> None:
    pytest.importorskip("torch")
    parts = source.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        for name in parts[split:]:
            found = getattr(found, name)
        return
    pytest.fail(f"torch has no {source}")
