"""Random number generators: seeded, told, set again; and digests of tensors and other values."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy
import torch


def seed_all(seed: int) -> None:
    """Every generator that a training script may draw from."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state(device: str) -> dict[str, Any]:
    """The state of each generator."""
    made: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": numpy.random.get_state(),
        "python": random.getstate(),
    }
    if device.startswith("cuda"):
        made["cuda"] = torch.cuda.get_rng_state_all()
    return made


def set_rng(states: dict[str, Any]) -> None:
    """Sets those that are given."""
    if "torch" in states:
        torch.set_rng_state(states["torch"].cpu())
    if "numpy" in states:
        numpy.random.set_state(states["numpy"])
    if "python" in states:
        random.setstate(states["python"])
    if "cuda" in states and torch.cuda.is_available():
        cuda = states["cuda"]
        if isinstance(cuda, torch.Tensor):  # of the current device
            torch.cuda.set_rng_state(cuda.cpu())
        else:  # the file may come from a machine with more of them
            there = torch.cuda.device_count()
            torch.cuda.set_rng_state_all([state.cpu() for state in cuda[:there]])


def seen_as(there: Any, state: Any) -> Any:
    """A generator's state in the form that the file has: CUDA's of all devices, or that of the
    current one; numpy's as a tuple, or as a dict."""
    if isinstance(there, torch.Tensor) and isinstance(state, list):
        return state[torch.cuda.current_device()]
    if isinstance(there, dict):
        return numpy.random.get_state(legacy=False)
    return state


def rng_found(root: Any) -> dict[str, tuple[Any, ...]]:
    """Where in a loaded file the states of generators lie, known by their form; of those of torch's
    kind, `data` is the one whose key says that it shuffles the data."""
    found: dict[str, tuple[Any, ...]] = {}
    todo: list[tuple[tuple[Any, ...], Any]] = [((), root)]
    visited = 0
    while todo and visited < 10_000:
        path, value = todo.pop(0)
        visited += 1
        kind = kind_of(value, path)
        if kind == "torch" and any(word in str(path[-1:]).lower() for word in SHUFFLES):
            kind = "data"
        if kind is not None:
            found.setdefault(kind, path)
        elif isinstance(value, dict) and len(path) < 4:
            todo += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple) and len(path) < 4 and len(value) < 64:
            todo += [((*path, at), item) for at, item in enumerate(value)]
    return found


SHUFFLES = ("generator", "loader", "sampler", "shuffl")


def kind_of(value: Any, path: tuple[Any, ...]) -> str | None:
    """`torch`, `cuda`, `numpy` or `python`. Sources: CPUGeneratorImpl.cpp (5,056 bytes),
    CUDAGeneratorImpl.cpp (16), numpy.random.get_state, random.getstate."""
    if isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.dim() == 1:
        return {5056: "torch", 16: "cuda"}.get(value.numel())
    if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
        cuda = all(isinstance(v, torch.Tensor) and v.dtype == torch.uint8 for v in value)
        return "cuda" if cuda and value[0].numel() == 16 else None
    if isinstance(value, tuple) and len(value) == 5 and value[0] == "MT19937":
        return "numpy"
    if isinstance(value, dict) and value.get("bit_generator") == "MT19937" and "state" in value:
        return "numpy" if "has_gauss" in value else None
    if isinstance(value, list | tuple) and len(value) == 3 and value[0] == 3:
        inner = value[1]
        return "python" if isinstance(inner, list | tuple) and len(inner) == 625 else None
    return None


def as_python_state(value: Any) -> Any:
    """random.getstate()'s tuples, where the file has lists."""
    return (value[0], tuple(value[1]), value[2])


def digest(value: Any) -> str:
    """The same for the same bits: tensors, numbers, containers of these."""
    made = hashlib.blake2b(digest_size=8)
    todo = [value]
    known: set[int] = set()
    while todo:
        item = todo.pop()
        if isinstance(item, torch.Tensor):
            made.update(f"T{item.dtype}{tuple(item.shape)}".encode())
            made.update(bits(item))
        elif isinstance(item, numpy.ndarray):
            made.update(item.tobytes())
        elif isinstance(item, dict):
            made.update(f"D{len(item)}".encode())
            for key in item:
                todo += [item[key], str(key)]
        elif isinstance(item, list | tuple):
            made.update(f"L{len(item)}".encode())
            todo += item
        elif isinstance(item, float):
            made.update(item.hex().encode())
        elif item is None or isinstance(item, int | str | bytes | bool):
            made.update(repr(item).encode())
        else:  # an object; of a function, a lock and the like there is the name of its type
            made.update(type(item).__qualname__.encode())
            held = getattr(item, "__dict__", None)
            if isinstance(held, dict) and not callable(item) and id(item) not in known:
                known.add(id(item))
                todo.append(held)
    return made.hexdigest()


def bits(tensor: torch.Tensor) -> bytes:
    """Its elements in C order."""
    plain = tensor.detach()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    if plain.is_complex():
        plain = torch.view_as_real(plain.resolve_conj())
    plain = plain.cpu().contiguous().flatten()
    return b"" if not plain.numel() else plain.view(torch.uint8).numpy().tobytes()
