"""What torch itself writes, read in one go and opcode by opcode: the same."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ptinspect.pickling import state  # noqa: E402
from ptinspect.pickling.machine import run  # noqa: E402
from ptinspect.pickling.values import TensorCall  # noqa: E402
from tests.pickling.outline import everything  # noqa: E402
from tests.pickling.torch_like import Dense, attacked, moved_on, state_dict  # noqa: E402


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the stream."""
    monkeypatch.setattr(state, "FASTPATH_MIN_BYTES", 0)


def pickled(value: object, protocol: int = 2) -> bytes:
    """The data.pkl of `torch.save`."""
    torch.save(value, file := io.BytesIO(), pickle_protocol=protocol)
    with zipfile.ZipFile(file) as held:
        (name,) = [name for name in held.namelist() if name.endswith("data.pkl")]
        return held.read(name)


def agree(data: bytes) -> None:
    assert everything(data, plain=False) == everything(data, plain=True)


def in_one_go(data: bytes) -> int:
    return sum(type(made) is TensorCall for made in run(data).persistent)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
SHAPES = ((), (1,), (3,), (2, 3), (0,), (2, 0), (1, 2, 3), (300, 2), (1,) * 5, (2,) * 9)


def module(depth: int = 6) -> Any:
    nn = torch.nn
    layers = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Conv2d(1, 2, 3), nn.LSTM(2, 3), nn.Embedding(5, 2))


def trained() -> Any:
    model = module(3)[:3]
    optimizer = torch.optim.Adam(model[0].parameters())
    for _ in range(2):
        loss = model[0](torch.ones(4, 3)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


def views() -> Any:
    base = torch.arange(100_000.0)
    cut = {f"view.{n}": base[70_000 + n : 70_010 + n] for n in range(9)}
    return cut | {"turned": base[:12].view(3, 4).T, "same": base, "again": base, "flat": base[5]}


VALUES: dict[str, Callable[[], object]] = {
    "dtypes and shapes": lambda: {
        f"{dtype}.{shape}": torch.zeros(shape, dtype=dtype) for dtype in DTYPES for shape in SHAPES
    },
    "gradients": lambda: {f"w.{n}": torch.zeros(2, requires_grad=n % 2 == 0) for n in range(9)},
    "a module": module,
    "its state_dict": lambda: module().state_dict(),
    "its parameters": lambda: dict(module().named_parameters()),
    "a list of tensors": lambda: [torch.zeros(n) for n in range(20)],
    "a checkpoint": trained,
    "views": views,
    "meta": lambda: {f"w.{n}": torch.empty(n, device="meta") for n in range(9)},
    "sparse": lambda: {f"w.{n}": torch.eye(n + 1).to_sparse() for n in range(9)},
    "names of all kinds": lambda: {
        name: torch.zeros(1)
        for name in (
            "",
            "a",
            "r",
            "rrrr",
            "가",
            "x" * 254,
            "x" * 255,
            "x" * 256,
            "x" * 400,
            "\n",
            "\0",
        )
    },
    "many": lambda: {f"layer.{n}.weight": torch.zeros(n % 7, 3) for n in range(600)},
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_both_ways_agree(name: str, protocol: int) -> None:
    data = pickled(VALUES[name](), protocol)
    agree(data)
    if protocol < 4:
        agree(moved_on(data))


@pytest.mark.parametrize("name", VALUES)
def test_both_ways_agree_on_what_is_attacked(name: str) -> None:
    data = moved_on(pickled(VALUES[name]()))
    for seed in range(30):
        agree(attacked(data, Random(seed)))


def test_most_of_a_state_dict_is_read_in_one_go() -> None:
    names = ("dtypes and shapes", "its state_dict", "its parameters", "a module", "many")
    for name in names:
        data = moved_on(pickled(VALUES[name]()))
        found = run(data).persistent
        assert in_one_go(data) > 0.7 * len(found), name


def test_tensors_on_a_gpu_are_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each storage there, `torch.serialization._backend_tag` returns a new string."""
    tag = torch.serialization._backend_tag
    gpu = SimpleNamespace(device=torch.device("cuda:0"))
    assert tag("cuda", gpu) == "cuda:0"
    assert tag("cuda", gpu) is not tag("cuda", gpu)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: tag("cuda", gpu))
    tensors = {f"layer.{n}.weight": torch.zeros(SHAPES[n % len(SHAPES)]) for n in range(300)}
    data = pickled(tensors)
    assert data.count(b"cuda:0") == 300
    agree(data)
    made = run(data).persistent
    assert sum(type(call) is TensorCall for call in made) > 250
    assert made[-1].location == "cuda:0"  # type: ignore[union-attr]


def test_the_legacy_stream_is_read_in_one_go() -> None:
    value = {f"layer.{n}.weight": torch.zeros(n % 7, 3) for n in range(300)}
    torch.save(value, file := io.BytesIO(), _use_new_zipfile_serialization=False)
    data, at = file.getvalue(), 0
    for _ in range(3):  # magic number, protocol version, system info
        at = run(data, at).end
    assert everything(data, plain=False, start=at) == everything(data, plain=True, start=at)
    made = run(data, at).persistent
    assert sum(type(call) is TensorCall for call in made) > 250
    storage = made[-1].storage if isinstance(made[-1], TensorCall) else None
    assert storage is not None
    assert isinstance(storage.value, tuple)
    assert len(storage.value) == 6


def test_the_streams_of_these_tests_are_torchs() -> None:
    """`torch_like` writes what torch writes, byte for byte."""
    tensors: OrderedDict[str, Any] = OrderedDict()
    for number, shape in enumerate(SHAPES * 9):
        tensors[f"layer.{number}"] = torch.zeros(
            shape, dtype=(torch.float32, torch.half)[number % 2]
        )
    facts = {
        name: Dense(
            key=str(number),
            numel=held.numel(),
            size=tuple(held.shape),
            stride=held.stride(),
            kind=("FloatStorage", "HalfStorage")[number % 2],
        )
        for number, (name, held) in enumerate(tensors.items())
    }
    assert state_dict(facts) == pickled(tensors)


def test_the_values_are_those_that_torch_loads() -> None:
    """Sizes, strides, offsets and flags, by way of pickle's own unpickler."""
    value = VALUES["dtypes and shapes"]()
    assert isinstance(value, dict)
    data = moved_on(pickled(value))
    seen: list[tuple[object, ...]] = []

    class Reading(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if name == "_rebuild_tensor_v2":
                return lambda *args: seen.append(args)
            return OrderedDict if name == "OrderedDict" else name

        def persistent_load(self, pid: Any) -> Any:
            return pid

    Reading(io.BytesIO(data)).load()
    both = zip(run(data).persistent, seen, strict=True)
    calls = [(call, args) for call, args in both if isinstance(call, TensorCall)]
    assert len(calls) > 50
    for call, (pid, offset, size, stride, grad, _) in calls:
        assert isinstance(pid, tuple)
        form = call.form
        assert (call.storage_key, call.location, form.numel) == pid[2:5]
        assert form.storage_type.name == pid[1]
        assert (form.storage_offset, form.size, form.stride, form.requires_grad) == (
            offset, size, stride, grad,
        )  # fmt: skip
