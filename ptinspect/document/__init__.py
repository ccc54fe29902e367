"""What a file means: tensors, modules, optimizers, entries."""

from ptinspect.document.document import Document, open
from ptinspect.document.walk import TensorInfo, StreamWarning, dotted

__all__ = ["Document", "TensorInfo", "StreamWarning", "dotted", "open"]
