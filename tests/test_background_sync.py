"""The disk is asked while more is written; what it answers is not lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ptinspect import atomic_file
from ptinspect.atomic_file import atomic_outputs
from ptinspect.errors import PtInspectError

pytestmark = pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="there is no fdatasync")


@pytest.fixture(autouse=True)
def every_kilobyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "SYNC_INTERVAL", 1 << 10)


def test_the_disk_is_asked_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda number: (asked.append(number), real(number)))
    open_before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    with atomic_outputs([str(tmp_path / "a")]) as (output,):
        output.write(b"x" * 1000)
        assert not asked
        for _ in range(9):
            output.write(b"y" * 1000)
            output._sync.wait()
        assert len(asked) == 5  # behind each two of them
        assert output.descriptor not in asked
    assert (tmp_path / "a").read_bytes() == b"x" * 1000 + b"y" * 9000
    if open_before is not None:
        assert len(os.listdir("/proc/self/fd")) == open_before


def test_an_error_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    with (
        pytest.raises(PtInspectError, match="cannot be written: Input/output error"),
        atomic_outputs([str(tmp_path / "a")]) as (output,),
    ):
        output.write(b"x" * 5000)
    assert os.listdir(tmp_path) == []
