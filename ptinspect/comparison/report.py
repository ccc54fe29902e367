"""The report of `diff`: what differs between two documents, as values, JSON and text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ptinspect.comparison.keys import Pattern, Rename
from ptinspect.comparison.numbers import ValueChange
from ptinspect.report import Report

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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


@dataclass(frozen=True, slots=True)
class DiffReport(Report):
    """The answer of `diff`: what differs, with the tensors in file order, and how many are
    equal. `ok` and `same` are True if nothing differs but what is in `notes`."""

    a: Side
    b: Side
    tolerance: float
    unchanged: int
    added: tuple[Lone, ...]
    removed: tuple[Lone, ...]
    renamed: tuple[Rename, ...]
    patterns: tuple[Pattern, ...]
    changed: tuple[Change, ...]
    entries: tuple[EntryChange, ...]
    modules: tuple[ModuleChange, ...]
    optimizers: tuple[OptimizerChange, ...]
    notes: tuple[Note, ...] = ()

    @property
    def same(self) -> bool:
        """True if the documents hold the same tensors, entries, modules and optimizers."""
        return not (
            self.added or self.removed or self.renamed or self.changed
            or self.entries or self.modules or self.optimizers
        )  # fmt: skip

    @property
    def ok(self) -> bool:
        return self.same

    @property
    def totals(self) -> dict[str, int]:
        """The number of tensors that are the same, changed, added, removed and renamed."""
        counts = {
            name: len(getattr(self, name)) for name in ("changed", "added", "removed", "renamed")
        }
        return {"same": self.unchanged, **counts}

    @property
    def summary(self) -> str:
        """Return `same` or `different:` and what changed, on one line."""
        from ptinspect.comparison.render import summary

        return summary(self)

    def text(self) -> str:
        """Return the report as text for a terminal of unlimited width, without colour."""
        from ptinspect.comparison.render import render_text

        return render_text(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of `diff -f json`."""
        from ptinspect._version import __version__

        return {
            "schema": 1,
            "ptinspect": __version__,
            "same": self.same,
            "tolerance": self.tolerance,
            "a": asdict(self.a),
            "b": asdict(self.b),
            "added": _json_objects(self.added, "in_model", "tied_to"),
            "removed": _json_objects(self.removed, "in_model"),
            "renamed": _json_objects(self.renamed),
            "patterns": _json_objects(self.patterns),
            "changed": _json_objects(self.changed, "reason"),
            "entries": _json_objects(self.entries),
            "modules": _json_objects(self.modules),
            "optimizers": _json_objects(self.optimizers, "details"),
            "notes": _json_objects(self.notes),
            "totals": self.totals,
        }


def _json_objects(items: Iterable[DataclassInstance], *omitted: str) -> list[object]:
    """Return dataclasses as JSON has them, without the `omitted` fields."""
    fields = map(asdict, items)
    return [
        json_plain({name: value for name, value in item.items() if name not in omitted})
        for item in fields
    ]


def json_plain(value: object) -> object:
    """Return a plain value as JSON has it: tuples as lists, NaN and infinities as text."""
    if isinstance(value, list | tuple):
        return [json_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: json_plain(item) for name, item in value.items()}
    if isinstance(value, float) and value - value != 0:
        return "nan" if value != value else "inf" if value > 0 else "-inf"
    return value
