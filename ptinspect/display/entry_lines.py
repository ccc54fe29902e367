"""The entries of a document as lines: keys and texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.text.escape import cut, safe
from ptinspect.display.text.values import entry_text
from ptinspect.pickling.pyobjects import dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptinspect.document import Document, TensorInfo
    from ptinspect.document.entries import Entry
    from ptinspect.pickling.pyobjects import Path


def entry_lines(document: Document, depth: int | None) -> list[tuple[str, str]]:
    """Return key and text of each entry, and of the 0-dim tensors outside models."""
    lines = [
        (cut(dotted(path)), entry_text(entry))
        for path, entry in _unwrapped_entries(document.entries)
        if depth is None or len(path) <= max(depth, 1)
    ]
    contents = document.contents
    owners: set[Path] = {info.root for info in contents.modules} | set(contents.state_dicts)
    for info in document.tensors.values():
        if info.role != "tensor" or info.shape != ():
            continue
        if not any(info.path[:length] in owners for length in range(len(info.path))):
            lines.append((cut(info.key) or "(root)", _scalar_tensor_text(info)))
    return lines


def _unwrapped_entries(entries: Sequence[Entry]) -> Iterator[tuple[Path, Entry]]:
    """Yield the entries with the paths to show. omegaconf wraps each value of a configuration in a
    node with metadata and its parent: only the values are shown, under their paths in Python."""
    nodes = {entry.path for entry in entries if entry.type.startswith("omegaconf.")}
    shown: dict[Path, Path | None] = {}  # None: part of a node's metadata
    for entry in entries:
        if not nodes:
            yield entry.path, entry
            continue
        starts = (entry.path[:length] for length in range(len(entry.path) - 1, -1, -1))
        owner: Path = next((start for start in starts if start in shown), ())
        base, steps = shown.get(owner, ()), entry.path[len(owner) :]
        if owner in nodes:
            base = base if steps[0] in ("_content", "_val") else None
            steps = steps[1:]
        path = shown[entry.path] = None if base is None else (*base, *steps)
        if path is not None and not (owner in nodes and entry.path in nodes):
            yield path, entry


def _scalar_tensor_text(info: TensorInfo) -> str:
    """Return `0.0293  float32 tensor, requires grad`."""
    from ptinspect.document.to_array import number_of
    from ptinspect.errors import PtInspectError

    try:
        number = number_of(info.tensor)
    except PtInspectError as error:
        return f"a tensor that cannot be read: {cut(error.message)}"
    dtype = info.dtype.name if info.dtype else "unknown"
    text = f"{dtype} tensor" + (", requires grad" if info.tensor.requires_grad else "")
    if number is None:
        return text
    digits = {"float32": 6, "float16": 4, "bfloat16": 4}.get(dtype)
    if isinstance(number, float) and digits is not None:
        return f"{number:.{digits}g}  {text}"
    return f"{safe(repr(number))}  {text}"
