"""torch.nn as data: every module class of torch 2.13 (`tables/`), its arguments and its printing.

- `classes.lookup`: the row of a class: constructor arguments, and where an instance holds them,
- `classes.candidates`: the torch classes that a user's class may extend, by its attributes,
- `extra_repr`, `printer`: torch's own text for a module and for a whole model,
- `protocols`: the types that callers supply (`TensorFacts`, `Describe`, `ModuleNode`),
- `attributes`: reading a module's attributes, however torch pickles the class.
"""

from __future__ import annotations

from ptinspect.torchnn.arguments import Argument, Name
from ptinspect.torchnn.attributes import MISSING, special_module
from ptinspect.torchnn.classes import Mark, ModuleClass, candidates, lookup
from ptinspect.torchnn.extra_repr import extra_repr
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
