"""Distributed checkpoints: equal to what was saved, their pieces proved to cover each tensor."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ptinspect
from ptinspect.formats.torch.distributed import undo_transform
from ptinspect.limits import LIMITS
from ptinspect.source.base import MemorySource
from tests.cli.running import run
from tests.conftest import FIXTURES
from tests.torch_child import torch_python

LESSON = FIXTURES / "others/dcp"


def test_a_folder_and_its_metadata_are_one_document() -> None:
    for path in (LESSON, LESSON / ".metadata"):
        with ptinspect.open(path) as document:
            assert (document.archive.format, document.kind) == ("torch-dcp", "checkpoint")
            assert list(document.tensors) == ["model.layer.weight", "model.layer.bias"]
            assert document.tensors["model.layer.bias"].numpy().tolist() == [pytest.approx(0.0293)]


def test_show_reads_one_document_and_lists_the_pieces() -> None:
    result = run("show", "-f", "json", LESSON)
    shown = json.loads(result.stdout)
    assert result.exit_code == 0 and shown["file"]["format"] == "torch-dcp"
    weight = shown["tensors"][0]
    assert weight["storage"] is None
    assert weight["pieces"] == [{"file": "__0_0.distcp", "offsets": [0, 0], "shape": [1, 2]}]
    assert shown["set"] == {"files": [".metadata", "__0_0.distcp"], "missing": []}
    assert shown["load"]["call"].startswith("torch.distributed.checkpoint.load(")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(LESSON, tmp_path / "ck")
    return tmp_path / "ck"


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "__0_0.distcp").unlink()
    result = run("show", folder)
    assert result.exit_code == 0 and "files are missing: __0_0.distcp" in result.stdout
    target = folder / "out.safetensors"
    result = run("convert", folder, target)
    assert result.exit_code == 2 and "__0_0.distcp is missing" in result.stderr
    assert not target.exists()


def test_a_file_with_pieces_is_not_overwritten(folder: Path) -> None:
    before = (folder / "__0_0.distcp").read_bytes()
    result = run("convert", "--force", "--to", "safetensors", folder, folder / "__0_0.distcp")
    assert result.exit_code == 2 and "it is the same file as" in result.stderr
    assert (folder / "__0_0.distcp").read_bytes() == before


def test_a_file_with_pieces_that_changes_meanwhile_is_noticed(folder: Path) -> None:
    def touch(done: int, total: int) -> None:
        os.utime(folder / "__0_0.distcp", ns=(1, 1))

    with pytest.raises(ptinspect.PtInspectError, match="changed while it was converted") as caught:
        ptinspect.convert(folder, folder / "out.safetensors", progress=touch)
    assert caught.value.path == str(folder / "__0_0.distcp")
    assert not (folder / "out.safetensors").exists()


def test_a_cut_file_is_an_error(folder: Path) -> None:
    data = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(data[: len(data) // 2])
    with ptinspect.open(folder) as document, pytest.raises(ptinspect.PtInspectError) as caught:
        for info in document.tensors.values():
            info.read()
    assert caught.value.path == str(folder / "__0_0.distcp")


@pytest.mark.parametrize(
    "path", [b"../away.disc", b"/tmp/abc.dis", b"a/../../b.di", b"..\\away.dist"]
)
def test_a_file_outside_the_folder_is_refused(path: bytes, folder: Path) -> None:
    data = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(data.replace(b"__0_0.distcp", path))
    with pytest.raises(ptinspect.DamagedError, match="outside the folder"):
        ptinspect.open(folder)


@pytest.mark.parametrize("name", ["model.layer.bias", "epoch"])
def test_of_two_places_of_one_piece_both_are_named_and_the_last_counts(
    name: str, tmp_path: Path
) -> None:
    """torch.load makes a dict of both: indexes are equal if names and offsets are."""
    torch = pytest.importorskip("torch")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    state = {"model.layer.bias": torch.ones(2), "other": torch.zeros(2), "epoch": 3, "epoc2": 4}
    checkpoint.save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    path = tmp_path / "dcp/.metadata"
    metadata = pickle.loads(path.read_bytes())
    twin = "other" if name == "model.layer.bias" else "epoc2"
    (place,) = (info for index, info in metadata.storage_data.items() if index.fqn == twin)
    path.write_bytes(with_place(metadata, name, place))
    again = pickle.loads(path.read_bytes())
    checkpoint.load(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    assert len(again.storage_data) == 4
    with ptinspect.open(tmp_path / "dcp") as document:
        values = {entry.path[-1]: entry.value for entry in document.entries}
        assert values["epoch"] == state["epoch"]
        assert torch.equal(document.tensors["model.layer.bias"].torch(), state["model.layer.bias"])
        (warning,) = document.warnings
    assert f"{name!r}" in warning.message and warning.message.count("__0_0.distcp at ") == 2


def with_place(metadata: Any, name: str, place: object) -> bytes:
    """Return the pickle of `metadata` with a second place for one entry, after the first."""
    (index,) = (index for index in metadata.storage_data if index.fqn == name)

    class Pairs(dict):  # type: ignore[type-arg]
        def __reduce__(self) -> tuple[object, ...]:
            return dict, (), None, None, iter([*self.items(), (replace(index), place)])

    metadata.storage_data = Pairs(metadata.storage_data)
    return pickle.dumps(metadata, protocol=4)


@pytest.mark.parametrize("name", [b".checkpoint.metadata", b"Metadata", b"state_dict_metadata"])
def test_a_metadata_with_a_flipped_bit_in_a_name_is_damaged(name: bytes, folder: Path) -> None:
    path = folder / ".metadata"
    path.write_bytes(path.read_bytes().replace(name, name[:-1] + b"c", 1))
    with pytest.raises(ptinspect.DamagedError, match="it does not list the"):
        ptinspect.open(folder)


def test_an_evil_metadata_is_not_executed(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return (exec, (f"open({str(folder / 'ran')!r}, 'w')",))

    data = pickle.dumps({"torch.distributed.checkpoint": Evil()}, protocol=4)
    (folder / ".metadata").write_bytes(data)
    run("show", folder)
    assert run("scan", folder).exit_code == 1
    assert not (folder / "ran").exists()


@pytest.mark.slow
def test_two_processes_save_uneven_pieces(tmp_path: Path) -> None:
    """DTensors sharded along three dimensions, replicated ones, plain tensors and values."""
    torch = pytest.importorskip("torch")
    folder = tmp_path / "ck"
    script = Path(__file__).with_name("dcp_child.py")
    processes = [
        subprocess.Popen([torch_python(trains=True), script, str(rank), "2", str(folder)])
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    truth = torch.load(f"{folder}.truth.pt")
    with ptinspect.open(folder) as document:
        entries = {entry.path: entry.value for entry in document.entries}
        assert entries == {("epoch",): 3, ("name",): "가", ("numbers",): [1, 2, 3]}
        tensors = {info.path: info for info in document.tensors.values()}
        expected = {("model", name): tensor for name, tensor in truth["model"].items()}
        expected |= {("layers", n, "w"): layer["w"] for n, layer in enumerate(truth["layers"])}
        assert tensors.keys() == expected.keys()
        for path, tensor in expected.items():
            assert tensors[path].shape == tuple(tensor.shape)
            assert torch.equal(tensors[path].torch(), tensor), path
    result = run("convert", folder, tmp_path / "out.pt", "--to", "same")
    assert result.exit_code == 0, result.stderr
    saved = torch.load(tmp_path / "out.pt")
    assert saved["epoch"] == 3
    for name, tensor in truth["model"].items():
        assert torch.equal(saved["model"][name], tensor)
    assert ptinspect.diff(folder, tmp_path / "out.pt").same


def test_a_value_with_tensors_of_its_own_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.distributed import checkpoint

    state = {
        "w": torch.ones(2),
        "pair": SimpleNamespace(t=torch.zeros(3)),
        "two": (1, torch.eye(2)),
    }
    checkpoint.save(state, checkpoint_id=tmp_path / "dcp")
    with ptinspect.open(tmp_path / "dcp") as document:
        tensors = {info.path: info for info in document.tensors.values()}
        assert tensors.keys() == {("w",), ("pair", "t"), ("two", 1)}
        assert torch.equal(tensors["pair", "t"].torch(), state["pair"].t)
        assert torch.equal(tensors["two", 1].torch(), state["two"][1])
        assert not document.warnings
    result = run("convert", tmp_path / "dcp", tmp_path / "out.pt", "--to", "same")
    assert result.exit_code == 0, result.stderr
    assert torch.equal(
        torch.load(tmp_path / "out.pt", weights_only=False)["pair"].t, torch.zeros(3)
    )


def every_dtype(torch: Any) -> dict[str, Any]:
    """Tensors of all dtypes, of no size and no dimensions, views and a parameter."""
    names = [
        "float64", "float32", "float16", "bfloat16", "complex32", "complex64", "complex128",
        "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
        "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
    ]  # fmt: skip
    torch.manual_seed(0)
    tensors = {name: torch.randn(3, 4).abs().mul(3).to(getattr(torch, name)) for name in names}
    return tensors | {
        "bool": torch.tensor([[True, False]]), "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4), "none": torch.zeros(0), "transposed": torch.randn(4, 3).t(),
        "expanded": torch.ones(3, 1).expand(3, 4), "part": torch.arange(10.0)[2:5],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip


def raw(tensor: Any, torch: Any) -> bytes:
    values: bytes = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return values


WRITERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "a file per piece": {"single_file_per_rank": False},
    "three threads": {"thread_count": 3},
    "not flattened": {},
    "lowest rank": {},
    "own metadata": {},
    "asynchronous": {},
    "compressed": {},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRITERS)
def test_all_ways_of_saving_give_the_same_tensors(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    tensors = every_dtype(torch)
    state = {"model": tensors, "epoch": 3}
    options = WRITERS[name]
    if name == "compressed":
        pytest.importorskip("zstandard")
        extension = pytest.importorskip("torch.distributed.checkpoint._extension")
        options = {"_extensions": [extension.ZStandard()]}
    writer = checkpoint.FileSystemWriter(tmp_path / "dcp", sync_files=False, **options)
    planner = checkpoint.DefaultSavePlanner(
        flatten_state_dict=name != "not flattened",
        dedup_save_to_lowest_rank=name == "lowest rank",
    )
    if name in ("own metadata", "asynchronous"):
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        if name == "asynchronous":
            checkpoint.async_save(state, storage_writer=writer).result()
        else:
            checkpoint.save(
                state, storage_writer=writer, planner=planner,
                use_collectives=name != "own metadata",
            )  # fmt: skip
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    check_folder(tmp_path / "dcp", tensors, torch)


def check_folder(folder: Path, tensors: dict[str, Any], torch: Any) -> None:
    """Compare a folder, and the file that it is converted to, with what was saved."""
    result = run("convert", folder, folder.parent / "out.pt", "--to", "same")
    assert result.exit_code == 0, result.stderr
    for path in (folder, folder.parent / "out.pt"):
        with ptinspect.open(path) as document:
            infos = {info.path: info for info in document.tensors.values()}
            assert infos.keys() == {("model", name) for name in tensors}
            assert {entry.path: entry.value for entry in document.entries}["epoch",] == 3
            assert not [w for w in document.warnings if w.kind in ("not-read", "missing-file")]
            for name, tensor in tensors.items():
                info = infos["model", name]
                assert info.shape == tuple(tensor.shape), name
                assert f"torch.{info.dtype.name}" == str(tensor.dtype)  # type: ignore[union-attr]
                assert info.read() == raw(tensor, torch), name


@pytest.mark.filterwarnings("ignore")
def test_a_value_whose_file_is_missing_is_left_out_and_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    writer = checkpoint.FileSystemWriter(tmp_path / "dcp", single_file_per_rank=False)
    checkpoint.save({"w": torch.ones(2), "epoch": 3, "name": "a"}, storage_writer=writer)
    metadata = pickle.loads((tmp_path / "dcp/.metadata").read_bytes())
    (place,) = (place for index, place in metadata.storage_data.items() if index.fqn == "epoch")
    (tmp_path / "dcp" / place.relative_path).unlink()
    text = f"files are missing: {place.relative_path}; what is in them is left out: epoch"
    assert text in run("show", tmp_path / "dcp").stdout
    result = run("convert", tmp_path / "dcp", tmp_path / "out.pt", "--to", "same")
    assert result.exit_code == 0 and text in result.stderr
    saved = torch.load(tmp_path / "out.pt")
    assert saved.keys() == {"w", "name"}


@pytest.mark.filterwarnings("ignore")
def test_pieces_in_safetensors_are_read(tmp_path: Path) -> None:
    """All tensors of a file are one safetensors file, after its other values."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in every_dtype(torch).items()
        if not name.startswith("complex") and "fnuz" not in name
    }
    writer = checkpoint.FileSystemWriter(
        tmp_path / "dcp", serialization_format=SerializationFormat.SAFETENSORS
    )
    checkpoint.save({"model": tensors, "epoch": 3}, storage_writer=writer)
    check_folder(tmp_path / "dcp", tensors, torch)
    assert run("scan", tmp_path / "dcp").exit_code == 0
    path = tmp_path / "dcp/__0_0.distcp"
    path.write_bytes(path.read_bytes().replace(b"[0, 0]", b"[1, 0]"))
    with (
        ptinspect.open(tmp_path / "dcp") as document,
        pytest.raises(ptinspect.DamagedError, match=r"has no 'model.float32' at \(0, 0\)"),
    ):
        document.tensors["model.float32"].read()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_distributed", [True, False])
def test_the_safetensors_of_one_process_are_named_as_pieces(
    is_distributed: bool, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    writer = checkpoint.HuggingFaceStorageWriter(
        str(tmp_path / "hf"), save_distributed=is_distributed
    )
    checkpoint.save({"w": torch.ones(2)}, storage_writer=writer)
    (path,) = (tmp_path / "hf").glob("*.safetensors")
    result = run("convert", path, tmp_path / "out.pt")
    assert result.exit_code == 0
    for text in (run("show", path).stdout, result.stderr):
        assert ("may be pieces of larger ones" in text) == is_distributed


@pytest.mark.slow
def test_the_safetensors_of_two_processes_are_one_document(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    folder, script = tmp_path / "hf", Path(__file__).with_name("hf_child.py")
    command = [torch_python(trains=True), script]
    processes = [subprocess.Popen([*command, str(rank), "2", str(folder)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    truth = torch.load(f"{folder}.truth.pt")
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 4
    for path in (folder, folder / names[-1]):
        with ptinspect.open(path) as document:
            assert document.archive.format == "torch-dcp"
            assert document.archive.facts["set"] == {"ranks": 2, "files": names, "missing": []}
            assert document.archive.size == sum(p.stat().st_size for p in folder.iterdir())
            assert document.tensors.keys() == truth.keys()
            for name, tensor in truth.items():
                assert document.tensors[name].shape == tuple(tensor.shape)
                assert torch.equal(document.tensors[name].torch(), tensor), name
    for target in ("out.pt", "out.safetensors"):
        assert run("convert", folder, tmp_path / target).exit_code == 0
        assert ptinspect.diff(folder, tmp_path / target).same
    with ptinspect.safe_open(folder, "pt") as opened:
        assert opened.get_slice("rows")[1:4].tolist() == truth["rows"][1:4].tolist()
    (folder / names[0]).unlink()
    result = run("show", folder)
    assert result.exit_code == 2 and "of 28 elements" in result.stderr
    (folder / names[2]).unlink()
    shown = run("show", folder)
    assert shown.exit_code == 2 and "file 1 of 2 is missing for every process" in shown.stderr


def write_shard(path: Path, tensors: dict[str, Any], **offsets: list[int]) -> None:
    from safetensors.torch import save_file

    places = {name: {"saved_offsets": place} for name, place in offsets.items()}
    save_file(tensors, path, metadata={"DCP_SHARDING_INFO": json.dumps(places), "format": "pt"})


@pytest.mark.parametrize(
    ("place", "rows", "text"),
    [
        ([2, 0], 3, ""),
        ([3, 0], 3, "have 15 of 18 elements"),
        ([1, 0], 3, "two pieces of 'w' overlap"),
        ([2], 3, "has 2 dimensions, its offsets another number"),
        ([-1, 0], 3, "has no shape"),
        ([0, 0], 2, "differs"),
    ],
)
def test_pieces_of_safetensors_are_whole_or_an_error(
    place: list[int], rows: int, text: str, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    whole = torch.arange(15.0).reshape(5, 3)
    write_shard(
        tmp_path / "shard-00001-model-00001-of-00001.safetensors", {"w": whole[:2]}, w=[0, 0]
    )
    second = tmp_path / "shard-00003-model-00001-of-00001.safetensors"
    write_shard(second, {"w": whole[5 - rows :].clone()}, w=place)
    result = run("convert", tmp_path, tmp_path / "out.pt")
    assert ("shard-00002-*" in result.stderr) == (text != "differs")
    assert result.exit_code == (2 if text else 0) and text in result.stderr
    assert (tmp_path / "out.pt").exists() != bool(text)
    if not text:
        assert torch.equal(torch.load(tmp_path / "out.pt")["w"], whole)


def test_pieces_of_safetensors_with_two_dtypes_are_an_error(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    for number, dtype in enumerate((torch.float32, torch.float16), 1):
        path = tmp_path / f"shard-0000{number}-model-00001-of-00001.safetensors"
        write_shard(path, {"w": torch.ones(2, dtype=dtype)}, w=[2 * number - 2])
    with pytest.raises(
        ptinspect.DamagedError, match=r"shard-00002-.*differs from its other pieces in its dtype"
    ):
        ptinspect.open(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_tensor_has_its_scale(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    tensor = torch.quantize_per_channel(
        torch.randn(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([1, 2]), 0, torch.qint8
    )
    checkpoint.save({"q": tensor, "w": torch.ones(2)}, checkpoint_id=tmp_path / "dcp")
    with ptinspect.open(tmp_path / "dcp") as document:
        result = document.tensors["q"].torch()
    assert torch.equal(result.int_repr(), tensor.int_repr())
    assert torch.equal(result.q_per_channel_scales(), tensor.q_per_channel_scales())
    (tmp_path / "dcp/__0_0.distcp").unlink()
    result = run("show", tmp_path / "dcp")
    assert result.exit_code == 0 and "files are missing: __0_0.distcp" in result.stdout


def test_conjugated_and_negated_tensors_have_the_values_that_torch_shows(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    numbers = torch.tensor([1 + 2j, -3.5 - 0j, complex("inf+nanj")], dtype=torch.complex128)
    tensors = {"conj": numbers.conj(), "neg": numbers.clone().conj().imag}
    assert tensors["conj"].is_conj() and tensors["neg"].is_neg()
    checkpoint.save(dict(tensors), checkpoint_id=tmp_path / "dcp")
    with ptinspect.open(tmp_path / "dcp") as document:
        for info in document.tensors.values():
            logical = tensors[info.key].resolve_conj().resolve_neg()
            assert info.read() == logical.numpy().tobytes()


def test_large_pieces_are_copied_from_file_to_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.distributed import checkpoint

    state = {"a": torch.randn(700, 900), "b": torch.randn(3), "c": torch.randn(900, 700).t()}
    checkpoint.save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    with ptinspect.open(tmp_path / "dcp") as document:
        spans = document.archive.storages
        assert spans["a"].file_ranges(0, 100) and spans["c"].file_ranges(0, 100) is None
        (whole,) = spans["a"].file_ranges(0, 700 * 900 * 4) or ()
        assert whole.crc == zlib.crc32(state["a"].numpy().tobytes())
        (_, first, length, crc), *others = spans["a"].file_ranges(40, 700 * 900 * 4) or ()
        assert not others and length == 700 * 900 * 4 - 40 and crc is None
        piece = (tmp_path / "dcp/__0_0.distcp").read_bytes()[first : first + 8]
        assert piece == state["a"].reshape(-1)[10:12].numpy().tobytes()
    for suffix in ("safetensors", "pt"):
        result = run("convert", tmp_path / "dcp", tmp_path / f"out.{suffix}")
        assert result.exit_code == 0, result.stderr
        with ptinspect.open(tmp_path / f"out.{suffix}") as document:
            for key, tensor in state.items():
                assert torch.equal(document.tensors[key].torch(), tensor), key
    files = tmp_path / "dcp/__0_0.distcp"
    data = bytearray(files.read_bytes())
    data[first + 1_000_000] ^= 1
    files.write_bytes(data)
    for suffix in ("safetensors", "pt"):
        result = run("convert", tmp_path / "dcp", tmp_path / f"flipped.{suffix}")
        assert result.exit_code == 0
        assert result.stderr.count("do not match their CRC-32: a may be damaged") == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ["torch.distributed", "torch.distributed._shard"])
def test_the_metadata_of_older_torch_is_read(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.0 to 2.2 have no storage_meta, and properties of another module; torch 1.13 has all
    classes in another package. Written by today's classes, with the attributes of then: v1.13.1 and
    v2.1.2 of torch/distributed/checkpoint/metadata.py and filesystem.py."""
    torch = pytest.importorskip("torch")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    from torch.distributed._shard.sharded_tensor import metadata as old
    from torch.distributed.checkpoint import filesystem, metadata

    tensors = {"w": torch.randn(3, 4), "half": torch.randn(5).half()}
    folder = tmp_path / "dcp"
    checkpoint.save({"model": tensors, "epoch": 3}, checkpoint_id=folder, no_dist=True)
    value = pickle.loads((folder / ".metadata").read_bytes())
    for name in ("storage_meta", "version"):
        value.__dict__.pop(name, None)
    for entry in value.state_dict_metadata.values():
        if hasattr(entry, "properties"):
            new = entry.properties
            entry.properties = old.TensorProperties(
                new.dtype, new.layout, new.requires_grad, new.memory_format, new.pin_memory
            )
    for place in value.storage_data.values():
        place.__dict__.pop("transform_descriptors", None)
    for module in (metadata, filesystem):
        name = f"{package}.checkpoint.{module.__name__.rpartition('.')[2]}"
        monkeypatch.setitem(sys.modules, name, module)
        for kind in list(vars(module).values()):
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                monkeypatch.setattr(kind, "__module__", name)
    (folder / ".metadata").write_bytes(pickle.dumps(value))
    monkeypatch.undo()
    check_folder(folder, tensors, torch)
    assert run("scan", folder).exit_code == 0


def test_a_damaged_compressed_piece_is_an_error() -> None:
    pytest.importorskip("zstandard")
    damaged = MemorySource(b"no frame of zstd", "x.distcp", base=None)
    with pytest.raises(ptinspect.DamagedError, match="a compressed piece is damaged"):
        undo_transform(damaged, "stream.zstd/1", LIMITS)


def test_a_file_of_that_name_without_offsets_is_a_whole_model(tmp_path: Path) -> None:
    """As in HuggingFaceStorageReader.read_metadata, whose offsets are zeros then."""
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "shard-00001-model-00001-of-00001.safetensors"
    save_file({"w": torch.arange(6.0).reshape(2, 3)}, path)
    with ptinspect.open(path) as document:
        assert document.tensors["w"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
