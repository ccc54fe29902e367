"""Compares the checkpoints of two runs with ptinspect's own reader, without torch."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ptinspect.comparison import DiffReport, diff
from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import dotted
from ptinspect.proofs.script.recorder import FileState
from ptinspect.text import count_text, join_names

_PLURALS = {"tensor": "tensors", "entry": "entries", "optimizer": "optimizers", "module": "modules"}
_LOGS = re.compile(r"\.(log|jsonl|csv|tsv|txt|out|err)$|tfevents")
_RNG_WORDS = ("rng", "random", "generator")
_TIME_WORDS = {"time", "timestamp", "date", "elapsed", "duration", "runtime", "hostname", "pid"}


@dataclass(frozen=True, slots=True)
class Item:
    """A thing that differs: a tensor, an entry, an optimizer, a module or a whole file."""

    key: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint file of the whole run, and what differs in the file of another run."""

    name: str
    other: str | None
    items: tuple[Item, ...]

    def text(self) -> str:
        """Return what differs, on one line."""
        if self.other is None:
            return "it was not written"
        kinds = [item.kind for item in self.items]
        counts = [
            count_text(kinds.count(kind), kind, plural)
            for kind, plural in _PLURALS.items()
            if kind in kinds
        ]
        keys = join_names([item.text for item in self.items], 4)
        return f"{', '.join(counts)}: {keys}" if counts else keys


def compare_runs(
    folder_a: str, files_a: FileState, folder_b: str, files_b: FileState, restarted: int = 0
) -> list[Checkpoint]:
    """Compare the checkpoint files of two runs, in the order in which the first wrote them."""
    checkpoints = []
    for name in in_order(files_a):
        other, items = _counterpart(name, files_a, files_b, restarted), list[Item]()
        if other is not None:
            items = _compare_files(os.path.join(folder_a, name), os.path.join(folder_b, other))
        checkpoints.append(Checkpoint(name, other, tuple(items)))
    return checkpoints


def in_order(files: FileState) -> list[str]:
    """Return the names of files in the order in which they were written."""
    return sorted(files, key=lambda name: (files[name][0], name))


def _counterpart(name: str, files_a: FileState, files_b: FileState, restarted: int) -> str | None:
    """Return the file of the second run that stands for `name`.

    After a restart some scripts write into a new folder, which the first run does not have.
    """
    candidates = [
        other
        for other, (written, *_) in files_b.items()
        if written >= restarted and other not in files_a
        and os.path.basename(other) == os.path.basename(name)
    ]  # fmt: skip
    is_old = name in files_b and files_b[name][0] < restarted
    if len(candidates) == 1 and (is_old or name not in files_b):
        return candidates[0]
    return name if name in files_b else None


def _compare_files(a: str, b: str) -> list[Item]:
    name = os.path.basename(a)
    if filecmp.cmp(a, b, shallow=False):
        return []
    if not is_readable(a):  # such as a JSON file in a checkpoint's folder
        return [Item(name, "file", f"the bytes of {name}")]
    try:
        return list(_items(diff(a, b)))
    except PtInspectError as error:
        return [Item(name, "unreadable", str(error))]


def is_readable(path: str) -> bool:
    """Return True if the file is a whole one of a format that ptinspect reads."""
    try:
        with open_document(path):
            return True
    except PtInspectError:
        return False


def _items(report: DiffReport) -> Iterator[Item]:
    keys = [change.a for change in report.changed] + [rename.a for rename in report.renamed]
    keys += [lone.key for lone in (*report.removed, *report.added)]
    yield from (Item(key, "tensor", key) for key in keys)
    for entry in report.entries:
        key = dotted(entry.path)
        a, b = (f"{v:.6g}" if isinstance(v, float) else str(v)[:40] for v in (entry.a, entry.b))
        yield Item(key, "entry", f"{key} {b}, not {a}")
    for optimizer in report.optimizers:
        key = dotted(optimizer.path)
        yield Item(key, "optimizer", f"{key} {join_names(optimizer.details or optimizer.what, 2)}")
    for module in report.modules:
        yield Item(module.name, "module", module.name)


def volatile_keys(checkpoints: list[Checkpoint]) -> list[str]:
    """Return the keys of entries that differ between two whole runs, such as times."""
    items = [item for checkpoint in checkpoints for item in checkpoint.items]
    return list(dict.fromkeys(item.key for item in items if item.kind in ("entry", "file")))


def split_differences(
    checkpoints: list[Checkpoint], volatile: list[str], has_steps: bool
) -> tuple[list[Checkpoint], list[str], list[str]]:
    """Return the checkpoints that differ, and the keys that do not count.

    Times, logs and what differs between whole runs do not, and neither do RNG states:
    the state of a generator that nothing depends on does not change the training. Files of formats
    that ptinspect cannot read count if there are no steps to compare. Otherwise they may have what
    no script restores, such as the logged losses of the Trainer of transformers.
    """
    different, times, generators = list[Checkpoint](), [*volatile], list[str]()
    for checkpoint in checkpoints:
        items = []
        for item in checkpoint.items:
            words = set(re.findall(r"[a-z]+", item.key.lower()))
            is_time = words & _TIME_WORDS and not words & {"step", "steps"}
            is_log = item.kind == "file" and (has_steps or _LOGS.search(item.key))
            if item.key in volatile or is_log or (item.kind == "entry" and is_time):
                times.append(item.key)
            elif any(word in item.key.lower() for word in _RNG_WORDS):
                generators.append(item.key)
            else:
                items.append(item)
        if items or checkpoint.other is None:
            different.append(replace(checkpoint, items=tuple(items)))
    return different, list(dict.fromkeys(times)), list(dict.fromkeys(generators))
