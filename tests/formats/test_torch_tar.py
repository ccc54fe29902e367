"""The tar of torch 0.1: its four members, the ids made modern, and damage."""

from __future__ import annotations

import re
from struct import pack

import pytest

from ptinspect.errors import DamagedError, LimitError, PtInspectError
from ptinspect.formats.archive import Archive, ClassSource
from ptinspect.formats.detect import open_archive
from ptinspect.limits import Limits
from ptinspect.pickling.values import Global, PersistentId
from ptinspect.source.base import MemorySource
from tests.formats.making import integer, make_tar, text

DATA = b"".join(pack("<f", n) for n in range(6))


def number(value: int) -> bytes:
    return b"\x80\x02" + integer(value) + b"."


def person(value: str) -> bytes:
    return text(value) + b"Q"


def parts(location: bool = True, views: bool = True) -> dict[str, bytes]:
    """A tensor 11 on storage 21, a view 22 of that storage, a tensor 12 without one."""
    where = text("cuda:1") if location else b""
    storage = b"\x80\x02(" + integer(21) + where + b"ctorch\nFloatStorage\nt."
    tensor = b"\x80\x02(" + integer(11) + integer(21) + b"ctorch\nFloatTensor\nt."
    empty = b"\x80\x02(" + integer(12) + b"Nctorch\nFloatTensor\nt."
    view = b"\x80\x02](" + b"(" + b"".join(map(integer, (22, 21, 2, 3))) + b"te."
    module = b"(cmodels\nNet\n" + text("models.py") + text("class Net: pass") + b"tQ"
    storages = number(1) + storage + pack("<q", 6) + DATA
    return {
        "sys_info": b"\x80\x02}" + text("protocol_version") + integer(1000) + b"s.",
        "pickle": b"\x80\x02](" + person("11") + (person("22") if views else b"")
        + person("21") + person("12") + module + b"e.",
        "tensors": number(2) + tensor + pack("<6q", 2, 2, 3, 3, 1, 0) + empty + pack("<2q", 0, 0),
        "storages": storages + (view if views else b""),
    }  # fmt: skip


def opened(members: dict[str, bytes], **limits: int) -> Archive:
    data = make_tar(list(members.items()))
    return open_archive(MemorySource(data, "x.pth"), Limits(**limits))


def values(archive: Archive) -> list[object]:
    assert isinstance(archive.root, list)
    return [each.value for each in archive.root if isinstance(each, PersistentId)]


def test_its_tensors_and_storages() -> None:
    archive = opened(parts())
    assert (archive.format, archive.version, archive.byteorder) == (
        "torch-legacy-tar",
        "1000",
        "little",
    )
    assert archive.facts == {"sys_info": {"protocol_version": 1000}}
    tensor, view, storage, empty, module = values(archive)
    assert isinstance(storage, tuple) and isinstance(storage[1], Global)
    kind = storage[1]
    assert kind.path == "torch.FloatStorage"
    assert storage == ("storage", kind, "21", "cuda:1", 6, None)
    assert view == ("storage", kind, "21", "cuda:1", 6, ("22", 2, 3))
    assert isinstance(tensor, tuple) and isinstance(empty, tuple) and isinstance(module, tuple)
    assert tensor[:5] == ("tensor", storage, 0, (2, 3), (3, 1))
    assert (tensor[5].path, tensor[6]) == ("torch.FloatTensor", "11")
    assert empty[:5] == ("tensor", None, 0, (), ())
    assert module[0] == "module"
    assert archive.sources == [ClassSource("models", "Net", "models.py", "class Net: pass")]
    assert archive.read(archive.storages["21"]) == DATA
    assert len(archive.streams) == 8


def test_places_are_those_in_the_file() -> None:
    members = parts()
    data = make_tar(list(members.items()))
    archive = opened(members)
    span = archive.storages["21"]
    assert span.offset is not None and data[span.offset : span.offset + span.length] == DATA
    assert archive.origin is not None
    assert data[archive.origin :].startswith(members["pickle"])


def test_the_oldest_has_no_locations_and_no_views() -> None:
    archive = opened(parts(location=False, views=False))
    storage = values(archive)[1]
    assert isinstance(storage, tuple) and storage[3:] == ("cpu", 6, None)


def test_cut_off_anywhere() -> None:
    data = make_tar(list(parts().items()))
    said = set()
    end = len(data) - 1024 - 512 + len(parts()["storages"])
    for size in range(512, end, 5):
        with pytest.raises(DamagedError) as caught:
            open_archive(MemorySource(data[:size], "x"))
        said.add(str(caught.value).split(", byte")[0])
    assert "the tar is truncated: of sys_info, pickle, tensors, storages, pickle is missing" in said
    assert any(re.search(r"storage 1 of 1 is not: \d+ of 24 bytes", each) for each in said)


@pytest.mark.parametrize(
    ("member", "old", "new", "message"),
    [
        ("pickle", person("12"), person("13"), "refers to '13', which is not in the file"),
        ("tensors", integer(21), integer(20), "storage '20' is not in the file|storage 20"),
        ("tensors", integer(21), b"]", "a key is expected, not a value of type list"),
        ("tensors", pack("<q", 2) + pack("<2q", 2, 3), pack("<q", 5000), "5,000 dimensions"),
        ("storages", pack("<q", 6), pack("<q", -1), "-1 elements"),
        ("storages", b"FloatStorage", b"FooStorage", "torch does not have a storage's class"),
        ("storages", integer(1), integer(-1), "a number of items is expected"),
        ("sys_info", b"}", b"\xff", "not a pickle opcode"),
    ],
)
def test_members_that_are_not_right(member: str, old: bytes, new: bytes, message: str) -> None:
    members = parts()
    assert old in members[member]
    members[member] = members[member].replace(old, new, 1)
    with pytest.raises(PtInspectError, match=message):
        opened(members)


def test_limits() -> None:
    with pytest.raises(LimitError) as caught:
        opened(parts(), streams=2)
    assert caught.value.limit == "streams"
    with pytest.raises(LimitError) as caught:
        opened(parts(), zip_entries=3)
    assert caught.value.limit == "zip_entries"
    with pytest.raises(DamagedError, match="2 dimensions"):
        opened(parts(), dims=1)


def test_a_member_of_more_than_8_gib_by_its_extended_header() -> None:
    from ptinspect.formats.torch.tar import read_members

    data = make_tar([("pax", b"19 size=9000000000\n"), ("large", b"x")])
    tar = bytearray(data)
    tar[156] = ord("x")
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    found = read_members(MemorySource(bytes(tar), "x"))
    assert found["large"].size == 9_000_000_000
    assert found["large"].present == len(tar) - 1536
