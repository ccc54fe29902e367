"""`ptinspect check`: what a file holds, proved."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypedDict

import click

from ptinspect.cli.output import (
    combine,
    flag,
    force_option,
    format_option,
    json_failure,
    no_progress_option,
    open_output,
    option,
    output_option,
    training_progress,
    write_summary,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from ptinspect.proofs.processes import Watch
    from ptinspect.report import Report


class TrainingOptions(TypedDict):
    """The options of the checks that train; `check_roundtrip` and `check_resume` explain them."""

    model: str | None
    data: str | None
    loss: str
    optimizer_class: str | None
    entry: str | None
    steps: int
    device: str
    seed: int
    allow_tf32: bool
    trust: bool
    timeout: float


_entry_option = option("--entry", "PATH", "Check only this entry, e.g. model_state_dict.")
_training_options = combine(
    option(
        "--model",
        "FILE.py:CLASS",
        "The model's class, or a function that returns the model. FILE.py is run: use only "
        "code that you trust. `resume` also calls make_optimizer(model), "
        "make_scheduler(optimizer) (each may return a list), make_scaler() and autocast() if "
        "FILE.py defines them.",
    ),
    option(
        "--data",
        "FILE.py:FUNCTION",
        "A function that returns a DataLoader or a list of batches (inputs and target, or "
        "inputs alone). If it has a parameter `epoch`, it is called for each epoch. FILE.py is "
        "run: use only code that you trust. By default inputs are generated for the first layer.",
    ),
    option(
        "--loss",
        "NAME",
        "Loss class of torch.nn. Without targets the loss is the mean square of the outputs.",
        default="MSELoss",
    ),
    option(
        "--optimizer-class",
        "NAME",
        "Optimizer class, if the file does not record it, e.g. torch.optim.AdamW.",
    ),
    option(
        "--steps",
        "N",
        "Training steps; for `resume`, N before the save and N after it, rounded up to whole "
        "epochs.",
        type=click.IntRange(min=1),
        default=4,
    ),
    option(
        "--device",
        "auto|cpu|cuda[:N]",
        "Device to train on; auto is CUDA if torch finds it, else the CPU. With cuda, "
        "`resume` also moves to the CPU and back, within a tolerance that it reports (in ULPs).",
        default="auto",
    ),
    option("--seed", "N", "Random seed.", type=int, default=0),
    flag("--allow-tf32", "Let CUDA calculate in TF32."),
    flag(
        "--trust",
        "Load the file even if it uses names that are not on the allowlist. Use only if you "
        "trust it.",
    ),
    option(
        "--timeout",
        "SECONDS",
        "Longest time for one child process.",
        type=click.FloatRange(min=1),
        default=600.0,
    ),
)
_report_options = combine(format_option(["text", "json"]), output_option, force_option)


def _answers(run: Callable[..., Report]) -> Callable[..., None]:
    """Make a command of a function that returns a report: it is written, and its exit code is that
    of the command. The function gets `progress` and the options, apart from those of the output."""

    @click.pass_context
    @wraps(run)
    def write_report(
        ctx: click.Context, /, output_format: str, output: str | None, force: bool,
        no_progress: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        for name in ("allow_tf32", "no_cross"):
            if options.get(name) and options["device"] == "cpu":
                flag = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{flag} cannot be used with --device cpu")
        if "plot" in options:  # a picture, which --force overwrites as well
            options["force"] = force
        sources = [options["path"] if "path" in options else " ".join(options["words"])]
        with open_output(output, force=force, sources=sources) as write:
            with (
                json_failure(output_format, output, sources, force=force),
                training_progress(hidden=no_progress) as progress,
            ):
                report = run(progress=progress, **options)
            if output_format == "text":
                write(report.text())
            else:
                from ptinspect.display.json import json_value

                write(json_value(report.as_dict()) + "\n")
        write_summary(report, output)
        ctx.exit(report.exit_code)

    return write_report


@click.group(
    "check", short_help="Check optimizer state, round trips and resuming, of your script too."
)
def command() -> None:
    """Prove what a file holds: a consistent optimizer state, the same model after a conversion, all
    that an exact resume needs; or that your own script resumes exactly.

    Exit code 0: proved. 1: something differs. 2: undecided, or the check could not be run. 3: the
    training itself is not deterministic.
    """


@command.command("optimizer", short_help="Check that the optimizer state fits the model.")
@click.argument("path", metavar="CHECKPOINT")
@_entry_option
@_report_options
@_answers
def optimizer(path: str, entry: str | None, progress: object) -> Report:
    """Compare the optimizer state in CHECKPOINT with the weights in it: group sizes, order, shapes
    and dtypes, missing and extra states, steps, learning rates, settings that the constructor of
    the class refuses, NaN and inf.

    Nothing is loaded and torch is not needed. Exit code 0: no contradiction was found; what cannot
    be decided is listed. 1: the state does not fit. 2: the file could not be read, or has no
    optimizer state.
    """
    from ptinspect.proofs.optimizer import check_optimizer

    return check_optimizer(path, entry=entry)


@command.command("roundtrip", short_help="Check that convert writes the same model.")
@click.argument("path", metavar="MODEL")
@_training_options
@_entry_option
@_report_options
@no_progress_option
@_answers
def roundtrip(path: str, progress: Watch | None, **training: Unpack[TrainingOptions]) -> Report:
    """Convert MODEL to a state_dict, a checkpoint and safetensors, load each into a new instance,
    and compare with the original bit for bit: weights, outputs, gradients, and the weights after N
    steps of training.

    MODEL is a full model, or a state_dict with --model. torch runs in child processes; a file that
    `scan` calls dangerous is not loaded. Exit code 0: proved. 1: something differs. 2: the check
    could not be run. 3: the original itself does not repeat its numbers.
    """
    from ptinspect.proofs.roundtrip import check_roundtrip

    return check_roundtrip(path, progress=progress, **training)


@command.command("resume", short_help="Check that training resumes exactly; if not, say why.")
@click.argument("path", metavar="CHECKPOINT")
@_training_options
@_entry_option
@option("--plot", "FILE", "Draw both loss curves to a .png, .svg or .pdf file (matplotlib).")
@flag(
    "--no-cross",
    "With --device cuda, do not resume on the CPU too. A training there that takes longer than "
    "--timeout is not compared.",
)
@_report_options
@no_progress_option
@_answers
def resume(
    path: str, plot: str | None, no_cross: bool, force: bool, progress: Watch | None,
    **training: Unpack[TrainingOptions],
) -> Report:  # fmt: skip
    """Check that the file holds all that an exact resume needs: train 2N steps from CHECKPOINT
    without interruption. Train N steps, save in the layout of the file, load it in a new
    process, and train N more. Compare bit for bit. CHECKPOINT is a file, or a folder that the
    Trainer of transformers or Accelerator.save_state has written.

    The report names the first difference and its cause. A cause is named only if fixing it, and
    nothing else, makes the bits agree. torch runs in child processes; a file that `scan` calls
    dangerous is not loaded. Contradictions that `check optimizer` finds are reported first.

    Exit code 0: proved. 1: something differs, or the recorded state contradicts itself. 2:
    undecided (the scheduler that was at work is not in the file), or the check could not be
    run. 3: the training itself is not deterministic.
    """
    from ptinspect.proofs.resume import check_resume

    return check_resume(
        path, progress=progress, plot=plot, no_cross=no_cross, force=force, **training
    )


@command.command("script", short_help="Check that your own script resumes exactly.")
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@option(
    "--checkpoint",
    "GLOB",
    "The files or folders that the script saves, relative to the current folder, e.g. "
    "'runs/*.pt'. Repeatable.",
    multiple=True,
    required=True,
)
@option(
    "--resume-command",
    "CMD",
    "Command that starts the script again after the kill. By default COMMAND.",
)
@option(
    "--at",
    "N",
    "Kill the script after its Nth save. By default about the middle one.",
    type=click.IntRange(min=1),
)
@flag(
    "--kill-during-save",
    "Kill the script inside the write of a checkpoint, and ask whether it survives that.",
)
@option(
    "--work",
    "DIR",
    "A new or empty folder for the copies, which stay there. By default a temporary folder.",
)
@option(
    "--timeout",
    "SECONDS",
    "Longest time for one run of the script.",
    type=click.FloatRange(min=1),
    default=3600.0,
)
@_report_options
@no_progress_option
@_answers
def script(
    words: tuple[str, ...], checkpoint: tuple[str, ...], resume_command: str | None,
    at: int | None, kill_during_save: bool, work: str | None, timeout: float,
    progress: Watch | None,
) -> Report:  # fmt: skip
    """Check that your script, killed and started again, ends where it would have ended.

    This runs your script: use only one that you trust. COMMAND, after `--`, runs in copies of the
    current folder: whole, whole again, until it is killed at a checkpoint (SIGKILL), and again
    from there. Checkpoints are compared number for number; each optimizer step of torch is
    recorded, and deterministic algorithms are switched on. The report names the first difference
    and its usual cause. No line of the script changes.

    Exit code 0: proved. 1: it differs, or does not survive a kill inside a save. 2: the check
    could not be run, or the script did not resume. 3: the script is not deterministic.
    """
    from ptinspect.proofs.script import check_script

    return check_script(
        words, checkpoint=checkpoint, resume_command=resume_command, at=at,
        kill_during_save=kill_during_save, work=work, timeout=timeout, progress=progress,
    )  # fmt: skip
