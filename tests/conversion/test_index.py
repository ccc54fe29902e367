"""Models in several files, from and to everything: torch and safetensors are the oracles."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.conversion import convert
from ptinspect.conversion.output.sink import Sink
from ptinspect.errors import PtInspectError
from tests.formats.shards import index_text

torch = pytest.importorskip("torch")
raw = pytest.importorskip("tests.corpus.torch_side").raw
library = pytest.importorskip("safetensors.torch")


def weights() -> dict[str, Any]:
    made = {}
    generator = torch.Generator().manual_seed(0)
    for number in range(5):
        made[f"layers.{number}.weight"] = torch.randn(4, 3, generator=generator)
        made[f"layers.{number}.bias"] = torch.randn(4, generator=generator).half()
    made["layers.0.weight"][0, 0] = float("nan")
    made["steps"] = torch.arange(7)
    made["none"] = torch.zeros(0, 3)
    return made


def saved(folder: Path, suffix: str, save: Any) -> Path:
    """Three shards and the index, as `save_pretrained` writes them."""
    whole, keys = weights(), list(weights())
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, part in enumerate((keys[:5], keys[5:8], keys[8:]), 1):
        name = f"{stem}-{number:05}-of-00003.{suffix}"
        save({key: whole[key] for key in part}, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    total = sum(each.numel() * each.element_size() for each in whole.values())
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(index_text(weight_map, total), "utf-8")
    return index


def legacy(tensors: Any, path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def ordered(tensors: Any, path: Path) -> None:
    torch.save(OrderedDict(tensors), path)


def metadata(tensors: Any, path: Path) -> None:
    library.save_file(tensors, path, metadata={"format": "pt"})


KINDS = {
    "safetensors": ("safetensors", metadata),
    "zip": ("bin", torch.save),
    "legacy": ("bin", legacy),
    "ordered": ("bin", ordered),
}


@pytest.fixture(params=KINDS)
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    return saved(tmp_path / "src", *KINDS[request.param])


def must_be(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert set(got) == set(want)
    for key, value in want.items():
        assert (got[key].dtype, got[key].shape) == (value.dtype, value.shape)
        assert raw(got[key]) == raw(value), key


def test_it_is_read(index: Path) -> None:
    with ptinspect.open(index) as document:
        assert not document.warnings
        assert set(document.tensors) == set(weights())
        for key, want in weights().items():
            info = document.tensors[key]
            assert info.read() == raw(want)
            assert raw(info.torch()) == raw(want)


def test_to_one_safetensors(index: Path, tmp_path: Path) -> None:
    convert(index, tmp_path / "o.safetensors", verify=True)
    must_be(library.load_file(tmp_path / "o.safetensors"), weights())


@pytest.mark.parametrize("to", ["state_dict", "same"])
def test_to_one_file_of_torch(index: Path, tmp_path: Path, to: str) -> None:
    convert(index, tmp_path / "o.pt", to=to, verify=True)
    must_be(torch.load(tmp_path / "o.pt", weights_only=True), weights())
    must_be(torch.load(tmp_path / "o.pt", weights_only=True, mmap=True), weights())
    if index.name.startswith("pytorch"):  # safetensors sorts what it writes
        assert list(torch.load(tmp_path / "o.pt")) == list(weights())


def test_to_a_checkpoint(index: Path, tmp_path: Path) -> None:
    convert(index, tmp_path / "o.pt", to="checkpoint", set={"epoch": 3}, verify=True)
    got = torch.load(tmp_path / "o.pt", weights_only=True)
    assert got["epoch"] == 3
    must_be(got["model_state_dict"], weights())


def test_to_other_shards_and_back(index: Path, tmp_path: Path) -> None:
    report = convert(index, tmp_path / "o.safetensors", max_shard_size=200, verify=True)
    got: dict[str, Any] = {}
    for name in report.files[:-1]:
        got.update(library.load_file(name))
    must_be(got, weights())
    ours = Path(report.files[-1])
    assert ours.name == "o.safetensors.index.json"
    convert(ours, tmp_path / "back.pt", verify=True)
    must_be(torch.load(tmp_path / "back.pt", weights_only=True), weights())
    with ptinspect.open(ours) as document:
        assert not document.warnings


def test_on_the_way(index: Path, tmp_path: Path) -> None:
    convert(
        index, tmp_path / "o.safetensors", dtype="bfloat16", exclude=["none", "layers.0.weight"],
        strip_prefix=["layers."], verify=True,
    )  # fmt: skip
    want = {
        key.removeprefix("layers."): value.bfloat16() if value.is_floating_point() else value
        for key, value in weights().items()
        if key not in ("none", "layers.0.weight")  # torch casts NaN in two ways
    }
    must_be(library.load_file(tmp_path / "o.safetensors"), want)


def test_the_call_that_show_names_loads_it(index: Path) -> None:
    from ptinspect.safety.load_advice import load_advice

    with ptinspect.open(index) as document:
        call = load_advice(document).call
    import safetensors

    names = {"json": json, "os": os, "torch": torch, "safetensors": safetensors}
    must_be(eval(call, names), weights())


def test_the_name_is_derived_without_the_index(index: Path, tmp_path: Path) -> None:
    report = convert(index, tmp_path, to="safetensors")
    stem = "model" if index.name.startswith("model.") else "pytorch_model"
    assert report.files == [str(tmp_path / f"{stem}.safetensors")]


def test_module_versions_of_all_shards_are_kept(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    whole, weight_map = model.state_dict(), {}
    for number in range(2):
        part = OrderedDict((key, value) for key, value in whole.items() if key[0] == str(number))
        part._metadata = {  # type: ignore[attr-defined]
            key: value for key, value in whole._metadata.items() if key[:1] in ("", str(number))
        }
        torch.save(part, tmp_path / f"{number}.bin")
        weight_map.update(dict.fromkeys(part, f"{number}.bin"))
    (tmp_path / "m.index.json").write_text(index_text(weight_map))
    convert(tmp_path / "m.index.json", tmp_path / "o.pt")
    got = torch.load(tmp_path / "o.pt", weights_only=True)
    assert dict(got._metadata) == dict(whole._metadata)
    model.load_state_dict(got)


def test_shared_and_strided_tensors_of_shards(tmp_path: Path) -> None:
    base = torch.arange(1000.0)
    first = {"a": base[10:16].view(2, 3).t(), "tied": base[10:16].view(2, 3).t()}
    second = {"b": base[10:16], "p": torch.nn.Parameter(base[:2])}
    torch.save(first, tmp_path / "0.bin")
    torch.save(second, tmp_path / "1.bin")
    weight_map = {**dict.fromkeys(first, "0.bin"), **dict.fromkeys(second, "1.bin")}
    (tmp_path / "m.index.json").write_text(index_text(weight_map))
    convert(tmp_path / "m.index.json", tmp_path / "o.pt", verify=True)
    got = torch.load(tmp_path / "o.pt", weights_only=True)
    assert got["a"].data_ptr() == got["tied"].data_ptr() != got["b"].data_ptr()
    assert got["a"].stride() == first["a"].stride()
    assert isinstance(got["p"], torch.nn.Parameter)
    must_be(got, {**first, **second})
    assert (tmp_path / "o.pt").stat().st_size < 4000  # what the views drag along stays behind


# --- the files that the bytes come from -----------------------------------------------------


def test_a_shard_is_no_target(index: Path) -> None:
    before = {path.name: path.read_bytes() for path in index.parent.iterdir()}
    shard = next(path for path in sorted(index.parent.iterdir()) if path != index)
    for target in (shard, index):
        with pytest.raises(PtInspectError, match="the same file as"):
            convert(index, target, to="safetensors", force=True)
    if index.name.startswith("model"):
        with pytest.raises(PtInspectError, match="the same file as"):
            convert(index, index.parent, to="safetensors", max_shard_size=250, force=True)
        with pytest.raises(PtInspectError, match="the same file as"):
            convert(
                index, index.parent, to="safetensors", max_shard_size=250, force=True, dry_run=True
            )
    assert {path.name: path.read_bytes() for path in index.parent.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "link"), reason="no hard links")
def test_nor_is_another_name_of_a_shard(index: Path, tmp_path: Path) -> None:
    shard = next(path for path in sorted(index.parent.iterdir()) if path != index)
    os.link(shard, tmp_path / "o.safetensors")
    with pytest.raises(PtInspectError, match="the same file as"):
        convert(index, tmp_path / "o.safetensors", force=True)


def test_a_shard_that_changes_meanwhile_is_noticed(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = sorted(path for path in index.parent.iterdir() if path != index)[-1]
    write_pieces = Sink.write_pieces

    def slow(sink: Sink, *args: Any, **more: Any) -> int:
        os.utime(shard, ns=(1, 1))
        return write_pieces(sink, *args, **more)

    monkeypatch.setattr(Sink, "write_pieces", slow)
    with pytest.raises(PtInspectError, match="changed while it was converted") as caught:
        convert(index, tmp_path / "o.safetensors")
    assert caught.value.path == str(shard)
    assert not (tmp_path / "o.safetensors").exists()


# --- scan -----------------------------------------------------------------------------------


def test_scan_looks_into_every_shard(index: Path) -> None:
    report = ptinspect.scan(index)
    assert (report.verdict, report.skipped) == ("clean", False)
    assert [member.path for member in report.members] == sorted(
        str(path) for path in index.parent.iterdir() if path != index
    )


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_scan_finds_what_a_shard_does(tmp_path: Path) -> None:
    index = saved(tmp_path, "bin", torch.save)
    name = "pytorch_model-00002-of-00003.bin"
    torch.save({**torch.load(tmp_path / name), "evil": Payload()}, tmp_path / name)
    report = ptinspect.scan(index)
    assert report.verdict == "dangerous"
    assert [member.verdict for member in report.members] == ["clean", "dangerous", "clean"]
    assert report.as_dict()["members"][1]["findings"][0]["verdict"] == "dangerous"  # type: ignore[index]
    with pytest.raises(PtInspectError, match="loading the output would run"):
        convert(index, tmp_path / "o.pt")
    convert(index, tmp_path / "o.safetensors", exclude=["evil"])
