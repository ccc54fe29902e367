"""Module classes of torch: the rows of `tables/*.txt`, parsed on demand; and names that torch has.

`tables/torch_classes.txt` has a line per module: its name without `torch.`, and its classes.
Functions are not listed: a listed module is assumed to have every function. The line `*` has the
packages that are not listed: every name in them is assumed to exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial

from ptinspect.pickling.pyobjects import as_sequence
from ptinspect.pickling.values import Value
from ptinspect.text import read_package_file
from ptinspect.torchnn.attributes import (
    MISSING,
    READERS,
    STORES,
    Argument,
    Attributes,
    equals_literal,
    find_attribute,
    items_of,
    module_attributes,
    parameter_dict_keys,
    parameter_list_keys,
    parse_arguments,
    parse_literal,
)

Shapes = dict[str, tuple[int, ...]]
"""Shapes by dotted name below the module."""

Arguments = dict[str, Value]
"""The value of every argument of a constructor."""

MAX_LAYERS = 10_000
"""Layers of a recurrent module or coder that are looked at."""

ROOT = "torch.nn.modules.module.Module"
PARAMETRIZED = "torch.nn.utils.parametrize.Parametrized"


class Mark:
    """An attribute that identifies a class: `name`, `name=literal` (with this value) or
    `name/length` (a tuple of this length). MISSING and 0 match any value."""

    __slots__ = ("length", "name", "value")

    def __init__(self, text: str) -> None:
        name, _, length = text.partition("/")
        self.name, _, value = name.partition("=")
        self.value: Value = parse_literal(value) if value else MISSING
        self.length = int(length or 0)

    def matches(self, attributes: Attributes) -> bool:
        value = find_attribute(attributes, self.name)
        if self.length and not (isinstance(value, tuple) and len(value) == self.length):
            return False
        return self.value is MISSING or value == self.value


class ModuleClass:
    """One module class of torch, from a row of the tables.

    Attributes:
        path: its `__module__` and `__qualname__` in torch 2.13.
        printed: the result of `_get_name`, if not the class's own name.
        template: its `extra_repr` as data.
        style: its `__repr__`.
        fill: the attributes that `__setstate__` adds to old files.
    """

    def __init__(self, path: str, fields: dict[str, str]) -> None:
        self.path = path
        self.template = fields.get("print", "")
        self.style = fields.get("style", "module")
        self.printed = fields.get("name")
        filled = (field.partition("=") for field in fields.get("fill", "").split())
        self.fill: dict[str, Value] = {name: parse_literal(text) for name, _, text in filled}
        self._fields = fields

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        module = self.path.rpartition(".")[0]
        text = self._fields.get("args", "").replace("=.", f"={module}.")
        return tuple(parse_arguments(text))

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """The attributes that identify an instance of this class or of one that extends it; none if
        they are too few or too common to decide."""
        return tuple(map(Mark, self._fields.get("marks", "").split()))

    @cached_property
    def children(self) -> dict[str, str]:
        """The classes of the children that the constructor creates, by their names."""
        return {path: name for path, _, name, _ in self._created() if "." not in path}

    @property
    def has_shapes(self) -> bool:
        """True if `created_shapes` returns all tensors that the constructor creates."""
        return bool(self._fields.get("tensors")) or any(args for *_, args in self._created())

    def _created(self) -> Iterator[tuple[str, str, str, list[str]]]:
        """Yield path, number (an argument or ""), class and arguments of each created child."""
        for token in self._fields.get("children", "").split():
            path, _, call = token.partition("=")
            path, _, count = path.partition("*")
            name, _, arguments = call.rstrip(")").partition("(")
            yield path, count, name, arguments.split(",") if arguments else []

    def created_shapes(self, arguments: Arguments) -> Shapes:
        """Return the shapes of the parameters and buffers that the constructor creates with these
        arguments, its children's included."""
        shapes: Shapes = {}
        for token in self._fields.get("tensors", "").split():
            if token[0] == "@":
                shapes |= _SHAPES[token[1:]](arguments)
                continue
            name, _, sizes = token.partition("=")
            name, _, conditions = name.partition("?")
            if all(arguments[condition] for condition in conditions.split("&") if condition):
                shapes[name] = _sizes(sizes, arguments)
        for path, count, name, sources in self._created():
            row = lookup(f"torch.nn.{name}")
            assert row is not None
            values = row.defaults
            for source in sources:
                argument, _, own = source.partition("=")
                values[argument] = arguments[own or argument]
            child_shapes = row.created_shapes(values)
            numbers = range(min(_int(arguments[count]), MAX_LAYERS)) if count else ("",)
            for number in numbers:
                prefix = f"{path}.{number}." if count else f"{path}."
                shapes |= {prefix + key: shape for key, shape in child_shapes.items()}
        return shapes

    @property
    def defaults(self) -> Arguments:
        """The default of each argument, MISSING for a required one."""
        return {argument.name: argument.default for argument in self.arguments}

    def argument_values(self, attributes: Attributes) -> Arguments:
        """Return the value of every argument; the default if the instance does not record it."""
        values = {a.name: self.read(a, attributes) for a in self.arguments}
        return self.defaults | {n: value for n, value in values.items() if value is not MISSING}

    def get(self, attributes: Attributes, path: str) -> Value:
        """Return the attribute, or the value that `__setstate__` adds; MISSING without either."""
        value = find_attribute(attributes, path)
        return self.fill.get(path, MISSING) if value is MISSING else value

    def read(self, argument: Argument, attributes: Attributes) -> Value:
        """Return the argument's value as the instance records it, or MISSING."""
        for source in argument.source.split("|"):
            value: Value = MISSING
            attribute, is_test, condition = source.partition("?")
            if source == "*":
                return dict(items_of(attributes.get("_modules")))
            if source[0] == "#":
                parent = module_attributes(find_attribute(attributes, source[1:]))
                value = len(items_of(parent.get("_modules"))) if parent else MISSING
            elif source == "-" or (condition and self.get(attributes, condition) is False):
                continue
            elif attribute[0] == "@":
                value = READERS[attribute[1:]](attributes, argument.name)
            else:
                value = self.get(attributes, attribute)
            if value is not MISSING:
                return value is not None if is_test else value
        return MISSING

    def constructor(self, attributes: Attributes) -> list[tuple[Argument, Value]]:
        """Return the arguments that construct this instance: those that differ from the default. A
        required one that is not recorded is MISSING."""
        arguments: list[tuple[Argument, Value]] = []
        for argument in self.arguments:
            value, stored = self.read(argument, attributes), argument.stored
            if isinstance(value, dict | list) and not value:
                is_default = True  # no children, no items, no devices
            elif isinstance(stored, str) and stored[:1] == "=":
                other = next(a for a in self.arguments if a.name == stored[1:])
                is_default = value is None or equals_literal(value, self.read(other, attributes))
            else:
                is_default = equals_literal(value, argument.default)
                is_default = is_default or equals_literal(value, stored)
            if argument.required or (value is not MISSING and not is_default):
                arguments.append((argument, value))
        return arguments


def _int(value: Value) -> int:
    return value if isinstance(value, int) else -1


def _sizes(text: str, arguments: Arguments) -> tuple[int, ...]:
    """Return the shape that `tables/nn.txt` writes as text."""
    sizes: list[int] = []
    for part in text.split(",") if text else ():
        if part[0] == "*":
            value = arguments[part[1:]]
            items = as_sequence(value)
            sizes += map(_int, (value,) if items is None else items)
            continue
        name, _, divisor = part.partition("/")
        factor, _, name = name.rpartition("*")
        size = int(factor or 1) * _int(arguments[name])
        sizes.append(size // max(_int(arguments[divisor]), 1) if divisor else size)
    return tuple(sizes)


def _recurrent(gates: int, arguments: Arguments) -> Shapes:
    hidden, projection = _int(arguments["hidden_size"]), _int(arguments.get("proj_size", 0))
    out = projection if projection > 0 else hidden
    directions = ("", "_reverse") if arguments["bidirectional"] else ("",)
    shapes: Shapes = {}
    for layer in range(min(_int(arguments["num_layers"]), MAX_LAYERS)):
        size = _int(arguments["input_size"]) if layer == 0 else out * len(directions)
        for direction in directions:
            suffix = f"_l{layer}{direction}"
            shapes[f"weight_ih{suffix}"] = (gates * hidden, size)
            shapes[f"weight_hh{suffix}"] = (gates * hidden, out)
            if arguments["bias"]:
                shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (gates * hidden,)
            if projection > 0:
                shapes[f"weight_hr{suffix}"] = (projection, hidden)
    return shapes


def _attention(arguments: Arguments) -> Shapes:
    """MultiheadAttention: one projection for query, key and value, or three if sizes differ."""
    size = _int(arguments["embed_dim"])
    sizes = (size if arguments[k] is None else _int(arguments[k]) for k in ("kdim", "vdim"))
    key, value = sizes
    shapes: Shapes = {"in_proj_weight": (3 * size, size)}
    if not key == value == size:
        widths = {"q": size, "k": key, "v": value}
        shapes = {f"{name}_proj_weight": (size, width) for name, width in widths.items()}
    if arguments["add_bias_kv"]:
        shapes |= {"bias_k": (1, 1, size), "bias_v": (1, 1, size)}
    return shapes | ({"in_proj_bias": (3 * size,)} if arguments["bias"] else {})


_SHAPES: dict[str, Callable[[Arguments], Shapes]] = {
    "attention": _attention,
    "gru": partial(_recurrent, 3),
    "lstm": partial(_recurrent, 4),
    "rnn": partial(_recurrent, 1),
}

_FIELDS: dict[str, tuple[str, dict[str, str]]] = {}  # by path: parent, fields
_CLASSES: dict[str, ModuleClass] = {}  # by path, old spellings included


@cache
def _load(table: str) -> None:
    """Parse a table into `_FIELDS`, once."""
    lines = read_package_file(f"torchnn/tables/{table}").splitlines()
    module = ""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith("  "):
            key, _, text = line.strip().partition(" ")
            text = text.strip()
            fields[key] = f"{fields[key]} {text}" if key in fields else text
        elif line.startswith("["):
            module = line[1:-1]
        elif line and line[0] != "#":
            name, _, parent = line[:-1].partition("(")
            if parent == "Module":
                parent = ROOT
            elif parent and "." not in parent:
                parent = f"{module}.{parent}"
            fields = {}
            _FIELDS[f"{module}.{name}"] = (parent, fields)


def lookup(class_path: str) -> ModuleClass | None:
    """Return the class by `module.qualname`, old spellings, `torch.nn.Linear` and those of
    parametrizations (`ParametrizedLinear`) included; None if it is not torch's."""
    row = _CLASSES.get(class_path)
    if row is not None:
        return row
    if not class_path.startswith("torch."):
        return None
    _load("nn.txt")
    if class_path.startswith(("torch.ao.", *(old for old in renamed() if old[-1] == "."))):
        _load("quantization.txt")
    path = class_path
    for old, new in renamed().items():  # an older version's path
        if path.startswith(old) and old[-1] == ".":
            path = new + path[len(old) :]
    path = renamed().get(path, path)
    prefix, _, name = path.rpartition(".")
    is_made = path.startswith(PARAMETRIZED)  # by torch.nn.utils.parametrize
    if path not in _FIELDS and (is_made or prefix == "torch.nn"):
        ending = f".{path[len(PARAMETRIZED) :] if is_made else name}"
        paths = (p for p in _FIELDS if p.endswith(ending) and p.startswith("torch.nn."))
        path = next(paths, path)
    if path not in _FIELDS:
        return None
    if path not in _CLASSES:
        fields: dict[str, str] = {}
        ancestor = path
        while ancestor:
            ancestor, own_fields = _FIELDS[ancestor]
            fields = {**own_fields, **fields}
        _CLASSES[path] = ModuleClass(path, fields)
    _CLASSES[class_path] = _CLASSES[path]
    return _CLASSES[path]


@cache
def renamed() -> dict[str, str]:
    """Return today's names of classes and, with a dot at their end, of modules, by old name."""
    lines = read_package_file("torchnn/tables/renamed.txt").splitlines()
    pairs = [line.partition(" ") for line in lines if line[0] != "#"]
    return {old: new for old, _, new in pairs}


def candidates(attributes: Attributes) -> list[ModuleClass]:
    """Return the classes of torch.nn whose marks (three or more) an instance has, that with the
    most first, among equals torch's most used one. A class may have all of them and extend
    nothing. ParameterList and ParameterDict record the keys of their items, which is a proof."""
    parameters = list(items_of(attributes.get("_parameters")))
    for kind, record, keys in (
        ("ParameterList", "_size", parameter_list_keys),
        ("ParameterDict", "_keys", parameter_dict_keys),
    ):
        row = lookup(f"torch.nn.modules.container.{kind}") if record in attributes else None
        if row is not None and parameters and keys(attributes) == parameters:
            return [row]
    names = {name for name in attributes if isinstance(name, str)}
    for store in STORES:
        names.update(name for name in items_of(attributes.get(store)) if isinstance(name, str))
    rows = [
        row
        for mark_names, row in _marked_classes()
        if mark_names <= names and all(mark.matches(attributes) for mark in row.marks)
    ]

    def rank(row: ModuleClass) -> tuple[int, int]:
        """Return the number of marks, and of those that ask for a value or a length."""
        exact = [mark for mark in row.marks if mark.value is not MISSING or mark.length]
        return len(row.marks), len(exact)

    return sorted(rows, key=rank, reverse=True)


@cache
def _marked_classes() -> list[tuple[frozenset[str], ModuleClass]]:
    """Return torch.nn's own modules that have three marks or more, with the names of these."""
    _load("nn.txt")
    classes = []
    for path in [path for path in _FIELDS if path.startswith("torch.nn.modules.")]:
        row = lookup(path)
        names = frozenset(mark.name for mark in row.marks) if row is not None else frozenset()
        if row is not None and len(names) >= 3:
            classes.append((names, row))
    return classes


@cache
def internal_attributes() -> frozenset[str]:
    """Return the attributes that the classes of torch.nn set themselves, besides arguments."""
    return frozenset(read_package_file("torchnn/tables/internal_attributes.txt").split())


# All names of torch


def exists_in_torch(module: str, name: str) -> bool:
    """Return True if torch 2.13 has `module.name`, or if the module is unlisted or not torch's."""
    listed = _classes_by_module()
    top, _, inner = module.partition(".")
    if top != "torch" or not inner or f"{inner}.".startswith(listed["*"]):
        return True
    first = name.partition(".")[0]
    is_class = first.lstrip("_")[:1].isupper()
    return inner in listed and (not is_class or first in listed[inner])


@cache
def _classes_by_module() -> dict[str, tuple[str, ...]]:
    lines = read_package_file("torchnn/tables/torch_classes.txt").splitlines()
    return {module: tuple(classes) for module, *classes in map(str.split, lines)}
