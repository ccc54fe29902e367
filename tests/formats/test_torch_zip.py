"""The zip of torch.save: what it records, where its storages lie, and what is said of damage."""

from __future__ import annotations

import re

import pytest

from ptinspect.errors import DamagedError, FormatError, LimitError
from ptinspect.formats.detect import open_archive
from ptinspect.formats.torch.zip_file import TorchZip
from ptinspect.limits import Limits
from ptinspect.source.base import MemorySource
from tests.formats.making import Record, Stored, listing, make_zip, reference, torch_zip

STORAGES = [Stored(str(n), bytes([n]) * 40, "LongStorage", 8) for n in range(12)]


def opened(data: bytes, base: int | None = 0, **limits: int) -> TorchZip:
    archive = open_archive(MemorySource(data, "x.pth", base=base), Limits(**limits))
    assert isinstance(archive, TorchZip)
    return archive


def test_what_it_records() -> None:
    records = torch_zip(
        STORAGES,
        folder="my model",
        byteorder="big",
        **{".format_version": "1", ".storage_alignment": "64", ".data/serialization_id": "0123"},
    )
    archive = opened(make_zip(records))
    assert archive.format == "torch-zip"
    assert (archive.byteorder, archive.version) == ("big", "3")
    assert archive.facts == {
        "format_version": "1",
        "storage_alignment": "64",
        "serialization_id": "0123",
        "version": "3",
        "folder": "my model",
        "crc32": True,
    }
    assert archive.record == "my model/data.pkl"
    assert (archive.warnings, archive.more_roots, archive.sources) == ([], [], [])


def test_where_the_storages_lie() -> None:
    data = make_zip(torch_zip(STORAGES))
    archive = opened(data, base=1000)
    assert list(archive.storages) == [each.key for each in STORAGES]
    assert len(archive.storages) == 12
    for each in STORAGES:
        span = archive.storages[each.key]
        assert (span.record, span.length) == (f"archive/data/{each.key}", 40)
        assert span.start is not None and span.offset == span.start + 1000
        assert data[span.start : span.start + 40] == each.data == archive.read(span)
        assert archive.read(span, 3, 7) == each.data[3:7]
    assert archive.origin == 1000 + data.index(listing(STORAGES))
    with pytest.raises(KeyError):
        archive.storages["12"]


def test_little_is_what_is_meant_where_nothing_is_said() -> None:
    assert opened(make_zip(torch_zip(STORAGES))).byteorder == "little"


def test_a_byte_order_that_is_none() -> None:
    with pytest.raises(DamagedError, match="neither little nor big"):
        opened(make_zip(torch_zip(STORAGES, byteorder="middle")))


def test_a_record_of_a_word_that_is_a_megabyte() -> None:
    archive = opened(make_zip(torch_zip(STORAGES, **{".format_version": "1" * (1 << 20)})))
    assert "format_version" not in archive.facts
    assert [warning.kind for warning in archive.warnings] == ["zip-record"]


def test_torch_1_4() -> None:
    archive = opened(make_zip(torch_zip(STORAGES, where="tensors")))
    assert archive.facts["tensors_folder"] == "tensors"
    assert archive.read(archive.storages["3"]) == STORAGES[3].data


def test_compressed_records() -> None:
    records = [record._replace(method=8) for record in torch_zip(STORAGES)]
    archive = opened(make_zip(records))
    span = archive.storages["7"]
    assert (span.length, span.start, span.offset, archive.origin) == (40, None, None, None)
    assert archive.read(span, 39) == STORAGES[7].data[39:]
    assert b"".join(archive.chunks(span, 1, 30, size=7)) == STORAGES[7].data[1:30]


def test_records_in_any_order() -> None:
    records = torch_zip(STORAGES)[::-1]
    archive = opened(make_zip(records))
    assert archive.read(archive.storages["11"]) == STORAGES[11].data


def test_packed_again_without_a_folder() -> None:
    """torch looks in the first entry's folder; a single pickle elsewhere is meant all the same."""
    records = [
        record._replace(name=str(record.name).removeprefix("archive/"))
        for record in torch_zip(STORAGES)
    ]
    archive = opened(make_zip([Record("__MACOSX/x", b""), *records]))
    assert archive.facts["folder"] == ""
    assert archive.read(archive.storages["11"]) == STORAGES[11].data


def test_a_storage_of_an_unknown_class_is_as_long_as_its_record() -> None:
    odd = [Stored("0", b"xyz", "FooStorage", 1)]
    assert opened(make_zip(torch_zip(odd))).storages["0"].length == 3


def test_more_than_a_storage_has_cannot_be_read() -> None:
    archive = opened(make_zip(torch_zip(STORAGES)))
    for start, stop in ((0, 41), (41, None), (-1, 3), (5, 4)):
        with pytest.raises(DamagedError):
            archive.read(archive.storages["0"], start, stop)


def test_no_local_header_of_a_storage_is_read_before_it_is_asked_for() -> None:
    """20,000 of them would be 20,000 places in the file."""
    data = bytearray(make_zip(torch_zip(STORAGES)))
    at = data.index(b"archive/data/5")
    data[at - 30 : at - 26] = b"gone"
    archive = opened(bytes(data))
    assert archive.storages["5"].length == 40
    with pytest.raises(DamagedError, match="no local header"):
        _ = archive.storages["5"].offset


# --- damage -----------------------------------------------------------------------------------


def says(data: bytes) -> str:
    with pytest.raises(DamagedError) as caught:
        opened(data)
    assert caught.value.hint
    return str(caught.value)


def test_two_zips_in_one_file() -> None:
    one = make_zip(torch_zip(STORAGES[:2]))
    with pytest.raises(FormatError, match="several zips in a row") as caught:
        opened(one + make_zip(torch_zip(STORAGES)))
    assert "dcp_to_torch" in (caught.value.hint or "")
    twice = opened(one + one)  # of the same size: the end of the first is where the last looks
    assert [warning.kind for warning in twice.warnings] == ["zip-end"]


def test_storages_that_are_missing() -> None:
    records = [r for r in torch_zip(STORAGES) if r.name not in ("archive/data/3", "archive/data/5")]
    assert says(make_zip(records)) == (
        "the zip is incomplete: archive/data.pkl is complete, but 2 of 12 storages"
        " (archive/data/3, archive/data/5) are missing: 80 of 480 bytes"
    )


def test_a_storage_that_is_too_short() -> None:
    records = torch_zip(STORAGES)
    records[-2] = records[-2]._replace(data=b"x" * 30)
    assert says(make_zip(records)).endswith(
        "the last of 12 storages is missing in whole or in part: 10 of 480 bytes"
    )


def test_the_only_storage() -> None:
    records = torch_zip(STORAGES[:1])
    assert says(make_zip([r for r in records if "data/0" not in str(r.name)])).endswith(
        "its one storage, archive/data/0, is missing: 40 of 40 bytes"
    )


def test_cut_off_at_every_byte() -> None:
    """What is said is missing and what is there add up to what should be, everywhere."""
    data = make_zip(torch_zip(STORAGES))
    starts = [data.index(each.data, 100) for each in STORAGES]
    end = data.index(b"PK\x05\x06")
    seen = set()
    for size in range(4, end, 3):
        said = says(data[:size])
        seen.add(re.sub(r"\d+", "N", said))
        missing = re.search(r"missing[^:]*: ([\d,]+) of 480 bytes", said)
        here = sum(min(max(size - start, 0), 40) for start in starts)
        if missing:
            assert int(missing[1]) == 480 - here, size
        else:
            assert here in (0, 480), size
    assert {
        "the zip is truncated: it contains no record",
        "the zip is truncated within archive/data.pkl, after N bytes of it, archive/data.pkl",
        "the zip is truncated: archive/data.pkl is complete,"
        " but all N storages are missing: N of N bytes",
        "the zip is truncated: archive/data.pkl is complete,"
        " but the last N of N storages are missing:"
        " N of N bytes",
        "the zip is truncated: archive/data.pkl is complete,"
        " but the last N of N storages are missing in"
        " whole or in part: N of N bytes",
        "the zip is truncated: archive/data.pkl is complete,"
        " but the last of N storages is missing in whole"
        " or in part: N of N bytes",
        "the zip is truncated: archive/data.pkl is complete, and so are its N storages (N bytes)",
    } <= seen


def test_a_signature_in_the_data_does_not_end_a_record() -> None:
    inner = b"PK\x07\x08" * 10 + b"PK\x03\x04" * 10
    storages = [Stored("0", inner * 2, "ByteStorage", 1), *STORAGES[1:]]
    data = make_zip(torch_zip(storages))
    cut = data.index(STORAGES[5].data)
    assert "the last 7 of 12 storages are missing: 280 of 600 bytes" in says(data[:cut])


def test_empty_storages_count() -> None:
    storages = [*STORAGES[:2], Stored("2", b"", "LongStorage", 8)]
    data = make_zip(torch_zip(storages))
    assert "the last of 3 storages is missing: 0 of 80 bytes" in says(
        data[: data.index(b"archive/data/2") - 30]
    )


def test_no_storage_at_all() -> None:
    data = make_zip(torch_zip([]))
    assert says(data[: data.index(b"PK\x01\x02")]).endswith("and it refers to no storage")


def test_a_damaged_pickle_in_a_cut_zip() -> None:
    records = [Record("archive/data.pkl", b"\x80\x02\xff" * 9)]
    assert "archive/data.pkl is damaged: the byte" in says(make_zip(records)[:-100])


def test_some_other_zip_that_is_cut() -> None:
    data = make_zip([Record("a.txt", b"one"), Record("b.txt", b"two" * 99)])
    cut = data.index(b"twotwo") + 50
    assert "1 records are complete, the last one is 'b.txt'" in says(data[:cut])


@pytest.mark.parametrize(
    "records",
    [
        [*torch_zip(STORAGES), Record("archive/data/0", b"x" * 40)],
        [*torch_zip(STORAGES), Record("archive/other", b"x", header=0)],
        [*torch_zip(STORAGES), Record("archive/other", b"x", header=1 << 30)],
    ],
    ids=["twice", "overlap", "outside"],
)
def test_a_directory_that_readers_understand_differently(records: list[Record]) -> None:
    with pytest.raises(DamagedError) as caught:
        opened(make_zip(records))
    assert caught.value.where is not None


def test_a_negative_number_of_elements() -> None:
    pickle = b"\x80\x02" + reference(STORAGES[0], numel=-1) + b"."
    with pytest.raises(DamagedError, match="cannot have -1 elements"):
        opened(make_zip([Record("a/data.pkl", pickle), Record("a/data/0", b"")]))


def test_a_pickle_above_the_limit() -> None:
    with pytest.raises(LimitError) as caught:
        opened(make_zip(torch_zip(STORAGES)), pickle_bytes=100)
    assert caught.value.limit == "pickle_bytes"


def test_a_storage_is_located_as_its_span_says() -> None:
    archive = opened(make_zip(torch_zip(STORAGES)), base=100)
    for key, span in archive.storages.items():
        crc = archive.directory.crcs[archive.directory.index[span.record or ""]]
        assert [*archive.locate([key])] == [(span.offset, 40, crc, span.record)] and crc
        assert archive.length_of(key) == span.length == 40
    assert ([*archive.locate(["99"])], archive.length_of("99")) == ([None], -1)
    keys = [*archive.storages, "99", *archive.storages]
    assert [*archive.locate(keys)] == [place for key in keys for place in archive.locate([key])]
    with pytest.raises(KeyError):
        archive.storages["99"]
    (located,) = opened(make_zip(torch_zip(STORAGES)), base=None).locate(["3"])
    assert located is not None and located[:2] == (None, 40)
