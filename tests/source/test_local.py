"""Files, file objects and standard input: the same bytes by every way, and clear refusals."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, cast

import pytest

from ptinspect.errors import DamagedError, FormatError, PtInspectError
from ptinspect.source import local
from ptinspect.source.base import MemorySource
from ptinspect.source.local import open_source

DATA = bytes(range(256)) * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "모델.pth"
    path.write_bytes(DATA)
    return path


def test_any_part_of_a_file(file: Path) -> None:
    with open_source(file) as source:
        assert (source.size, source.path) == (len(DATA), str(file))
        assert source.read(250, 10) == DATA[250:260]
        assert source.read(0, len(DATA)) == DATA
        assert source.read(len(DATA), 0) == b""


@pytest.mark.parametrize("preadv", [True, False])
def test_a_buffer_is_filled(preadv: bool, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    buffer = bytearray(10)
    with open_source(file) as source:
        source.read_into(250, buffer)
        assert buffer == DATA[250:260]
        with pytest.raises(DamagedError, match="only 9 are left"):
            source.read_into(len(DATA) - 9, buffer)
        os.truncate(file, 255)
        with pytest.raises(DamagedError, match="became shorter"):
            source.read_into(250, buffer)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, len(DATA) + 1), (len(DATA), 1), (-1, 1), (0, -1)]
)
def test_a_short_read_is_never_silent(file: Path, offset: int, length: int) -> None:
    with open_source(file) as source, pytest.raises(DamagedError) as caught:
        source.read(offset, length)
    assert caught.value.where is not None


def test_nothing_is_allocated_for_what_is_not_there(file: Path) -> None:
    with open_source(file) as source, pytest.raises(DamagedError, match="9,960 are left"):
        source.read(280, 1 << 62)


def test_a_file_that_shrinks_is_noticed(file: Path) -> None:
    with open_source(file) as source:
        os.truncate(file, 100)
        with pytest.raises(DamagedError, match="became shorter"):
            source.read(50, 100)


@pytest.mark.parametrize("copied", [1 << 20, 16])
def test_the_machine_s_window_is_all_of_it(
    file: Path, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_COPY_BYTES", copied)
    with open_source(file) as source:
        buffer, start, stop = source.window()
        assert buffer[start:stop] == DATA
        assert isinstance(buffer, bytes) == (copied > len(DATA))
        heads, first = source.headers()
        assert heads[first + 5] == 5


def test_a_file_object_is_read_from_where_it_stands(file: Path) -> None:
    with file.open("rb") as opened:
        opened.seek(100)
        with open_source(opened) as source:
            assert (source.size, source.base) == (len(DATA) - 100, 100)
            assert source.read(0, 5) == DATA[100:105]
            buffer, start, stop = source.window()
            assert buffer[start:stop] == DATA[100:]
            heads, first = source.headers()
            assert heads[first : first + 5] == DATA[100:105]
        assert opened.tell() == 100


def test_bytes_in_memory() -> None:
    opened = io.BytesIO(DATA)
    opened.seek(3)
    with open_source(opened) as source:
        assert isinstance(source, MemorySource)
        assert source.read(0, 2) == DATA[3:5]
        assert source.size == len(DATA) - 3
        with pytest.raises(DamagedError):
            source.read(len(DATA) - 4, 2)


def test_a_file_object_of_another_kind_is_read_to_its_end(tmp_path: Path) -> None:
    """A GzipFile has the descriptor of the compressed file: what it reads is meant."""
    path = tmp_path / "model.pth.gz"
    path.write_bytes(gzip.compress(DATA))
    with gzip.open(path) as opened, open_source(cast("IO[bytes]", opened)) as source:
        assert source.read(0, source.size) == DATA


def test_a_temporary_file_as_object() -> None:
    with tempfile.NamedTemporaryFile() as opened:
        opened.write(DATA)
        opened.seek(0)
        with open_source(opened) as source:
            assert source.read(0, source.size) == DATA


class Stdin:
    """Standard input as a pipe gives it."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BufferedReader(Pipe(data))


class Pipe(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        self.left = data

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        part, self.left = self.left[: min(len(into), 1000)], self.left[min(len(into), 1000) :]
        into[: len(part)] = part
        return len(part)


def test_standard_input_is_spooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(DATA))
    with open_source("-") as source:
        assert (source.path, source.size) == ("-", len(DATA))
        assert source.read(0, source.size) == DATA


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(PtInspectError, match="no standard input"):
        open_source("-")


def test_text_is_refused(file: Path) -> None:
    with pytest.raises(PtInspectError, match="text mode") as caught:
        open_source(io.StringIO("text"))  # type: ignore[arg-type]
    assert caught.value.hint is not None and '"rb"' in caught.value.hint


def test_closed_is_said(file: Path) -> None:
    source = open_source(file)
    source.close()
    source.close()
    with pytest.raises(PtInspectError, match="closed"):
        source.read(0, 1)
    opened = io.BytesIO(DATA)
    opened.close()
    with pytest.raises(PtInspectError, match="closed"):
        open_source(opened)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="a folder") as caught:
        open_source(tmp_path)
    assert caught.value.path == str(tmp_path)


@pytest.mark.parametrize("name", ["missing.pth", "nul\0.pth", "folder/under/nothing"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(PtInspectError, match="no such file") as caught:
        open_source(tmp_path / name)
    assert caught.value.hint


def test_a_name_that_is_nearly_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "my model.pth").touch()
    with pytest.raises(PtInspectError) as caught:
        open_source(tmp_path / "my-model.pth")
    assert caught.value.hint == f"did you mean '{tmp_path}/my model.pth'?"


def test_a_url_says_what_to_do() -> None:
    with pytest.raises(PtInspectError) as caught:
        open_source("https://example.com/model.pth")
    assert "download it first" in caught.value.lines()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pth"
    os.mkfifo(pipe)
    with pytest.raises(PtInspectError, match="a pipe") as caught:
        open_source(pipe)
    assert "ptinspect show -" in caught.value.lines()


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="devices are of POSIX")
def test_a_device_is_refused() -> None:
    with pytest.raises(PtInspectError, match="a device"):
        open_source("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_no_permission(file: Path) -> None:
    file.chmod(0)
    with pytest.raises(PtInspectError, match="no permission"):
        open_source(file)


def test_permission_is_told_from_other_errors() -> None:
    error = local._read_error(PermissionError(13, "Permission denied"), "x.pth")
    assert str(error) == "x.pth: no permission to read it"
    assert str(local._read_error(OSError(5, "I/O error"), "x")) == "x: it cannot be read: I/O error"
