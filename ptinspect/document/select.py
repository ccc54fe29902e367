"""Selecting a part of a file by its path, as `--entry` takes it: `model_state_dict`,
`optimizer.state[0]`, `models[1].ema`, or the dotted key that `show` prints.

Every command that has `--entry` resolves it here, and takes its error messages from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, module_of
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import bracketed, dotted, iter_children
from ptinspect.text import join_names

if TYPE_CHECKING:
    from ptinspect.pickling.pyobjects import Path
    from ptinspect.pickling.values import Value

MAX_LISTED = 12
"""Number of candidates that an error lists."""


class Subtree(NamedTuple):
    """A value in a file and the path that leads to it."""

    path: Path
    value: Value


def resolve_path(root: Value, entry: str) -> Subtree:
    """Return the one value that `entry` names, else PtInspectError. A key that contains dots counts
    as one step."""
    matches: list[Subtree] = []
    unfinished = [(Subtree((), root), entry)]
    while unfinished and len(matches) <= MAX_LISTED:
        parent, rest = unfinished.pop()
        if not rest:
            matches.append(parent)
            continue
        for step, value in named_children(parent.value):
            remainder = _strip_step(step, rest)
            if remainder is not None:
                unfinished.append((Subtree((*parent.path, step), value), remainder))
    if not matches:
        raise no_entry_error("entry", entry, [(step,) for step, _ in named_children(root)])
    if len({id(match.value) for match in matches}) > 1:
        raise _ambiguous_error(entry, [match.path for match in matches])
    return matches[0]


def select_path(paths: Iterable[Path], entry: str, noun: str) -> Path:
    """Return the one of `paths` that `entry` names, else PtInspectError. `noun` says what they are:
    `module`, `optimizer state`."""
    candidates = list(dict.fromkeys(paths))
    matches = [path for path in candidates if path_matches(path, entry)]
    if not matches:
        raise no_entry_error(noun, entry, candidates)
    if len(matches) > 1:
        raise _ambiguous_error(entry, matches)
    return matches[0]


def path_matches(path: Path, entry: str) -> bool:
    """Return True if `entry` is a way to write `path`."""
    rest: str | None = entry
    for step in path:
        rest = _strip_step(step, rest) if rest else None
    return rest == ""


def value_at(root: Value, path: Path) -> Value:
    """Return the value at an exact path, or None."""
    return value_finder(root)(path)


def value_finder(root: Value) -> Callable[[Path], Value]:
    """Return `value_at` for many paths below one root: each container is walked only once."""
    children: dict[Path, dict[str | int, Value]] = {}

    def find(path: Path) -> Value:
        value = root
        for depth, step in enumerate(path):
            container = path[:depth]
            if container not in children:
                names = children[container] = {}
                for name, child in named_children(value):
                    names.setdefault(name, child)
            if step not in children[container]:
                return None
            value = children[container][step]
        return value

    return find


def named_children(value: Value) -> Iterator[tuple[str | int, Value]]:
    """Yield the parts of a value, or of a module the parameters, buffers and children under their
    own names, with the path steps that lead to them."""
    module = module_of(value)
    if module is None:
        yield from iter_children(value)
        return
    for store in (PARAMETERS, BUFFERS, MODULES):
        yield from module.members(store)


def no_entry_error(noun: str, entry: str | None, paths: Iterable[Path]) -> PtInspectError:
    """Return the error for a `noun` that the file does not have, at `entry` or at all."""
    names = [_printable(dotted(path)) for path in paths if path]
    message = f"the file has no {noun}" if entry is None else f"there is no {noun} at {entry!r}"
    hint = f"--entry can be one of: {join_names(names, MAX_LISTED)}" if names else None
    return PtInspectError(message, hint=hint)


def several_entries_error(noun: str, paths: Iterable[Path], hint: str = "") -> PtInspectError:
    """Return the error for several candidates, from which the user has to choose."""
    names = [_printable(dotted(path)) for path in paths]
    return PtInspectError(
        f"the file has {len(names)} {noun}s: choose one with --entry",
        hint=hint or f"--entry can be one of: {join_names(names, MAX_LISTED)}",
    )


def _ambiguous_error(entry: str, paths: list[Path]) -> PtInspectError:
    names = join_names(map(bracketed, paths), MAX_LISTED)
    return PtInspectError(f"the entry {entry!r} is ambiguous: it could be {names}")


def _strip_step(step: str | int, text: str) -> str | None:
    """Return what follows `step` in a path's text, or None if the text starts otherwise."""
    forms = [f'["{step}"]', str(step)]
    if isinstance(step, int):
        forms.insert(0, f"[{step}]")
    for form in forms:
        if form and text.startswith(form):
            rest = text[len(form) :]
            if not rest or rest[0] == "[":
                return rest
            if rest[0] == "." and len(rest) > 1:
                return rest[1:]
    return None


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
