"""A model's classes from the keys and shapes of its state_dict.

All of it is inferred. What a guess would make is held against the shapes that are there
(`expected`), and where it is not the same the tensors stand as bare parameters and buffers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ptinspect.document.select import path_matches
from ptinspect.stubs.collect.classes import BUFFER, CHILD, PARAMETER, Instance, Member, Plan
from ptinspect.stubs.expr.identifiers import plain, string
from ptinspect.stubs.expr.literals import FLOATS, zeros
from ptinspect.stubs.expr.nodes import Atom, Expr, Make, Many, Pairs
from ptinspect.stubs.infer.layer_guess import guess
from ptinspect.stubs.infer.neighbours import batch_norm_dims, chained, first_layer
from ptinspect.stubs.infer.quantized_guess import PACKED, guess_quantized

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path
    from ptinspect.stubs.collect.object_graph import Graph

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_SEQUENTIAL = re.compile(r".*\d|blocks|stages|features|net|main|body|model", re.ASCII)
"""Names under which blocks mostly lie in a Sequential: `layer1`, `features`."""
_LISTED = re.compile(r"(.*_)?(list|layers|convs|projs|fcs|norms|bns|linears|heads)\d*")
"""Names under which layers mostly lie in a ModuleList."""
_NEVER_ALONE = frozenset(
    ("nn.Linear", "nn.LayerNorm", "nn.RMSNorm", "nn.BatchNorm1d", "nn.BatchNorm2d", "nn.Embedding")
)
"""Layers that no one puts in a row with nothing between."""
GAPS = 3
"""So many numbers may be missing for each that is there, in a Sequential."""


class Branch:
    """A module, as keys tell of it: its tensors and its children, in the file's order. packed: the
    weight and bias of a quantized Linear."""

    __slots__ = ("children", "name", "packed", "path", "tensors")

    def __init__(self, name: str, path: tuple[str, ...]) -> None:
        self.name = name
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        self.children: dict[str, Branch] = {}
        self.packed: list[Tensor] = []


def path_of_state_dict(document: Document, entry: str | None) -> Path | None:
    """Where the state_dict lies: the entry, or the first one that holds tensors."""
    for path in document.contents.state_dicts:
        if entry is None or path_matches(path, entry):
            return path
    return None


def tree_of(document: Document, path: Path) -> Branch:
    """The tensors below `path` as a tree; the dots in their keys are its branches."""
    root = Branch("", ())
    depth = len(path)
    for info in document.contents.tensors:
        if len(info.path) <= depth or info.path[:depth] != path:
            continue
        key = str(info.path[depth])
        if len(info.path) == depth + 1:
            *parents, name = key.split(".")
            branch_at(root, parents).tensors[name] = info.tensor
        elif len(info.path) == depth + 2 and key.endswith(f".{PACKED}"):
            parents = key.removesuffix(f".{PACKED}").split(".")
            branch_at(root, parents).packed.append(info.tensor)
    return root


def branch_at(root: Branch, parts: list[str]) -> Branch:
    """The branch of that name, which is made where it is not there yet."""
    at = root
    for part in parts:
        if part not in at.children:
            at.children[part] = Branch(part, (*at.path, part))
        at = at.children[part]
    return at


def model_name(document: Document, path: Path) -> str:
    """What the checkpoint calls the model; `Model` where it does not."""
    for entry in document.entries:
        named = entry.path[:-1] == path[:-1] and entry.path[-1:] != ()
        if named and entry.path[-1] in ("model", "arch", "model_name", "architecture", "name"):
            text = entry.value if isinstance(entry.value, str) else ""
            if plain(text):
                return text if text[0].isupper() else camel(text)
    return "Model"


def camel(name: str) -> str:
    """`layer_norm` as `LayerNorm`, without numbers at the end."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name.rstrip("0123456789_")) if word]
    made = "".join(word[:1].upper() + word[1:] for word in words)
    return made if plain(made) else "Part"


class Inferring:
    """Makes the expressions of one tree, leaves first."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.name = name
        self.guessed: dict[str, None] = {}  # what else a class could be, in words
        self.dims: dict[int, int] = {}  # of BatchNorms
        self.first: Branch | None = None
        self.made: dict[int, Expr] = {}  # by id of the branch: modules of torch.nn

    def run(self, root: Branch) -> Instance:
        """The root's instance; its classes are added to the graph's plans."""
        self.dims = batch_norm_dims(root)
        self.first = first_layer(root)
        order, todo = [root], [root]
        while todo:
            inner = list(todo.pop().children.values())
            order += inner
            todo += [branch for branch in inner if not self.recognized(branch)]
        made: dict[int, Expr] = {}
        for branch in reversed(order):
            expr = self.branch(branch, made)
            made[id(branch)] = self.graph.part(expr) if expr.depth > 20 else expr
        found = made[id(root)]
        assert isinstance(found, Instance)
        return found

    def recognized(self, branch: Branch) -> bool:
        """Whether it is a module of torch.nn, with all that lies in it."""
        dims = self.dims.get(id(branch), 2)
        inside = branch.children
        found = guess_quantized(branch.name, branch.tensors, branch.packed, inside) or guess(
            branch.name, flat(branch), list(inside), dims, branch is self.first
        )
        if found is not None:
            self.guessed.update(dict.fromkeys(found.alternatives))
            self.made[id(branch)] = found.make
        return found is not None

    def branch(self, branch: Branch, made: dict[int, Expr]) -> Expr:
        """One module: of torch.nn, a container, or a class of its own."""
        if id(branch) in self.made:
            return self.made[id(branch)]
        children = {name: made[id(child)] for name, child in branch.children.items()}
        numbered = children and not branch.tensors and all(name.isdigit() for name in children)
        if branch.path and numbered:
            return self.numbered(branch, children)
        return self.own(branch, children)

    def numbered(self, branch: Branch, children: dict[str, Expr]) -> Expr:
        """A Sequential, or a ModuleList: see `listed`."""
        numbers = [int(name) for name in children]
        as_written = [str(number) for number in numbers] == list(children)
        if as_written and numbers == list(range(len(numbers))):
            listed = self.listed(branch, list(children.values()))
            self.guessed["a Sequential could be a ModuleList, and the other way round"] = None
            return Many(
                "nn.ModuleList" if listed else "nn.Sequential", [*children.values()], listed
            )
        close = as_written and numbers == sorted(numbers) and numbers[-1] < GAPS * len(numbers)
        if close:
            self.guessed["an Identity in a Sequential is any layer without weights"] = None
            items = [
                children.get(str(at), Make("nn.Identity", [])) for at in range(numbers[-1] + 1)
            ]
            return Many("nn.Sequential", items, False)
        pairs: list[tuple[Expr, Expr]] = [
            (Atom(string(name)), item) for name, item in children.items()
        ]
        return Make("nn.Sequential", [(None, Make("OrderedDict", [(None, Pairs(pairs))]))])

    def listed(self, branch: Branch, items: list[Expr]) -> bool:
        """Whether numbered children without a gap are rather a ModuleList.

        Classes of the model's own are, unless the name is one that is common for a Sequential;
        layers of torch.nn are where one does not take what another gives, or where nothing lies
        between layers that are all Linear or all normalize.
        """
        if all(isinstance(item, Instance) for item in items):
            name = next((part for part in reversed(branch.path) if not part.isdigit()), "")
            return not _SEQUENTIAL.fullmatch(name)
        kinds = {item.func for item in items if isinstance(item, Make)}
        alike = len(kinds) == 1 and len(items) > 1 and all(isinstance(i, Make) for i in items)
        if _LISTED.fullmatch(branch.name) or (alike and kinds <= _NEVER_ALONE):
            return True
        return not chained(branch)

    def own(self, branch: Branch, children: dict[str, Expr]) -> Instance:
        """An object of a class of the model's own."""
        instance = self.graph.instance(None, self.plan(branch))
        for name, child in children.items():
            instance.members.append(Member(CHILD, name, child))
        for name, tensor in branch.tensors.items():
            if is_buffer(name, tensor):
                instance.members.append(Member(BUFFER, name, zeros(tensor)))
            else:
                made = Make("nn.Parameter", [("data", zeros(tensor))], 1)
                instance.members.append(Member(PARAMETER, name, made))
        return instance

    def plan(self, branch: Branch) -> Plan:
        """One class for all branches whose paths differ in numbers alone."""
        key = tuple(re.sub(r"\d+", "", part) for part in branch.path)
        path = f"?{key}"
        known = self.graph.plans.get(path)
        if known is not None:
            return known
        last = next((part for part in reversed(key) if part), "")
        name = camel(last) if branch.path else self.name
        if branch.path and branch.path[-1].isdigit():
            name = name[:-1] if name.endswith("s") and len(name) > 3 else name
        ident = self.graph.names.new(name, "Part")
        made = self.graph.plans[path] = Plan("?", str(key), ident, "module")
        made.root = not branch.path
        return made


def is_buffer(name: str, tensor: Tensor) -> bool:
    """Whether it is rather a buffer than a parameter: no floats, or a running statistic."""
    dtype = tensor.dtype.name if tensor.dtype else ""
    return dtype not in FLOATS or name in _BUFFERS


DEEP = 3
"""Levels below a module of torch.nn, at most: `parametrizations.weight.0._u`."""


def flat(branch: Branch) -> dict[str, tuple[int, ...]]:
    """All tensors of a branch by dotted name; of one that is deep, a mark in place of the rest."""
    made: dict[str, tuple[int, ...]] = {}
    todo = [("", branch, 0)]
    while todo:
        prefix, at, level = todo.pop()
        made |= {prefix + name: tensor.shape for name, tensor in at.tensors.items()}
        if level < DEEP:
            todo += [(f"{prefix}{name}.", inner, level + 1) for name, inner in at.children.items()]
        elif at.children:
            made[f"{prefix}deeper"] = ()
    return made


def dtype_method(branch: Branch) -> str | None:
    """`half()` and the like, where all floats are of one such dtype."""
    from ptinspect.stubs.infer.post_init import METHODS

    found: set[str] = set()
    todo = [branch]
    while todo:
        at = todo.pop()
        found |= {t.dtype.name for t in at.tensors.values() if t.dtype and t.dtype.name in FLOATS}
        todo += at.children.values()
    return METHODS[found.pop()] if len(found) == 1 and "float32" not in found else None
