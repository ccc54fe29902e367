"""Makes runs reproducible and comparable: devices, random number generators, digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import random
import re
import sys
import warnings
from typing import Any

import numpy
import torch

from ptinspect.proofs.worker.reporting import CannotRun
from ptinspect.text import count_text

NO_DETERMINISTIC_KERNEL = "does not have a deterministic implementation"
"""Words of torch's warning about an operation whose bits may vary."""

DATA_WORDS = ("generator", "loader", "sampler", "shuffl")
"""Words in the key of a generator state that belongs to the data."""

CUDA_WORDS = ("rng", "random", "cuda", "generator", "seed")
"""Words in the keys of CUDA's generator states."""

# --- Devices ----------------------------------------------------------------------------------
# CUDA must not be queried before the job's own process: a fork of a process that has initialized
# CUDA cannot use it.


def resolve_device(name: str) -> str:
    """Return `auto` as cpu or cuda, and any other device as it is."""
    kind, _, number = name.partition(":")
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise CannotRun("torch finds no CUDA device here", "give --device cpu")
        count = torch.cuda.device_count()
        if number and int(number) >= count:
            raise CannotRun(
                f"there is no {name}: torch finds {count_text(count, 'CUDA device')}",
                f"give --device cuda:{count - 1}" if count > 1 else "give --device cuda",
            )
    return name


def use_deterministic_algorithms(device: str, allow_tf32: bool) -> list[str]:
    """Switch on deterministic algorithms, and make the device the current one."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow_tf32
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    operations: list[str] = []
    previous = warnings.showwarning

    def show(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        text = str(message)
        if NO_DETERMINISTIC_KERNEL not in text:
            previous(message, category, *args, **kwargs)
            return
        name = text.split(NO_DETERMINISTIC_KERNEL)[0].strip()
        if name not in operations:
            operations.append(name)

    warnings.showwarning = show
    warnings.filterwarnings("always", message=f".*{NO_DETERMINISTIC_KERNEL}")
    return operations


def environment(device: str) -> dict[str, Any]:
    """Describe what the numbers depend on besides the training: versions, device, precision."""
    is_cuda = device.startswith("cuda")
    driver = None
    if is_cuda:
        with contextlib.suppress(OSError), open("/proc/driver/nvidia/version") as file:
            driver = next(iter(re.findall(r"\d+\.\d+(?:\.\d+)?", file.readline())), None)
    cudnn_version: Any = torch.backends.cudnn.version
    matmul = cudnn = None
    with contextlib.suppress(RuntimeError):  # the user's code used both of torch's settings
        matmul = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        cudnn = "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device_name": torch.cuda.get_device_name(device) if is_cuda else platform.machine(),
        "driver": driver,
        "cuda": torch.version.cuda if is_cuda else None,
        "cudnn": cudnn_version() if is_cuda else None,
        "precision": {
            "matmul": matmul if is_cuda else torch.get_float32_matmul_precision(),
            "cudnn": cudnn if is_cuda else None,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
    }


def hide_cuda() -> None:
    """Hide CUDA devices from a job on the CPU.

    The user's code and CUDA generator states in the file then fit the device, and CUDA is not
    initialized under `limit_memory`.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def limit_memory(memory: int | None) -> None:
    """Limit this process's memory, in bytes, if the system supports it.

    Not for a job on CUDA, which reserves more addresses than a machine has memory.
    """
    if memory is None or sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


# --- Random number generators -----------------------------------------------------------------


def seed_all(seed: int) -> None:
    """Seed every generator that a training script may use."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_states(device: str) -> dict[str, Any]:
    """Return the states of the generators, by kind."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": numpy.random.get_state(),
        "python": random.getstate(),
    }
    if device.startswith("cuda"):
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_rng_states(states: dict[str, Any]) -> None:
    """Set the generators whose states are in `states`."""
    if "torch" in states:
        torch.set_rng_state(states["torch"].cpu())
    if "numpy" in states:
        numpy.random.set_state(states["numpy"])
    if "python" in states:
        version, numbers, gauss = states["python"]  # a file may hold lists
        random.setstate((version, tuple(numbers), gauss))
    if "cuda" in states and torch.cuda.is_available():
        cuda = states["cuda"]
        if isinstance(cuda, torch.Tensor):  # of the current device
            torch.cuda.set_rng_state(cuda.cpu())
        else:  # the file may come from a machine with more devices
            count = torch.cuda.device_count()
            torch.cuda.set_rng_state_all([state.cpu() for state in cuda[:count]])


def rng_state_like(recorded: Any, state: Any) -> Any:
    """Return a generator state in the form of the recorded one.

    The forms differ for CUDA (all devices, or the current one) and numpy (tuple or dict).
    """
    if isinstance(recorded, torch.Tensor) and isinstance(state, list):
        return state[torch.cuda.current_device()]
    if isinstance(recorded, dict):
        return numpy.random.get_state(legacy=False)
    return state


def find_rng_states(root: Any, weights_paths: list[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the paths of generator states in a loaded file, by kind.

    A state is recognized by its form; one of CUDA, 16 bytes, also by its key. A state of torch's
    form is `data` if its key says that it shuffles the data. Buffers in `weights_paths` are none.
    """
    skipped = {tuple(path) for path in weights_paths}
    paths: dict[str, tuple[Any, ...]] = {}
    queue: list[tuple[tuple[Any, ...], Any]] = [((), root)]
    visited = 0
    while queue and visited < 10_000:
        path, value = queue.pop(0)
        visited += 1
        if path in skipped:
            continue
        kind = rng_kind(value)
        if kind == "cuda" and not any(word in str(path).lower() for word in CUDA_WORDS):
            kind = None
        if kind == "torch" and any(word in str(path[-1:]).lower() for word in DATA_WORDS):
            kind = "data"
        if kind is not None:
            paths.setdefault(kind, path)
        elif isinstance(value, dict) and len(path) < 4:
            queue += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple) and len(path) < 4 and len(value) < 64:
            queue += [((*path, index), item) for index, item in enumerate(value)]
    return paths


def rng_kind(value: Any) -> str | None:
    """Return `torch`, `cuda`, `numpy` or `python` for a generator state, None for other values.

    Sources: CPUGeneratorImpl.cpp (5,056 bytes), CUDAGeneratorImpl.cpp (16 bytes),
    numpy.random.get_state, random.getstate.
    """
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
        numbers = value[1]
        return "python" if isinstance(numbers, list | tuple) and len(numbers) == 625 else None
    return None


# --- Digests ----------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return a hash of tensors, numbers and containers, equal for equal bits."""
    blake = hashlib.blake2b(digest_size=8)
    stack = [value]
    visited: set[int] = set()
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            blake.update(f"T{item.dtype}{tuple(item.shape)}".encode())
            blake.update(tensor_bytes(item))
        elif isinstance(item, numpy.ndarray):
            blake.update(item.tobytes())
        elif isinstance(item, dict):
            blake.update(f"D{len(item)}".encode())
            for key in item:
                stack += [item[key], str(key)]
        elif isinstance(item, list | tuple):
            blake.update(f"L{len(item)}".encode())
            stack += item
        elif isinstance(item, float):
            blake.update(item.hex().encode())
        elif item is None or isinstance(item, int | str | bytes | bool):
            blake.update(repr(item).encode())
        else:  # an object: its attributes; of a function, a lock and the like only its type
            blake.update(type(item).__qualname__.encode())
            attributes = getattr(item, "__dict__", None)
            if isinstance(attributes, dict) and not callable(item) and id(item) not in visited:
                visited.add(id(item))
                stack.append(attributes)
    return blake.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """Return a tensor's elements in C order."""
    flat = plain_tensor(tensor).contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU, dense, and with complex numbers as pairs of real ones."""
    plain = tensor.detach()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    if plain.is_complex():
        plain = torch.view_as_real(plain.resolve_conj())
    return plain.cpu()
