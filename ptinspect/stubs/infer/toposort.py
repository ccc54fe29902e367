"""Orders: of attributes, and of classes by what they contain."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heappop, heappush
from itertools import pairwise
from typing import TypeVar

from ptinspect.stubs.collect.classes import Definition, Instance
from ptinspect.stubs.expr.nodes import CallExpr, Expr

T = TypeVar("T", bound=Hashable)


def merge_orders(names: list[T], orders: list[tuple[T, ...]]) -> list[T]:
    """Return `names` in an order that agrees with each of `orders`, as far as these agree.

    Otherwise the order of `names` decides.
    """
    if len(orders) == 1:
        return list(orders[0])
    place = {name: index for index, name in enumerate(names)}
    successors: dict[T, dict[T, None]] = {name: {} for name in names}
    for order in orders:
        for first, second in pairwise(order):
            successors[first][second] = None
    waiting = dict.fromkeys(names, 0)
    for following in successors.values():
        for name in following:
            waiting[name] += 1
    ready = [place[name] for name in names if not waiting[name]]  # sorted, and so a heap
    merged: dict[T, None] = {}
    next_unmerged = 0
    while len(merged) < len(names):
        if ready:
            name = names[heappop(ready)]
        else:  # the orders contradict each other
            while names[next_unmerged] in merged:
                next_unmerged += 1
            name = names[next_unmerged]
        if name in merged:
            continue
        merged[name] = None
        for successor in successors[name]:
            waiting[successor] -= 1
            if not waiting[successor]:
                heappush(ready, place[successor])
    return list(merged)


def instances_in(expr: Expr, parts: dict[str, Expr]) -> Iterator[Instance]:
    """Yield the instances in an expression, including those in the part functions it calls."""
    stack, seen = [expr], set()
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Instance):
            yield item
            continue
        if isinstance(item, CallExpr) and item.func in parts:
            stack.append(parts[item.func])
        stack += item.children()


def dependency_groups(
    definitions: list[Definition], parts: dict[str, Expr]
) -> list[list[Definition]]:
    """Group classes whose instances contain each other, leaves first (Tarjan's algorithm)."""
    contained: dict[str, list[Definition]] = {}
    for definition in definitions:
        contained[definition.path] = list(
            {
                inner.definition.path: inner.definition
                for instance in definition.instances
                for member in instance.members
                for inner in instances_in(member.expr, parts)
            }.values()
        )
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[Definition] = []
    on_stack: set[str] = set()
    groups: list[list[Definition]] = []
    for start in definitions:
        frames: list[tuple[Definition, Iterator[Definition]]] = []
        entering: Definition | None = start if start.path not in index else None
        while entering is not None or frames:
            if entering is not None:
                path = entering.path
                index[path] = low[path] = len(index)
                stack.append(entering)
                on_stack.add(path)
                frames.append((entering, iter(contained[path])))
                entering = None
            definition, rest = frames[-1]
            path = definition.path
            child = next(rest, None)
            if child is not None:
                if child.path not in index:
                    entering = child
                elif child.path in on_stack:
                    low[path] = min(low[path], index[child.path])
                continue
            frames.pop()
            if frames:
                outer = frames[-1][0].path
                low[outer] = min(low[outer], low[path])
            if low[path] == index[path]:
                start_of_group = stack.index(definition)
                groups.append(stack[start_of_group:])
                on_stack -= {item.path for item in groups[-1]}
                del stack[start_of_group:]
    return groups
