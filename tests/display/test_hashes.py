from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from ptinspect.display import ShowOptions
from ptinspect.display.measure import FileHash, hash_file, hash_in_name
from ptinspect.document import open as open_document
from tests.display.making import FIXTURES, READ


def test_the_hash_is_the_files() -> None:
    for name in READ[::5]:
        with open_document(FIXTURES / name) as document:
            found = hash_file(document, ShowOptions())
        assert found.sha256 == hashlib.sha256((FIXTURES / name).read_bytes()).hexdigest(), name


@pytest.mark.parametrize(
    ("path", "digits"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("dir-12345678.x/resnet50-0676ba61abcd.pth", "0676ba61abcd"),
        ("model-0676ba6.pth", None),
        ("model-2024.pth", None),
        ("run-20240131.pt", None),
        ("run-20241331.pt", "20241331"),
        ("model-0676BA61.pth", None),
        ("0676ba61.pth", None),
        ("model-0676ba61", None),
        ("dir-0676ba61.d/model.pth", None),
        ("step-000029999.ckpt", None),
        ("checkpoint-00100000.pt", None),
        ("model-10000000.pt", None),
        ("resnet34-43635321.pth", "43635321"),
    ],
)
def test_what_a_name_says(path: str, digits: str | None) -> None:
    assert hash_in_name(path) == digits


def test_match_and_mismatch(tmp_path: Path) -> None:
    source = FIXTURES / "seed/model.pth"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    right, wrong = tmp_path / f"m-{digest[:8]}.pth", tmp_path / "m-00000000.pth"
    for path in (right, wrong):
        shutil.copy(source, path)
    with open_document(right) as document:
        found = hash_file(document, ShowOptions())
    assert found == FileHash(digest, digest[:8])
    assert not found.mismatch
    assert found.text == f"{digest}, as the name says ({digest[:8]})"
    with open_document(wrong) as document:
        found = hash_file(document, ShowOptions())
    assert found.mismatch
    assert found.text == f"{digest}, MISMATCH: the name says 00000000"
