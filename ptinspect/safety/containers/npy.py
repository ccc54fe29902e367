"""numpy's .npy: a header in Python's own notation, then numbers, or a pickle where the elements
are objects. Source: numpy/lib/format.py."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.errors import DamagedError, Place

if TYPE_CHECKING:
    from ptinspect.source.base import Source

_LONGEST = 1 << 16
_TOKENS = re.compile(
    r"""(?:[\s\[\](){},:]+|[bru]?'(?:[^'\\\n]|\\.)*'|[bru]?"(?:[^"\\\n]|\\.)*"|[0-9]+L?
    |True|False|None)*""",
    re.VERBOSE | re.IGNORECASE,
)
_CHAIN = re.compile(r"[\])}]\s*[\[(]")
"""An item of something, or a call: nothing that numpy writes, and nested without end."""

_NUMBERS = re.compile(
    r"[<>=|]?(?:[?bBhHiIlLqQpPefdgFDG]|[biufc][0-9]{1,2}|[SUaV][0-9]*|[Mm]8?(?:\[[0-9]*[a-zA-Z]{1,7}\])?)"
)


MAGIC = b"\x93NUMPY"

_SIZES = {"?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "g": 16, "F": 8,
          "D": 16, "G": 32}  # fmt: skip
"""Bytes of a type by its letter alone, as 64-bit machines have it; numpy itself writes the size."""


class Array(NamedTuple):
    """objects: where the pickle of its elements begins, None where they are no objects. end: where
    the numbers end, None where that is not known. error: what is wrong with the header, of which a
    pickle may follow all the same."""

    objects: int | None
    end: int | None
    error: DamagedError | None


def array(source: Source) -> Array:
    """What the header says.

    DamagedError for a header that is cut off. What is no plain notation for numbers counts as
    objects: numpy has several notations, and versions of it do not agree on them.
    """
    start = source.read(0, 12) if source.size >= 12 else b""
    wide = start[6:7] != b"\x01"
    length = int.from_bytes(start[8 : 12 if wide else 10], "little")
    begin = 12 if wide else 10
    if not start or begin + length > source.size:
        raise DamagedError("the array's header is cut off", where=Place(None, 8))
    end = begin + length
    if length > _LONGEST:
        return Array(
            end, None, DamagedError("the array's header is too long", where=Place(None, 8))
        )
    header = source.read(begin, length).decode("utf-8" if start[6] == 3 else "latin1", "replace")
    told = _literal(header)
    if not isinstance(told, dict):
        error = DamagedError("the array's header is no dictionary", where=Place(None, begin))
        return Array(end, None, error)
    if not _only_numbers(told.get("descr")):
        return Array(end, None, None)
    shape = told.get("shape")
    if not isinstance(shape, tuple) or not all(type(each) is int and each >= 0 for each in shape):
        error = DamagedError("the array's header has no shape", where=Place(None, begin))
        return Array(None, None, error)
    return Array(None, end + prod(shape) * _size(told.get("descr")), None)


def _literal(header: str) -> object:
    """The header's value; None for one that numpy would not have written."""
    if not _TOKENS.fullmatch(header) or _CHAIN.search(header):
        return None
    import ast

    for text in (header, re.sub(r"(?<=[0-9])L", "", header)):  # 3L: of Python 2
        try:
            value: object = ast.literal_eval(text.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        return value
    return None


def _only_numbers(descr: object) -> bool:
    """Whether an element type is surely one of numbers or text: a name as numpy writes it, a pair
    of a type and a shape, or a list of fields."""
    waiting = [descr]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str) and _NUMBERS.fullmatch(each):
            continue
        if isinstance(each, tuple) and len(each) == 2 and _is_shape(each[1]):
            waiting.append(each[0])
        elif isinstance(each, list) and all(map(_is_field, each)):
            waiting.extend(field[1] for field in each)
        else:
            return False
    return True


def _size(descr: Any) -> int:
    """Bytes of one element of a type that `_only_numbers` takes."""
    waiting, total = [(descr, 1)], 0
    while waiting:
        each, times = waiting.pop()
        if isinstance(each, tuple):
            waiting.append((each[0], times * _count(each[1])))
        elif isinstance(each, list):
            counts = [_count(field[2]) if len(field) == 3 else 1 for field in each]
            waiting += [(field[1], times * n) for field, n in zip(each, counts, strict=True)]
        else:
            total += times * _size_of_letters(each.lstrip("<>=|"))
    return total


def _size_of_letters(text: str) -> int:
    letter, digits = text[0], text[1:]
    if letter in "Mm":
        return 8
    if letter in "SUaV":
        return int(digits or 0) * (4 if letter == "U" else 1)
    return int(digits) if digits else _SIZES.get(letter, 8)


def _count(shape: Any) -> int:
    return prod(shape if isinstance(shape, tuple) else (shape,))


def _is_field(field: object) -> bool:
    """(name, type) or (name, type, shape); a name may be (title, name)."""
    if not isinstance(field, tuple) or len(field) not in (2, 3):
        return False
    names = field[0] if isinstance(field[0], tuple) else (field[0],)
    named = len(names) <= 2 and all(isinstance(name, str) for name in names)
    return named and (len(field) == 2 or _is_shape(field[2]))


def _is_shape(value: object) -> bool:
    sizes = value if isinstance(value, tuple) else (value,)
    return all(type(size) is int for size in sizes)
