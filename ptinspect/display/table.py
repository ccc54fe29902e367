"""Tables of text: repeated keys folded, and drawn like tabulate's format "simple"; and
`show --format table`: the tensors of a document, selected, sorted, folded and annotated.

tabulate itself is not used: importing it adds 15 ms to the 65 ms of CPU time that `show` takes for
a small file, it draws 20,000 rows in 0.86 s instead of 0.04 s, and it does not fit a table to the
terminal.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.errors import UnsupportedError
from ptinspect.text import count_text, cut, is_selected, markdown

if TYPE_CHECKING:
    from ptinspect.display import ShowOptions
    from ptinspect.display.measure import FileHash
    from ptinspect.document import Document, TensorInfo
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path

    Row = tuple[str, ...]

GAP = "  "

MIN_FIRST_COLUMN = 32
MIN_LAST_COLUMN = 12
"""Columns of the terminal that the first and the last cell keep when a table is made to fit."""

MIN_FOLD = 3
"""Repetitions of a key that are worth a pattern."""


class Table(NamedTuple):
    """Cells of escaped text; `right` holds the indices of the columns that are aligned right."""

    headers: list[str]
    rows: list[tuple[str, ...]]
    right: frozenset[int] = frozenset()


def display_width(text: str) -> int:
    """Return the columns of a terminal that the text takes: two for East Asian characters, none for
    combining marks."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def pad(text: str, width: int, right: bool = False) -> str:
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def shorten_middle(text: str, width: int) -> str:
    """Return the text with its middle left out if it is wider: the ends of a key say most."""
    if display_width(text) <= width:
        return text
    count = min(width - 1, len(text))
    head, tail = text[: count - count // 2], text[len(text) - count // 2 :]
    while display_width(head + tail) >= width:
        head, tail = (head[:-1], tail) if len(head) > len(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def draw_table(table: Table, width: int | None = None) -> list[str]:
    """Return the lines of a table: headers, a rule, the rows. To fit a terminal of `width` columns,
    the last and the first column are shortened."""
    headers: Sequence[str] = table.headers
    rows: Sequence[Sequence[str]] = table.rows
    widths = [display_width(header) for header in headers]
    ascii_only = all(map(str.isascii, headers))
    for index, column in enumerate(zip(*rows, strict=True)):
        column_is_ascii = "".join(column).isascii()
        measure = len if column_is_ascii else display_width
        widths[index] = max(widths[index], max(map(measure, column)))
        ascii_only = ascii_only and column_is_ascii
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widths = fit_widths(widths, width)
        headers, *rows = (
            [shorten_middle(cell, widths[index]) for index, cell in enumerate(row)]
            for row in (headers, *rows)
        )
        ascii_only = False  # the ellipsis is not ASCII
    rule = GAP.join("-" * width for width in widths)
    if ascii_only:  # one format string for all rows is several times as fast as padding cells
        alignments = ["" if index in table.right else "-" for index in range(len(widths))]
        row_format = GAP.join(
            f"%{alignment}{width}s" for alignment, width in zip(alignments, widths, strict=True)
        )
        lines = [(row_format % tuple(row)).rstrip() for row in (headers, *rows)]
    else:
        lines = [
            GAP.join(
                pad(cell, width, index in table.right)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (headers, *rows)
        ]
    lines.insert(1, rule)
    return lines


def markdown_table(table: Table) -> list[str]:
    """Return the lines of a table in GitHub's Markdown."""
    rule = ["---:" if index in table.right else "---" for index in range(len(table.headers))]
    rows = [[markdown(cell) for cell in row] for row in table.rows]
    return [f"| {' | '.join(row)} |" for row in (table.headers, rule, *rows)]


def fit_widths(widths: list[int], width: int) -> list[int]:
    """Return widths that together fit, as far as possible: the last column (a note, a hash) is
    shortened first, then the first (the key). Half a shape or dtype says nothing, so the others
    stay."""
    fitted = list(widths)
    excess = sum(fitted) + len(GAP) * (len(fitted) - 1) - width
    for index, minimum in ((len(fitted) - 1, MIN_LAST_COLUMN), (0, MIN_FIRST_COLUMN)):
        cut = max(min(excess, fitted[index] - minimum), 0)
        fitted[index] -= cut
        excess -= cut
    return fitted


_Pattern = tuple[tuple[str, ...], Hashable, tuple[int, ...]]
"""The tokens of a key, its facts and its rows."""


class FoldedKey(NamedTuple):
    """A key or a pattern of keys, the indices of its rows, and the facts that they share."""

    key: str
    rows: tuple[int, ...]
    facts: Hashable

    @property
    def times(self) -> int:
        """Number of keys."""
        return len(self.rows)

    @property
    def text(self) -> str:
        """The key, and how many keys it stands for: `layers.{0..3}.weight × 4`."""
        return self.key if self.times == 1 else f"{self.key} × {self.times:,}"


def fold_keys(rows: Iterable[tuple[str, Hashable]]) -> list[FoldedKey]:
    """Join keys with the same facts that differ only in one number, which counts up, again and
    again: `layers.{0..3}.experts.{0..7}.weight`. The order is that of the first key of each
    pattern."""
    patterns: list[_Pattern] = [
        (tuple(key.split(".")), facts, (row,)) for row, (key, facts) in enumerate(rows)
    ]
    numbered = {i for tokens, *_ in patterns for i, token in enumerate(tokens) if _is_number(token)}
    for index in sorted(numbered, reverse=True):
        groups: dict[Hashable, list[_Pattern]] = {}
        for number, pattern in enumerate(patterns):
            tokens, facts, numbers = pattern
            group_key: Hashable = number  # a pattern that cannot be joined is a group of its own
            if index < len(tokens) and _is_number(tokens[index]):
                group_key = (tokens[:index], tokens[index + 1 :], facts, len(numbers))
            groups.setdefault(group_key, []).append(pattern)
        patterns = [joined for group in groups.values() for joined in _join_runs(group, index)]
    return [FoldedKey(".".join(tokens), numbers, facts) for tokens, facts, numbers in patterns]


def fold_rows(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Join rows that differ only in one number of their first cell, a key."""
    cells = list(rows)
    folded = fold_keys((row[0], row[1:]) for row in cells)
    return [(item.text, *cells[item.rows[0]][1:]) for item in folded]


def _is_number(token: str) -> bool:
    return token.isascii() and token.isdigit() and len(token) < 10 and str(int(token)) == token


def _join_runs(group: list[_Pattern], index: int) -> Iterator[_Pattern]:
    """Join each run of at least `MIN_FOLD` consecutive numbers in token `index`."""
    if len(group) < MIN_FOLD:
        yield from group
        return
    ordered = sorted(group, key=lambda pattern: int(pattern[0][index]))  # "10" after "2"
    for _, run in groupby(enumerate(ordered), lambda item: int(item[1][0][index]) - item[0]):
        patterns = [pattern for _, pattern in run]
        if len(patterns) < MIN_FOLD:
            yield from patterns
            continue
        (first, facts, _), (last, *_) = patterns[0], patterns[-1]
        token = f"{{{first[index]}..{last[index]}}}"
        rows = chain.from_iterable(rows for *_, rows in patterns)
        yield (*first[:index], token, *first[index + 1 :]), facts, tuple(rows)


# The table of tensors

HEADERS = ("key", "role", "dtype", "shape", "device")
STATS_HEADERS = ("min", "max", "mean", "std", "zeros", "nan", "inf")


def table_text(document: Document, options: ShowOptions, file_hash: FileHash | None) -> str:
    """Return the table of the selected tensors, and their numbers if asked for."""
    table = tensor_table(document, options)
    has_rows = bool(table.rows)
    lines = draw_table(table, options.width) if has_rows else [no_tensors_text(document, options)]
    blocks = [lines, *(values_blocks(document, options) if options.values else [])]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def select_tensors(document: Document, options: ShowOptions) -> list[TensorInfo]:
    """Return the tensors that pass --include and --exclude, in the order of --sort."""
    infos = [
        info
        for info in document.tensors.values()
        if is_selected(info.key, options.include, options.exclude)
    ]
    if options.sort == "key":
        infos.sort(key=lambda info: natural_sort_key(info.key))
    elif options.sort == "size":
        infos.sort(key=lambda info: -info.nbytes)
    return infos


def no_tensors_text(document: Document, options: ShowOptions) -> str:
    """Return the line to show instead of an empty table."""
    count = len(document.tensors)
    if not count or not (options.include or options.exclude):
        return "no tensors"
    return f"no key of {count_text(count, 'tensor')} passes --include and --exclude"


def natural_sort_key(key: str) -> list[tuple[int, int, str]]:
    """Return a sort key that compares numbers by value: `layers.2` before `layers.10`."""
    return [
        (0, int(part), part)
        if part.isascii() and part.isdigit() and len(part) < 20
        else (1, 0, part)
        for part in key.split(".")
    ]


def tensor_table(document: Document, options: ShowOptions) -> Table:
    """Return the table of the selected tensors, with a column `note` only if one has a note.
    With --stats or --hash there is a row per tensor; otherwise repeated tensors are folded and
    those deeper than --depth are summed up, if the options say so."""
    infos = select_tensors(document, options)
    texts = _Texts(document)
    if options.stats or options.hash:
        return _measured_table(infos, texts, options)
    state: dict[str, list[TensorInfo]] = {}  # a row for each name in it: `state.*.exp_avg`
    if options.fold:
        state_paths = [(*optimizer.path, "state") for optimizer in document.optimizers]
        for info in (info for info in infos if info.role == "optimizer"):
            in_state = info.path[:-2] in state_paths
            parts = (*info.path[:-2], "*", info.path[-1]) if in_state else info.path
            state.setdefault(".".join(map(str, parts)), []).append(info)
        infos = [info for info in infos if info.role != "optimizer"]
    groups: dict[str, list[TensorInfo]] = {}
    if options.depth is not None and any(info.key.count(".") >= options.depth for info in infos):
        for info in infos:
            names = info.key.split(".")
            is_short = len(names) <= options.depth
            key = info.key if is_short else ".".join([*names[: options.depth], "*"])
            groups.setdefault(key, []).append(info)
    rows = [] if groups else list(map(texts.row, infos))
    for key, group in groups.items():
        if len(group) == 1 and key == group[0].key:
            rows.append(texts.row(group[0]))
        else:
            elements = sum(info.tensor.numel for info in group)
            rows.append(_sum_row(key, group, f", {count_text(elements, 'element')}"))
    if options.fold:
        rows = fold_rows(rows)
    rows += [_sum_row(key, group) for key, group in state.items()]
    return _without_empty_notes(HEADERS, rows)


def _without_empty_notes(
    headers: tuple[str, ...], rows: list[Row], right: frozenset[int] = frozenset()
) -> Table:
    if any(row[-1] for row in rows):
        return Table([*headers, "note"], rows, right)
    return Table([*headers], [row[:-1] for row in rows], right)


def _key_text(key: str, path: Path = ()) -> str:
    if not key:
        return '""' if path else "(root)"  # the file is a single tensor
    return key if key.isascii() and key.isprintable() and len(key) < 1000 else cut(key)


def dtype_text(tensor: Tensor) -> str:
    """Return the name of the element type, or `unknown`."""
    return tensor.dtype.name if tensor.dtype else tensor.encoding or "unknown"


def shape_text(shape: tuple[int, ...]) -> str:
    """Return `(1, 2)`; a ragged dimension is written `*`."""
    return str(shape).replace("-1", "*") if -1 in shape else str(shape)


class _Texts:
    """The cells of the tensors of one document."""

    def __init__(self, document: Document) -> None:
        self._is_module = document.kind == "module"
        self._duplicates = document.survey.duplicates
        self._cells: dict[object, Row] = {}  # many tensors share their cells: built once

    def row(self, info: TensorInfo, measured: Row = (), problem: str = "") -> Row:
        """Return key, role, dtype, shape and device, what was measured, and the note."""
        tensor = info.tensor
        facts = (info.role, tensor.encoding or id(tensor.dtype), tensor.shape, tensor.device)
        cells = self._cells.get(facts)
        if cells is None:
            texts = dtype_text(tensor), shape_text(tensor.shape), cut(tensor.device)
            cells = self._cells[facts] = (info.role, *texts)
        notes = self._notes(info) if not problem else [*self._notes(info), problem]
        return (_key_text(info.key, info.path), *cells, *measured, ", ".join(notes))

    def _notes(self, info: TensorInfo) -> list[str]:
        tensor = info.tensor
        notes = []
        if info in self._duplicates and tensor.storage is not None:
            first = self._duplicates[info]
            notes.append(f"= {_key_text(first.key, first.path)}")
        if not info.persistent and info.role == "buffer":
            notes.append("not in state_dict")
        if tensor.layout != "strided":
            notes.append(cut(tensor.layout))
        if tensor.subclass:
            notes.append(cut(tensor.subclass.rsplit(".", 1)[-1]))
        if tensor.quantizer:
            notes.append(str(tensor.quantizer.get("qscheme", "quantized")))
        if self._is_module and info.role == "parameter" and not tensor.requires_grad:
            notes.append("frozen")
        return notes


def _sum_row(key: str, group: list[TensorInfo], elements: str = "") -> Row:
    cells = [(info.role, dtype_text(info.tensor), info.tensor.device) for info in group]
    columns = zip(*cells, strict=True)
    roles, dtypes, devices = (", ".join(dict.fromkeys(column)) for column in columns)
    shape = count_text(len(group), "tensor") + elements
    return (_key_text(key), roles, dtypes, shape, cut(devices), "")


def _measured_table(infos: list[TensorInfo], texts: _Texts, options: ShowOptions) -> Table:
    from ptinspect.display.measure import measure_tensors

    headers = HEADERS + STATS_HEADERS * options.stats
    right = frozenset(range(len(HEADERS), len(headers)))
    headers += ("sha256",) * options.hash
    rows = []
    for info, measurement in measure_tensors(infos, options).items():
        cells: Row = ()
        if options.stats:
            stats = measurement.stats
            cells = ("",) * len(STATS_HEADERS)
            if stats is not None:
                numbers = map(_number_text, (stats.min, stats.max, stats.mean, stats.std))
                cells = (*numbers, f"{stats.zeros:,}", f"{stats.nan:,}", f"{stats.inf:,}")
        cells += (measurement.sha256 or "",) * options.hash
        rows.append(texts.row(info, cells, measurement.problem))
    return _without_empty_notes(headers, rows, right)


def _number_text(number: float | int | None) -> str:
    """Return four digits, as torch prints them; integers in full."""
    if number is None:
        return "-"
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"


def values_blocks(document: Document, options: ShowOptions) -> list[list[str]]:
    """Return a block of lines for each selected tensor: its key, and the text of print(tensor)."""
    from ptinspect.display.tensor_repr import tensor_text

    blocks = []
    for info in select_tensors(document, options):
        try:
            lines = tensor_text(info.tensor).split("\n")
        except UnsupportedError as error:
            lines = [f"not shown: {cut(error.message)}"]
        if info.tensor.parameter and not info.tensor.subclass:
            lines.insert(0, "Parameter containing:")  # as in repr(parameter)
        blocks.append([_key_text(info.key, info.path), *lines])
    return blocks
