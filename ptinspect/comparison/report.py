"""What `diff` found: the report, as Python values, JSON and text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ptinspect.comparison.keys import Pattern, Rename
from ptinspect.comparison.numbers import ValueChange
from ptinspect.report import Report

if TYPE_CHECKING:
    from ptinspect.pickling.pyobjects import Path


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two documents."""

    path: str
    format: str
    kind: str
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Lone:
    """A tensor that only one of the documents has.

    Attributes:
        in_model: True if it belongs to a module or a state_dict.
        tied_to: a key of the same document that views the same bytes and that both have; None
            if there is none, or the tensor was added.
    """

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
    """A module whose class or configuration changed, or that only one document has.

    Attributes:
        a, b: as `print(model)` shows it, without its children; None where it is absent.
    """

    root: Path
    name: str
    change: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class OptimizerChange:
    """An optimizer state that was added, removed or changed.

    Attributes:
        what: of "class", "param_groups", "state"; empty if it was added or removed.
        details: the hyper-parameters that changed, e.g. "lr 0.1 -> 0.01".
    """

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
    """The answer of `diff`. `ok` and `same` are True if nothing differs but what is in `notes`.

    Attributes:
        unchanged: number of tensors that both documents have and that are equal.
    """

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
    notes: tuple[Note, ...] = field(default=())

    @property
    def same(self) -> bool:
        """True if the documents hold the same tensors, entries, modules and optimizers."""
        return not (
            self.added or self.removed or self.renamed or self.changed
            or self.entries or self.modules or self.optimizers
        )  # fmt: skip

    @property
    def ok(self) -> bool:
        """The same as `same`."""
        return self.same

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
            "a": {"path": self.a.path, "format": self.a.format, "kind": self.a.kind},
            "b": {"path": self.b.path, "format": self.b.format, "kind": self.b.kind},
            "added": [_lone(item) for item in self.added],
            "removed": [{**_lone(item), "tied_to": item.tied_to} for item in self.removed],
            "renamed": [{"a": r.a, "b": r.b, "evidence": r.evidence} for r in self.renamed],
            "patterns": [{"a": p.a, "b": p.b, "count": p.count} for p in self.patterns],
            "changed": [_change(item) for item in self.changed],
            "entries": [
                {
                    "path": list(e.path),
                    "change": e.change,
                    "a": json_plain(e.a),
                    "b": json_plain(e.b),
                }
                for e in self.entries
            ],
            "modules": [
                {"root": list(m.root), "name": m.name, "change": m.change, "a": m.a, "b": m.b}
                for m in self.modules
            ],
            "optimizers": [
                {"path": list(o.path), "change": o.change, "what": list(o.what)}
                for o in self.optimizers
            ],
            "notes": [{"kind": note.kind, "message": note.message} for note in self.notes],
            "totals": {
                "same": self.unchanged,
                "changed": len(self.changed),
                "added": len(self.added),
                "removed": len(self.removed),
                "renamed": len(self.renamed),
            },
        }


def _lone(item: Lone) -> dict[str, object]:
    return {
        "key": item.key, "path": list(item.path), "dtype": item.dtype, "shape": list(item.shape)
    }  # fmt: skip


def _change(item: Change) -> dict[str, object]:
    values = None
    if item.values is not None:
        values = {name: json_number(number) for name, number in item.values.as_dict().items()}
    return {
        "a": item.a, "b": item.b, "what": list(item.what),
        "shape": [list(shape) for shape in item.shape],
        "dtype": list(item.dtype), "device": list(item.device), "values": values,
    }  # fmt: skip


def json_plain(value: object) -> object:
    """Return a plain value as JSON has it."""
    if isinstance(value, list):
        return [json_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: json_plain(item) for name, item in value.items()}
    return json_number(value)


def json_number(number: object) -> object:
    """Return a number as JSON has it: NaN and infinities as text."""
    if isinstance(number, float) and number - number != 0:
        return "nan" if number != number else "inf" if number > 0 else "-inf"
    return number
