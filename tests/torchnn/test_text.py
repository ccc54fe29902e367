"""Values as Python prints them, and the bounds that keep printing cheap. Without torch."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Call, Global, Value
from ptinspect.torchnn.text import ValueFormatter, type_name

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9)
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
    ),
    max_leaves=20,
)


def through_a_pickle(value: object) -> Value:
    return run(pickle.dumps(value, 4)).root


@given(PLAIN)
def test_repr_is_pythons(value: object) -> None:
    read = through_a_pickle(value)
    text = ValueFormatter(width=10_000).repr(read)
    if text != repr(value):  # a set's order is its own, and long integers are not written
        assert "<an integer of" in text
    if isinstance(value, tuple | list | dict | int | float):
        assert ValueFormatter(width=10_000).format(read) in (f"{value}", text)


@pytest.mark.parametrize(
    "value",
    [set(), frozenset(), {1}, frozenset({2}), (1,), complex(1, -2), bytearray(b"a"), -0.0, 1e16,
     float("inf"), "it's", 'a "b"', "\x1b\u202e", int, len, Exception, OrderedDict],
    ids=repr,
)  # fmt: skip
def test_python_objects(value: object) -> None:
    assert ValueFormatter().repr(through_a_pickle(value)) == repr(value)


def test_a_container_inside_itself() -> None:
    inner: list[object] = [1]
    inner.append(inner)
    table: dict[str, object] = {"a": inner}
    table["b"] = table
    assert ValueFormatter().repr(through_a_pickle(inner)) == repr(inner)
    assert ValueFormatter().repr(through_a_pickle(table)) == repr(table)


def test_a_shared_container_is_no_cycle() -> None:
    inner = [1, 2]
    assert ValueFormatter().repr(through_a_pickle([inner, inner])) == "[[1, 2], [1, 2]]"


def test_text_is_cut_at_its_width() -> None:
    assert ValueFormatter(width=10).repr(list(range(100))) == "[0, 1, 2, …"
    assert ValueFormatter(width=10).bare("x" * 100) == "x" * 10 + "…"
    assert len(ValueFormatter(width=10).repr("x" * 10**6)) <= 11


def test_deep_and_doubled_values_are_written_without_recursion() -> None:
    deep: Value = ()
    doubled: list[Value] = []
    for _ in range(100_000):
        deep = (deep,)
    for _ in range(60):
        doubled = [doubled, doubled]
    assert len(ValueFormatter().repr(deep)) == 2_001
    assert len(ValueFormatter().repr(doubled)) == 2_001


def test_a_huge_integer_is_not_written_out() -> None:
    assert ValueFormatter().repr(1 << 500_000) == "<an integer of 500001 bits>"
    assert ValueFormatter().format((1 << 500_000, 1)) == "(<an integer of 500001 bits>, 1)"


def call(path: str, *args: Value) -> Call:
    module, _, name = path.rpartition(".")
    return Call(Global(module, name, 0), args, "REDUCE", 0)


@pytest.mark.parametrize(
    ("value", "as_repr", "as_format"),
    [
        (Global("torch", "float32", 0), "torch.float32", "torch.float32"),
        (Global("torch", "per_tensor_affine", 0), "torch.per_tensor_affine", None),
        (Global("torch.nn.functional", "relu", 0), "<function relu>", None),
        (Global("torch._C._nn", "gelu", 0), "<built-in function gelu>", None),
        (Global("models", "Head", 0), "<class 'models.Head'>", None),
        (call("torch.device", "cuda", 1), "device(type='cuda', index=1)", "cuda:1"),
        (call("torch.device", "cpu"), "device(type='cpu')", "cpu"),
        (call("torch.Size", (1, 2)), "torch.Size([1, 2])", None),
        (call("torch.Size", ()), "torch.Size([])", None),
        (call("torch.serialization._get_layout", "torch.strided"), "torch.strided", None),
        (call("models.Head", 1), "<models.Head object>", None),
        (call("builtins.getattr", Global("torch", "X", 0), "tanh"), "<built-in method tanh>", None),
    ],
)
def test_what_torch_and_its_users_pickle(value: Value, as_repr: str, as_format: str | None) -> None:
    assert ValueFormatter().repr(value) == as_repr
    assert ValueFormatter().format(value) == (as_format or as_repr)


@pytest.mark.parametrize("value", [None, 1, True, 1.5, "a", b"a", [], (), {}, set(), int, len])
def test_type_names_are_pythons(value: object) -> None:
    assert type_name(through_a_pickle(value)) == type(value).__name__
