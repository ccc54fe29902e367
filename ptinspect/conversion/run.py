"""One conversion from its beginning to its end: open, plan, write, read again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ptinspect.atomic_file import atomic_outputs, check_destination, check_disk_space
from ptinspect.conversion.io.copy import Sink, Unchanged
from ptinspect.conversion.options import Options, checked, goal_of, target_of
from ptinspect.conversion.report import ConversionReport
from ptinspect.conversion.safety_check import judge
from ptinspect.conversion.verify import check
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
    dtype: str | None = None,
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
    limits: Limits = LIMITS,
) -> ConversionReport:
    """Writes what `src` holds to `dst` in another form; no torch, no class of the file's, and
    nothing of it executed.

    to: `state_dict`, `checkpoint`, `safetensors` or `same` (today's container); without it the
    suffix of `dst` says. dst: a file, or a folder in which the name is derived; without it the
    file lies beside `src`. entry: the path of the part that is meant. include, exclude: globs
    over keys. strip_prefix (`auto`: what DataParallel, torch.compile, FSDP put in), rename
    (`REGEX=NEW`), add_prefix: changes of keys, in this order. dtype: of floating tensors. device:
    the tag of every storage. contiguous: strided tensors are laid out. shared: tensors that share
    memory, in safetensors. set, optimizer: entries of a checkpoint. plain: a checkpoint that
    torch.load takes as it is. max_shard_size: bytes, or `5GB`. verify: all bytes are compared
    afterwards. dry_run: plans, and writes nothing. progress: told (bytes done, bytes in all).

    The file appears whole or not at all. Raises PtInspectError and its family.
    """
    source, target = os.fspath(src), None if dst is None else os.fspath(dst)
    goal = goal_of(target, to)
    options = checked(
        goal, entry=entry, include=include, exclude=exclude, strip_prefix=strip_prefix,
        add_prefix=add_prefix, rename=rename, dtype=dtype, device=device, contiguous=contiguous,
        shared=shared, set=set or {}, optimizer=None if optimizer is None else os.fspath(optimizer),
        plain=plain, max_shard_size=max_shard_size,
    )  # fmt: skip
    path = target_of(source, target, goal)
    with (
        ExitStack() as files,
        open_document(source, limits=limits) as document,
        add_error_path(source),
    ):
        sources = [document.archive.source, *(part.source for part in document.archive.parts)]
        watched = [Unchanged(each) for each in sources]
        plan = planned(document, path, options, files)
        plan.others += watched
        judge(plan, document)
        _must_be_writable(plan, sources, force)
        if not dry_run:
            _write(plan, document, force, verify, progress)
        return ConversionReport(source, plan, written=not dry_run, verified=verify and not dry_run)


def planned(document: Document, target: str, options: Options, files: ExitStack) -> Plan:
    """The plan for the goal. `files` keeps open what it needs beside SRC."""
    if options.to == "safetensors":
        from ptinspect.conversion.targets.safetensors import plan_safetensors

        return plan_safetensors(document, target, options)
    if options.to == "checkpoint":
        from ptinspect.conversion.targets.checkpoint import plan_checkpoint

        return plan_checkpoint(document, target, options, files)
    if options.to == "same" and document.archive.streams and not document.archive.parts:
        from ptinspect.conversion.targets.same import plan_same

        return plan_same(document, target, options)
    from ptinspect.conversion.targets.state_dict import plan_state_dict

    return plan_state_dict(document, target, options)


def _must_be_writable(plan: Plan, sources: list[Source], force: bool) -> None:
    """No file of the output is one that its bytes come from, or one that is kept; and what is made
    of few bytes, such as one number that stands for millions, has room."""
    read: list[str | int] = [source.path for source in sources]
    read += [source.descriptor for source in sources if source.descriptor is not None]
    read += [other.path for other in plan.others]
    for file in plan.files:
        check_destination(file.path, force=force, sources=read)
    check_disk_space(plan.files[0].path, sum(file.changed for file in plan.files))


def _write(
    plan: Plan, document: Document, force: bool, verify: bool, progress: Progress | None
) -> None:
    """All files of a plan; they get their names when the last one is whole, and checked."""
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
        for each in plan.others:
            each.check()
        made = [output.temporary for output in outputs]
        check(plan, made, document, verify)
