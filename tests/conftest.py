"""Shared by all tests: paths, the tiers, the profiles of hypothesis, the `gpu` mark.

Only tests marked `gpu` see a GPU. Without one they are skipped, or fail if PTINSPECT_NEED_GPU=1.
PTINSPECT_TEST_ON_GPU=1 shows the GPU to all tests.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from tests.tiers import all_rounds
from tests.torch_child import torch_python

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "fixtures"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

# No deadline: a loaded machine is no failure. In CI the examples are the same on every run, so that
# a failure there can be repeated. HYPOTHESIS_PROFILE chooses another profile.
settings.register_profile("first-tier", deadline=None, max_examples=10)
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", deadline=None, max_examples=5_000)

# Models this small gain nothing by threads, and as many tests run at a time as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hundreds of child processes import ptinspect: if none of them writes bytecode, each compiles it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell's background jobs ignore SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Settle which tier runs, before the test modules are imported (see tests/tiers.py)."""
    if os.environ.get("PTINSPECT_ALL") == "1" and config.option.markexpr == "not slow":
        config.option.markexpr = ""
    if "not slow" not in config.option.markexpr:
        os.environ["PTINSPECT_ALL"] = "1"
    profile = "ci" if os.environ.get("CI") else "dev"
    if not all_rounds():
        profile = "first-tier"
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", profile))


def why_no_gpu() -> str | None:
    """Return the reason why tests marked `gpu` cannot run here, or None. Imports torch."""
    try:
        import torch
    except ImportError:
        return "needs CUDA: torch is not installed"
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"needs CUDA: torch {torch.__version__} is built without it"
    build = f"torch {torch.__version__} for CUDA {torch.version.cuda}"
    if not NVIDIA_DRIVER.exists():
        return f"needs CUDA: no NVIDIA driver is loaded for {build}"
    driver = NVIDIA_DRIVER.read_text().partition("\n")[0]
    return f"needs CUDA: {build} finds no device with the driver {driver}"


@pytest.fixture(autouse=True)
def _hidden_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPU from the child processes of a test that has no `gpu` mark.

    `--device auto`, the default of every proof, then means the CPU on all machines.
    """
    if not sees_gpu(request.node):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def forked_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each Python as a fork of a process that has imported torch (see torch_child.py)."""
    monkeypatch.setattr(sys, "executable", torch_python())


@pytest.fixture
def forked_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each Python as a fork of a process that has imported torch and its optimizers."""
    monkeypatch.setattr(sys, "executable", torch_python(trains=True))


def sees_gpu(item: pytest.Item) -> bool:
    """Return True if a test may use a GPU."""
    return bool(item.get_closest_marker("gpu")) or os.environ.get("PTINSPECT_TEST_ON_GPU") == "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and os.environ.get("PTINSPECT_NEED_GPU") == "1":
        reason = why_no_gpu()
        if reason:
            pytest.fail(f"PTINSPECT_NEED_GPU=1, but the test {reason}", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.fuzz)
        if item.get_closest_marker("corpus"):
            item.add_marker(pytest.mark.slow)
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if os.environ.get("PTINSPECT_NEED_GPU") == "1":
        return
    if gpu_tests and (reason := why_no_gpu()):  # torch takes seconds to import: only if asked for
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason=reason))
