"""From one file to another: state_dicts, checkpoints, safetensors, today's zip."""

from __future__ import annotations

from ptinspect.conversion.report import ConversionReport
from ptinspect.conversion.run import convert

__all__ = ["ConversionReport", "convert"]
