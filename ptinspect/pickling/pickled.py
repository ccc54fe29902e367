"""What the machine hands over when a stream has come to its STOP."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.pickling.values import Global, PersistentId, Value

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Machine
    from ptinspect.pickling.tensor_run import TensorCall


class Warned(NamedTuple):
    """Something that pickle does without a word and a reader should know. `offset`: where."""

    kind: str
    message: str
    offset: int


class Pickled:
    """One pickle stream, run: `root` is its value, `end` the offset behind its STOP.

    `globals` are the names it would import, in order of first use (`Global.uses` counts how
    often each was pushed). `rare` are the opcodes met that torch itself does not write.
    """

    __slots__ = (
        "buffers",
        "end",
        "globals",
        "more_warnings",
        "persistent",
        "protocol",
        "rare",
        "record",
        "root",
        "start",
        "warnings",
    )

    def __init__(self, m: Machine, start: int, end: int) -> None:
        self.root: Value = m.stack[-1]
        self.record = m.record
        self.start = start
        self.end = end
        self.protocol = m.protocol
        self.globals: list[Global] = list(m.globals.values())
        self.persistent: list[PersistentId | TensorCall] = m.persistent
        self.rare: set[str] = m.rare
        self.buffers = m.buffers
        self.warnings: list[Warned] = m.warnings
        self.more_warnings = m.more_warnings

    @property
    def persistent_ids(self) -> list[PersistentId]:
        """The references to storages (and, in legacy files, to classes), one per use, in order."""
        return [
            made if isinstance(made, PersistentId) else made.storage for made in self.persistent
        ]
