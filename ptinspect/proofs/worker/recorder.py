"""Records each optimizer step of a training script, from inside the script's own processes.

Each Python process of the script runs a copy of this file, named `sitecustomize.py`. Once torch is
imported, it switches deterministic algorithms on and writes digests of every optimizer step. It
also stops the script at a checkpoint, to be killed there. It needs no ptinspect and never raises.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import glob
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import platform
import random
import re
import sys
import time
from typing import Any

# Environment variable with the settings, as JSON.
SETTINGS = "PTINSPECT_SCRIPT"
# Suffix of a file in the trace folder that says where a process waits to be killed.
PAUSED = ".paused"
# Elements of a tensor on an accelerator that are hashed at once.
CHUNK = 1 << 24

# The largest float. Larger integers count as equal to it.
LARGEST = sys.float_info.max

FileState = dict[str, tuple[int, int, int]]


def checkpoint_files(folder: str, patterns: list[str]) -> FileState:
    """Return time, size and inode of each file that matches, and of all files in such folders."""
    state: FileState = {}
    for pattern in patterns:
        for match in glob.glob(os.path.join(glob.escape(folder), pattern), recursive=True):
            inside = [os.path.join(top, name) for top, _, names in os.walk(match) for name in names]
            for path in inside or [match]:
                try:
                    status = os.stat(path)
                except OSError:  # a temporary file that has its name by now
                    continue
                if not os.path.isdir(path):
                    name = os.path.relpath(path, folder)
                    state[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return state


class Recorder:
    """The record of one process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.torch: Any = None
        self.pid = 0
        self.steps = 0
        self.saves = 0
        self.files: FileState = {}
        self.optimizers: list[int] = []
        self.batch: str | None = None
        self.current: dict[str, Any] = {}
        self.in_memory = False
        self.broken = False

    def write(self, record: dict[str, Any]) -> None:
        """Append a line to the file of this process. A fork gets a file of its own."""
        if self.pid != os.getpid():
            self.pid = os.getpid()
            name = f"{time.time_ns()}-{self.pid}.jsonl"
            self.path = os.path.join(self.settings["trace"], name)
            session = os.getsid(0) if hasattr(os, "getsid") else None
            self.write({"pid": self.pid, "session": session})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def pause(self, where: str) -> None:
        """Wait to be killed. Other threads and processes finish what they are writing."""
        open(os.path.join(self.settings["trace"], where + PAUSED), "w", encoding="utf-8").close()
        while os.path.isdir(self.settings["trace"]):
            time.sleep(1)
        os._exit(1)  # the proof itself was killed, and its folder is deleted

    def install(self, torch: Any) -> None:
        """Register the hooks. Called when torch has been imported."""
        self.torch = torch
        optimizer = sys.modules["torch.optim.optimizer"]
        optimizer.register_optimizer_step_pre_hook(self.guarded(self.before_step))
        optimizer.register_optimizer_step_post_hook(self.guarded(self.after_step))
        iterator = sys.modules["torch.utils.data.dataloader"]._BaseDataLoaderIter
        _wrap(iterator, "__init__", before=self.guarded(self.loader_starts))
        _wrap(iterator, "_reset", before=self.guarded(self.loader_starts))
        _wrap(iterator, "__next__", after=self.guarded(self.batch_fetched))
        if self.settings.get("stop_in_save"):
            self.save = torch.save
            _wrap(torch, "save", before=self.guarded(self.interrupted_save))
            write = self.guarded(self.interrupted_write)
            sys.addaudithook(
                lambda event, arguments: write(event, arguments) if self.in_memory else None
            )
        self.use_deterministic_algorithms()

    def guarded(self, function: Any) -> Any:
        """Return the function without its result and its errors: they are not the script's."""

        def call(*args: Any, **kwargs: Any) -> None:
            torch = self.torch
            compiler = getattr(torch, "compiler", None)
            if self.broken or getattr(compiler, "is_compiling", bool)():
                return
            try:
                if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
                    return
                with torch.no_grad():
                    function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  # the script must not notice
                self.broken = True
                with contextlib.suppress(OSError):
                    self.write({"error": f"{type(error).__name__}: {error}"[:300]})

        return call

    def use_deterministic_algorithms(self) -> None:
        """Switch deterministic algorithms on, also after the script has switched them off."""
        torch = self.torch
        if not torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False
        cudnn = torch.backends.cudnn
        if torch.version.cuda and (cudnn.benchmark or not cudnn.deterministic):
            cudnn.benchmark, cudnn.deterministic = False, True
        if torch.version.cuda and torch.is_deterministic_algorithms_warn_only_enabled():
            switch_off_attention_kernels(torch)

    def loader_starts(self, iterator: Any, loader: Any, *rest: Any) -> None:
        """Record what decides the order of an epoch's batches."""
        self.use_deterministic_algorithms()
        batch_sampler = getattr(loader, "batch_sampler", None)
        sampler = getattr(batch_sampler, "sampler", None) or getattr(loader, "sampler", None)
        generators = [getattr(source, "generator", None) for source in (loader, sampler)]
        states = [g.get_state() for g in generators if isinstance(g, self.torch.Generator)]
        epoch = getattr(sampler, "epoch", None)
        epoch = epoch if isinstance(epoch, int) else None
        generator = digest(self.torch, states) if states else None
        self.write({"sampler": type(sampler).__name__, "epoch": epoch, "generator": generator})

    def batch_fetched(self, batch: Any) -> None:
        self.batch = digest(self.torch, batch)

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Look for new checkpoints, stop at the one that is asked for, and digest what is there."""
        self.in_memory = False
        # A save counts if checkpoint files have changed since the last step. Only rank 0 counts: it
        # writes, and another process may look while it does.
        if not self.rank():
            previous = self.files
            self.files = checkpoint_files(self.settings["folder"], self.settings["patterns"])
            if any(previous.get(name) != state for name, state in self.files.items()):
                self.saves += 1
                self.write({"saved_after": self.steps})
                if self.saves == self.settings.get("stop_at"):
                    self.pause("step")
        if not self.optimizers:
            self.write({"rank": self.rank(), "environment": environment(self.torch)})
        if id(optimizer) not in self.optimizers:
            self.optimizers.append(id(optimizer))
        self.steps += 1
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        states = [optimizer.state[p] for p in parameters if p in optimizer.state]
        self.current = {
            "optimizer": self.optimizers.index(id(optimizer)),
            "weights": digest(self.torch, parameters),
            "state": digest(self.torch, states),
            "states": len(states),
            "settings": [
                {
                    name: float(max(-LARGEST, min(value, LARGEST)) if type(value) is int else value)
                    for name, value in group.items()
                    if isinstance(value, (bool, int, float))
                    or (self.torch.is_tensor(value) and value.numel() == 1)
                }
                for group in optimizer.param_groups
            ],
            "rng": self.rng(),
            "batch": self.batch,
        }

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Write the step. A closure computes the gradients inside the step, so they come now."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        if self.current:
            self.write({**self.current, "gradients": digest(self.torch, gradients)})
        self.current = {}
        self.use_deterministic_algorithms()

    def interrupted_save(self, obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        """Write only the first half of the file, if this is the save to be interrupted."""
        if self.rank() or self.saves + 1 != self.settings["stop_in_save"]:
            return
        self.in_memory = isinstance(f, io.BytesIO)
        if self.in_memory:
            return
        buffer = io.BytesIO()
        self.save(obj, buffer, *args, **kwargs)
        half = buffer.getvalue()[: buffer.tell() // 2]
        if hasattr(f, "write"):
            f.write(half)
            getattr(f, "flush", bool)()
        else:
            with open(f, "wb") as file:
                file.write(half)
        self.pause("save")

    def interrupted_write(self, event: str, arguments: Any) -> None:
        """Stop as soon as a file for the bytes in memory is empty, or before it gets its name."""
        is_write = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        path: Any = arguments[1 if event == "os.rename" else 0] if arguments else None
        if not (is_write or event == "os.rename") or isinstance(path, int):
            return
        path = os.path.abspath(os.fsdecode(path))
        name = os.path.relpath(path, self.settings["folder"])
        patterns = [os.path.normpath(p).replace("**/", "*") for p in self.settings["patterns"]]
        if not any(fnmatch.fnmatch(name, end) for p in patterns for end in (p, f"{p}/*")):
            return
        self.in_memory = False
        if is_write:
            open(path, "wb").close()
        self.pause("save" if is_write else "memory")

    def rank(self) -> int:
        distributed = self.torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return int(distributed.get_rank())
        rank = os.environ.get("RANK", "0")
        return int(rank) if rank.isdecimal() else 0

    def rng(self) -> dict[str, str]:
        """Return digests of the states of the global random number generators."""
        torch, numpy = self.torch, sys.modules.get("numpy")
        states = {"torch": torch.get_rng_state(), "Python": repr(random.getstate())}
        if numpy is not None:
            states["numpy"] = list(numpy.random.get_state())
        if torch.cuda.is_initialized():
            states["CUDA"] = torch.cuda.get_rng_state()
        return {name: digest(self.torch, state) for name, state in states.items()}


def switch_off_attention_kernels(torch: Any) -> None:
    """Leave only the attention whose gradient is deterministic with `warn_only` too.

    Source: _scaled_dot_product_* in ATen/native/transformers, which ask deterministicAlgorithms and
    not deterministicAlgorithmsWarnOnly.
    """
    for kernel in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp", bool)(False)


def environment(torch: Any, device: str = "cuda") -> dict[str, Any]:
    """Describe what the numbers depend on besides the training: versions, device, precision.

    CUDA is described only if it was used.
    """
    is_cuda = device.startswith("cuda") and torch.cuda.is_initialized()
    driver = list[str]()
    with contextlib.suppress(OSError), open("/proc/driver/nvidia/version") as file:
        driver = re.findall(r"\d+\.\d+(?:\.\d+)?", file.readline()) if is_cuda else []
    precision: dict[str, Any] = {"matmul": None, "cudnn": None}
    with contextlib.suppress(RuntimeError):  # the user's code used both of torch's settings
        precision["matmul"] = torch.get_float32_matmul_precision()
        if is_cuda:
            precision["matmul"] = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
            precision["cudnn"] = "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
    precision["deterministic"] = torch.are_deterministic_algorithms_enabled()
    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device_name": torch.cuda.get_device_name(device) if is_cuda else platform.machine(),
        "driver": driver[0] if driver else None,
        "cuda": torch.version.cuda if is_cuda else None,
        "cudnn": torch.backends.cudnn.version() if is_cuda else None,
        "precision": precision,
    }


def digest(torch: Any, root: Any, on_card: bool = True) -> str:
    """Return a hash of tensors, numbers and containers, equal for equal bits.

    Tensors of an accelerator are hashed there if `on_card`; else copies on the CPU are, so that the
    hash does not depend on the device.
    """
    blake = hashlib.blake2b(digest_size=8)
    stack, objects = [root], set()
    while stack:
        item = stack.pop()
        if torch.is_tensor(item) and item.dim() == 0 and item.device.type != "meta":
            item = item.item()  # such as `step`, a number in older versions
        if torch.is_tensor(item):
            blake.update(f"T{item.dtype}{tuple(item.shape)}".encode())
            tensor, total = item if on_card else item.cpu(), 0
            flat = plain_tensor(torch, tensor).contiguous().reshape(-1)
            if tensor.device.type == "meta" or not flat.numel():
                continue
            if tensor.device.type == "cpu":
                blake.update(flat.view(torch.uint8).numpy())
                continue
            # The sum of all elements' bits, weighted by their positions, modulo 2**64.
            sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
            bits = flat.view(sizes[flat.element_size()])
            for start in range(0, bits.numel(), CHUNK):
                part = bits[start : start + CHUNK].to(torch.int64)
                position = torch.arange(start, start + part.numel(), device=flat.device)
                total += int((part * (position * 0x9E3779B97F4A7C1 | 1)).sum())
            blake.update(repr(total).encode())
        elif isinstance(item, dict):
            blake.update(f"D{len(item)}".encode())
            stack += [part for key in sorted(item, key=str) for part in (key, item[key])]
        elif isinstance(item, (list, tuple)):
            blake.update(f"L{len(item)}".encode())
            stack += item
        elif isinstance(item, (bool, int, float)):
            blake.update(repr(float(item) if abs(item) < 2**53 else item).encode())
        elif hasattr(item, "tobytes"):
            blake.update(item.tobytes())
        elif item is None or isinstance(item, (str, bytes, complex)):
            blake.update(repr(item).encode())
        else:  # an object: its attributes; of a function, a lock and the like only its type
            blake.update(type(item).__qualname__.encode())
            if hasattr(item, "__dict__") and not callable(item) and id(item) not in objects:
                objects.add(id(item))
                stack.append(vars(item))
    return blake.hexdigest()


def plain_tensor(torch: Any, tensor: Any) -> Any:
    """Return a dense tensor, with complex numbers as pairs of real ones."""
    tensor = getattr(tensor, "to_local", tensor.detach)().detach()
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _wrap(owner: Any, name: str, before: Any = None, after: Any = None) -> None:
    """Call `before` with a method's arguments before it, or `after` with its result."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        result = method(*args, **kwargs)
        if after is not None:
            after(result)
        return result

    setattr(owner, name, call)


class _TorchFinder(importlib.abc.MetaPathFinder):
    """Calls the recorder at the end of the script's `import torch`."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute, recorder = spec.loader.exec_module, self.recorder

        def execute_and_install(module: Any) -> None:
            execute(module)
            try:
                recorder.install(module)
            except Exception as error:  # noqa: BLE001  # another torch, or none at all
                recorder.write({"error": f"{type(error).__name__}: {error}"})

        spec.loader.exec_module = execute_and_install  # type: ignore[method-assign]
        return spec


def _run_next_sitecustomize() -> None:
    """Run the sitecustomize that this one hides."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    try:
        _recorder = Recorder(json.loads(os.environ[SETTINGS]))
        _recorder.write({})  # the header has the process id
        sys.meta_path.insert(0, _TorchFinder(_recorder))
    finally:
        _run_next_sitecustomize()
