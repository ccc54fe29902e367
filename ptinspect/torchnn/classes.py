"""The rows of `tables` as `ModuleClass`es, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from ptinspect.pickling.values import Value
from ptinspect.torchnn.arguments import READERS, Argument, children, literal, parse_arguments, same
from ptinspect.torchnn.attributes import MISSING, find_attribute, items_of, module_attributes
from ptinspect.torchnn.protocols import Attributes
from ptinspect.torchnn.tables import (
    activation,
    container,
    conv,
    linear,
    loss,
    norm,
    pooling,
    recurrent,
)

ROOT = "torch.nn.modules.module.Module"
PARAMETRIZED = "torch.nn.utils.parametrize.Parametrized"
RENAMED = (  # prefixes that older versions of torch wrote, the longer before the shorter
    ("torch.nn.quantized._reference.", "torch.ao.nn.quantized.reference."),
    ("torch.nn.quantized.", "torch.ao.nn.quantized."),
    ("torch.nn.quantizable.", "torch.ao.nn.quantizable."),
    ("torch.nn.intrinsic.", "torch.ao.nn.intrinsic."),
    ("torch.nn.qat.", "torch.ao.nn.qat."),
    ("torch.quantization.", "torch.ao.quantization."),
)
GONE = {  # classes that torch 2.13 has no more, and the class whose row they get
    "torch.nn.modules.linear._LinearWithBias": (
        "torch.nn.modules.linear.NonDynamicallyQuantizableLinear"
    ),
    "torch.nn.parallel.distributed_cpu.DistributedDataParallelCPU": (
        "torch.nn.parallel.DistributedDataParallelCPU"
    ),
    "torch.ao.nn.quantized.modules.activation.ReLU": "torch.nn.modules.activation.ReLU",
    "torch.ao.quantization.observer._ObserverBase": (
        "torch.ao.quantization.observer.UniformQuantizationObserverBase"
    ),
    "torch.fx.graph_module.GraphModule.__new__.<locals>.GraphModuleImpl": (
        "torch.fx.graph_module.GraphModule"
    ),
}


class Mark:
    """An attribute that an instance must have: `name`, `name=literal` (with this value) or
    `name/length` (as a tuple of this length); MISSING and 0 where nothing is asked."""

    __slots__ = ("length", "name", "value")

    def __init__(self, text: str) -> None:
        name, _, length = text.partition("/")
        self.name, _, value = name.partition("=")
        self.value: Value = literal(value) if value else MISSING
        self.length = int(length or 0)


class ModuleClass:
    """What is known of one module class of torch.

    `path` is its `__module__` and `__qualname__` in torch 2.13; `printed` what `_get_name`
    answers where that is not the class's own name; `template` its `extra_repr` as data,
    `style` its `__repr__`, `fill` what `__setstate__` puts where an old file has nothing.
    """

    __slots__ = (
        "_argument_text",
        "_arguments",
        "_mark_text",
        "_marks",
        "fill",
        "path",
        "printed",
        "style",
        "template",
    )

    def __init__(self, path: str, fields: dict[str, str]) -> None:
        self.path = path
        self.template = fields.get("print", "")
        self.style = fields.get("style", "module")
        self.printed = fields.get("name")
        filled = (field.partition("=") for field in fields.get("fill", "").split())
        self.fill: dict[str, Value] = {name: literal(text) for name, _, text in filled}
        self._argument_text = fields.get("args", "")
        self._mark_text = fields.get("marks", "")
        self._arguments: tuple[Argument, ...] | None = None
        self._marks: tuple[Mark, ...] | None = None

    def __repr__(self) -> str:
        return f"ModuleClass({self.path!r})"

    @property
    def name(self) -> str:
        """The class's own name."""
        return self.path.rpartition(".")[2]

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The constructor's arguments, in order."""
        if self._arguments is None:
            home = self.path.rpartition(".")[0]
            text = self._argument_text.replace("=.", f"={home}.")
            self._arguments = tuple(parse_arguments(text))
        return self._arguments

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The attributes by which a class that extends this one is known, if it has all of
        them; empty where they are too few or too common to tell."""
        if self._marks is None:
            self._marks = tuple(map(Mark, self._mark_text.split()))
        return self._marks

    def get(self, attributes: Attributes, path: str) -> Value:
        """The attribute, or what `__setstate__` fills in for it; MISSING without."""
        value = find_attribute(attributes, path)
        return self.fill.get(path, MISSING) if value is MISSING else value

    def read(self, argument: Argument, attributes: Attributes) -> Value:
        """The argument's value as the instance holds it, MISSING where it does not."""
        for source in argument.source.split("|"):
            value = self._read(argument.name, source, attributes)
            if value is not MISSING:
                return value
        return MISSING

    def _read(self, name: str, source: str, attributes: Attributes) -> Value:
        if source == "-":
            return MISSING
        if source == "*":
            return children(attributes)
        if source[0] == "#":
            holder = module_attributes(find_attribute(attributes, source[1:]))
            return len(items_of(holder.get("_modules"))) if holder else MISSING
        asked, question, gate = source.partition("?")
        if gate and self.get(attributes, gate) is False:
            return MISSING
        if asked[0] == "@":
            value = READERS[asked[1:]](attributes, name)
        else:
            value = self.get(attributes, asked)
        return value is not None if question and value is not MISSING else value

    def constructor(self, attributes: Attributes) -> list[tuple[Argument, Value]]:
        """The arguments that make this instance again: the required ones, and those whose
        value is not the default's. A required one that is not recorded is MISSING."""
        made: list[tuple[Argument, Value]] = []
        for argument in self.arguments:
            value = self.read(argument, attributes)
            if value is MISSING:
                if argument.required:
                    made.append((argument, value))
            elif argument.required or not self._is_default(argument, value, attributes):
                made.append((argument, value))
        return made

    def _is_default(self, argument: Argument, value: Value, attributes: Attributes) -> bool:
        if isinstance(value, dict | list) and not value:
            return True  # no children, no items, no devices
        stored = argument.stored
        if isinstance(stored, str) and stored[:1] == "=":
            other = next(a for a in self.arguments if a.name == stored[1:])
            return value is None or same(value, self.read(other, attributes))
        return same(value, argument.default) or same(value, stored)


_FIELDS: dict[str, tuple[str, dict[str, str]]] = {}  # by path: parent, own fields
_CLASSES: dict[str, ModuleClass] = {}  # by path, old spellings included
_LOADED: set[str] = set()


def _load(group: str) -> None:
    """Splits the tables of a group ("nn", "ao") into rows, once."""
    if group in _LOADED:
        return
    _LOADED.add(group)
    if group == "nn":
        tables = [activation, container, conv, linear, loss, norm, pooling, recurrent]
    else:
        from ptinspect.torchnn.tables import (  # here: few files need them
            observers,
            quantizable,
            quantized,
        )

        tables = [observers, quantizable, quantized]
    for table in tables:
        _split(table.ROWS)


def _split(rows: str) -> None:
    module = ""
    fields: dict[str, str] = {}
    for line in rows.splitlines():
        if line.startswith("  "):
            key, _, text = line.strip().partition(" ")
            text = text.strip()
            fields[key] = f"{fields[key]} {text}" if key in fields else text
        elif line.startswith("["):
            module = line[1:-1]
        elif line:
            name, _, parent = line[:-1].partition("(")
            if parent == "Module":
                parent = ROOT
            elif parent and "." not in parent:
                parent = f"{module}.{parent}"
            fields = {}
            _FIELDS[f"{module}.{name}"] = (parent, fields)


def _all_fields(path: str) -> dict[str, str]:
    """The fields of a row, with those of its parents where it has none of its own."""
    merged: dict[str, str] = {}
    while path:
        path, own = _FIELDS[path]
        merged = {**own, **merged}
    return merged


def canonical(path: str) -> str:
    """The path that torch 2.13 has for a class that is written as older versions wrote it,
    as `torch.nn.Linear`, or as `torch.nn.utils.parametrize` makes it (`ParametrizedLinear`)."""
    for old, new in RENAMED:
        if path.startswith(old):
            path = new + path[len(old) :]
    path = GONE.get(path, path)
    if path in _FIELDS:
        return path
    prefix, _, name = path.rpartition(".")
    if path.startswith(PARAMETRIZED):
        name = path[len(PARAMETRIZED) :]
    elif prefix != "torch.nn":
        return path
    ending = f".{name}"
    named = (p for p in _FIELDS if p.endswith(ending) and p.startswith("torch.nn."))
    return next(named, path)


def lookup(class_path: str) -> ModuleClass | None:
    """The row of a class by `module.qualname`, old spellings included; None: not torch's."""
    found = _CLASSES.get(class_path)
    if found is not None:
        return found
    if not class_path.startswith("torch."):
        return None
    _load("nn")
    if class_path.startswith(("torch.ao.", *(old for old, _ in RENAMED))):
        _load("ao")
    path = canonical(class_path)
    if path not in _FIELDS:
        return None
    if path not in _CLASSES:
        _CLASSES[path] = ModuleClass(path, _all_fields(path))
    _CLASSES[class_path] = _CLASSES[path]
    return _CLASSES[path]


def known_paths() -> list[str]:
    """The path of every row, in the order of the tables."""
    _load("nn")
    _load("ao")
    return list(_FIELDS)


def public_classes() -> Iterator[ModuleClass]:
    """The rows of torch.nn's own modules, in the order of the tables."""
    _load("nn")
    for path in list(_FIELDS):
        if path.startswith("torch.nn.modules."):
            row = lookup(path)
            assert row is not None
            yield row
