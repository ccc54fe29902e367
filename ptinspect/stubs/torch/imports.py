"""What a stub imports: torch, numpy and, of the standard library, what the policy allows."""

from __future__ import annotations

import sys

from ptinspect.stubs.expr.identifiers import Names
from ptinspect.stubs.expr.identifiers import plain as is_plain
from ptinspect.stubs.torch.calls import class_text
from ptinspect.stubs.torch.objects import global_text, verdict_of
from ptinspect.torchnn import lookup

_HARMLESS = ("allowed", "module", "reference", "unknown")
_NOT_OURS = frozenset({"operator.getitem", "builtins.getattr", "logging.getLogger"})
_HERE = ("torch", "torch.nn", "torch.nn.functional")  # what `torch.x` and `nn.x` reach
_INERT = ("torch.optim.", "torch.utils.data.", "torch.nn.utils.", "torch.nn.modules.module._W")
"""Where torch's classes are made by NEWOBJ and hold what they are given; the policy, which
judges calls, has no line for each of them."""


class Imports:
    """Gives source for names of torch, numpy and the standard library."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known: dict[tuple[str, str], str] = {}
        self.froms: dict[str, list[tuple[str, str]]] = {}  # module: names, and what they are here
        self.modules: set[str] = set()

    def safe(self, module: str, name: str) -> str | None:
        """Source for what may stand in SAFE_GLOBALS; None for what could act, and for what is
        nobody's."""
        path = f"{module}.{name}"
        if not all(is_plain(part) for part in path.split(".")) or path in _NOT_OURS:
            return None
        if path == "torch.ScriptObject":  # of a class that torch's C++ registers: packed weights
            return path
        verdict = verdict_of(module, name)
        if verdict is None and path.startswith(_INERT) and name.lstrip("_")[:1].isupper():
            verdict = "allowed"
        if verdict not in _HARMLESS:
            return None
        top = module.partition(".")[0]
        if top == "torch":
            return self.torch(module, name)
        if top == "numpy":
            return _NUMPY.get(path.replace("._core.", ".core.")) or self.numpy(module, name)
        if module == "builtins":
            return name
        return self.standard(module, name) if top in sys.stdlib_module_names else None

    def torch(self, module: str, name: str) -> str:
        """`nn.Linear`, `torch.relu`, or a name that is imported."""
        module = "torch._tensor" if module == "torch.tensor" else module
        path = f"{module}.{name}"
        row = lookup(path)
        if row is not None and row.path == path and path.startswith("torch.nn.modules."):
            return class_text(path)
        text = global_text(module, name) if module in _HERE else None
        if text is not None:
            return text
        key = (module, name)
        if key not in self._known:
            outer, dot, inner = name.partition(".")
            ident = self._known.get((module, outer))
            if ident is None:
                ident = self._names.new(outer)
                self._known[module, outer] = ident
                self.froms.setdefault(module, []).append((outer, ident))
            self._known[key] = f"{ident}{dot}{inner}"
        return self._known[key]

    def numpy(self, module: str, name: str) -> str | None:
        """A class of numpy's, under its public name."""
        return f"np.{name}" if module == "numpy" else None

    def standard(self, module: str, name: str) -> str:
        """Through the module, which is imported."""
        module = module.removesuffix("._local")
        if module == "collections" and name == "OrderedDict":
            return name
        self.modules.add(module)
        return f"{module}.{name}"


_NUMPY = {
    "numpy.core.multiarray._reconstruct": "np.zeros(0).__reduce__()[0]",
    "numpy.core.multiarray.scalar": "np.float64(0).__reduce__()[0]",
    "numpy.core.numeric._frombuffer": "np.zeros(1).__reduce_ex__(5)[0]",
}
"""Functions that moved between numpy 1 and 2: asked of an array, not of a module."""
