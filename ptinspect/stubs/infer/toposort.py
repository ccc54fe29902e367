"""In which order classes are solved: those that others are made of first."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heappop, heappush
from itertools import pairwise
from typing import TypeVar

from ptinspect.stubs.collect.classes import Instance, Plan
from ptinspect.stubs.expr.nodes import Each, Expr, Items, Make, Many, Pairs, Star

Name = TypeVar("Name", bound=Hashable)


def agreed(names: list[Name], ways: list[tuple[Name, ...]]) -> list[Name]:
    """The names in an order that is that of each way, as far as these agree; else as they are
    first seen."""
    if len(ways) == 1:
        return list(ways[0])
    place = {name: at for at, name in enumerate(names)}
    after: dict[Name, dict[Name, None]] = {name: {} for name in names}
    for way in ways:
        for first, second in pairwise(way):
            after[first][second] = None
    waits = dict.fromkeys(names, 0)
    for following in after.values():
        for name in following:
            waits[name] += 1
    ready = [place[name] for name in names if not waits[name]]  # in order, and so a heap
    made: dict[Name, None] = {}
    first_left = 0
    while len(made) < len(names):
        if ready:
            name = names[heappop(ready)]
        else:  # the ways contradict each other
            while names[first_left] in made:
                first_left += 1
            name = names[first_left]
        if name in made:
            continue
        made[name] = None
        for following_name in after[name]:
            waits[following_name] -= 1
            if not waits[following_name]:
                heappush(ready, place[following_name])
    return list(made)


def insides(expr: Expr) -> list[Expr]:
    """The expressions directly inside one."""
    if isinstance(expr, Make):
        return [value for _, value in expr.args]
    if isinstance(expr, Items | Many):
        return expr.items
    if isinstance(expr, Pairs):
        return [item for pair in expr.items for item in pair]
    if isinstance(expr, Each):
        return [expr.item, expr.over]
    if isinstance(expr, Star):
        return [expr.inner]
    return []


def instances_in(expr: Expr, parts: dict[str, Expr]) -> Iterator[Instance]:
    """The objects that stand in an expression, those of functions that it calls included."""
    todo, seen = [expr], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Instance):
            yield item
            continue
        if isinstance(item, Make) and item.func in parts:
            todo.append(parts[item.func])
        todo += insides(item)


def depth_of(expr: Expr) -> int:
    """Brackets inside brackets, those of objects included."""
    if isinstance(expr, Instance):
        return expr.depth
    return max((depth_of(item) for item in insides(expr)), default=0) + (expr.depth > 0)


def groups(plans: list[Plan], parts: dict[str, Expr]) -> list[list[Plan]]:
    """Classes in groups, leaves first; in a group each is made of the others (Tarjan)."""
    needs: dict[str, list[Plan]] = {}
    for plan in plans:
        found: dict[str, Plan] = {}
        for instance in plan.instances:
            for member in instance.members:
                for inner in instances_in(member.expr, parts):
                    found[inner.plan.path] = inner.plan
        needs[plan.path] = list(found.values())
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[Plan] = []
    on_stack: set[str] = set()
    made: list[list[Plan]] = []
    for start in plans:
        if start.path in index:
            continue
        work: list[tuple[Plan, Iterator[Plan]]] = []
        _enter(start, index, low, stack, on_stack, work, needs)
        while work:
            plan, rest = work[-1]
            child = next(rest, None)
            if child is None:
                work.pop()
                if work:
                    above = work[-1][0].path
                    low[above] = min(low[above], low[plan.path])
                if low[plan.path] == index[plan.path]:
                    made.append(_close(plan, stack, on_stack))
            elif child.path not in index:
                _enter(child, index, low, stack, on_stack, work, needs)
            elif child.path in on_stack:
                low[plan.path] = min(low[plan.path], index[child.path])
    return made


def _enter(
    plan: Plan,
    index: dict[str, int],
    low: dict[str, int],
    stack: list[Plan],
    on_stack: set[str],
    work: list[tuple[Plan, Iterator[Plan]]],
    needs: dict[str, list[Plan]],
) -> None:
    index[plan.path] = low[plan.path] = len(index)
    stack.append(plan)
    on_stack.add(plan.path)
    work.append((plan, iter(needs[plan.path])))


def _close(plan: Plan, stack: list[Plan], on_stack: set[str]) -> list[Plan]:
    group: list[Plan] = []
    while True:
        item = stack.pop()
        on_stack.discard(item.path)
        group.append(item)
        if item is plan:
            return group[::-1]
