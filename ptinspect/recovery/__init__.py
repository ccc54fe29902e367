"""Save what is left of a damaged file: `recover` and its report."""

from __future__ import annotations

from ptinspect.recovery.saving import RecoveryReport, recover

__all__ = ["RecoveryReport", "recover"]
