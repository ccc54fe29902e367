"""numpy's .npy: a header in Python's own notation, then numbers, or a pickle where the elements
are objects. Source: numpy/lib/format.py."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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


def objects_at(source: Source) -> tuple[int | None, DamagedError | None]:
    """Where the pickle begins, None where the elements are no objects; what is wrong with the
    header, of which a pickle may follow all the same.

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
        return end, DamagedError("the array's header is too long", where=Place(None, 8))
    header = source.read(begin, length).decode("utf-8" if start[6] == 3 else "latin1", "replace")
    told = _literal(header)
    if not isinstance(told, dict):
        return end, DamagedError("the array's header is no dictionary", where=Place(None, begin))
    return (None if _only_numbers(told.get("descr")) else end), None


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
