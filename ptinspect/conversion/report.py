"""What was done, or would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.text import size_text

if TYPE_CHECKING:
    from ptinspect.conversion.plan import Move, Plan


class ConversionReport:
    """The outcome of one conversion.

    source: SRC. to: the goal. files: what was written, in order. tensors: how many. copied,
    changed: bytes that were taken as they are, and others. told: what a user should know.
    dropped: keys and entries of SRC that were left out, by whatever step. written: False for a
    dry run. verified: all bytes were compared afterwards.
    """

    def __init__(self, source: str, plan: Plan, *, written: bool, verified: bool) -> None:
        self.source = source
        self.to = plan.to
        self.files = [file.path for file in plan.files]
        self.tensors = max(len(plan.moves), plan.found)
        self.copied = sum(file.copied for file in plan.files)
        self.changed = sum(file.changed for file in plan.files)
        self.told = plan.told
        self.dropped = plan.dropped
        self.written = written
        self.verified = verified
        self._moves = plan.moves

    def __repr__(self) -> str:
        return f"ConversionReport({self.source!r} -> {self.files!r}, {self.tensors} tensors)"

    def as_json(self) -> dict[str, object]:
        """The report as plain values: `convert -f json`."""
        return {
            "schema": 1,
            "source": self.source,
            "to": self.to,
            "files": self.files,
            "written": self.written,
            "verified": self.verified,
            "tensors": [_move_json(move) for move in self._moves],
            "bytes": {"copied": self.copied, "changed": self.changed},
            "dropped": self.dropped,
            "told": self.told,
        }

    def lines(self) -> list[str]:
        """The plan for people: what comes from where."""
        verb = "wrote" if self.written else "would write"
        made = [
            f"{verb} {', '.join(self.files)}: {self.tensors:,} tensor{'s' * (self.tensors != 1)}, "
            f"{size_text(self.copied)} copied, {size_text(self.changed)} changed"
        ]
        if self.verified:
            made[0] += ", every byte compared"
        if not self.written:
            made += [f"  {_move_line(move)}" for move in self._moves]
        return made


def _move_json(move: Move) -> dict[str, object]:
    tensor, dtype = move.tensor, move.dtype or move.tensor.dtype
    return {
        "key": move.key,
        "source": move.source,
        "dtype": dtype.name if dtype else None,
        "shape": None if tensor.uninitialized else [None if n < 0 else n for n in tensor.shape],
        "nbytes": tensor.numel * move.dtype.itemsize
        if move.is_cast and move.dtype
        else tensor.nbytes,
        "changed": move.is_cast,
    }


def _move_line(move: Move) -> str:
    own, made = move.tensor.dtype, move.dtype
    name = move.key if move.key == move.source else f"{move.source} -> {move.key}"
    kind = (
        f"{own.name} -> {made.name}" if move.is_cast and own and made else own.name if own else ""
    )
    return f"{name}  {kind} {tuple(move.tensor.shape)}"
