"""The fixtures with a truth beside them, and the few that ptinspect refuses, with its reason."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[2] / "fixtures"
SUFFIX = ".truth.json"

# What torch refuses as well: file, class of the error, a part of its message.
REFUSED = {
    "containers/prefixed.pt": ("FormatError", "does not begin where the file does"),
    "containers/rezip-bzip2.pt": ("UnsupportedError", "only deflate (8) is read"),
}


def fixtures() -> list[str]:
    """Paths of the fixtures below `fixtures/`, in order."""
    truths = FIXTURES.rglob(f"*{SUFFIX}")
    return sorted(p.relative_to(FIXTURES).as_posix().removesuffix(SUFFIX) for p in truths)


@cache
def truth_of(name: str) -> dict[str, Any]:
    """What torch recorded of a fixture."""
    told: dict[str, Any] = json.loads((FIXTURES / f"{name}{SUFFIX}").read_text("utf-8"))
    return told
