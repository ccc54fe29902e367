"""What a file means: tensors, modules, optimizers, entries."""

from ptinspect.document.document import Document, open
from ptinspect.document.walk import TensorInfo, Warned, dotted

__all__ = ["Document", "TensorInfo", "Warned", "dotted", "open"]
