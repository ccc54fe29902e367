"""The meaning of a file's objects: tensors, modules, optimizers, entries."""

from ptinspect.document.document import Document, open
from ptinspect.document.tensors import TensorInfo
from ptinspect.document.walk import DocumentWarning
from ptinspect.pickling.pyobjects import dotted

__all__ = ["Document", "DocumentWarning", "TensorInfo", "dotted", "open"]
