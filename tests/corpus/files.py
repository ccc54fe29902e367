"""The fixtures with a truth beside them, and the few that ptinspect refuses, with its reason."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"
SUFFIX = ".truth.json"

# Fixtures that torch refuses as well: class of the error, a part of its message.
REFUSED = {
    "containers/prefixed.pt": ("FormatError", "contains a zip that does not begin at the start"),
    "containers/rezip-bzip2.pt": ("UnsupportedError", "only deflate (8) is supported"),
}

# Together these fixtures reach every branch of the package that all of them reach in `show`, `scan`
# and `convert`, as a tracer of branches has found. The first tier sweeps over no others.
SAMPLE = frozenset(Path(__file__).with_name("sample.txt").read_text("utf-8").split())


def fixtures() -> list[str]:
    """Return the paths of the fixtures below `fixtures/`, sorted."""
    truths = FIXTURES.rglob(f"*{SUFFIX}")
    return sorted(p.relative_to(FIXTURES).as_posix().removesuffix(SUFFIX) for p in truths)


def sampled(names: list[str]) -> list[Any]:
    """Return parameters for a sweep: each name, marked as slow unless it is in the sample."""
    marks = (pytest.mark.slow, pytest.mark.sweep)
    return [name if name in SAMPLE else pytest.param(name, marks=marks) for name in names]


@cache
def truth_of(name: str) -> dict[str, Any]:
    """Return what torch recorded of a fixture."""
    truth: dict[str, Any] = json.loads((FIXTURES / f"{name}{SUFFIX}").read_text("utf-8"))
    return truth
