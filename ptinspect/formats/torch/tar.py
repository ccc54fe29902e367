"""The tar of torch 0.1, up to 0.1.10.

    sys_info   pickle {"protocol_version": 1000, …}
    pickle     pickle of the object; tensors, storages and containers are persistent ids
    tensors    pickle n; n times: pickle (key, storage's key or None, type), int64 number of
               dimensions, int64 size and stride of each, int64 storage offset
    storages   pickle n; n times: pickle (key, location, type), int64 number of elements, the
               elements; then pickle [(key, root's key, offset, number of elements), …], the
               storages that are views of others. The oldest have no location and no views.

Persistent ids are converted to the form of the legacy stream, so that the rest of the package needs
no knowledge of this format:

    "KEY" of a storage    ("storage", type, root's key, location, root's elements, view or None)
    "KEY" of a tensor     ("tensor", such a storage or None, offset, size, stride, type, key)
    (class, file, text)   ("module", class, file, text)

Source: `legacy_load` in `torch.serialization._legacy_load`, and `save` in torch 0.1.10.
"""

from __future__ import annotations

import posixpath
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.dtypes import STORAGE_ITEMSIZE
from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, LimitError, Place
from ptinspect.formats.archive import Archive, Span, class_sources
from ptinspect.formats.signatures import MODEL_ENDINGS, TAR_BLOCK, Identity
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.machine import run
from ptinspect.pickling.numpy_objects import required_numel
from ptinspect.pickling.values import Global, PersistentId
from ptinspect.source.base import SourceFile
from ptinspect.text import bounded_repr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Value
    from ptinspect.source.base import Source

MEMBERS = ("sys_info", "pickle", "tensors", "storages")

_INT64 = Struct("<q")
_INT32 = Struct("<i")
_HEADER_BYTES = 1 << 16
"""Longest extended header of a tar."""

_GLOBAL_HEADERS = 64

_TAR_ERRORS = (OSError, ValueError, LookupError, ArithmeticError, RecursionError, TypeError)
"""What `tarfile` raises for invalid headers, besides its own errors."""


class TensorEntry(NamedTuple):
    """A tensor in the member `tensors`."""

    storage: str | None
    type: Value
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def read_tar(source: Source, limits: Limits = LIMITS, *, allow_truncated: bool = False) -> Archive:
    """Read the tar in `source`. `allow_truncated` leaves out storages that are not complete (for
    `recover`). DamagedError if it is truncated or inconsistent, LimitError for too many members."""
    members = read_members(source, limits)
    for name in MEMBERS:
        if name not in members:
            message = f"the tar is truncated: of {', '.join(MEMBERS)}, {name} is missing"
            raise DamagedError(message, hint=DOWNLOAD_AGAIN)
    info = MemberReader(source, members["sys_info"], limits)
    sys_info = info.read_pickle()
    member = members["pickle"]
    main = run(source.read(member.start, member.present), record="pickle", limits=limits)
    tensors = MemberReader(source, members["tensors"], limits)
    entries = read_tensors(tensors)
    storages = MemberReader(source, members["storages"], limits)
    spans, storage_ids = read_storages(storages, source.base, allow_truncated=allow_truncated)
    if allow_truncated:
        for tensor in entries.values():  # ids of the storages that are not there
            key, kind = tensor.storage, tensor.type
            if key is not None and key not in storage_ids and isinstance(kind, Global):
                path = kind.module, kind.name.replace("Tensor", "Storage")
                numel = required_numel(tensor.offset, tensor.size, tensor.stride)
                storage_class = Global(*path, kind.offset)
                storage_ids[key] = ("storage", storage_class, key, "cpu", numel, None)
    for item in main.persistent:
        if isinstance(item, PersistentId):
            item.value = _legacy_id(item, entries, storage_ids)
    archive = Archive(source, main, limits=limits, format="torch-legacy-tar")
    archive.origin = None if source.base is None else source.base + member.start
    archive.version = "1000"
    archive.facts = {"sys_info": sys_info}
    archive.storages = spans
    archive.sources = class_sources(main)
    archive.streams = [*info.streams, main, *tensors.streams, *storages.streams]
    return archive


class Member(NamedTuple):
    """A member of a tar: `present` of the `size` bytes from `start` are there, the next header is
    at `end`. `is_file` is True for what `tarfile` reads as a file, `link` is the path that a link
    leads to, else None; `regions` are the (offset, size) of a sparse file's parts, in a row."""

    name: str
    start: int
    size: int
    present: int
    end: int
    is_file: bool
    link: str | None
    regions: tuple[tuple[int, int], ...] | None


def read_members(source: Source, limits: Limits = LIMITS) -> dict[str, Member]:
    """Return a tar's files by name. Of several with one name the last counts, as in `tarfile`."""
    members = iter_members(source, limits)
    return {member.name.removeprefix("./"): member for member in members if member.is_file}


class _TarFile(SourceFile):
    """A source for `tarfile`, which reads a whole header of any announced size."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise DamagedError("a tar header is too long", where=Place(None, self.tell()))
        return super().read(size)


def iter_members(source: Source, limits: Limits = LIMITS) -> Iterator[Member]:
    """Yield a tar's members in order, as `tarfile` reads them; only the last one of a truncated tar
    is incomplete. DamagedError for an invalid header, LimitError for too many members."""
    import tarfile

    archive, end = None, 0
    for _ in range(limits.zip_entries):
        try:
            if archive is None:
                archive = tarfile.TarFile(
                    fileobj=_TarFile(source), encoding="utf-8", errors="surrogateescape"
                )
            info = archive.next() if end <= source.size else None
        except (tarfile.TarError, *_TAR_ERRORS) as error:
            raise DamagedError("invalid tar header", where=Place(None, end)) from error
        if info is None:
            left = min(TAR_BLOCK, source.size - end)
            if left > 0 and any(source.read(end, left)):
                raise DamagedError("invalid tar header", where=Place(None, end))
            return
        archive.members = []  # type: ignore[attr-defined]
        if len(archive.pax_headers) > _GLOBAL_HEADERS:  # copied for each member
            known = (*tarfile.PAX_FIELDS, "hdrcharset")
            archive.pax_headers = {
                key: value for key, value in archive.pax_headers.items() if key in known
            }
        if info.size < 0:
            raise DamagedError("a tar header has a negative size", where=Place(None, end))
        start, end = info.offset_data, archive.offset
        is_file = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        sparse: Any = info.sparse  # not bytes, as typeshed has it
        regions = None if sparse is None else tuple(sparse)
        stored = info.size if regions is None else sum(size for _, size in regions)
        present = max(min(stored, source.size - start), 0) if is_file else 0
        link = info.linkname if info.islnk() else None
        if info.issym():
            link = posixpath.join(posixpath.dirname(info.name), info.linkname)
        size = info.size if is_file else 0
        yield Member(info.name, start, size, present, end, is_file, link, regions)
    raise LimitError("the tar has too many members", limit="zip_entries")


def identify_tar(source: Source, limits: Limits) -> Identity:
    """Return the format of a tar: torch's own, or another one."""
    members: dict[str, None] = {}
    with suppress(DamagedError):  # reported by whoever reads the members
        for member in iter_members(source, limits):
            members[member.name.removeprefix("./")] = None
    if next(iter(members), None) == MEMBERS[0] or set(MEMBERS) <= set(members):
        return Identity("torch-legacy-tar", "a file of torch.save before 0.1.11")
    hint = "unpack it: tar -xf FILE"
    if any(name.endswith((*MODEL_ENDINGS, ".tar")) for name in members):
        hint = "unpack it (tar -xf FILE) and show the model in it"
    return Identity("tar", f"a tar of {len(members):,} files", hint)


class MemberReader:
    """Reads pickles and integers in turn from one member. Positions are those in the source."""

    def __init__(self, source: Source, member: Member, limits: Limits) -> None:
        self.data, base, _ = source.window()
        self.base = base
        self.pos = base + member.start
        self.stop = self.pos + member.present
        self.name = member.name
        self.limits = limits
        self.streams: list[Pickled] = []

    def read_pickle(self) -> Value:
        if len(self.streams) >= self.limits.streams:
            raise LimitError(f"more than {self.limits.streams:,} pickles in a row", limit="streams")
        pickled = run(self.data, self.pos, stop=self.stop, limits=self.limits)
        self.streams.append(pickled)
        self.pos = pickled.end
        return pickled.root

    def read_count(self) -> int:
        """Return the next pickle, which is the number of items that follow."""
        number = self.read_pickle()
        if type(number) is not int or number < 0:
            raise self.damaged("a number of items is expected")
        return number

    def read_ints(self, layout: Struct, count: int) -> tuple[int, ...]:
        size = layout.size * count
        if self.pos + size > self.stop:
            left = self.stop - self.pos
            raise self.damaged(f"{size:,} bytes are expected, but only {left:,} are left")
        raw = self.data[self.pos : self.pos + size]
        self.pos += size
        return tuple(value for (value,) in layout.iter_unpack(raw))

    def key_text(self, value: Value) -> str:
        """Return a key in the form of the object's persistent ids."""
        if type(value) is not int or value.bit_length() > 64:
            raise self.damaged(f"a key is expected, not {bounded_repr(value)}")
        return str(value)

    def damaged(self, message: str) -> DamagedError:
        message = f"{self.name}: {message}"
        return DamagedError(message, where=Place(None, self.pos), hint=DOWNLOAD_AGAIN)


def read_tensors(reader: MemberReader) -> dict[str, TensorEntry]:
    """Return the tensors of the member `tensors` by their keys."""
    entries = {}
    for _ in range(reader.read_count()):
        value = reader.read_pickle()
        if not isinstance(value, tuple) or len(value) != 3:
            raise reader.damaged("a tensor's key, storage and type are expected")
        key, storage, kind = value
        (dims,) = reader.read_ints(_INT32, 2)[:1]  # torch wrote 8 bytes, and read 4
        if not 0 <= dims <= reader.limits.dims:
            raise reader.damaged(f"a tensor has {dims:,} dimensions")
        numbers = reader.read_ints(_INT64, 2 * dims + 1)
        storage_key = None if storage is None else reader.key_text(storage)
        entries[reader.key_text(key)] = TensorEntry(
            storage_key, kind, numbers[:dims], numbers[dims:-1], numbers[-1]
        )
    return entries


def read_storages(
    reader: MemberReader, base: int | None, *, allow_truncated: bool = False
) -> tuple[dict[object, Span], dict[str, tuple[Value, ...]]]:
    """Return byte ranges and persistent ids (in the form of the legacy stream) of the member
    `storages`, by key. `allow_truncated` stops at the first one that is not complete, else that is
    DamagedError."""
    spans: dict[object, Span] = {}
    ids: dict[str, tuple[Value, ...]] = {}
    total = reader.read_count()
    for number in range(total):
        if allow_truncated and reader.pos >= reader.stop:
            return spans, ids
        value = reader.read_pickle()
        if not isinstance(value, tuple) or len(value) not in (2, 3):
            raise reader.damaged("a storage's key, location and type are expected")
        key, kind = reader.key_text(value[0]), value[-1]
        location = value[1] if len(value) == 3 else "cpu"
        if not isinstance(kind, Global) or kind.name not in STORAGE_ITEMSIZE:
            raise reader.damaged("torch does not have a storage's class")
        (numel,) = reader.read_ints(_INT64, 1)
        expected, present = numel * STORAGE_ITEMSIZE[kind.name], reader.stop - reader.pos
        if numel < 0:
            raise reader.damaged(f"a storage has {numel:,} elements")
        ids[key] = ("storage", kind, key, location, numel, None)
        if expected > present and allow_truncated:
            return spans, ids
        if expected > present:
            raise DamagedError(
                f"the tar is truncated: pickle is complete, but storage {number + 1:,} of {total:,}"
                f" is not: {present:,} of {expected:,} bytes are there",
                where=Place(None, reader.stop),
                hint=DOWNLOAD_AGAIN,
            )
        spans[key] = Span(reader.name, expected, reader.pos - reader.base, base)
        reader.pos += expected
    if reader.pos < reader.stop:
        views = reader.read_pickle()
        if not isinstance(views, list):
            raise reader.damaged("a list of views is expected")
        for view in views:
            if not isinstance(view, tuple) or len(view) != 4 or reader.key_text(view[1]) not in ids:
                raise reader.damaged("a view's key, root, offset and size are expected")
            key, root, offset, numel = reader.key_text(view[0]), reader.key_text(view[1]), *view[2:]
            ids[key] = (*ids[root][:5], (key, offset, numel))
    return spans, ids


def _legacy_id(
    pid: PersistentId, tensors: dict[str, TensorEntry], storages: dict[str, tuple[Value, ...]]
) -> Value:
    """Return the persistent id in the form of the legacy stream; see the module's docstring."""
    value = pid.value
    if isinstance(value, tuple):
        return ("module", *value) if len(value) == 3 else value
    if type(value) is not str or (value not in tensors and value not in storages):
        raise DamagedError(
            f"the object refers to {bounded_repr(value)}, which is not in the file",
            where=Place("pickle", pid.offset),
        )
    if value in storages:
        return storages[value]
    tensor = tensors[value]
    if tensor.storage is not None and tensor.storage not in storages:
        raise DamagedError(f"the storage {tensor.storage} is not in the file")
    storage = None if tensor.storage is None else storages[tensor.storage]
    return ("tensor", storage, tensor.offset, tensor.size, tensor.stride, tensor.type, value)
