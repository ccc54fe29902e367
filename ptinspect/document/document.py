"""A file, read: its kind, tensors, modules, entries, optimizers. What is said is what the file
records; what is inferred is labelled so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from ptinspect.document.kinds import Survey, Totals, kind_of
from ptinspect.document.tensors import Tensors
from ptinspect.document.walk import Contents, TensorInfo, Warned, bracketed, walk
from ptinspect.errors import PtInspectError, add_error_path
from ptinspect.formats.detect import open_archive
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.pyobjects import class_path
from ptinspect.pickling.values import Call, Global, Value
from ptinspect.source.local import open_source

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from ptinspect.document.entries import Entry
    from ptinspect.document.modules import ModuleInfo
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.document.storages import Reference
    from ptinspect.document.tensor import Tensor
    from ptinspect.formats.archive import Archive
    from ptinspect.pickling.machine import Pickled
    from ptinspect.source.base import Source


class Document:
    """A file's contents. A context manager; tensors' bytes are read when asked for.

    path, size: of the file (of an index: with its shards). archive: its container. kind: see
    `classify.kind_of`.
    """

    def __init__(self, source: Source, archive: Archive, limits: Limits) -> None:
        self.path = source.path
        self.size = source.size + sum(part.source.size for part in archive.parts)
        self.archive = archive
        self.limits = limits
        self._source = source
        self._reader = Tensors(archive, limits)
        self._found: Contents | None = None
        self._tensors: dict[str, TensorInfo] | None = None
        self._survey: Survey | None = None

    def __enter__(self) -> Document:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what was read stays."""
        self._source.close()
        for part in self.archive.parts:
            part.source.close()

    @property
    def contents(self) -> Contents:
        """What the walk through the file's objects found; walked at the first use."""
        if self._found is None:
            with add_error_path(self.path):
                found = walk(self.archive.root, self._reader, self.limits)
                for at, root in enumerate(self.archive.more_roots, 1):
                    more = walk((root,), self._reader, self.limits)
                    _append(found, more, at)
                self._found = found
        return self._found

    @property
    def kind(self) -> str:
        """`module`, `state_dict`, `checkpoint`, `optimizer`, `tensor`, `tensors` or `other`."""
        return kind_of(self.archive.root, self.contents)

    @property
    def class_path(self) -> str | None:
        """The class of the root: a module's, or another object's; None for plain containers."""
        root = self.archive.root
        name = class_path(root) if isinstance(root, Call) else None
        return None if name and name.startswith(("collections.", "builtins.")) else name

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor, under each of its paths, by key in the file's order."""
        if self._tensors is None:
            self._tensors = keyed(self.contents.tensors)
        return self._tensors

    @property
    def modules(self) -> list[ModuleInfo]:
        """Every module, under each of its paths."""
        return self.contents.modules

    @property
    def entries(self) -> list[Entry]:
        """What is neither tensor nor module: numbers, strings, objects."""
        return self.contents.entries

    @property
    def optimizers(self) -> list[Optimizer]:
        """Optimizer state, and where it lies."""
        return self.contents.optimizers

    @property
    def globals(self) -> list[Global]:
        """The names that loading would import, with how often each is used."""
        streams = [*self.archive.streams, *_inner(self._reader)]
        return [name for stream in streams for name in stream.globals]

    @property
    def survey(self) -> Survey:
        """Which tensors are one, and sums over all; made at the first use."""
        if self._survey is None:
            self._survey = Survey(self.contents.tensors)
        return self._survey

    @property
    def totals(self) -> Totals:
        """Sums over all tensors; what is the same counts once."""
        return self.survey.totals

    @property
    def warnings(self) -> list[Warned]:
        """What a user should know, from the container to the objects."""
        from ptinspect.document.warnings import warnings_of

        return warnings_of(self)

    def tensor_of(self, value: Value) -> Tensor | None:
        """The tensor that a value inside the file stands for (a learning rate, an attribute of a
        module); None where it is none."""
        try:  # as `about` does, which costs more than most answers: this is asked per tensor
            return self._reader.read(value)
        except PtInspectError as error:
            error.path = error.path or self.path
            raise

    def storage_of(self, value: Value) -> Reference | None:
        """The storage that a value inside the file refers to; None where it is none of torch's."""
        with add_error_path(self.path):
            return self._reader.refer(value)

    def check(self) -> None:
        """DamagedError where the file has fewer bytes for a storage than it should."""
        with add_error_path(self.path):
            for storage in self._reader.storages:
                storage.check()


def _inner(reader: Tensors) -> Iterator[Pickled]:
    """The pickles of the legacy streams inside this one's."""
    for inner in reader.inner:
        yield from inner.archive.streams
        yield from _inner(inner)


def _append(found: Contents, more: Contents, at: int) -> None:
    """The contents of a further pickle in a row, their paths led by its number."""
    found.tensors += [
        TensorInfo((at, *info.path[1:]), info.role, info.persistent, info.tensor)
        for info in more.tensors
    ]
    found.modules += [info._replace(root=(at, *info.root[1:])) for info in more.modules]
    found.state_dicts += [(at, *path[1:]) for path in more.state_dicts]
    found.optimizers += [item._replace(path=(at, *item.path[1:])) for item in more.optimizers]
    found.entries += [item._replace(path=(at, *item.path[1:])) for item in more.entries]
    found.warnings += more.warnings


def keyed(tensors: list[TensorInfo]) -> dict[str, TensorInfo]:
    """By key; where two paths join to one key, the second's key is its bracketed path."""
    made: dict[str, TensorInfo] = {}
    for info in tensors:
        if made.setdefault(info.key, info) is not info:
            info.key = bracketed(info.path)
            made[info.key] = info
    return made


def open(file: str | PathLike[str] | BinaryIO, *, limits: Limits = LIMITS) -> Document:
    """Opens a file that torch.save (or pickle) wrote. `-` is standard input.

    Raises FormatError for anything else, naming it; DamagedError for a file that is cut off or
    inconsistent; LimitError where a bound is met; PtInspectError where it cannot be read.
    """
    source = open_source(file)
    try:
        with add_error_path(source.path):
            return Document(source, open_archive(source, limits), limits)
    except PtInspectError:
        source.close()
        raise
