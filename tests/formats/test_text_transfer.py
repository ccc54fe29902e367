"""Files that a transfer has treated as text: CR LF in the place of LF, or UTF-8."""

from __future__ import annotations

import io
import os
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import ptinspect
from ptinspect.errors import DamagedError, FormatError, UnsupportedError
from ptinspect.limits import LIMITS
from tests.conftest import FIXTURES

FILES = ["seed/model.pth", "seed/checkpoint-6.pt", "pickles/model-2.pkl"]
CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "CR LF": (lambda data: data.replace(b"\n", b"\r\n"), "each LF is a CR LF"),
    "latin1 as UTF-8": (
        lambda data: data.decode("latin1").encode(),
        "its bytes above 127 are characters of UTF-8",
    ),
    "cp1252 as UTF-8": (
        lambda data: data.decode("cp1252", "replace").encode(),
        "its bytes above 127 are characters of UTF-8",
    ),
    "UTF-16": (
        lambda data: data.decode("latin1").encode("utf-16"),
        "its bytes are characters of UTF-16",
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
    assert (report.verdict, report.findings, report.members) == ("unreadable", (), ())
    assert report.steps == (caught.value.hint,)


def test_a_text_with_cr_lf_is_not_one(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"a,b\r\n1,2\r\n3,4\r\n")
    with pytest.raises(FormatError) as caught:
        ptinspect.open(file).close()
    assert "read as text" not in caught.value.message


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_with_cr_lf(protocol: int, tmp_path: Path) -> None:
    """Protocol 0 is text, and protocols from 4 have no lines."""
    file = tmp_path / "sent.pkl"
    data = pickle.dumps(OrderedDict(a=1, b=Counter([1])), protocol)
    file.write_bytes(data.replace(b"\n", b"\r\n"))
    report = ptinspect.scan(file, commands=("stub",))
    if b"\n" not in data:
        assert report.verdict == "clean"
        return
    assert (report.verdict, report.findings) == ("unreadable", ())
    assert report.errors[0].message.endswith("written again: each LF is a CR LF")
    assert report.steps == (report.errors[0].hint,)
    with pytest.raises(DamagedError, match="each LF is a CR LF"):
        ptinspect.open(file).close()


def test_what_runs_code_is_dangerous_in_a_damaged_file_too(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return os.system, ("true",)

    file = tmp_path / "sent.pkl"
    data = (
        pickle.dumps(["a\nb\nc\n", Evil()], 4).replace(b"\n", b"\r\n").replace(b"\x06a", b"\x09a")
    )
    file.write_bytes(data)
    report = ptinspect.scan(file)
    assert report.verdict == "dangerous"
    assert report.steps == ("do not load it",)


def test_a_payload_behind_more_findings_than_a_report_lists_is_dangerous() -> None:
    """Names that end in CR come from a transfer only if all findings are such names."""
    payload = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    names = b"".join(b"cposix\na%d\r\n0" % number for number in range(9))
    loaded = b"ctorch.storage\n_load_from_bytes\nC" + bytes([len(payload)]) + payload + b"\x85R0"
    data = b"\x80\x04" + loaded + names + b"N."
    report = ptinspect.scan(io.BytesIO(data), limits=replace(LIMITS, reported_items=5))
    assert report.verdict == "dangerous"
    assert len(report.findings) == 5


@pytest.mark.parametrize(
    "value", [[True], {"a": True}, Counter([1, 2])], ids=["list", "dict", "object"]
)
def test_a_pickle_of_protocol_0_with_cr_lf(value: object, tmp_path: Path) -> None:
    file = tmp_path / "sent.pkl"
    file.write_bytes(pickle.dumps(value, 0).replace(b"\n", b"\r\n"))
    with pytest.raises(DamagedError, match="each LF is a CR LF"):
        ptinspect.open(file).close()


def test_two_lines_are_enough_for_a_damaged_pickle(tmp_path: Path) -> None:
    file = tmp_path / "sent.pkl"
    file.write_bytes(pickle.dumps([b"\n" * 2, 1.5], 4).replace(b"\n", b"\r\n"))
    with pytest.raises(DamagedError, match="each LF is a CR LF"):
        ptinspect.open(file).close()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_not_a_damaged_file_of_torch(protocol: int, tmp_path: Path) -> None:
    file = tmp_path / "in.pkl"
    file.write_bytes(pickle.dumps({"w": [1.0]}, protocol))
    with pytest.raises(UnsupportedError, match="it is not a zip, stream or tar") as caught:
        ptinspect.recover(file, tmp_path / "out.pt")
    assert "ptinspect show" in str(caught.value.hint)
