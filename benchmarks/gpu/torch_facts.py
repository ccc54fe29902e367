"""Facts about torch on a device that `check resume` builds on, measured with torch alone.

    python -m benchmarks.gpu.torch_facts DEVICE FILE

FILE is rewritten after each fact, and each fact is measured by itself, so that a failure hides none
of the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPEATS = 12

_FORK = """
import os, sys, torch
available = torch.cuda.is_available()
print(f"available: {available}, initialized: {torch.cuda.is_initialized()}", flush=True)
if not (pid := os.fork()):
    float(torch.ones(4, device=sys.argv[1]).sum())
    os._exit(0)
print(f"exit status of the child: {os.waitpid(pid, 0)[1]}")
"""

_PRECISION = """
import json, sys, torch
backends, device = torch.backends, sys.argv[1]

def settings():
    found = {}
    for name in ("cuda.matmul.allow_tf32", "cudnn.allow_tf32", "cuda.matmul.fp32_precision",
                 "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision", "fp32_precision"):
        try:
            value = backends
            for part in name.split("."):
                value = getattr(value, part)
            found[name] = value
        except (AttributeError, RuntimeError) as error:
            found[name] = type(error).__name__
    a = torch.full((256, 256), 1 + 2**-12, device=device)
    found["the product is exact"] = bool(((a @ torch.eye(256, device=device)) == a).all())
    return found

states = {"at start": settings()}
backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = False
states["allow_tf32 = False"] = settings()
torch.set_float32_matmul_precision("high")
states["then set_float32_matmul_precision('high')"] = settings()
torch.set_float32_matmul_precision("highest")
backends.fp32_precision = "tf32"
states["then 'highest' and fp32_precision = 'tf32'"] = settings()
print(json.dumps(states))
"""


def count_differing(compute: Callable[[], list[Any]]) -> tuple[int, list[str]]:
    """Return how many of REPEATS repetitions give other bits, and torch's warnings about that."""
    import torch

    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        first = compute()
        count = 0
        for _ in range(REPEATS):
            pairs = zip(first, compute(), strict=True)
            count += not all(bool(torch.equal(a, b)) for a, b in pairs)
    texts = {str(message.message)[:160] for message in messages}
    return count, sorted(text for text in texts if "determin" in text)


def error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def versions(device: str) -> dict[str, Any]:
    """Return versions, the card, and the sizes of generator states."""
    import torch

    facts: dict[str, Any] = {
        "python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "bytes of a CPU generator": len(torch.get_rng_state()),
    }  # fmt: skip
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts |= {
            "card": card.name,
            "memory_gb": round(card.total_memory / 2**30, 1),
            "capability": torch.cuda.get_device_capability(device),
            "cards": torch.cuda.device_count(),
            "driver": subprocess.run(query, capture_output=True, text=True).stdout.strip(),
            "bytes of a CUDA generator": len(torch.cuda.get_rng_state()),
        }
    return facts


def fork(device: str) -> list[str]:
    """Ask is_available() through NVML in a parent, and use CUDA in its forked child."""
    env = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    command = [sys.executable, "-c", _FORK, device]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    return (result.stdout + result.stderr[-300:]).splitlines()


def precision(device: str) -> dict[str, Any]:
    """Return the settings of TF32 after each switch, also with NVIDIA_TF32_OVERRIDE=0."""
    facts = {}
    for override in ({}, {"NVIDIA_TF32_OVERRIDE": "0"}):
        command = [sys.executable, "-W", "ignore", "-c", _PRECISION, device]
        env = {**os.environ, **override}
        result = subprocess.run(command, capture_output=True, text=True, env=env)
        answer = json.loads(result.stdout) if result.returncode == 0 else result.stderr[-400:]
        facts[f"NVIDIA_TF32_OVERRIDE {'is 0' if override else 'is not set'}"] = answer
    return facts


def attention(device: str) -> dict[str, Any]:
    """Repeat the gradients of scaled_dot_product_attention with each kernel."""
    import torch
    from torch.nn import functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    facts: dict[str, Any] = {}
    size = (4, 8, 2048, 64) if device.startswith("cuda") else (1, 2, 64, 16)
    dtype = torch.bfloat16
    tensors = [torch.randn(size, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]

    def gradients() -> list[Any]:
        output = F.scaled_dot_product_attention(*tensors, is_causal=True)
        return list(torch.autograd.grad(output.float().square().sum(), tensors))

    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
               SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]  # fmt: skip
    for label, choice in [*((kernel.name, [kernel]) for kernel in kernels), ("default", kernels)]:
        for warn_only in (True, False):
            torch.use_deterministic_algorithms(True, warn_only=warn_only)
            try:
                with sdpa_kernel(choice):
                    count, messages = count_differing(gradients)
                fact: Any = {"differing": count, "warnings": messages}
            except RuntimeError as error:
                fact = error_text(error)
            facts[f"{label}, warn_only={warn_only}"] = fact
    return facts


def operations(device: str) -> dict[str, Callable[[], Any]]:
    """Return operations that have, or had, no deterministic kernel on CUDA."""
    import torch
    from torch.nn import functional as F

    def leaf(*shape: int) -> Any:
        return torch.randn(shape, device=device, requires_grad=True)

    index = torch.randint(16, (20000,), device=device)
    rows = torch.randn(20000, 8, device=device)
    wide = index[:, None].expand(-1, 8)
    words = torch.randint(50, (4000,), device=device)
    bags = torch.arange(0, 4000, 40, device=device)
    grid = torch.rand(4, 64, 64, 2, device=device) * 2 - 1
    labels = torch.randint(4, (4, 32, 32), device=device)
    targets = torch.randint(1, 20, (8, 10), device=device)
    lengths = torch.full((8,), 50), torch.full((8,), 10)
    small, table, image = leaf(16, 8), leaf(50, 64), leaf(4, 4, 32, 32)
    volume, logits, kernel = leaf(2, 2, 8, 16, 16), leaf(50, 8, 20), leaf(4, 8, 3, 3)

    def zeros(*shape: int) -> Any:
        return torch.zeros(shape, device=device)

    forward: dict[str, Callable[[], Any]] = {
        "index_add": lambda: zeros(16, 8).index_add(0, index, rows),
        "scatter_add, 1-d": lambda: zeros(16).scatter_add(0, index, rows[:, 0]),
        "scatter_add, 2-d": lambda: zeros(16, 8).scatter_add(0, wide, rows),
        "scatter_reduce": lambda: zeros(16, 8).scatter_reduce(0, wide, rows, "mean"),
        "index_put": lambda: zeros(16, 8).index_put((index,), rows, accumulate=True),
        "cumsum": lambda: rows.flatten().cumsum(0),
        "bincount with weights": lambda: torch.bincount(index, rows[:, 0]),
        "histc": lambda: torch.histc(rows, 50),
        "median": lambda: rows.median(0).values,
    }
    outputs: dict[str, tuple[Any, Callable[[], Any]]] = {
        "indexing": (small, lambda: small[index]),
        "gather": (small, lambda: small.gather(0, wide)),
        "cdist": (small, lambda: torch.cdist(small, rows[:200])),
        "embedding": (table, lambda: F.embedding(words, table)),
        "max_pool2d": (image, lambda: F.max_pool2d(image, 3, 1)),
        "max_pool3d": (volume, lambda: F.max_pool3d(volume, 3, 1)),
        "adaptive_avg_pool2d": (image, lambda: F.adaptive_avg_pool2d(image, 7)),
        "adaptive_max_pool2d": (image, lambda: F.adaptive_max_pool2d(image, 7)),
        "reflection_pad": (image, lambda: F.pad(image, (3, 3, 3, 3), mode="reflect")),
        "replication_pad": (image, lambda: F.pad(image, (3, 3, 3, 3), mode="replicate")),
        "grid_sample": (image, lambda: F.grid_sample(image, grid, align_corners=False)),
        "nll_loss2d": (image, lambda: F.cross_entropy(image, labels)),
        "ctc_loss": (logits, lambda: F.ctc_loss(logits.log_softmax(2), targets, *lengths)),
        "conv2d": (kernel, lambda: F.conv2d(image.detach(), kernel.transpose(0, 1))),
        "conv_transpose2d": (kernel, lambda: F.conv_transpose2d(image.detach(), kernel)),
        "interpolate trilinear": (
            volume, lambda: F.interpolate(volume, scale_factor=1.7, mode="trilinear"),
        ),
    }  # fmt: skip
    for mode in ("sum", "mean", "max"):
        outputs[f"embedding_bag {mode}"] = (
            table, lambda mode=mode: F.embedding_bag(words, table, bags, mode=mode),
        )  # fmt: skip
    for mode in ("nearest", "bilinear", "bicubic"):
        outputs[f"interpolate {mode}"] = (
            image, lambda mode=mode: F.interpolate(image, scale_factor=2.3, mode=mode),
        )  # fmt: skip
    for name, (parameter, output) in outputs.items():
        forward[f"gradient of {name}"] = lambda parameter=parameter, output=output: (
            torch.autograd.grad(output().float().square().sum(), parameter)[0]
        )
    return forward


def kernels(device: str) -> dict[str, Any]:
    """Return the operations that torch warns about, that give other bits, or that raise."""
    import torch

    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    facts: dict[str, Any] = {"deterministic": []}
    for name, operation in operations(device).items():
        fact: dict[str, Any] = {}
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            count, messages = count_differing(lambda operation=operation: [operation()])
            if count or messages:
                fact = {"differing": count, "warnings": messages}
            torch.use_deterministic_algorithms(True)
            operation()
        except RuntimeError as error:
            fact["raises"] = error_text(error)
        if fact:
            facts[name] = fact
        else:
            facts["deterministic"].append(name)
    torch.use_deterministic_algorithms(True, warn_only=True)
    return facts


def rnn_dropout(device: str) -> dict[str, bool]:
    """Find out whether a generator's state determines the dropout between the layers of an RNN."""
    import torch

    torch.manual_seed(0)
    rnn = torch.nn.LSTM(8, 16, 2, dropout=0.5).to(device)
    x = torch.randn(5, 4, 8, device=device)
    generators = torch.cuda if device.startswith("cuda") else torch

    def outputs() -> list[Any]:
        return [rnn(x)[0].detach().clone() for _ in range(2)]

    outputs()
    state = generators.get_rng_state()
    first = outputs()
    moves = not torch.equal(generators.get_rng_state(), state)
    generators.set_rng_state(state)
    repeated = all(bool(torch.equal(a, b)) for a, b in zip(first, outputs(), strict=True))
    return {
        "each step moves the generator": moves,
        "setting its state repeats the outputs": repeated,
        "two steps differ": not torch.equal(*first),
    }


def optimizers_across(device: str) -> dict[str, str]:
    """Load the state of fused, capturable, foreach optimizers on the other device and go on."""
    import torch

    facts = {}
    for flags in ({"fused": True}, {"capturable": True}, {"foreach": True}, {}):
        for source, target in ((device, "cpu"), ("cpu", device)):
            state = None
            try:
                for place in (source, target):
                    layer = torch.nn.Linear(3, 2).to(place)
                    optimizer = torch.optim.AdamW(layer.parameters(), **flags)
                    if state is not None:
                        optimizer.load_state_dict(state)
                    layer(torch.ones(1, 3, device=place)).sum().backward()
                    optimizer.step()
                    state = optimizer.state_dict()
                fact = f"goes on; its step is on {state['state'][0]['step'].device}"
            except (RuntimeError, AssertionError) as error:
                fact = error_text(error)
            facts[f"{next(iter(flags), 'plain')}, {source} to {target}"] = fact
    return facts


def main() -> None:
    """Measure everything."""
    device, path = sys.argv[1], Path(sys.argv[2])
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    facts: dict[str, Any] = {}
    for measure in (
        versions, attention, rnn_dropout, kernels, optimizers_across, fork, precision,
    ):  # fmt: skip
        try:
            facts[measure.__name__] = measure(device)
        except Exception:  # noqa: BLE001 - any failure is a fact about this torch, too
            facts[measure.__name__] = {"error": traceback.format_exc()[-600:]}
        path.write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
