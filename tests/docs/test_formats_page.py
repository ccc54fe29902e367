"""docs/formats.md: the bytes that it quotes are in the fixtures, its sources in torch."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "formats.md").read_text("utf-8")
DUMPS = re.findall(r"^```hex (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SOURCES = sorted(set(re.findall(r"`(torch(?:\.\w+)+)`", PAGE)))


@pytest.mark.parametrize(("name", "dump"), DUMPS, ids=[name for name, _ in DUMPS])
def test_the_bytes_are_those_of_the_file(name: str, dump: str) -> None:
    data = (ROOT / name).read_bytes()
    for line in dump.splitlines():
        match = re.fullmatch(r"(\d+) +((?:[0-9a-f]{2} ?)+) {2,}\S.*", line)
        assert match, line
        at, quoted = int(match[1]), bytes.fromhex(match[2])
        assert data[at : at + len(quoted)].hex(" ") == quoted.hex(" "), line


def test_every_container_is_quoted() -> None:
    assert len(DUMPS) >= 5
    assert len(SOURCES) >= 25


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


def test_the_contents_are_the_sections() -> None:
    listed = re.findall(r"^- \[(.+?)\]\(#(.+?)\)$", PAGE, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert [title for title, _ in listed] == headings
    assert [link for _, link in listed] == [
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings
    ]
