"""Models without tensors, damaged sources, and options that would change more than is meant."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import ptinspect
from ptinspect.document.to_array import to_numpy
from ptinspect.errors import DamagedError, PtInspectError, UnsupportedError
from ptinspect.pickling import state
from tests.conftest import FIXTURES
from tests.formats.making import Record, Stored, make_zip, torch_zip
from tests.pickling.torch_like import Dense, state_dict

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "value", [{}, torch.nn.Module().state_dict(), torch.nn.Sequential(torch.nn.ReLU())]
)
def test_a_model_without_tensors(tmp_path: Path, value: object) -> None:
    from safetensors.torch import load_file

    torch.save(value, tmp_path / "a.pt")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / "c.pt")
    ptinspect.convert(tmp_path / "b.safetensors", tmp_path / "d.pt")
    assert load_file(tmp_path / "b.safetensors") == {}
    assert torch.load(tmp_path / "c.pt") == torch.load(tmp_path / "d.pt") == {}


def test_a_source_whose_bytes_have_another_crc_is_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"w": torch.arange(1000.0)}, source)
    sound = source.read_bytes()
    data = bytearray(sound)
    at = data.index(torch.arange(1000.0).numpy().tobytes()) + 400
    data[at] ^= 1
    source.write_bytes(data)
    report = ptinspect.convert(source, tmp_path / "b.pt", verify=True)
    assert report.warnings == ["the bytes of a/data/0 do not match their CRC-32: w may be damaged"]
    source.write_bytes(sound)
    assert ptinspect.convert(source, tmp_path / "c.pt", verify=True).warnings == []


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:x", "cpu:1"])
def test_devices_without_bytes(tmp_path: Path, device: str) -> None:
    with pytest.raises(PtInspectError, match="is not a device"):
        ptinspect.convert(
            FIXTURES / "seed" / "model_state_dict.pt", tmp_path / "a.pt", device=device
        )


def test_a_dtype_for_a_checkpoint_s_optimizer_is_told(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    state = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(state, tmp_path / "a.pt")
    report = ptinspect.convert(
        tmp_path / "a.pt", tmp_path / "b.pt", to="checkpoint", dtype="float16"
    )
    assert any("including its step counts" in line for line in report.warnings)


@pytest.mark.parametrize("name", ["b.pt", "b.safetensors"])
@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"contiguous": True}])
def test_an_empty_view_that_begins_beyond_its_storage(
    tmp_path: Path, name: str, options: Any
) -> None:
    view = torch.zeros(3, 0, 4).narrow(0, 2, 1)
    assert view.storage_offset() == 8
    torch.save({"a": view, "b": view.permute(2, 0, 1), "c": torch.ones(2)}, tmp_path / "a.pt")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / name, verify=True, **options)
    with ptinspect.open(tmp_path / name) as document:
        shapes = {key: to_numpy(info.tensor).shape for key, info in document.tensors.items()}
    assert shapes == {"a": (1, 0, 4), "b": (4, 1, 0), "c": (2,)}


def test_a_scalar_of_two_float4_numbers(tmp_path: Path) -> None:
    """safetensors counts the numbers in the last dimension."""
    scalar = torch.ones((), dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    torch.save({"w": scalar, "v": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(PtInspectError, match="w has no last dimension"):
        ptinspect.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")


def test_keys_that_the_metadata_has_too(tmp_path: Path) -> None:
    """{"format": "pt"} is in the metadata of all files, and does not mean that `format` is `pt`."""
    from safetensors import safe_open

    shared, other = torch.arange(3.0), torch.ones(2)
    for model in ({"pt": shared, "a": other}, {"format": shared, "a": shared, "pt": other}):
        torch.save(model, tmp_path / "a.pt")
        ptinspect.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", force=True)
        with safe_open(tmp_path / "b.safetensors", "pt") as file:
            assert file.metadata()["format"] == "pt"
        ptinspect.convert(tmp_path / "b.safetensors", tmp_path / "c.pt", force=True)
        loaded = torch.load(tmp_path / "c.pt")
        assert sorted(loaded) == sorted(model)
        assert all(torch.equal(loaded[key], model[key]) for key in model)


@pytest.mark.parametrize("ordered", [False, True])
def test_tensors_within_the_keys_of_the_file_s_dict(tmp_path: Path, ordered: bool) -> None:
    first, second = torch.zeros(3), torch.ones(3)
    items = {("a", first): second, "b": 1, second * 2: first + 3}
    torch.save(OrderedDict(items) if ordered else items, tmp_path / "a.pt")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="same", verify=True)
    loaded = torch.load(tmp_path / "b.pt", weights_only=False)
    (name, zeros), _, twos = loaded
    assert (name, zeros.tolist(), twos.tolist()) == ("a", [0, 0, 0], [2, 2, 2])
    ones, number, threes = loaded.values()
    assert (ones.tolist(), number, threes.tolist()) == ([1, 1, 1], 1, [3, 3, 3])


class Ordered:
    """Pickled as an OrderedDict, with any arguments and state."""

    def __init__(self, args: Any, state: Any, items: dict[Any, Any]) -> None:
        self.reduced = (OrderedDict, args, state, None, iter(items.items()))

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("to", ["same", "state_dict", "checkpoint"])
def test_tensors_in_arguments_and_state_of_an_ordered_dict(tmp_path: Path, to: str) -> None:
    first, second, third = (torch.full((2,), float(number)) for number in range(3))
    value = Ordered(([["a", first], ["d", first]],), {"e": third}, {"a": third, "b": second})
    torch.save(value, tmp_path / "a.pt")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / "b.pt", to=to, verify=True)
    loaded = torch.load(tmp_path / "b.pt", weights_only=False)
    loaded = loaded.get("model_state_dict", loaded)
    assert {key: item.tolist() for key, item in loaded.items()} == {
        "a": [2, 2], "d": [0, 0], "b": [1, 1],
    }  # fmt: skip
    assert loaded.e.tolist() == [2, 2]


def test_tensors_in_an_unusual_state_of_an_ordered_dict(tmp_path: Path) -> None:
    state = (torch.ones(2), torch.zeros(2))  # torch.load refuses it
    torch.save(Ordered((), state, {"a": torch.ones(3)}), tmp_path / "a.pt")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="same", verify=True)
    with ptinspect.open(tmp_path / "b.pt") as document:
        assert document.check() is None


# --- tensors that are alike but for their storages ----------------------------------------------

BLOCK = Dense("00", 10, (10,), (1,))


def torch_file(
    path: Path, tensors: dict[str, Dense], sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A file whose tensors the pickle machine reads in one step; `sizes` of storages in elements.
    The elements of storage 7 are 7.0."""
    monkeypatch.setattr(state, "FASTPATH_MIN_BYTES", 0)
    records = [Record("a/data.pkl", state_dict(tensors, padding=300))]
    records += [
        Record(f"a/data/{key}", torch.full((size,), float(key)).numpy().tobytes())
        for key, size in sizes.items()
    ]
    path.write_bytes(make_zip(records))
    return path


@pytest.mark.parametrize("target", ["o.pt", "o.safetensors"])
def test_one_of_two_alike_exceeds_its_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Another reference declares that storage 11 has 100 elements. That of 12 has 10."""
    view = BLOCK._replace(size=(100,))
    tensors = {
        "first": BLOCK,
        "all": view._replace(key="11", numel=100),
        "view": view._replace(key="11"),
        "evil": view._replace(key="12"),
        "last": view._replace(key="13", numel=100),
    }
    sizes = {"00": 10, "11": 100, "12": 10, "13": 100}
    source = torch_file(tmp_path / "a.pt", tensors, sizes, monkeypatch)
    with pytest.raises(DamagedError, match="beyond its storage 12: element 100 of 10"):
        ptinspect.convert(source, tmp_path / target)
    del tensors["evil"]
    source = torch_file(tmp_path / "b.pt", tensors, sizes, monkeypatch)
    ptinspect.convert(source, tmp_path / target)
    with ptinspect.open(tmp_path / target) as document:
        assert document.tensors["last"].read() == torch.full((100,), 13.0).numpy().tobytes()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("target", ["o.pt", "o.safetensors", "o.npz"])
def test_a_later_reference_declares_more_than_the_record_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, dry_run: bool
) -> None:
    """The first reference to storage 12 declares the 10 elements of its record. The next record
    follows it, so that its bytes could be read in their place."""
    whole = BLOCK._replace(size=(100,), numel=100)
    tensors = {
        "first": BLOCK,
        "second": whole._replace(key="11"),
        "third": BLOCK._replace(key="13"),
        "fourth": whole._replace(key="14"),  # the form of the evil one is known from here on
        "small": BLOCK._replace(key="12"),
        "evil": whole._replace(key="12"),
    }
    sizes = {"00": 10, "11": 100, "12": 10, "13": 10, "14": 100}
    source = torch_file(tmp_path / "a.pt", tensors, sizes, monkeypatch)
    with pytest.raises(DamagedError, match="the storage 12 has 40 of 400 bytes"):
        ptinspect.convert(source, tmp_path / target, dry_run=dry_run)
    assert not (tmp_path / target).exists()


def test_a_storage_with_two_devices_has_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {
        "cpu": BLOCK,
        "cuda": BLOCK._replace(key="11", location="cuda:0"),
        "a": BLOCK._replace(key="12"),
        "b": BLOCK._replace(key="12", location="cuda:0"),
    }
    source = torch_file(tmp_path / "a.pt", tensors, {"00": 10, "11": 10, "12": 10}, monkeypatch)
    ptinspect.convert(source, tmp_path / "o.pt")
    for path, prefix in ((source, "0."), (tmp_path / "o.pt", "")):
        with ptinspect.open(path) as document:
            devices = [document.tensors[prefix + name].device for name in tensors]
        assert devices == ["cpu", "cuda:0", "cpu", "cpu"]


@pytest.mark.parametrize("target", ["o.pt", "o.safetensors"])
def test_an_encrypted_storage_is_not_copied(tmp_path: Path, target: str) -> None:
    *records, data, version = torch_zip([Stored("0", b"8 bytes!")])
    pickle = records[0]._replace(data=state_dict({"w": Dense("0", 2, (2,), (1,))}))
    data = data._replace(flags=data.flags | 1)
    (tmp_path / "a.pt").write_bytes(make_zip([pickle, data, version]))
    with pytest.raises(UnsupportedError, match="the record is encrypted"):
        ptinspect.convert(tmp_path / "a.pt", tmp_path / target)
    with ptinspect.open(tmp_path / "a.pt") as document:
        assert document.tensors["w"].tensor.storage.file_offset is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e5m2", "uint8", "int64"])
def test_negated_tensors_of_every_type(tmp_path: Path, dtype: str) -> None:
    from safetensors.torch import load_file

    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    torch.save({"w": torch._neg_view(tensor)}, tmp_path / "a.pt")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / "a.safetensors", verify=True)
    written = load_file(tmp_path / "a.safetensors")["w"]
    assert written.dtype is tensor.dtype
    assert torch.equal(written.double() % 256, -tensor.double() % 256)
    assert ptinspect.diff(tmp_path / "a.pt", tmp_path / "a.safetensors").same


def _with_pickle(path: Path, *replacements: tuple[bytes, bytes]) -> None:
    """Write a file of torch.save again, with other bytes in its pickle."""
    with ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with ZipFile(path, "w") as target:
        for name, data in records.items():
            for old, new in replacements if name.endswith("data.pkl") else ():
                assert old in data
                data = data.replace(old, new)
            target.writestr(name, data)


@pytest.mark.parametrize(
    ("dtype", "replacement"),
    [("bool", (b"FloatStorage", b"BoolStorage")), ("float32", (b"\3\0\0\0neg", b"\4\0\0\0conj"))],
)
def test_tensors_that_cannot_be_conjugated_or_negated(
    tmp_path: Path, dtype: str, replacement: tuple[bytes, bytes]
) -> None:
    torch.save({"w": torch._neg_view(torch.ones(2))}, tmp_path / "a.pt")
    _with_pickle(tmp_path / "a.pt", replacement)
    with pytest.raises(DamagedError, match=f"a tensor of {dtype} cannot be conjugated or negated"):
        ptinspect.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")


def test_a_storage_of_an_unknown_type_is_not_written(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4))
    torch.save(model, tmp_path / "a.pt")
    _with_pickle(tmp_path / "a.pt", (b"ctorch\nLongStorage\n", b"ctorch\nLongWtorage\n"))
    with pytest.raises(UnsupportedError, match="a storage has an unknown type"):
        ptinspect.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="same")
    assert not (tmp_path / "b.pt").exists()


def test_values_of_sparse_and_nested_tensors_are_cast(tmp_path: Path) -> None:
    dense = torch.eye(3) * 1e6
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    tensors = {"coo": dense.to_sparse(), "csr": dense.to_sparse_csr(), "n": nested, "w": dense}
    torch.save(tensors, tmp_path / "a.pt")
    report = ptinspect.convert(
        tmp_path / "a.pt", tmp_path / "b.pt", dtype="float16", allow_overflow=True
    )
    written = torch.load(tmp_path / "b.pt")
    for key, tensor in tensors.items():
        assert written[key].dtype is torch.float16
        if key != "n":
            assert torch.equal(written[key].to_dense(), tensor.half().to_dense())
    assert torch.equal(written["n"].unbind()[1], torch.ones(3).half())
    assert all(item["changed"] for item in report.as_dict()["tensors"])
    assert [item["tensors"] for item in report.as_dict()["lost_values"]] == [
        ["coo"],
        ["csr"],
        ["w"],
    ]
