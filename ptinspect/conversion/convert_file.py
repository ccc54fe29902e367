"""One conversion from beginning to end: open, plan, check, write, read again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ptinspect.atomic_file import atomic_outputs, check_destination, check_disk_space
from ptinspect.conversion.options import (
    TENSORS_ONLY,
    ConvertOptions,
    KeyEdits,
    as_tuple,
    output_path,
    parse_device,
    parse_dtype,
    parse_rename,
    target_of_suffix,
)
from ptinspect.conversion.output.sink import ByteCounter, ModificationGuard, Sink
from ptinspect.conversion.output.torch_zip import TensorOptions
from ptinspect.conversion.plan import model_candidates
from ptinspect.conversion.report import (
    ConversionReport,
    crc_warnings,
    piece_crc_warnings,
    placeholder_warnings,
    record_losses,
    unread_numbers_warning,
)
from ptinspect.conversion.verify import refuse_unsafe_output, verify_outputs
from ptinspect.document import open as open_document
from ptinspect.document.entries import resolve_path
from ptinspect.errors import PtInspectError, add_error_path, shell_options
from ptinspect.limits import Limits
from ptinspect.pickling.pyobjects import bracketed, dotted
from ptinspect.text import count_text, join_names

if TYPE_CHECKING:
    from ptinspect.conversion.output.pieces import SourceRange
    from ptinspect.conversion.plan import Plan
    from ptinspect.document import Document

    Progress = Callable[[int, int], None]


def convert(
    src: str | os.PathLike[str], dst: str | os.PathLike[str] | None = None, *,
    to: str | None = None, entry: str | Sequence[str] | None = None, all_entries: bool = False,
    include: Sequence[str] = (), exclude: Sequence[str] = (), strip_prefix: Sequence[str] = (),
    add_prefix: str = "", rename: Sequence[str] = (), dtype: object = None, plain: bool = False,
    allow_overflow: bool = False, device: str | None = None, contiguous: bool = False,
    shared: str = "keep-one", set: Mapping[str, object] | None = None,
    metadata: Mapping[str, str] | None = None, optimizer: str | os.PathLike[str] | None = None,
    max_shard_size: int | str | None = None, verify: bool = False, force: bool = False,
    dry_run: bool = False, progress: Progress | None = None, limits: Limits | None = None,
) -> ConversionReport:  # fmt: skip
    """Write the contents of `src` in another form; the file appears complete or not at all.

    Args:
        src, dst: a file; a file or a folder for it (by default that of SRC).
        to: `state_dict`, `checkpoint`, `safetensors`, `npz`, or `same` (all values of the file) in
            today's container. By default the suffix of `dst` decides.
        entry, all_entries: path of the part to convert, such as `model_state_dict`, or all models.
            Of several, each is written to a file whose name ends in that of the entry.
        include, exclude: globs that select keys.
        strip_prefix, rename, add_prefix: changes of keys, applied in this order. The prefix `auto`
            removes those of DataParallel, torch.compile and FSDP; `rename` takes `REGEX=NEW`.
        dtype, device, contiguous: changes of all tensors. `dtype` may be one of torch or numpy;
            numbers that it cannot hold are an error without `allow_overflow`.
        shared: `keep-one`, `duplicate` or `error`, for tied tensors in safetensors and npz.
        set, optimizer, plain: entries to add to a checkpoint, a file with its optimizer state,
            and whether to write only values that torch.load accepts by default.
        metadata, max_shard_size: for safetensors: strings by name, size in bytes or as `5GB`.
        verify, force, dry_run: compare all bytes afterwards; overwrite files; write nothing.
        progress: called with (bytes done, bytes in total).

    Raises:
        PtInspectError: an error of `open`, a file exists, or an option does not fit.
        LossError: `dtype` cannot hold all numbers.
    """
    source, target = os.fspath(src), None if dst is None else os.fspath(dst)
    options = ConvertOptions(
        target_of_suffix(target, to, source, partial(find_refusal, source, dst=target)),
        edits=KeyEdits(
            as_tuple(include), as_tuple(exclude), as_tuple(strip_prefix),
            tuple(map(parse_rename, as_tuple(rename))), add_prefix,
        ), tensors=TensorOptions(parse_dtype(dtype), parse_device(device), contiguous),
        shared=shared, set=set or {}, metadata=metadata or {}, plain=plain,
        source=source, dst=target, optimizer=None if optimizer is None else os.fspath(optimizer),
        max_shard_size=max_shard_size, allow_overflow=allow_overflow, force=force and not dry_run,
    )  # fmt: skip
    options.check()
    if verify and dry_run:
        raise PtInspectError("--verify cannot be used with --dry-run")
    entries = [] if entry is None else [*as_tuple(entry)]
    with ExitStack() as open_files, open_document(source, limits=limits) as document:
        open_files.enter_context(add_error_path(source))
        outputs = _outputs(document, source, options, entries, all_entries)
        plans = _plan_all(document, outputs, open_files)
        _check_destinations(plans, force)
        for plan in plans if dry_run else ():
            plan.warnings += unread_numbers_warning(plan)
        if not dry_run:
            _write(plans, options, document.limits, force, verify, progress)
    return ConversionReport.of_plans(source, plans, written=not dry_run, verified=verify)


_LOSSES = (
    "missing-file", "not-joined", "not-read", "other-models", "padding", "piece-twice",
    "rank-values", "unreadable-array",
)  # fmt: skip
"""Kinds of what a document leaves out, or chooses."""


def find_refusal(
    path: str, to: str, *, dst: str | None = None, all_entries: bool = False
) -> PtInspectError | None:
    """Return the error with which `convert` refuses a file, before it is advised; None if it works.
    An output that exists does not count, and standard input cannot be tried."""
    with shell_options():
        try:
            if path != "-":
                convert(path, dst, to=to, all_entries=all_entries, force=True, dry_run=True)
        except PtInspectError as error:
            return error
    return None


def _outputs(
    document: Document, source: str, options: ConvertOptions, entries: list[str], everything: bool
) -> dict[str, ConvertOptions]:
    """Return the options for each file that is written: one per entry."""
    if (entries or everything) and options.to == "same":
        name = "--entry" if entries else "--all-entries"
        raise PtInspectError(f"{name} cannot be used with --to same")
    if everything:
        entries += [bracketed(model.path) for model in model_candidates(document) if model.path]
    parts = [resolve_path(document.archive.root, entry) for entry in entries]
    if len(parts) < 2:
        path = output_path(source, options.dst, options.to)
        return {path: replace(options, entry=entries[0], part=parts[0]) if entries else options}
    outputs: dict[str, ConvertOptions] = {}
    for entry, part in dict(zip(entries, parts, strict=True)).items():
        path = output_path(source, options.dst, options.to, dotted(part.path))
        if path in outputs:
            raise PtInspectError(
                f"two entries would be written to {path}", hint="convert them one after the other"
            )
        others = tuple(other.path for other in parts if other.path != part.path)
        outputs[path] = replace(options, entry=entry, part=part, other_entries=others)
    return outputs


def _plan_all(
    document: Document, outputs: dict[str, ConvertOptions], open_files: ExitStack
) -> list[Plan]:
    """Return a plan for each file, or its shards."""
    guards = ModificationGuard.of_archive(document.archive)
    plans = []
    for path, options in outputs.items():
        plan = plan_conversion(document, path, options, open_files)
        plan.guards += guards
        lost = [f"[{number}]" for number in range(1, len(document.archive.more_roots) + 1)]
        plan.dropped = [*lost, *plan.dropped]
        losses = [w.message for w in document.archive.warnings if w.kind in _LOSSES]
        if lost:
            count = count_text(len(lost), "more pickle")
            losses.append(f"dropped: {join_names(lost)} (the file holds {count} after the first)")
        plan.warnings = [*losses, *plan.warnings, *placeholder_warnings(plan, document)]
        suffix = os.path.splitext(path)[1].lower().removeprefix(".")
        if suffix != options.to and suffix in TENSORS_ONLY:
            kind = options.to if options.to in TENSORS_ONLY else "torch.save"
            plan.warnings.append(f"{path} has the suffix of {suffix}, but is a file of {kind}")
        plan.warnings += refuse_unsafe_output(plan, document, options)
        plans.append(plan)
    return plans


def plan_conversion(
    document: Document, path: str, options: ConvertOptions, open_files: ExitStack
) -> Plan:
    """Return the plan for the target. Further files that it needs are opened in `open_files`."""
    if options.to in TENSORS_ONLY:
        from ptinspect.conversion.safetensors import SAFETENSORS, plan_named_tensors

        target = SAFETENSORS
        if options.to == "npz":
            from ptinspect.conversion.npz import NPZ as target
        return plan_named_tensors(document, path, options, target)
    if options.to == "checkpoint":
        from ptinspect.conversion.checkpoint import plan_checkpoint

        return plan_checkpoint(document, path, options, open_files)
    from ptinspect.conversion.state_dict import plan_same, plan_state_dict

    return (plan_same if options.to == "same" else plan_state_dict)(document, path, options)


def _check_destinations(plans: list[Plan], force: bool) -> None:
    """Raise PtInspectError if a file may not be written, or if there is no space for it. No output
    may replace a file that is read. Copied bytes may share disk blocks with the source, so only
    converted ones are counted: a single number can be expanded to millions."""
    inputs = [source for plan in plans for guard in plan.guards for source in guard.names]
    files = [file for plan in plans for file in plan.files]
    for file in files:
        check_destination(file.path, force=force, sources=inputs)
    check_disk_space(files[0].path, sum(file.changed for file in files))


def _write(
    plans: list[Plan],
    options: ConvertOptions,
    limits: Limits,
    force: bool,
    verify: bool,
    progress: Progress | None,
) -> None:
    """Write all files. They get their names when the last one is written and checked."""
    files = [file for plan in plans for file in plan.files]
    counter = ByteCounter(sum(file.copied + file.changed for file in files), progress)
    with atomic_outputs([file.path for file in files], force=force) as outputs:
        temporary = iter(outputs)
        for plan in plans:
            plan_outputs = [next(temporary) for _ in plan.files]
            checked: list[SourceRange] = []
            for file, output in zip(plan.files, plan_outputs, strict=True):
                sink = Sink(output, counter.add)
                file.write(sink)
                output.finish()
                checked += sink.checked
                plan.warnings += crc_warnings(sink.mismatches, file, plan)
            plan.warnings += piece_crc_warnings(plan, checked)
            if options.tensors.dtype is not None:
                record_losses(plan, options)
            paths = [output.temporary for output in plan_outputs]
            verify_outputs(plan, paths, limits, compare_bytes=verify)
        for plan in plans:
            for guard in plan.guards:
                guard.check()
