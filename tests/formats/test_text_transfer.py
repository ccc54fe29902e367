"""Files that a transfer has treated as text: CR LF in the place of LF, or UTF-8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ptinspect
from ptinspect.errors import DamagedError, FormatError
from tests.conftest import FIXTURES

FILES = ["seed/model.pth", "seed/checkpoint-6.pt", "pickles/model-2.pkl"]
CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "CR LF": (lambda data: data.replace(b"\n", b"\r\n"), "each LF is a CR LF"),
    "latin1 as UTF-8": (
        lambda data: data.decode("latin1").encode(),
        "its bytes above 127 are characters of UTF-8",
    ),
    "replaced": (
        lambda data: data.decode(errors="replace").encode(),
        "its bytes above 127 are characters of UTF-8",
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_treated_as_text(name: str, change: str, tmp_path: Path) -> None:
    rewrite, reason = CHANGES[change]
    file = tmp_path / "sent.pt"
    file.write_bytes(rewrite((FIXTURES / name).read_bytes()))
    with pytest.raises(DamagedError) as caught:
        ptinspect.open(file).close()
    assert caught.value.message == f"the file was read as text and written again: {reason}"
    assert "binary mode" in (caught.value.hint or "")
    report = ptinspect.scan(file)
    assert report.errors[0].message == caught.value.message
    assert report.verdict != "clean"
    assert report.steps[:1] in ((caught.value.hint,), ("do not load it",))


def test_a_text_with_cr_lf_is_not_one(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"a,b\r\n1,2\r\n3,4\r\n")
    with pytest.raises(FormatError) as caught:
        ptinspect.open(file).close()
    assert "read as text" not in caught.value.message
