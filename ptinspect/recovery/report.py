"""What `recover` saved, and what is lost: the report, as Python values, JSON and text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptinspect._version import __version__
from ptinspect.report import Report, json_objects
from ptinspect.text import count_text, join_names, size_text

if TYPE_CHECKING:
    from ptinspect.pickling.pyobjects import Path

PROVED, PLAUSIBLE, LOST = "proved", "plausible", "lost"

SHOWN = 12
"""Lost tensors that the text lists."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in the file that is not as its writer left it. The kinds are "cut", "directory",
    "checksum", "frame", "description", "overwritten" and "shifted"."""

    kind: str
    offset: int | None
    message: str


@dataclass(frozen=True, slots=True)
class TensorStatus:
    """What became of one tensor.

    Attributes:
        status: "proved": a checksum over its bytes matches, and so does that of the pickle that
            describes it. "plausible": the bytes are where the container says and nothing
            contradicts, but no checksum covers them. "lost": everything else.
        reason: why it is not proved; empty if it is.
        nbytes: size of its values in bytes.
    """

    key: str
    path: Path
    status: str
    reason: str
    dtype: str | None
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class RecoveryReport(Report):
    """The answer of `recover`. `ok` is True if no tensor and no value was lost.

    Attributes:
        target: the path that was written; None if nothing could be saved.
        dropped: paths of values other than tensors that a bare torch.load refuses, or that were
            lost.
    """

    path: str
    size: int
    format: str
    target: str | None
    damage: tuple[Damage, ...]
    tensors: tuple[TensorStatus, ...]
    dropped: tuple[str, ...] = ()

    @property
    def target_format(self) -> str | None:
        """The format of the file that was written."""
        if self.target is None:
            return None
        return "safetensors" if self.target.endswith(".safetensors") else "torch-zip"

    @property
    def totals(self) -> dict[str, int]:
        """The number of tensors of each status."""
        counts = Counter(tensor.status for tensor in self.tensors)
        return {status: counts[status] for status in (PROVED, PLAUSIBLE, LOST)}

    @property
    def ok(self) -> bool:
        """True if nothing is lost."""
        return self.target is not None and not self.totals[LOST] and not self.dropped

    @property
    def exit_code(self) -> int:
        """0: nothing is lost. 1: something is. 2: nothing could be saved."""
        return 2 if self.target is None else int(not self.ok)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of `recover -f json`."""
        target = {"path": self.target, "format": self.target_format}
        return {
            "schema": 1,
            "ptinspect": __version__,
            "source": {"path": self.path, "size": self.size, "format": self.format},
            "target": None if self.target is None else target,
            "damage": json_objects(self.damage),
            "tensors": json_objects(self.tensors),
            "dropped": list(self.dropped),
            "totals": self.totals,
        }

    def text(self) -> str:
        """Return one line on how much was saved, then what was lost and why."""
        from ptinspect.text import cut

        totals = self.totals
        total = len(self.tensors)
        saved = total - totals[LOST]
        if self.target is None:
            lines = [f"{cut(self.path)}: nothing could be saved"]
        else:
            nbytes = sum(item.nbytes for item in self.tensors if item.status != LOST)
            counts = ", ".join(f"{totals[s]:,} {s}" for s in (PROVED, PLAUSIBLE) if totals[s])
            details = f" ({counts})" if counts else ""
            lines = [
                f"{cut(self.path)}: saved {saved:,} of {count_text(total, 'tensor')}{details}, "
                f"{size_text(nbytes)}, in {cut(self.target)}"
            ]
        for item in self.damage:
            place = "" if item.offset is None else f" at byte {item.offset:,}"
            lines.append(f"  damage: {item.kind}{place}: {cut(item.message)}")
        by_reason: dict[tuple[str, str], list[str]] = {}
        for tensor in self.tensors:
            if tensor.status != PROVED:
                by_reason.setdefault((tensor.status, tensor.reason), []).append(cut(tensor.key))
        for (status, reason), keys in by_reason.items():
            lines.append(f"  {status}: {join_names(keys, SHOWN)}: {reason}")
        if self.dropped:
            names = join_names([cut(path) for path in self.dropped], SHOWN)
            lines.append(f"  dropped, since a bare torch.load would refuse it: {names}")
        return "\n".join(lines) + "\n"
