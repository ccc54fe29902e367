"""`ptinspect convert`: the same content in another form."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ptinspect.cli.output import (
    choice,
    debug_requested,
    error_text,
    flag,
    format_option,
    no_progress_option,
    option,
    progress_bar,
    repeatable,
    reportable,
    write_stderr,
    write_stdout,
)
from ptinspect.errors import PtInspectError
from ptinspect.text import safe

if TYPE_CHECKING:
    from ptinspect.conversion import ConversionReport

TARGETS = ("state_dict", "checkpoint", "safetensors", "npz", "same")


@click.command(
    "convert", short_help="Convert to a state_dict, checkpoint, safetensors, npz or today's zip."
)
@click.argument("paths", metavar="SRC... [DST]", nargs=-1, required=True)
@choice("--to", TARGETS, "Target to write. By default the suffix of DST decides.")
@option(
    "--entry",
    "PATH",
    "Convert only this entry, e.g. model_state_dict. Repeatable: one file each.",
    multiple=True,
)
@flag("--all-entries", "Convert every model of SRC to a file of its own.")
@repeatable("--include", "GLOB", "Write only matching keys.")
@repeatable("--exclude", "GLOB", "Drop matching keys.")
@repeatable(
    "--strip-prefix",
    "P|auto",
    "Remove prefix P; auto: those of DataParallel, torch.compile and FSDP.",
)
@option("--add-prefix", "P", "Put prefix P in front of every key.", default="")
@repeatable("--rename", "REGEX=NEW", "Replace what REGEX matches in a key by NEW.")
@option("--dtype", "D", "Cast floating-point tensors to D, e.g. bfloat16.")
@flag("--allow-overflow", "Write numbers that --dtype cannot hold as inf.")
@option("--device", "D", "Record D as the device of all tensors, e.g. cpu.")
@flag("--contiguous", "Write strided tensors as contiguous ones.")
@choice(
    "--shared",
    ["keep-one", "duplicate", "error"],
    "For safetensors and npz, of tensors that share memory: keep one, write copies, or fail.",
    default="keep-one",
)
@repeatable(
    "--set entries", "NAME=VALUE", "Set an entry of the checkpoint; VALUE is JSON or else a string."
)
@repeatable(
    "--metadata metadata", "KEY=VALUE", "Set an entry of the metadata in the safetensors header."
)
@option("--optimizer", "FILE", "Take the checkpoint's optimizer state from FILE.")
@flag("--plain", "Write only what torch.load accepts by default.")
@option("--max-shard-size", "N", "Write shards of at most N (e.g. 5GB) and an index.")
@flag("--verify", "Read the file again and compare every byte.")
@flag("--force", "Overwrite DST if it exists.")
@flag("--dry-run", "Show the plan without writing.")
@format_option(["text", "json"])
@no_progress_option
@click.pass_context
def command(
    ctx: click.Context, /, paths: tuple[str, ...], to: str | None, entry: tuple[str, ...],
    all_entries: bool, include: tuple[str, ...], exclude: tuple[str, ...],
    strip_prefix: tuple[str, ...], add_prefix: str, rename: tuple[str, ...], dtype: str | None,
    allow_overflow: bool, device: str | None, contiguous: bool, shared: str,
    entries: tuple[str, ...], metadata: tuple[str, ...], optimizer: str | None, plain: bool,
    max_shard_size: str | None, verify: bool, force: bool, dry_run: bool,
    output_format: str, no_progress: bool,
) -> None:  # fmt: skip
    """Write the content of SRC to DST, without torch and without executing anything.

    DST ends in .safetensors or .npz, or in .pt, .pth, .bin or .ckpt for a state_dict; any other
    DST, or none, needs --to. If DST is a folder, the name of the file is derived from SRC; several
    SRC need a folder. The file appears complete or not at all. Exit code 0: done. 1: --dtype cannot
    hold all numbers, and nothing was written. 2: a file could not be read or written, or --verify
    found a difference.
    """
    from ptinspect.conversion import convert

    sources, target = _split_paths(paths)
    new_entries = dict(map(_parse_entry, entries))
    new_metadata = {}
    for text in metadata:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--metadata needs KEY=VALUE, not {text!r}")
        new_metadata[name] = value
    _check_distinct_outputs(sources, target, to)
    results: list[ConversionReport | PtInspectError] = []
    for source in sources:
        try:
            with progress_bar(os.path.basename(source), hidden=no_progress) as progress:
                result = convert(
                    source, target, to=to, entry=entry, all_entries=all_entries,
                    include=include, exclude=exclude, allow_overflow=allow_overflow,
                    strip_prefix=strip_prefix, add_prefix=add_prefix, rename=rename, dtype=dtype,
                    device=device, contiguous=contiguous, shared=shared, set=new_entries,
                    metadata=new_metadata,
                    optimizer=optimizer, plain=plain, max_shard_size=max_shard_size,
                    verify=verify, force=force, dry_run=dry_run, progress=progress,
                )  # fmt: skip
        except Exception as error:
            if debug_requested(ctx):
                raise
            failure = reportable(error, source)
            results.append(failure)
            write_stderr(error_text(failure))
            continue
        results.append(result)
        for warning in result.warnings:
            write_stderr(f"ptinspect: {safe(source)}: {safe(warning)}")
        if output_format == "text":
            lines = result.text().splitlines()
            write_stdout("".join(f"{safe(line)}\n" for line in lines))
    if output_format == "json":
        _write_json(sources, results)
    codes = {result.exit_code for result in results}
    ctx.exit(1 if 1 in codes else max(codes))


def _split_paths(paths: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return SRC and DST. The last path is DST unless it is the only one."""
    if paths == ("-",):
        raise click.UsageError(
            "standard input has no name from which DST could be derived: give one, as in"
            " `ptinspect convert - model.safetensors`"
        )
    if len(paths) == 1:
        return paths, None
    *sources, target = paths
    if target == "-":
        raise click.UsageError("DST cannot be standard output: give the name of a file")
    if len(sources) > 1 and not os.path.isdir(target):
        raise click.UsageError(f"with several SRC, DST must be a folder; {target!r} is not one")
    return tuple(sources), target


def _check_distinct_outputs(sources: tuple[str, ...], target: str | None, to: str | None) -> None:
    from ptinspect.conversion.options import output_path, target_of_suffix

    if len(sources) > 1:
        source_of: dict[str, str] = {}
        for source in sources:
            path = output_path(source, target, target_of_suffix(target, to))
            if path in source_of:
                raise click.UsageError(
                    f"{source_of[path]} and {source} would both be written to {path}"
                )
            source_of[path] = source


def _parse_entry(text: str) -> tuple[str, object]:
    """Parse NAME=VALUE, where VALUE is JSON or else a string."""
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


def _write_json(sources: tuple[str, ...], results: list[ConversionReport | PtInspectError]) -> None:
    import json

    objects: list[dict[str, object]] = []
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, PtInspectError):
            error = result.as_dict()
            objects.append({"schema": 1, "file": {"path": source}, "error": error})
        else:
            objects.append(result.as_dict())
    document: object = objects if len(objects) > 1 else objects[0]
    write_stdout(json.dumps(document, indent=2) + "\n")
