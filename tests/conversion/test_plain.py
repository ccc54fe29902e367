"""`--plain`: what a bare torch.load refuses becomes what it takes."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path
from typing import Any

import pytest

from ptinspect.conversion import convert
from ptinspect.errors import PtInspectError

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class Mode(enum.Enum):
    FAST = "fast"


@dataclasses.dataclass
class Config:
    rate: Any
    where: pathlib.PurePath
    mode: Mode


class Mine(dict[str, Any]):
    """A dict with a name of its own."""


Pair = namedtuple("Pair", "low high")


class Odd:
    """What its class alone can read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Odd, (), (1, [2])

    def __setstate__(self, state: Any) -> None:
        self.state = state


def plain(value: Any, folder: Path, **options: Any) -> tuple[Any, Any]:
    """The value saved, made plain and loaded by torch; and the report."""
    torch.save(value, folder / "in.pt")
    report = convert(folder / "in.pt", folder / "out.pt", to="checkpoint", plain=True, **options)
    return torch.load(folder / "out.pt", weights_only=True), report


def test_objects_become_what_they_hold(tmp_path: Path) -> None:
    shared = [1, 2]
    value = {
        "config": Config(numpy.float64(0.5), pathlib.PurePosixPath("/data/x"), Mode.FAST),
        "args": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "mine": Mine(a=1),
        "default": defaultdict(list, {"a": [1]}),
        "counts": Counter("aab"),
        "recent": deque([1, 2]),
        "pair": Pair(1, 2.5),
        "none": [b"", b"bytes", {1, 2}, frozenset({3}), 1 + 2j, torch.Size([2, 3]), 1 << 70],
        "day": datetime.date(2024, 2, 29),
        "kinds": [numpy.int64(7), numpy.complex64(1j), numpy.dtype("float32"), torch.float16],
        "twice": [shared, shared],
        "where": torch.device("cuda", 1),
        "names": {(1, "a"): 1, Mode.FAST: 2, numpy.int64(5): 3},
    }
    made, report = plain(value, tmp_path)
    assert made["config"] == {"rate": 0.5, "where": "/data/x", "mode": "fast"}
    assert made["args"] == {"lr": 0.1, "layers": [1, 2]}
    assert (made["mine"], made["default"]) == ({"a": 1}, {"a": [1]})
    assert (made["counts"], made["recent"], made["pair"]) == ({"a": 2, "b": 1}, [1, 2], (1, 2.5))
    assert made["none"] == [b"", b"bytes", {1, 2}, {3}, 1 + 2j, (2, 3), 1 << 70]
    assert made["day"] == "2024-02-29"
    assert made["kinds"] == [7, 1j, "float32", torch.float16]
    assert made["twice"] == [[1, 2], [1, 2]]
    assert made["twice"][0] is made["twice"][1]
    assert made["where"] == torch.device("cuda", 1)
    assert list(made["names"].values()) == [1, 2, 3]
    assert made["names"][1, "a"] == 1
    assert made["names"][5] == 3
    assert report.dropped == []


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6, dtype="<f4").reshape(2, 3),
        numpy.asfortranarray(numpy.arange(6, dtype="<i8").reshape(2, 3)),
        numpy.arange(4, dtype=">f8"),
        numpy.array([True, False]),
        numpy.array(3, dtype="u2"),
        numpy.zeros((0, 3), "f4"),
    ],
)
def test_arrays_become_tensors(array: Any, tmp_path: Path) -> None:
    made, _ = plain({"epoch": 1, "array": array}, tmp_path)
    native = numpy.array(array, dtype=array.dtype.newbyteorder("="))
    assert made["array"].shape == native.shape
    assert torch.equal(made["array"], torch.from_numpy(native))


def test_modules_and_optimizers_become_state_dicts(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    made, report = plain({"epoch": 3, "net": model, "optimizer": optimizer}, tmp_path)
    assert report.tensors == 7 + 4 * 3
    assert made["epoch"] == 3
    again = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    again.load_state_dict(made["net"])
    assert isinstance(made["net"], OrderedDict)
    assert vars(made["net"]) == vars(model.state_dict())
    other = torch.optim.Adam(again.parameters())
    other.load_state_dict(made["optimizer"])
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(optimizer.state[one]["exp_avg"], other.state[two]["exp_avg"])


def test_an_optimizer_alone_becomes_its_state_dict(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    result, report = plain(optimizer, tmp_path)
    assert not report.warnings
    other = torch.optim.AdamW(model.parameters())
    other.load_state_dict(result)
    for parameter in model.parameters():
        for key, tensor in optimizer.state[parameter].items():
            assert torch.equal(tensor, other.state[parameter][key])


def test_what_has_no_plain_form_is_listed(tmp_path: Path) -> None:
    value = {"epoch": 1, "deep": {"odd": Odd(), "kept": 2}, "list": [1, Odd()]}
    made, report = plain(value, tmp_path)
    assert made == {"epoch": 1, "deep": {"kept": 2}, "list": [1, None]}
    assert report.dropped == ["deep.odd", "list[1]"]
    assert report.warnings == ["dropped: deep.odd, list[1] (no plain form)"]


def test_cycles_stay_or_are_cut(tmp_path: Path) -> None:
    value: dict[str, Any] = {"epoch": 1, "args": argparse.Namespace(lr=1)}
    value["self"] = value
    value["args"].owner = value["args"]
    value["args"].pair = ([],)
    value["args"].pair[0].append(value["args"].pair)
    made, report = plain({"epoch": 1, "inner": value}, tmp_path)
    inner = made["inner"]
    assert inner["self"] is inner
    assert inner["args"]["owner"] is inner["args"]
    assert inner["args"]["pair"] == ([None],)
    assert report.dropped == ["inner.args.pair[0][0]"]


def test_depth_is_no_matter(tmp_path: Path) -> None:
    depth = 490
    (tmp_path / "deep.pkl").write_bytes(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    convert(tmp_path / "deep.pkl", tmp_path / "out.pt", to="checkpoint", plain=True)
    inner = torch.load(tmp_path / "out.pt", weights_only=True)["value"]
    for _ in range(depth - 1):
        (inner,) = inner
    assert inner == []


def test_a_checkpoint_of_another_dtype(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    for is_plain in (False, True):
        torch.save(model.state_dict(), tmp_path / "in.pt")
        convert(
            tmp_path / "in.pt", tmp_path / "out.pt", to="checkpoint", dtype="float16",
            plain=is_plain, verify=True, force=True,
        )  # fmt: skip
        made = torch.load(tmp_path / "out.pt", weights_only=True)["model_state_dict"]
        assert torch.equal(made["weight"], model.weight.detach().half())


@pytest.mark.parametrize("goal", ["state_dict", "safetensors", "same"])
def test_plain_is_of_checkpoints(goal: str, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "in.pt")
    with pytest.raises(PtInspectError, match=r"^plain cannot be used with to="):
        convert(tmp_path / "in.pt", tmp_path / "out.pt", to=goal, plain=True)
