"""The zip that we write is torch's, byte for byte."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from ptinspect.conversion.output import torch_zip
from ptinspect.conversion.output.pieces import BytesPiece
from ptinspect.conversion.output.torch_zip import ZipWriter, folder_name, write_torch_zip
from ptinspect.formats.zip_directory import ZipDirectory
from ptinspect.source.local import open_source
from tests.conversion.making import sink_to

FULL = 0xFFFFFFFF


def test_it_is_what_torch_save_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = tmp_path / "model.v1.pt", tmp_path / "ours.pt"
    made = {"a": torch.arange(3.0), "none": torch.empty(0), "b": torch.ones(70, 3).half()}
    torch.save(made, theirs)
    with open_source(theirs) as source:
        directory = ZipDirectory(source)
        records = {n: directory.read(i) for i, n in enumerate(directory.names)}
    storages = [(str(n), [BytesPiece(records[f"model.v1/data/{n}"])]) for n in range(3)]
    with sink_to(ours) as sink:
        write_torch_zip(sink, folder_name(str(theirs)), records["model.v1/data.pkl"], storages)
    name = b"model.v1/.data/serialization_id"
    at = theirs.read_bytes().index(name)
    id_at = at + len(name) + theirs.read_bytes()[at + len(name) :].index(b"PK") - 40
    crc_at = theirs.read_bytes().rindex(name) - 46 + 16

    def without_id(data: bytes) -> bytes:
        """Without the 40 digits, and their CRC in the descriptor and in the directory."""
        cut = data[:id_at] + data[id_at + 40 : id_at + 44] + data[id_at + 48 : crc_at]
        return cut + data[crc_at + 4 :]

    assert without_id(ours.read_bytes()) == without_id(theirs.read_bytes())


def test_it_is_what_torch_save_writes_for_hundreds(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "ours.pt"
    records = {str(n): os.urandom(n) for n in range(300)}
    with sink_to(path) as sink:
        storages = [(key, [BytesPiece(data)]) for key, data in records.items()]
        write_torch_zip(sink, "ours", b"\x80\x02}.", storages)
    reader = torch._C.PyTorchFileReader(str(path))
    for key, data in records.items():
        assert bytes(reader.get_record(f"data/{key}")) == data
        assert reader.get_record_offset(f"data/{key}") % 64 == 0
    assert torch.load(path, mmap=True) == {}


def test_beyond_4_gib_it_is_what_torchs_writer_writes(tmp_path: Path) -> None:
    """Headers of a record that begins behind 4 GiB, and of one that is larger, as
    torch._C.PyTorchFileWriter of 2.13 wrote them (recorded: the file had 4 GiB)."""
    at = (1 << 32) + 216
    header = torch_zip._local_header(b"big/data/1", 5, at)
    assert header == (
        b"PK\3\4\0\0\x08\x08" + bytes(18) + b"\n\0\x40\0big/data/1"
        b"\x01\0\x08\0\xd8\0\0\0\1\0\0\0FB\x30\0" + b"Z" * 48
    )
    line = torch_zip._directory_line(torch_zip.Record(b"big/data/1", 5, 0x3610A686, at))
    assert line == (
        b"PK\1\2\0\0\0\0\x08\x08\0\0\0\0\0\0\x86\xa6\x10\x36\5\0\0\0\5\0\0\0\n\0\x0c\0"
        + bytes(10)
        + b"\xff\xff\xff\xffbig/data/1\1\0\x08\0\xd8\0\0\0\1\0\0\0"
    )
    size = (1 << 32) + 128
    header = torch_zip._local_header(b"big/data/0", size, 0)
    assert header == (
        b"PK\3\4\0\0\x08\x08" + bytes(18) + b"\n\0\x18\0big/data/0"
        b"\x01\0\x10\0\x80\0\0\0\1\0\0\0" + bytes(8) + b"FB\0\0"
    )
    line = torch_zip._directory_line(torch_zip.Record(b"big/data/0", size, 0x5C7EA88E, 0))
    assert line == (
        b"PK\1\2\0\0\0\0\x08\x08\0\0\0\0\0\0\x8e\xa8\x7e\x5c" + b"\xff" * 8 + b"\n\0\x14\0"
        + bytes(14)
        + b"big/data/0\1\0\x10\0\x80\0\0\0\1\0\0\0\x80\0\0\0\1\0\0\0"
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "ftruncate"), reason="needs files with holes")
def test_a_file_beyond_4_gib_reads_back(tmp_path: Path) -> None:
    """The sink is moved over a hole, so that no gigabytes are written."""
    path = tmp_path / "big.pt"
    with sink_to(path) as sink:
        writer = ZipWriter(sink, "big")
        writer.write_bytes("data.pkl", b"\x80\x02N.")
        sink.flush()
        sink.position += 1 << 32
        os.lseek(sink.output.descriptor, 1 << 32, os.SEEK_CUR)
        writer.write_bytes("data/0", b"hello")
        writer.finish()
    with open_source(path) as source:
        directory = ZipDirectory(source)
        number = directory.index["big/data/0"]
        assert directory.read(number) == b"hello"
        assert directory.start(number) > FULL
        assert directory.crcs[number] == zlib.crc32(b"hello")


def test_the_folder_is_named_as_torch_names_it() -> None:
    assert folder_name("/a.b/model.pth.tar") == "model.pth"
    assert folder_name("model") == "model"
    assert folder_name("모델.pt") == "archive"
    assert folder_name(".pt") == "archive"
