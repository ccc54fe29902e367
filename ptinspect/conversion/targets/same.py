"""The same content in today's container: the pickle opcode for opcode, the storages' bytes.

Persistent ids alone change (`pickling.rewriting`): a class that comes with its source becomes the
name that it wraps; a storage's id gets the five parts of the zip; the offset of a view of a
storage, which the zip does not know, goes into the tensor's; a tensor of the tar of torch 0.1
becomes the call that makes it. Source: `torch.serialization._legacy_load.persistent_load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.conversion.plan import Move, Plan, torch_file
from ptinspect.conversion.tensors import pickle_values
from ptinspect.conversion.tensors.byte_ranges import Cast, Piece, Range
from ptinspect.conversion.tensors.dtype_cast import swapper
from ptinspect.document.tensor import Storage
from ptinspect.dtypes import STORAGE_ITEMSIZE, dtype_of_class, is_untyped
from ptinspect.errors import UnsupportedError
from ptinspect.formats.torch_zip import TorchZip
from ptinspect.pickling.pyobjects import legacy_class
from ptinspect.pickling.rewriter import Rewriter, free_index
from ptinspect.pickling.values import Call, Global, PersistentId, Value
from ptinspect.pickling.writer import PickleWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ptinspect.conversion.options import Options
    from ptinspect.document import Document
    from ptinspect.formats.archive import Archive


def plan_same(document: Document, target: str, options: Options) -> Plan:
    """The plan. UnsupportedError for several pickles in a row, and for what has none."""
    archive, plan = document.archive, Plan(options.to)
    if archive.more_roots:
        raise UnsupportedError("it holds several pickles in a row, of which a zip holds one")
    same = _Same(document, options.wish.device)
    pickle = same.pickle()
    plan.files.append(torch_file(target, pickle, same.storages()))
    for key, info in document.tensors.items():
        plan.moves.append(Move(key, key, info.tensor, info.tensor.dtype))
    if same.moved:
        plan.told.append(
            "classes are written without their source code, which only legacy files hold"
        )
    if archive.facts.get("sys_info") or archive.format == "pickle":
        plan.told.append(f"from {archive.format} to torch's zip")
    return plan


class _Same:
    """One archive, written again."""

    def __init__(self, document: Document, device: str | None) -> None:
        self.document = document
        self.archive = archive = document.archive
        self.device = device
        self.keys: dict[tuple[object, ...], tuple[str, list[Piece]]] = {}
        self.stream = _stream(archive)
        self.writer = PickleWriter(first=free_index(self.stream))
        self.tensors: dict[object, Call] = {}
        self.moved = False

    def pickle(self) -> bytes:
        """The pickle."""
        ids = self.archive.pickled.persistent_ids
        return Rewriter(self.stream, ids, self._replaced).run()

    def storages(self) -> list[tuple[str, Sequence[Piece]]]:
        """Names and bytes of the storages, in the order of their first use."""
        return list(self.keys.values())

    def _replaced(self, pid: PersistentId, offset_follows: bool) -> tuple[bytes | None, int]:
        named = pid.value
        if isinstance(named, str):  # of protocol 0, which torch.load cannot read
            refer = self.document.storage_of(pid)
            if refer is not None:
                module, _, name = refer.type.rpartition(".")
                place = refer.storage.location
                named = ("storage", Global(module, name, 0), refer.storage.key, place, refer.numel)
                return self._id(self._five(named, 0, refer.numel)), 0
        if not isinstance(named, tuple) or not named:
            return None, 0
        if named[0] == "module":
            self.moved = True
            return self.writer.fragment(legacy_class(pid)), 0
        if named[0] == "tensor" and len(named) == 7:
            return self.writer.fragment(self._tensor(named)), 0
        if named[0] != "storage" or len(named) < 5:
            return None, 0
        view = named[5] if len(named) > 5 else None
        if view is None or not isinstance(view, tuple):
            five = self._five(named, 0, named[4])
            same = len(named) == 5 and not self.device and five[2] == named[2]
            return (None if same else self._id(five)), 0
        _, offset, numel = view
        if offset_follows:
            return self._id(self._five(named, 0, named[4])), offset
        return self._id(self._five(named, offset, numel)), 0  # a view that is itself a value

    def _id(self, five: tuple[Value, ...]) -> bytes:
        return self.writer.fragment(PersistentId((*five,), 0))

    def _five(self, named: tuple[Value, ...], offset: Value, numel: Value) -> tuple[Value, ...]:
        """("storage", class, key, location, elements) of the new file."""
        _, kind, key, location = named[:4]
        if (
            not isinstance(kind, Global)
            or not isinstance(numel, int)
            or not isinstance(offset, int)
        ):
            raise UnsupportedError("a storage is referred to in a way that torch does not use")
        mark = (key, offset, numel) if offset else (key,)
        if mark not in self.keys:
            zipped = isinstance(self.archive, TorchZip) and not self.device
            name = str(key) if zipped else str(len(self.keys))
            begin = offset * STORAGE_ITEMSIZE.get(kind.name, 1)
            size = numel * STORAGE_ITEMSIZE.get(kind.name, 1)
            self.keys[mark] = name, [self._piece(str(key), kind, begin, size)]
        kept = key if self.keys[mark][0] == key else self.keys[mark][0]
        return ("storage", kind, kept, self.device or location, numel)

    def _piece(self, key: str, kind: Global, begin: int, size: int) -> Piece:
        storage = Storage(self.archive, key, "cpu", begin + size)
        storage.check()
        inner = Range(storage, begin, begin + size)
        if self.archive.byteorder == "little":
            return inner
        dtype = dtype_of_class(kind.name)
        if dtype is None or is_untyped(kind.name):
            raise UnsupportedError(
                "a big-endian file with untyped storages", hint="--to state_dict"
            )
        convert = swapper(dtype)
        return inner if convert is None else Cast(inner, convert, dtype.itemsize, dtype.itemsize)

    def _tensor(self, named: tuple[Value, ...]) -> Call:
        """A tensor of the tar: one object per key."""
        _, owner, offset, size, stride, kind, key = named
        if key in self.tensors:
            return self.tensors[key]
        if isinstance(owner, tuple):
            view = owner[5] if len(owner) > 5 and isinstance(owner[5], tuple) else None
            moved = view[1] if view else 0
            assert isinstance(offset, int)
            place: tuple[Value, ...] = (
                PersistentId(self._five(owner, 0, owner[4]), 0),
                offset + moved,
            )
        else:
            assert isinstance(kind, Global)
            dtype = dtype_of_class(kind.name)
            assert dtype is not None
            mark = ("empty", kind.name)
            self.keys.setdefault(mark, (str(len(self.keys)), []))
            named_class = pickle_values.storage_class(dtype)
            pid = ("storage", named_class, self.keys[mark][0], self.device or "cpu", 0)
            place, size, stride = (PersistentId(pid, 0), 0), (0,), (1,)
        args = (*place, size, stride, False, pickle_values.ordered())
        self.tensors[key] = made = Call(pickle_values.REBUILD_2, args, "REDUCE", 0)
        return made


def _stream(archive: Archive) -> bytes:
    """The bytes of the main pickle."""
    pickled = archive.pickled
    if isinstance(archive, TorchZip):
        record = archive.directory.read(archive.directory.index[archive.record or ""])
        return record[pickled.start : pickled.end]
    base = archive.source.base or 0
    start = (base if archive.origin is None else archive.origin) - base + pickled.start
    return archive.source.read(start, pickled.end - pickled.start)
