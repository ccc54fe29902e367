"""Bytes that pass from a source to the output, by the kernel or through the process."""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import pytest

from ptinspect import atomic_file
from ptinspect.conversion.output import sink as copy
from ptinspect.conversion.output.pieces import BytesPiece, ConvertedRange, SourceRange
from ptinspect.conversion.output.sink import LARGE, ModificationGuard
from ptinspect.document.elements import whole_elements
from ptinspect.document.tensor import Storage
from ptinspect.errors import DamagedError, PtInspectError
from ptinspect.formats.detect import open_archive
from ptinspect.formats.zip_records import combine_crcs
from ptinspect.source.local import open_source
from tests.conversion.making import sink_to
from tests.formats.making import Stored, make_zip, torch_zip

BODY = os.urandom(3 * LARGE + 8)

WAYS = {"kernel": copy.kernel_copy(), "buffer": None, "thread": None}


@pytest.fixture(params=sorted(WAYS))
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(copy, "kernel_copy", lambda: WAYS[request.param])
    if request.param == "thread":
        monkeypatch.setattr(copy, "THREADED", LARGE)
        monkeypatch.setattr(copy, "BUFFER", LARGE)
    return str(request.param)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    path = tmp_path / "source.pt"
    path.write_bytes(make_zip(torch_zip([Stored("0", BODY)])))
    return Storage(open_archive(open_source(path)), "0", "cpu", len(BODY))


@pytest.fixture
def unchecked(tmp_path: Path) -> Storage:
    """A storage without a recorded CRC-32, which the kernel may copy."""
    path = tmp_path / "source.pt"
    records = [record._replace(crc=0) for record in torch_zip([Stored("0", BODY)])]
    path.write_bytes(make_zip(records))
    return Storage(open_archive(open_source(path)), "0", "cpu", len(BODY))


def test_whole_and_in_part(way: str, storage: Storage, tmp_path: Path) -> None:
    with sink_to(tmp_path / "out") as sink:
        sink.write(b"head")
        body = SourceRange(storage, 0, len(BODY))
        assert sink.write_pieces([body], with_crc=True) == zlib.crc32(BODY)
        assert sink.write_pieces([SourceRange(storage, 7, len(BODY) - 3)], with_crc=False) == 0
        pieces = [SourceRange(storage, 1, 9), BytesPiece(b"--"), SourceRange(storage, 3, 4)]
        part = sink.write_pieces(pieces, with_crc=True)
        assert sink.position == 4 + 2 * len(BODY) - 10 + 11
        assert (sink.copied, sink.changed) == (2 * len(BODY) - 10 + 9, 2)
    short = BODY[1:9] + b"--" + BODY[3:4]
    assert part == zlib.crc32(short)
    assert (tmp_path / "out").read_bytes() == b"head" + BODY + BODY[7:-3] + short


def test_a_kernel_that_refuses_is_not_asked_again(
    unchecked: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuses(*_: int) -> int:
        asked.append(1)
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(copy, "kernel_copy", lambda: refuses)
    monkeypatch.setattr(copy, "PAGE", 1)
    with sink_to(tmp_path / "out") as sink:
        for _ in range(2):
            sink.write_pieces([SourceRange(unchecked, 0, len(BODY))], with_crc=False)
    assert (tmp_path / "out").read_bytes() == BODY * 2
    assert asked == [1]


def test_the_kernel_moves_only_what_stands_alike_in_its_pages(
    unchecked: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []

    def kernel(source: int, target: int, offset: int, count: int) -> int:
        moved.append((offset, count))
        return os.write(target, os.pread(source, count, offset))

    monkeypatch.setattr(copy, "kernel_copy", lambda: kernel)
    place = SourceRange(unchecked, 0, len(BODY)).place()
    assert place[0] is not None
    with sink_to(tmp_path / "out") as sink:
        sink.write(b"x" * (place[1] % copy.PAGE))
        sink.write_pieces([SourceRange(unchecked, 0, len(BODY))], with_crc=False)
        assert moved == [(place[1], len(BODY))]
        sink.write(b"-")
        sink.write_pieces([SourceRange(unchecked, 0, len(BODY))], with_crc=False)
        assert len(moved) == 1
    assert (tmp_path / "out").read_bytes().endswith(BODY + b"-" + BODY)


def test_a_recorded_crc_is_compared_also_where_the_kernel_could_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "PAGE", 1)
    path = tmp_path / "source.pt"
    records = torch_zip([Stored("0", BODY)])
    damaged = [record._replace(crc=7) if record.data == BODY else record for record in records]
    path.write_bytes(make_zip(damaged))
    body = SourceRange(
        Storage(open_archive(open_source(path)), "0", "cpu", len(BODY)), 0, len(BODY)
    )
    with sink_to(tmp_path / "out") as sink:
        sink.write_pieces([body], with_crc=False)
        assert sink.mismatches == [body]


def test_a_disk_that_is_full_is_no_refusal(
    unchecked: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(copy, "kernel_copy", lambda: full)
    monkeypatch.setattr(copy, "PAGE", 1)
    failing = pytest.raises(PtInspectError, match="No space left")
    with failing as caught, sink_to(tmp_path / "out") as sink:
        sink.write_pieces([SourceRange(unchecked, 0, len(BODY))], with_crc=False)
    assert caught.value.hint and "free some space" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_source_that_shrinks_meanwhile(way: str, storage: Storage, tmp_path: Path) -> None:
    watch = ModificationGuard(storage.archive.source)
    watch.check()
    os.truncate(tmp_path / "source.pt", 2 * LARGE)
    with pytest.raises(DamagedError, match="became shorter"), sink_to(tmp_path / "out") as sink:
        sink.write_pieces([SourceRange(storage, 0, len(BODY))], with_crc=way == "thread")
    assert not (tmp_path / "out").exists()
    with pytest.raises(PtInspectError, match="changed while it was converted"):
        watch.check()


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="there is no pwrite")
@pytest.mark.parametrize("half", [0, 1])
def test_the_disk_is_full_for_one_of_two_threads(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: int
) -> None:
    offsets: list[int] = []
    real = os.pwrite

    def write(descriptor: int, data: bytes, offset: int) -> int:
        offsets.append(offset)
        if (offset > LARGE) == half:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(copy, "THREADED", LARGE)
    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(PtInspectError, match="No space left"), sink_to(tmp_path / "out") as sink:
        sink.write(b"head")
        sink.write_pieces([SourceRange(storage, 0, len(BODY))], with_crc=True)
    assert sorted(offsets)[0] == 4 and sorted(offsets)[-1] % copy.PAGE == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="there is no preadv")
def test_reads_may_return_less_than_was_asked_for(
    way: str, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv

    def read(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return real(descriptor, [buffers[0][:100_000]], offset)

    monkeypatch.setattr(os, "preadv", read)
    pieces = [SourceRange(storage, 0, 200_000), SourceRange(storage, 200_000, len(BODY))]
    with sink_to(tmp_path / "out") as sink:
        assert sink.write_pieces(pieces, with_crc=True) == zlib.crc32(BODY)
    assert (tmp_path / "out").read_bytes() == BODY


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="there is no preadv")
@pytest.mark.parametrize("length", [100, len(BODY)])
def test_a_disk_that_cannot_be_read(
    way: str, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    failing = pytest.raises(PtInspectError, match="it cannot be read: Input/output error")
    with failing, sink_to(tmp_path / "out") as sink:
        sink.write_pieces([SourceRange(storage, 0, length)], with_crc=True)
    assert not (tmp_path / "out").exists()


def test_a_system_without_more_threads(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(copy, "THREADED", LARGE)
    monkeypatch.setattr(atomic_file, "WRITEBACK_INTERVAL", LARGE)
    monkeypatch.setattr("threading.Thread.start", start)
    with sink_to(tmp_path / "out") as sink:
        crc = sink.write_pieces([SourceRange(storage, 0, len(BODY))], with_crc=True)
    assert crc == zlib.crc32(BODY)
    assert (tmp_path / "out").read_bytes() == BODY


@pytest.mark.parametrize("cut", [0, 1, 4096, LARGE + 3, len(BODY)])
def test_crcs_of_two_halves(cut: int) -> None:
    first, second = BODY[:cut], BODY[cut:]
    combined = combine_crcs(zlib.crc32(first), zlib.crc32(second), len(second))
    assert combined == zlib.crc32(BODY)


def test_bytes_change_in_whole_elements() -> None:
    assert list(whole_elements(iter([b"a", b"bcde", b"", b"fgh"]), 3)) == [b"abc", b"def"]
    assert b"".join(whole_elements(iter([BODY[:5], BODY[5:6000]]), 16)) == BODY[: 6000 - 6000 % 16]


def test_a_cast_counts_what_it_makes(storage: Storage, tmp_path: Path) -> None:
    piece = ConvertedRange(SourceRange(storage, 0, 8), lambda raw: raw[::2], 2, 1)
    assert (piece.length, piece.changed) == (4, True)
    with sink_to(tmp_path / "out") as sink:
        sink.write_pieces([piece], with_crc=False)
        assert (sink.copied, sink.changed) == (0, 4)
    assert (tmp_path / "out").read_bytes() == BODY[:8:2]
