"""Compares the checkpoints of two runs with ptinspect's own reader, without torch."""

from __future__ import annotations

import filecmp
import os
import re
from dataclasses import dataclass

from ptinspect.comparison import DiffReport, diff
from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import dotted
from ptinspect.proofs.script.recorder import FileState
from ptinspect.text import count_text, join_names

_RNG_WORDS = ("rng", "random", "generator")
_TIME_WORDS = frozenset(
    ("time", "timestamp", "date", "elapsed", "duration", "seconds", "runtime", "host", "hostname",
     "pid", "uuid")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """A thing that differs: a tensor, an entry, an optimizer, a module or a whole file."""

    key: str
    kind: str
    text: str

    @property
    def is_rng(self) -> bool:
        """True for the state of a random number generator."""
        return any(word in self.key.lower() for word in _RNG_WORDS)

    @property
    def is_time(self) -> bool:
        """True if the key names a time or a process, which no two runs share."""
        words = set(re.findall(r"[a-z]+", self.key.lower()))
        return bool(words & _TIME_WORDS) and not words & {"step", "steps"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint file of the whole run, compared with that of another run.

    Attributes:
        name: path below the working folder.
        other: path of the file that it was compared with; None if there is none.
        items: what differs.
        time: when the whole run wrote it, in nanoseconds.
    """

    name: str
    other: str | None
    items: tuple[Item, ...]
    time: int

    def text(self) -> str:
        """Return what differs, on one line."""
        if self.other is None:
            return "it was not written"
        kinds = [item.kind for item in self.items]
        counts = [
            count_text(kinds.count(kind), kind, plural)
            for kind, plural in (
                ("tensor", None), ("entry", "entries"), ("optimizer", None), ("module", None),
            )
            if kind in kinds
        ]  # fmt: skip
        keys = join_names([item.text for item in self.items], 4)
        return f"{', '.join(counts)}: {keys}" if counts else keys


def compare_runs(
    folder_a: str, files_a: FileState, folder_b: str, files_b: FileState, restarted: int = 0
) -> list[Checkpoint]:
    """Compare the checkpoint files of two runs, in the order in which the first wrote them.

    Args:
        restarted: when the second run was started again, in nanoseconds.
    """
    checkpoints = []
    for name in sorted(files_a, key=lambda name: (files_a[name][0], name)):
        other = _counterpart(name, files_a, files_b, restarted)
        items: list[Item] = []
        if other is not None:
            items = compare_files(os.path.join(folder_a, name), os.path.join(folder_b, other))
        checkpoints.append(Checkpoint(name, other, tuple(items), files_a[name][0]))
    return checkpoints


def _counterpart(name: str, files_a: FileState, files_b: FileState, restarted: int) -> str | None:
    """Return the file of the second run that stands for `name`.

    Lightning and others write into a new folder after a restart: then it is the only new file of
    the same name that the first run has not at the same place.
    """
    if name in files_b and files_b[name][0] >= restarted:
        return name
    base = os.path.basename(name)
    candidates = [
        other
        for other, (written, *_) in files_b.items()
        if written >= restarted and other not in files_a and os.path.basename(other) == base
    ]
    if len(candidates) == 1:
        return candidates[0]
    return name if name in files_b else None


def compare_files(a: str, b: str) -> list[Item]:
    """Return what differs between two checkpoint files."""
    if filecmp.cmp(a, b, shallow=False):
        return []
    name = os.path.basename(a)
    if not is_readable(a):  # such as a JSON file in a checkpoint's folder
        return [Item(name, "file", f"the bytes of {name}")]
    try:
        return _items(diff(a, b))
    except PtInspectError as error:
        return [Item(name, "unreadable", str(error))]


def is_readable(path: str) -> bool:
    """Return True if the file is a whole one of a format that ptinspect reads."""
    try:
        with open_document(path):
            return True
    except PtInspectError:
        return False


def _items(report: DiffReport) -> list[Item]:
    items = [Item(change.a, "tensor", change.a) for change in report.changed]
    items += [Item(lone.key, "tensor", lone.key) for lone in (*report.removed, *report.added)]
    items += [Item(rename.a, "tensor", f"{rename.a} -> {rename.b}") for rename in report.renamed]
    for entry in report.entries:
        key = dotted(entry.path)
        items.append(Item(key, "entry", f"{key} {_short(entry.b)}, not {_short(entry.a)}"))
    for optimizer in report.optimizers:
        details = join_names(optimizer.details, 2) or ", ".join(optimizer.what)
        items.append(
            Item(dotted(optimizer.path), "optimizer", f"{dotted(optimizer.path)} {details}")
        )
    items += [Item(module.name, "module", module.name) for module in report.modules]
    return items


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def volatile_keys(checkpoints: list[Checkpoint]) -> list[str]:
    """Return the keys of entries that differ between two whole runs, such as times."""
    items = [item for checkpoint in checkpoints for item in checkpoint.items]
    return list(dict.fromkeys(item.key for item in items if item.kind in ("entry", "file")))


def without_volatile(
    checkpoints: list[Checkpoint], volatile: list[str]
) -> tuple[list[Checkpoint], list[str], list[str]]:
    """Return the checkpoints that differ, and the keys that do not count: times and RNG states.

    The state of a generator that nothing depends on does not change the training.
    """
    different, times, generators = [], list(volatile), list[str]()
    for checkpoint in checkpoints:
        items = []
        for item in checkpoint.items:
            if (
                item.key in volatile
                or item.kind == "file"
                or (item.kind == "entry" and item.is_time)
            ):
                times.append(item.key)
            elif item.is_rng:
                generators.append(item.key)
            else:
                items.append(item)
        if items or checkpoint.other is None:
            different.append(
                Checkpoint(checkpoint.name, checkpoint.other, tuple(items), checkpoint.time)
            )
    return different, list(dict.fromkeys(times)), list(dict.fromkeys(generators))
