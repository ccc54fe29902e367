"""Infer classes from their instances: the parameters of the constructor, and what it sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from ptinspect.document.modules import MODULES, PARAMETERS, Module, module_of
from ptinspect.stubs.collect.definitions import Deferred, Definition, Instance, MemberKind
from ptinspect.stubs.collect.modules import (
    CODERS,
    PARAMETER_CONTAINERS,
    PARAMETER_RECORDS,
    argument_attributes,
    base_call,
    has_children_of,
    tensor_shapes,
)
from ptinspect.stubs.collect.object_graph import ObjectGraph
from ptinspect.stubs.collect.source import (
    FALSE,
    NONE,
    TRUE,
    UNSOLVED,
    Access,
    Argument,
    CallExpr,
    Expr,
    Literal,
    ModuleContainer,
    Name,
    Sequence,
    Starred,
    call_expr,
)
from ptinspect.stubs.collect.values import class_text
from ptinspect.stubs.infer.anti_unify import (
    Column,
    MemberColumn,
    Parameter,
    Unifier,
    column_key,
    dependency_groups,
    member_columns,
)
from ptinspect.torchnn.classes import ModuleClass, candidates, lookup

MAX_DEPTH = 6
"""Brackets inside each other in the arguments of one object."""
MAX_SET_FROM_OUTSIDE = 200
"""Attributes that `build()` sets one by one, instead of the constructor."""
_NEVER_PARAMETERS = frozenset({"self", "nn", "torch", "np", "_part"})


class InitStatement(NamedTuple):
    """A statement of a constructor, for an attribute, child, parameter or buffer.

    `condition` is the source of the condition under which an instance has it. It may be None, and
    is registered as a child or parameter all the same. `plain` is that of `Member`.
    """

    kind: MemberKind
    name: str
    expr: Expr
    plain: bool
    condition: str | None
    may_be_none: bool


class InitParameter(NamedTuple):
    """A parameter of a constructor, required if `default` is None.

    A default that is not a plain value is created in the body.
    """

    name: str
    default: Expr | None
    default_in_body: bool


class Assignment(NamedTuple):
    """A statement after a model is built.

    `target = value`; with neither value nor target, only `value` or `target` followed by `suffix`.
    """

    target: Access | None
    suffix: str = ""
    value: Expr | None = None
    for_all_modules: bool = False


@dataclass(slots=True)
class InferredClass:
    """A class with its constructor.

    Attributes:
        base: the torch class that it extends, if it is certain.
        post_init: statements at the end of the constructor; None if it is none of a model's root.
        in_build: what `build()` sets on an object of the class afterwards.
    """

    definition: Definition
    parameters: list[InitParameter] = field(default_factory=list)
    statements: list[InitStatement] = field(default_factory=list)
    base: ModuleClass | None = None
    base_call: CallExpr | None = None
    post_init: list[Assignment] | None = None
    in_build: list[Assignment] = field(default_factory=list)

    @property
    def base_text(self) -> str | None:
        """Source of the torch class that it extends; None for nn.Module."""
        return class_text(self.base.path) if self.base is not None else None


def infer_constructors(
    objects: ObjectGraph, in_root: Collection[int]
) -> tuple[dict[str, InferredClass], list[Deferred]]:
    """Infer all classes that have instances, leaves first.

    Sets the constructor call of every instance. Adds functions to `objects.parts` for calls that
    are nested too deep.
    """
    definitions = [item for item in objects.definitions.values() if item.instances]
    classes: dict[str, InferredClass] = {}
    deferred: list[Deferred] = []
    for group in dependency_groups(definitions, dict(objects.parts)):
        pending: list[tuple[Instance, InferredClass, list[Parameter], int]] = []
        for definition in group:
            inferred, parameters, late = _infer_class(objects, definition, classes, in_root)
            classes[definition.path] = inferred
            deferred += late
            for index, instance in enumerate(definition.instances):
                pending.append((instance, inferred, parameters, index))
        # Inner instances first: a call leaves out the arguments that equal a default.
        for instance, inferred, parameters, index in sorted(pending, key=lambda p: p[0].number):
            call = _instance_call(inferred, parameters, index)
            depth = _depth(call)
            is_deep = depth > MAX_DEPTH
            instance.constructor_call = objects.move_to_function(call) if is_deep else call
            instance.depth = 1 if is_deep else depth
    return classes, deferred


def _instance_call(inferred: InferredClass, parameters: list[Parameter], index: int) -> CallExpr:
    """Return the call that creates one instance."""
    values = {parameter.name: parameter.column[index] or NONE for parameter in parameters}
    args: list[Argument] = [
        (name, values[name])
        for name, default, _ in inferred.parameters
        if default is None or default.text != values[name].text
    ]
    unset = {name: default for name, default, _ in inferred.parameters if default is not None}
    return CallExpr(inferred.definition.ident, args, 0, unset)


def _depth(expr: Expr) -> int:
    """Return the number of brackets inside each other, including those of instances."""
    if isinstance(expr, Instance):
        return expr.depth
    return max(map(_depth, expr.children()), default=0) + (expr.depth > 0)


def _infer_class(
    objects: ObjectGraph,
    definition: Definition,
    inferred_classes: dict[str, InferredClass],
    in_root: Collection[int],
) -> tuple[InferredClass, list[Parameter], list[Deferred]]:
    inferred = InferredClass(definition)
    definitions = objects.definitions.values()
    module_classes = {item.ident for item in definitions if item.kind == "module"}
    unifier = Unifier({item.ident for item in definitions} | _NEVER_PARAMETERS, module_classes)
    columns = member_columns(definition)
    if definition.kind == "module" and definition.recorded.fx_name is None:
        if _is_sequence(definition):
            _inherit_from_sequential(definition, inferred, unifier)
            columns = []
        else:
            inherited = _inherit_from_torch(objects, inferred, unifier, inferred_classes)
            columns = [column for column in columns if column.name not in inherited]
    # The source of a late attribute is that of one object, and cannot be a parameter.
    set_later = [column for column in columns if column.kind == "late" and not column.is_constant]
    if definition.kind == "module":
        set_later += _set_from_outside(definition.instances, columns, in_root)
    deferred = [
        Deferred(module, column.name)
        for column in set_later
        for instance, member in zip(definition.instances, column.members, strict=True)
        if member is not None and member.kind == column.kind and (module := instance.module)
    ]
    columns = [column for column in columns if column not in set_later]
    # Plain attributes first: they name the parameters that others share.
    statements = {
        (column.kind, column.name): _statement(unifier, column)
        for column in sorted(columns, key=lambda column: column.kind != "attribute")
    }
    turns = {"attribute": 0, "late": 2}
    in_order = sorted(columns, key=lambda column: turns.get(column.kind, 1))
    inferred.statements = [statements[column.kind, column.name] for column in in_order]
    inferred.parameters = _init_parameters(definition, unifier.parameters)
    return inferred, unifier.parameters, deferred


# Members of all instances


def _statement(unifier: Unifier, column: MemberColumn) -> InitStatement:
    """Return the statement for one attribute, child, parameter or buffer."""
    exprs = column.exprs
    expr = unifier.unify(exprs, column.name)
    condition = None
    parameter = unifier.by_values.get(column_key(exprs))
    if None in exprs and parameter is not None and parameter.name == expr.text:
        condition = f"{expr.text} is not None" if "None" not in column_key(exprs) else None
    if None in exprs and condition is None:
        flags: Column = [FALSE if value is None else TRUE for value in exprs]
        parameter = unifier.parameter_with(flags)
        condition = (parameter or unifier.add_parameter(flags, f"has_{column.name}")).name
    members = [member for member in column.members if member is not None]
    plain = all(member.plain for member in members)
    may_be_none = any(m.kind != "attribute" and m.expr is NONE for m in members)
    return InitStatement(column.kind, column.name, expr, plain, condition, may_be_none)


def _set_from_outside(
    instances: list[Instance], columns: list[MemberColumn], in_root: Collection[int]
) -> list[MemberColumn]:
    """Return the attributes that only some instances have, after all those that every one has.

    The program sets them on finished modules, as YOLO numbers its layers; so does `build()`.
    """
    candidates = {
        column.name: column
        for column in columns
        if column.kind == "attribute"
        and None in column.members
        and all(item is None or _is_plain(item.expr, "()[]") for item in column.members)
    }
    for instance in instances if candidates else ():
        names = [member.name for member in instance.members if member.kind in ("attribute", "late")]
        outside = instance.call is not None and id(instance.call) in in_root
        last = max((i for i, name in enumerate(names) if name not in candidates), default=-1)
        for name in names[: last + 1] if outside else names:
            candidates.pop(name, None)
    count = sum(item is not None for column in candidates.values() for item in column.members)
    return list(candidates.values()) if count <= MAX_SET_FROM_OUTSIDE else []


# Bases


def _is_sequence(definition: Definition) -> bool:
    """Return True if the instances have only numbered children."""
    for instance in definition.instances:
        if any(m.kind != "child" or m.expr is NONE for m in instance.members):
            return False
        names = [member.name for member in instance.members]
        if names != [str(index) for index in range(len(names))]:
            return False
    return any(instance.members for instance in definition.instances)


def _inherit_from_sequential(
    definition: Definition, inferred: InferredClass, unifier: Unifier
) -> None:
    """Make the children arguments for the constructor of nn.Sequential."""
    inferred.base = lookup("torch.nn.Sequential")
    column: Column = [
        ModuleContainer("nn.Sequential", [member.expr for member in instance.members], False)
        for instance in definition.instances
    ]
    unified = unifier.unify(column, "layers")
    if isinstance(unified, ModuleContainer):
        unified = unified.folded()
    if isinstance(unified, CallExpr):
        inferred.base_call = unified
        return
    inferred.base_call = call_expr("super", Starred(unified))
    for parameter in unifier.parameters:
        if parameter.name == unified.text:
            parameter.column = [
                Sequence("[]", item.items) if isinstance(item, ModuleContainer) else item
                for item in parameter.column
            ]


def _inherit_from_torch(
    objects: ObjectGraph,
    inferred: InferredClass,
    unifier: Unifier,
    inferred_classes: dict[str, InferredClass],
) -> set[str]:
    """Let the class extend the torch class that its instances look like, if it is certain.

    Return the names of the members that the constructor of the torch class sets.
    """
    definition = inferred.definition
    modules = [module for instance in definition.instances if (module := instance.module)]
    if not modules or len(modules) != len(definition.instances):
        return set()
    # Definitions in torch's modules are of classes that torch has removed.
    removed = lookup(definition.path) if definition.module.startswith("torch.") else None
    best = [candidates(module.attributes)[:1] for module in modules]
    bases = {row.path: row for rows in best for row in rows}
    is_certain = len(bases) == 1 and all(best)
    row = removed or (next(iter(bases.values())) if is_certain else None)
    if not row or not all(_has_members_of(row, m, objects, inferred_classes) for m in modules):
        return set()
    calls = [base_call(row, module, objects.expr_of, objects.tensor_of) for module in modules]
    if not all(calls):
        return set()
    is_container = row.name in PARAMETER_CONTAINERS
    unified = unifier.unify(calls, "values" if is_container else "base")
    if isinstance(unified, ModuleContainer):
        unified = unified.folded()
    if not isinstance(unified, CallExpr):  # the name of an argument
        unified = call_expr("super", unified)
    inferred.base, inferred.base_call = row, unified
    if is_container:
        parameters = [dict(module.members(PARAMETERS)) for module in modules]
        return set(PARAMETER_RECORDS).union(*parameters)
    inherited = {*argument_attributes(row), *row.children, *(mark.name for mark in row.marks)}
    for module in modules if row.has_shapes else ():
        inherited |= set(row.created_shapes(row.argument_values(module.attributes)))
    return inherited


def _has_members_of(
    row: ModuleClass,
    module: Module,
    objects: ObjectGraph,
    inferred_classes: dict[str, InferredClass],
) -> bool:
    """Return True if a module has all that the constructor of a torch class creates."""
    if row.name in CODERS:
        return _is_coder(row, module, objects, inferred_classes)
    if not has_children_of(row, module, exactly=False):
        return False
    if not row.has_shapes:
        return not row.children
    shapes = tensor_shapes(module, objects.tensor_of)
    expected = row.created_shapes(row.argument_values(module.attributes))
    return all(shapes.get(key) == shape for key, shape in expected.items())


def _is_coder(
    row: ModuleClass,
    module: Module,
    objects: ObjectGraph,
    inferred_classes: dict[str, InferredClass],
) -> bool:
    """Return True if the layers are those of nn.TransformerEncoder or Decoder, and all equal.

    Many models have `layers`, `num_layers` and `norm` without extending one of these.
    """
    layers = module_of(dict(module.members(MODULES)).get("layers"))
    if not layers or lookup(layers.class_path) is None:
        return False
    names: set[str] = set()
    texts: set[str] = set()
    for _, value in layers.members(MODULES):
        layer = module_of(value)
        layer_row = lookup(layer.class_path) if layer is not None else None
        if layer is not None and layer.class_path in objects.definitions:
            inferred = inferred_classes.get(layer.class_path)
            layer_row = inferred.base if inferred is not None else None
        names.add(layer_row.name if layer_row is not None else "")
        texts.add(objects.expr_of(value).text)
    return names == {f"{row.name}Layer"} and len(texts) == 1 and UNSOLVED not in texts.pop()


# Parameters


def _init_parameters(definition: Definition, parameters: list[Parameter]) -> list[InitParameter]:
    """Return the parameters, those without a default first."""
    root_index = definition.instances.index(definition.root) if definition.root else None
    init_parameters: list[InitParameter] = []
    for parameter in parameters:
        column = parameter.column
        default_in_body = False
        if any(item is None for item in column):
            default: Expr | None = NONE
        elif root_index is not None:
            default = column[root_index] or NONE
            default_in_body = not _is_plain(default)
        else:
            default = _default_from_majority(column)
        init_parameters.append(InitParameter(parameter.name, default, default_in_body))
    return sorted(init_parameters, key=lambda parameter: parameter.default is not None)


def _default_from_majority(column: Column) -> Expr | None:
    """Return the plain value of most instances, if there is one."""
    plain = {item.text: item for item in column if item is not None and _is_plain(item)}
    counts = Counter(text for text in column_key(column) if text in plain)
    for text, count in counts.items():
        if count >= 2 and count * 2 > len(column):
            return plain[text]
    return None


def _is_plain(expr: Expr, brackets: str = "()") -> bool:
    """Return True if a default can be in a signature: it is created once and must be immutable."""
    if isinstance(expr, Sequence):
        is_plain = all(_is_plain(item, brackets) for item in expr.items)
        return expr.brackets_text in brackets and is_plain
    return isinstance(expr, Literal | Name)
