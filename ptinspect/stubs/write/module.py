"""The whole stub: docstring, imports, classes, `build()`, `SAFE_GLOBALS`, registration."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ptinspect.stubs.expr.identifiers import prose, string
from ptinspect.stubs.expr.nodes import NONE, Atom, Expr, Make, assigned, laid_out
from ptinspect.stubs.write.runtime_templates import ANYWHERE, MAIN
from ptinspect.stubs.write.safe_globals import safe_lines

if TYPE_CHECKING:
    from ptinspect.stubs.build import Work
    from ptinspect.stubs.collect.classes import Plan
    from ptinspect.stubs.infer.post_init import Set

ASSEMBLED = '''
def _assembled(kind, attributes=(), parameters=(), buffers=(), children=()):
    """A module put together from its parts, where no constructor makes it so."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    vars(made).update(attributes)
    made._parameters.update(parameters)
    made._buffers.update(buffers)
    made._modules.update(children)
    return made
'''
RESULT = '''
class _Result:
    """What a function returns that the file does not record; it keeps what it is given."""

    def __init__(self, function, *args, **kwargs):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.items, self.pairs = [], {}

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.pairs[key] = value

    def append(self, item):
        self.items.append(item)

    extend = add = append
'''


def stub_source(work: Work) -> str:
    """The file's text, ending in a newline."""
    return framed(work, _body(work))


def framed(work: Work, body: list[str], local: list[str] | None = None) -> str:
    """The body with its head: docstring, imports (local ones last), `__all__`."""
    imports = imports_of(work, "\n".join(body))
    if local:
        imports = [*imports, "", *local] if imports[0][:1] != "#" else local
    head = _docstring(work)
    exported = sorted({*_exported(work), "SAFE_GLOBALS", "build"}, key=export_key)
    if any(plan.recovered or (plan.traced and plan.traced.lines) for plan in work.plans):
        head += ["# ruff: noqa"]
    lines = [*head, "", *imports, "", *_all(exported), *body]
    return "\n".join(lines).rstrip("\n") + "\n"


def export_key(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """isort's order: constants, classes, the rest; numbers by their size."""
    group = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return group, [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def _exported(work: Work) -> list[str]:
    return [plan.ident for plan in work.plans]


def _all(names: list[str]) -> list[str]:
    from ptinspect.stubs.expr.nodes import Items

    return assigned("__all__", Items("[]", [Atom(string(name)) for name in names]), 0)


# --- the body


def _body(work: Work) -> list[str]:
    lines: list[str] = []
    if work.graph.assembled and _assembles(work):
        lines += ["", *ASSEMBLED.rstrip().split("\n")]
    if any(plan.kind == "function" and plan.use and plan.use.called for plan in work.plans):
        lines += ["", *RESULT.rstrip().split("\n")]
    for name, expr in work.parts:
        lines += ["", "", f"def {name}():", *laid_out("return ", expr, "", 4)]
    from ptinspect.stubs.write.classes import class_lines

    for plan in work.in_order:
        lines += ["", ""]
        lines += _source_notice(plan)
        fixups = work.fixups.get(plan.path, [])
        lines += class_lines(work.graph, plan, work.solved.get(plan.path), fixups, work.guess)
    return lines + ending(work)


def ending(work: Work, nested: bool = True) -> list[str]:
    """What follows the classes."""
    lines = [*(nested_lines(work, work.plans) if nested else ()), "", "", *_build(work), "", ""]
    lines += _spaced(safe_lines(work.safe))
    return lines + _registration(work)


def _assembles(work: Work) -> bool:
    """Whether what is written puts a module together by hand."""
    if work.only is None:
        return True
    from ptinspect.stubs.write.select_class import lines_of

    lines = [line for plan in work.plans for line in lines_of(work, plan)]
    lines += [work.root.text, *(expr.text for _, expr in work.parts)]
    return any("_assembled(" in line for line in lines)


def _source_notice(plan: Plan) -> list[str]:
    return []


def _spaced(lines: list[str]) -> list[str]:
    return lines[1:] if lines and not lines[0] else lines


def nested_lines(work: Work, plans: list[Plan]) -> list[str]:
    """Classes and functions that live in others: `Outer.Inner`."""
    lines: list[str] = []
    for plan in plans:
        outer, dot, name = plan.qualname.rpartition(".")
        owner = work.graph.plans.get(f"{plan.module}.{outer}") if dot else None
        if owner is None or owner.kind == "enum":
            continue
        lines.append(f"setattr({owner.ident}, {string(name)}, {plan.ident})")
    simple = [line if not _plain_target(line) else _plain_target(line) for line in lines]
    return ["", "", *[line for line in simple if line]] if lines else []


def _plain_target(line: str) -> str:
    """`Outer.Inner = Inner`, where the name can stand so."""
    from ptinspect.stubs.expr.identifiers import attribute

    owner, name, ident = line[8:-1].split(", ")
    inner = name[1:-1]
    return f"{owner}.{inner} = {ident}" if attribute(inner) else ""


def _build(work: Work) -> list[str]:
    lines = ["def build():", f'    """{work.built}"""']
    if work.root is NONE:
        what = "no module" if work.only is None else f"no {work.only.ident} that can be built"
        refusal = Make("NotImplementedError", [(None, Atom(string(f"the file holds {what}")))])
        return [*lines, *laid_out("raise ", refusal, "", 4)]
    if not work.root_fixups:
        return [*lines, *laid_out("return ", work.root, "", 4)]
    from ptinspect.stubs.write.classes import statements

    lines += assigned("model", work.root, 4)
    lines += statements(work.root_fixups, 4)
    return [*lines, "    return model"]


def _registration(work: Work) -> list[str]:
    plans = [plan for plan in work.plans if _can_register(plan)]
    if not plans:
        return []
    mains = all(plan.module in ("__main__", "__mp_main__") for plan in plans)
    text = MAIN if mains else ANYWHERE
    lines = ["", *text.rstrip().split("\n"), "", ""]
    for plan in plans:
        call = f"_register({plan.ident}, {string(plan.module)}, {string(plan.qualname)})"
        if len(call) > 88 or not call.isascii():
            expr: Expr = Make("_register", [
                (None, Atom(plan.ident)),
                (None, Atom(string(plan.module))),
                (None, Atom(string(plan.qualname))),
            ])  # fmt: skip
            lines += laid_out("", expr)
        else:
            lines.append(call)
    return lines if mains else [*lines, "_finder.start()"]


def _can_register(plan: Plan) -> bool:
    """Whether Python lets a class have that name."""
    name = plan.qualname.rpartition(".")[2]
    try:
        name.encode()
        plan.module.encode()
    except UnicodeEncodeError:
        return False
    if plan.use is None or plan.use.by_value:
        return False
    return "\0" not in name and "\0" not in plan.module and bool(name)


# --- head


def _docstring(work: Work) -> list[str]:
    document = work.document
    name = prose(os.path.basename(document.path))
    lines = [f'"""The classes of {name}, written by ptinspect from the file alone.', ""]
    lines += [f"sha256 {work.sha256}", ""]
    if not work.plans:
        lines += ["The file needs no class but torch's own and Python's.", ""]
    for plan in work.in_order:
        lines += _about(work, plan)
    if work.plans:
        lines.append("")
    if work.inferred:
        lines.append("All of it is inferred from the keys and shapes of a state_dict:")
        lines += [f"  - {prose(what)}" for what in sorted(work.inferred)]
        lines.append("")
    if work.safe.why:
        lines.append("weights_only cannot load it, whatever it is told; it holds")
        lines += [f"  - {prose(reason)}" for reason in work.safe.why]
        lines.append("`ptinspect convert` makes a file of it that weights_only loads.")
    elif work.safe.pairs:
        lines.append("With weights_only:")
        lines.append("    with torch.serialization.safe_globals(SAFE_GLOBALS):")
        lines.append(f'        torch.load("{name}")')
    else:
        lines.append("torch.load loads it as it is.")
    if work.graph.lost:
        lines += ["", "Not written here, and None instead:"]
        lines += [f"  - {prose(what)}" for what in list(work.graph.lost)[:50]]
    if work.graph.zeroed:
        lines += [
            "",
            "Zeros in what is built here, and no state_dict brings them; torch.load does:",
        ]
        lines += [f"  - {prose(what)}" for what in list(work.graph.zeroed)[:50]]
    if work.left_out:
        lines += ["", "Needed by the file too, and left out here:"]
        lines += [f"  - {what}" for what in work.left_out]
    return [*lines, '"""']


def _about(work: Work, plan: Plan) -> list[str]:
    """What of a class is recorded, what inferred, what unknown."""
    if plan.traced is not None:
        lines = [f"{plan.ident}, what torch.fx traced", "  recorded: its children and the rest"]
        known = "recorded too: the source of forward, printed below as it stands there"
        return [*lines, f"  {known}" if plan.traced.lines else "  left out, or odd: its forward"]
    if plan.use is None:
        return [f"{plan.ident}, a module (inferred)", "  unknown: its class, forward"]
    name = prose(f"{plan.module}.{plan.qualname}")
    if plan.kind == "module":
        solved = work.solved.get(plan.path)
        recorded = "children, parameters, buffers and attributes"
        inferred = []
        if plan.base is not None:
            inferred.append(f"that it extends {plan.base.name}, and so its forward")
        elif plan.sequence:
            inferred.append("that it extends Sequential, and so its forward")
        if solved is not None and solved.arguments:
            inferred.append("the names of its arguments")
        lines = [f"{name}, a module", f"  recorded: its {recorded}"]
        if inferred:
            lines.append(f"  inferred: {'; '.join(inferred)}")
        if plan.recovered:
            lines.append("  recorded too: the source of forward, printed below as it stands there")
        elif plan.unprinted:
            lines.append("  recorded, and left out here: the source of forward")
        elif plan.base is None and not plan.sequence:
            lines.append("  unknown: forward" if not work.guess else "  guessed: forward")
        else:
            lines.append("  unknown: whether it has a forward of its own")
        return lines
    words = {"object": "a class", "class": "a class that stands as a value"}
    kind = words.get(plan.kind, f"a subclass of {plan.kind}")
    if plan.kind in ("function", "exception"):
        kind = {"function": "a function", "exception": "an exception"}[plan.kind]
    if plan.kind == "enum":
        return [f"{name}, an enum (inferred)", *_of_members(plan)]
    unknown = "what it does"
    return [f"{name}, {kind} (inferred)", f"  unknown: {unknown}"]


def _of_members(plan: Plan) -> list[str]:
    """What of an enum's members is recorded: a value, or a name."""
    lines = []
    if plan.use is not None and plan.use.called:
        lines += ["  recorded: values of members", "  inferred: their names, made from the values"]
    if plan.use is not None and plan.use.reached:
        lines += ["  recorded: names of members", "  unknown: their values"]
    return [*lines, "  unknown: other members; whether it is an int or a str as well"]


_QUOTED = re.compile(r'''"""(?s:.*?)"""|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|#.*''')
_DOTTED = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.\w+)*")
_WORDS = {
    "OrderedDict": "from collections import OrderedDict",
    "nn": "from torch import nn",
    "np": "import numpy as np",
}
_MODULES = (
    "argparse", "collections", "datetime", "enum", "functools", "math", "pathlib", "sys", "types",
    "warnings",
)  # fmt: skip


def imports_of(work: Work, text: str, safe: bool = True) -> list[str]:
    """What the text names, in isort's order. safe: and what SAFE_GLOBALS names."""
    froms_safe = work.imports.froms if safe else {}
    modules_safe = work.imports.modules if safe else set[str]()
    written = set(_DOTTED.findall(_QUOTED.sub('""', text)))
    used = {name.partition(".")[0] for name in written}
    standard = [f"import {name}" for name in _MODULES if name in used]
    standard += [f"import {module}" for module in modules_safe if module not in _MODULES]
    if "importlib" in used:
        standard += ["import importlib.machinery", "import importlib.util"]
    standard = sorted(set(standard))
    if "OrderedDict" in used:
        standard.append(_WORDS["OrderedDict"])
    third = [_WORDS["np"]] if "np" in used else []
    deep = {name.rpartition(".")[0] for name in written if name.startswith(_NOT_LOADED)}
    third += [f"import {module}" for module in sorted(deep)]
    if "torch" in used:
        third.append("import torch")
    froms = [_WORDS["nn"]] if "nn" in used else []
    if "F" in used:
        froms.append("from torch.nn import functional as F")
    guarded: list[str] = []
    lines_before = bool(standard or third or froms)
    for module, names in sorted(froms_safe.items()):
        sure = [item for item in names if not _may_be_gone(module, item[0])]
        listed = [n if n == ident else f"{n} as {ident}" for n, ident in sorted(sure)]
        froms += _from(module, listed) if sure else []
        for name, ident in sorted(set(names) - set(sure)):
            line = f"from {module} import {name}" + (f" as {ident}" if name != ident else "")
            guarded += [
                *([""] if lines_before or guarded else []),
                "try:",
                f"    {line}",
                "except ImportError:",
                f"    {ident} = None",
            ]
    third = sorted(third, key=lambda line: line.split()[1]) + sorted(froms, key=_from_key)
    groups = [group for group in (standard, third) if group]
    lines: list[str] = []
    for group in groups:
        lines += ([""] if lines else []) + group
    return [*lines, *guarded] or ["# nothing to import"]


def _may_be_gone(module: str, name: str) -> bool:
    """Whether another version of torch may lack it: what is private comes and goes."""
    return name.startswith("_") or "._" in module


def _from(module: str, names: list[str]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 88:
        return [line]
    return ["\n".join([f"from {module} import (", *[f"    {name}," for name in names], ")"])]


def _from_key(line: str) -> str:
    return line.split()[1]


_NOT_LOADED = ("torch.ao.",)
"""What `import torch` does not load."""


__all__ = ["NONE", "Set", "stub_source"]
