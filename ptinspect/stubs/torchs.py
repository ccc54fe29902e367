"""Modules of torch's own classes: constructor calls, and what no constructor makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.document.modules import BUFFERS, MODULES, PARAMETERS, Module, module_of
from ptinspect.stubs.code import Argument, Atom, Expr, Make, Many, Pairs
from ptinspect.stubs.modules import (
    WRAPPERS,
    as_constructed,
    class_text,
    constructed,
    container,
    normed,
    stores,
)
from ptinspect.stubs.names import string
from ptinspect.torchnn import ModuleClass

if TYPE_CHECKING:
    from ptinspect.stubs.graph import Graph


def torch_module(graph: Graph, module: Module, row: ModuleClass) -> Expr:
    """A module of a class of torch's own."""
    wrapped = WRAPPERS.get(row.path)
    if wrapped is not None:
        inner = dict(module.members(MODULES)).get(wrapped[0])
        return Make(wrapped[1], [(None, graph.expr(inner))])
    if row.name in ("Sequential", "ModuleList", "ModuleDict"):
        made = container(row, module, graph.expr)
    elif row.style == "graph":
        from ptinspect.stubs.traced import traced

        return traced(graph, module)
    elif row.name in ("TransformerEncoder", "TransformerDecoder"):
        made = coder(graph, row, module)
    elif row.name in ("ParameterList", "ParameterDict"):
        made = parameters(graph, row, module)
    elif as_constructed(graph.document, module, row):
        made = constructed(row, module, graph.expr)
    else:
        made = normed(row, module, graph.expr)
    return made if made is not None else assemble(graph, class_text(row.path), module)


def coder(graph: Graph, row: ModuleClass, module: Module) -> Expr | None:
    """nn.TransformerEncoder of layers that are all the same."""
    layers = module_of(dict(module.members(MODULES)).get("layers"))
    if layers is None:
        return None
    texts = {graph.expr(value).text for _, value in layers.members(MODULES)}
    if len(texts) != 1 or "\0" in texts.pop():
        return None
    return constructed(row, module, graph.expr)


def parameters(graph: Graph, row: ModuleClass, module: Module) -> Expr | None:
    """nn.ParameterList and nn.ParameterDict of parameters alone."""
    if list(module.members(BUFFERS)) or list(module.members(MODULES)):
        return None
    held = list(module.members(PARAMETERS))
    others = {key for key, _ in module.others} - {"_size", "_keys"}
    if others or any(graph.document.tensor_of(value) is None for _, value in held):
        return None
    items = [graph.expr(value) for _, value in held]
    if row.name == "ParameterList":
        if [key for key, _ in held] != [str(at) for at in range(len(held))]:
            return None
        return Many("nn.ParameterList", items, True)
    pairs = [(Atom(string(k)), item) for (k, _), item in zip(held, items, strict=True)]
    keyed: list[tuple[Expr, Expr]] = list(pairs)
    return Make("nn.ParameterDict", [(None, Pairs(keyed))] if keyed else [])


def assemble(graph: Graph, kind: str, module: Module) -> Expr:
    """A module put together from its parts, where no constructor makes it."""
    graph.assembled.add(id(module.call))
    own: list[tuple[Expr, Expr]] = [
        (Atom(string(key)), graph.expr(value))
        for key, value in module.others
        if not key.startswith("_forward")
    ]
    args: list[Argument] = [(None, Atom(kind))]
    if own:
        args.append(("attributes", Pairs(own)))
    for name, pairs in stores(graph.document, module, graph.expr):
        args.append((name, Pairs(pairs)))
    return Make("_assembled", args)
