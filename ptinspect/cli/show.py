"""`ptinspect show`: what is in a file."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from ptinspect.cli.output import (
    byte_progress,
    choice,
    debug_requested,
    error_text,
    flag,
    force_option,
    format_option,
    no_progress_option,
    open_output,
    option,
    output_option,
    repeatable,
    reportable,
    terminal_style,
    write_stderr,
)
from ptinspect.display import FORMATS, ShowOptions, renderer
from ptinspect.document import open as open_document
from ptinspect.errors import FormatError, PtInspectError
from ptinspect.formats.detect import MEMBER, main_file
from ptinspect.source.local import BROKEN_LINK, LeftOut, files_below, left_out_text
from ptinspect.text import cut, safe

if TYPE_CHECKING:
    from ptinspect.display.measure import FileHash
    from ptinspect.document import Document

WITHOUT_EFFECT = {
    "--format tree": ("--sort", "--values", "--stats", "--hash"),
    "--format json": ("--depth",),
    "--format jsonl": ("--depth",),
    "--textconv": ("--format", "--depth", "--values", "--brief"),
    "--brief": (
        "--format",
        "--sort",
        "--depth",
        "--values",
        "--stats",
        "--hash",
        "--include",
        "--exclude",
        "--all",
    ),
}
"""Options that a view has no use for: a usage error, not silence."""

COLLECT_EVERY = 50
"""Files between two runs of the garbage collector, which `ptinspect.cli.main` disables."""

MODEL_SUFFIXES = (".pt", ".pth", ".ckpt")
"""A file in a folder with such a name is an error if it is something else, such as a web page or a
Git LFS pointer. Other files that ptinspect does not read are counted."""


@click.command("show", short_help="Show what is in files and folders.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@format_option(FORMATS)
@output_option
@force_option
@flag("--brief", "Show a line per file.")
@repeatable("--include", "GLOB", "Show only tensors whose key matches, e.g. '*.weight'.")
@repeatable("--exclude", "GLOB", "Hide tensors whose key matches.")
@choice("--sort", ["file", "key", "size"], "Order of the tensors.", default="file")
@option(
    "--depth",
    "N",
    "Levels to show; deeper ones are summed up. Not with `-f json`, which has all levels.",
    type=click.IntRange(min=0),
)
@flag("--all all_rows", "Show a row for each tensor: do not fold repeated blocks on a terminal.")
@flag("--values", "Show the numbers of each tensor, as torch prints them.")
@flag("--stats", "Show min, max, mean, std, zeros, NaN and inf of each tensor. Reads all of it.")
@flag(
    "--hash hashes",
    "Show the SHA-256 of each tensor and of the file, and compare the latter with a name like "
    "model-<8 hex digits>.pth.",
)
@flag("--check", "Compare every record with its CRC-32. Exit code 1 if one does not match.")
@flag("--textconv", "Print stable text for `git diff`: no path, no advice, a hash per tensor.")
@no_progress_option
@click.pass_context
def command(
    ctx: click.Context, /, paths: tuple[str, ...], output_format: str, output: str | None,
    force: bool, brief: bool, include: tuple[str, ...], exclude: tuple[str, ...], sort: str,
    depth: int | None, all_rows: bool, values: bool, stats: bool, hashes: bool, check: bool,
    textconv: bool, no_progress: bool,
) -> None:  # fmt: skip
    """Show what is in each PATH: a file of torch.save, pickle, safetensors, numpy, GGUF or ONNX,
    `-` for standard input, or a folder. A folder is one checkpoint in several files, or is searched
    for files.

    Nothing in the file is executed. Exit code 0: done. 1: a check failed (--hash, --check). 2: a
    file could not be read.
    """
    used = {
        "--format": output_format != "summary", "--sort": sort != "file",
        "--depth": depth is not None, "--values": values, "--stats": stats, "--hash": hashes,
        "--include": include, "--exclude": exclude, "--all": all_rows, "--brief": brief,
    }  # fmt: skip
    view = "--textconv" if textconv else "--brief" if brief else f"--format {output_format}"
    for name in WITHOUT_EFFECT.get(view, ()):
        if used[name]:
            raise click.UsageError(f"{name} cannot be used with {view}")
    if depth is not None and output_format == "table" and (stats or hashes):
        name = "--stats" if stats else "--hash"
        raise click.UsageError(f"--depth cannot be used with {name} in a table")
    width, colour = terminal_style(output)
    options = ShowOptions(
        include=include, exclude=exclude, sort=sort, depth=depth,
        fold=width is not None and not all_rows and sort == "file",
        values=values, stats=stats, hash=hashes, check=check,
        width=width, colour=colour, hints=True,
    )  # fmt: skip
    if not no_progress:
        options.progress = byte_progress
    with open_output(output, force=force, sources=paths) as write:
        output_format = "textconv" if textconv else "brief" if brief else output_format
        code = ShowRun(output_format, options, write, debug_requested(ctx)).show_paths(paths)
    ctx.exit(code)


class ShowRun:
    """Shows several files, each whatever happens with the others, and collects the exit code."""

    def __init__(
        self, output_format: str, options: ShowOptions, write: Callable[[str], None], debug: bool
    ) -> None:
        self._output_format = output_format
        self._is_json = output_format in ("json", "jsonl")
        self._is_json_lines = output_format == "jsonl"
        self._render = renderer(output_format)
        self._options = options
        self._write = write
        self._debug = debug
        self._codes = {0}
        self._is_list = False
        self._written = 0
        self._opened = 0
        # The last document is never freed: the process ends sooner without it.
        self._document: Document | None = None

    def show_paths(self, paths: tuple[str, ...]) -> int:
        """Show files and folders. Return the exit code: 1 beats 2 beats 0."""
        folders = {
            path: Counter[str]()
            for path in paths
            if path != "-" and os.path.isdir(path) and main_file(path) is None
        }
        shown: Counter[str] = Counter()
        self._is_list = len(paths) > 1 or bool(folders)
        for path in paths:
            if path not in folders:
                self._show_file(path)
                continue
            for file in _documents_below(path, folders[path]):
                shown[path] += self._show_file(file, folders[path])
        if self._is_json and self._is_list and not self._is_json_lines:
            self._write("\n]\n" if self._written else "[]\n")
        for path, left_out in folders.items():
            skipped = f"{left_out_text(left_out)} skipped"
            if not shown[path] and 2 not in self._codes:
                self._codes.add(2)
                error = PtInspectError("the folder has no file that ptinspect reads", path=path)
                write_stderr(error_text(error) + (f"; {skipped}" if left_out else ""))
            elif left_out:
                write_stderr(f"ptinspect: {safe(path)}: {shown[path]:,} shown, {skipped}")
        return next(code for code in (1, 2, 0) if code in self._codes)

    def _show_file(self, path: str, left_out: LeftOut | None = None) -> bool:
        """Show a file, or report why not; if it is from a folder, perhaps only in `left_out`."""
        if left_out is not None and not os.path.isfile(path) and not os.path.isdir(path):
            left_out[BROKEN_LINK if os.path.islink(path) else "special file"] += 1
            return False
        try:
            text = self._render_file(path)
        except Exception as error:  # noqa: BLE001
            is_other = isinstance(error, FormatError) and not path.lower().endswith(MODEL_SUFFIXES)
            if left_out is not None and is_other:
                left_out["other file"] += 1
            else:
                self._report_error(error, path)
            return False
        self._emit(text)
        return True

    def _render_file(self, path: str) -> str:
        self._document = None
        self._opened += 1
        if self._opened % COLLECT_EVERY == 0:
            gc.collect()  # documents with reference cycles would pile up
        document = self._document = open_document(path)
        with document:
            file_hash: FileHash | None = None
            if self._options.hash:
                from ptinspect.display.measure import hash_file

                file_hash = hash_file(document, self._options)
                self._codes.add(1 if file_hash.mismatch else 0)
            options = self._options
            if options.values or options.stats or options.hash or options.check:
                self._check_checksums(document)
            has_globs = bool(options.include or options.exclude)
            if has_globs and self._output_format == "tree" and document.kind == "module":
                message = "--include and --exclude do not change the tree of a model"
                write_stderr(f"ptinspect: {safe(document.path)}: {message}")
            return self._render(document, options, file_hash)

    def _check_checksums(self, document: Document) -> None:
        """Warn of records whose bytes, which are read anyway, do not match their CRC-32."""
        from ptinspect.display.table import select_tensors
        from ptinspect.document.warnings import all_checksum_warnings, checksum_warnings

        if self._options.check:
            tensors = document.tensors.values()
            document.checked_records, warnings = all_checksum_warnings(document.archive, tensors)
            self._codes.add(1 if warnings else 0)
        else:
            warnings = checksum_warnings(select_tensors(document, self._options))
        document.checksum_warnings = warnings
        if self._output_format in ("table", "tree", "brief"):  # which show no facts and no warnings
            messages = [warning.message for warning in warnings]
            if document.checked_records is not None:
                from ptinspect.display.summary_facts import checksums_text

                checked = checksums_text(document.checked_records, warnings)
                messages.append(f"checksums: {checked}")
            for message in messages:
                write_stderr(f"ptinspect: {safe(document.path)}: {cut(message)}")

    def _report_error(self, cause: Exception, path: str) -> None:
        """Write the error to standard error; as JSON also in place of the file."""
        if self._debug:
            raise cause
        self._codes.add(2)
        error = reportable(cause, path)
        error.path = error.path or path
        write_stderr(error_text(error))
        if self._is_json:
            from ptinspect.display.json import json_error, on_one_line

            text = json_error(error, path)
            self._emit(on_one_line(text) if self._is_json_lines else text)

    def _emit(self, text: str) -> None:
        """Write the text for one file, with the commas or empty lines between files."""
        if self._is_list and self._is_json and not self._is_json_lines:
            text = (",\n" if self._written else "[\n") + text.rstrip("\n")
        elif self._written and self._output_format not in ("jsonl", "brief"):
            text = "\n" + text
        self._write(text)
        self._written += 1


def _documents_below(folder: str, left_out: LeftOut) -> Iterator[str]:
    """Yield files, and folders that are one document in place of the files that belong to it."""
    documents: dict[str, bool] = {}
    for path in files_below(folder, left_out):
        parent = os.path.dirname(path)
        if parent not in documents:
            documents[parent] = main_file(parent) is not None
            if documents[parent]:
                yield parent
        if not (documents[parent] and MEMBER.fullmatch(os.path.basename(path))):
            yield path
