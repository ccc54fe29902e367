"""All that is known of a file when its stub is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.modules import Module, module_of
from ptinspect.document.select import select_path
from ptinspect.errors import add_error_path
from ptinspect.pickling.values import Call, Value
from ptinspect.stubs.collect.classes import Instance, Plan
from ptinspect.stubs.collect.object_graph import Graph
from ptinspect.stubs.collect.references import Uses
from ptinspect.stubs.expr.identifiers import prose
from ptinspect.stubs.expr.nodes import NONE, Expr, Make
from ptinspect.stubs.infer import state_dict
from ptinspect.stubs.infer.constructors import Solved, solve
from ptinspect.stubs.infer.post_init import Fixups, Set
from ptinspect.stubs.torch.imports import Imports
from ptinspect.stubs.write.safe_globals import safe_globals

if TYPE_CHECKING:
    from ptinspect.document import Document


_CALLABLE = ("function", "object", "class")


class Options:
    """entry: the PATH of the model that `build()` makes. name: a class; it and what it needs.
    recovered: whether source that the file holds may be used. guess: whether a forward of the
    children in order is written."""

    def __init__(
        self,
        entry: str | None = None,
        name: str | None = None,
        recovered: bool = True,
        guess: bool = False,
    ) -> None:
        self.entry = entry
        self.name = name
        self.recovered = recovered
        self.guess = guess


class Work:
    """plans: what is written, in the file's order; in_order: leaves first. fixups: by class, what
    its constructor sets at the end. root: what `build()` returns, with root_fixups. parts:
    functions for what nests deep. only: the class that was asked for; None for all of them, and
    left_out the others, in words."""

    def __init__(self, document: Document, options: Options) -> None:
        self.document = document
        self.options = options
        self.guess = options.guess
        self.left_out: list[str] = []
        self.uses = Uses(document)
        self.graph = Graph(document, self.uses)
        self.graph.recovered = options.recovered
        self.imports = Imports(self.graph.names)
        self.root_call = root_of(document, options.entry)
        self.root: Expr = NONE
        self.inferred: list[str] = []  # of a state_dict: what else its modules could be
        self._dtype: str | None = None
        self._recover()
        self._add()
        if self.root_call is None:
            self._infer()
        self.solved: dict[str, Solved] = solve(self.graph)
        self.plans = list(self.graph.plans.values())
        self.in_order = _leaves_first(self.plans, self.solved)
        self.fixups: dict[str, list[Set]] = {}
        self.root_fixups: list[Set] = []
        self._fix()
        self.safe = safe_globals(document, self.graph, self.imports)
        self.parts = list(self.graph.parts)
        self.only: Plan | None = None
        if options.name is not None:
            from ptinspect.stubs.write.select_class import narrow

            narrow(self, options.name)
        self.sha256 = sha256_of(document)

    def _add(self) -> None:
        """Objects of foreign classes, and modules that are roots."""
        graph = self.graph
        roots = [info.module.call for info in self.document.modules if not info.name]
        self._mark_hooks()
        graph.roots = list(roots)
        for plan in graph.plans.values():
            if plan.use is None:
                continue
            plan.methods = _methods(plan, graph)
            if plan.kind in ("module", "object"):
                roots += plan.use.instances
        if self.root_call is not None:
            roots.insert(0, self.root_call)
        first = {id(call) for call in self._roots()}
        for call in roots:
            made = graph.add(call)
            if isinstance(made, Instance) and id(call) in first and not made.plan.root:
                made.plan.root = True
                made.plan.root_index = made.plan.instances.index(made)
        if self.root_call is not None:
            self.root = graph.expr(self.root_call)

    def _mark_hooks(self) -> None:
        """Functions and objects that state_dict() and load_state_dict() call."""
        plans = {path: plan for path, plan in self.graph.plans.items() if plan.kind in _CALLABLE}
        if not plans:
            return
        for info in self.document.modules:
            for kind, hooks in info.module.hooks.items():
                for path in hooks if "state_dict" in kind else ():
                    if path in plans:
                        plans[path].hook = True

    def _recover(self) -> None:
        """Methods whose source the file holds."""
        for source in self.document.archive.sources:
            plan = self.graph.plans.get(f"{source.module}.{source.name}")
            if plan is not None and plan.kind == "module":
                from ptinspect.stubs.collect.recorded_source import has_forward, methods

                plan.recovered = methods(source.text) if self.options.recovered else []
                plan.unprinted = not plan.recovered and has_forward(source.text)

    def _infer(self) -> None:
        """The model of a state_dict, where the file holds no module."""
        path = state_dict.path_of_state_dict(self.document, self.options.entry)
        if path is None:
            return
        tree = state_dict.tree_of(self.document, path)
        inferring = state_dict.Inferring(self.graph, state_dict.model_name(self.document, path))
        self.root = inferring.run(tree)
        self.inferred = list(inferring.guessed)
        self._dtype = state_dict.dtype_method(tree)

    def _roots(self) -> list[Call]:
        found = [info.module.call for info in self.document.modules if not info.name]
        return [*found, self.root_call] if self.root_call is not None else found

    def _fix(self) -> None:
        """Where the root's state is set: in its constructor, where it is one of the file's classes
        that has no other instance; else in `build()`."""
        done: set[str] = set()
        if self._dtype is not None and isinstance(self.root, Instance):
            self.fixups[self.root.plan.path] = [Set(f"self.{self._dtype}", None)]
        for call in dict.fromkeys(self._roots()):
            module = module_of(call)
            made = self.graph.expr(call)
            if module is None:
                continue
            if isinstance(made, Instance) and len(made.plan.instances) == 1:
                if made.plan.path not in done:
                    done.add(made.plan.path)
                    self.fixups[made.plan.path] = self.statements(module, "self")
            elif call is self.root_call:
                self.root_fixups = self.statements(module, "model")

    def statements(self, module: Module, name: str) -> list[Set]:
        """What is set once `name`, a module, is built."""
        return list(Fixups(self.graph, module, name).statements())

    @property
    def built(self) -> str:
        """The docstring of `build()`."""
        if self.only is not None and self.only.instances:
            return f"The first {self.only.ident} in the file, with untrained numbers."
        if self.root_call is None:
            if self.root is not NONE:
                return "A model that takes the file's state_dict, with untrained numbers."
            return "The file holds no module."
        if self.root_call is self.document.archive.root:
            return "The file's root, with untrained numbers."
        if self.options.entry is not None:
            return f"The module at {prose(self.options.entry)}, with untrained numbers."
        return "The first module in the file, with untrained numbers."


def _methods(plan: Plan, graph: Graph) -> list[str]:
    """Names that getattr takes from a class or its objects, and that are no class themselves."""
    from ptinspect.stubs.expr.identifiers import attribute
    from ptinspect.stubs.torch.calls import TAKEN

    if plan.kind == "enum" or plan.use is None:
        return []
    taken = {"forward", *TAKEN} if plan.kind == "module" else set[str]()
    return [
        name
        for name in plan.use.reached
        if attribute(name) and f"{plan.path}.{name}" not in graph.plans and name not in taken
    ]


def root_of(document: Document, entry: str | None) -> Call | None:
    """The module that `build()` makes. PtInspectError where the entry is none."""
    roots = [info for info in document.modules if not info.name]
    if entry is None:
        return roots[0].module.call if roots else None
    modules = {info.path: info.module.call for info in reversed(document.modules)}
    paths = [*(info.path for info in roots), *document.contents.state_dicts, *modules]
    with add_error_path(document.path):
        return modules.get(select_path(paths, entry, "module or state_dict"))


def _leaves_first(plans: list[Plan], solved: dict[str, Solved]) -> list[Plan]:
    """Classes that others use before them; those without instances first."""
    others = [plan for plan in plans if plan.path not in solved]
    return others + [item.plan for item in solved.values()]


def sha256_of(document: Document) -> str:
    """Of the whole file, read in pieces."""
    from hashlib import sha256

    made, source = sha256(), document.archive.source
    for at in range(0, source.size, 1 << 20):
        made.update(source.read(at, min(1 << 20, source.size - at)))
    return made.hexdigest()


__all__ = ["Make", "Options", "Value", "Work", "root_of", "sha256_of"]
