"""What torch.nn writes, as data: every module class of torch 2.13 (`tables`), and from it

- `lookup`: the row of a class, with its constructor's arguments and how an instance holds them,
- `extra_repr`, `print_module`: torch's own text for a module and for a whole model,
- `candidates`: the torch class that a foreign class extends, told by its attributes,
- `protocols`: what callers supply, as types (`TensorFacts`, `Describe`, `ModuleNode`),
- `unusual`: class and attributes of the torch modules that are pickled in ways of their own.
"""

from __future__ import annotations

from ptinspect.torchnn.arguments import Argument, Name
from ptinspect.torchnn.attributes import MISSING, special_module
from ptinspect.torchnn.bases import candidates
from ptinspect.torchnn.classes import Mark, ModuleClass, lookup
from ptinspect.torchnn.extra import extra_repr
from ptinspect.torchnn.printer import module_lines, print_module
from ptinspect.torchnn.protocols import Attributes

__all__ = [
    "MISSING",
    "Argument",
    "Attributes",
    "Mark",
    "ModuleClass",
    "Name",
    "candidates",
    "extra_repr",
    "lookup",
    "module_lines",
    "print_module",
    "special_module",
]
