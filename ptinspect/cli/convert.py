"""`ptinspect convert`: the same content in another form."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ptinspect.cli.output import StdoutWriter, error_text, unexpected_error, write_stderr
from ptinspect.cli.progress import ProgressBar
from ptinspect.errors import PtInspectError

if TYPE_CHECKING:
    from typing import Any

    from ptinspect.conversion import ConversionReport

GOALS = ("state_dict", "checkpoint", "safetensors", "same")


@click.command("convert", short_help="To a state_dict, checkpoint, safetensors, or today's zip.")
@click.argument("paths", metavar="SRC... [DST]", nargs=-1, required=True)
@click.option("--to", type=click.Choice(GOALS), help="What to write; else the suffix of DST says.")
@click.option("--entry", metavar="PATH", help="The part of SRC that is meant (model_state_dict).")
@click.option("--include", metavar="GLOB", multiple=True, help="Only such keys; may be repeated.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="No such keys; may be repeated.")
@click.option(
    "--strip-prefix",
    metavar="P|auto",
    multiple=True,
    help="Take P off keys; auto: what DataParallel, torch.compile and FSDP put in. Repeatable.",
)
@click.option("--add-prefix", metavar="P", default="", help="Put P in front of every key.")
@click.option("--rename", metavar="REGEX=NEW", multiple=True, help="Change keys; may be repeated.")
@click.option("--dtype", metavar="D", help="Floating tensors as D (float16, bfloat16, ...).")
@click.option("--device", metavar="D", help="Tag tensors as on D (cpu, cuda:0).")
@click.option("--contiguous", is_flag=True, help="Lay strided tensors out.")
@click.option(
    "--shared",
    type=click.Choice(["keep-one", "duplicate", "error"]),
    default="keep-one",
    show_default=True,
    help="Tensors that share memory, in safetensors.",
)
@click.option(
    "--set",
    "entries",
    metavar="NAME=VALUE",
    multiple=True,
    help="An entry of the checkpoint; VALUE is JSON, else a string. Repeatable.",
)
@click.option("--optimizer", metavar="FILE", help="The file with the checkpoint's optimizer state.")
@click.option("--plain", is_flag=True, help="A checkpoint of what a bare torch.load takes.")
@click.option("--max-shard-size", metavar="N", help="Several files of at most N (5GB), an index.")
@click.option("--verify", is_flag=True, help="Compare every byte afterwards.")
@click.option("--force", is_flag=True, help="Overwrite DST if it exists.")
@click.option("--dry-run", is_flag=True, help="Show the plan, write nothing.")
@click.option(
    "-f",
    "--format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How plan and report are shown.",
)
@click.option("--no-progress", is_flag=True, help="No progress bar.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Write what SRC holds to DST: without torch, without the class, executing nothing.

    DST ends in .safetensors, or in .pt, .pth, .bin or .ckpt for a state_dict; anything else, or
    no DST, needs --to. With a folder as DST, and with several SRC, the names are derived. The
    file appears whole or not at all. Exit code 0: done. 2: something could not be written, or is
    not what --verify reads again.
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
    debug = bool(ctx.find_root().params.get("debug"))
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
        raise click.UsageError("DST is a file: neither container can be written to a pipe")
    if len(sources) > 1 and not os.path.isdir(last):
        raise click.UsageError(f"several SRC need a folder as DST, and {last!r} is none")
    return tuple(sources), last


def _must_have_a_name_each(sources: tuple[str, ...], target: str | None, to: str | None) -> None:
    """No SRC may overwrite what another has become."""
    from ptinspect.conversion.options import goal_of, target_of

    if len(sources) > 1:
        taken: dict[str, str] = {}
        for source in sources:
            made = target_of(source, target, goal_of(target, to))
            if made in taken:
                raise click.UsageError(f"{taken[made]} and {source} would both become {made}")
            taken[made] = source


def _entry(text: str) -> tuple[str, object]:
    """NAME=VALUE; VALUE is JSON, else a string."""
    import json

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--set takes NAME=VALUE, and {text!r} is none")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
    except RecursionError:
        raise click.UsageError(f"the value of --set {name} nests too deep") from None


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
