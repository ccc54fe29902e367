"""The report of `diff`: what differs, as JSON and text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ptinspect.comparison.changes import Change, Comparison, Lone
from ptinspect.report import Report


@dataclass(frozen=True, slots=True)
class DiffReport(Comparison, Report):
    """The answer of `diff`. `ok` and `same` are True if nothing differs but what is in `notes`."""

    @property
    def ok(self) -> bool:
        return self.same

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
            "a": {"path": self.a.path, "format": self.a.format, "kind": self.a.kind},
            "b": {"path": self.b.path, "format": self.b.format, "kind": self.b.kind},
            "added": [_lone(item) for item in self.added],
            "removed": [{**_lone(item), "tied_to": item.tied_to} for item in self.removed],
            "renamed": list(map(asdict, self.renamed)),
            "patterns": list(map(asdict, self.patterns)),
            "changed": [_change(item) for item in self.changed],
            "entries": [
                {**asdict(e), "path": list(e.path), "a": json_plain(e.a), "b": json_plain(e.b)}
                for e in self.entries
            ],
            "modules": [{**asdict(module), "root": list(module.root)} for module in self.modules],
            "optimizers": [
                {"path": list(o.path), "change": o.change, "what": list(o.what)}
                for o in self.optimizers
            ],
            "notes": list(map(asdict, self.notes)),
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
