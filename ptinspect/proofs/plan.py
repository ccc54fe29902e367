"""What a proof with training starts from: the user's options, and the plan of a checkpoint.

The plan says where the model, optimizer, schedulers and counters are in the file. It is made
without torch, after checking that the file may be loaded.
"""

from __future__ import annotations

import ast
import json
import os
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ptinspect.document import open as open_document
from ptinspect.document.entries import no_entry_error, select_path, several_entries_error
from ptinspect.document.optim.matching import Weights, best_match, candidate_weights, slots_of
from ptinspect.document.optim.state import EPOCHS, STEPS, find_schedulers, training_counter
from ptinspect.document.warnings import require_checksums
from ptinspect.errors import PtInspectError, UnsafeError, UnsupportedError, add_error_path
from ptinspect.pickling.pyobjects import dotted
from ptinspect.safety.load_advice import load_advice
from ptinspect.safety.scan import scan
from ptinspect.text import shell_word

if TYPE_CHECKING:
    from ptinspect.document import Document

DEFAULT_STEPS = 4


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train, under the names of the command line's options; see `check_resume`."""

    model: str | None = None
    data: str | None = None
    loss: str = "MSELoss"
    optimizer_class: str | None = None
    steps: int = DEFAULT_STEPS
    device: str = "auto"
    seed: int = 0
    allow_tf32: bool = False

    def __post_init__(self) -> None:
        kind, colon, number = self.device.partition(":")
        valid_number = kind == "cuda" and number.isdecimal() if colon else True
        if kind not in ("auto", "cpu", "cuda") or not valid_number:
            raise PtInspectError(
                f"{self.device!r} is not a device", hint="use auto, cpu, cuda or cuda:N"
            )
        if self.steps < 1:
            raise PtInspectError("training needs at least one step", hint="give --steps N")


def reproduce_command(check: str, path: str, options: TrainingOptions, **more: Any) -> str:
    """Return the command line that runs a check again; `more` are options without a default."""
    words = ["ptinspect", "check", check, shell_word(path)]
    values = {
        field.name: value
        for field in fields(options)
        if (value := getattr(options, field.name)) != field.default
    }
    for name, value in {**values, **more}.items():
        if value not in (None, False):
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else [shell_word(str(value))]
    return " ".join(words)


def make_plan(path: str, *, model: str | None, entry: str | None, trust: bool) -> dict[str, Any]:
    """Return where the parts of a training are in a file, for a child process, as JSON."""
    if path == "-":
        raise PtInspectError(
            "torch has to read the file several times, so it cannot come from standard input",
            hint="save it as a file",
        )
    with open_document(path) as document:
        user_names, unlisted = check_loadable(path, document, model, trust)
        file_format = document.archive.format
        if not file_format.startswith(("torch-zip", "torch-legacy")):
            raise UnsupportedError(
                f"torch.load does not load {file_format}, so there is nothing to prove", path=path
            )
        weights = _select_weights(document, entry)
        names = {weight.name for weight in weights.order}
        schedulers = find_schedulers(document.entries)
        counters: dict[str, list[Any] | None] = {"epoch": None, "step": None}
        for kind, keys in (("epoch", EPOCHS), ("step", STEPS)):
            counter = training_counter(document.entries, schedulers, keys)
            if counter is not None and counter.value == counter.value:  # not NaN
                counters[kind] = list(counter.path)
        return {
            "weights_only": load_advice(document).weights_only,
            "user_names": user_names,
            "unlisted": unlisted,
            "model_path": list(weights.path),
            "optimizers": _select_optimizers(document, weights),
            "holds_optimizer": bool(document.optimizers),
            "schedulers": [
                {"path": list(scheduler.path), "last_epoch": scheduler.last_epoch}
                for scheduler in schedulers
            ],
            "averages": [  # of these weights: same tensors, same names
                list(average.path)
                for average in candidate_weights(document.contents)
                if average.is_average
                and average.path != weights.path
                and average.path in document.contents.state_dicts
                and {w.name.removeprefix("module.") for w in average.parameters} <= names
            ],
            **counters,
        }


# Per part of a checkpoint: its file in a folder of the Trainer of Hugging Face, or of accelerate.
_FOLDER_PARTS = {
    "model": ("model.safetensors", "pytorch_model.bin"),
    "optimizer": ("optimizer.pt", "optimizer.bin"),
    "scheduler": ("scheduler.pt", "scheduler.bin"),
    "scaler": ("scaler.pt",),
    "rng": ("rng_state.pth", "rng_state_0.pth", "random_states_0.pkl"),  # of the first process
}
# What accelerate names a second model or optimizer.
_SECOND_PARTS = ("model_1.safetensors", "pytorch_model_1.bin", "optimizer_1.bin")


def folder_job(path: str, model: str | None, trust: bool) -> dict[str, Any]:
    """Return the job that makes one checkpoint of the files in a folder."""
    files: dict[str, str] = {}
    for part, names in _FOLDER_PARTS.items():
        for file in (os.path.join(path, name) for name in names):
            if os.path.isfile(file):
                files.setdefault(part, file)
    if not {"model", "optimizer"} <= files.keys():
        raise UnsupportedError(
            "the folder has no model.safetensors (or pytorch_model.bin) with an optimizer.pt",
            hint="give one file, or a folder that Trainer or Accelerator.save_state has written",
        )
    second = next((n for n in _SECOND_PARTS if os.path.isfile(os.path.join(path, n))), None)
    if second is not None:
        raise UnsupportedError(
            f"the folder has several models or optimizers ({second}), and which belong together is "
            "not recorded",
            hint="check the training with ptinspect check script",
        )
    values: dict[str, Any] = {}
    try:
        with open(os.path.join(path, "trainer_state.json"), encoding="utf-8") as stream:
            state = json.load(stream)
        values["step"] = int(state["global_step"])
        if float(state["epoch"]).is_integer():
            values["epochs_run"] = int(state["epoch"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        values = {}  # a folder of accelerate, which does not record them
    weights_only = {}
    for part, name in files.items():
        with open_document(name) as document:
            check_loadable(name, document, None, trust)
            weights_only[part] = load_advice(document).weights_only
    options = {"device": "cpu", "allow_tf32": False, "model": model}
    return {
        "kind": "assemble", "files": files, "weights_only": weights_only, "values": values,
        "options": options,
    }  # fmt: skip


def _select_weights(document: Document, entry: str | None) -> Weights:
    has_root = () in document.contents.state_dicts or any(m.root == () for m in document.modules)
    candidates = [
        weights for weights in candidate_weights(document.contents) if weights.path or has_root
    ]
    if entry is not None:
        path = select_path([weights.path for weights in candidates], entry, "model")
        candidates = [weights for weights in candidates if weights.path == path]
    if not candidates:
        raise no_entry_error("model", None, [])
    models = [weights for weights in candidates if not weights.is_average]
    if len(models) < 2:
        return candidates[0]
    if len(document.optimizers) == 1:
        optimizer = document.optimizers[0]
        pairing = best_match(slots_of(optimizer, document.tensor_of), models, optimizer.path)
        if pairing is not None and pairing.weights.order:
            return pairing.weights
    raise several_entries_error("model", [weights.path for weights in models])


def _select_optimizers(document: Document, weights: Weights) -> list[dict[str, Any]]:
    """Return path, class and parameters of the optimizers that trained these weights.

    Of several, those count whose states fit the model, if they share no parameter; or all, if
    together they cover as many parameters as the model has.
    """
    plans: list[dict[str, Any]] = []
    slot_count = 0
    for optimizer in document.optimizers:
        slots = slots_of(optimizer, document.tensor_of)
        slot_count += len(slots)
        pairing = best_match(slots, [weights])
        names = pairing.names if pairing is not None and pairing.fits else None
        plans.append({"path": list(optimizer.path), "class": optimizer.class_path, "names": names})
    fitting = [plan for plan in plans if plan["names"] is not None]
    if len(plans) < 2 or slot_count == len(weights.parameters):
        return plans
    covered = [name for plan in fitting for name in plan["names"]]
    if len(fitting) == 1 or (covered and len({*covered, None}) == len(covered) + 1):
        return fitting
    raise UnsupportedError(
        f"the file holds {len(document.optimizers)} optimizers and does not record which of them "
        f"belongs to {dotted(weights.path)}",
        path=document.path,
        hint="save one model and its optimizer in a file of their own",
    )


# --- Loading a file is safe -------------------------------------------------------------------


def check_loadable(
    path: str, document: Document, model: str | None, trust: bool
) -> tuple[list[str], list[str]]:
    """Return the names in a file that the user's own module defines, and those not allowed.

    Damaged bytes, which torch.load does not notice, would be trained like good ones.
    """
    with add_error_path(path):
        require_checksums(document.archive, document.contents.tensors)
    report = scan(path)
    finding = report.first_dangerous()
    if finding is not None:
        message = f"the file is dangerous to load: {finding.chain}"
        raise UnsafeError(message, path=path, hint="it was not loaded")
    if report.verdict == "unreadable":
        message = str(report.errors[0]) if report.errors else "the file cannot be read"
        raise PtInspectError(message, path=path)
    # Names that the user's FILE.py defines or registers. It is parsed, not run. `_register(Net,
    # "nets", "Net")`, as in a stub, lets pickle find a class of the file under another name; the
    # worker checks that it really finds that class.
    source, body = (model or "").rpartition(":")[0], list[ast.stmt]()
    with suppress(OSError, SyntaxError, ValueError), open(source, encoding="utf-8") as file:
        body = ast.parse(file.read()).body
    classes = {node.name for node in body if isinstance(node, ast.ClassDef)}
    registered = set()
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            words = [getattr(word, "value", None) for word in node.value.args[1:]]
            first = node.value.args[0] if len(words) == 2 else None
            if isinstance(first, ast.Name) and first.id in classes:
                registered.add(".".join(map(str, words)))
    stem, user_names = os.path.splitext(os.path.basename(source))[0], list[str]()
    for path_in_file in (name.path for name in document.globals):
        module, _, class_name = path_in_file.rpartition(".")
        is_own = module in ("__main__", "__mp_main__", stem) or module.endswith(f".{stem}")
        if (is_own and class_name in classes) or path_in_file in registered:
            user_names.append(path_in_file)
    unlisted = [item.name for item in report.all_findings() if item.name not in user_names]
    if unlisted and not trust:
        raise UnsafeError(
            f"{unlisted[0]} is not on the allowlist",
            path=path,
            hint="give the file with its class as --model FILE.py:CLASS, or trust it with --trust",
        )
    return list(dict.fromkeys(user_names)), unlisted
