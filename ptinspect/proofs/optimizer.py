"""`check optimizer`: the answer as text and as JSON. Without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.display.text.escape import cut, safe
from ptinspect.document import open as open_document
from ptinspect.document.optim.check import OptimizerFit, check_optimizers
from ptinspect.document.select import no_entry_error, select_path
from ptinspect.document.walk import dotted
from ptinspect.errors import add_error_path

if TYPE_CHECKING:
    from ptinspect.document.optim.matching import Fault


class OptimizerReport(NamedTuple):
    """path: the file. fits: per optimizer state in it. undecided: what could not be held against
    anything, of all of them."""

    path: str
    found: list[OptimizerFit]

    @property
    def code(self) -> int:
        """0: nothing speaks against it. 1: something does not fit."""
        return 0 if all(one.fits for one in self.found) else 1

    def text(self) -> str:
        """For people, ending in a newline."""
        blocks = ["\n".join(_lines(one)) for one in self.found]
        title = f"{safe(self.path)}: {_verdict(self)}"
        return "\n\n".join([title, *blocks]) + "\n"

    def json(self) -> dict[str, object]:
        """For programs."""
        return {
            "schema": 1,
            "check": "optimizer",
            "path": self.path,
            "verdict": "fits" if not self.code else "differs",
            "optimizers": [_json(one) for one in self.found],
        }


def check_optimizer(path: str, *, entry: str | None = None) -> OptimizerReport:
    """Holds each optimizer state of a file against the weights beside it; `entry`: one of them, by
    its path. PtInspectError where the file has none."""
    with open_document(path) as document:
        found = check_optimizers(document)
        with add_error_path(path):
            if entry is not None:
                paths = [fit.optimizer.path for fit in found]
                found = [found[paths.index(select_path(paths, entry, "optimizer state"))]]
            if not found:
                raise no_entry_error("optimizer state", None, [])
        return OptimizerReport(document.path, found)


def _verdict(report: OptimizerReport) -> str:
    if report.code:
        return "the optimizer state does not fit the model"
    if any(one.model is None for one in report.found):
        return "nothing is wrong with the optimizer state, as far as it can be told without weights"
    return "the optimizer state fits the model"


def _lines(one: OptimizerFit) -> list[str]:
    optimizer = one.optimizer
    name = (optimizer.class_path or "of an unknown class").removeprefix("torch.optim.")
    said = f" ({optimizer.evidence})" if optimizer.class_path else ""
    groups = len(optimizer.groups)
    covers = f"{one.parameters} parameter{'s' * (one.parameters != 1)}"
    covers += f" in {groups} groups" if groups != 1 else ""
    made = [
        f"  optimizer   {cut(dotted(optimizer.path))}: {cut(name)}{said}, {covers}, "
        f"state of {len(optimizer.state)}"
    ]
    if one.model is not None:
        made.append(f"  model       {cut(dotted(one.model))}")
    made += [f"  wrong       {_said(fault)}" for fault in one.faults]
    made += [f"  undecided   {_said(fault)}" for fault in one.undecided]
    return made


def _said(fault: Fault) -> str:
    return cut(f"{fault.parameter}: {fault.message}" if fault.parameter else fault.message)


def _json(one: OptimizerFit) -> dict[str, object]:
    return {
        "path": list(one.optimizer.path),
        "class": one.optimizer.class_path,
        "evidence": one.optimizer.evidence,
        "model": list(one.model) if one.model is not None else None,
        "parameters": one.parameters,
        "names": one.names,
        "states": len(one.optimizer.state),
        "verdict": one.verdict,
        **one.told(),
    }
