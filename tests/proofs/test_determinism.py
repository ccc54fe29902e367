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
