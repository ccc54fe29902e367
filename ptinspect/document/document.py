"""A file as a document: its kind, tensors, modules, entries, optimizers, totals and warnings.

Everything is what the file records, unless a field says that it is inferred.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.entries import value_finder
from ptinspect.document.tensor import Tensor
from ptinspect.document.tensor_readers import array_tensor
from ptinspect.document.tensors import TensorInfo, TensorReader
from ptinspect.document.walk import (
    Contents,
    DocumentWarning,
    ReadTensor,
    ReadTensors,
    joined,
    walk,
)
from ptinspect.errors import PtInspectError, add_error_path
from ptinspect.formats.archive import Archive, Finding
from ptinspect.formats.detect import main_file_of_folder, open_archive, other_models
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.numpy_objects import as_array
from ptinspect.pickling.pyobjects import Path, as_mapping, as_sequence, class_path
from ptinspect.pickling.values import Call, Global, Value
from ptinspect.source.local import open_source
from ptinspect.text import count_text, join_names, size_text

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from ptinspect.document.entries import Entry
    from ptinspect.document.modules import ModuleInfo
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.document.tensor_readers import Reference
    from ptinspect.pickling.machine import Pickled
    from ptinspect.source.base import Source


class Document:
    """A file's contents. A context manager; tensors' bytes are read on demand.

    Attributes:
        path: the file's path.
        size: the file's size; an index's includes its shards.
        archive: its container.
        checksum_warnings: what `ptinspect.document.warnings` found, shown with the other
            warnings.
        checked_records: the number of records whose CRC-32 was checked; None if it was not asked
            for.
    """

    def __init__(self, source: Source, archive: Archive, limits: Limits) -> None:
        self.path = source.path
        self.size = archive.size
        self.archive = archive
        self.limits = limits
        self._source = source
        self._reader = TensorReader(archive, limits)
        self.checksum_warnings: list[DocumentWarning] = []
        self.checked_records: int | None = None
        self._numpy_weights: dict[Value, Tensor | None] | None = None

    def __repr__(self) -> str:
        facts = [self.archive.format, size_text(self.size)]
        if "contents" in self.__dict__:  # not walked only for this
            facts += [self.kind, count_text(len(self.contents.tensors), "tensor")]
        return f"<Document {self.path!r}: {', '.join(facts)}>"

    def __enter__(self) -> Document:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. What was read stays available."""
        self._source.close()
        self.archive.close()

    @cached_property
    def contents(self) -> Contents:
        """Everything that the walk through the file's objects finds. Walked at the first use. In a
        file without weights of torch those of NumPy are tensors: its arrays, and the scalars next
        to them (detectron2, RLlib, Flax). In a file of torch.save one dict has to consist
        of them."""
        with add_error_path(self.path):
            walked = self._walk(self._reader.read, self._reader.read_all)
            counts = [len(each.entries) for each in walked]
            contents = joined(walked)
            has_weights = any(info.role != "optimizer" for info in contents.tensors)
            has_arrays = any(entry.type == "numpy.ndarray" for entry in contents.entries)
            if not has_arrays or contents.modules or has_weights:
                return contents
            self._numpy_weights, left = {}, iter(contents.entries)
            for index, (root, count) in enumerate(zip(self._roots, counts, strict=True)):
                find, entries = value_finder(root), [*islice(left, count)]
                arrays = {e.path[:-1] for e in entries if e.type == "numpy.ndarray"}
                for entry in entries:
                    if entry.type.startswith("numpy.") and entry.path[:-1] in arrays:
                        value = find(entry.path[min(index, 1) :])
                        array = as_array(value, scalars=True)
                        self._numpy_weights[value] = array_tensor(array, self.archive)
            with_arrays = joined(self._walk(self.weight_of))
            if self.archive.format == "pickle" or with_arrays.state_dicts:
                return with_arrays
            self._numpy_weights = None
            return contents

    @property
    def _roots(self) -> tuple[Value, ...]:
        return (self.archive.root, *self.archive.more_roots)

    def _walk(self, read: ReadTensor, read_all: ReadTensors | None = None) -> list[Contents]:
        """Return the contents of each pickle. The paths in further ones begin with their number."""
        return [
            walk(root, read, self.limits, (index,) if index else (), read_all)
            for index, root in enumerate(self._roots)
        ]

    @property
    def has_numpy_weights(self) -> bool:
        """True if `contents` has arrays as tensors."""
        return bool(self.contents.tensors) and self._numpy_weights is not None

    @property
    def kind(self) -> str:
        """`module`, `state_dict`, `checkpoint`, `optimizer`, `tensor`, `tensors` or `other`."""
        return kind_of(self.archive.root, self.contents)

    @property
    def items(self) -> Mapping[Value, Value]:
        """The items of the root; none if it is not a mapping."""
        return as_mapping(self.archive.root) or {}

    @property
    def class_path(self) -> str | None:
        """The class of the root: a module's, or another object's; None for plain containers."""
        root = self.archive.root
        name = class_path(root) if isinstance(root, Call) else None
        return None if name and name.startswith(("collections.", "builtins.")) else name

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor, under each of its paths, by key in the file's order."""
        return self.contents.by_key

    @property
    def modules(self) -> list[ModuleInfo]:
        """Every module, under each of its paths."""
        return self.contents.modules

    @property
    def entries(self) -> list[Entry]:
        """Everything that is neither tensor nor module: numbers, strings, objects."""
        return self.contents.entries

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers' states."""
        return self.contents.optimizers

    @property
    def globals(self) -> list[Global]:
        """The names that loading would import, with how often each is used."""
        streams = [*self.archive.streams, *_nested_streams(self._reader)]
        return [name for stream in streams for name in stream.globals]

    @cached_property
    def survey(self) -> Survey:
        """Duplicates among the tensors, and sums over all. Computed at the first use."""
        return Survey(self.contents.tensors)

    @property
    def totals(self) -> Totals:
        """Sums over all tensors; duplicates count once."""
        return self.survey.totals

    @property
    def warnings(self) -> list[DocumentWarning]:
        """Warnings, from the container's to the objects'."""
        from ptinspect.document.warnings import warnings_of

        duplicates, most = self.survey.duplicates, self.limits.warnings
        warnings = warnings_of(self.archive, self.contents, duplicates, most)
        return self.checksum_warnings + warnings

    def tensor_of(self, value: Value) -> Tensor | None:
        """Return the tensor that a value inside the file stands for (a learning rate, an attribute
        of a module); None for other values."""
        try:  # what `add_error_path` does, without its cost: this runs once per tensor
            return self._reader.read(value)
        except PtInspectError as error:
            error.path = error.path or self.path
            raise

    def tensors_of(self, values: Iterable[Value]) -> list[Tensor | None]:
        """Return `tensor_of` each of the values."""
        with add_error_path(self.path):
            return [*self._reader.read_all(values)]

    def weight_of(self, value: Value) -> Tensor | None:
        """Return the tensor that a value stands for, of an array too if `has_numpy_weights`."""
        tensor, weights = self.tensor_of(value), self._numpy_weights
        if tensor is not None or weights is None or not isinstance(value, Call):
            return tensor
        if value not in weights:
            weights[value] = array_tensor(as_array(value), self.archive)
        return weights[value]

    def storage_of(self, value: Value) -> Reference | None:
        """Return the storage that a value inside the file refers to; None for other values."""
        with add_error_path(self.path):
            return self._reader.resolve_storage(value)

    def check(self) -> None:
        """Raise DamagedError if the file has too few bytes for a storage."""
        with add_error_path(self.path):
            for storage in self._reader.storages:
                storage.check()


def open(file: str | PathLike[str] | BinaryIO, *, limits: Limits | None = None) -> Document:
    """Open a file that torch.save (or pickle) wrote.

    Args:
        file: a path, a binary file object, or `-` for standard input. A folder that is one
            checkpoint (sharded, Hugging Face, torch.distributed.checkpoint) is one document.
        limits: bounds on work and memory.

    Raises:
        FormatError: another kind of file; the message names it.
        DamagedError: the file is truncated or inconsistent.
        LimitError: a bound is met.
        PtInspectError: the file cannot be read.
    """
    folder = os.fspath(file) if isinstance(file, str | os.PathLike) else None
    if folder is not None and folder != "-" and os.path.isdir(folder):
        file = main_file_of_folder(folder)
    else:
        folder = None
    source = open_source(file)
    try:
        with add_error_path(source.path):
            limits = limits or LIMITS
            document = Document(source, open_archive(source, limits), limits)
        document.path = folder or document.path
        others = other_models(source.path) if folder else []
        if others:
            text = f"the folder has other models, which are not read: {join_names(others, 3)}"
            document.archive.warnings.append(Finding("other-models", text))
        return document
    except PtInspectError:
        source.close()
        raise


def _nested_streams(reader: TensorReader) -> Iterator[Pickled]:
    for nested in reader.nested:
        yield from nested.archive.streams
        yield from _nested_streams(nested)


def kind_of(root: Value, contents: Contents) -> str:
    """Return `module`, `state_dict`, `checkpoint`, `optimizer`, `tensor`, `tensors` or `other`.
    A checkpoint is a mapping that contains, directly or in dicts and lists, modules, state_dicts
    or optimizer state."""
    if contents.modules and contents.modules[0].root == () and contents.modules[0].name == "":
        return "module"
    if () in contents.state_dicts:
        return "state_dict"
    if any(optimizer.path == () for optimizer in contents.optimizers):
        return "optimizer"
    parts = (
        *dict.fromkeys(info.root for info in contents.modules),
        *contents.state_dicts,
        *(optimizer.path for optimizer in contents.optimizers),
    )
    if as_mapping(root) is not None and any(_is_in_containers(root, path) for path in parts):
        return "checkpoint"
    if contents.tensors:
        return "tensor" if contents.tensors[0].path == () else "tensors"
    return "other"


def _is_in_containers(value: Value, path: Path) -> bool:
    """Return True if only dicts and lists lead from `value` to `path`."""
    for step in path:
        items, elements = as_mapping(value), as_sequence(value)
        if items is not None and isinstance(step, str):
            value = items.get(step)
        elif items is None and elements is not None and isinstance(step, int):
            value = elements[step] if step < len(elements) else None
        else:
            return False
    return value is not None


class Totals(NamedTuple):
    """The number of tensors listed, duplicates included; then sums in which duplicates count once:
    elements of the model's parameters (of all its tensors if the file does not distinguish
    parameters from buffers), bytes of all tensors, bytes of their storages."""

    tensors: int
    parameters: int
    nbytes: int
    storage_nbytes: int


class Survey:
    """The totals of all tensors, and for each tensor that is the same view of the same bytes as one
    before it (tied weights, an alias), the first such one. Tensors without elements are not
    compared."""

    def __init__(self, tensors: list[TensorInfo]) -> None:
        # In most files each tensor has a storage of its own: then nothing needs to be compared.
        storages = [info.tensor.storage for info in tensors]
        if len(set(storages)) == len(storages) and all(s and not s.begin for s in storages):
            self.duplicates: dict[TensorInfo, TensorInfo] = {}
            storage_nbytes = sum([storage.nbytes for storage in storages if storage])
        else:
            self.duplicates = {}
            uses = Counter(storage.root for storage in storages if storage)
            first_of: dict[object, TensorInfo] = {}
            for info, storage in zip(tensors, storages, strict=True):
                if info.tensor.numel and (storage is None or uses[storage.root] > 1):
                    first = first_of.setdefault(info.tensor.view_key, info)
                    if first is not info:
                        self.duplicates[info] = first
            sizes: dict[object, int] = {}
            for info in tensors:
                for tensor in (info.tensor, *info.tensor.parts.values()):
                    if (storage := tensor.storage) is not None:
                        size = storage.begin + storage.nbytes
                        sizes[storage.root] = max(sizes.get(storage.root, 0), size)
            storage_nbytes = sum(sizes.values())
        numels = {"parameter": 0, "buffer": 0, "optimizer": 0, "tensor": 0}
        sizes_by_form: dict[object, tuple[int, int]] = {}
        nbytes = 0
        for info in tensors:
            if info in self.duplicates:
                continue
            tensor = info.tensor
            form = (tensor.shape, tensor.encoding or id(tensor.dtype))
            counts = sizes_by_form.get(form)
            if counts is None or tensor.parts or tensor.uninitialized:
                counts = tensor.numel, tensor.nbytes
                if not (tensor.parts or tensor.uninitialized):
                    sizes_by_form[form] = counts
            numels[info.role] += counts[0]
            nbytes += counts[1]
        has_roles = any(info.role in ("parameter", "buffer") for info in tensors)
        parameters = numels["parameter" if has_roles else "tensor"]
        self.totals = Totals(len(tensors), parameters, nbytes, storage_nbytes)
