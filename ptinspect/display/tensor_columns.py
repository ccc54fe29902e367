"""What `--values`, `--stats` and `--hash` add to each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.rows import HEADERS
from ptinspect.display.select import selected
from ptinspect.display.text.columns import Table
from ptinspect.display.text.escape import cut
from ptinspect.display.text.json_values import json_scalar, json_value
from ptinspect.errors import UnsupportedError

if TYPE_CHECKING:
    from ptinspect.display.numbers.stats import Stats
    from ptinspect.display.options import Look
    from ptinspect.document import Document, TensorInfo

STATS = ("min", "max", "mean", "std", "zeros", "nan", "inf")


def values_lines(document: Document, look: Look) -> list[list[str]]:
    """Per selected tensor a block: its key, and what torch prints."""
    from ptinspect.display.numbers.tensor_repr import tensor_text

    made = []
    for info in selected(document, look):
        try:
            text = tensor_text(info.tensor)
        except UnsupportedError as error:
            text = f"not shown: {cut(error.message)}"
        known = info.tensor.parameter and not info.tensor.subclass
        title = ["Parameter containing:"] if known else []  # as repr(parameter) has it
        made.append([cut(info.key), *title, *text.split("\n")])
    return made


def extended(infos: list[TensorInfo], rows: list[tuple[str, ...]], look: Look) -> Table:
    """Rows with columns for statistics and hashes; what cannot be told is said in the note."""
    found = measured(infos, look)
    headers = [*HEADERS, *(STATS if look.stats else ()), *(("sha256",) if look.hash else ())]
    made = []
    for info, row in zip(infos, rows, strict=True):
        one = found[info]
        cells: list[str] = []
        if look.stats:
            cells += _stats_cells(one.stats)
        if look.hash:
            cells.append(one.sha256 or "")
        note = ", ".join(text for text in (row[-1], one.problem) if text)
        made.append((*row[:-1], *cells, note))
    right = frozenset(range(len(HEADERS), len(HEADERS) + len(STATS))) if look.stats else frozenset()
    if any(row[-1] for row in made):
        return Table([*headers, "note"], made, right)
    return Table(headers, [row[:-1] for row in made], right)


class Measured:
    """Statistics and hash of one tensor; `problem`: why one of them is missing."""

    __slots__ = ("problem", "sha256", "stats")

    def __init__(self) -> None:
        self.stats: Stats | None = None
        self.sha256: str | None = None
        self.problem = ""

    def measure(self, info: TensorInfo, look: Look) -> None:
        """The statistics."""
        from ptinspect.display.numbers.stats import stats_of

        try:
            self.stats = stats_of(info.tensor, look)
        except UnsupportedError as error:
            self.problem = cut(error.message)

    def digest(self, info: TensorInfo, look: Look) -> None:
        """The hash."""
        from ptinspect.display.numbers.hashes import tensor_hash

        try:
            self.sha256 = tensor_hash(info, look)
        except UnsupportedError as error:
            self.problem = cut(error.message)


def measured(infos: list[TensorInfo], look: Look) -> dict[TensorInfo, Measured]:
    """Reads the tensors, those that are the same once. DamagedError where bytes are missing."""
    passes = look.stats + look.hash
    known: dict[tuple[object, ...], tuple[Measured, TensorInfo]] = {}
    found = {}
    for info in infos:
        mark = (*info.tensor.same(), info.tensor.stored, info.tensor.conj, info.tensor.neg)
        found[info] = known.setdefault(mark, (Measured(), info))[0]
    with look.bar(passes * sum(info.nbytes for _, info in known.values()), "reading tensors"):
        for one, info in known.values():
            if look.stats:
                one.measure(info, look)
            if look.hash:
                one.digest(info, look)
    return found


def _stats_cells(stats: Stats | None) -> list[str]:
    if stats is None:
        return [""] * len(STATS)
    numbers = [_number(n) for n in (stats.min, stats.max, stats.mean, stats.std)]
    return [*numbers, *(f"{count:,}" for count in (stats.zeros, stats.nan, stats.inf))]


def _number(number: float | int | None) -> str:
    """Four digits, as torch's own printing has it; whole numbers whole."""
    if number is None:
        return "-"
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"


# --- JSON ---------------------------------------------------------------------------------


def json_extras(infos: list[TensorInfo], look: Look) -> dict[TensorInfo, str]:
    """What is put behind each tensor's own facts: `, "stats": {…}, "sha256": "…"`."""
    found = measured(infos, look) if look.stats or look.hash else {}
    made = {}
    for info in infos:
        text, problem = "", ""
        if look.values:
            values, problem = _nested_values(info)
            text += f', "values": {json_value(values)}'
        one = found.get(info)
        if look.stats and one is not None:
            text += f', "stats": {_json_stats(one.stats)}'
        if look.hash and one is not None:
            text += f', "sha256": {json_scalar(one.sha256)}'
        problem = problem or (one.problem if one is not None else "")
        made[info] = text + (f', "not_read": {json_scalar(problem)}' if problem else "")
    return made


def _json_stats(stats: Stats | None) -> str:
    if stats is None:
        return "null"
    fields = [f'"{name}": {json_scalar(getattr(stats, name))}' for name in STATS]
    return f"{{{', '.join(fields)}}}"


def _nested_values(info: TensorInfo) -> tuple[object, str]:
    """The numbers as lists in lists, of a tensor of at most as many as torch prints whole; else
    None and the reason."""
    from ptinspect.display.numbers.tensor_repr import THRESHOLD, numbers_of

    tensor = info.tensor
    if tensor.numel > THRESHOLD:
        return None, f"more than {THRESHOLD:,} elements"
    try:
        flat = numbers_of(tensor)
    except UnsupportedError as error:
        return None, error.message
    items: list[object] = [
        {"real": n.real, "imag": n.imag} if isinstance(n, complex) else n for n in flat
    ]
    if not tensor.shape:
        return items[0], ""
    for size in reversed(tensor.shape[1:]):
        count = len(items) // size if size else 0
        items = [items[at * size : (at + 1) * size] for at in range(count)]
    return items, ""
