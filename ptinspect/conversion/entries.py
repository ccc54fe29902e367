"""Which part of a file is meant: what lies at a path, and where a checkpoint has its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, module_of
from ptinspect.document.objects import children, mapping
from ptinspect.document.walk import bracketed, dotted
from ptinspect.errors import PtInspectError

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.walk import Path
    from ptinspect.pickling.values import Value

NAMES = (
    "model_state_dict", "state_dict", "model", "module", "net", "network", "weights", "params",
    "ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema", "generator", "g_ema",
    "model_weights", "net_state_dict", "encoder", "backbone", "teacher", "student",
)  # fmt: skip
"""Entries that hold a model in common checkpoints."""

SHOWN = 12
"""Candidates that an error lists."""


class Part(NamedTuple):
    """A value of a file, and the path that leads to it."""

    path: Path
    value: Value

    @property
    def name(self) -> str:
        """The path as options take it; empty for the root."""
        return dotted(self.path) if self.path else ""


def root_of(document: Document) -> Part:
    """The whole file."""
    return Part((), document.archive.root)


def at(document: Document, text: str) -> Part:
    """What lies at a path such as `model_state_dict` or `models[1].ema`.

    A key that itself holds dots counts as one step. PtInspectError where nothing or more than one
    thing has that path.
    """
    found: list[Part] = []
    todo: list[tuple[Part, str]] = [(root_of(document), text)]
    while todo and len(found) <= SHOWN:
        part, rest = todo.pop()
        if not rest:
            found.append(part)
            continue
        for step, value in inside(part.value):
            left = _after(step, rest)
            if left is not None:
                todo.append((Part((*part.path, step), value), left))
    distinct = {id(part.value): part for part in reversed(found)}
    if len(distinct) == 1:
        return found[0]
    if found:
        listed = ", ".join(bracketed(part.path) for part in found[:SHOWN])
        raise PtInspectError(f"the entry {text!r} could be one of these: {listed}")
    names = [dotted((step,)) for step, _ in inside(document.archive.root)][:SHOWN]
    names = [name if name.isprintable() else ascii(name) for name in names]
    hint = f"there are: {', '.join(names)}" if names else "the file holds one value, no entries"
    raise PtInspectError(f"there is no entry {text!r}", hint=hint)


def inside(value: Value) -> Iterator[tuple[str | int, Value]]:
    """What lies in a value, with the steps by which a user names it: a module's parameters,
    buffers and children stand under their own names."""
    module = module_of(value)
    if module is None:
        yield from children(value)
        return
    for store in (PARAMETERS, BUFFERS, MODULES):
        yield from module.members(store)


def _after(step: str | int, rest: str) -> str | None:
    """What is left of a path's text behind a step; None where it begins with another."""
    forms = [f"[{step}]", f'["{step}"]'] if isinstance(step, int) else [f'["{step}"]', step]
    if isinstance(step, int):
        forms.append(str(step))
    for form in forms:
        if form and rest.startswith(form):
            left = rest[len(form) :]
            if not left or left[0] == "[":
                return left
            if left[0] == "." and len(left) > 1:
                return left[1:]
    return None


def models(document: Document) -> list[Part]:
    """The models in a file: outermost modules and state_dicts that no optimizer holds, each at its
    first path."""
    contents = document.contents
    paths = [info.root for info in contents.modules if not info.name] + contents.state_dicts
    skipped = [optimizer.path for optimizer in contents.optimizers]
    order = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    made: dict[int, Part] = {}
    for path in sorted(order, key=lambda path: (len(path), order[path])):
        if any(path[: len(other)] == other for other in skipped):
            continue
        value = value_at(document, path)
        if value is not None:
            skipped.append(path)
            made.setdefault(id(value), Part(path, value))
    return sorted(made.values(), key=lambda part: order[part.path])


def model_in(document: Document, command: Callable[[str], str]) -> Part:
    """The one model of a file: its root, else the one that a checkpoint holds; of several the one
    with a usual name, if it is alone in that.

    PtInspectError for none and for several; `command` makes the hint for an entry.
    """
    root = root_of(document)
    if document.kind in ("module", "state_dict"):
        return root
    if document.kind == "tensors" and _has_names(root.value):
        return root
    if mapping(root.value) == {}:  # what the state_dict of a model without parameters is
        return root
    found = models(document)
    named = [part for part in found if part.path and part.path[-1] in NAMES]
    if len(found) == 1 or len(named) == 1:
        return (named or found)[0]
    if not found:
        raise PtInspectError(
            f"there is no model in it (it is {_KINDS.get(document.kind, document.kind)})",
            hint="--to same writes it as it is; --entry PATH chooses a part of it",
        )
    lines = [command(part.name) for part in (named or found)[:SHOWN]]
    raise PtInspectError(
        f"it holds {len(named or found)} models: choose one", hint="\n".join(lines)
    )


def _has_names(value: Value) -> bool:
    """Whether it is a mapping by names: of tensors and, as the kind says, other things."""
    items = mapping(value)
    return bool(items) and all(isinstance(key, str) for key in items or ())


_KINDS = {
    "optimizer": "an optimizer's state",
    "tensor": "one tensor",
    "tensors": "a structure of tensors",
    "checkpoint": "a checkpoint of other things",
    "other": "something else",
}


def value_at(document: Document, path: Path) -> Value:
    """The value at an exact path; None where none is."""
    value = document.archive.root
    for step in path:
        for name, inner in inside(value):
            if name == step:
                value = inner
                break
        else:
            return None
    return value
