"""The legacy stream: order and places of its storages, sources, nesting, and damage."""

from __future__ import annotations

import pickle
import re
from struct import pack

import pytest

from ptinspect.errors import DamagedError, Place, UnsupportedError
from ptinspect.formats.archive import Archive, ClassSource
from ptinspect.formats.detect import open_archive
from ptinspect.formats.torch.legacy import read_legacy
from ptinspect.limits import Limits
from ptinspect.pickling.values import Blob, Call, PersistentId
from ptinspect.source.base import MemorySource
from tests.formats.identify import identify
from tests.formats.making import (
    MAGIC_PICKLE,
    PROTOCOL_PICKLE,
    Stored,
    listing,
    text,
    torch_legacy,
)

STORAGES = [
    Stored("300", b"\1\2\3\4" * 10),
    Stored("1", b"\5\6" * 7, "HalfStorage", 2),
    Stored("20", b"", "DoubleStorage", 8),
    Stored("21", b"\7" * 5, "UntypedStorage", 1, "cuda:0"),
]


def opened(data: bytes, base: int | None = 0, **limits: int) -> Archive:
    return open_archive(MemorySource(data, "x.pth", base=base), Limits(**limits))


def test_where_the_storages_lie() -> None:
    data = torch_legacy(STORAGES)
    archive = opened(data, base=500)
    assert (archive.format, archive.version, archive.byteorder) == (
        "torch-legacy",
        "1001",
        "little",
    )
    assert archive.facts == {"sys_info": {"protocol_version": 1001, "little_endian": True}}
    assert list(archive.storages) == ["1", "20", "21", "300"]
    for each in STORAGES:
        span = archive.storages[each.key]
        assert span.start is not None and span.offset == span.start + 500
        assert archive.read(span) == each.data == data[span.start : span.start + span.length]
    assert archive.origin == 500
    assert len(archive.streams) == 5
    assert [type(value) for value in archive.root] == [PersistentId] * 4  # type: ignore[attr-defined]
    assert archive.warnings == []


def test_a_machine_that_was_big_endian() -> None:
    """It wrote the elements little-endian all the same, old versions the counts not."""
    for counts in (False, True):
        archive = opened(torch_legacy(STORAGES, little=False, big_counts=counts))
        assert archive.byteorder == "little"
        assert archive.facts["sys_info"] == {"protocol_version": 1001, "little_endian": False}
        assert archive.read(archive.storages["1"]) == STORAGES[1].data


@pytest.mark.parametrize("protocol", range(6))
def test_any_pickle_protocol(protocol: int) -> None:
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"a": [1, "b"]}, []]
    data = b"".join(pickle.dumps(part, protocol) for part in parts)
    archive = opened(data)
    assert (archive.format, archive.root) == ("torch-legacy", {"a": [1, "b"]})
    found = identify(MemorySource(data, "x"))
    assert found is not None and found.format == "torch-legacy"


def test_bytes_behind() -> None:
    archive = opened(torch_legacy(STORAGES) + b"more")
    assert [warning.kind for warning in archive.warnings] == ["trailing-bytes"]
    assert archive.warnings[0].message.startswith("4 bytes follow")


def test_the_source_of_a_class() -> None:
    source = b"(" + text("module") + b"cmodels\nNet\n" + text("/src/models.py")
    source += text("class Net:\n    pass\n") + b"tQ"
    without = b"(" + text("module") + b"cmodels\nOther\nNNtQ"
    data = torch_legacy([]).replace(listing([]), b"\x80\x02](" + source * 2 + without + b"e.", 1)
    assert opened(data).sources == [
        ClassSource("models", "Net", "/src/models.py", "class Net:\n    pass\n")
    ]


# --- damage -----------------------------------------------------------------------------------


def says(data: bytes) -> str:
    with pytest.raises(DamagedError) as caught:
        opened(data)
    return str(caught.value)


def test_cut_off_at_every_byte() -> None:
    data = torch_legacy(STORAGES)
    whole = opened(data)
    starts = {key: span.start or 0 for key, span in whole.storages.items()}
    total = sum(len(each.data) for each in STORAGES)
    seen = set()
    for size in range(len(MAGIC_PICKLE), len(data)):
        said = says(data[:size])
        missing = re.search(r"missing[^:]*: ([\d,]+) of (\d+) bytes", said)
        if missing:
            here = sum(
                min(max(size - start, 0), whole.storages[key].length)
                for key, start in starts.items()
            )
            assert (int(missing[1]), int(missing[2])) == (total - here, total)
        seen.add(re.sub(r"\d+", "N", said))
    assert {
        "the file is truncated: the object is complete,"
        " but all N storages are missing: N of N bytes",
        "the file is truncated: the object is complete, but the last N of N storages are missing:"
        " N of N bytes",
        "the file is truncated: the object is complete,"
        " but the last N of N storages are missing in whole or"
        " in part: N of N bytes",
        "the file is truncated: the object is complete,"
        " but the last of N storages is missing in whole or in"
        " part: N of N bytes",
    } <= seen


def test_a_count_that_does_not_fit() -> None:
    data = torch_legacy(STORAGES)
    at = data.index(pack("<q", 10) + STORAGES[0].data)
    said = says(data[:at] + pack("<q", 11) + data[at + 8 :] + bytes(9))
    assert said == (f"the storage '300' has 11 elements, but the object refers to 10, byte {at}")


def test_bytes_missing_in_the_middle() -> None:
    data = torch_legacy(STORAGES)
    at = data.index(STORAGES[1].data)
    assert "elements, but the object refers to 0" in says(data[:at] + data[at + 2 :] + b"xx")


def listed(keys: bytes) -> bytes:
    """A stream with two storages, 1 and 2, and another list of keys."""
    storages = [Stored("1", b"a" * 4), Stored("2", b"b" * 4)]
    data = torch_legacy(storages)
    right = b"\x80\x02](" + text("1") + text("2") + b"e."
    assert right in data
    return data.replace(right, b"\x80\x02" + keys + b".")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (b"}", "is not a list"),
        (b"](" + text("1") + text("3") + b"e", "'3' is listed, but the object does not refer"),
        (b"](" + text("1") + b"]e", "a value of type list is listed"),
        (b"](" + text("1") + text("1") + b"e", "one of them twice"),
        (b"](" + text("1") + b"e", "1 of 2 storages are not listed, first '2'"),
    ],
)
def test_a_list_of_storages_that_is_not_right(keys: bytes, message: str) -> None:
    assert message in says(listed(keys))


def test_an_unknown_class_of_storage_has_no_size() -> None:
    with pytest.raises(UnsupportedError, match="so its size is unknown"):
        opened(torch_legacy([Stored("1", b"1234", "FooStorage", 4)]))


def test_an_unknown_version() -> None:
    data = torch_legacy(STORAGES).replace(PROTOCOL_PICKLE, b"\x80\x02M\xea\x03.")
    with pytest.raises(UnsupportedError, match="version 1,002"):
        opened(data)


# --- inside a pickle --------------------------------------------------------------------------


def wrapped(data: bytes) -> bytes:
    """`torch.storage._load_from_bytes(data)`, pickled."""
    return b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + pack("<I", len(data)) + data + b"\x85R."


def inside(outer: Archive) -> MemorySource:
    """The bytes that the call at the root has as its argument, as a source."""
    assert isinstance(outer.root, Call)
    (blob,) = outer.root.args
    assert isinstance(blob, Blob) and outer.origin is not None
    stop = blob.start + blob.length
    return MemorySource(blob.buffer, "x", blob.start, stop, outer.origin + blob.start)


def test_a_stream_inside_a_pickle_is_read_in_place() -> None:
    data = wrapped(torch_legacy([Stored("7", b"abcd" * 2000)]))
    archive = read_legacy(inside(opened(data, base=100)))
    span = archive.storages["7"]
    assert span.offset == 100 + data.index(b"abcdabcd")
    assert archive.read(span, 4, 6) == b"ab"
    assert archive.origin == 100


def test_one_inside_something_compressed_has_no_place() -> None:
    source = MemorySource(torch_legacy([Stored("7", b"abcd")]), "x", base=None)
    archive = read_legacy(source)
    assert (archive.storages["7"].offset, archive.origin) == (None, None)
    assert archive.read(archive.storages["7"]) == b"abcd"


def test_damage_inside_names_the_record_it_is_in() -> None:
    source = inside(opened(wrapped(torch_legacy([Stored("7", b"abcd" * 2000)])[:-1])))
    with pytest.raises(DamagedError, match="1 of 8,000 bytes"):
        read_legacy(source, record="m/data.pkl")
    broken = wrapped(torch_legacy([Stored("7", b"abcd" * 2000)]).replace(b"e.", b"\xff.", 1))
    with pytest.raises(DamagedError) as caught:
        read_legacy(inside(opened(broken)), record="m/data.pkl")
    assert caught.value.where == Place("m/data.pkl", broken.index(b"\xff."))
