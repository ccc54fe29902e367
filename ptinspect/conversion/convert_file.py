"""One conversion from beginning to end: open, plan, check, write, read again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ptinspect.atomic_file import atomic_outputs, check_destination, check_disk_space
from ptinspect.conversion.options import (
    ConvertOptions,
    output_path,
    parse_options,
    target_of_suffix,
)
from ptinspect.conversion.output.sink import ModificationGuard, Sink
from ptinspect.conversion.report import ConversionReport
from ptinspect.conversion.verify import refuse_unsafe_output, verify_outputs
from ptinspect.document import open as open_document
from ptinspect.errors import add_error_path
from ptinspect.limits import LIMITS, Limits

if TYPE_CHECKING:
    from ptinspect.conversion.plan import Plan
    from ptinspect.document import Document
    from ptinspect.source.base import Source

    Progress = Callable[[int, int], None]


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None = None,
    *,
    to: str | None = None,
    entry: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip_prefix: Sequence[str] = (),
    add_prefix: str = "",
    rename: Sequence[str] = (),
    dtype: object = None,
    device: str | None = None,
    contiguous: bool = False,
    shared: str = "keep-one",
    set: Mapping[str, object] | None = None,
    optimizer: str | os.PathLike[str] | None = None,
    plain: bool = False,
    max_shard_size: int | str | None = None,
    verify: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> ConversionReport:
    """Write the contents of `src` to `dst` in another form, without torch and without executing
    anything. The file appears complete or not at all.

    Args:
        src: a file.
        dst: a file, or a folder in which the name is derived; by default the folder of `src`.
        to: `state_dict`, `checkpoint`, `safetensors` or `same` (all values of the file in today's
            container). By default the suffix of `dst` decides.
        entry: path of the part to convert, such as `model_state_dict`.
        include, exclude: globs that select keys.
        strip_prefix, rename, add_prefix: changes of keys, applied in this order. The prefix `auto`
            removes those of DataParallel, torch.compile and FSDP; `rename` takes `REGEX=NEW`.
        dtype, device, contiguous: changes of all tensors. `dtype` is a name, or a dtype of torch
            or numpy.
        shared: `keep-one`, `duplicate` or `error`, for safetensors of tensors that share memory.
        set, optimizer, plain: entries to add to a checkpoint, a file with its optimizer state,
            and whether to write only values that torch.load accepts by default.
        max_shard_size: size of safetensors shards in bytes, or as `5GB`.
        verify: compare all bytes afterwards.
        force, dry_run: overwrite existing files; write nothing.
        progress: called with (bytes done, bytes in total).

    Raises:
        PtInspectError: as `ptinspect.open`; also if a file exists, or an option does not fit.
    """
    source, target = os.fspath(src), None if dst is None else os.fspath(dst)
    options = parse_options(
        target_of_suffix(target, to), entry=entry, include=include, exclude=exclude,
        strip_prefix=strip_prefix, add_prefix=add_prefix, rename=rename, dtype=dtype,
        device=device, contiguous=contiguous, shared=shared, set=set or {},
        optimizer=None if optimizer is None else os.fspath(optimizer), plain=plain,
        max_shard_size=max_shard_size,
    )  # fmt: skip
    return _convert(source, target, options, verify, force, dry_run, progress, limits or LIMITS)


def _convert(
    source: str,
    target: str | None,
    options: ConvertOptions,
    verify: bool,
    force: bool,
    dry_run: bool,
    progress: Progress | None,
    limits: Limits,
) -> ConversionReport:
    path = output_path(source, target, options.to)
    with (
        ExitStack() as open_files,
        open_document(source, limits=limits) as document,
        add_error_path(source),
    ):
        sources = [document.archive.source, *(part.source for part in document.archive.parts)]
        guards = [ModificationGuard(file) for file in sources]
        plan = plan_conversion(document, path, options, open_files)
        plan.guards += guards
        plan.warnings += refuse_unsafe_output(plan, limits)
        _check_destinations(plan, sources, force)
        if not dry_run:
            _write(plan, limits, force, verify, progress)
    is_verified = verify and not dry_run
    return ConversionReport.of_plan(source, plan, written=not dry_run, verified=is_verified)


def plan_conversion(
    document: Document, path: str, options: ConvertOptions, open_files: ExitStack
) -> Plan:
    """Return the plan for the target. Further files that it needs are opened in `open_files`."""
    if options.to == "safetensors":
        from ptinspect.conversion.targets.safetensors import plan_safetensors

        return plan_safetensors(document, path, options)
    if options.to == "checkpoint":
        from ptinspect.conversion.targets.checkpoint import plan_checkpoint

        return plan_checkpoint(document, path, options, open_files)
    from ptinspect.conversion.targets.state_dict import plan_same, plan_state_dict

    return (plan_same if options.to == "same" else plan_state_dict)(document, path, options)


def _check_destinations(plan: Plan, sources: list[Source], force: bool) -> None:
    """Raise PtInspectError if a file may not be written, or if there is no space for it.

    No output may replace a file that is read. Copied bytes may share disk blocks with the
    source, so only converted ones are counted: a single number can be expanded to millions.
    """
    inputs: list[str | int] = [source.path for source in sources]
    inputs += [source.descriptor for source in sources if source.descriptor is not None]
    inputs += [guard.path for guard in plan.guards]
    for file in plan.files:
        check_destination(file.path, force=force, sources=inputs)
    check_disk_space(plan.files[0].path, sum(file.changed for file in plan.files))


def _write(
    plan: Plan, limits: Limits, force: bool, verify: bool, progress: Progress | None
) -> None:
    """Write all files of a plan. They get their names when the last one is written and checked."""
    total = sum(file.copied + file.changed for file in plan.files)
    done = 0

    def count(length: int) -> None:
        nonlocal done
        done += length
        if progress is not None:
            progress(done, total)

    with atomic_outputs([file.path for file in plan.files], force=force) as outputs:
        for file, output in zip(plan.files, outputs, strict=True):
            file.write(Sink(output, count))
            output.finish()
        for guard in plan.guards:
            guard.check()
        paths = [output.temporary for output in outputs]
        plan.warnings += verify_outputs(plan, paths, limits, compare_bytes=verify)
