"""What torch.fx traced: a GraphModule is pickled with the source of its forward.

Source: `torch.fx.graph_module.GraphModule.__reduce__`, which writes the `__dict__` with `_code`
and a block of the imports that the code needs.
"""

from __future__ import annotations

import ast
import builtins
from typing import TYPE_CHECKING

from ptinspect.stubs.collect.classes import Instance, Plan
from ptinspect.stubs.collect.recorded_source import function
from ptinspect.stubs.expr.identifiers import plain

if TYPE_CHECKING:
    from ptinspect.document.modules import Module
    from ptinspect.stubs.collect.object_graph import Graph

HOME = "torch_fx_traced"
"""The module of these classes in a package."""
BOOKKEEPING = frozenset(
    (  # noqa: SIM905
        "_code code _lineno_map _prologue_start _tracer_cls _tracer_extras meta _replace_hooks"
        " _create_node_hooks _erase_node_hooks _deepcopy_hooks shape_env _graphmodule_cls_name"
        " _graph class_name"
    ).split()
)
_FROM = ("torch", "math", "operator", "builtins")
_IMPORTED = ("torch", "math", "operator", "torch.fx._pytree", "torch.utils._pytree")


class Traced:
    """name: as torch prints it; code: as the file has it, or None where it is left out;
    lines: of the forward; missing: names that the code has and the stub does not import."""

    __slots__ = ("code", "lines", "missing", "name")

    def __init__(self, name: str, code: str | None, imports: str) -> None:
        self.name = name
        self.code = code
        self.lines: list[str] = []
        self.missing: list[str] = []
        if code is not None:
            self.lines = function(code)
            self._import(imports)

    def _import(self, imports: str) -> None:
        """Puts what the code needs at its start: it is imported when it is called."""
        if not self.lines:
            return
        given, known = statements(imports), []
        for name in free_names(self.lines):
            if name == "torch":
                continue  # the stub has it
            if name in given:
                known.append(f"    {given[name]}")
            elif not hasattr(builtins, name):
                self.missing.append(name)
        self.lines[1:1] = known


def traced(graph: Graph, module: Module) -> Instance:
    """An instance of a class of the stub's own, one for each code."""
    code, imports = code_of(module)
    name = module.attributes.get("_graphmodule_cls_name")
    name = str(name) if isinstance(name, str) and plain(str(name)) else "GraphModule"
    if not graph.recovered or (code is not None and not function(code)):
        code = None
    path = f"{HOME}.{name}:{code or id(module.call)}"
    plan = graph.plans.get(path)
    if plan is None:
        plan = graph.plans[path] = Plan(
            HOME, path[len(HOME) + 1 :], graph.names.new(name), "module"
        )
        plan.traced = Traced(name, code, imports)
    return graph.foreign(module, plan, BOOKKEEPING)


def code_of(module: Module) -> tuple[str | None, str]:
    """The code, and its imports."""
    code = module.attributes.get("_code", module.attributes.get("code"))
    imports = next((str(arg) for arg in module.call.args if isinstance(arg, str)), "")
    return (str(code) if isinstance(code, str) else None), imports


def statements(imports: str) -> dict[str, str]:
    """By the name that it gives: each import of a module that does nothing but define."""
    made: dict[str, str] = {"NoneType": "NoneType = type(None)"}
    try:
        body = ast.parse(imports).body if len(imports) < 100_000 else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return made
    for node in body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            given = alias.asname or alias.name
            one = type(node)(**{**vars(node), "names": [alias]})
            if plain(given) and _harmless(node, alias.name):
                made[given] = ast.unparse(one)
    return made


def _harmless(node: ast.Import | ast.ImportFrom, name: str) -> bool:
    from ptinspect.safety.policy.table import policy

    if isinstance(node, ast.Import):
        return name in _IMPORTED
    if node.level or node.module not in _FROM or not plain(name):
        return False
    row = policy().row(str(node.module), name)
    known = row is not None and row.verdict in ("allowed", "reference", "module")
    return known or (str(node.module), name) in (
        ("torch", "device"),
        ("math", "inf"),
        ("math", "nan"),
    )


def free_names(lines: list[str]) -> list[str]:
    """Names that a function reads and does not set."""
    read: dict[str, None] = {}
    bound: set[str] = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                read[node.id] = None
            else:
                bound.add(node.id)
    return [name for name in read if name not in bound]
