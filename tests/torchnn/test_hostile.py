"""Attributes that nothing honest holds: printed in bounded text, without an exception."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptinspect.pickling.values import Call, Global, Inert, Key, PersistentId, SetOf, Value
from ptinspect.torchnn.attributes import special_module
from ptinspect.torchnn.classes import candidates, lookup
from ptinspect.torchnn.printer import extra_repr
from tests.torchnn.nodes import known_paths, print_module
from tests.torchnn.test_printer import Node

STORES = ("_parameters", "_buffers", "_modules")
NAMES = ("torch.device", "torch.Size", "collections.OrderedDict", "builtins.complex", "models.Head",
         "numpy.core.multiarray.scalar", "numpy.dtype", "_codecs.encode", "functools.partial",
         "torch.nn.modules.linear.Linear", "copyreg._reconstructor", "builtins.getattr",
         "torch.ao.nn.quantized.modules.linear.LinearPackedParams", "torch.ScriptObject",
         "torch._dynamo.eval_frame.OptimizedModule", "torch.fx.graph_module.reduce_graph_module",
         "torch.nn.modules.linear_cross_entropy_options.LinearCrossEntropyOptions")  # fmt: skip
USED = sorted(
    {name for path in known_paths() for name in re.findall(r"[a-z_]\w+", lookup(path).template)}  # type: ignore[union-attr]
    | {"_size", "_keys", "_code", "_graphmodule_cls_name", "0", "1", "training", *STORES}
)


def a_global(path: str) -> Global:
    module, _, name = path.rpartition(".")
    return Global(module, name, 0)


def with_state(path: str, args: tuple[Value, ...], state: Value, pairs: dict[Value, Value]) -> Call:
    made = Call(a_global(path), args, "REDUCE", 0)
    made.change().states.append(state)
    made.change().pairs.update(pairs)
    return made


def grown(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    tables = st.dictionaries(st.sampled_from(USED), inner, max_size=4)
    arguments = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(
        st.lists(inner, max_size=3),
        arguments,
        tables,
        st.builds(with_state, st.sampled_from(NAMES), arguments, inner, tables),
        st.lists(inner, min_size=15, max_size=15).map(tuple),
    )


PLAIN: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(70_000).map(lambda bits: 1 << bits),
    st.sampled_from([-(10**30), float("nan"), "cuda:0", "zeros", "f8", b"12345678"]),
    st.text(max_size=5),
    st.binary(max_size=9),
    st.sampled_from(NAMES).map(a_global),
    st.just(Key((1, 2), "token")),
    st.just(PersistentId(("tensor", 0), 0)),
    st.just(SetOf(False, 0)),
)
VALUES = st.recursive(PLAIN, grown, max_leaves=12)
ATTRIBUTES = st.dictionaries(st.sampled_from(USED), VALUES, max_size=8)


class Odd:
    """`TensorFacts` of a tensor that says nothing usual."""

    dtype, shape, device, layout = "float7", (0,), "cuda:3", "odd"
    parameter, qscheme = False, None

    def item(self) -> object | None:
        return None

    def text(self) -> str | None:
        return None


def describe(value: Value) -> Odd | None:
    return Odd() if isinstance(value, PersistentId) else None


@given(st.sampled_from(known_paths()), ATTRIBUTES)
def test_any_attributes_are_printed(path: str, attributes: dict[Value, Value]) -> None:
    text = extra_repr(path, attributes, describe)
    assert text is not None
    assert len(text) < 200_000
    node = Node(path, [("child", Node("a.B"))])
    node.attributes = attributes
    row = lookup(path)
    assert row is not None
    assert isinstance(print_module(node, describe), str)
    assert all(argument.name for argument, _ in row.constructor(attributes))
    assert all(found.marks for found in candidates(attributes))


@given(VALUES)
def test_any_value_may_be_a_module_or_not(value: Value) -> None:
    found = special_module(value)
    if found is not None:
        assert found[0].startswith("torch.")
        assert isinstance(value, Inert)


@pytest.mark.parametrize("size", [10**18, -5, True, None, "3"])
def test_a_size_that_is_not_believed(size: object) -> None:
    path = "torch.nn.modules.container.ParameterList"
    text = extra_repr(path, {"_size": size, "_parameters": {"0": 1}})
    assert text is not None
    assert text.count("\n") < 5


def test_control_characters_do_not_come_through() -> None:
    evil = "\x1b[2J\u202e"
    values: list[Value] = [evil, Global("a", evil, 0), Call(Global("a", evil, 0), (), "REDUCE", 0)]
    values += [Call(Global("torch", "device", 0), (evil,), "REDUCE", 0)]
    for value in (*values, tuple(values)):
        text = extra_repr(
            "torch.nn.modules.dropout.Dropout",
            {"p": value, "inplace": False},
            escape=lambda s: s.encode("unicode_escape").decode(),
        )
        assert text is not None
        assert not set(evil) & set(text) & {"\x1b", "\u202e"}
