"""Checks of an output: before it is written, that it is safe to load; afterwards, by reading it.

The written files are always compared with the plan: the pickle or header byte by byte, and each
tensor, as scan has read it from the pickle, or as the header describes it: its dtype, shape and
place, in a pickle also its device and requires_grad. With `--verify` all bytes are compared, too:
each tensor's elements with those of its source, the file from first to last byte with what would be
written a second time, and each record of a zip with its CRC-32.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ptinspect.conversion.options import TENSORS_ONLY
from ptinspect.conversion.output.pieces import TensorPiece
from ptinspect.conversion.output.sink import Sink
from ptinspect.conversion.output.torch_zip import check_bounds
from ptinspect.document import open as open_document
from ptinspect.document.document import Document
from ptinspect.document.elements import aligned, iter_contiguous
from ptinspect.document.tensor import extent
from ptinspect.dtypes import dtype_of_class
from ptinspect.errors import PtInspectError, UnsafeError, UnsupportedError
from ptinspect.formats.safetensors import TensorEntry
from ptinspect.formats.torch.zip_file import TorchZip, open_zip
from ptinspect.formats.zip_directory import ZipDirectory
from ptinspect.pickling.pyobjects import as_mapping
from ptinspect.pickling.values import TensorCall
from ptinspect.source.base import MemorySource
from ptinspect.source.local import open_source
from ptinspect.text import count_text, join_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.conversion.options import ConvertOptions
    from ptinspect.conversion.output.pieces import PlannedTensor
    from ptinspect.conversion.output.sink import OutputFile
    from ptinspect.conversion.plan import Plan
    from ptinspect.document.tensor import Tensor
    from ptinspect.limits import Limits
    from ptinspect.source.base import Source


def refuse_unsafe_output(plan: Plan, document: Document, options: ConvertOptions) -> list[str]:
    """Scan the planned pickle, so that no payload of SRC gets into a file that ptinspect writes.
    Return warnings about names that are not on the allowlist. UnsafeError if loading the output
    would run something, UnsupportedError if torch lacks the type of a tensor (GGUF's blocks)."""
    if plan.to in TENSORS_ONLY:
        return []
    from ptinspect.safety.containers.dispatch import scan_whole
    from ptinspect.safety.load_advice import state_load_advice

    encodings = sorted({str(item.tensor.encoding) for item in plan.tensors if item.tensor.encoding})
    if encodings:
        raise UnsupportedError(
            f"torch has no dtype for tensors encoded as {join_names(encodings)}",
            hint="leave them out with --exclude GLOB",
        )
    file = plan.files[0]
    state = scan_whole(MemorySource(file.head, file.path), document.limits, "data.pkl")
    state.format = "torch-zip"
    plan.pickled = next(iter(state.streams), None)
    report = state.report()
    dangerous = report.first_dangerous()
    hint = None
    if dangerous is not None or report.errors:
        from ptinspect.conversion.safetensors import SAFETENSORS, plan_named_tensors

        hint = "nothing was written"
        with suppress(PtInspectError):
            options = replace(options, to="safetensors", shared="keep-one")
            plan_named_tensors(document, "", options, SAFETENSORS)
            hint += "; --to safetensors writes the tensors alone"
    if dangerous is not None:
        raise UnsafeError(f"loading the output would run {dangerous.name}", hint=hint)
    if report.errors:
        raise UnsafeError(f"scan cannot read the output: {report.errors[0]}", hint=hint)
    warnings = []
    names = list(dict.fromkeys(finding.name for finding in report.all_findings()))
    if names:
        warnings.append(f"kept unchanged, but not on the allowlist: {join_names(names)}")
    advice = state_load_advice(state)
    if plan.to != "same" and advice is not None and not advice.weights_only:
        # Users of a state_dict expect that a bare torch.load accepts it.
        names = list(advice.safe_globals or advice.blockers)
        warnings.append(
            f"a bare torch.load refuses the output because of {join_names(names)}:"
            f" {advice.call}; --to checkpoint with --plain writes plain values"
        )
    elif advice is not None and advice.call.endswith('encoding="latin1")'):
        reason = "because a str of Python 2 in it is not utf-8"
        warnings.append(f"a bare torch.load refuses the output {reason}: {advice.call}")
    return warnings


def verify_outputs(
    plan: Plan, paths: Sequence[str], limits: Limits, *, compare_bytes: bool
) -> None:
    """Compare the written files, at their temporary paths, with the plan: places, dtypes, shapes,
    and if asked for all bytes. PtInspectError if they differ."""
    missing = {planned.key: planned for planned in plan.tensors}
    for file, path in zip(plan.files, paths, strict=True):
        try:
            has_tensors = file.records or not file.path.endswith(".json")
            if plan.to == "npz" or (compare_bytes and has_tensors):
                with open_document(path, limits=limits) as output:
                    _check_output(file, output, missing, plan.device, compare_bytes)
                    if compare_bytes:
                        comparison = _Comparison(file.path, output.archive.source)
                        file.write(Sink(comparison))
                        rest = output.archive.source.size - comparison.offset
                        if rest:
                            raise PtInspectError(f"{count_text(rest, 'byte')} too many at its end")
            elif plan.pickled is None:
                _check_header(file, path, missing)
            else:
                with open_source(path) as source:
                    directory = ZipDirectory(source, limits)
                    folder = directory.names[0].removesuffix("data.pkl")
                    archive = open_zip(source, directory, folder, limits, pickled=plan.pickled)
                    _check_output(file, Document(source, archive, limits), missing, plan.device)
        except PtInspectError as error:
            raise _difference(file.path, error.message) from error
    if missing:
        count = count_text(len(missing), "tensor")
        raise _difference(plan.files[0].path, f"{count} missing, such as {next(iter(missing))}")


def _check_header(file: OutputFile, path: str, missing: dict[str, PlannedTensor]) -> None:
    """Compare the header and the size of a file without a pickle with the plan, and remove its
    tensors from `missing`. The header is read, because it was not written by a JSON library."""
    with open_source(path) as source:
        if source.read(0, min(len(file.head), source.size)) != file.head:
            raise PtInspectError("the header or the index differs")
        if source.size != len(file.head) + file.copied + file.changed:
            raise PtInspectError(f"it has {count_text(source.size, 'byte')}")
    if not file.records:
        return
    if int.from_bytes(file.head[:8], "little") != len(file.head) - 8:
        raise PtInspectError("the length of its header differs")
    try:
        _check_entries(file, missing)
    except (ValueError, TypeError) as error:
        raise PtInspectError(f"its header cannot be read: {error}") from error


def _check_entries(file: OutputFile, missing: dict[str, PlannedTensor]) -> None:
    """Compare the entries of a header with the plan. Of each form the first entry is parsed; the
    others have to be the same text but for the name and the place."""
    import json

    parse = json.JSONDecoder(object_pairs_hook=tuple).raw_decode
    quote = json.encoder.encode_basestring
    text = file.head[8:].decode().rstrip(" ")
    if text[:1] + text[-1:] != "{}":
        raise PtInspectError("its header is not an object")
    position, offset, begin, comma = 1, 0, "0", ""
    if text.startswith('{"__metadata__":'):
        position, comma = parse(text, 16)[1], ","
    forms: dict[object, tuple[str, int]] = {}  # text and size by dtype and shape
    dtype = shape = None
    for key, _ in file.records:
        planned = missing.pop(key)
        if planned.dtype is not dtype or planned.tensor.shape is not shape:
            dtype, shape = planned.dtype, planned.tensor.shape
            if (id(dtype), shape) not in forms:
                name, stop = parse(text, position + len(comma))
                described, _ = parse(text, stop + 1)
                if [field for field, _ in described] != ["dtype", "shape", "data_offsets"]:
                    raise PtInspectError(f"{name} is {dict(described)}")
                (_, type_name), (_, sizes), _ = described
                written = TensorEntry(name, type_name, tuple(sizes), 0, 0)
                if name != key or written.torch_form() != (dtype, shape):
                    raise PtInspectError(f"{name} is {type_name} {written.shape}, not {key}")
                form = f'{{"dtype":"{type_name}","shape":[{",".join(map(str, sizes))}]'
                forms[id(dtype), shape] = form, planned.nbytes
            fields, nbytes = forms[id(dtype), shape]
        offset += nbytes
        end = str(offset)
        entry = f'{comma}{quote(key)}:{fields},"data_offsets":[{begin},{end}]}}'
        if not text.startswith(entry, position):
            found = text[position : position + len(entry)]
            raise PtInspectError(f"it has {found}, not {entry}")
        position, begin, comma = position + len(entry), end, ","
    if position != len(text) - 1:
        raise PtInspectError(f"after all tensors its header has {text[position:][:200]}")


def _check_output(
    file: OutputFile,
    output: Document,
    missing: dict[str, PlannedTensor],
    device: str | None,
    compare_bytes: bool = False,
) -> None:
    """Compare the pickle or header, and the tensors, of a written file with the plan, and remove
    its tensors from `missing`. `device` is that of all tensors, or None for that of each."""
    archive, length = output.archive, min(len(file.head), output.archive.source.size)
    if isinstance(archive, TorchZip):
        head = archive.directory.read(0)
    else:
        head = archive.source.read(0, length)
    if head != file.head:
        raise PtInspectError("the pickle or header differs")
    items = as_mapping(archive.root) or {}
    is_flat = list(items) == list(missing)
    if is_flat and not compare_bytes:
        calls = {key: call for key, call in items.items() if type(call) is TensorCall}
        if _are_planned([*calls.values()], [missing[str(key)] for key in calls], device):
            for key in calls:
                del missing[str(key)]
    for key in [*missing]:
        tensor = output.tensor_of(items[key]) if is_flat else None
        if tensor is None and (info := output.tensors.get(key)) is not None:  # or an array
            tensor = info.tensor
        if tensor is not None:
            planned = missing.pop(key)
            _check_tensor(planned, tensor, compare_bytes)
            is_dense = tensor.storage is not None and tensor.stride is not None
            if is_dense and isinstance(archive, TorchZip):  # a header has neither of these
                if tensor.device != (device or planned.tensor.device):
                    raise PtInspectError(f"{key} has the device {tensor.device}")
                if tensor.requires_grad != planned.tensor.requires_grad:
                    raise PtInspectError(f"{key} has requires_grad={tensor.requires_grad}")
    if compare_bytes and isinstance(archive, TorchZip):
        for index, name in enumerate(archive.directory.names):
            if archive.directory.check_crc(index) is False:
                raise PtInspectError(f"the bytes of {name} do not match their CRC-32")


def _are_planned(calls: list[TensorCall], planned: list[PlannedTensor], device: str | None) -> bool:
    """Return True if tensors are as planned, each within its storage. All of them are compared at
    once: their sizes, their strides, and so on."""
    forms = {id(call.form): call.form for call in calls}
    dtypes = {key: dtype_of_class(form.storage_type.name) for key, form in forms.items()}
    return (
        all(call.changes is None for call in calls)
        and [call.form.size for call in calls] == [item.tensor.shape for item in planned]
        and [call.form.stride for call in calls] == [item.tensor.stride for item in planned]
        and [dtypes[id(call.form)] for call in calls]
        == [item.dtype or item.tensor.dtype for item in planned]
        and [call.form.requires_grad for call in calls]
        == [item.tensor.requires_grad for item in planned]
        and [call.location for call in calls] == [device or x.tensor.device for x in planned]
        and all(extent(f.storage_offset, f.size, f.stride)[1] <= f.numel for f in forms.values())
    )


def _check_tensor(planned: PlannedTensor, written: Tensor, compare_bytes: bool) -> None:
    key, tensor = planned.key, planned.tensor
    dtype = planned.dtype or tensor.dtype
    if written.shape != tensor.shape or written.dtype is not dtype:
        raise PtInspectError(f"{key} is {written.dtype} {written.shape}")
    if written.storage is None or written.stride is None or written.uninitialized:
        return
    if written.stride != tensor.stride and not written.is_contiguous:
        raise PtInspectError(f"{key} has the strides {written.stride}")
    if written.stored is not None:
        check_bounds(written)
    if compare_bytes and not written.quantizer:
        if written.stride == tensor.stride:  # as far as they are expanded: alike
            tensor, written = _without_repetition(tensor), _without_repetition(written)
        expected = (
            TensorPiece(tensor, dtype).chunks()
            if dtype
            else iter_contiguous(tensor, max_repeated=None)
        )
        pairs = aligned(expected, iter_contiguous(written, max_repeated=None))
        if any(a != b for a, b in pairs):
            raise PtInspectError(f"the bytes of {key} differ")


def _without_repetition(tensor: Tensor) -> Tensor:
    """Return a tensor with each element once, where `expand` has repeated them (stride 0)."""
    assert tensor.stride is not None
    pairs = zip(tensor.shape, tensor.stride, strict=True)
    return replace(tensor, shape=tuple(size if step else min(size, 1) for size, step in pairs))


class _Comparison:
    """Output of a sink that compares the bytes with a file instead of writing them."""

    descriptor = -1  # the kernel cannot copy into it

    def __init__(self, path: str, file: Source) -> None:
        self.path = path
        self.file = file
        self.offset = 0

    def write(self, data: bytes | bytearray | memoryview, offset: int | None = None) -> None:
        """Raise PtInspectError if the file has other bytes next."""
        length = min(len(data), self.file.size - self.offset)
        written = self.file.read(self.offset, length)
        if written != data:
            pairs = enumerate(zip(written, data, strict=False))
            index = next((index for index, (a, b) in pairs if a != b), length)
            raise PtInspectError(f"byte {self.offset + index:,} differs")
        self.offset += length

    def count_written(self, count: int) -> None:
        raise NotImplementedError


def _difference(path: str, difference: str) -> PtInspectError:
    return PtInspectError(
        f"the written file is not what was planned: {difference}",
        path=path,
        hint="no file was written: this is a fault of the disk or of ptinspect, please report it",
    )
