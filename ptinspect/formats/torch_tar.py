"""The tar of torch 0.1, up to 0.1.10.

    sys_info   pickle {"protocol_version": 1000, …}
    pickle     pickle of the object; tensors, storages and containers are persistent ids
    tensors    pickle n; n times: pickle (key, storage's key or None, type), int64 number of
               dimensions, int64 size and stride of each, int64 storage offset
    storages   pickle n; n times: pickle (key, location, type), int64 number of elements, the
               elements; then pickle [(key, root's key, offset, number of elements), …], the
               storages that are views of others. The oldest have no location and no views.

Persistent ids are given the shape that they have in the legacy stream, so that whoever reads
the object need not know of this format:

    "KEY" of a storage    ("storage", type, root's key, location, root's elements, view or None)
    "KEY" of a tensor     ("tensor", such a storage or None, offset, size, stride, type, key)
    (class, file, text)   ("module", class, file, text)

Source: `legacy_load` in `torch.serialization._legacy_load`, and `save` in torch 0.1.10.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.dtypes import STORAGE_ITEMSIZE
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place
from ptinspect.formats.archive import Archive, Span
from ptinspect.formats.persistent_ids import class_sources
from ptinspect.formats.signatures import TAR_BLOCK, is_tar, tar_number
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Global, PersistentId
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

MEMBERS = ("sys_info", "pickle", "tensors", "storages")

_INT64 = Struct("<q")
_INT32 = Struct("<i")


class Member(NamedTuple):
    """A file in the tar. `start`: of its bytes; `have`: those that are there, `size` when all."""

    name: str
    start: int
    size: int
    have: int


def members(source: Source, limits: Limits = LIMITS) -> dict[str, Member]:
    """The tar's files by name, in order; of a name that is there twice the last, as `tarfile`
    has it. For errors see `iter_members`."""
    return {member.name.removeprefix("./"): member for member in iter_members(source, limits)}


def iter_members(source: Source, limits: Limits = LIMITS) -> Iterator[Member]:
    """The tar's files, in order. A tar that is cut off gives what is there; the last one's
    `have` is then less than its `size`.

    Raises DamagedError where a header is none.
    """
    count, pos, long_size = 0, 0, None
    while pos + TAR_BLOCK <= source.size:
        head = source.read(pos, TAR_BLOCK)
        if not any(head):
            break
        if not is_tar(head):
            raise DamagedError("there is no tar header where one should be", where=Place(None, pos))
        size = _size(head, pos)
        kind, start = head[156:157], pos + TAR_BLOCK
        have = max(min(size, source.size - start), 0)
        if kind == b"x":
            long_size = _pax_size(source.read(start, min(have, 1 << 16)))
        elif kind in (b"0", b"\0", b"7"):
            if long_size is not None:
                size, long_size = long_size, None
                have = max(min(size, source.size - start), 0)
            name = head[:100].split(b"\0")[0].decode("utf-8", "replace")
            yield Member(name, start, size, have)
        count += 1
        if count > limits.zip_entries:
            raise LimitError("the tar has too many members", limit="zip_entries")
        pos = start + -(-size // TAR_BLOCK) * TAR_BLOCK


def _size(head: bytes, pos: int) -> int:
    try:
        return tar_number(head[124:136])
    except ValueError as error:
        raise DamagedError("a tar header has no size", where=Place(None, pos)) from error


def _pax_size(records: bytes) -> int | None:
    """The size that an extended header gives, of members too large for the plain field."""
    for line in records.split(b"\n"):
        key, _, value = line.partition(b" ")[2].partition(b"=")
        if key == b"size" and value.isdigit() and len(value) < 20:
            return int(value)
    return None


class Tensor(NamedTuple):
    """What the member `tensors` says of one."""

    storage: str | None
    kind: Value
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class TorchTar(Archive):
    """See the module."""

    format = "torch-legacy-tar"


class Reader:
    """Pickles and integers in turn, from one member. Offsets are those in the file."""

    def __init__(self, source: Source, member: Member, limits: Limits) -> None:
        self.data, base, _ = source.window()
        self.base = base
        self.pos = base + member.start
        self.stop = self.pos + member.have
        self.name = member.name
        self.limits = limits
        self.streams: list[Pickled] = []

    def pickle(self) -> Value:
        """The value of the next pickle."""
        if len(self.streams) >= self.limits.streams:
            raise LimitError(f"more than {self.limits.streams:,} pickles in a row", limit="streams")
        made = run(self.data, self.pos, stop=self.stop, limits=self.limits)
        self.streams.append(made)
        self.pos = made.end
        return made.root

    def count(self) -> int:
        """The next pickle, which is the number of things that follow."""
        number = self.pickle()
        if type(number) is not int or number < 0:
            raise self.damaged("a number of items is expected")
        return number

    def key(self, value: Value) -> str:
        """A key as the object's persistent ids have it."""
        if type(value) is not int or value.bit_length() > 64:
            raise self.damaged(f"a key is expected, not {bounded_repr(value)}")
        return str(value)

    def ints(self, shape: Struct, count: int) -> tuple[int, ...]:
        """The next `count` integers."""
        size = shape.size * count
        if self.pos + size > self.stop:
            raise self.damaged(f"{size:,} bytes are expected, {self.stop - self.pos:,} are left")
        raw = self.data[self.pos : self.pos + size]
        self.pos += size
        return tuple(value for (value,) in shape.iter_unpack(raw))

    def damaged(self, message: str) -> DamagedError:
        """The error for what stands at the reader's place."""
        return DamagedError(
            f"{self.name}: {message}", where=Place(None, self.pos), hint=DOWNLOAD_AGAIN
        )


def read_tar(source: Source, found: dict[str, Member], limits: Limits = LIMITS) -> TorchTar:
    """The archive whose members are `found`.

    Raises DamagedError, with what is whole and what is missing, where the tar is cut off.
    """
    for name in MEMBERS:
        if name not in found:
            raise DamagedError(
                f"the tar is cut off: of {', '.join(MEMBERS)}, {name} is missing",
                hint=DOWNLOAD_AGAIN,
            )
    info = Reader(source, found["sys_info"], limits)
    facts = info.pickle()
    member = found["pickle"]
    main = run(source.read(member.start, member.have), record="pickle", limits=limits)
    tensors = Reader(source, found["tensors"], limits)
    listed = read_tensors(tensors)
    storages = Reader(source, found["storages"], limits)
    spans, named = read_storages(storages, source.base, found["storages"])
    for made in main.persistent:
        if isinstance(made, PersistentId):
            made.value = _modern(made, listed, named)
    archive = TorchTar(source, main, limits=limits)
    archive.origin = None if source.base is None else source.base + member.start
    archive.version = "1000"
    archive.facts = {"sys_info": facts}
    archive.storages = spans
    archive.sources = class_sources(main)
    archive.streams = [*info.streams, main, *tensors.streams, *storages.streams]
    return archive


def read_tensors(reader: Reader) -> dict[str, Tensor]:
    """The member `tensors`: each by the key that the pickle names it by. DamagedError where it is
    no such member, or is cut off."""
    found = {}
    for _ in range(reader.count()):
        value = reader.pickle()
        if not isinstance(value, tuple) or len(value) != 3:
            raise reader.damaged("a tensor's key, storage and type are expected")
        key, storage, kind = value
        (dims,) = reader.ints(_INT32, 2)[:1]  # it was written as 8 bytes, and read as 4
        if not 0 <= dims <= reader.limits.dims:
            raise reader.damaged(f"a tensor has {dims:,} dimensions")
        numbers = reader.ints(_INT64, 2 * dims + 1)
        owner = None if storage is None else reader.key(storage)
        found[reader.key(key)] = Tensor(owner, kind, numbers[:dims], numbers[dims:-1], numbers[-1])
    return found


def read_storages(
    reader: Reader, base: int | None, member: Member
) -> tuple[dict[object, Span], dict[str, tuple[Value, ...]]]:
    """The member `storages`: where each storage lies (from the start of the file, plus `base`), and
    the persistent id that the legacy stream would have. DamagedError as for `read_tensors`."""
    spans: dict[object, Span] = {}
    named: dict[str, tuple[Value, ...]] = {}
    total = reader.count()
    for number in range(total):
        value = reader.pickle()
        if not isinstance(value, tuple) or len(value) not in (2, 3):
            raise reader.damaged("a storage's key, location and type are expected")
        key, kind = reader.key(value[0]), value[-1]
        location = value[1] if len(value) == 3 else "cpu"
        if not isinstance(kind, Global) or kind.name not in STORAGE_ITEMSIZE:
            raise reader.damaged("a storage's type is no class of torch")
        (numel,) = reader.ints(_INT64, 1)
        need, have = numel * STORAGE_ITEMSIZE[kind.name], reader.stop - reader.pos
        if numel < 0:
            raise reader.damaged(f"a storage has {numel:,} elements")
        if need > have:
            rest = f"storage {number + 1:,} of {total:,} is cut off, {have:,} of {need:,} bytes"
            raise DamagedError(
                f"the tar is cut off: pickle is whole, {rest} are there",
                where=Place(None, reader.stop),
                hint=DOWNLOAD_AGAIN,
            )
        spans[key] = Span(member.name, need, reader.pos - reader.base, base)
        named[key] = ("storage", kind, key, location, numel, None)
        reader.pos += need
    if reader.pos < reader.stop:
        _add_views(reader, named)
    return spans, named


def _add_views(reader: Reader, named: dict[str, tuple[Value, ...]]) -> None:
    views = reader.pickle()
    if not isinstance(views, list):
        raise reader.damaged("a list of views is expected")
    for view in views:
        if not isinstance(view, tuple) or len(view) != 4 or reader.key(view[1]) not in named:
            raise reader.damaged("a view's key, root, offset and size are expected")
        key, root, offset, numel = reader.key(view[0]), reader.key(view[1]), view[2], view[3]
        named[key] = (*named[root][:5], (key, offset, numel))


def _modern(
    made: PersistentId, tensors: dict[str, Tensor], storages: dict[str, tuple[Value, ...]]
) -> Value:
    """The persistent id as the legacy stream has it: see the module."""
    value = made.value
    if isinstance(value, tuple):
        return ("module", *value) if len(value) == 3 else value
    if type(value) is not str or (value not in tensors and value not in storages):
        raise DamagedError(
            f"the object refers to {bounded_repr(value)}, which is not in the file",
            where=Place("pickle", made.offset),
        )
    if value in storages:
        return storages[value]
    tensor = tensors[value]
    if tensor.storage is not None and tensor.storage not in storages:
        raise DamagedError(f"the storage {tensor.storage} is not in the file")
    owner = None if tensor.storage is None else storages[tensor.storage]
    return ("tensor", owner, tensor.offset, tensor.size, tensor.stride, tensor.kind, value)
