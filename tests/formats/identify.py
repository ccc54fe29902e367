"""The format that `open_archive` takes a file for, without its content."""

from __future__ import annotations

from ptinspect.errors import FormatError, PtInspectError
from ptinspect.formats.detect import (
    HEAD_BYTES,
    identify_head,
    read_zip_directory,
)
from ptinspect.formats.signatures import ZIP_MAGIC, Identity, identify_text
from ptinspect.formats.torch.legacy import is_legacy, open_pickle
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.opcodes import BY_CODE
from ptinspect.source.base import Source

READABLE = (
    "torch-zip", "torch-legacy", "torch-legacy-tar", "pickle", "safetensors", "safetensors-index",
    "torch-index", "torch-export", "torch-package", "torchscript", "onnx",
)  # fmt: skip
"""The formats that `open_archive` opens."""


def identify(source: Source, limits: Limits = LIMITS) -> Identity | None:
    """The format, or None if nothing is known that begins like this.

    Raises DamagedError for a zip or tar whose directory cannot be read.
    """
    head = source.read(0, min(source.size, HEAD_BYTES))
    if head.startswith(ZIP_MAGIC):
        return read_zip_directory(source, limits)[1]
    named = identify_head(source, head, limits)
    if named is not None or head[0] not in BY_CODE:
        return named
    if is_legacy(*source.window()):
        return Identity("torch-legacy", "a file of torch.save in its old format")
    try:
        open_pickle(source, head, limits)
    except FormatError:
        return identify_text(head, source.size)
    except PtInspectError:
        pass
    return Identity("pickle", "a pickle")
