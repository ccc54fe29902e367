"""`show --format table`: the tensors of a document, selected, sorted, folded and annotated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.text.columns import Table, draw_table, fold_rows
from ptinspect.display.text.escape import cut
from ptinspect.errors import UnsupportedError
from ptinspect.text import count_text, is_selected

if TYPE_CHECKING:
    from ptinspect.display import ShowOptions
    from ptinspect.display.measure import FileHash, Stats
    from ptinspect.document import Document, TensorInfo
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path

    Row = tuple[str, ...]

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
    optimizer_rows: list[Row] = []
    if options.fold:
        optimizer_rows = _optimizer_rows(document, infos)
        infos = [info for info in infos if info.role != "optimizer"]
    if options.depth is not None and any(info.key.count(".") >= options.depth for info in infos):
        rows = _rows_by_prefix(infos, options.depth, texts)
    else:
        rows = list(map(texts.row, infos))
    if options.fold:
        rows = fold_rows(rows)
    return _without_empty_notes(HEADERS, rows + optimizer_rows)


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


def _rows_by_prefix(infos: list[TensorInfo], depth: int, texts: _Texts) -> list[Row]:
    """Cut keys to `depth` parts and return one row for all tensors below each prefix."""
    groups: dict[str, list[TensorInfo]] = {}
    for info in infos:
        parts = info.key.split(".")
        key = info.key if len(parts) <= depth else ".".join([*parts[:depth], "*"])
        groups.setdefault(key, []).append(info)
    rows = []
    for key, group in groups.items():
        if len(group) == 1 and key == group[0].key:
            rows.append(texts.row(group[0]))
        else:
            elements = sum(info.tensor.numel for info in group)
            rows.append(_sum_row(key, group, f", {count_text(elements, 'element')}"))
    return rows


def _optimizer_rows(document: Document, infos: list[TensorInfo]) -> list[Row]:
    """Return one row for each name in the optimizers' state: `state.*.exp_avg`."""
    groups: dict[str, list[TensorInfo]] = {}
    state_paths = [(*optimizer.path, "state") for optimizer in document.optimizers]
    for info in infos:
        if info.role == "optimizer":
            in_state = info.path[:-2] in state_paths
            parts = (*info.path[:-2], "*", info.path[-1]) if in_state else info.path
            groups.setdefault(".".join(map(str, parts)), []).append(info)
    return [_sum_row(key, group) for key, group in groups.items()]


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
        cells = _stats_cells(measurement.stats) if options.stats else ()
        cells += (measurement.sha256 or "",) * options.hash
        rows.append(texts.row(info, cells, measurement.problem))
    return _without_empty_notes(headers, rows, right)


def _stats_cells(stats: Stats | None) -> Row:
    if stats is None:
        return ("",) * len(STATS_HEADERS)
    numbers = map(_number_text, (stats.min, stats.max, stats.mean, stats.std))
    return (*numbers, f"{stats.zeros:,}", f"{stats.nan:,}", f"{stats.inf:,}")


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
