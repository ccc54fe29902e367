"""The disk is busy while more is written; what it answers at the end is not lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ptinspect import atomic_file
from ptinspect.atomic_file import atomic_outputs
from ptinspect.errors import PtInspectError

pytestmark = pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="there is no posix_fadvise"
)


@pytest.fixture(autouse=True)
def every_kilobyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "WRITEBACK_INTERVAL", 1 << 10)


def test_the_disk_is_asked_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    ranges: list[tuple[int, int]] = []
    real = os.posix_fadvise

    def advise(number: int, start: int, length: int, advice: int) -> None:
        asked.append(number)
        ranges.append((start, length))
        real(number, start, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    open_before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    with atomic_outputs([str(tmp_path / "a")]) as (output,):
        output.write(b"x" * 1000)
        assert not asked
        for _ in range(9):
            output.write(b"y" * 1000)
            output._writeback.wait()
        assert ranges == [(start, 2000) for start in range(0, 10_000, 2000)]
        assert output.descriptor not in asked
    assert (tmp_path / "a").read_bytes() == b"x" * 1000 + b"y" * 9000
    if open_before is not None:
        assert len(os.listdir("/proc/self/fd")) == open_before


def test_an_error_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with (
        pytest.raises(PtInspectError, match="cannot be written: Input/output error"),
        atomic_outputs([str(tmp_path / "a")]) as (output,),
    ):
        output.write(b"x" * 5000)
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_takes_no_advice_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    with atomic_outputs([str(tmp_path / "a")]) as (output,):
        output.write(b"x" * 5000)
    assert (tmp_path / "a").read_bytes() == b"x" * 5000
