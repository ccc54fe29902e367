"""Values in C order, whichever way the strides go, against torch's `contiguous()`."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.document import elements
from ptinspect.errors import DamagedError

torch = pytest.importorskip("torch")

DTYPES = (torch.float32, torch.float64, torch.int16, torch.uint8, torch.complex64)


def view(dice: random.Random) -> Any:
    """A tensor whose dimensions are permuted, sliced with steps, and sometimes repeated."""
    count = dice.randint(1, 4)
    shape = [dice.choice([1, 2, 3, 5, 9]) for _ in range(count)]
    made = torch.randint(-100, 100, shape).to(dice.choice(DTYPES))
    made = made.permute(*dice.sample(range(count), count))
    for at in range(count):
        first = dice.randint(0, 1) if made.shape[at] > 1 else 0
        made = made[(slice(None),) * at + (slice(first, None, dice.choice([1, 1, 2, 7])),)]
    if dice.random() < 0.2:
        made = made.unsqueeze(0).expand(3, *made.shape)
    return made.conj() if made.is_complex() and dice.random() < 0.5 else made


def in_c_order(tensor: Any) -> bytes:
    made = tensor.resolve_conj().clone(memory_format=torch.contiguous_format).flatten()
    return bytes(made.as_strided((made.numel(),), (1,)).view(torch.uint8).numpy().tobytes())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which small tensors go the ways of large ones."""
    sizes = {"CHUNK": 64, "BAND": 300, "WINDOW": 128, "READ_COST": 16, "SCATTERED": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(elements, name, value)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_strides(tmp_path: Path, seed: int, packing: int) -> None:
    torch.manual_seed(seed)
    dice = random.Random(seed)
    views = {f"{number}": view(dice) for number in range(40)}
    torch.save(views, tmp_path / "stored.pt")
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as old,
        zipfile.ZipFile(tmp_path / "v.pt", "w", packing) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with ptinspect.open(tmp_path / "v.pt") as document:
        for key, tensor in views.items():
            made = b"".join(elements.iter_contiguous(document.tensors[key].tensor))
            assert made == in_c_order(tensor), (tensor.shape, tensor.stride(), tensor.dtype)


@pytest.mark.usefixtures("tiny")
def test_a_storage_that_is_too_short(tmp_path: Path) -> None:
    torch.save({"t": torch.arange(10_000).view(100, 100).t()}, tmp_path / "t.pt")
    with ptinspect.open(tmp_path / "t.pt") as document:
        tensor = document.tensors["t"].tensor
        tensor.storage_offset = 1
        with pytest.raises(DamagedError, match="reaches beyond its storage"):
            list(elements.iter_contiguous(tensor))
