"""Scan one file of any format: find out which readers would open it, and scan it as each of them.

A file is identified by its content, never by its name. It can be two things at once: a zip behind a
pickle, a pickle in the first bytes of an image. Every reader that would open it is considered, and
it is a finding if there is more than one.

To add a container, write a module next to this one with `scan_NAME(source, state)`,
and call it in `_scan_identified`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, FormatError, LimitError, Place, PtInspectError
from ptinspect.formats.archive import OutsideFolderError
from ptinspect.formats.detect import COMPRESSED, HEAD_BYTES, identify_head, reader_of
from ptinspect.formats.signatures import (
    JOBLIB,
    ZIP_MAGIC,
    identify_text,
    is_tar,
    unknown_format_error,
)
from ptinspect.formats.zip_directory import SMALL_PICKLE
from ptinspect.formats.zip_records import find_directories
from ptinspect.safety.containers import pickles
from ptinspect.safety.containers.pickles import BASE64, UNREAD_FORMATS, decode_base64, scan_text
from ptinspect.safety.containers.zip import scan_zip
from ptinspect.safety.policy import listed_words
from ptinspect.safety.report import DANGEROUS, UNKNOWN
from ptinspect.safety.scan_state import Budget, ScanState, scan_member
from ptinspect.source.base import MemorySource, SliceSource
from ptinspect.source.local import MAX_COPY_BYTES, open_source

if TYPE_CHECKING:
    from ptinspect.formats.signatures import Identity
    from ptinspect.limits import Limits
    from ptinspect.source.base import Source

_HARMLESS_FORMATS = listed_words("harmless formats")
_TEXT_FORMATS = frozenset(("text", "html", "xml", "json", "empty", "zeros"))
_INDEX_FORMATS = ("safetensors-index", "torch-index")
_TAR_FORMATS = ("tar", "torch-legacy-tar")

_TWO_FORMATS = "it is {} at once: readers disagree about what it is"
_MIN_PICKLE_RUN = 64  # bytes of a damaged pickle that must have run for it to count as one


def scan_source(source: Source, state: ScanState) -> None:
    """Scan a source into `state`. Errors do not propagate: they are added to `state.errors`."""
    state.budget.scan_source = scan_source
    try:
        head = source.read(0, min(source.size, HEAD_BYTES))
        if head.startswith(ZIP_MAGIC):
            scan_zip(source, state)
        else:
            _scan_unless_zip(source, state, head)
        if state.format not in _TAR_FORMATS and is_tar(head):  # torch.load tries tarfile first
            _scan_as_second_format(source, state, "tar")
        # A pickle with persistent ids is a part of an archive, which has the storages.
        is_part = state.format == "pickle" and any(each.persistent for each in state.streams[:1])
        if state.sparse and not is_part:
            _check_sparse_indices(source, state)
    except PtInspectError as error:
        state.errors.append(error)
    except RecursionError:
        where = Place(state.record)
        state.errors.append(LimitError("it is nested too deep", limit="path_depth", where=where))


def scan_whole(source: Source, limits: Limits, record: str | None = None) -> ScanState:
    """Return the finished scan of a whole file, or of a `record` that is not written yet."""
    state = ScanState(source.path, record, 0, Budget(limits))
    scan_source(buffer_if_small(source), state)
    return state


def buffer_if_small(source: Source) -> Source:
    """Return a small file as a source in memory, where many small reads cost nothing."""
    if source.size > MAX_COPY_BYTES:
        return source
    data, start, stop = source.window()
    return MemorySource(data, source.path, start, stop, source.base)


def _scan_unless_zip(source: Source, state: ScanState, head: bytes) -> None:
    is_pickle = pickles.begins_with_protocol(head)
    identity = None
    if head and not (is_pickle and pickles.may_begin_pickle(head[2:])):
        identity = identify_head(source, head, state.limits)
        if is_pickle and identity is not None and identity.format != "safetensors":
            identity = None  # 80 02 begins a pickle, or the length of a safetensors header
    zip_at_end = None
    if (identity is None or identity.format not in _TAR_FORMATS) and source.size:
        for shift, _ in find_directories(source):  # `zipfile` opens it, whatever precedes it
            zip_at_end = SliceSource(source, shift, source.size - shift)
            break
    if pickles.may_begin_pickle(head) and _try_pickles(source, state, head, identity):
        pass
    elif zip_at_end is None or identity is not None:
        try:
            _scan_identified(source, state, head, identity)
        except PtInspectError as error:
            state.errors.append(error)
            if isinstance(error, OutsideFolderError):
                name = "external-path" if state.format == "onnx" else "index-path"
                state.find(name, error.message, state.record, DANGEROUS)
    else:
        from ptinspect.formats.torch.zip_file import BYTES_BEFORE_ZIP
        from ptinspect.formats.zip_records import cut_command

        scan_zip(zip_at_end, state)
        state.find("zip-prefix", "bytes precede the zip", state.record)
        state.facts["refused"] = [BYTES_BEFORE_ZIP]
        if shift:
            state.facts["repair"] = cut_command(state.path, shift)
        return
    if zip_at_end is not None:
        _scan_as_second_format(zip_at_end, state, "zip")


def _scan_as_second_format(source: Source, state: ScanState, kind: str) -> None:
    from ptinspect.safety.containers.tar import scan_tar  # few files need it

    formats = f"{state.description or state.format} and a {kind}"
    state.find("two-formats", _TWO_FORMATS.format(formats), state.record)
    state.skipped = False
    member = state.new_member(kind)
    (scan_tar if kind == "tar" else scan_zip)(source, member)
    state.members.append(member)


# --- sparse tensors -----------------------------------------------------------------------


def _check_sparse_indices(source: Source, state: ScanState) -> None:
    """Report sparse tensors whose indices lead outside, and nested ones whose offsets do: torch
    reads and writes where they point to.

    torch.load of torch 2.13 checks them only where `check_sparse_tensor_invariants` is enabled.
    Source: torch/_utils.py, _validate_loaded_sparse_tensors.
    """
    from ptinspect.document.document import Document
    from ptinspect.document.elements import leads_outside
    from ptinspect.formats.detect import open_archive

    calls, state.sparse = state.sparse, []
    verdict, reason = DANGEROUS, ""
    try:
        document = Document(source, open_archive(source, state.limits), state.limits)
        for tensor in map(document.tensor_of, calls):
            if tensor is None:
                raise FormatError("another form of sparse tensor")
            reason = "an index of a sparse tensor leads outside of it"
            if tensor.layout == "jagged":
                reason = "an offset of a nested tensor leads outside of its values"
            index_bytes = tensor.nbytes - tensor.parts["values"].nbytes
            state.budget.count_unpacked(index_bytes, state.record)  # many may share a storage
            if leads_outside(tensor):
                break
        else:
            return
    except PtInspectError:
        verdict, reason = UNKNOWN, "the indices of a sparse or nested tensor cannot be read"
    except (IndexError, TypeError, ValueError, ZeroDivisionError):
        pass  # the shapes of its parts do not fit together
    state.find("sparse-indices", reason, state.record, verdict)


# --- pickles ------------------------------------------------------------------------------


def _try_pickles(source: Source, state: ScanState, head: bytes, identity: Identity | None) -> bool:
    """Return True if the source is a file of pickles, which then has been scanned."""
    if re.match(rb"c[^\n]*[ (:=]", head):  # "class M(Module):" in TorchScript: no such module
        return False
    data, start, stop = source.window()
    must_be_pickle = identity is None and pickles.begins_with_protocol(head)
    trial = state
    if not must_be_pickle:
        trial = ScanState(state.path, state.record, state.depth, state.budget)
    scanner = pickles.scan_pickles(trial, data, start, stop, state.record)
    # A few bytes of another format can happen to be a pickle of a plain value.
    is_pickle = scanner.is_harmful or (
        bool(trial.streams)
        and (
            head[:1] == b"\x80"
            or trial.streams[0].globals
            or isinstance(trial.streams[0].root, dict | list | tuple)
            or all(finding.name != "trailing-bytes" for finding in trial.findings.sorted())
        )
    )
    if not is_pickle:  # unless so much of it ran, or a limit ended it
        is_pickle = must_be_pickle or any(
            isinstance(error, LimitError)
            or ((error.where and error.where.offset) or 0) >= _MIN_PICKLE_RUN
            for error in trial.errors
        )
    if identity is not None:  # it begins like another format
        is_pickle = scanner.is_harmful
        if is_pickle:
            formats = f"{identity.description} and a pickle"
            state.find("two-formats", _TWO_FORMATS.format(formats), state.record)
    if is_pickle:
        state.format = trial.format if trial.format != "unknown" else "pickle"
        state.description, state.hint = "a pickle", trial.hint
        if trial is not state:
            state.merge(trial)
        scanner.state = state
        scanner.scan_found()
    return is_pickle and identity is None


# --- other formats ------------------------------------------------------------------------


def _scan_identified(
    source: Source, state: ScanState, head: bytes, identity: Identity | None
) -> None:
    """Scan a file that is not a pickle, by its format. FormatError if scan does not open such
    files."""
    if not head and state.has_model_name:
        raise FormatError("it is empty (0 bytes)", where=Place(state.record))
    identity = identity or identify_text(head, source.size)
    if identity is None:
        if not _scan_compressed(source, state, head):
            raise unknown_format_error(head) if head else FormatError("an empty file (0 bytes)")
        return
    state.format, state.hint = identity.format, identity.advice(state.real_path)
    state.description = identity.description
    if identity.format in ("git-lfs", "npz"):  # an npz without arrays
        return
    if identity.format in _TAR_FORMATS:
        from ptinspect.safety.containers.tar import scan_tar

        scan_tar(source, state)
    elif identity.format == "npy":
        _scan_arrays(source, state)
    elif identity.format == "compressed" and _scan_compressed(source, state, head):
        pass
    elif identity.format in ("safetensors", "onnx") or head.startswith(b"GGUF"):
        try:
            reader_of(identity.format)(source, state.limits)
        except PtInspectError as error:  # a dtype that torch lacks: still only numbers
            if identity.format != "safetensors" or error.kind != "unsupported":
                raise
    elif identity.format in _INDEX_FORMATS and not state.depth:
        _scan_shards(source, state)
    elif identity.format in (*_INDEX_FORMATS, "appledouble") or (
        # but not a failed download under a model's name
        identity.format in (*_HARMLESS_FORMATS, *_TEXT_FORMATS) and not state.has_model_name
    ):
        state.skipped = True
        if identity.format in _TEXT_FORMATS:
            scan_text(source, state)
        elif identity.format in UNREAD_FORMATS:
            _scan_unread(source, state)
    else:
        message = f"it is {identity.description}, which scan does not open"
        raise FormatError(message, hint=state.hint)


def _scan_unread(source: Source, state: ScanState) -> None:
    """Scan the pickles in a file of a format that is not opened: Parquet, Arrow, SQLite."""
    data, start, stop = source.window()
    pickles.scan_embedded(state, data, start, stop, start, state.record)
    for match in BASE64.finditer(data, start, stop):
        for shift in range(4):  # a length in front of the text may look like a part of it
            decoded = decode_base64(match[0][shift:])
            pickles.scan_embedded(state, decoded, 0, len(decoded), 0, state.record)


def _scan_compressed(source: Source, state: ScanState, head: bytes) -> bool:
    """Scan a compressed file. Returns False if the standard library cannot decompress it."""
    from ptinspect.formats.joblib import PLAIN_PICKLE
    from ptinspect.source.decompressed import detect_compression

    compression = detect_compression(head)
    if compression is None:
        return False
    state.format, state.description = "compressed", f"compressed by {compression}"
    content, error = state.decompress(source, compression)
    with content:
        if content.size:
            start = content.read(0, min(content.size, HEAD_BYTES))
            most = max(SMALL_PICKLE, source.size * state.limits.pickle_ratio)
            part = content
            # Each byte of a pickle may be an opcode to run.
            if pickles.may_begin_pickle(start) and content.size > most:
                part = SliceSource(content, 0, most)
                message = f"{source.size:,} bytes decompress to {content.size:,} bytes of a pickle"
                where = Place(state.record)
                state.errors.append(LimitError(message, limit="pickle_ratio", where=where))
            if head.startswith(COMPRESSED) and PLAIN_PICKLE.match(start):
                state.hint = JOBLIB.advice(state.real_path)
            scan_member(state, part, "unpacked")
    if error is not None:
        raise error
    return True


def _scan_arrays(source: Source, state: ScanState) -> None:
    """Scan one array of numpy after another: numpy.save appends them, numpy.load reads the next.

    An array is a header as a Python literal, then numbers, or a pickle of the elements.
    """
    from ptinspect.formats.numpy_files import MAGIC, locate_elements

    offset = 0
    for _ in range(state.limits.streams):
        begin, nbytes = locate_elements(source, offset, state.errors)
        end = source.size if nbytes is None else begin + nbytes
        if nbytes is None:
            data, start, stop = source.window()
            count = len(state.streams)
            scanner = pickles.scan_pickles(
                state, data, start, stop, state.record, skip=begin, until=MAGIC
            )
            state.format = "npy"
            scanner.scan_found()
            if len(state.streams) > count:
                end = state.streams[-1].end - start
        if end > source.size:
            message = "the array is cut off: it has more elements than the file has bytes for"
            raise DamagedError(message, where=Place(state.record, source.size))
        left = source.size - end
        if source.read(end, min(len(MAGIC), left)) != MAGIC:
            if left and nbytes is not None:
                state.find("trailing-bytes", f"{left:,} bytes follow the array", state.record)
                scan_member(state, SliceSource(source, end, left), f"byte {end}")
            return
        offset = end
    where = Place(state.record, offset)
    raise LimitError("too many arrays in a row", limit="streams", where=where)


def _scan_shards(source: Source, state: ScanState) -> None:
    """Add a member per shard that an index names, including the clean ones.

    A shard that is missing or unreadable makes the whole unreadable. An index inside another file
    is not followed.
    """
    from ptinspect.formats.sharded import index_folder, read_index_file

    state.hint = None
    content = read_index_file(source, state.limits)
    folder = index_folder(source)
    for name in content.shards:
        member = state.new_member(name)
        member.path = os.path.join(folder, name)
        state.members.append(member)
        try:
            with open_source(member.path) as shard:
                state.budget.scan_source(buffer_if_small(shard), member)
                if member.skipped and not member.members:
                    raise FormatError(f"it is {member.description}, not a shard")
        except PtInspectError as error:
            member.errors.append(error)
