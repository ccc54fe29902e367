"""The writer of pickles against CPython's own."""

from __future__ import annotations

import collections
import pickle
import pickletools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptinspect.errors import UnsupportedError
from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Call, Global, PersistentId
from ptinspect.pickling.writer import PickleWriter


class Lines(list[Any]):
    """A list of its own class, which pickle writes by the look-ahead batches."""


class Thing:
    def __init__(self, **own: Any) -> None:
        self.__dict__.update(own)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


class Slots:
    __slots__ = ("a", "b")


class Grown(collections.OrderedDict[Any, Any]):
    """With items and attributes, as a state_dict is."""


class Kept:
    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, int]]:
        return (1,), {"b": 2}

    def __new__(cls, a: int = 0, b: int = 0) -> Kept:
        made = super().__new__(cls)
        made.__dict__.update(a=a, b=b)
        return made


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary(max_size=20)
)  # fmt: skip
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=5)
        | st.dictionaries(st.text(), inner, max_size=5).map(collections.OrderedDict)
        | st.lists(inner, max_size=3).map(Lines)
    ),
    max_leaves=30,
)
NUMBERS = [0, -1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, -(2**39)]
NUMBERS += [2**63, 10**700, -(10**700), -(1 << 2047), -(1 << 2039)]


def again(data: bytes) -> bytes:
    return PickleWriter().dump(run(data).root)


@given(plain)
@example(NUMBERS)
@example(["\ud800", "é", b"\xff", b""])
def test_what_protocol_2_wrote_comes_out_as_it_was(value: object) -> None:
    data = pickle.dumps(value, 2)
    twice = again(data)
    if not _has_short_text(data):
        assert twice == data
    assert repr(pickle.loads(twice)) == repr(value)


def _has_short_text(data: bytes) -> bool:
    """CPython has one object per character, and so cannot tell whether it was one in the file."""
    short = [arg for op, arg, _ in pickletools.genops(data) if isinstance(arg, str)]
    return any(len(text) < 2 for text in short)


@pytest.mark.parametrize("size", [1, 2, 999, 1000, 1001, 2000, 2001])
@pytest.mark.parametrize("kind", [dict, list, collections.OrderedDict, Lines, tuple])
def test_batches_end_where_cpythons_end(kind: type, size: int) -> None:
    """A full batch of a dict is followed by an empty one, that of an OrderedDict is not."""
    items = [f"key {n}" for n in range(size)]
    value = kind((item, n) for n, item in enumerate(items)) if "ict" in kind.__name__ else None
    data = pickle.dumps(kind(items) if value is None else value, 2)
    assert again(data) == data


def knots() -> list[object]:
    """Values that hold themselves."""
    ring: list[Any] = [1]
    ring.append(ring)
    pair: tuple[list[Any], ...] = ([],)
    pair[0].append(pair)
    four: tuple[Any, ...] = (1, 2, 3, [])
    four[3].append(four)
    thing = Thing(name="it")
    thing.me, thing.all = thing, [thing]  # type: ignore[attr-defined]
    return [ring, pair, four, thing]


@pytest.mark.parametrize("number", range(4))
def test_what_holds_itself(number: int) -> None:
    data = pickle.dumps(knots()[number], 2)
    assert again(data) == data


def objects() -> list[object]:
    slots = Slots()
    slots.a, slots.b = 1, [2]
    grown = Grown(a1=1, b1=2)
    grown.extra = 1  # type: ignore[attr-defined]
    return [
        Thing(left=1, right=[Thing()]), slots, grown, collections.Counter("aab"), complex(1, 2),
        collections.defaultdict(list, {"ab": [1]}), collections.deque([1, 2]), set, len, {1, 2},
        bytearray(b"ab"), bytearray(), bytes(5000),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(objects())))
def test_objects(number: int) -> None:
    data = pickle.dumps(objects()[number], 2)
    assert again(data) == data


@given(plain, st.sampled_from([0, 1, 3, 4, 5]))
def test_other_protocols_mean_the_same(value: object, protocol: int) -> None:
    assert repr(pickle.loads(again(pickle.dumps(value, protocol)))) == repr(value)


@pytest.mark.parametrize("protocol", [4, 5])
def test_what_protocol_2_has_no_opcode_for(protocol: int) -> None:
    values = [{1, 2}, frozenset([3]), bytes(5000), b"ab", bytearray(b"ab" * 3000), Kept(3, b=4)]
    for value in [*values, collections.OrderedDict.fromkeys]:
        made = pickle.loads(again(pickle.dumps(value, protocol)))
        if isinstance(value, Kept):
            assert made.__dict__ == value.__dict__
        else:
            assert made == value


def test_depth_is_no_recursion() -> None:
    data = b"\x80\x02" + b"]" * 50_001 + b"a" * 50_000 + b"."
    assert again(again(data)) == again(data)
    assert again(data).endswith(b"]" + b"r" + (50_000).to_bytes(4, "little") + b"a" * 50_000 + b".")


def test_replaced_objects_keep_their_identity() -> None:
    one = Call(Global("a", "One", 0), (), "REDUCE", 0)
    two = Call(Global("a", "Two", 0), (), "REDUCE", 0)
    data = PickleWriter(replace=lambda value: two if value is one else None).dump([one, one])
    made = run(data).root
    assert isinstance(made, list) and made[0] is made[1]
    assert made[0].func.path == "a.Two"


def test_persistent_ids_are_asked_for() -> None:
    pid = PersistentId(("storage", "old"), 0)
    data = PickleWriter(persistent=lambda value: ("storage", "new")).dump([pid, pid])
    made = run(data).root
    assert isinstance(made, list)
    assert [item.value for item in made] == [("storage", "new")] * 2


def test_an_object_among_its_own_arguments_is_refused() -> None:
    inner: list[Any] = []
    knot = Call(Global("a", "One", 0), (inner,), "REDUCE", 0)
    inner.append(knot)
    with pytest.raises(UnsupportedError, match="among its own arguments"):
        PickleWriter().dump(knot)
    buffers: list[Any] = []
    data = pickle.dumps(pickle.PickleBuffer(b"ab"), 5, buffer_callback=buffers.append)
    with pytest.raises(UnsupportedError, match="outside the pickle"):
        PickleWriter().dump(run(data).root)


@pytest.mark.parametrize(
    ("module", "name"),
    [("a\nb", "f"), ("", "f"), ("\udc80", "f")]
    + [("torch", name) for name in ("a\nb", "", "\udc80", ".a")],
)
def test_names_that_do_not_fit_into_a_line_are_refused(module: str, name: str) -> None:
    """A line break in a name would be the beginning of other opcodes."""
    with pytest.raises(UnsupportedError, match="protocol 2 has no way to write"):
        PickleWriter().dump(Global(module, name, 0))
