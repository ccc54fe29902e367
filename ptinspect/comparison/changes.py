"""What differs between two documents, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptinspect.comparison.numbers import ValueChange

if TYPE_CHECKING:
    from ptinspect.pickling.pyobjects import Path


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two documents."""

    path: str
    format: str
    kind: str


@dataclass(frozen=True, slots=True)
class Lone:
    """A tensor that only one document has. `in_model`: it belongs to a module or a state_dict.
    `tied_to`: of a removed one, a key that views the same bytes and that both documents have."""

    key: str
    path: Path
    dtype: str | None
    shape: tuple[int, ...]
    in_model: bool
    tied_to: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor that both documents have and that differs.

    Attributes:
        what: of "shape", "dtype", "device", "requires_grad", "role", "values".
        values: None if the shapes differ or the elements are not numbers.
        reason: why the values could not be compared, else None.
    """

    a: str
    b: str
    what: tuple[str, ...]
    shape: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: tuple[str | None, str | None]
    device: tuple[str, str]
    requires_grad: tuple[bool, bool]
    role: tuple[str, str]
    values: ValueChange | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class EntryChange:
    """An entry (number, string, object) that was added, removed or changed."""

    path: Path
    change: str
    a: object
    b: object


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """A module whose class or configuration changed, or that only one document has. `a` and `b` are
    as `print(model)` shows it, without its children; None where it is absent."""

    root: Path
    name: str
    change: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class OptimizerChange:
    """An optimizer state that was added, removed or changed: in "class", "param_groups" or "state",
    with details such as "lr 0.1 -> 0.01"."""

    path: Path
    change: str
    what: tuple[str, ...]
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A difference that does not make the documents differ: container, order, sharing."""

    kind: str
    message: str
