"""Makes runs reproducible and comparable: devices, random numbers, digests, distances."""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import warnings
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy
import torch

from ptinspect.proofs.worker import CannotRun, recorder
from ptinspect.text import count_text

# Torch's warning or error about an operation whose bits may vary.
NOT_DETERMINISTIC = re.compile(
    "(.*?) (?:does not have a deterministic implementation|"
    "defaults to a non-deterministic algorithm)"
)

# What a training must not leave to chance, and its value in a proof.
_SETTINGS: tuple[tuple[str, Any, str, Any], ...] = (
    ("cudnn", torch.backends.cudnn, "benchmark", False),
    ("cudnn", torch.backends.cudnn, "deterministic", True),
    ("cuda.matmul", torch.backends.cuda.matmul, "allow_tf32", False),
    ("cudnn", torch.backends.cudnn, "allow_tf32", False),
)

# Words in the key of a generator state that belongs to the data.
DATA_WORDS = ("generator", "loader", "sampler", "shuffl")
# Words in the keys of CUDA's generator states.
CUDA_WORDS = ("rng", "random", "cuda", "generator", "seed")
# Samples of a batch that are compared one by one.
MAX_SAMPLES = 4096
# Values of a file among which states of generators are searched.
MAX_VALUES = 10_000

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


# Operations that torch has warned of in this process.
_nondeterministic: list[str] = []


def prepare(options: dict[str, Any]) -> list[str]:
    """Switch on deterministic algorithms, and make the device the current one.

    At first torch is strict: an operation without a deterministic kernel raises an error, and the
    job is run again with `warn_only`.

    Returns:
        the operations that torch will have warned of.
    """
    warn_only, allow_tf32 = options.get("warn_only", False), options["allow_tf32"]
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    if warn_only:
        recorder.switch_off_attention_kernels(torch)
    if not allow_tf32 and hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "ieee"  # the user's code may have used the new setting
    for _, module, name, value in _SETTINGS:
        setattr(module, name, allow_tf32 if name == "allow_tf32" else value)
    if options.get("cudnn") is False:
        torch.backends.cudnn.enabled = False
    if options["device"].startswith("cuda:"):
        torch.cuda.set_device(options["device"])
    if warnings.showwarning is not _show_warning:
        _previous_show.append(warnings.showwarning)
        warnings.showwarning = _show_warning
    warnings.filterwarnings("always", message=NOT_DETERMINISTIC.pattern)
    return _nondeterministic


def prepare_again(options: dict[str, Any]) -> list[str]:
    """Prepare again after the user's files were imported, and return notes on what they had set."""
    changed = [] if torch.are_deterministic_algorithms_enabled() else ["deterministic algorithms"]
    for label, module, name, value in _SETTINGS:
        expected = options["allow_tf32"] if name == "allow_tf32" else value
        with contextlib.suppress(RuntimeError):  # they used both of torch's settings
            if getattr(module, name) == expected:
                continue
        changed.append(f"torch.backends.{label}.{name}")
    prepare(options)
    names = ", ".join(changed)
    return [f"--model or --data had changed {names}; the proof runs without"] if changed else []


_previous_show: list[Any] = []


def _show_warning(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
    """Remember an operation that is not deterministic; show all other warnings as before."""
    match = NOT_DETERMINISTIC.match(str(message))
    if match is None:
        _previous_show[-1](message, category, *args, **kwargs)
    elif match[1] not in _nondeterministic:
        _nondeterministic.append(match[1])


def limit_memory() -> None:
    """Limit this process to its present size and the machine's memory, if the system supports it.

    The present size counts because libraries reserve addresses that they never use. Not for a job
    on CUDA, which reserves more addresses than a machine has memory.
    """
    try:
        import resource

        page = os.sysconf("SC_PAGE_SIZE")
        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * page
        limit = size + os.sysconf("SC_PHYS_PAGES") * page
    except (ImportError, ValueError, OSError):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


# --- Random number generators -----------------------------------------------------------------


def seed_all(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_states(device: str, owned: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the states of the global generators by kind, and of others as `owned: NAME`."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": numpy.random.get_state(),
        "python": random.getstate(),
    }
    if device.startswith("cuda"):
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states | {f"owned: {name}": _generator_state(it) for name, it in (owned or {}).items()}


def set_rng_states(states: dict[str, Any], owned: dict[str, Any] | None = None) -> None:
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
    for name, generator in (owned or {}).items():
        if f"owned: {name}" in states:
            set_generator_state(generator, states[f"owned: {name}"])


def owned_generators(holders: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the generators that named objects hold as attributes, by `attribute of object`."""
    kinds = (torch.Generator, numpy.random.Generator, random.Random)
    generators: dict[int, tuple[str, Any]] = {}
    for holder_name, holder in holders:
        for name, value in getattr(holder, "__dict__", {}).items():
            if isinstance(value, kinds):
                generators.setdefault(id(value), (f"{name} of {holder_name}", value))
    return dict(generators.values())


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    is_numpy = isinstance(generator, numpy.random.Generator)
    return generator.bit_generator.state if is_numpy else generator.getstate()


def set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, numpy.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.setstate(state)


def match_generators(generators: Iterable[Any], states: dict[str, Any]) -> dict[str, Any]:
    """Return the generator that each state belongs to: the first of its kind that is left."""
    left = list(generators)
    matched = {}
    for key, state in states.items():
        for generator in left:
            if isinstance(state, type(_generator_state(generator))):
                matched[key] = generator
                left = [other for other in left if other is not generator]
                break
    return matched


def rng_state_like(recorded: Any, state: Any) -> Any:
    """Return a generator state in the form of the recorded one.

    The forms differ for CUDA (all devices, or the current one) and numpy (tuple or dict).
    """
    if isinstance(recorded, torch.Tensor) and isinstance(state, list):
        return state[torch.cuda.current_device()]
    is_legacy = isinstance(state, tuple) and state[0] == "MT19937"
    if isinstance(recorded, dict) and is_legacy:
        return numpy.random.get_state(legacy=False)
    return state


def find_rng_states(root: Any, weights_paths: list[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the paths of generator states in a loaded file, by kind.

    A state is recognized by its form; one of CUDA, 16 bytes, also by its key. Its kind is `data0`,
    `data1` and so on if its key says that it belongs to the data, or to an object. Buffers in
    `weights_paths` are skipped.
    """
    skipped = {tuple(path) for path in weights_paths}
    paths: dict[str, tuple[Any, ...]] = {}
    queue: list[tuple[tuple[Any, ...], Any]] = [((), root)]
    for path, value in islice(queue, MAX_VALUES):  # grows while it is read
        if path in skipped:
            continue
        kind = rng_kind(value)
        if kind == "cuda" and not any(word in str(path).lower() for word in CUDA_WORDS):
            kind = None
        keys = path[-2:] if path and isinstance(path[-1], int) else path[-1:]
        words = [word for word in DATA_WORDS if word in str(keys).lower()]
        if kind == "generator" or (kind not in (None, "cuda") and words):
            kind = f"data{sum(name.startswith('data') for name in paths)}"
        if kind is not None:
            paths.setdefault(kind, path)
        elif isinstance(value, dict) and len(path) < 4:
            queue += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple) and len(path) < 4 and len(value) < 64:
            queue += [((*path, index), item) for index, item in enumerate(value)]
    return paths


def rng_kind(value: Any) -> str | None:
    """Return `torch`, `cuda`, `numpy`, `python` or `generator` (numpy's) for a generator's state.

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
    if isinstance(value, dict) and isinstance(value.get("bit_generator"), str) and "state" in value:
        return "numpy" if "has_gauss" in value else "generator"
    if isinstance(value, list | tuple) and len(value) == 3 and value[0] == 3:
        numbers = value[1]
        return "python" if isinstance(numbers, list | tuple) and len(numbers) == 625 else None
    return None


# --- Digests ----------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return a hash of tensors, numbers and containers, equal for equal bits on any device."""
    return recorder.digest(torch, value, on_card=False)


def content_digest(batch: Any) -> int:
    """Return a hash of a batch's samples that does not depend on their order."""
    stack, tensors = [batch], []
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor) and item.dim():
            tensors.append(item)
        elif isinstance(item, dict | list | tuple):
            stack += item.values() if isinstance(item, dict) else item
    size = len(tensors[0]) if tensors else 0
    if not 0 < size <= MAX_SAMPLES or any(len(tensor) != size for tensor in tensors):
        return int(digest(batch), 16)
    return sum(int(digest([tensor[row] for tensor in tensors]), 16) for row in range(size))


# --- Distances --------------------------------------------------------------------------------


def ulps(first: Any, second: Any, unit: Any = None) -> float:
    """Return the largest distance between elements at the same index, in ULPs.

    It is 0 for equal elements (-0 equals 0, NaN equals NaN), and inf if only one is NaN or
    infinite, for integers that differ, and for tensors of different shape or dtype.
    """
    if first.shape != second.shape or first.dtype != second.dtype:
        return math.inf
    first, second = (recorder.plain_tensor(torch, tensor).cpu() for tensor in (first, second))
    if not first.numel():
        return 0.0
    if not first.is_floating_point():
        return 0.0 if torch.equal(first, second) else math.inf
    info = torch.finfo(unit or first.dtype)
    first, second = first.to(torch.float64), second.to(torch.float64)
    same = (first == second) | (first.isnan() & second.isnan())
    if bool(same.all()):
        return 0.0
    if not bool((same | (first.isfinite() & second.isfinite())).all()):
        return math.inf
    finite = first.isfinite()  # the same elements of `second` are finite too
    first, second = first[finite], second[finite]
    largest = max(float(first.abs().max()), float(second.abs().max()), float(info.smallest_normal))
    _, exponent = math.frexp(largest)
    scale = 2.0 ** (1 - exponent)  # the largest element is then in [1, 2), where an ULP is eps
    return float((first * scale - second * scale).abs().max()) / float(info.eps)
