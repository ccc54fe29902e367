"""Held against torch: every storage of what it writes, in both formats, byte for byte."""

from __future__ import annotations

import ctypes
import importlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptinspect.dtypes import DTYPES, STORAGE_ITEMSIZE, dtype_of_class
from ptinspect.errors import FormatError
from ptinspect.formats.archive import Archive
from ptinspect.formats.detect import open_archive
from ptinspect.formats.torch.zip_file import TorchZip
from ptinspect.source.base import MemorySource
from ptinspect.source.local import open_source

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:.*quantize", "ignore:.*torch.distributed")

NAMES = [
    name
    for name, dtype in DTYPES.items()
    if hasattr(torch, name) and dtype.kind not in ("quantized", "bits")
    if name in ("int8", "uint8") or not name.startswith(("int", "uint")) or dtype.itemsize > 1
]


def test_the_sizes_of_all_dtypes() -> None:
    theirs = {
        str(value).removeprefix("torch."): value.itemsize
        for value in vars(torch).values()
        if isinstance(value, torch.dtype)
    }
    assert {name: dtype.itemsize for name, dtype in DTYPES.items() if name in theirs} == theirs


def test_the_classes_of_all_storages() -> None:
    from torch.storage import _storage_type_to_dtype_map

    theirs = {
        name: (str(dtype).removeprefix("torch."), dtype.itemsize)
        for name, dtype in _storage_type_to_dtype_map().items()
    }
    mine = {name: dtype_of_class(name) for name in theirs}
    assert {name: (dtype.name, dtype.itemsize) for name, dtype in mine.items() if dtype} == theirs
    assert {name: STORAGE_ITEMSIZE[name] for name in theirs} == {
        name: size for name, (_, size) in theirs.items()
    }


def tensors() -> Iterator[Any]:
    """One per dtype that bytes can be viewed as; empty, large, a view, and one on another."""
    for name in NAMES:
        raw = torch.arange(48, dtype=torch.uint8)
        try:
            yield raw.view(getattr(torch, name)) if name != "bool" else raw > 7
        except RuntimeError:
            continue
    yield torch.ones(0)
    yield torch.arange(100_000.0)
    base = torch.arange(20)
    yield base[3:9:2]
    yield base
    yield torch.quantize_per_tensor(torch.arange(8.0), 0.5, 3, torch.quint8)


def saved(legacy: bool, **config: Any) -> tuple[bytes, list[Any]]:
    opened = io.BytesIO()
    kept = list(tensors())
    if legacy:  # the legacy writer knows the storage classes alone
        types = map(dtype_of_class, STORAGE_ITEMSIZE)
        known = {dtype.name for dtype in types if dtype} - {"complex32"}
        kept = [each for each in kept if str(each.dtype).removeprefix("torch.") in known]
    torch.save(kept, opened, _use_new_zipfile_serialization=not legacy, **config)
    return opened.getvalue(), kept


def all_bytes(archive: Archive) -> list[bytes]:
    return sorted(archive.read(span) for span in archive.storages.values())


def theirs(kept: list[Any]) -> list[bytes]:
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in kept}
    return sorted(
        ctypes.string_at(storage.data_ptr(), storage.nbytes()) for storage in storages.values()
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_storage(legacy: bool, protocol: int) -> None:
    data, kept = saved(legacy, pickle_protocol=protocol)
    archive = open_archive(MemorySource(data, "x.pth"))
    assert archive.format == ("torch-legacy" if legacy else "torch-zip")
    assert all_bytes(archive) == theirs(kept)
    for span in archive.storages.values():
        assert span.offset is not None
        assert data[span.offset : span.offset + span.length] == archive.read(span)
    assert archive.warnings == []


def test_the_places_are_torchs() -> None:
    data, _ = saved(legacy=False)
    archive = open_archive(MemorySource(data, "x.pth"))
    reader = torch._C.PyTorchFileReader(io.BytesIO(data))
    for key, span in archive.storages.items():
        assert span.offset == reader.get_record_offset(f"data/{key}")
    assert archive.facts["serialization_id"] == reader.serialization_id()


def test_without_crcs() -> None:
    torch.serialization.set_crc32_options(False)
    try:
        data, kept = saved(legacy=False)
    finally:
        torch.serialization.set_crc32_options(True)
    archive = open_archive(MemorySource(data, "x.pth"))
    assert isinstance(archive, TorchZip)
    assert archive.directory.has_crcs is archive.facts["crc32"]
    assert all_bytes(archive) == theirs(kept)
    assert {archive.directory.check_crc(i) for i in range(len(archive.directory))} <= {None, True}


@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_any_alignment(alignment: int) -> None:
    config: Any = importlib.import_module("torch.utils.serialization").config

    with config.patch({"save.storage_alignment": alignment}):
        data, kept = saved(legacy=False)
    archive = open_archive(MemorySource(data, "x.pth"))
    assert archive.facts["storage_alignment"] == str(alignment)
    assert all_bytes(archive) == theirs(kept)
    assert {(span.offset or 0) % alignment for span in archive.storages.values()} == {0}


def test_packed_again_with_compression(tmp_path: Path) -> None:
    data, kept = saved(legacy=False)
    path = tmp_path / "again.pth"
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w") as new:
        for info in reversed(old.infolist()):
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    with open_source(path) as source:
        archive = open_archive(source)
        assert all_bytes(archive) == theirs(kept)
        assert {span.offset for span in archive.storages.values()} == {None}


def test_the_folder_has_the_file_s_name(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "my model.pth")
    with open_source(tmp_path / "my model.pth") as source:
        archive = open_archive(source)
        assert archive.facts["folder"] == "my model"
        assert archive.record == "my model/data.pkl"


def test_big_endian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", "big")
    data, _ = saved(legacy=False)
    monkeypatch.undo()
    assert open_archive(MemorySource(data, "x")).byteorder == "big"


def test_fake_storages_have_a_place_too() -> None:
    opened = io.BytesIO()
    with torch.serialization.skip_data():
        torch.save({"a": torch.ones(10), "b": torch.ones(3)}, opened)
    archive = open_archive(MemorySource(opened.getvalue(), "x"))
    assert [span.length for span in archive.storages.values()] == [40, 12]


def test_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "many.pth"
    torch.save([torch.full((2,), float(n)) for n in range(2_000)], path)
    with open_source(path) as source:
        archive = open_archive(source)
        assert len(archive.storages) == 2_000
        assert archive.read(archive.storages["1999"]) == bytes.fromhex("00e0f944" * 2)


def test_a_distributed_checkpoint_is_named(tmp_path: Path) -> None:
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")
    state = {"a": torch.ones(5), "b": torch.ones(70), "epoch": 3}
    dcp.save(state, checkpoint_id=tmp_path, no_dist=True)
    (shard,) = tmp_path.glob("*.distcp")
    with open_source(shard) as source, pytest.raises(FormatError, match=r"\.distcp"):
        open_archive(source)
