"""What is asked of CUDA, by functions that say what there would be."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

torch = pytest.importorskip("torch")

from ptinspect.proofs.worker import CannotRun, determinism  # noqa: E402


def there_are(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "asked", "found"),
    [(0, "auto", "cpu"), (1, "auto", "cuda"), (0, "cpu", "cpu"), (2, "cpu", "cpu"),
     (1, "cuda", "cuda"), (2, "cuda:1", "cuda:1")],
)  # fmt: skip
def test_the_device_that_is_meant(
    count: int, asked: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there_are(monkeypatch, count)
    assert determinism.resolve_device(asked) == found


@pytest.mark.parametrize(
    ("count", "asked", "said", "hint"),
    [(0, "cuda", "torch finds no CUDA device here", "give --device cpu"),
     (1, "cuda:1", "there is no cuda:1: torch finds 1 CUDA device", "give --device cuda"),
     (4, "cuda:9", "there is no cuda:9: torch finds 4 CUDA devices", "give --device cuda:3")],
)  # fmt: skip
def test_a_device_that_is_not_there(
    count: int, asked: str, said: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there_are(monkeypatch, count)
    with pytest.raises(CannotRun) as caught:
        determinism.resolve_device(asked)
    assert (caught.value.message, caught.value.hint) == (said, hint)


def test_the_generators_of_all_devices_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [torch.full((16,), at, dtype=torch.uint8) for at in range(3)]
    set_all: list[Any] = []
    set_one: list[Any] = []
    there_are(monkeypatch, 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states[:2])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", set_all.append)
    monkeypatch.setattr(torch.cuda, "set_rng_state", set_one.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert determinism.rng_states("cuda:1")["cuda"] == states[:2]
    assert "cuda" not in determinism.rng_states("cpu")
    determinism.set_rng_states({"cuda": states})  # saved on a machine with three
    determinism.set_rng_states({"cuda": states[0]})
    assert [len(given) for given in set_all] == [2]
    assert set_one[0].equal(states[0])
    assert (
        determinism.rng_state_like(states[0], states[:2]) is states[1]
    )  # that of the current device
    assert determinism.rng_state_like(states, states[:2]) is not states[1]


def test_no_state_is_set_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are(monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", None)
    determinism.set_rng_states({"cuda": [torch.zeros(16, dtype=torch.uint8)]})


_JOB = """
import torch, warnings
asked = []
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device"):
    setattr(torch.cuda, name, lambda *a, name=name: asked.append(name) or 0)
from ptinspect.proofs.worker.__main__ import preload
preload()
print(asked)

from ptinspect.proofs.worker.determinism import prepare, prepare_again
cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
prepare({"device": "cpu", "allow_tf32": True})
print(cuda.allow_tf32, cudnn.allow_tf32)
said = prepare({"device": "cpu", "allow_tf32": False, "warn_only": True})
print(torch.are_deterministic_algorithms_enabled(), cuda.allow_tf32, cudnn.allow_tf32,
      cudnn.benchmark, cudnn.deterministic)

for _ in range(2):
    warnings.warn("index_add_cuda_ does not have a deterministic implementation, but you set …")
warnings.warn("something else")
print(said)
"""


@pytest.mark.slow
def test_how_a_job_runs() -> None:
    """A process that is forked from one that has begun CUDA cannot use it: the server asks it
    nothing. TF32 is off unless it is allowed, algorithms are deterministic, and what torch says of
    those that are not is heard."""
    command = [sys.executable, "-c", _JOB]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == [
        "[]", "True True", "True False False False True", "['index_add_cuda_']",
    ]  # fmt: skip
    assert "something else" in done.stderr and "index_add" not in done.stderr


_ATTENTION = """
import torch, warnings
from ptinspect.proofs.worker.determinism import prepare
kernels = {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")
           for name in ("flash", "mem_efficient", "cudnn", "math")}
torch.backends.fp32_precision = "tf32"
for warn_only in (False, True):
    said = prepare({"device": "cpu", "allow_tf32": False, "warn_only": warn_only})
    print(*[name for name, is_enabled in kernels.items() if is_enabled()])
print(torch.backends.fp32_precision)
for name in ("Flash Attention", "Memory Efficient attention"):  # as torch writes it
    warnings.warn(f"{name} defaults to a non-deterministic algorithm. To explicitly enable …")
print(said)
"""


@pytest.mark.slow
def test_attention_whose_gradient_varies_is_switched_off() -> None:
    """With warn_only, torch does not look for a deterministic kernel of attention."""
    command = [sys.executable, "-c", _ATTENTION]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == [
        "flash mem_efficient cudnn math", "math", "ieee",
        "['Flash Attention', 'Memory Efficient attention']",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "message", "hint"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
         "needed more memory than there is", "use smaller batches, or device cpu; its last"),
        ("RuntimeError: CUDA error: device-side assert triggered", "failed: RuntimeError: CUDA",
         "set CUDA_LAUNCH_BLOCKING=1 to see where, or give device cpu; its last"),
    ],
)  # fmt: skip
def test_failures_of_the_card_are_no_differences(output: str, message: str, hint: str) -> None:
    """The child ends with them, whatever runs in it, and the command with exit code 2."""
    from ptinspect.proofs.processes import failure_error, log_hint
    from ptinspect.proofs.worker import raise_unless_of_model

    error = RuntimeError(output.partition(": ")[2])
    with pytest.raises(RuntimeError) as caught:
        raise_unless_of_model(error)
    assert caught.value is error
    failure = failure_error(1, f"Traceback\n{output}", hint=log_hint(output))
    assert message in failure.message
    assert str(failure.hint).startswith(hint)


def test_a_step_count_stays_where_torch_wants_it() -> None:
    """Of a plain optimizer `step` is on the CPU, beside moments on the card; what a fused or
    capturable one loads, torch moves itself."""
    from ptinspect.proofs.worker.user_code import to_device

    state = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "times": [torch.ones(1), 2]}
    moved = to_device(state, "meta", scalars=False)
    places = [value.device.type for value in (moved["step"], moved["exp_avg"], *moved["times"][:1])]
    assert places == ["cpu", "meta", "meta"]
    assert to_device(state, "meta")["step"].device.type == "meta"
    for flags in ({"fused": True}, {"foreach": True}):
        layers = [torch.nn.Linear(2, 2) for _ in range(2)]
        first, second = (torch.optim.Adam(layer.parameters(), **flags) for layer in layers)
        layers[0](torch.ones(1, 2)).sum().backward()
        first.step()
        second.load_state_dict(first.state_dict())
        steps = [own["step"] for own in second.state.values()]
        assert {(step.device, float(step)) for step in steps} == {(torch.device("cpu"), 1.0)}


@pytest.mark.slow
def test_the_tests_of_a_card_need_few_packages() -> None:
    """A rented machine has torch and pytest, and not what the tests of the documentation need."""
    code = """
import sys
for name in ("jsonschema", "sybil", "transformers", "lightning", "accelerate", "matplotlib"):
    sys.modules[name] = None
import pytest
files = ["test_cross_device", "test_determinism", "test_sound"]
paths = [f"tests/proofs/{name}.py" for name in files]
sys.exit(pytest.main(["--collect-only", "-q", "-m", "", "-p", "no:cacheprovider", *paths]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_memory_is_not_bounded_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA reserves more addresses than a machine has memory: with a bound it does not begin."""
    from ptinspect.proofs.worker import jobs

    bounds: list[Any] = []
    monkeypatch.setattr(determinism, "limit_memory", lambda: bounds.append(os.environ.copy()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(determinism, "prepare", lambda options: [])
    monkeypatch.setattr(
        jobs, "compare_end_states", lambda job: {"device": job["options"]["device"]}
    )
    there_are(monkeypatch, 1)
    for device, seen in (("cuda", "1"), ("cpu", "")):
        job = {"kind": "compare", "options": {"device": device, "allow_tf32": False}}
        assert jobs.run_job(job)["device"] == device
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen  # hidden from a job on the CPU
        assert os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"  # before CUDA's libraries start
    assert [bound["CUDA_VISIBLE_DEVICES"] for bound in bounds] == [""]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the addresses")
def test_the_limit_of_memory_is_beyond_the_present_size() -> None:
    """A process that has reserved more addresses than there is memory can still go on."""
    code = """
import mmap, os, resource
page = os.sysconf("SC_PAGE_SIZE")
physical = os.sysconf("SC_PHYS_PAGES") * page
no_reserve = 0x4000  # MAP_NORESERVE, which Python 3.11 does not name
reserved = mmap.mmap(-1, physical, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve, prot=0)
from ptinspect.proofs.worker.determinism import limit_memory
limit_memory()
print(resource.getrlimit(resource.RLIMIT_AS)[0] > 2 * physical, len(bytearray(1 << 26)))
try:
    bytearray(physical + (1 << 30))
except MemoryError:
    print("limited")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["True 67108864", "limited"], done.stderr


def test_the_childs_environment_is_set_before_torch_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptinspect.proofs import processes

    seen: dict[str, Any] = {}

    class Fake:
        def __init__(self, command: list[str], **more: Any) -> None:
            seen.update(more["env"])

    made = processes.Workers()
    monkeypatch.setattr(processes.subprocess, "Popen", Fake)
    made._start()
    made._server = None
    made.close()
    assert seen["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert seen["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"
