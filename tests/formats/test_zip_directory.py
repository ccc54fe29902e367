"""The zip directory: equal to zipfile on what is sound, and clear on what is not."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest

from ptinspect.errors import DamagedError, LimitError, PtInspectError, UnsupportedError
from ptinspect.formats.zip_directory import STORED, ZipDirectory
from ptinspect.limits import Limits
from ptinspect.source.base import MemorySource
from ptinspect.source.local import LocalSource, open_source
from tests.formats.making import Record, make_end, make_entry, make_zip

SOME = [Record("m/a", b"one" * 50), Record("m/empty", b""), Record("m/b", b"two")]


def directory(data: bytes, **limits: int) -> ZipDirectory:
    return ZipDirectory(MemorySource(data, "x.pth"), Limits(**limits))


def kinds(found: ZipDirectory) -> set[str]:
    return {finding.kind for finding in found.findings}


# --- what is sound ----------------------------------------------------------------------------


@pytest.mark.parametrize("zip64", [True, False])
@pytest.mark.parametrize("comment", [b"", b"a comment", b"PK" * 30_000])
def test_a_zip_as_torch_writes_it(zip64: bool, comment: bytes) -> None:
    found = directory(make_zip(SOME, zip64=zip64, comment=comment))
    assert found.names == ["m/a", "m/empty", "m/b"]
    assert [found.read(i) for i in range(3)] == [b"one" * 50, b"", b"two"]
    assert [found.start(i) % 64 for i in range(3)] == [0, 0, 0]
    assert [found.check_crc(i) for i in range(3)] == [True, True, True]
    assert [found.check_local(i) for i in range(3)] == [[], [], []]
    assert found.findings == []


def test_zipfile_lists_the_same() -> None:
    rng = random.Random(0)
    opened = io.BytesIO()
    with zipfile.ZipFile(opened, "w") as writer:
        for number in range(500):
            name = "f/" + "".join(rng.choices("abcé한", k=rng.randrange(1, 40))) + str(number)
            method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            info = zipfile.ZipInfo(name)
            info.comment = b"c" * rng.randrange(3)
            info.extra = b"\xfe\xca\2\0ab" * rng.randrange(3)
            writer.writestr(info, rng.randbytes(rng.randrange(300)) + b"0" * 50, method)
        writer.comment = "끝".encode()
    found = directory(opened.getvalue())
    reader = zipfile.ZipFile(opened)
    assert found.findings == []
    assert len(found) == 500
    for number, info in enumerate(reader.infolist()):
        names = (found.names[number], found.methods[number], found.crcs[number])
        assert names == (info.filename, info.compress_type, info.CRC)
        sizes = (found.packed[number], found.sizes[number])
        assert sizes == (info.compress_size, info.file_size)
        assert found.read(number) == reader.read(info)
        assert found.check_crc(number) is True
        assert found.check_local(number) == []


@pytest.mark.slow
def test_zip64_by_count() -> None:
    """More than 65,535 entries: the plain count is full, and the zip64 record has it."""
    opened = io.BytesIO()
    with zipfile.ZipFile(opened, "w") as writer:
        for number in range(70_000):
            writer.writestr(zipfile.ZipInfo(f"m/data/{number}"), b"")
    found = directory(opened.getvalue())
    assert len(found) == 70_000
    assert found.index["m/data/69999"] == 69_999
    assert found.findings == []


def test_zip64_by_offset(tmp_path: Path) -> None:
    """A record that is larger than 4 GiB, and one that begins beyond (of holes, on disk)."""
    path = tmp_path / "large.pth"
    large, second = 5 << 30, 30 + len("m/large") + (5 << 30)
    local = make_zip([Record("m/large", b"described")], align=1)[:30]
    with path.open("wb") as file:
        file.write(local[:28] + bytes(2) + b"m/large" + b"first")
        file.seek(second)
        file.write(local[:28] + bytes(2) + b"m/other" + b"two")
        start = file.tell()
        file.write(make_entry(b"m/large", 0x808, 0, 0, large, large, 0))
        file.write(make_entry(b"m/other", 0x808, 0, 0, 3, 3, second))
        file.write(make_end(2, start, file.tell() - start))
    with open_source(path) as source:
        found = ZipDirectory(source)
        assert (found.sizes[0], found.headers[1]) == (large, second)
        assert found.read(1) == b"two"
        assert next(found.chunks(0, 0, 10)) == b"first" + bytes(5)
        assert found.findings == found.check_local(0) == found.check_local(1) == []


def test_what_a_large_zip_costs_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last 64 KiB and the directory are read, whatever the size."""
    path = tmp_path / "model.pth"
    path.write_bytes(make_zip([Record("m/a", bytes(8 << 20)), *SOME[1:]]))
    read: list[int] = []
    plain = LocalSource.read

    def counting(self: LocalSource, offset: int, length: int) -> bytes:
        read.append(length)
        return plain(self, offset, length)

    monkeypatch.setattr(LocalSource, "read", counting)
    with open_source(path) as source:
        assert len(ZipDirectory(source)) == 3
    assert sum(read) < 70_000


def test_crcs_that_were_not_written() -> None:
    """torch.serialization.set_crc32_options(False) leaves them zero: nothing to check."""
    found = directory(make_zip([Record("m/a", b"one", crc=0), Record("m/b", b"two", crc=0)]))
    assert not found.has_crcs
    assert [found.check_crc(i) for i in range(2)] == [None, None]


def test_a_wrong_crc() -> None:
    found = directory(make_zip([Record("m/a", b"one", crc=7), SOME[2]]))
    assert [found.check_crc(i) for i in range(2)] == [False, True]


def test_a_name_that_is_not_utf_8() -> None:
    found = directory(make_zip([Record(b"m/\x81", b"", flags=0), SOME[0]]))
    assert found.names == ["m/ü", "m/a"]


def test_names_with_a_line_break() -> None:
    found = directory(make_zip([Record("m/a\nb", b""), Record("m/c", b"")]))
    assert found.names == ["m/a\nb", "m/c"]


def test_an_empty_zip() -> None:
    found = directory(make_zip([]))
    assert (len(found), found.findings, found.index) == (0, [], {})


def test_parts_of_a_record() -> None:
    data = random.Random(1).randbytes(5000) + bytes(5000)
    found = directory(make_zip([Record("s", data), Record("d", data, method=8)]))
    for number in (0, 1):
        assert b"".join(found.chunks(number, size=777)) == data
        assert b"".join(found.chunks(number, 4990, 5010, size=3)) == data[4990:5010]
        assert max(len(chunk) for chunk in found.chunks(number, size=100)) <= 100


# --- what is not ------------------------------------------------------------------------------


def test_a_name_listed_twice() -> None:
    found = directory(make_zip([Record("m/a", b"one"), Record("m/a", b"two")]))
    assert kinds(found) == {"zip-duplicate"}
    assert found.read(found.index["m/a"]) == b"two"
    assert found.read(0) == b"one"


def test_entries_that_overlap() -> None:
    """The bomb of quoted overlaps: a record whose bytes hold another's header."""
    inner = make_zip([Record("m/b", b"y")])[:200]
    quoted = make_zip([Record("m/a", inner, header=0), Record("m/b", b"y", header=64)])
    assert kinds(directory(quoted)) == {"zip-overlap"}
    same = make_zip([Record("m/a", b"one"), Record("m/b", b"two", header=0)])
    assert kinds(directory(same)) == {"zip-overlap"}


def test_out_of_order_is_no_overlap() -> None:
    data = make_zip(SOME)
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x06\x06")
    entries = [b"PK\x01\x02" + part for part in data[start:end].split(b"PK\x01\x02")[1:]]
    found = directory(data[:start] + b"".join(reversed(entries)) + data[end:])
    assert found.names == ["m/b", "m/empty", "m/a"]
    assert found.findings == []
    assert found.read(2) == b"one" * 50


def test_a_record_beyond_the_directory() -> None:
    found = directory(make_zip([SOME[0], Record("m/b", b"two", header=1 << 20)]))
    assert kinds(found) == {"zip-outside"}
    with pytest.raises(DamagedError, match="not in the file"):
        found.read(1)


@pytest.mark.parametrize(
    "record",
    [
        Record("m/a", b"one", local_name="m/b"),
        Record("m/a", b"one", local_method=8),
        Record("m/a", b"one", local_size=2),
        Record("m/a", b"one", header=7),
    ],
    ids=["name", "method", "size", "no header"],
)
def test_a_local_header_that_says_otherwise(record: Record) -> None:
    found = directory(make_zip([record]))
    assert {finding.kind for finding in found.check_local(0)} == {"zip-local"}
    with pytest.raises(DamagedError) as caught:
        found.start(0)
    assert caught.value.where is not None and caught.value.where.record == "m/a"


def test_a_local_extra_field_that_reaches_into_the_next_record() -> None:
    data = bytearray(make_zip(SOME))
    data[28:30] = (60_000).to_bytes(2, "little")
    found = directory(bytes(data))
    with pytest.raises(DamagedError, match="overlaps what follows"):
        found.start(0)


def test_encryption_is_said() -> None:
    found = directory(make_zip([Record("m/a", b"one", flags=0x809)]))
    assert kinds(found) == {"zip-encrypted"}
    with pytest.raises(UnsupportedError, match="encrypted"):
        found.read(0)


def test_flags_without_a_meaning() -> None:
    assert kinds(directory(make_zip([Record("m/a", b"one", flags=0x8808)]))) == {"zip-flags"}


def test_unknown_compression() -> None:
    found = directory(make_zip([Record("m/a", b"one", method=93)]))
    assert kinds(found) == {"zip-compression"}
    with pytest.raises(UnsupportedError, match="method 93"):
        found.read(0)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a\\b", "C:/x", "m/../../x", "m/\x1b[2J", "m/\0x"]
)
def test_names_that_lead_elsewhere(name: str) -> None:
    assert kinds(directory(make_zip([Record(name, b""), SOME[0]]))) == {"zip-name"}


@pytest.mark.parametrize("name", ["m/a..b", "m/...", "모델/data 1", "m/a /b", "m/x:y"])
def test_names_that_do_not(name: str) -> None:
    assert kinds(directory(make_zip([Record(name, b"")]))) == set()


def test_bytes_behind() -> None:
    assert kinds(directory(make_zip(SOME) + b"hidden")) == {"zip-end"}


def test_a_record_that_is_not_listed() -> None:
    """What stands in front of the first entry: a local record that readers by stream find."""
    data = make_zip([Record("gone", b"x" * 64), *SOME])
    start = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", start + 4)
    listed = data[second : data.index(b"PK\x06\x06")]
    found = directory(data[:start] + listed + make_end(3, start, len(listed)))
    assert kinds(found) == {"zip-prefix"}
    assert found.names == ["m/a", "m/empty", "m/b"]


def test_two_ends_that_disagree() -> None:
    data = bytearray(make_zip(SOME))
    data[-12:-10] = b"\7\0"
    assert kinds(directory(bytes(data))) == {"zip-end"}


# --- damage and limits ------------------------------------------------------------------------


def test_no_directory() -> None:
    with pytest.raises(DamagedError, match="no directory"):
        directory(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize("count", [0, 2, 4, 60_000])
def test_a_count_that_is_not_true(count: int) -> None:
    data = bytearray(make_zip(SOME, zip64=False))
    data[-12:-10] = data[-14:-12] = count.to_bytes(2, "little")
    with pytest.raises(PtInspectError):
        found = directory(bytes(data))
        assert count == 2 and len(found) == 2
        raise DamagedError("fewer are told than there are, which is a finding")


@pytest.mark.parametrize("zip64", [True, False])
def test_bytes_missing_in_the_middle(zip64: bool) -> None:
    data = make_zip(SOME, zip64=zip64)
    with pytest.raises(DamagedError, match="100 bytes are missing before the zip's directory"):
        directory(data[:40] + data[140:])


def test_bytes_too_many_in_the_middle() -> None:
    data = make_zip(SOME)
    with pytest.raises(DamagedError, match="7 bytes were added before"):
        directory(data[:40] + bytes(7) + data[40:])


def test_a_broken_entry() -> None:
    data = bytearray(make_zip(SOME))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second] = 0
    with pytest.raises(DamagedError, match="ends at entry 1 of 3") as caught:
        directory(bytes(data))
    assert caught.value.where is not None and caught.value.where.offset == second


def test_too_many_entries() -> None:
    with pytest.raises(LimitError) as caught:
        directory(make_zip(SOME), zip_entries=2)
    assert caught.value.limit == "zip_entries"


def test_a_record_too_large_to_be_held() -> None:
    found = directory(make_zip([SOME[0]]), pickle_bytes=149)
    with pytest.raises(LimitError) as caught:
        found.read(0)
    assert caught.value.limit == "pickle_bytes"
    squeezed = directory(make_zip([Record("m/a", bytes(5000), method=8)]), inflated_bytes=4999)
    with pytest.raises(LimitError) as caught:
        squeezed.read(0)
    assert caught.value.limit == "inflated_bytes"


def test_a_ratio_that_deflate_cannot_reach() -> None:
    bomb = Record("m/a", b"x" * 10, method=8, declared_size=1 << 40)
    with pytest.raises(LimitError) as caught:
        next(directory(make_zip([bomb])).chunks(0))
    assert caught.value.limit == "compression_ratio"


@pytest.mark.parametrize(("declared", "says"), [(4999, "more than"), (5001, "contains 5,000")])
def test_a_size_that_is_not_true(declared: int, says: str) -> None:
    found = directory(make_zip([Record("m/a", bytes(5000), method=8, declared_size=declared)]))
    with pytest.raises(DamagedError, match=says):
        found.read(0)


def test_what_is_unpacked_is_bounded_by_what_is_declared() -> None:
    """A bomb that declares little is stopped one byte later, not at its end."""
    found = directory(make_zip([Record("m/a", bytes(50 << 20), method=8, declared_size=1000)]))
    chunks = found.chunks(0)
    held = 0
    with pytest.raises(DamagedError, match="more than"):
        for chunk in chunks:
            held += len(chunk)
    assert held <= 1000


def test_two_sizes_of_a_stored_record() -> None:
    found = directory(make_zip([Record("m/a", b"one", declared_size=4)]))
    assert found.methods[0] == STORED
    with pytest.raises(DamagedError, match="two sizes"):
        found.read(0)


def test_damaged_deflate() -> None:
    data = bytearray(make_zip([Record("m/a", bytes(range(256)) * 9, method=8)]))
    at = ZipDirectory(MemorySource(bytes(data), "x")).start(0)
    data[at : at + 20] = b"\xff" * 20
    with pytest.raises(DamagedError, match="compressed bytes are damaged"):
        directory(bytes(data)).read(0)


@pytest.mark.parametrize("size", [1, 4, 7, 8, 26, 2999])
def test_what_the_unpacker_still_holds_is_no_loss(size: int) -> None:
    """A piece that is full while the packed bytes are used up: more may wait in the unpacker."""
    for raw in (bytes(range(9)), bytes(27), b"\x5a" * 27, b"\x5a" * 3000):
        found = directory(make_zip([Record("m/a", raw, method=8)]))
        assert b"".join(found.chunks(0, size=size)) == raw


def test_findings_are_bounded() -> None:
    records = [Record(f"../{number}", b"") for number in range(20)]
    assert len(directory(make_zip(records), warnings=5).findings) == 5
    records += [Record("m/a", b""), Record("m/a", b"")]
    assert directory(make_zip(records), warnings=5).findings[0].kind == "zip-duplicate"
