"""Whether an allowed call asks for more memory, or more digits, than any honest file does: what
makes room for as many elements as it is told, whatever the file holds."""

from __future__ import annotations

import re

from ptinspect.pickling.values import Call, Global, Value
from ptinspect.safety.policy.weights_only import ALLOWED

HUGE = 1 << 33
"""Bytes or elements that no honest call asks for."""

EMPTY = 1 << 16
"""The same of what honest files make empty, and fill by BUILD."""

MAKERS = frozenset(
    (  # noqa: SIM905
        "builtins.bytes builtins.bytearray numpy.ndarray numpy.matrix numpy.recarray"
        " numpy.rec.recarray numpy.core.records.recarray numpy._core.records.recarray"
        " numpy.matrixlib.defmatrix.matrix"
    ).split()
) | frozenset(name for name in ALLOWED if name.endswith(("Storage", "Tensor")))
"""What takes a size, or a shape, in place of a content."""

TOO_MUCH = "asks for more memory than there is"
COMPUTED = "is given a size that a call makes"
DIGITS = "is a number of more digits than any that is measured"

_EXPONENT = re.compile(r"e[+-]?0*[1-9][0-9_]{4}", re.IGNORECASE)
_PLAIN = frozenset(("_codecs.encode", "torch.Size"))


def elements(shape: Value) -> int | None:
    """How many a size or a shape stands for; None where it is neither, or a call makes it."""
    if isinstance(shape, Call) and isinstance(shape.func, Global):
        if shape.func.path != "torch.Size" or len(shape.args) != 1:
            return None
        shape = shape.args[0]
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    total = 1
    for size in sizes:
        if not isinstance(size, int):
            return None
        total = min(total * abs(size), HUGE + 1)  # a product without end is none
    return total


def asks_too_much(args: tuple[Value, ...]) -> str | None:
    """Why a call of one of MAKERS may ask for too much; None where it does not."""
    together = [arg for arg in args if type(arg) is int]
    told = [elements(tuple(together)), *map(elements, args)]
    if any(count is not None and count > HUGE for count in told):
        return TOO_MUCH
    for arg in args:
        if isinstance(arg, Call) and isinstance(arg.func, Global) and arg.func.path not in _PLAIN:
            return COMPUTED
    return None


def has_many_digits(args: tuple[Value, ...]) -> str | None:
    """The same of Decimal and Fraction: `1e999999999` is short to write, and long to count."""
    for arg in args:
        if isinstance(arg, str) and _EXPONENT.search(arg):
            return DIGITS
        if isinstance(arg, tuple) and any(type(e) is int and abs(e) > 9999 for e in arg):
            return DIGITS
        if isinstance(arg, Call):
            return COMPUTED
    return None
