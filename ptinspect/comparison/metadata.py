"""Entries, modules and optimizers of two documents, and notes on what does not count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING

from ptinspect.comparison.changes import EntryChange, ModuleChange, Note, OptimizerChange
from ptinspect.document.select import value_at
from ptinspect.pickling.numpy_objects import as_array, as_scalar
from ptinspect.pickling.pyobjects import (
    as_bytes,
    as_mapping,
    as_sequence,
    brief_repr,
    function_path,
)
from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    OutOfBand,
    PersistentId,
    SetOf,
    Value,
    key_value,
)

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.pickling.pyobjects import Path


_SETS = ("builtins.set", "builtins.frozenset")


def compare_entries(a: Document, b: Document) -> list[EntryChange]:
    """Return the entries that differ, in the order of `a`, then those that only `b` has. What an
    entry shows may be less than it holds (the head of a list, the shape of an array): such
    values are compared whole."""
    items_a = {entry.path: entry for entry in a.entries}
    items_b = {entry.path: entry for entry in b.entries}
    changes: list[EntryChange] = []
    for path, entry in items_a.items():
        entry_b = items_b.get(path)
        if not path and as_mapping(a.archive.root) is not None:
            continue  # the container of a state_dict without tensors
        if entry_b is None:
            changes.append(EntryChange(path, "removed", _plain(entry.value, entry.type), None))
            continue
        equal = entry.type == entry_b.type and _digest(entry.value, a) == _digest(entry_b.value, b)
        if entry.value is None or isinstance(entry.value, dict):
            equal = _digest(value_at(a.archive.root, path), a) == _digest(
                value_at(b.archive.root, path), b
            )
        if not equal:
            pair = (entry, entry_b)
            both = [_plain(item.value, item.type) for item in pair]
            if both[0] == both[1] and entry.type != entry_b.type:
                both = [f"{item.type} {shown}" for item, shown in zip(pair, both, strict=True)]
            changes.append(EntryChange(path, "changed", *both))
    for path, entry in items_b.items():
        if path not in items_a and (path or as_mapping(b.archive.root) is None):
            changes.append(EntryChange(path, "added", None, _plain(entry.value, entry.type)))
    return changes


def _plain(value: Value, kind: str) -> object:
    """Return an entry's value as builtins; for an object without one its class."""
    if value is None:
        return None if kind in ("NoneType", "None") else kind
    if isinstance(value, list | tuple):
        return [_plain(item, "NoneType") for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item, "NoneType") for name, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() <= 1000):
        return value
    return brief_repr(value)


def _digest(root: Value, document: Document) -> bytes:
    """Return a digest that is equal for equal inert values.

    Order counts in sequences, not in mappings and sets. A storage counts by its bytes, a class
    with its source (legacy files) by its name. The value is walked without recursion, and each
    object once, however many paths lead to it.
    """
    digests: dict[int, bytes] = {}
    stack: list[tuple[Value, bool]] = [(root, False)]
    entered: set[int] = set()
    while stack:
        value, done = stack.pop()
        leaf = _leaf(value)
        if leaf is None and isinstance(value, PersistentId):
            leaf = _referred(value, document)
        if leaf is None and isinstance(value, Call):
            leaf = _array(value)
        if leaf is not None:
            digests[id(value)] = leaf
            continue
        if not done:
            if id(value) in entered:
                continue
            entered.add(id(value))
            stack.append((value, True))
            stack += [(item, False) for item in _children(value)]
            continue
        digests[id(value)] = _joined(value, lambda item: digests.get(id(item)) or _leaf(item))
    return digests[id(root)]


def _leaf(value: Value) -> bytes | None:
    """Return the digest of a value without insides; None for others."""
    if isinstance(value, bytes | bytearray | Blob):
        return _bytes_digest(value)
    if value is None or isinstance(value, bool | int | float | str):
        kind = "str" if isinstance(value, str) else type(value).__name__
        shown = hex(value) if isinstance(value, int) else str(value)
        return _text_digest(f"{kind}:{shown}")
    if isinstance(value, Global) and value.changes is None:
        return _text_digest(f"global:{value.path}")
    return _text_digest(repr(value)) if isinstance(value, Extension | OutOfBand) else None


def _text_digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass")).digest()


def _bytes_digest(value: Value) -> bytes | None:
    """Return the digest of bytes, whatever calls write them; None for other values."""
    raw = None if isinstance(value, Blob) else as_bytes(value)
    if isinstance(value, Blob):
        return blake2b(b"bytes:" + value.digest()).digest()
    return None if raw is None else blake2b(b"bytes:" + sha256(raw).digest()).digest()


def _array(value: Call) -> bytes | None:
    """Return the digest of bytes, an array or a numpy scalar, whose calls differ between pickle
    protocols; None for other calls."""
    array, scalar = as_array(value), as_scalar(value)
    if array is not None:
        data = _bytes_digest(array.data)
        facts = repr((array.dtype, array.shape, array.stride)).encode()
        return None if data is None else blake2b(facts + data).digest()
    return _bytes_digest(value) if scalar is None else _text_digest(repr(scalar))


def _referred(value: PersistentId, document: Document) -> bytes | None:
    """Return the digest of what a persistent id refers to; None for foreign ones."""
    reference = document.storage_of(value)
    if reference is not None:
        result = blake2b(reference.dtype.name.encode())
        storage = reference.storage
        for chunk in storage.chunks(0, storage.nbytes):
            result.update(chunk)
        return result.digest()
    parts = value.value
    if isinstance(parts, tuple) and len(parts) > 1 and parts[0] == "module":
        return _leaf(parts[1])
    return None


def _children(value: Value) -> Iterator[Value]:
    if isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key_value(key)
            yield item
    elif (members := _members(value)) is not None:
        yield from members
        return
    elif isinstance(value, PersistentId):
        yield value.value
    elif isinstance(value, Call) and function_path(value) == "copyreg.__newobj_ex__":
        # Protocol 2 calls the function that stands for the opcode NEWOBJ_EX of protocol 4.
        yield from value.args
    elif isinstance(value, Call):
        yield value.func
        yield value.args
        yield value.kwargs
    changes = getattr(value, "changes", None)
    if changes is not None:
        yield from (changes.states, changes.items, changes.pairs, changes.added)


def _members(value: Value) -> Iterable[Value] | None:
    """Return the members of a set, which protocol 2 writes as a call and protocol 4 as opcodes."""
    if isinstance(value, SetOf):
        return value
    is_set = isinstance(value, Call) and function_path(value) in _SETS and value.changes is None
    return as_sequence(value) if is_set else None


def _joined(value: Value, digest: Callable[[Value], bytes | None]) -> bytes:
    """Return the digest of a value from those of its insides; a cycle counts as empty."""
    result = blake2b(type(value).__name__.encode())

    def add(parts: Iterable[bytes]) -> None:
        for part in parts:
            result.update(len(part).to_bytes(4, "little") + part)

    def get(item: Value) -> bytes:
        return digest(item) or b""

    if isinstance(value, dict):
        add(sorted(get(key_value(key)) + get(item) for key, item in value.items()))
    elif (members := _members(value)) is not None:
        result = blake2b(b"set")
        add(sorted(map(get, members)))
    else:
        add(map(get, _children(value)))
    return result.digest()


def compare_modules(a: Document, b: Document) -> list[ModuleChange]:
    """Return the modules whose class or configuration differs; none if a side records none. Roots
    are paired by path or, if each document has only one, with each other."""
    items_a, items_b = _module_texts(a), _module_texts(b)
    roots_a, roots_b = ({root: None for root, _ in texts} for texts in (items_a, items_b))
    if not roots_a or not roots_b:
        return []
    renamed = {}
    if len(roots_a) == len(roots_b) == 1:
        renamed = {next(iter(roots_b)): next(iter(roots_a))}
    items_b = {(renamed.get(root, root), name): text for (root, name), text in items_b.items()}
    common = {root for root, _ in items_a} & {root for root, _ in items_b}
    changes = []
    for (root, name), text in items_a.items():
        entry_b = items_b.get((root, name))
        if root in common and entry_b != text:
            change = "removed" if entry_b is None else "changed"
            changes.append(ModuleChange(root, name, change, text, entry_b))
    for (root, name), text in items_b.items():
        if root in common and (root, name) not in items_a:
            changes.append(ModuleChange(root, name, "added", None, text))
    return changes


def _module_texts(document: Document) -> dict[tuple[Path, str], str]:
    from ptinspect.display.module_nodes import ModuleNodes

    nodes = ModuleNodes(document)
    texts = {}
    for info in document.modules:
        node = nodes.node(info.module)
        texts[info.root, info.name] = f"{info.module.class_name}({node.extra_repr(nodes)})"
    return texts


def compare_optimizers(
    a: Document, b: Document, changed_tensors: Iterable[Path]
) -> list[OptimizerChange]:
    """Return the optimizer states that differ. `changed_tensors` are the paths of tensors that
    differ, in either document."""
    items_a = {optimizer.path: optimizer for optimizer in a.optimizers}
    items_b = {optimizer.path: optimizer for optimizer in b.optimizers}
    paths = list(changed_tensors)
    changes = []
    for path, optimizer in items_a.items():
        entry_b = items_b.get(path)
        if entry_b is None:
            changes.append(OptimizerChange(path, "removed", ()))
            continue
        aspects, details = [], _group_changes(a, b, optimizer, entry_b)
        if optimizer.class_path != entry_b.class_path:
            aspects.append("class")
            details.insert(0, f"{optimizer.class_path} -> {entry_b.class_path}")
        if details[aspects.count("class") :]:
            aspects.append("param_groups")
        if _state_differs(a, b, optimizer, entry_b, paths):
            aspects.append("state")
        if aspects:
            changes.append(OptimizerChange(path, "changed", tuple(aspects), tuple(details)))
    changes += [OptimizerChange(path, "added", ()) for path in items_b if path not in items_a]
    return changes


def _group_changes(a: Document, b: Document, items_a: Optimizer, items_b: Optimizer) -> list[str]:
    if len(items_a.groups) != len(items_b.groups):
        return [f"{len(items_a.groups)} -> {len(items_b.groups)} param_groups"]
    details = []
    for number, (group, entry_b) in enumerate(zip(items_a.groups, items_b.groups, strict=True)):
        label = f"param_groups[{number}]." if len(items_a.groups) > 1 else ""
        for key in dict.fromkeys([*group, *entry_b]):
            if key == "params" and items_a.evidence == "recorded" == items_b.evidence:
                x: Value = items_a.parameters(number)  # the items are the tensors themselves
                y: Value = items_b.parameters(number)
            else:
                x, y = _setting(a, group.get(key)), _setting(b, entry_b.get(key))
            if (key in group) != (key in entry_b) or _digest(x, a) != _digest(y, b):
                details.append(f"{label}{key_value(key)} {_shown(x)} -> {_shown(y)}")
    return details


def _setting(document: Document, value: Value) -> Value:
    """Return a hyper-parameter; a tensor (a learning rate) as its number."""
    tensor = document.tensor_of(value)
    if tensor is None:
        return value
    from ptinspect.document.to_array import number_of

    return number_of(tensor) if tensor.numel == 1 else list(tensor.shape)


def _shown(value: Value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else brief_repr(value)


def _state_differs(
    a: Document, b: Document, items_a: Optimizer, items_b: Optimizer, changed: list[Path]
) -> bool:
    start = (*items_a.path, "state")
    if any(path[: len(start)] == start for path in changed):
        return True
    return _plain_state(a, items_a) != _plain_state(b, items_b)


def _plain_state(document: Document, optimizer: Optimizer) -> list[tuple[object, bytes]]:
    """Return the values of an optimizer's state that are not tensors, such as `step`."""
    values: list[tuple[object, bytes]] = []
    for number, state in enumerate(optimizer.state.values()):
        for key, value in (as_mapping(state) or {}).items():
            if document.tensor_of(value) is None:
                values.append(((number, str(key_value(key))), _digest(value, document)))
    return values


def container_notes(a: Document, b: Document) -> list[Note]:
    """Return notes on what the files record besides the compared contents."""
    notes = []
    if a.archive.format != b.archive.format:
        notes.append(Note("format", f"{a.archive.format} and {b.archive.format}"))
    if a.kind != b.kind:
        notes.append(Note("kind", f"{a.kind} and {b.kind}"))
    if a.archive.byteorder != b.archive.byteorder:
        notes.append(Note("byteorder", f"{a.archive.byteorder}- and {b.archive.byteorder}-endian"))
    return notes
