"""`recover`: salvage a damaged file, judge each tensor, write what is left, and report it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ptinspect.atomic_file import atomic_outputs, check_destination, check_disk_space
from ptinspect.conversion.builtins_only import PlainValues
from ptinspect.conversion.options import ConvertOptions
from ptinspect.conversion.output.object_graph import UNREPRESENTABLE, ObjectGraph
from ptinspect.conversion.output.sink import ByteCounter, ModificationGuard, OutputFile, Sink
from ptinspect.conversion.output.torch_zip import TensorOptions
from ptinspect.conversion.safetensors import SAFETENSORS, plan_named_tensors
from ptinspect.document.document import Document
from ptinspect.document.tensor import InlineStorage
from ptinspect.errors import DamagedError, UnsupportedError, add_error_path
from ptinspect.formats.detect import PIECES
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.pyobjects import dotted
from ptinspect.pickling.values import Global, PersistentId
from ptinspect.recovery.salvage import (
    LOST,
    PLAUSIBLE,
    PROVED,
    Damage,
    Evidence,
    Salvage,
    nothing_left,
    salvage_legacy,
    salvage_safetensors,
    salvage_tar,
)
from ptinspect.report import Report, __version__, json_objects
from ptinspect.source.local import open_source
from ptinspect.text import count_text, cut, join_names, shell_word, size_text

if TYPE_CHECKING:
    from os import PathLike

    from ptinspect.document import TensorInfo
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

SHOWN = 12
"""Lost tensors that the text lists."""


@dataclass(frozen=True, slots=True)
class TensorStatus:
    """What became of one tensor.

    Attributes:
        status: "proved": a checksum over its bytes matches, and so does that of the pickle that
            describes it. "plausible": the bytes are where the container says and nothing
            contradicts, but no checksum covers them. "lost": everything else.
        reason: why it is not proved; empty if it is.
        nbytes: size of its values in bytes.
    """

    key: str
    path: Path
    status: str
    reason: str
    dtype: str | None
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class RecoveryReport(Report):
    """The answer of `recover`. `ok` is True if no tensor and no value was lost.

    Attributes:
        target: the path that was written; None if nothing could be saved.
        dropped: paths of values other than tensors that a bare torch.load refuses, or that were
            lost.
    """

    path: str
    size: int
    format: str
    target: str | None
    damage: tuple[Damage, ...]
    tensors: tuple[TensorStatus, ...]
    dropped: tuple[str, ...] = ()

    @property
    def totals(self) -> dict[str, int]:
        """The number of tensors of each status."""
        counts = Counter(tensor.status for tensor in self.tensors)
        return {status: counts[status] for status in (PROVED, PLAUSIBLE, LOST)}

    @property
    def ok(self) -> bool:
        """True if nothing is lost."""
        return self.target is not None and not self.totals[LOST] and not self.dropped

    @property
    def exit_code(self) -> int:
        """0: nothing is lost. 1: something is. 2: nothing could be saved."""
        return 2 if self.target is None else int(not self.ok)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of `recover -f json`."""
        format = "safetensors" if (self.target or "").endswith(".safetensors") else "torch-zip"
        target = {"path": self.target, "format": format if self.target else None}
        return {
            "schema": 1,
            "ptinspect": __version__,
            "source": {"path": self.path, "size": self.size, "format": self.format},
            "target": None if self.target is None else target,
            "damage": json_objects(self.damage),
            "tensors": json_objects(self.tensors),
            "dropped": list(self.dropped),
            "totals": self.totals,
        }

    def text(self) -> str:
        """Return one line on how much was saved, then what was lost and why."""
        totals = self.totals
        total = len(self.tensors)
        saved = total - totals[LOST]
        if self.target is None:
            lines = [f"{cut(self.path)}: nothing could be saved"]
        else:
            nbytes = sum(item.nbytes for item in self.tensors if item.status != LOST)
            counts = ", ".join(f"{totals[s]:,} {s}" for s in (PROVED, PLAUSIBLE) if totals[s])
            details = f" ({counts})" if counts else ""
            lines = [
                f"{cut(self.path)}: saved {saved:,} of {count_text(total, 'tensor')}{details}, "
                f"{size_text(nbytes)}, in {cut(self.target)}"
            ]
        for item in self.damage:
            place = "" if item.offset is None else f" at byte {item.offset:,}"
            lines.append(f"  damage: {item.kind}{place}: {cut(item.message)}")
        by_reason: dict[tuple[str, str], list[str]] = {}
        for tensor in self.tensors:
            if tensor.status != PROVED:
                by_reason.setdefault((tensor.status, tensor.reason), []).append(cut(tensor.key))
        for (status, reason), keys in by_reason.items():
            lines.append(f"  {status}: {join_names(keys, SHOWN)}: {reason}")
        if self.dropped:
            names = join_names([cut(path) for path in self.dropped], SHOWN)
            lines.append(f"  dropped, since a bare torch.load would refuse it: {names}")
        return "\n".join(lines) + "\n"


def recover(
    src: str | PathLike[str], dst: str | PathLike[str], *,
    proved_only: bool = False, force: bool = False,
    limits: Limits | None = None, progress: Callable[[int, int], None] | None = None,
) -> RecoveryReport:  # fmt: skip
    """Save what is provably or plausibly whole of a file that was cut off or overwritten.

    `dst` keeps the structure of `src` and is loadable by a bare torch.load: objects of classes
    become what they hold, a full model its state_dict. It appears whole or not at all; if nothing
    can be saved it is not written.

    Args:
        proved_only: write only tensors whose bytes a checksum proves.
        force: overwrite `dst`.
        progress: called with the bytes written and those to write.

    Raises:
        PtInspectError: `src` cannot be read, or is of no container that can be salvaged; `dst`
            exists or cannot be written.
    """
    source_path, target, limits = os.fspath(src), os.fspath(dst), limits or LIMITS
    with ExitStack() as stack, add_error_path(source_path):
        if os.path.isdir(source_path):
            hint = "name the file in it that is damaged"
            raise UnsupportedError("it is a folder, and recover takes one file", hint=hint)
        source = stack.enter_context(open_source(source_path))
        guard = ModificationGuard(source)
        check_destination(target, force=force, sources=guard.names)
        try:
            salvage = salvage_source(source, limits)
        except DamagedError as error:
            offset = error.where.offset if error.where is not None else None
            damage = Damage("description", offset, error.message)
            return RecoveryReport(source_path, source.size, "unknown", None, (damage,), ())
        document = Document(source, salvage.archive, limits)
        infos = list(document.tensors.values())
        tensors = [_status(info, salvage) for info in infos]
        report = RecoveryReport(
            source_path, source.size, salvage.archive.format, None,
            tuple(salvage.damage), tuple(tensors),
        )  # fmt: skip
        saved = (PROVED,) if proved_only else (PROVED, PLAUSIBLE)
        if tensors and not any(status.status in saved for status in tensors):
            return report
        file, written, dropped = _planned(
            document, target, lambda t: _evidence(t, salvage).status in saved
        )
        check_disk_space(target, file.changed)
        counter = ByteCounter(file.copied + file.changed, progress)
        with atomic_outputs([target], force=force) as (output,):
            file.write(Sink(output, counter.add))
            output.finish()
            guard.check()
        views = {tensor.view_key for tensor in written}
        for number, (info, status) in enumerate(zip(infos, tensors, strict=True)):
            if status.status in saved and not _is_written(info.tensor, views):
                is_piece = (info.tensor.subclass or "").endswith(PIECES)
                reason = _PIECE if is_piece else _UNRECORDED[target.endswith(".safetensors")]
                tensors[number] = replace(status, status=LOST, reason=reason)
        return replace(report, target=target, tensors=tuple(tensors), dropped=tuple(dropped))


def salvage_source(source: Source, limits: Limits) -> Salvage:
    """Return what can be read of a file, whatever container it is. DamagedError if nothing can be
    saved, UnsupportedError for other kinds of files."""
    from ptinspect.formats.signatures import is_tar
    from ptinspect.formats.torch.legacy import MAGIC
    from ptinspect.formats.zip_records import LOCAL
    from ptinspect.recovery.zip_file import salvage_zip

    head = source.read(0, min(source.size, 4096))
    if not source.size:
        raise nothing_left("the file is empty")
    if head.startswith(LOCAL):
        return salvage_zip(source, limits)
    if is_tar(head):
        return salvage_tar(source, limits)
    if MAGIC.to_bytes(10, "little") in head[:32] or head[:2] == b"L1":
        return salvage_legacy(source, limits)
    if len(head) > 8 and head[8:9] == b"{":
        return salvage_safetensors(source, limits)
    buffer, start, stop = source.window()
    if buffer.find(b"/data.pkl", start, stop) >= 0:
        return salvage_zip(source, limits)  # its beginning was overwritten
    raise UnsupportedError(
        "it is not a zip, stream or tar of torch.save, nor safetensors: nothing can be recovered",
        hint=f"`ptinspect show {shell_word(source.path)}` says what the file is",
    )


def _status(info: TensorInfo, salvage: Salvage) -> TensorStatus:
    evidence, dtype = _evidence(info.tensor, salvage), info.dtype.name if info.dtype else None
    return TensorStatus(
        info.key, info.path, evidence.status, evidence.reason, dtype, info.shape, info.nbytes
    )


def _evidence(tensor: Tensor, salvage: Salvage) -> Evidence:
    """Return how sure a tensor is: its description, and the bytes of all its parts together."""
    result = salvage.description
    for part in tensor.parts.values():
        result = result.combined(_evidence(part, salvage))
    storage = tensor.storage
    if storage is None or isinstance(storage, InlineStorage):
        return result  # it has no bytes, or they are in the pickle itself
    if tensor.numel and tensor.stored is not None:
        low, high = tensor.extent
        if low < 0 or -(-high // tensor.per_byte) * tensor.stored.itemsize > storage.nbytes:
            return Evidence(LOST, "its description exceeds its storage")
    missing = Evidence(LOST, "its storage is not in the file")
    return result.combined(salvage.storages.get(storage.key, missing))


_UNRECORDED = (
    "not in the output, which records state_dicts and plain values only",
    "not in the output, which records the model's state_dict only",
)
"""Why a whole tensor is not in a file of torch, and in one of safetensors."""

_PIECE = "a rank's piece of a tensor; `ptinspect convert` puts the files of all ranks together"


def _is_written(tensor: Tensor, views: set[tuple[object, ...]]) -> bool:
    """Return True if all bytes of a tensor are among the views that were written."""
    if tensor.parts:
        return all(_is_written(part, views) for part in tensor.parts.values())
    return tensor.storage is None or tensor.view_key in views


class _SavedValues(PlainValues):
    """The builtins-only form of a document's values without what is lost."""

    def _atom(self, value: Value) -> Value:
        if isinstance(value, PersistentId):  # a storage that is itself a value
            reference = self.document.storage_of(value)
            storages = self.document.archive.storages
            if reference is not None and reference.storage.key not in storages:
                return UNREPRESENTABLE
        if isinstance(value, Global) and value.changes is not None:
            return UNREPRESENTABLE  # a damaged pickle: names are not built upon
        return super()._atom(value)


def _planned(
    document: Document, target: str, is_saved: Callable[[Tensor], bool]
) -> tuple[OutputFile, list[Tensor], list[str]]:
    """Return the file to write, its tensors, and the paths of values that it cannot hold."""
    if target.endswith(".safetensors"):
        options = ConvertOptions("safetensors", source=document.path)
        plan = plan_named_tensors(document, target, options, SAFETENSORS, is_saved)
        return plan.files[0], [planned.tensor for planned in plan.tensors], []
    graph = ObjectGraph(TensorOptions(), is_saved)
    values = _SavedValues(document, graph)
    root = values.convert(document.archive.root)
    if root is UNREPRESENTABLE:
        raise UnsupportedError("its root is an object that a bare torch.load refuses")
    graph.collect(root, document)
    file = graph.output_file(target, root)
    lost_tensors = {  # a module's state_dict joins the rest of the path
        dotted((*info.path[:length], ".".join(map(str, info.path[length:]))))
        for info in document.tensors.values()
        if not is_saved(info.tensor)
        for length in range(len(info.path))
    }
    lost_tensors |= {dotted(i.path) for i in document.tensors.values() if not is_saved(i.tensor)}
    dropped = [path for path in values.dropped if path not in lost_tensors]
    return file, graph.tensors, dropped
