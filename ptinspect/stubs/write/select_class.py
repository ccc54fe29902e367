"""One class of a file's many: it, and what its source names."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from ptinspect.document.modules import module_of
from ptinspect.errors import PtInspectError
from ptinspect.stubs.collect.classes import Instance
from ptinspect.stubs.expr.identifiers import prose
from ptinspect.stubs.expr.nodes import NONE, Expr
from ptinspect.stubs.write.classes import class_lines

if TYPE_CHECKING:
    from ptinspect.stubs.build import Work
    from ptinspect.stubs.collect.classes import Plan


def narrow(work: Work, name: str) -> None:
    """Leaves of `work` the class of that name and what it needs; `build()` makes the first object
    of that class. PtInspectError where there is no such class, or more than one."""
    plan = chosen(work, name)
    first = _first(work, plan)
    if first is not work.root:
        work.root, work.root_fixups = first, []
        module = module_of(first.call) if isinstance(first, Instance) and first.call else None
        if module is not None and plan.path not in work.fixups:
            work.root_fixups = work.statements(module, "model")
    kept, parts = closure(work, plan)
    left_out = [one for one in work.plans if one.path not in kept]
    work.only = plan
    work.plans = [one for one in work.plans if one.path in kept]
    work.in_order = [one for one in work.in_order if one.path in kept]
    work.parts = [(part, expr) for part, expr in work.parts if part in parts]
    work.safe = work.safe.without({one.ident for one in left_out})
    work.left_out = [prose(one.path) for one in left_out]


def chosen(work: Work, name: str) -> Plan:
    """By `module.qualname`, by qualname, by its last part, or by its name in the stub."""
    plans = work.plans
    ways = (
        [plan for plan in plans if plan.path == name],
        [plan for plan in plans if plan.qualname == name],
        [plan for plan in plans if plan.qualname.rpartition(".")[2] == name],
        [plan for plan in plans if plan.ident == name],
    )
    found = next((way for way in ways if way), [])
    if len(found) == 1:
        return found[0]
    listed = ", ".join(prose(plan.path) for plan in (found or plans)[:20]) or "none"
    if found:
        raise PtInspectError(
            f"it has {len(found)} classes {prose(name)}",
            path=work.document.path,
            hint=f"give --class with one of: {listed}",
        )
    raise PtInspectError(
        f"it needs no class {prose(name)}", path=work.document.path, hint=f"it needs: {listed}"
    )


def _first(work: Work, plan: Plan) -> Expr:
    """What makes the first object of a class; the file's root, where that is one."""
    if isinstance(work.root, Instance) and work.root.plan is plan:
        return work.root
    return plan.instances[0] if plan.instances else NONE


def closure(work: Work, plan: Plan) -> tuple[set[str], set[str]]:
    """The paths of the classes, and the names of the `_part` functions, that the class needs,
    `build()` included; and, of a class within another, the outer one."""
    idents = {one.ident: one for one in work.plans}
    parts = dict(work.parts)
    kept, used = {plan.path}, set[str]()
    todo = [plan.ident, *names_in(["def build():", f"    return {work.root.text}"])]
    for item in work.root_fixups:
        todo += names_in([item.target or "_", item.expr.text if item.expr is not None else "_"])
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in parts:
            used.add(name)
            todo += names_in([parts[name].text])
        elif name in idents:
            one = idents[name]
            kept.add(one.path)
            todo += names_in(lines_of(work, one))
            outer = work.graph.plans.get(f"{one.module}.{one.qualname.rpartition('.')[0]}")
            todo += [outer.ident] if outer is not None else []
    return kept, used


def lines_of(work: Work, plan: Plan) -> list[str]:
    """The source of a class or function."""
    fixups = work.fixups.get(plan.path, [])
    solved = work.solved.get(plan.path)
    return list(class_lines(work.graph, plan, solved, fixups, work.guess))


def names_in(lines: list[str]) -> list[str]:
    """The names that source of ours reads."""
    tree = ast.parse("\n".join(lines))
    return list(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))
