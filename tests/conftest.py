"""What all tests share: where the fixtures lie, how hypothesis runs, when a GPU is asked for."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "fixtures"

# No deadline: a loaded machine is no failure. In CI the same examples on every run, so that what
# fails there fails here too, and what passes lands. HYPOTHESIS_PROFILE chooses another one.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", deadline=None, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# A shell's background jobs ignore SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def why_no_gpu() -> str | None:
    """Why tests marked `gpu` cannot run here; None where they can. Imports torch."""
    try:
        import torch
    except ImportError:
        return "needs CUDA: torch is not installed"
    return None if torch.cuda.is_available() else "needs CUDA: torch finds no device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if wanting and (reason := why_no_gpu()):  # torch takes seconds to import: only if asked for
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason=reason))
