"""`ptinspect check`: does training go on from this file as if nothing had happened?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ptinspect.cli.output import StdoutWriter, TextFile, open_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ptinspect.proofs.processes import Watch

_FORMAT = click.option(
    "-f",
    "--format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How it is said.",
)
_OUTPUT = click.option("-o", "--output", metavar="FILE", help="Write it to FILE instead.")
_FORCE = click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
_ENTRY = click.option(
    "--entry", metavar="PATH", help="Which part of the file, where there are several."
)


def _all(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in this order in the help."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_MODEL = click.option(
    "--model",
    metavar="FILE.py:CLASS",
    help="The model's class, or a function that makes the model. FILE.py is run: it is code that "
    "you trust. Beside the class, `resume` uses make_optimizer(model), make_scheduler(optimizer), "
    "make_scaler() and autocast() where they exist.",
)
_DATA = click.option(
    "--data",
    metavar="FILE.py:FUNCTION",
    help="A function that gives a DataLoader, or batches (inputs and target, or inputs alone); one "
    "with a parameter `epoch` is called for each epoch. FILE.py is run: it is code that you "
    "trust. Without it, inputs are made up for the first layer.",
)
_TRAINING = (
    click.option(
        "--loss",
        metavar="NAME",
        default="MSELoss",
        show_default=True,
        help="A loss of torch.nn; without targets it is the mean square of the outputs.",
    ),
    click.option(
        "--optimizer-class",
        metavar="NAME",
        help="Such as torch.optim.AdamW, where the file does not tell it.",
    ),
    click.option(
        "--steps",
        metavar="N",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help="Of `resume`: before the save, and as many after it; whole epochs are made of them. "
        "Of `roundtrip`: steps of training.",
    ),
    click.option(
        "--device",
        metavar="auto|cpu|cuda[:N]",
        default="auto",
        show_default=True,
        help="Where to train: auto is CUDA where torch finds it, else the CPU. Naming cuda lets "
        "`resume` also go over to the CPU and back, within a tolerance that it states (ULPs).",
    ),
    click.option(
        "--seed", metavar="N", type=int, default=0, show_default=True, help="To begin with."
    ),
    click.option("--allow-tf32", is_flag=True, help="Let CUDA calculate in TF32."),
    click.option(
        "--trust",
        is_flag=True,
        help="Load the file though nobody vouches for a name. It is code that you trust.",
    ),
    click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=1),
        default=600.0,
        show_default=True,
        help="How long one child process may take.",
    ),
)
_QUIET = click.option("--no-progress", is_flag=True, help="No bar on the terminal.")


@click.group("check", short_help="Proofs: round trip, resume, optimizer.")
def command() -> None:
    """Prove that training goes on from a file exactly as if nothing had happened.

    Exit code 0: proved. 1: something differs. 2: it could not be run.
    """


@command.command("optimizer", short_help="Does the optimizer state fit the model?")
@click.argument("path", metavar="CHECKPOINT")
@_all(_ENTRY, _FORMAT, _OUTPUT, _FORCE)
@click.pass_context
def optimizer(ctx: click.Context, /, **given: Any) -> None:
    """Hold the optimizer state in CHECKPOINT against the weights beside it: group sizes, order,
    shapes and dtypes, missing and extra states, steps, learning rates, NaN and inf.

    Nothing is loaded and torch is not needed. Exit code 0: nothing speaks against it (what cannot
    be decided is listed). 1: it does not fit. 2: it could not be read, or holds no such state.
    """
    from ptinspect.proofs.optimizer import check_optimizer

    with _target(given) as target:
        report = check_optimizer(given["path"], entry=given["entry"])
        target.write(_shown(report, given["format"]))
    ctx.exit(report.exit_code)


@command.command("roundtrip", short_help="Is what convert writes the same model?")
@click.argument("path", metavar="MODEL")
@_all(_MODEL, _DATA, *_TRAINING, _ENTRY, _FORMAT, _OUTPUT, _FORCE, _QUIET)
@click.pass_context
def roundtrip(ctx: click.Context, /, **given: Any) -> None:
    """Convert MODEL to a state_dict, a checkpoint and safetensors, load each into a fresh instance,
    and compare with the original bit for bit: weights, outputs, gradients, and the weights after N
    steps of training.

    MODEL is a full model, or a state_dict with --model. torch runs in child processes; nothing is
    loaded that `scan` calls dangerous. Exit code 0: proved. 1: it differs. 2: it could not be run.
    """
    from ptinspect.proofs.roundtrip import check_roundtrip

    with _target(given) as target:
        with _watched(given) as watch:
            report = check_roundtrip(given["path"], progress=watch, **_options(given))
        target.write(_shown(report, given["format"]))
    ctx.exit(report.exit_code)


@command.command("resume", short_help="Does training go on exactly, and if not, why?")
@click.argument("path", metavar="CHECKPOINT")
@_all(_MODEL, _DATA, *_TRAINING, _ENTRY)
@click.option("--plot", metavar="FILE", help="Both loss curves, as .png or .svg (matplotlib).")
@_all(_FORMAT, _OUTPUT, _FORCE, _QUIET)
@click.pass_context
def resume(ctx: click.Context, /, **given: Any) -> None:
    """Train 2N steps from CHECKPOINT without interruption; train N, save as the file is laid out,
    load in a new process, train N more; compare bit for bit.

    What differs first is named, and why: a cause is named only if, with just that mended, the bits
    agree. torch runs in child processes; nothing is loaded that `scan` calls dangerous. Exit code
    0: proved. 1: it differs. 2: it could not be run.
    """
    from ptinspect.proofs.resume.proof import check_resume

    picture = {"plot": given["plot"], "force": given["force"]}
    with _target(given) as target:
        with _watched(given) as watch:
            report = check_resume(given["path"], progress=watch, **picture, **_options(given))
        target.write(_shown(report, given["format"]))
    ctx.exit(report.exit_code)


_NAMES = (
    "model", "data", "loss", "optimizer_class", "entry", "steps", "device", "seed", "allow_tf32",
    "trust", "timeout",
)  # fmt: skip


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """What the proofs take in Python under the same names."""
    return {name: given[name] for name in _NAMES}


def _watched(given: dict[str, Any]) -> AbstractContextManager[Watch | None]:
    """A bar on standard error where that is a terminal."""
    from ptinspect.cli.progress import training_progress

    return training_progress(hidden=given["no_progress"])


def _target(given: dict[str, Any]) -> AbstractContextManager[StdoutWriter | TextFile]:
    return open_output(given["output"], force=given["force"], sources=(given["path"],))


def _shown(report: Any, form: str) -> str:
    if form == "text":
        text: str = report.text()
        return text
    from ptinspect.display.text.values import json_value

    return json_value(report.as_dict()) + "\n"
