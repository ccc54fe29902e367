"""Every fixture: the format that its truth names, and storages that are there to the last byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptinspect.errors import FormatError, UnsupportedError
from ptinspect.formats.detect import open_archive
from ptinspect.source.local import open_source
from tests.conftest import FIXTURES
from tests.formats.identify import identify

TRUTHS = sorted(FIXTURES.rglob("*.truth.json"))

REFUSED = {"prefixed.pt": FormatError, "rezip-bzip2.pt": UnsupportedError}
"""What torch refuses, too: a text in front of the zip, and a compression that is not deflate."""


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda path: path.name.removesuffix(".truth.json"))
def test_a_fixture(truth: Path) -> None:
    file = truth.with_name(truth.name.removesuffix(".truth.json"))
    told: dict[str, Any] = json.loads(truth.read_text("utf-8"))
    with open_source(file) as source:
        if file.name in REFUSED:
            assert told["load"] is False
            with pytest.raises(REFUSED[file.name]):
                open_archive(source)
            return
        found = identify(source)
        archive = open_archive(source)
        assert found is not None
        assert (archive.format, found.format) == (told["format"], told["format"])
        for span in archive.storages.values():
            assert len(archive.read(span)) == span.length
            if span.offset is not None:
                assert archive.read(span) == source.read(span.offset, span.length)


def test_there_are_fixtures_of_every_format() -> None:
    formats = {json.loads(truth.read_text("utf-8"))["format"] for truth in TRUTHS}
    assert formats == {"torch-zip", "torch-legacy", "torch-legacy-tar", "pickle"}
