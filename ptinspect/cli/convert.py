"""`ptinspect convert`: the same content in another form."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ptinspect.cli.options import debug_requested, no_progress_option
from ptinspect.cli.output import StdoutWriter, error_text, unexpected_error, write_stderr
from ptinspect.cli.progress import ProgressBar
from ptinspect.errors import PtInspectError

if TYPE_CHECKING:
    from typing import Any

    from ptinspect.conversion import ConversionReport

GOALS = ("state_dict", "checkpoint", "safetensors", "same")


@click.command(
    "convert", short_help="Convert to a state_dict, a checkpoint, safetensors or today's zip."
)
@click.argument("paths", metavar="SRC... [DST]", nargs=-1, required=True)
@click.option(
    "--to", type=click.Choice(GOALS), help="Target to write. By default the suffix of DST decides."
)
@click.option("--entry", metavar="PATH", help="Convert only this entry, e.g. model_state_dict.")
@click.option(
    "--include", metavar="GLOB", multiple=True, help="Write only matching keys. Repeatable."
)
@click.option("--exclude", metavar="GLOB", multiple=True, help="Drop matching keys. Repeatable.")
@click.option(
    "--strip-prefix",
    metavar="P|auto",
    multiple=True,
    help="Remove prefix P; auto: those of DataParallel, torch.compile and FSDP. Repeatable.",
)
@click.option("--add-prefix", metavar="P", default="", help="Put prefix P in front of every key.")
@click.option("--rename", metavar="REGEX=NEW", multiple=True, help="Rename keys. Repeatable.")
@click.option("--dtype", metavar="D", help="Cast floating-point tensors to D, e.g. bfloat16.")
@click.option("--device", metavar="D", help="Record D as the device of all tensors, e.g. cpu.")
@click.option("--contiguous", is_flag=True, help="Write strided tensors as contiguous ones.")
@click.option(
    "--shared",
    type=click.Choice(["keep-one", "duplicate", "error"]),
    default="keep-one",
    show_default=True,
    help="What safetensors gets for tensors that share memory.",
)
@click.option(
    "--set",
    "entries",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set an entry of the checkpoint; VALUE is JSON or else a string. Repeatable.",
)
@click.option(
    "--optimizer", metavar="FILE", help="Take the checkpoint's optimizer state from FILE."
)
@click.option("--plain", is_flag=True, help="Write only what torch.load accepts by default.")
@click.option(
    "--max-shard-size", metavar="N", help="Write shards of at most N (e.g. 5GB) and an index."
)
@click.option("--verify", is_flag=True, help="Read the file again and compare every byte.")
@click.option("--force", is_flag=True, help="Overwrite DST if it exists.")
@click.option("--dry-run", is_flag=True, help="Show the plan without writing.")
@click.option(
    "-f",
    "--format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the report.",
)
@no_progress_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Write the content of SRC to DST, without torch and without executing anything.

    DST ends in .safetensors, or in .pt, .pth, .bin or .ckpt for a state_dict; any other DST, or
    none, needs --to. If DST is a folder, the name of the file is derived from SRC; several SRC
    need a folder. The file appears complete or not at all. Exit code 0: done. 2: a file could not
    be read or written, or --verify found a difference.
    """
    sources, target = _split(given["paths"], given["to"])
    names = (
        "to", "entry", "include", "exclude", "strip_prefix", "add_prefix", "rename", "dtype",
        "device", "contiguous", "shared", "optimizer", "plain", "max_shard_size", "verify",
        "force", "dry_run",
    )  # fmt: skip
    options = {name: given[name] for name in names}
    options["set"] = dict(map(_entry, given["entries"]))
    _must_have_a_name_each(sources, target, given["to"])
    debug = debug_requested(ctx)
    answers: list[ConversionReport | PtInspectError] = []
    for source in sources:
        with ProgressBar(os.path.basename(source), hidden=given["no_progress"]) as progress:
            answer = _converted(source, target, options, progress, debug=debug)
        answers.append(answer)
        if isinstance(answer, PtInspectError):
            write_stderr(error_text(answer))
            continue
        for line in answer.told:
            write_stderr(f"ptinspect: {_safe(source)}: {_safe(line)}")
        if given["format"] == "text" and answer.files:
            StdoutWriter().write("".join(f"{_safe(line)}\n" for line in answer.lines()))
    if given["format"] == "json":
        _json(sources, answers)
    ctx.exit(2 if any(isinstance(answer, PtInspectError) for answer in answers) else 0)


def _converted(
    source: str, target: str | None, options: dict[str, Any], progress: Any, *, debug: bool
) -> ConversionReport | PtInspectError:
    """What became of one SRC: an error stops none of the others."""
    from ptinspect.conversion import convert

    try:
        return convert(source, target, progress=progress, **options)
    except PtInspectError as error:
        if debug:
            raise
        return error
    except Exception as error:
        if debug:
            raise
        return unexpected_error(error, source)


def _split(paths: tuple[str, ...], to: str | None) -> tuple[tuple[str, ...], str | None]:
    """SRC and DST. The last path is DST, but for a single one, and where --to says what to write
    and DST would be one of several files that exist."""
    if len(paths) == 1:
        return paths, None
    *sources, last = paths
    if last == "-":
        raise click.UsageError("DST cannot be standard output: give the name of a file")
    if len(sources) > 1 and not os.path.isdir(last):
        raise click.UsageError(f"with several SRC, DST must be a folder; {last!r} is not one")
    return tuple(sources), last


def _must_have_a_name_each(sources: tuple[str, ...], target: str | None, to: str | None) -> None:
    """No SRC may overwrite what another has become."""
    from ptinspect.conversion.options import goal_of, target_of

    if len(sources) > 1:
        taken: dict[str, str] = {}
        for source in sources:
            made = target_of(source, target, goal_of(target, to))
            if made in taken:
                raise click.UsageError(
                    f"{taken[made]} and {source} would both be written to {made}"
                )
            taken[made] = source


def _entry(text: str) -> tuple[str, object]:
    """NAME=VALUE; VALUE is JSON, else a string."""
    import json

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--set needs NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
    except RecursionError:
        raise click.UsageError(f"the value of --set {name} is nested too deeply") from None


def _json(sources: tuple[str, ...], answers: list[ConversionReport | PtInspectError]) -> None:
    """An object, or a list of them exactly where there are several SRC."""
    import json

    objects = [
        _error_json(source, answer) if isinstance(answer, PtInspectError) else answer.as_json()
        for source, answer in zip(sources, answers, strict=True)
    ]
    made: object = objects if len(objects) > 1 else objects[0]
    StdoutWriter().write(json.dumps(made, indent=2) + "\n")


def _error_json(source: str, error: PtInspectError) -> dict[str, object]:
    """What stands in the place of a SRC that could not be converted."""
    from ptinspect.safety.report.report import Unread

    return {"schema": 1, "source": source, "error": Unread.of(error).as_dict()}


def _safe(text: str) -> str:
    from ptinspect.display.text.escape import safe

    return safe(text)
