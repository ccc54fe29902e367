"""Converting a file to another form: state_dict, checkpoint, safetensors, today's zip."""

from __future__ import annotations

from ptinspect.conversion.convert_file import convert
from ptinspect.conversion.report import ConversionReport

__all__ = ["ConversionReport", "convert"]
