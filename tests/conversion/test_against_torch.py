"""torch and safetensors as the oracles of what is written."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.conversion import convert
from ptinspect.conversion.output.pieces import CAST_DTYPES, dtype_converter
from ptinspect.dtypes import DTYPES
from ptinspect.formats.zip_directory import ZipDirectory
from ptinspect.source.local import open_source
from tests.conftest import FIXTURES

torch = pytest.importorskip("torch")
raw = pytest.importorskip("tests.corpus.torch_side").raw
library = pytest.importorskip("safetensors.torch")
nn = torch.nn

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def pickle_of(path: Path) -> bytes:
    with open_source(path) as source:
        directory = ZipDirectory(source)
        number = next(i for i, name in enumerate(directory.names) if name.endswith("data.pkl"))
        return directory.read(number)


def load(path: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, **options)


class Net(nn.Module):
    """A bit of everything that has a state_dict of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LSTM(4, 3))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight  # tied
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("left", torch.zeros(1000), persistent=False)
        self.register_buffer("sliced", torch.arange(10_000.0)[5:8])
        self.scale = nn.Parameter(torch.ones(2, 3).t(), requires_grad=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A full model, its state_dict as torch saves it, and the model."""
    folder = tmp_path_factory.mktemp("net")
    torch.manual_seed(0)
    model = Net()
    torch.save(model, folder / "net.pt")
    torch.save(model.state_dict(), folder / "torch.pt")
    return folder / "net.pt", folder / "torch.pt", model


def test_the_state_dict_of_a_full_model_is_torchs(saved: Any, tmp_path: Path) -> None:
    source, theirs, _ = saved
    convert(source, tmp_path / "torch.pt", verify=True)
    want, got = load(theirs), load(tmp_path / "torch.pt", weights_only=True)
    assert type(got) is OrderedDict and list(got) == list(want)
    assert got._metadata == want._metadata and type(got._metadata) is OrderedDict
    for key, value in want.items():
        mine = got[key]
        assert torch.equal(mine, value)
        assert (mine.dtype, mine.stride(), mine.requires_grad) == (
            value.dtype, value.stride(), value.requires_grad,
        )  # fmt: skip
    assert got["embed.weight"].data_ptr() == got["head.weight"].data_ptr()
    assert got["embed.weight"] is not got["head.weight"]
    assert got["sliced"].untyped_storage().nbytes() == 12  # a slice without what it was cut from


def test_its_pickle_is_torchs_byte_for_byte(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
            self.weight = nn.Parameter(torch.ones(300, 2).bfloat16())
            self.register_buffer("small", torch.ones(3).to(torch.float8_e4m3fn))

    source, theirs, ours = (tmp_path / name for name in ("net.pt", "a.pt", "out/a.pt"))
    ours.parent.mkdir()
    model = Plain()
    Plain.__qualname__ = Plain.__name__
    globals()["Plain"] = Plain
    torch.save(model, source)
    torch.save(model.state_dict(), theirs)
    convert(source, ours)
    assert pickle_of(ours) == pickle_of(theirs)
    id_and_crc = 200  # the serialization id, and its CRC twice, differ
    one, other = ours.read_bytes(), theirs.read_bytes()
    assert len(one) == len(other)
    assert sum(a != b for a, b in zip(one, other, strict=True)) < id_and_crc


def test_a_state_dict_comes_out_as_it_was(tmp_path: Path) -> None:
    made = {f"layer.{n}": torch.full((3,), float(n)) for n in range(1500)}
    source, ours = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save(made, source)
    convert(source, ours, verify=True)
    assert pickle_of(ours) == pickle_of(source)


def test_torchs_other_readers_take_it(saved: Any, tmp_path: Path) -> None:
    source, theirs, _ = saved
    ours = tmp_path / "torch.pt"
    convert(source, ours)
    mapped = load(ours, mmap=True, weights_only=True)
    assert all(torch.equal(value, mapped[key]) for key, value in load(theirs).items())
    reader = torch._C.PyTorchFileReader(str(ours))
    assert "data.pkl" in reader.get_all_records()
    assert reader.get_record_offset("data/0") % 64 == 0


def test_safetensors_are_byte_for_byte_the_librarys(tmp_path: Path) -> None:
    torch.manual_seed(1)
    made = {
        "z": torch.randn(2, 3), "a": torch.arange(7), "half\n\"ü": torch.randn(3).half(),
        "flag": torch.tensor([True]), "b16": torch.randn(5).bfloat16(), "empty": torch.empty(0, 2),
        "f8": torch.ones(3).to(torch.float8_e5m2), "u": torch.ones(2, dtype=torch.uint16),
        "scalar": torch.tensor(2.5, dtype=torch.float64), "c": torch.ones(1, dtype=torch.complex64),
    }  # fmt: skip
    source, ours, theirs = (tmp_path / name for name in ("a.pt", "o.safetensors", "t.safetensors"))
    torch.save(made, source)
    convert(source, ours, verify=True)
    library.save_file(made, theirs, metadata={"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_tensors_are_recorded_as_save_model_does(tmp_path: Path) -> None:
    model, ours, back = Tied(), tmp_path / "o.safetensors", tmp_path / "back.pt"
    torch.save(model, tmp_path / "tied.pt")
    report = convert(tmp_path / "tied.pt", ours)
    assert any("head.weight is embed.weight" in line for line in report.warnings)
    other = Tied()
    assert library.load_model(other, str(ours)) == (set(), [])
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    convert(ours, back)
    got = load(back, weights_only=True)
    assert set(got) == set(model.state_dict())
    assert got["embed.weight"].data_ptr() == got["head.weight"].data_ptr()


def test_shards_and_their_index(tmp_path: Path) -> None:
    made = {f"layers.{n}.weight": torch.full((100,), float(n)) for n in range(10)}
    torch.save(made, tmp_path / "a.pt")
    report = convert(tmp_path / "a.pt", tmp_path / "model.safetensors", max_shard_size="1200")
    assert [Path(name).name for name in report.files] == [
        *(f"model-{n:05}-of-00004.safetensors" for n in range(1, 5)),
        "model.safetensors.index.json",
    ]
    import json

    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"] == {"total_size": 4000}
    got = {}
    for name in sorted(set(index["weight_map"].values())):
        part = library.load_file(tmp_path / name)
        assert all(index["weight_map"][key] == name for key in part)
        got.update(part)
    assert set(got) == set(made)
    assert all(torch.equal(got[key], value) for key, value in made.items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float8_e4m3fn"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_cast_file_holds_what_torch_casts(
    saved: Any, tmp_path: Path, dtype: str, suffix: str
) -> None:
    source, theirs, _ = saved
    ours = tmp_path / f"o.{suffix}"
    convert(source, ours, dtype=dtype, shared="duplicate" if suffix != "pt" else "keep-one")
    got = load(ours, weights_only=True) if suffix == "pt" else library.load_file(ours)
    for key, value in load(theirs).items():
        want = value.to(getattr(torch, dtype)) if value.is_floating_point() else value
        assert got[key].dtype is want.dtype
        assert raw(got[key]) == raw(want)
    if suffix == "pt":
        assert got["embed.weight"].data_ptr() == got["head.weight"].data_ptr()


@pytest.mark.parametrize("target", CAST_DTYPES)
@pytest.mark.parametrize("source", CAST_DTYPES)
def test_rounding_is_torchs(source: str, target: str) -> None:
    """All bit patterns of the small types; of the large ones random ones and all halfway cases of
    float16, with their neighbours. Of NaN only that it is one: torch's bits depend on where in a
    vector it stands."""
    if source == target:
        return
    given = patterns(DTYPES[source].itemsize)
    values = torch.frombuffer(bytearray(given), dtype=torch.uint8).view(getattr(torch, source))
    want = values.to(getattr(torch, target))
    mine = dtype_converter(DTYPES[source], DTYPES[target])(given)
    got = torch.frombuffer(bytearray(mine), dtype=torch.uint8).view(getattr(torch, target))
    nan = want.double().isnan()
    assert torch.equal(nan, got.double().isnan())
    size = DTYPES[target].itemsize
    same = (want.view(torch.uint8).view(-1, size) == got.view(torch.uint8).view(-1, size)).all(1)
    assert bool((same | nan).all())


def patterns(size: int) -> bytes:
    import numpy as np

    if size < 4:
        return np.arange(1 << 8 * size, dtype=f"<u{size}").tobytes()
    half = np.arange(1 << 16, dtype="<u2").view("<f2").astype("<f8")
    half = half[np.isfinite(half)]
    middle = (half[:-1] + half[1:]) / 2
    near = [half, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)]
    random = np.random.default_rng(0)
    if size == 8:
        spread = random.standard_normal(20_000) * np.exp(random.uniform(-60, 60, 20_000))
        return np.concatenate([*near, spread]).tobytes()
    exact = np.concatenate(near).astype("<f4").view("<u4")
    high = np.arange(1 << 16, dtype="<u4") << 16
    tails = [high | tail for tail in (0, 0x8000, 0x7FFF, 0x8001, 0x1000, 0xFFF)]
    return np.concatenate([exact, *tails, random.integers(0, 1 << 32, 50_000, "<u4")]).tobytes()


PAIRS = [
    name.removesuffix("-state_dict.pt")
    for name in sorted(path.name for path in (FIXTURES / "modules").glob("*-state_dict.pt"))
    if (FIXTURES / "modules" / name.replace("-state_dict.pt", ".pt.truth.json")).exists()
    and name != "extra-state-state_dict.pt"  # get_extra_state is a method that nobody has
]


@pytest.mark.parametrize("name", PAIRS)
def test_fixtures_that_have_both_forms(name: str, tmp_path: Path) -> None:
    """The full model's state_dict against the one that torch saved, `_metadata` and all."""
    folder = FIXTURES / "modules"
    source = folder / f"{name}.pt"
    convert(source, tmp_path / "o.pt")
    want, got = (
        load(path, weights_only=False)
        for path in (folder / f"{name}-state_dict.pt", tmp_path / "o.pt")
    )
    assert list(got) == list(want)
    assert got._metadata == want._metadata
    for key, value in want.items():
        assert equal(got[key], value), key


def equal(one: Any, other: Any) -> bool:
    if isinstance(other, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if not isinstance(other, torch.Tensor):
        return bool(one == other)
    if other.is_quantized:
        same = one.qscheme() == other.qscheme() and torch.equal(
            one.dequantize(), other.dequantize()
        )
        return same and torch.equal(one.int_repr(), other.int_repr())
    return one.dtype is other.dtype and torch.equal(one, other)


def test_a_cuda_file_is_loaded_without_map_location(tmp_path: Path) -> None:
    """Story S8."""
    source = FIXTURES / "seed" / "model_state_dict.pt"
    for to in ("state_dict", "same"):
        target = tmp_path / f"{to}.pt"
        convert(source, target, to=to, device="cpu")
        got = load(target, weights_only=True)
        assert [str(value.device) for value in got.values()] == ["cpu", "cpu"]
        convert(target, tmp_path / "back.pt", device="cuda:0", force=True)
        with ptinspect.open(tmp_path / "back.pt") as document:
            assert {info.device for info in document.tensors.values()} == {"cuda:0"}


def test_the_seeds_model_gives_the_seeds_outputs(tmp_path: Path) -> None:
    """Story S5: the converted file gives the outputs that the lesson prints. It prints the weights
    with four digits, and so does the fixture hold them: half a unit of their last digit is 5e-5,
    which x**2 = 14641 and x = 121 make 0.74 at most."""
    convert(FIXTURES / "seed" / "model.pth", tmp_path / "state_dict.pt", device="cpu")

    class CustomModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x: Any) -> Any:
            return self.layer(x)

    model = CustomModel()
    state = load(tmp_path / "state_dict.pt", weights_only=True)
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    inputs = torch.tensor([[1.0, 1.0], [25.0, 5.0], [121.0, 11.0]])
    got = model(inputs).flatten().tolist()
    assert got == pytest.approx([1.4343, 69.2063, 357.3203], abs=1e-3)
    bounds = (5e-5 * (inputs.abs().sum(1) + 1)).tolist()
    for mine, printed, bound in zip(got, [1.4342, 69.2052, 357.3152], bounds, strict=True):
        assert abs(mine - printed) <= bound + 5e-5
