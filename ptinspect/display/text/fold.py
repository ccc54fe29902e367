"""Repeated blocks as one line: `layers.{0..31}.attn.weight × 32`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

LEAST = 3
"""Repetitions from which folding is worth a pattern."""


class Folded(NamedTuple):
    """A key, or the pattern of several; how many it stands for; what they have in common."""

    key: str
    times: int
    facts: Hashable


class _Item:
    __slots__ = ("count", "facts", "tokens")

    def __init__(self, tokens: tuple[str, ...], facts: Hashable, count: int) -> None:
        self.tokens = tokens
        self.facts = facts
        self.count = count


def fold(rows: Iterable[tuple[str, Hashable]]) -> list[Folded]:
    """Rows whose keys differ in one number that counts up, and in nothing else, become one; so
    do those that result. The order is that of the first of each."""
    items = [_Item(tuple(key.split(".")), facts, 1) for key, facts in rows]
    deepest = max((len(item.tokens) for item in items), default=0)
    for place in reversed(range(deepest)):
        items = _folded_at(items, place)
    return [Folded(".".join(item.tokens), item.count, item.facts) for item in items]


def _folded_at(items: list[_Item], place: int) -> list[_Item]:
    groups: dict[Hashable, list[_Item]] = {}
    for number, item in enumerate(items):
        tokens = item.tokens
        if place < len(tokens) and _is_number(tokens[place]):
            rest = (tokens[:place], tokens[place + 1 :], item.facts, item.count)
            groups.setdefault(rest, []).append(item)
        else:
            groups[number] = [item]
    made: list[_Item] = []
    for group in groups.values():
        made += group if len(group) < LEAST else _runs(group, place)
    return made


def _is_number(token: str) -> bool:
    return token.isascii() and token.isdigit() and len(token) < 10 and str(int(token)) == token


def _runs(group: list[_Item], place: int) -> list[_Item]:
    """Runs of numbers that follow each other, in the group's order, each as one item."""
    made: list[_Item] = []
    run = [group[0]]
    for item in [*group[1:], None]:
        if item is not None and int(item.tokens[place]) == int(run[-1].tokens[place]) + 1:
            run.append(item)
            continue
        made += run if len(run) < LEAST else [_joined(run, place)]
        run = [item] if item is not None else []
    return made


def _joined(run: list[_Item], place: int) -> _Item:
    first, last = run[0].tokens, run[-1].tokens
    token = f"{{{first[place]}..{last[place]}}}"
    tokens = (*first[:place], token, *first[place + 1 :])
    return _Item(tokens, run[0].facts, sum(item.count for item in run))
