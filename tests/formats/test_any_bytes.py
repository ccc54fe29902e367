"""Whatever the bytes: an archive whose storages can be read, or one error of ptinspect."""

from __future__ import annotations

import pickle
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptinspect.errors import PtInspectError
from ptinspect.formats.detect import open_archive
from ptinspect.formats.torch.zip_file import TorchZip
from ptinspect.limits import Limits
from ptinspect.source.base import MemorySource
from tests.formats.identify import identify
from tests.formats.making import (
    MAGIC_PICKLE,
    Record,
    Stored,
    make_tar,
    make_zip,
    torch_legacy,
    torch_zip,
)
from tests.formats.test_torch_tar import parts

STORAGES = [Stored(str(n), bytes([n]) * 40, "LongStorage", 8) for n in range(4)]
SOUND = [
    make_zip(torch_zip(STORAGES, byteorder="little")),
    make_zip([record._replace(method=8) for record in torch_zip(STORAGES)], zip64=False),
    torch_legacy(STORAGES),
    make_tar(list(parts().items())),
    b"".join(pickle.dumps({"a": [1, "b"], "c": 2.5}, protocol) for protocol in range(6)),
    make_zip([Record("m/constants.pkl", b"x"), Record("m/data.pkl", b"N.")]),
]
TIGHT = Limits(streams=100, zip_entries=100, inflated_bytes=1 << 20, string_bytes=1 << 16)


def answer(data: bytes) -> None:
    """Asks all that can be asked of the bytes. Any other error than ptinspect's fails the test;
    so does an error that has no message, or one that would reach a terminal as it is."""
    for limits in (Limits(), TIGHT):
        try:
            with suppress(PtInspectError):
                identify(MemorySource(data, "x"), limits)
            archive = open_archive(MemorySource(data, "x"), limits)
            for span in archive.storages.values():
                if span.length < 1 << 20:
                    assert len(archive.read(span)) == span.length
                assert span.offset is None or 0 <= span.offset <= len(data)
            if isinstance(archive, TorchZip):
                for number in range(len(archive.directory)):
                    archive.directory.check_local(number)
                    archive.directory.check_crc(number)
        except PtInspectError as error:
            assert error.message and error.message.isprintable()


@given(st.binary(max_size=300))
@example(b"PK\x03\x04")
@example(b"PK\x03\x04" + b"PK\x05\x06" + bytes(18))
@example(MAGIC_PICKLE)
@example(b"\x80\x02]q\0h\0a.")
def test_any_bytes(data: bytes) -> None:
    answer(data)


@given(st.sampled_from([b"PK\x03\x04", MAGIC_PICKLE, b"\x80\x02", b"\x80\x04", b"("]), st.binary())
def test_any_bytes_behind_a_known_beginning(start: bytes, data: bytes) -> None:
    answer(start + data)


@pytest.mark.parametrize("kind", range(len(SOUND)))
@given(data=st.data())
def test_sound_files_changed_here_and_there(kind: int, data: st.DataObject) -> None:
    sound = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(sound) - 1))
        what = data.draw(st.sampled_from(["byte", "word", "cut", "twice", "end"]))
        if what == "byte":
            sound[at] = data.draw(st.integers(0, 255))
        elif what == "word":
            sound[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
        elif what == "cut":
            del sound[at : at + data.draw(st.integers(1, 100))]
        elif what == "twice":
            sound[at:at] = sound[at : at + data.draw(st.integers(1, 100))]
        elif len(sound) > at + 1:
            del sound[at + 1 :]
        if not sound:
            break
    answer(bytes(sound))


@pytest.mark.parametrize("kind", range(len(SOUND)))
def test_every_field_of_a_sound_file_at_its_bounds(kind: int) -> None:
    """Each byte in turn, and each 4 bytes in turn, at 0, 1, 0x7f…, 0x80… and 0xff…."""
    sound = SOUND[kind]
    for at in range(0, len(sound), 3 if len(sound) < 1500 else 11):
        for value in (b"\0", b"\x7f", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x80"):
            answer(sound[:at] + value + sound[at + len(value) :])
