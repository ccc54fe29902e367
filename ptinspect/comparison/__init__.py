"""Compare two documents of any format: `diff` and its report."""

from __future__ import annotations

from ptinspect.comparison.documents import diff
from ptinspect.comparison.report import DiffReport

__all__ = ["DiffReport", "diff"]
