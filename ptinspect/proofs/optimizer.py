"""`check optimizer`: is the recorded state consistent with the recorded model? Without torch."""

from __future__ import annotations

from dataclasses import dataclass

from ptinspect.document import open as open_document
from ptinspect.document.entries import no_entry_error, select_path
from ptinspect.document.optim.check import OptimizerFit, check_optimizers
from ptinspect.document.warnings import require_checksums
from ptinspect.errors import add_error_path
from ptinspect.pickling.pyobjects import dotted
from ptinspect.report import Report
from ptinspect.text import count_text, cut, safe


@dataclass(frozen=True, slots=True)
class OptimizerReport(Report):
    """The answer of `check optimizer`.

    Attributes:
        path: the file.
        optimizers: one result per optimizer state in it.
    """

    path: str
    optimizers: list[OptimizerFit]

    @property
    def ok(self) -> bool:
        """True if no optimizer state contradicts its model."""
        return all(result.fits for result in self.optimizers)

    def text(self) -> str:
        if not self.ok:
            verdict = "the recorded optimizer state is not consistent with the recorded model"
        elif any(
            result.undecided and all(fault.kind != "model" for fault in result.undecided)
            for result in self.optimizers
        ):
            verdict = "nothing contradicts the recorded model, but not all is decided"
        elif any(result.model is None for result in self.optimizers):
            verdict = "the recorded optimizer state is consistent; the file has no model to compare"
        else:
            verdict = "the recorded optimizer state is consistent with the recorded model"
        blocks = [f"{safe(self.path)}: {verdict}"]
        for result in self.optimizers:
            optimizer = result.optimizer
            name = (optimizer.class_path or "of an unknown class").removeprefix("torch.optim.")
            evidence = f" ({optimizer.evidence})" if optimizer.class_path else ""
            groups = f" in {len(optimizer.groups)} groups" if len(optimizer.groups) != 1 else ""
            lines = [
                f"  optimizer   {cut(dotted(optimizer.path))}: {cut(name)}{evidence}, "
                f"{count_text(len(result.names), 'parameter')}{groups}, state of "
                f"{len(optimizer.state)}"
            ]
            if result.model is not None:
                lines.append(f"  model       {cut(dotted(result.model))}")
            lines += [f"  wrong       {cut(str(fault))}" for fault in result.faults]
            lines += [f"  undecided   {cut(str(fault))}" for fault in result.undecided]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks) + "\n"

    def as_dict(self) -> dict[str, object]:
        return {
            "schema": 1,
            "check": "optimizer",
            "path": self.path,
            "verdict": "fits" if self.ok else "differs",
            "optimizers": [
                {
                    "path": list(result.optimizer.path),
                    "class": result.optimizer.class_path,
                    "evidence": result.optimizer.evidence,
                    "parameters": len(result.names),
                    "names": result.names,
                    "states": len(result.optimizer.state),
                    **result.as_dict(),
                }
                for result in self.optimizers
            ],
        }


def check_optimizer(path: str, *, entry: str | None = None) -> OptimizerReport:
    """Compare each optimizer state of a file with the weights in it.

    Args:
        path: a checkpoint. It is not loaded, and torch is not needed.
        entry: check only the optimizer state at this path.

    Raises:
        DamagedError: a record does not match its CRC-32.
        PtInspectError: the file holds no optimizer state.
    """
    with open_document(path) as document, add_error_path(path):
        require_checksums(document.archive, document.contents.tensors)
        results = check_optimizers(document)
        if entry is not None:
            paths = [result.optimizer.path for result in results]
            results = [results[paths.index(select_path(paths, entry, "optimizer state"))]]
        if not results:
            raise no_entry_error("optimizer state", None, [])
        return OptimizerReport(document.path, results)
