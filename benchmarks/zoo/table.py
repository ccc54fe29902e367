"""docs/zoo.md, from the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def written(folder: Path, results: dict[str, dict[str, Any]]) -> str:
    return ""
