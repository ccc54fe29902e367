"""The two tiers of the tests, told apart by two marks.

`pytest` alone runs the first tier, because pyproject.toml adds `-m "not slow"`. `pytest -m ""` runs
everything; so does `PTINSPECT_ALL=1 pytest`. `pytest -m "slow or fuzz"` runs what the first tier
leaves out: the slow tests, and all rounds of those that try random input.
"""

from __future__ import annotations

import os


def all_rounds() -> bool:
    """Return True if tests marked `fuzz` try all of their random input. conftest.py decides it."""
    return os.environ.get("PTINSPECT_ALL") == "1"


def rounds(number: int) -> int:
    """Return how many of `number` random inputs to try: a tenth in the first tier."""
    return number if all_rounds() else -(-number // 10)
