"""Entries, modules and optimizers of two documents, and notes on what does not count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ptinspect.document.entries import describe, is_simple, value_finder
from ptinspect.document.modules import module_of
from ptinspect.document.to_array import number_of
from ptinspect.pickling.numpy_objects import as_array, as_scalar
from ptinspect.pickling.pyobjects import (
    as_bytes,
    as_mapping,
    as_sequence,
    attributes_of,
    brief_repr,
    class_path,
    function_path,
    path_step,
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
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.entries import Entry
    from ptinspect.document.modules import Module
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.pickling.pyobjects import Path

K = TypeVar("K")
V = TypeVar("V")

_SETS = ("builtins.set", "builtins.frozenset")


@dataclass(frozen=True, slots=True)
class EntryChange:
    """An entry (number, string, object) that was added, removed or changed."""

    path: Path
    change: str
    a: object
    b: object


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """A module whose class or configuration changed, or that only one document has. `a` and `b` are
    as `print(model)` shows it, without its children; None where it is absent."""

    root: Path
    name: str
    change: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class OptimizerChange:
    """An optimizer state that was added, removed or changed: in "class", "param_groups", "state" or
    "other" items, with details such as "lr 0.1 -> 0.01"."""

    path: Path
    change: str
    what: tuple[str, ...]
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A difference that does not make the documents differ: container, order, sharing."""

    kind: str
    message: str


def _paired(a: Mapping[K, V], b: Mapping[K, V]) -> Iterator[tuple[K, V | None, V | None, str]]:
    """Yield each key of two mappings, both values (None if absent), and `changed`, `removed` or
    `added`."""
    for key in dict.fromkeys([*a, *b]):
        change = "changed" if key in a and key in b else "removed" if key in a else "added"
        yield key, a.get(key), b.get(key), change


def compare_entries(a: Document, b: Document) -> list[EntryChange]:
    """Return the entries that differ, in the order of `a`, then those that only `b` has. What an
    entry shows may be less than it holds (the head of a list, the shape of an array): such
    values are compared whole."""
    changes: list[EntryChange] = []
    entries_a, entries_b = _numbered_entries(a), _numbered_entries(b)
    find_a, find_b = _entry_finder(a), _entry_finder(b)
    memo_a, memo_b = dict[int, bytes](), dict[int, bytes]()  # tensors are compared as such
    for (path, number), x, y, change in _paired(entries_a, entries_b):
        roots = [document.archive.root for document, entry in ((a, x), (b, y)) if entry]
        if not path and all(as_mapping(root) is not None for root in roots):
            continue  # the container of a state_dict without tensors
        shown_a, shown_b = (entry and _plain(entry.value, entry.type) for entry in (x, y))
        if x is not None and y is not None:
            value_a, value_b = x.value, y.value
            is_summary = value_a is None or isinstance(value_a, dict)
            if is_summary:
                value_a, value_b = find_a(path, number), find_b(path, number)
            may_be_equal = is_summary or x.type == y.type
            if may_be_equal and _digest(value_a, a, memo_a) == _digest(value_b, b, memo_b):
                continue
            if shown_a == shown_b and x.type != y.type:
                shown_a, shown_b = f"{x.type} {shown_a}", f"{y.type} {shown_b}"
        changes.append(EntryChange(path, change, shown_a, shown_b))
    return changes


def _numbered_entries(document: Document) -> dict[tuple[Path, int], Entry]:
    """Return the entries by path, numbered where keys that are objects have the same text."""
    entries: dict[tuple[Path, int], Entry] = {}
    counts: Counter[Path] = Counter()
    for entry in document.entries:
        entries[entry.path, counts[entry.path]] = entry
        counts[entry.path] += 1
    return entries


def _entry_finder(document: Document) -> Callable[[Path, int], Value]:
    """Return a function that returns the value at a numbered path. The paths in each pickle after
    the first begin with its index, which can also be that of an item of the first one."""
    archive = document.archive
    find_first, *find_others = map(value_finder, (archive.root, *archive.more_roots))

    def find(path: Path, number: int) -> Value:
        index = path[0] if path else 0
        if not isinstance(index, int) or not 0 < index <= len(find_others):
            return find_first(path)
        value = None if number else find_first(path)
        return find_others[index - 1](path[1:]) if value is None else value

    return find


def _plain(value: Value, kind: str) -> object:
    """Return an entry's value as builtins; for an object without one its class."""
    if value is None:
        return None if kind in ("NoneType", "None") else kind
    if isinstance(value, list | tuple):
        return [_plain(item, "NoneType") for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item, "NoneType") for name, item in value.items()}
    if isinstance(value, bool | float | str):
        return str(value) if isinstance(value, str) else value
    is_short = isinstance(value, int) and value.bit_length() <= 1000
    return value if is_short else brief_repr(value)


def _digest(root: Value, document: Document, memo: dict[int, bytes] | None = None) -> bytes:
    """Return a digest that is equal for equal inert values.

    Order counts in sequences, not in mappings and sets. A storage counts by its bytes, a class
    with its source (legacy files) by its name. The value is walked without recursion, and each
    object once, however many paths lead to it. A cycle counts as empty. With a `memo`, which has
    the digests of earlier calls, tensors and modules are all equal.
    """
    digests: dict[int, bytes] = {} if memo is None else memo
    entered: set[int] = set()
    stack: list[tuple[Value, _Insides | None]] = [(root, None)]
    while stack:
        value, insides = stack.pop()
        if insides is not None:
            parts = [b"".join(digests.get(id(v), b"") for v in group) for group in insides.groups]
            parts = parts if insides.is_ordered else sorted(parts)
            digests[id(value)] = _hash(insides.kind.encode(), *parts)
        elif id(value) not in entered and id(value) not in digests:
            entered.add(id(value))
            is_member = memo is not None and _is_member(value, document)
            text = "member" if is_member else _leaf_text(value, document)
            if text is not None:
                digests[id(value)] = _hash(text.encode("utf-8", "surrogatepass"))
                continue
            insides = _insides_of(value)
            stack.append((value, insides))
            stack += [(part, None) for group in insides.groups for part in group]
    return digests[id(root)]


def _hash(*parts: bytes) -> bytes:
    result = blake2b()
    for part in parts:
        result.update(len(part).to_bytes(4, "little") + part)
    return result.digest()


def _leaf_text(value: Value, document: Document) -> str | None:
    """Return a text that is equal for equal values without insides; None for others."""
    if isinstance(value, bytes | bytearray | Blob):
        return _bytes_text(value)
    if value is None or isinstance(value, bool | int | float | complex | str):
        kind = "str" if isinstance(value, str) else type(value).__name__
        return f"{kind}:{hex(value) if isinstance(value, int) else value}"
    if isinstance(value, Global) and value.changes is None:
        return f"global:{value.path}"
    if isinstance(value, Extension | OutOfBand):
        return repr(value)
    if isinstance(value, PersistentId):
        reference, parts = document.storage_of(value), value.value
        if reference is not None:
            result = sha256()
            for chunk in reference.storage.chunks(0, reference.storage.nbytes):
                result.update(chunk)
            return f"{reference.dtype.name}:{result.hexdigest()}"
        if isinstance(parts, tuple) and len(parts) > 1 and parts[0] == "module":
            return _leaf_text(parts[1], document)
        return None
    if not isinstance(value, Call):
        return None
    # Bytes, arrays and numpy scalars, whose calls differ between pickle protocols.
    array, scalar = as_array(value), as_scalar(value)
    if array is not None:
        data = _bytes_text(array.data)
        return data and f"{(array.dtype, array.shape, array.stride)}{data}"
    # Of some dtypes, such as datetime64, the number is None: then the call's arguments count.
    return _bytes_text(value) if scalar is None or scalar[1] is None else repr(scalar)


def _bytes_text(value: Value) -> str | None:
    """Return a digest of bytes, whatever calls write them; None for other values."""
    if isinstance(value, Blob):
        return f"bytes:{value.digest().hex()}"
    raw = as_bytes(value)
    return None if raw is None else f"bytes:{sha256(raw).hexdigest()}"


class _Insides(NamedTuple):
    """The values in a container, in groups such as the key and value of an item."""

    kind: str
    groups: list[tuple[Value, ...]]
    is_ordered: bool = True


def _insides_of(value: Value) -> _Insides:
    """Return the insides of a value. Sets are calls in protocol 2 and opcodes in protocol 4, where
    NEWOBJ_EX is an opcode as well."""
    kind, path = type(value).__name__, function_path(value) if isinstance(value, Call) else None
    if isinstance(value, dict):
        return _Insides(kind, [(key_value(key), item) for key, item in value.items()], False)
    changes = getattr(value, "changes", None)
    members = as_sequence(value) if path in _SETS and changes is None else None
    if isinstance(value, SetOf) or members is not None:
        return _Insides("set", [(item,) for item in as_sequence(value) or ()], False)
    parts: list[Value] = []
    if isinstance(value, list | tuple):
        parts += value
    elif isinstance(value, PersistentId):
        parts.append(value.value)
    elif isinstance(value, Call):
        is_new = path == "copyreg.__newobj_ex__"
        parts += value.args if is_new else (value.func, value.args, value.kwargs)
    if changes is not None:
        parts += (changes.states, changes.items, changes.pairs, changes.added)
    return _Insides(kind, [(part,) for part in parts])


def _paired_modules(
    a: Document, b: Document
) -> Iterator[tuple[tuple[Path, str], Module | None, Module | None, str]]:
    """Yield each module of the roots that both documents have; none if a side records none. Roots
    are paired by path or, if each document has only one, with each other."""
    modules_a, modules_b = (
        {(info.root, info.name): info.module for info in document.modules} for document in (a, b)
    )
    roots_a, roots_b = (
        dict.fromkeys(root for root, _ in items) for items in (modules_a, modules_b)
    )
    if len(roots_a) == len(roots_b) == 1:
        (root,) = roots_b = roots_a
        modules_b = {(root, name): module for (_, name), module in modules_b.items()}
    for key, x, y, change in _paired(modules_a, modules_b):
        if key[0] in roots_a and key[0] in roots_b:
            yield key, x, y, change


def compare_modules(a: Document, b: Document) -> list[ModuleChange]:
    """Return the modules whose class or configuration, as torch prints it, differs."""
    from ptinspect.display.tree import ModuleNodes

    def text(module: Module | None, nodes: ModuleNodes) -> str | None:
        if module is None:
            return None
        return f"{module.class_name}({nodes.node(module).extra_repr(nodes)})"

    nodes_a, nodes_b, changes = ModuleNodes(a), ModuleNodes(b), []
    for (root, name), x, y, change in _paired_modules(a, b):
        text_a, text_b = text(x, nodes_a), text(y, nodes_b)
        if text_a != text_b:
            changes.append(ModuleChange(root, name, change, text_a, text_b))
    return changes


def compare_attributes(a: Document, b: Document) -> Iterator[EntryChange]:
    """Yield the attributes of modules that differ, of a dict the items that differ, and what
    several modules share once. Tensors and modules in them are compared as such. The mode, training
    or evaluation, is named once for a module and those in it that have the same. Of torch's own
    classes only attributes in both files count, because versions of torch write different ones."""
    memo_a, memo_b = dict[int, bytes](), dict[int, bytes]()
    seen: set[tuple[int, int]] = set()
    modes: dict[tuple[Path, str], tuple[bool | None, bool | None]] = {}
    for (root, name), module_a, module_b, _ in _paired_modules(a, b):
        if module_a is None or module_b is None or module_a.class_path != module_b.class_path:
            continue
        prefix: Path = (*root, *(name.split(".") if name else ()))
        mode, parent = (module_a.training, module_b.training), (root, name.rpartition(".")[0])
        if mode in ((True, False), (False, True)) and modes.get(parent) != mode:
            yield EntryChange((*prefix, "training"), "changed", *mode)
        modes[root, name] = mode
        attributes = dict(module_a.other_attributes()), dict(module_b.other_attributes())
        stack = [((*prefix, key), x, y, change) for key, x, y, change in _paired(*attributes)]
        if lookup(module_a.class_path) is not None:
            stack = [item for item in stack if item[3] == "changed"]
        stack.reverse()
        while stack:
            path, x, y, change = stack.pop()
            if change == "changed":
                pair = (id(x), id(y))
                is_equal = type(x) is type(y) and x == y if is_simple(x) else pair in seen
                seen.add(pair)
                if is_equal or _digest(x, a, memo_a) == _digest(y, b, memo_b):
                    continue
            elif _is_member(x, a) or _is_member(y, b):
                continue
            if isinstance(x, dict) and isinstance(y, dict):
                items = [((*path, path_step(k)), v, w, what) for k, v, w, what in _paired(x, y)]
                stack += reversed(items)
                continue
            kinds = (describe(value) or (brief_repr(value), None) for value in (x, y))
            yield EntryChange(path, change, *(_plain(plain, kind) for kind, plain in kinds))


def _is_member(value: Value, document: Document) -> bool:
    """Return True for a tensor, a module, or a hook's handle, whose number counts all hooks."""
    if not isinstance(value, Call):
        return False
    is_handle = class_path(value) == "torch.utils.hooks.RemovableHandle"
    return is_handle or document.tensor_of(value) is not None or module_of(value) is not None


def compare_optimizers(
    a: Document, b: Document, changed_tensors: Iterable[Path]
) -> list[OptimizerChange]:
    """Return the optimizer states that differ. `changed_tensors` are the paths of tensors that
    differ, in either document."""
    optimizers_a, optimizers_b = ({item.path: item for item in d.optimizers} for d in (a, b))
    find_a, find_b = (value_finder(document.archive.root) for document in (a, b))
    paths = list(changed_tensors)
    changes = []
    for path, x, y, change in _paired(optimizers_a, optimizers_b):
        if x is None or y is None:
            document, other = (a, b) if y is None else (b, a)
            # No state_dict has the optimizer of a module.
            if other.modules or not any(path[: len(i.root)] == i.root for i in document.modules):
                changes.append(OptimizerChange(path, change, ()))
            continue
        details = _group_changes(a, b, x, y)
        aspects = ["param_groups"] if details else []
        if x.class_path != y.class_path:
            aspects.insert(0, "class")
            details.insert(0, f"{x.class_path} -> {y.class_path}")
        start = (*path, "state")
        is_changed = any(tensor[: len(start)] == start for tensor in paths)
        if is_changed or _plain_state(a, x) != _plain_state(b, y):
            aspects.append("state")
        others = [_other_items(a, find_a(path)), _other_items(b, find_b(path))]
        names = [f"{key} differs" for key, p, q, _ in _paired(*others) if p != q]
        is_object = {item.evidence == "recorded" for item in (x, y)}
        if names and len(is_object) == 1:  # only a pickled object has its class's defaults
            aspects.append("other")
            details += names
        if aspects:
            changes.append(OptimizerChange(path, change, tuple(aspects), tuple(details)))
    return changes


def _group_changes(a: Document, b: Document, items_a: Optimizer, items_b: Optimizer) -> list[str]:
    if len(items_a.groups) != len(items_b.groups):
        return [f"{len(items_a.groups)} -> {len(items_b.groups)} param_groups"]
    from ptinspect.display.summary_facts import format_hyperparameter as shown

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
                details.append(f"{label}{key_value(key)} {shown(a, x)} -> {shown(b, y)}")
    return details


def _setting(document: Document, value: Value) -> Value:
    """Return a hyper-parameter; tensors (a learning rate, betas) as their numbers."""
    if isinstance(value, list | tuple):
        items = [(item, document.tensor_of(item)) for item in value]
        return [item if x is None or x.numel != 1 else number_of(x) for item, x in items]
    tensor = document.tensor_of(value)
    if tensor is None:
        return value
    return number_of(tensor) if tensor.numel == 1 else list(tensor.shape)


def _plain_state(document: Document, optimizer: Optimizer) -> dict[object, bytes]:
    """Return digests of what an optimizer's state has besides tensors, such as `step`."""
    values: dict[object, bytes] = {}
    for number, (key, state) in enumerate(optimizer.state.items()):
        # A pickled optimizer has the parameters themselves as keys.
        parameter = number if isinstance(key, Call) else key_value(key)
        items = as_mapping(state)
        for name, value in (items if items is not None else {None: state}).items():
            if document.tensor_of(value) is None:
                values[parameter, str(key_value(name))] = _digest(value, document)
    return values


def _other_items(document: Document, value: Value) -> dict[str, bytes]:
    """Return digests of the items, or attributes, that no optimizer of torch needs, such as the
    scale of a loss or a second set of weights."""
    items = as_mapping(value)
    if items is None:
        items = attributes_of(value) if isinstance(value, Call) else {}
    return {
        str(key_value(key)): _digest(item, document)
        for key, item in items.items()
        if key_value(key) not in ("state", "param_groups")
    }
