"""What a conversion reports: its result, and warnings, one line each, about what SRC has and the
output lacks, numbers that the new dtype cannot hold, and records whose bytes do not match their
CRC-32."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ptinspect.conversion.output.pieces import ConvertedRange, SourceRange, TensorPiece
from ptinspect.document.warnings import checksum_message, checksum_warnings, record_name
from ptinspect.errors import LossError, spell_options
from ptinspect.formats.zip_directory import ZipSpan
from ptinspect.pickling.pyobjects import dotted
from ptinspect.report import Report
from ptinspect.text import MAX_NAMES, count_text, join_names, size_text
from ptinspect.torchnn.attributes import WRAPPER_PREFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ptinspect.conversion.options import ConvertOptions
    from ptinspect.conversion.output.pieces import LostValues, PlannedTensor
    from ptinspect.conversion.output.sink import OutputFile
    from ptinspect.conversion.plan import ModelPart, Plan
    from ptinspect.document import Document
    from ptinspect.document.modules import Module
    from ptinspect.document.tensor import Storage
    from ptinspect.pickling.pyobjects import Path

PROGRAM_DROPPED = {
    "torchscript": "dropped: the code of the TorchScript program, which only its format holds",
    "torch-export": "dropped: the graph of the program, which only its format holds",
}
"""Warnings by format of SRC."""

_STATE_DICT_METHODS = re.compile(
    r"^\s+def\s+(?:get_extra_state|state_dict|_save_to_state_dict)\s*\(", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class ConversionReport(Report):
    """What a conversion did, or would do in a dry run.

    Attributes:
        source: SRC.
        to: the target.
        files: the files of the output, in the order in which they were written.
        tensors: number of tensors.
        copied, changed: bytes that were copied unchanged, and bytes that were converted.
        warnings: what the output lacks, and what to know before loading it.
        dropped: keys and entries of SRC that are not in the output.
        lost_values: numbers that `--dtype` could not keep.
        written: False for a dry run.
        verified: True if all bytes were compared afterwards.
    """

    source: str
    to: str
    files: list[str]
    tensors: int
    copied: int
    changed: int
    warnings: list[str]
    dropped: list[str]
    lost_values: list[LostValues]
    written: bool
    verified: bool
    _plans: list[Plan] = field(repr=False)

    @classmethod
    def of_plans(
        cls, source: str, plans: list[Plan], *, written: bool, verified: bool
    ) -> ConversionReport:
        """Return the report of plans that were carried out, or of a dry run. Each has a part of
        the source."""
        files = [file for plan in plans for file in plan.files]
        names = [f"{os.path.basename(p.files[0].path)}: " if len(plans) > 1 else "" for p in plans]
        return cls(
            source=source,
            to=plans[0].to,
            files=[file.path for file in files],
            tensors=sum(max(len(plan.tensors), plan.tensor_count) for plan in plans),
            copied=sum(file.copied for file in files),
            changed=sum(file.changed for file in files),
            warnings=[
                spell_options(name + text)
                for name, plan in zip(names, plans, strict=True)
                for text in plan.warnings
            ],
            dropped=list(dict.fromkeys(name for plan in plans for name in plan.dropped)),
            lost_values=[item for plan in plans for item in plan.lost_values],
            written=written,
            verified=verified,
            _plans=plans,
        )

    def _tensors(self) -> Iterator[PlannedTensor]:
        return (planned for plan in self._plans for planned in plan.tensors)

    @property
    def ok(self) -> bool:
        """True: a conversion that fails raises an error."""
        return True

    def text(self) -> str:
        """Return a line for the output; for a dry run also a line per tensor."""
        lines = [
            f"{'wrote' if self.written else 'would write'} {', '.join(self.files)}: "
            f"{count_text(self.tensors, 'tensor')}, {size_text(self.copied)} copied, "
            f"{size_text(self.changed)} changed" + ", every byte compared" * self.verified
        ]
        if not self.written:
            for tensor in self._tensors():
                before, after = tensor.tensor.dtype, tensor.dtype
                key = tensor.key
                if key != tensor.source:
                    key = f"{tensor.source} -> {key}"
                dtype = before.name if before else ""
                if tensor.is_cast and after:
                    dtype = f"{dtype} -> {after.name}"
                lines.append(f"  {key}  {dtype} {tuple(tensor.tensor.shape)}")
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, object]:
        """Return the object that `convert -f json` prints."""
        return {
            "schema": 1,
            "source": self.source,
            "to": self.to,
            "files": self.files,
            "written": self.written,
            "verified": self.verified,
            "tensors": [planned.as_dict() for planned in self._tensors()],
            "bytes": {"copied": self.copied, "changed": self.changed},
            "dropped": self.dropped,
            "lost_values": [item.as_dict() for item in self.lost_values],
            "warnings": self.warnings,
        }


# --- before the files are written ---------------------------------------------------------------


def loss_warnings(
    document: Document, model: ModelPart, options: ConvertOptions
) -> tuple[list[str], list[str]]:
    """Return warnings, and the names of dropped entries, for a file of which only the model is
    converted."""
    to = options.to
    warnings: list[str] = list(model.warnings)
    dropped: list[str] = []
    if model.path:
        entries = dropped_entries(document, model.path, options.other_entries)
        if entries:
            names = [f"{name} ({size_text(n)})" if n else name for name, n in entries.items()]
            if len(names) > MAX_NAMES:  # those with tensors first
                names.sort(key=lambda name: name in entries)
            is_checkpoint = document.kind == "checkpoint" != to
            keeps = "checkpoint" if is_checkpoint else "same"
            warnings.append(f"dropped: {join_names(names)}; --to {keeps} keeps them")
        dropped += entries
    dropped += [*model.non_persistent, *model.excluded, *model.attributes]
    if model.attributes:
        warnings.append(
            f"dropped: {join_names(model.attributes)} (attributes set on tensors; --to same keeps"
            " them)"
        )
    if model.module is not None:
        if document.archive.format in PROGRAM_DROPPED:
            warnings.append(PROGRAM_DROPPED[document.archive.format])
        elif to != "checkpoint":
            warnings.append(
                f"dropped: the class `{model.module.class_path}` (a state_dict does not record"
                " it); --to same keeps the full model"
            )
        classes = classes_with_extra_state(model.module, document)
        if classes:
            warnings.append(
                f"missing: entries that the code of {join_names(classes)} adds to its state_dict()"
                " (such as get_extra_state()); only the class itself can save them"
            )
    if model.non_persistent:
        warnings.append(
            f"dropped: {join_names(model.non_persistent)} (buffers that are not persistent, which"
            " state_dict() leaves out)"
        )
    for prefix in WRAPPER_PREFIXES:
        if model.items and all(key.startswith(prefix) for key in model.items):
            warnings.append(f"all keys begin with {prefix!r}: --strip-prefix auto removes it")
    return [*warnings, *excluded_keys_warning(model.excluded)], dropped


def placeholder_warnings(plan: Plan, document: Document) -> list[str]:
    """Return a warning about placeholders, which DeepSpeed leaves of parameters that ZeRO-3 has
    distributed, if there are any.

    Source: `deepspeed.runtime.zero.partition_parameters.free_param` (a tensor of the shape [0]).
    """
    if not any(planned.tensor.shape == (0,) for planned in plan.tensors):
        return []
    state = {id(i.tensor) for i in document.contents.tensors if i.role == "optimizer"}
    shapes = [
        planned.tensor.shape
        for planned in plan.tensors
        if not planned.tensor.uninitialized and id(planned.tensor) not in state
    ]
    empty = shapes.count((0,))
    if not empty or empty * 2 < len(shapes):
        return []
    return [
        f"{empty:,} of {count_text(len(shapes), 'tensor')} have no elements: placeholders, as"
        " DeepSpeed ZeRO-3 leaves them; the weights are in other files (zero_to_fp32.py of the"
        " checkpoint's folder gathers them)"
    ]


def unread_numbers_warning(plan: Plan) -> list[str]:
    """Return a warning that a dry run cannot know whether numbers overflow, if they may."""
    for planned in plan.tensors:
        source, target = planned.tensor.dtype, planned.dtype
        if planned.is_cast and source and target and target.itemsize <= source.itemsize:
            return [
                f"a dry run does not read the numbers: it is not known whether {target.name} can"
                " hold them all"
            ]
    return []


def excluded_keys_warning(keys: list[str]) -> list[str]:
    """Return the warning about keys that --include and --exclude drop, if there are any."""
    return [f"dropped by --include and --exclude: {join_names(keys)}"] if keys else []


def dropped_entries(
    document: Document, path: Path, other_entries: Sequence[Path] = ()
) -> dict[str, int]:
    """Return the outermost entries outside of `path`, each with the size of its tensors. Those
    below `other_entries` are written to other files."""
    contents = document.contents

    def name_outside(inner: Path) -> str:
        """Return the outermost entry around `inner` that is not around the model; "" for none."""
        common = 0
        while inner[common : common + 1] == path[common : common + 1] != ():
            common += 1
        return "" if common == len(inner) else dotted(inner[: common + 1])

    def is_written(inner: Path) -> bool:
        return any(inner[: len(other)] == other for other in (path, *other_entries))

    sizes = {name_outside(e.path): 0 for e in contents.entries if not is_written(e.path)}
    seen: set[tuple[object, ...]] = set()
    for info in contents.tensors:
        if not is_written(info.path):
            name, view = name_outside(info.path), info.tensor.view_key
            sizes[name] = sizes.get(name, 0) + (0 if view in seen else info.nbytes)
            seen.add(view)
    for optimizer in contents.optimizers:
        if not is_written(optimizer.path):
            sizes.setdefault(name_outside(optimizer.path), 0)
    sizes.pop("", None)
    return sizes


def classes_with_extra_state(module: Module, document: Document) -> list[str]:
    """Return classes in a model whose own code adds to its state_dict, as far as that is known.

    Legacy files contain the source code of classes. What the code adds is in no file.

    Sources: `torch.nn.Module.get_extra_state`, which no class of torch overrides;
    `get_extra_state` of transformer_engine's `TransformerEngineBaseModule`.
    """
    overriding = {
        f"{source.module}.{source.name}"
        for source in document.archive.sources
        if _STATE_DICT_METHODS.search(source.text)
    }
    paths = dict.fromkeys(current.class_path for _, current in module.walk())
    return [path for path in paths if path in overriding or path.startswith("transformer_engine.")]


# --- after the files were written -----------------------------------------------------------


def record_losses(plan: Plan, options: ConvertOptions) -> None:
    """Add the numbers that were lost to the plan of a file that was written, and warnings.
    LossError if numbers overflowed and `--allow-overflow` is not set."""
    assert options.tensors.dtype is not None
    dtype, keys = options.tensors.dtype.name, _keys_by_bytes(plan)
    lost = plan.lost_values
    for piece in [p for file in plan.files for _, record in file.records for p in record]:
        if isinstance(piece, TensorPiece) and piece.loss:
            lost.append(replace(piece.loss, keys=keys.get(piece.tensor.view_key, [])))
        elif isinstance(piece, ConvertedRange) and piece.loss:
            lost.append(replace(piece.loss, keys=keys.get(piece.source.storage.root, [])))
    overflowed = [item for item in lost if item.overflowed]
    if overflowed:
        count = count_text(sum(item.overflowed for item in overflowed), "number")
        names = join_names(
            f"{', '.join(item.keys)} ({item.overflowed:,}, the largest is {item.largest:g})"
            for item in overflowed
        )
        message = f"{count} exceeded the range of {dtype}: {names}"
        if not options.allow_overflow:
            raise LossError(
                message,
                hint="nothing was written: bfloat16 has the range of float32; or accept the loss:\n"
                + options.command("--allow-overflow"),
            )
        plan.warnings.append(message)
    zeros = [f"{', '.join(item.keys)} ({item.underflowed:,})" for item in lost if item.underflowed]
    if zeros:
        count = count_text(sum(item.underflowed for item in lost), "number")
        plan.warnings.append(f"{count} too small for {dtype} became 0: {join_names(zeros)}")


def crc_warnings(mismatches: Iterable[SourceRange], file: OutputFile, plan: Plan) -> list[str]:
    """Return a warning for each record whose bytes do not match its CRC-32: those of `mismatches`,
    and those of which a part was cast, which are read once more."""
    damaged = {piece.storage.root: piece.storage for piece in mismatches}
    checked: set[object] = set()
    for storage in _partly_cast(file) if file.changed else ():
        span, identity = storage.archive.storages.get(storage.key), storage.root
        if identity not in checked and isinstance(span, ZipSpan):
            checked.add(identity)
            if span.directory.check_crc(span.index) is False:
                damaged[identity] = storage
    warnings = []
    keys = _keys_by_bytes(plan) if damaged else {}
    for identity, storage in damaged.items():
        span = storage.archive.storages.get(storage.key)
        assert isinstance(span, ZipSpan)
        record = record_name(span.directory, span.index)
        warnings.append(checksum_message(record, keys.get(identity, [])))
    return warnings


def piece_crc_warnings(plan: Plan, checked: Iterable[SourceRange]) -> list[str]:
    """Return a warning for each record with a part of a written tensor that does not match its
    CRC-32. They are read once more, except for those of the tensors that were `checked` while they
    were written: a piece may be a part of a record, and have its place anywhere in the output."""
    storages = [planned.tensor.storage for planned in plan.tensors]
    archives = {storage.archive for storage in storages if storage}
    if not any(isinstance(archive.storages, dict) for archive in archives):
        return []  # whole records of zips
    from ptinspect.formats.torch.pieces import PiecedSpan

    whole = {
        piece.storage.root
        for piece in checked
        if piece.start == 0 and piece.stop == piece.storage.nbytes
    }
    unchecked = (
        planned
        for planned, storage in zip(plan.tensors, storages, strict=True)
        if storage
        and isinstance(span := storage.archive.storages.get(storage.key), PiecedSpan | ZipSpan)
        and span.crc is None
        and storage.root not in whole
    )
    return [warning.message for warning in checksum_warnings(unchecked)]


def _partly_cast(file: OutputFile) -> Iterator[Storage]:
    """Yield the storages of which only a part, or a strided view, was cast."""
    for _, record in file.records:
        for piece in record:
            if isinstance(piece, ConvertedRange) and piece.source.place()[2] is None:
                yield piece.source.storage
            elif isinstance(piece, TensorPiece) and piece.tensor.dtype is not piece.dtype:
                storage = piece.tensor.storage
                yield from () if storage is None else (storage,)


def _keys_by_bytes(plan: Plan) -> dict[object, list[str]]:
    """Return the keys of the tensors of each source storage and of each view."""
    keys: dict[object, list[str]] = {}
    for planned in plan.tensors:
        tensor = planned.tensor.parts.get("values", planned.tensor)
        if tensor.storage is not None:
            keys.setdefault(tensor.storage.root, []).append(planned.key)
            keys.setdefault(tensor.view_key, []).append(planned.key)
    return keys
