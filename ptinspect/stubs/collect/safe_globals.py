"""Names of libraries as source, and SAFE_GLOBALS: names that weights_only has to allow."""

from __future__ import annotations

import builtins
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.dtypes import DTYPES, QSCHEMES
from ptinspect.pickling.pyobjects import GETATTR, class_name, function_path, global_name
from ptinspect.pickling.values import Call, Global
from ptinspect.safety.policy import WEIGHTS_ONLY_NAMES, load_policy
from ptinspect.stubs.collect.modules import MODULE_METHODS
from ptinspect.stubs.collect.values import NN, class_text, is_identifier
from ptinspect.text import read_sections
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptinspect.pickling.values import Value
    from ptinspect.stubs.collect.definitions import Definition, Names

_NAMES = read_sections("stubs/safe_names.txt")
_ALLOWED_ON_IMPORT, _INERT_CLASSES = tuple(_NAMES["import"]), tuple(_NAMES["inert"])
_TEXTS = {name: text for name, _, text in (row.partition(" ") for row in _NAMES["text"])}
_LAZY_METHODS = ("_infer_parameters", "_lazy_load_hook")
"""Bound methods that lazy modules have as hooks (torch.nn.modules.lazy.LazyModuleMixin)."""
_COMPILER = ("torch._dynamo.", "torch._TorchCompile")
_STATE_OF = {
    "numpy.random._pickle.__randomstate_ctor": ("RandomState", "mtrand"),
    "numpy.random._pickle.__generator_ctor": ("Generator", "_generator"),
}
"""Class, and its module in numpy.random, of the result of a function that BUILD then changes."""
_HARMLESS = ("allowed", "module", "reference", "unknown")
_REACHED_BY_NAME = ("torch", "torch.nn", "torch.nn.functional")
"""Modules whose names the stub writes as `torch.x` or `nn.x`, without an import of their own."""


# Names of libraries

_STANDARD_MODULES = ("argparse", "collections", "datetime", "functools", "math", "pathlib", "types")


def verdict_of(module: str, name: str) -> str | None:
    """Return the policy's verdict on a name, or None if the policy does not list it."""
    row = load_policy().row(module, name)
    return row.verdict if row is not None else None


def global_text(module: str, name: str) -> str | None:
    """Return a name as the stub writes it.

    Returns None for names that the stub does not import, or that should not be called.
    """
    if not all(is_identifier(part) for part in (*module.split("."), *name.split("."))):
        return None
    path, last = f"{module}.{name}", name.rpartition(".")[2]
    if module == "torch" and (name in DTYPES or name in QSCHEMES):
        return path
    if module == "torch._C._nn":
        return f"torch.nn.functional.{last}"
    if path.startswith("torch._C._VariableFunctions"):
        return f"torch.{last}"
    if path.startswith(("torch._C.TensorBase.", "torch._C._TensorBase.")):
        return None if last.startswith("_") else f"torch.Tensor.{last}"
    verdict = verdict_of(module, name)
    if module == "torch._C._fft" and verdict is not None:
        return f"torch.fft.{name.removeprefix('fft_')}"
    row = lookup(path)
    if row is not None and row.path == path:
        return class_text(path)
    if verdict not in ("allowed", "reference", "module"):
        return None
    if module == "builtins":
        return name if hasattr(builtins, name) else None
    if module.split(".")[0] == "torch":
        return f"nn.functional.{name}" if module == "torch.nn.functional" else path
    if module == "numpy":
        return f"np.{name}"
    if path == "collections.OrderedDict":
        return "OrderedDict"
    return path if module in _STANDARD_MODULES or path.startswith("collections.") else None


# SAFE_GLOBALS


@dataclass(frozen=True, slots=True)
class SafeGlobals:
    """What a stub passes to torch.serialization.safe_globals.

    Attributes:
        pairs: source and pickled name.
        reached: names that getattr is asked for, by the source of their owner.
        blockers: reasons why weights_only cannot load the file, whatever it allows.
    """

    pairs: list[tuple[str, str]]
    reached: dict[str, list[str]]
    blockers: list[str]

    def without(self, idents: set[str]) -> SafeGlobals:
        """Return a copy without classes that are not written."""
        return SafeGlobals(
            [pair for pair in self.pairs if pair[0] not in idents],
            {owner: names for owner, names in self.reached.items() if owner not in idents},
            self.blockers,
        )


@dataclass(slots=True)
class ImportTable:
    """Source for library names, and the imports that it needs.

    Attributes:
        imported_names: for each module, names that are imported from it, and their identifiers.
        modules: modules of the standard library that are imported whole.
    """

    names: Names
    imported_names: dict[str, dict[str, str]] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)

    def safe_name(self, module: str, name: str) -> str | None:
        """Return source for an entry of SAFE_GLOBALS; None for what can act or is unknown."""
        path = f"{module}.{name}"
        if not all(is_identifier(part) for part in path.split(".")) or path in _NAMES["never"]:
            return None
        text = _TEXTS.get(path.replace("numpy._core.", "numpy.core."))
        if text is not None:
            return text
        verdict = verdict_of(module, name)
        if verdict is None and path.startswith(_INERT_CLASSES):
            verdict = "allowed" if name.lstrip("_")[:1].isupper() else None
        if verdict not in _HARMLESS:
            return None
        top = module.partition(".")[0]
        if top == "torch":
            module = "torch._tensor" if module == "torch.tensor" else module
            path = f"{module}.{name}"
            row = lookup(path)
            if row is not None and row.path == path and path.startswith(NN):
                return class_text(path)
            text = global_text(module, name) if module in _REACHED_BY_NAME else None
            if text is not None:
                return text
            outer, dot, inner = name.partition(".")
            idents = self.imported_names.setdefault(module, {})
            if outer not in idents:
                idents[outer] = self.names.new(outer)
            return f"{idents[outer]}{dot}{inner}"
        if top == "numpy":
            return f"np.{name}" if module == "numpy" else None
        if module == "builtins":
            return name
        if top not in sys.stdlib_module_names:
            return None
        module = module.removesuffix("._local")
        if module == "collections" and name == "OrderedDict":
            return name
        self.modules.add(module)
        return f"{module}.{name}"


def collect_safe_globals(
    names: Iterable[Global],
    definitions: dict[str, Definition],
    calls: list[Call],
    imports: ImportTable,
    blockers: list[str],
) -> SafeGlobals:
    """Collect the names of a file that weights_only does not allow itself, and more blockers."""
    blockers = list(blockers)
    pairs: dict[str, str] = {}
    for module, name in dict.fromkeys((name.module, name.name) for name in names):
        path = f"{module}.{name}"
        if path == GETATTR:
            pairs[path] = "_reach"
        elif path in definitions:
            pairs[path] = definitions[path].ident
        elif path not in WEIGHTS_ONLY_NAMES and not path.startswith(_ALLOWED_ON_IMPORT):
            text = imports.safe_name(module, name)
            if path.startswith("torch.fx."):
                continue  # one blocker for all of it, below
            if path.startswith(_COMPILER):
                blockers.append("a module of torch.compile: loading it would compile it again")
                continue
            if text is None:
                reason = "which is unknown or could have side effects"
                if path == "logging.getLogger":
                    reason = "which would hand over a logger that the whole program shares"
                blockers.append(f"{path}, {reason}")
                continue
            if path in _STATE_OF:
                kind, home = _STATE_OF[path]
                pairs[f"numpy.random.{home}.{kind}"] = f"np.random.{kind}"
            pairs[path] = text
            if module == "builtins" and text.endswith(("Error", "Exception", "Warning")):
                pairs[f"exceptions.{text}"] = text  # as protocol 2 spells it
    filled: list[str] = []
    has_results = False
    for path, definition in definitions.items():
        usage, kind = definition.usage, definition.kind
        if usage.name:
            pairs.setdefault(path, definition.ident)
        if kind in ("dict", "list", "set"):
            blockers.append(f"a filled {path}, a {kind}")
        elif any(call.items or call.pairs for call in usage.calls):
            filled += {"object": [path], "function": [f"result of {path}"]}.get(kind, [])
        has_results |= kind == "function" and any(call.changes for call in usage.calls)
    blockers += [f"a filled {name}" for name in filled]
    if has_results:
        pairs["ptinspect._Result"] = "_Result"
    reached, dtypes, call_blockers = _look_at_calls(calls, definitions)
    for code in dtypes:
        pairs[f"numpy.dtypes.{code}"] = f'type(np.dtype("{code}"))'
    blockers += call_blockers
    return SafeGlobals(
        [(text, path) for path, text in pairs.items()], reached, list(dict.fromkeys(blockers))
    )


def _look_at_calls(
    calls: list[Call], definitions: dict[str, Definition]
) -> tuple[dict[str, list[str]], dict[str, None], list[str]]:
    """Return what getattr reaches by owner, codes of numpy dtypes, and blockers."""
    reached: dict[str, list[str]] = {}
    dtypes: dict[str, None] = {}
    blockers: list[str] = []
    for call in calls:
        path = function_path(call) or ""
        if path == GETATTR:
            owner, name = _getattr_replacement(call, definitions)
            if not owner:
                blockers.append(name)
            elif name not in reached.setdefault(owner, []):
                reached[owner].append(name)
        elif path == "numpy.dtype" and call.args and isinstance(call.args[0], str):
            if call.args[0].isalnum():
                dtypes[call.args[0]] = None
        elif path in ("collections.defaultdict", "collections.deque"):
            if call.pairs or call.items:
                blockers.append(f"a filled {path}")
        elif path == "torch.fx.graph_module.reduce_graph_module":
            blockers.append("an fx.GraphModule: loading it would run its code")
    return reached, dtypes, blockers


def _getattr_replacement(call: Call, definitions: dict[str, Definition]) -> tuple[str | None, str]:
    """Return source of the owner and the name that getattr is asked for.

    If the replacement for getattr does not support the call, returns None and the reason.
    """
    owner: Value = call.args[0] if call.args else None
    name = call.args[1] if len(call.args) > 1 else None
    is_method = name in MODULE_METHODS or name == "forward" or name in _LAZY_METHODS
    is_usable = isinstance(name, str) and is_identifier(name)
    if not is_usable or (str(name).startswith("_") and name not in _LAZY_METHODS):
        return None, "a getattr that this stub cannot replace"
    qualified = global_name(owner)
    if qualified is None and isinstance(owner, Call):
        qualified = class_name(owner)
    if qualified is not None:
        path = f"{qualified[0]}.{qualified[1]}"
        if path in definitions:
            return definitions[path].ident, str(name)
        if isinstance(owner, Global) and path.startswith("torch._C.") and path in _TEXTS:
            return _TEXTS[path], str(name)
        # Bound methods of torch.nn's objects are stored, and not called.
        row = lookup(path)
        is_torch_nn = row is not None and row.path == path and path.startswith(NN)
        if isinstance(owner, Call) and is_method and is_torch_nn:
            return class_text(path), str(name)
    return None, "a getattr on an object that this file does not define"
