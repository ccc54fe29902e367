"""Which torch class a foreign class extends, as far as its attributes tell."""

from __future__ import annotations

from ptinspect.torchnn.attributes import MISSING, find_attribute, items_of
from ptinspect.torchnn.classes import ModuleClass, public_classes
from ptinspect.torchnn.protocols import Attributes

_KNOWN: list[tuple[frozenset[str], ModuleClass]] = []


def candidates(attributes: Attributes) -> list[ModuleClass]:
    """The torch.nn classes whose marks (three or more) an instance has, every one of them;
    the class with the most marks first, torch's most used one first among equals. Nothing
    is certain in this: a class may hold all of them and extend nothing."""
    if not _KNOWN:
        for row in public_classes():
            names = frozenset(mark.name for mark in row.marks)
            if len(names) >= 3:
                _KNOWN.append((names, row))
    held = {name for name in attributes if isinstance(name, str)}
    for store in ("_parameters", "_buffers", "_modules"):
        held.update(name for name in items_of(attributes.get(store)) if isinstance(name, str))
    found = [row for names, row in _KNOWN if names <= held and _fits(row, attributes)]
    return sorted(found, key=_weight, reverse=True)


def _weight(row: ModuleClass) -> tuple[int, int]:
    asked = [mark for mark in row.marks if mark.value is not MISSING or mark.length]
    return len(row.marks), len(asked)


def _fits(row: ModuleClass, attributes: Attributes) -> bool:
    for mark in row.marks:
        value = find_attribute(attributes, mark.name)
        if mark.length and not (isinstance(value, tuple) and len(value) == mark.length):
            return False
        if mark.value is not MISSING and value != mark.value:
            return False
    return True
