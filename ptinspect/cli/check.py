"""`ptinspect check`: prove what a checkpoint or model holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ptinspect.cli.output import open_output
from ptinspect.cli.progress import training_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptinspect.report import Report


def _combined(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator for several options, which --help lists in this order."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_ENTRY = click.option(
    "--entry",
    metavar="PATH",
    help="Check the model or optimizer state at PATH, if the file has several.",
)
_OUTPUT = _combined(
    click.option(
        "-f",
        "--format",
        "output_format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Output format.",
    ),
    click.option(
        "-o", "--output", metavar="FILE", help="Write to FILE instead of standard output."
    ),
    click.option("--force", is_flag=True, help="Overwrite FILE if it exists."),
)
_TRAINING = _combined(
    click.option(
        "--model",
        metavar="FILE.py:CLASS",
        help="The model's class, or a function that returns the model. FILE.py is run: it is code "
        "that you trust. If it has them, `resume` uses its functions make_optimizer(model), "
        "make_scheduler(optimizer), make_scaler() and autocast().",
    ),
    click.option(
        "--data",
        metavar="FILE.py:FUNCTION",
        help="A function that returns a DataLoader, or batches (inputs and target, or inputs "
        "alone). If it has a parameter `epoch`, it is called for each epoch. FILE.py is run: it "
        "is code that you trust. Default: random inputs for the first layer.",
    ),
    click.option(
        "--loss",
        metavar="NAME",
        default="MSELoss",
        show_default=True,
        help="A loss of torch.nn. Without targets, the mean square of the outputs is used.",
    ),
    click.option(
        "--optimizer-class",
        metavar="NAME",
        help="The optimizer, such as torch.optim.AdamW, if the file does not record it.",
    ),
    click.option(
        "--steps",
        metavar="N",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help="For `resume`, steps before the save and again after it, rounded up to whole epochs. "
        "For `roundtrip`, steps of training.",
    ),
    click.option(
        "--device",
        metavar="auto|cpu|cuda[:N]",
        default="auto",
        show_default=True,
        help="Device to train on; auto is CUDA if torch finds it, else the CPU. With cuda, "
        "`resume` also resumes on the CPU and back, within a tolerance in ULPs.",
    ),
    click.option(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        show_default=True,
        help="Seed of the random number generators.",
    ),
    click.option("--allow-tf32", is_flag=True, help="Let CUDA calculate in TF32."),
    click.option(
        "--trust",
        is_flag=True,
        help="Load the file even if it has names that are not on the allowlist. It is code that "
        "you trust.",
    ),
    click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=1),
        default=600.0,
        show_default=True,
        help="Stop a child process after SECONDS.",
    ),
    _ENTRY,
)
_NO_PROGRESS = click.option("--no-progress", is_flag=True, help="Show no progress bar.")


@click.group("check", short_help="Proofs: optimizer state, round trip, resume.")
def command() -> None:
    """Prove what a checkpoint or model holds.

    Exit code 0: proved. 1: something differs. 2: the proof could not be run.
    """


@command.command("optimizer", short_help="Is the optimizer state consistent with the model?")
@click.argument("path", metavar="CHECKPOINT")
@_combined(_ENTRY, _OUTPUT)
@click.pass_context
def optimizer(
    ctx: click.Context,
    /,
    path: str,
    entry: str | None,
    output_format: str,
    output: str | None,
    force: bool,
) -> None:
    """Compare the optimizer state in CHECKPOINT with the weights in it: group sizes, order, shapes
    and dtypes, missing and extra states, steps, learning rates, NaN and inf.

    The file is not loaded, and torch is not needed. Exit code 0: the recorded state is consistent
    with the recorded model, apart from what is listed as undecided. 1: it is not. 2: the file
    cannot be read, or has no optimizer state.
    """
    from ptinspect.proofs.optimizer import check_optimizer

    with open_output(output, force=force, sources=(path,)) as target:
        report = check_optimizer(path, entry=entry)
        target.write(_render(report, output_format))
    ctx.exit(report.exit_code)


@command.command("roundtrip", short_help="Is each converted form the same model?")
@click.argument("path", metavar="MODEL")
@_combined(_TRAINING, _OUTPUT, _NO_PROGRESS)
@click.pass_context
def roundtrip(
    ctx: click.Context,
    /,
    path: str,
    output_format: str,
    output: str | None,
    force: bool,
    no_progress: bool,
    **options: Any,
) -> None:
    """Convert MODEL to a state_dict, a checkpoint and safetensors, load each into a new instance,
    and compare with the original bit for bit: weights, outputs, gradients, and the weights after N
    steps of training.

    MODEL is a full model, or a state_dict with --model. torch runs in child processes. Nothing is
    loaded that `scan` calls dangerous. Exit code 0: proved. 1: something differs. 2: the proof
    could not be run.
    """
    from ptinspect.proofs.roundtrip import check_roundtrip

    with open_output(output, force=force, sources=(path,)) as target:
        with training_progress(hidden=no_progress) as watch:
            report = check_roundtrip(path, progress=watch, **options)
        target.write(_render(report, output_format))
    ctx.exit(report.exit_code)


@command.command("resume", short_help="Does the file hold all that an exact resume needs?")
@click.argument("path", metavar="CHECKPOINT")
@_combined(
    _TRAINING,
    click.option(
        "--plot", metavar="FILE", help="Draw both loss curves as .png, .svg or .pdf (matplotlib)."
    ),
    _OUTPUT,
    _NO_PROGRESS,
)
@click.pass_context
def resume(
    ctx: click.Context,
    /,
    path: str,
    output_format: str,
    output: str | None,
    force: bool,
    no_progress: bool,
    **options: Any,
) -> None:
    """Prove that CHECKPOINT holds all that an exact resume of this training needs.

    Train 2N steps without interruption. Train N steps, save in the layout of CHECKPOINT, load that
    in a new process, train N more, and compare bit for bit. If they differ, the first difference
    and its causes are reported. A cause is named only after fixing exactly it and seeing the bits
    agree.

    torch runs in child processes. Nothing is loaded that `scan` calls dangerous. Exit code 0:
    proved. 1: something differs. 2: the proof could not be run.
    """
    from ptinspect.proofs.resume.proof import check_resume

    with open_output(output, force=force, sources=(path,)) as target:
        with training_progress(hidden=no_progress) as watch:
            report = check_resume(path, force=force, progress=watch, **options)
        target.write(_render(report, output_format))
    ctx.exit(report.exit_code)


def _render(report: Report, output_format: str) -> str:
    if output_format == "text":
        return report.text()
    from ptinspect.display.text.values import json_value

    return json_value(report.as_dict()) + "\n"
