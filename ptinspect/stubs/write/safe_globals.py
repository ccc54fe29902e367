"""SAFE_GLOBALS: what weights_only has to be told, so that it loads the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ptinspect.pickling.pyobjects import function_path
from ptinspect.pickling.values import Call, Global
from ptinspect.safety.load_advice import load_advice
from ptinspect.safety.policy.weights_only import ALLOWED
from ptinspect.stubs.collect.references import GETATTR, class_named, named
from ptinspect.stubs.expr.identifiers import plain, string
from ptinspect.stubs.expr.nodes import WIDTH, Atom, Items, assigned, columns
from ptinspect.stubs.torch.calls import class_text
from ptinspect.stubs.torch.imports import Imports
from ptinspect.torchnn import lookup

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.stubs.collect.object_graph import Graph

REACH = '''
def _reach(thing, name):
    """Stands in for getattr under weights_only: it reaches what this file reaches."""
    for owner, names in _REACHED:
        if (thing is owner or type(thing) is owner) and name in names:
            return getattr(thing, name)
    raise AttributeError(f"this file does not reach {name!r}")
'''


_WHEN_IMPORTED = (
    "torch.nested._internal.nested_tensor.", "torch.distributed.device_mesh.DeviceMesh",
    "torch.distributed.tensor.", "torch._dynamo.decorators._DimRange",
)  # fmt: skip
"""What torch takes by itself once the module is imported (`Unpickler.load`)."""


class Safe(NamedTuple):
    """pairs: source and pickled name. reached: owner as source, and the names it is asked for.
    why: what keeps weights_only from the file whatever it is told."""

    pairs: list[tuple[str, str]]
    reached: dict[str, list[str]]
    why: list[str]

    def without(self, left_out: set[str]) -> Safe:
        """Without classes that are not written."""
        return Safe(
            [pair for pair in self.pairs if pair[0] not in left_out],
            {owner: names for owner, names in self.reached.items() if owner not in left_out},
            self.why,
        )


def safe_globals(document: Document, graph: Graph, imports: Imports) -> Safe:
    """All that the file names beyond what weights_only takes by itself."""
    advice = load_advice(document)
    why = list(advice.why)
    pairs: dict[str, str] = {}
    reached, functions, dtypes, odd = _looked_at(graph)
    for path in dict.fromkeys((name.module, name.name) for name in document.globals):
        whole = f"{path[0]}.{path[1]}"
        plan = graph.plans.get(whole)
        if whole == GETATTR:
            pairs[whole] = "_reach"
        elif plan is not None:
            pairs[whole] = plan.ident
        elif whole not in ALLOWED and not whole.startswith(_WHEN_IMPORTED):
            text = _torch_owner(path) or imports.safe(*path)
            if whole.startswith("torch.fx."):
                continue  # said once, below
            if text is None:
                why.append(f"{whole}, which can act or is not known")
            else:
                pairs[whole] = text
                if path[0] == "builtins" and text.endswith(("Error", "Exception", "Warning")):
                    pairs[f"exceptions.{text}"] = text  # as protocol 2 spells it
    for plan in graph.plans.values():
        if plan.use is None:
            continue
        pairs.setdefault(plan.path, plan.ident)
    pairs |= functions
    for code in dtypes:
        pairs[f"numpy.dtypes.{code}"] = f'type(np.dtype("{code}"))'
    why += [f"a filled {plan.path}, a {plan.kind}" for plan in graph.plans.values()
            if plan.kind in ("dict", "list", "set")]  # fmt: skip
    why += [f"a filled {plan.path}" for plan in graph.plans.values()
            if plan.kind == "object" and plan.use is not None and any(
                call.items or call.pairs for call in plan.use.instances)]  # fmt: skip
    why += odd
    return Safe([(text, path) for path, text in pairs.items()], reached, list(dict.fromkeys(why)))


def _looked_at(graph: Graph) -> tuple[dict[str, list[str]], dict[str, str], list[str], list[str]]:
    """What getattr reaches, functions among that, numpy's dtypes, and why not."""
    reached: dict[str, list[str]] = {}
    functions: dict[str, str] = {}
    dtypes: dict[str, None] = {}
    odd: list[str] = []
    for value in graph.uses.calls:
        path = function_path(value)
        if path == GETATTR:
            _reach(value, graph, reached, odd)
        elif path == "numpy.dtype" and value.args and isinstance(value.args[0], str):
            if value.args[0].isalnum():
                dtypes[value.args[0]] = None
        elif path in ("collections.defaultdict", "collections.deque"):
            odd.append(f"a filled {path}" if value.pairs or value.items else "")
        elif path == "torch.fx.graph_module.reduce_graph_module":
            odd.append("an fx.GraphModule, whose code loading would run")
    return reached, functions, list(dtypes), [text for text in odd if text]


def _reach(call: Call, graph: Graph, reached: dict[str, list[str]], odd: list[str]) -> None:
    owner = call.args[0] if call.args else None
    name = call.args[1] if len(call.args) > 1 else None
    if not isinstance(name, str) or not plain(name) or name.startswith("_"):
        odd.append("a getattr that this stub does not stand in for")
        return
    of = named(owner)
    if of is None and isinstance(owner, Call):
        of = class_named(owner)
    plan = graph.plans.get(f"{of[0]}.{of[1]}") if of else None
    text = plan.ident if plan is not None else None
    if text is None and of is not None and isinstance(owner, Global):
        text = _torch_owner(of)
    if text is None and of is not None and isinstance(owner, Call) and name == "forward":
        text = _of_nn(f"{of[0]}.{of[1]}")
    if text is None:
        odd.append("a getattr on what is not this file's own")
        return
    names = reached.setdefault(text, [])
    if name not in names:
        names.append(str(name))


def _torch_owner(of: tuple[str, str]) -> str | None:
    """The class that torch's own functions are methods of, as `torch.relu` is pickled."""
    if of == ("torch._C", "_VariableFunctionsClass") or of == ("torch._C", "_VariableFunctions"):
        return f"torch._C.{of[1]}"
    return None


def _of_nn(path: str) -> str | None:
    """A class of torch.nn, whose objects' bound methods are kept and not called."""
    row = lookup(path)
    known = row is not None and row.path == path and path.startswith("torch.nn.modules.")
    return class_text(path) if known else None


def safe_lines(safe: Safe) -> list[str]:
    """The list as source, with the stand-in for getattr."""
    lines: list[str] = []
    if any(text == "_reach" for text, _ in safe.pairs):
        lines += ["", "# What the stand-in for getattr reaches: owners, and their names."]
        rows = [
            Items("()", [Atom(owner), Items("()", [Atom(string(name)) for name in names])])
            for owner, names in safe.reached.items()
        ]
        lines += assigned("_REACHED", Items("[]", list(rows)), 0)
        lines += ["", *REACH.rstrip().split("\n"), "", ""]
    lines.append("# For torch.serialization.safe_globals, under the names that the file has.")
    if not safe.pairs:
        return [*lines, "SAFE_GLOBALS = []"]
    lines.append("SAFE_GLOBALS = [")
    for text, path in safe.pairs:
        line = f"    ({text}, {string(path)}),"
        if columns(line) <= WIDTH:
            lines.append(line)
        else:  # each part on a line of its own
            lines += ["    (", f"        {text},", f"        {string(path)},", "    ),"]
    return [*lines, "]"]
