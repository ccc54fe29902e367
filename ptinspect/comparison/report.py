"""The report of `diff`: as JSON, and for people as text, Markdown or HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape as html_escape
from typing import Any, NamedTuple

from ptinspect.comparison.keys import Change, Lone, Pattern, Rename, Side, apply_pattern
from ptinspect.comparison.metadata import EntryChange, ModuleChange, Note, OptimizerChange
from ptinspect.display.table import Table, draw_table, fold_keys, fold_rows, markdown_table
from ptinspect.pickling.pyobjects import dotted
from ptinspect.report import Report, __version__, json_objects
from ptinspect.text import count_text, cut, join_names, markdown

Row = tuple[str, ...]

ROWS = 20
"""Rows of a table before the rest is counted."""

SIMILAR = 0.9
"""Median cosine from which the values of a model are called slightly changed."""

MAX_ROUNDING = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6, "float64": 1e-6}
"""Largest mean relative difference that a cast to the type explains."""

_VALUES = ("key", "changed", "max diff", "mean diff", "mean rel", "cosine", "note")

_RED, _GREEN, _YELLOW, _BOLD, _END = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"


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
        return _summary(self)

    def text(self) -> str:
        """Return the report as text for a terminal of unlimited width, without colour."""
        return render_text(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of `diff -f json`."""
        return {
            "schema": 1,
            "ptinspect": __version__,
            "same": self.same,
            "tolerance": self.tolerance,
            "a": asdict(self.a),
            "b": asdict(self.b),
            "added": json_objects(self.added, "in_model", "tied_to"),
            "removed": json_objects(self.removed, "in_model"),
            "renamed": json_objects(self.renamed),
            "patterns": json_objects(self.patterns),
            "changed": json_objects(self.changed, "reason"),
            "entries": json_objects(self.entries),
            "modules": json_objects(self.modules),
            "optimizers": json_objects(self.optimizers, "details"),
            "notes": json_objects(self.notes),
            "totals": self.totals,
        }


class _Section(NamedTuple):
    """A heading with lines, or with a table whose columns `numbers` are aligned right."""

    title: str
    lines: Sequence[str] = ()
    headers: Sequence[str] = ()
    rows: Sequence[Row] = ()
    sign: str = ""
    numbers: Sequence[int] = ()

    def table(self, limit: int | None) -> Table:
        """Return the first rows, without the columns in which all cells are empty."""
        shown = [n for n in range(len(self.headers)) if n == 0 or any(r[n] for r in self.rows)]
        return Table(
            [self.headers[n] for n in shown],
            [tuple(row[n] for n in shown) for row in self.rows[:limit]],
            frozenset(place for place, n in enumerate(shown) if n in self.numbers),
        )


def _summary(report: DiffReport) -> str:
    """Return one sentence on the kind of difference: same, only names, fine-tuned, …"""
    if report.same:
        tolerance = f" within the tolerance {report.tolerance:g}" if report.tolerance else ""
        return f"same: {count_text(report.unchanged, 'tensor')}{tolerance}"

    def counted(items: Sequence[object], noun: str, what: str, plural: str | None = None) -> str:
        return f"{count_text(len(items), noun, plural)} {what}" if items else ""

    def outside_optimizers(items: Sequence[Lone]) -> list[Lone]:
        states = [optimizer.path for optimizer in report.optimizers]
        return [i for i in items if not any(i.path[: len(path)] == path for path in states)]

    only = "" if report.changed or report.added or report.removed else "only "
    optimizers: Counter[str] = Counter()
    for item in report.optimizers:
        details = f": {join_names(item.details, 3)}" if item.details else ""
        changed = f"{join_names(item.what)} changed{details}"
        optimizers[{"removed": "dropped", "added": "added"}.get(item.change, changed)] += 1
    patterns = join_names([f"{cut(p.a)} became {cut(p.b)}" for p in report.patterns], 2)
    parts = [
        counted(report.renamed, "key", f"renamed ({patterns})" if patterns else "renamed"),
        _weights_changed(report),
        counted([c for c in report.changed if "shape" in c.what], "shape", "changed"),
        *(
            f"{count_text(n, 'optimizer') if n > 1 else 'optimizer'} {text}"
            for text, n in optimizers.items()
        ),
        counted(outside_optimizers(report.removed), "tensor", "removed"),
        counted(outside_optimizers(report.added), "tensor", "added"),
        counted(report.modules, "module", "changed"),
        counted(report.entries, "entry", "changed", "entries"),
    ]
    only = only if parts[0] else ""
    return f"different: {only}" + "; ".join(part for part in parts if part)


def _weights_changed(report: DiffReport) -> str:
    """Return what happened to the values: a cast, one layer, fine-tuning or other weights."""
    casts = [change for change in report.changed if "dtype" in change.what]
    values = [c for c in report.changed if "values" in c.what and not _is_rounding(c)]
    parts = []
    if casts:
        kinds = Counter(f"{c.dtype[0]} -> {c.dtype[1]}" for c in casts)
        texts = join_names([f"{kind} ({count:,})" for kind, count in kinds.most_common()], 3)
        rounded = all(_is_rounding(c) for c in casts)
        parts.append(f"cast {texts}" + (", values equal up to rounding" if rounded else ""))
    states = tuple(".".join(map(str, item.path)) + "." for item in report.optimizers if item.path)
    model = [c for c in values if not c.a.startswith(states)]
    if model:
        total = report.unchanged + len(report.changed)
        count = f"{len(model):,} of {count_text(total, 'tensor')}"
        layers = {c.a.rpartition(".")[0] for c in model}
        cosines = sorted(c.values.cosine for c in model if c.values and c.values.cosine is not None)
        if len(layers) == 1 and total > len(model):
            parts.append(f"one layer changed: {cut(next(iter(layers)) or model[0].a)} ({count})")
        elif cosines:
            median = cosines[len(cosines) // 2]
            words = "values changed slightly" if median >= SIMILAR else "other values"
            parts.append(f"{words}: {count}, median cosine {median:.4f}")
        else:
            parts.append(f"values changed: {count}")
    rest = Counter(what for change in report.changed for what in change.what)
    parts += [
        f"{what} of {count_text(count, 'tensor')} changed"
        for what, count in rest.items()
        if what in ("device", "requires_grad", "role")
    ]
    return "; ".join(parts)


def _is_rounding(change: Change) -> bool:
    """Return True if a cast explains all of a change of values."""
    if "dtype" not in change.what or change.values is None:
        return False
    bound = max(MAX_ROUNDING.get(name or "", 0.0) for name in change.dtype)
    values = change.values
    return values.mean_rel <= bound and values.nan_a == values.nan_b


def _sections(report: DiffReport) -> list[_Section]:
    lone = ("key", "dtype", "shape", "note")
    modules = [
        (cut(module.name or "(root)"), cut(module.a or "-"), cut(module.b or "-"))
        for module in report.modules
    ]
    entries = [
        (cut(dotted(e.path)), _entry(e.a, e.change == "added"), _entry(e.b, e.change == "removed"))
        for e in report.entries
    ]
    facts = fold_rows(
        (cut(change.a), aspect, *(cut(str(x)) for x in getattr(change, aspect)))
        for change in report.changed
        for aspect in change.what
        if aspect != "values"
    )
    renamed: list[Row] = [(cut(p.a), cut(p.b), count_text(p.count, "key")) for p in report.patterns]
    evidence = {"bytes": "same bytes", "numbers": "close numbers", "names": "renamed like others"}
    renamed += [
        (cut(rename.a), cut(rename.b), evidence[rename.evidence])
        for rename in report.renamed
        if not any(apply_pattern(p.a, p.b, rename.a) == rename.b for p in report.patterns)
    ]
    sections = [
        _Section("values, most changed first", (), _VALUES, _value_rows(report), "~", range(1, 6)),
        _Section("dtype, shape, device", (), ("key", "what", "A", "B"), facts, "~"),
        _Section("removed (only in A)", (), lone, _lone_rows(report.removed, report), "-"),
        _Section("added (only in B)", (), lone, _lone_rows(report.added, report), "+"),
        _Section("renamed", (), ("A", "B", "evidence"), renamed),
        _Section("optimizers", list(_optimizer_lines(report))),
        _Section("modules", (), ("name", "A", "B"), modules),
        _Section("entries", (), ("path", "A", "B"), entries),
        _Section("load_state_dict of B into the model of A", list(_loading_lines(report))),
        _Section("notes", [f"{note.kind}: {note.message}" for note in report.notes]),
    ]
    return [section for section in sections if section.lines or section.rows]


def _lone_rows(items: tuple[Lone, ...], report: DiffReport) -> list[Row]:
    rows: list[Row] = []
    state: Counter[tuple[str, str]] = Counter()
    states = [(*optimizer.path, "state") for optimizer in report.optimizers]
    for item in items:
        if item.path[:-2] in states:
            state[".".join(map(str, item.path[:-2])), str(item.path[-1])] += 1
        else:
            tied = f"= {cut(item.tied_to)}" if item.tied_to else ""
            rows.append((cut(item.key), item.dtype or "unknown", str(item.shape), tied))
    return fold_rows(rows) + [
        (cut(f"{start}.*.{name}"), "", count_text(count, "tensor"), "optimizer state")
        for (start, name), count in state.items()
    ]


def _optimizer_lines(report: DiffReport) -> Iterator[str]:
    for item in report.optimizers:
        what = f" ({', '.join(item.what)})" if item.what else ""
        yield f"{cut(dotted(item.path))}: {item.change}{what}"
        yield from (f"  {cut(detail)}" for detail in item.details)


def _entry(value: object, absent: bool) -> str:
    """Return an entry's value as one cell: a summary of a long one."""
    if absent:
        return "-"
    if isinstance(value, dict) and "length" in value:
        return f"{value['length']:,} items"
    if isinstance(value, dict) and "shape" in value:
        return f"array {value.get('dtype')} {tuple(value['shape'])}"
    return cut(repr(value))


def _value_rows(report: DiffReport) -> list[Row]:
    """Return the changed values, those that changed most first, repeated blocks folded."""
    all_changes = [c for c in report.changed if "values" in c.what and not _is_rounding(c)]
    rows: list[tuple[float, Row]] = []
    for folded in fold_keys((cut(c.a), (c.shape, c.dtype)) for c in all_changes):
        changes = [all_changes[row] for row in folded.rows]
        values = [change.values for change in changes if change.values is not None]
        is_renamed = len(changes) == 1 and changes[0].a != changes[0].b
        renamed = f"now {cut(changes[0].b)}" if is_renamed else ""
        if not values:
            cells = (folded.text, "", "", "", "", "", changes[0].reason or renamed)
            rows.append((float("inf"), cells))
            continue
        elements = sum(value.elements for value in values)
        share = sum(value.changed for value in values) / max(elements, 1)
        mean_rel = max(value.mean_rel for value in values)
        cosines = [value.cosine for value in values if value.cosine is not None]
        nan_a, nan_b = sum(v.nan_a for v in values), sum(v.nan_b for v in values)
        notes = [renamed] if renamed else []
        if nan_a != nan_b:
            notes.append(f"NaN {nan_a:,} -> {nan_b:,}")
        percent = f"{min(share, 0.999):.1%}".replace("%", " %")
        rows.append((mean_rel, (
            folded.text, "100 %" if share == 1 else "<0.1 %" if share < 0.001 else percent,
            f"{max(v.max_abs for v in values):.3g}", f"{max(v.mean_abs for v in values):.3g}",
            f"{mean_rel:.2g}", f"{min(cosines):.4f}" if cosines else "", ", ".join(notes),
        )))  # fmt: skip
    return [row for _, row in sorted(rows, key=lambda row: -row[0])]


def _loading_lines(report: DiffReport) -> Iterator[str]:
    """Yield what load_state_dict of B into the model of A would say, in torch's words."""
    if "checkpoint" in (report.a.kind, report.b.kind) and report.a.kind != report.b.kind:
        return  # one of them has to be unwrapped first
    missing = [i.key for i in report.removed if i.in_model] + [r.a for r in report.renamed]
    unexpected = [i.key for i in report.added if i.in_model] + [r.b for r in report.renamed]
    for words, keys in (("Missing", missing), ("Unexpected", unexpected)):
        if keys:
            names = join_names([f'"{cut(key)}"' for key in keys], 6)
            yield f"{words} key(s) in state_dict: {names}."
    for change in report.changed:
        if "shape" in change.what:
            a, b = list(change.shape[0]), list(change.shape[1])
            yield (
                f"size mismatch for {cut(change.a)}: copying a param with shape torch.Size({b}) "
                f"from checkpoint, the shape in current model is torch.Size({a})."
            )


def render_text(report: DiffReport, width: int | None = None, *, colour: bool = False) -> str:
    """Return the report as text for a terminal of `width` columns: totals first, then what changed
    most, with the first `ROWS` of each table."""

    def paint(text: str, code: str) -> str:
        return f"{code}{text}{_END}" if colour and code else text

    sides = "".join(
        f"{name}  {cut(side.path)}  {side.kind}, {side.format}\n"
        for name, side in (("A", report.a), ("B", report.b))
    )
    head = paint(_summary(report), _GREEN if report.same else _BOLD)
    lines = [sides, head]
    if not report.same:
        lines.append(f"  {_totals(report)}")
    codes = {"-": _RED, "+": _GREEN, "~": _YELLOW}
    for section in _sections(report):
        lines += ["", paint(section.title, codes.get(section.sign, _BOLD))]
        lines += [f"  {line}" for line in section.lines]
        if section.rows:
            table = section.table(ROWS)
            lines += [f"  {line}" for line in draw_table(table, width and max(width - 2, 1))]
            if len(section.rows) > len(table.rows):
                more = len(section.rows) - len(table.rows)
                lines.append(f"  and {more:,} more; -f json has all")
    return "\n".join(lines) + "\n"


def _totals(report: DiffReport) -> str:
    same, *counts = report.totals.items()
    return "tensors: " + ", ".join(f"{count:,} {word}" for word, count in (*counts, same))


def render_markdown(report: DiffReport) -> str:
    """Return the report as Markdown for a pull request."""
    paths = f"**{markdown(report.a.path)}** → **{markdown(report.b.path)}**"
    lines = [f"{paths}: {markdown(_summary(report))}", ""]
    if not report.same:
        lines += [markdown(_totals(report)), ""]
    for section in _sections(report):
        lines += [f"#### {markdown(section.title)}", ""]
        lines += [f"- {markdown(line.strip())}" for line in section.lines]
        if section.rows:
            lines += markdown_table(section.table(ROWS))
            if len(section.rows) > ROWS:
                lines += ["", f"and {len(section.rows) - ROWS:,} more"]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def render_html(report: DiffReport) -> str:
    """Return the report as one HTML page without scripts or links."""
    parts = [
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
        "<title>ptinspect diff</title><style>body{font-family:sans-serif}td,th{padding:2px 8px;"
        "text-align:left;border-bottom:1px solid #ddd}</style></head><body>",
        f"<h1>{html_escape(_summary(report))}</h1>",
        f"<p>A: {html_escape(cut(report.a.path))}<br>B: {html_escape(cut(report.b.path))}</p>",
    ]  # fmt: skip
    for section in _sections(report):
        parts.append(f"<h2>{html_escape(section.title)}</h2>")
        parts += [f"<p>{html_escape(line)}</p>" for line in section.lines]
        if section.rows:
            table = section.table(None)
            rows = [("th", table.headers), *(("td", row) for row in table.rows)]
            parts.append("<table>")
            parts += [
                "<tr>" + "".join(f"<{tag}>{html_escape(cell)}</{tag}>" for cell in row) + "</tr>"
                for tag, row in rows
            ]
            parts.append("</table>")
    return "\n".join([*parts, "</body></html>"]) + "\n"
