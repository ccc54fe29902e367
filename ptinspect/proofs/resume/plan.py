"""Where the parts of a training lie in a checkpoint, told without torch; and whether the file may
be loaded at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptinspect.document import open as open_document
from ptinspect.document.optim.matching import pair, slots_of
from ptinspect.document.optim.training_state import (
    EPOCHS,
    STEPS,
    Weights,
    counter_of,
    schedulers_of,
    weights_of,
)
from ptinspect.document.select import no_entry_error, select_path, several_entries_error
from ptinspect.document.walk import dotted
from ptinspect.errors import PtInspectError, UnsafeError, UnsupportedError
from ptinspect.safety.load_advice import load_advice

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.optim.state import Optimizer


def plan_of(path: str, *, model: str | None, entry: str | None, trust: bool) -> dict[str, Any]:
    """The plan for a child process, as JSON can say it. UnsafeError for what may not be loaded;
    PtInspectError where no weights are found, or several and `entry` names none."""
    if path == "-":
        raise PtInspectError(
            "torch has to read it several times: not from standard input", hint="save it as a file"
        )
    with open_document(path) as document:
        names = may_be_loaded(path, document, model, trust)
        form = document.archive.format
        if not form.startswith(("torch-zip", "torch-legacy")):
            raise UnsupportedError(
                f"torch.load does not load {form}, so there is nothing to prove", path=path
            )
        weights = _weights(document, entry)
        optimizer = _optimizer(document, weights)
        epoch, step = counter_of(document, EPOCHS), counter_of(document, STEPS)
        schedulers = schedulers_of(document)
        return {
            "weights_only": load_advice(document).weights_only,
            "needs": names,
            "model_path": list(weights.path),
            "whole": any(info.root == weights.path for info in document.modules),
            "optimizer": _planned(document, optimizer, weights),
            "schedulers": [
                {"path": list(found.path), "last_epoch": found.last_epoch} for found in schedulers
            ],
            "epoch": _counter(epoch),
            "step": _counter(step),
            "ema": [list(other.path) for other in _averages(document, weights)],
        }


def _counter(entry: Any) -> dict[str, Any] | None:
    if entry is None or entry.value != entry.value:
        return None
    name = str(entry.path[-1]).lower()
    return {"path": list(entry.path), "value": entry.value, "name": name}


def _weights(document: Document, entry: str | None) -> Weights:
    found = [weights for weights in weights_of(document) if weights.path or _is_root(document)]
    if entry is not None:
        path = select_path([weights.path for weights in found], entry, "model")
        found = [weights for weights in found if weights.path == path]
    if not found:
        raise no_entry_error("model", None, [])
    own = [weights for weights in found if not _averaged(weights)]
    if len(own) > 1 and len(document.optimizers) != 1:
        raise several_entries_error("model", [weights.path for weights in own])
    if len(own) > 1:
        best = pair(slots_of(document.optimizers[0], document), own)
        return best.weights if best is not None else own[0]
    return found[0]


def _is_root(document: Document) -> bool:
    return () in document.contents.state_dicts or any(m.root == () for m in document.modules)


def _averaged(weights: Weights) -> bool:
    from ptinspect.document.optim.training_state import is_average

    return is_average(weights)


def _optimizer(document: Document, weights: Weights) -> Optimizer | None:
    found = document.optimizers
    if len(found) < 2:
        return found[0] if found else None
    fitting = [
        one
        for one in found
        if (made := pair(slots_of(one, document), [weights])) is not None and not made.faults
    ]
    if len(fitting) == 1:
        return fitting[0]
    raise UnsupportedError(
        f"it holds {len(found)} optimizers; which is that of {dotted(weights.path)} is not told",
        path=document.path,
        hint="save one model and its optimizer in a file of their own",
    )


def _planned(
    document: Document, optimizer: Optimizer | None, weights: Weights
) -> dict[str, Any] | None:
    if optimizer is None:
        return None
    made = pair(slots_of(optimizer, document), [weights])
    return {
        "path": list(optimizer.path),
        "class": optimizer.class_path,
        "evidence": optimizer.evidence,
        "names": made.names if made is not None and not made.faults else None,
    }


def _averages(document: Document, weights: Weights) -> list[Weights]:
    """State_dicts that are averages of these weights: the same tensors under the same names."""
    names = {weight.name for weight in weights.order}
    return [
        other
        for other in weights_of(document)
        if _averaged(other)
        and other.path != weights.path
        and other.path in document.contents.state_dicts
        and {weight.name.removeprefix("module.") for weight in other.parameters} <= names
    ]


# --- may it be loaded ---------------------------------------------------------------------


def may_be_loaded(path: str, document: Document, model: str | None, trust: bool) -> list[str]:
    """The names that the file needs and the user's own file has. UnsafeError where scan calls it
    dangerous, or where nobody vouches for a name."""
    from ptinspect.safety.scan import scan

    report = scan(path)
    if report.verdict == "dangerous":
        bad = (one for one in report.all_findings() if one.verdict == "dangerous")
        first = next(bad, None)
        what = first.chain if first else "see ptinspect scan"
        raise UnsafeError(f"it is dangerous to load: {what}", path=path, hint="it is not loaded")
    if report.verdict == "unreadable":
        message = str(report.errors[0]) if report.errors else "it cannot be read"
        raise PtInspectError(message, path=path)
    asked = [name.path for name in document.globals]
    mine = [name for name in asked if _has(model, name)]
    unknown = [found.name for found in report.all_findings() if found.name not in mine]
    if unknown and not trust:
        raise UnsafeError(
            f"nobody vouches for {unknown[0]}",
            path=path,
            hint="give the file with its class as --model FILE.py:CLASS, or --trust the file",
        )
    return list(dict.fromkeys(mine))


def _has(model: str | None, name: str) -> bool:
    """Whether the user's file has a class of that name. The file is parsed, not run."""
    if model is None:
        return False
    import ast
    import os

    path = model.rpartition(":")[0]
    place, _, last = name.rpartition(".")
    if place not in ("__main__", "__mp_main__") and not place.endswith(
        os.path.splitext(os.path.basename(path))[0]
    ):
        return False
    try:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.ClassDef) and node.name == last for node in tree.body)
