"""Opcodes for containers, the stack and the memo."""

from __future__ import annotations

import pickle

import pytest

from ptinspect.errors import DamagedError
from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Call, Global, SetOf
from tests.pickling.outline import outline
from tests.pickling.python import to_python

PLAIN = {
    "EMPTY_LIST": b"].",
    "APPEND": b"]K\x01aK\x02a.",
    "APPENDS": b"](K\x01K\x02e.",
    "LIST": b"(K\x01K\x02l.",
    "EMPTY_TUPLE": b").",
    "TUPLE": b"(K\x01K\x02K\x03K\x04t.",
    "TUPLE of none": b"(t.",
    "TUPLE1": b"K\x01\x85.",
    "TUPLE2": b"K\x01K\x02\x86.",
    "TUPLE3": b"K\x01K\x02K\x03\x87.",
    "EMPTY_DICT": b"}.",
    "DICT": b"(K\x01K\x02K\x03K\x04d.",
    "SETITEM": b"}K\x01K\x02s.",
    "SETITEMS": b"}(K\x01K\x02K\x03K\x04u.",
    "EMPTY_SET": b"\x8f.",
    "ADDITEMS": b"\x8f(K\x01K\x02\x90.",
    "FROZENSET": b"(K\x01K\x02\x91.",
    "POP": b"K\x01K\x020.",
    "POP of a mark": b"K\x01(0.",
    "DUP": b"]2K\x01a\x86.",
    "MARK left open": b"K\x01(K\x02.",
    "POP_MARK": b"K\x01(K\x02K\x031.",
    "PUT and GET": b"]p5\n0g5\n.",
    "GET with a sign": b"]p 5 \n0g+5\n.",
    "BINPUT and BINGET": b"]q\x050h\x05.",
    "LONG_BINPUT and LONG_BINGET": b"]r\x05\0\0\x010j\x05\0\0\x01.",
    "MEMOIZE": b"]\x94]\x94K\x01ah\x00\x86.",
    "MEMOIZE counts, and does not continue": b"]q\x09]\x94h\x01\x86.",
    "MEMOIZE after an index twice": b"]q\0q\0K\x05\x94h\x01\x86.",
    "MEMOIZE onto an index that is taken": b"]q\x01K\x05\x94h\x01\x86.",
    "an index ahead that the count reaches": b"K\x07q\x02Nq\0Nq\x01K\x03q\x02N\x94h\x03h\x02\x86.",
    "SETITEM on a list": b"](K\x01K\x02eK\x00K\x05s.",
    "SETITEM on a list, from its end": b"](K\x01K\x02eJ\xff\xff\xff\xffK\x05s.",
    "APPENDS of nothing onto anything": b"K\x01(e.",
    "SETITEMS of nothing onto anything": b"K\x01(u.",
    "ADDITEMS of nothing onto anything": b"K\x01(\x90.",
    "FRAME": b"\x80\x04\x95\x02\0\0\0\0\0\0\0K\x01.",
    "FRAME that ends inside an argument": b"\x80\x04\x95\x01\0\0\0\0\0\0\0M\x01\x02.",
}  # fmt: skip


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_the_value_is_cpythons(data: bytes) -> None:
    assert repr(to_python(run(data).root)) == repr(pickle.loads(data))


REFUSED = {
    "APPEND onto a number": (b"K\x01K\x02a.", 4),
    "APPENDS onto a dict": (b"}(K\x01e.", 4),
    "SETITEM onto a tuple": (b")K\x01K\x02s.", 5),
    "SETITEMS of a key alone": (b"}(K\x01u.", 4),
    "SETITEMS of a key alone onto a list": (b"](K\x01u.", 4),
    "DICT of a key alone": (b"(K\x01d.", 3),
    "SETITEM behind a list's end": (b"]K\x00K\x01s.", 5),
    "ADDITEMS onto a list": (b"](K\x01\x90.", 4),
    "ADDITEMS onto a frozenset": (b"(\x91(K\x01\x90.", 5),
    "APPEND onto a set": (b"\x8fK\x01a.", 3),
    "POP of nothing": (b"0.", 0),
    "POP_MARK without a mark": (b"K\x011.", 2),
    "TUPLE without a mark": (b"K\x01t.", 2),
    "APPENDS across a mark": (b"](K\x01(K\x02e0.", 7),
    "TUPLE2 across a mark": (b"K\x01(K\x02\x86.", 5),
    "DUP of nothing": (b"2.", 0),
    "DUP of a mark": (b"K\x01(2.", 3),
    "PUT of nothing": (b"p0\n.", 0),
    "BINPUT of a mark": (b"K\x01(q\0.", 3),
    "MEMOIZE of nothing": (b"\x94.", 0),
    "GET of no entry": (b"g5\n.", 0),
    "GET of no number": (b"K\x01p0\ngx\n.", 5),
    "GET below zero": (b"K\x01p0\ng-1\n.", 5),
    "PUT below zero": (b"K\x01p-1\n.", 2),
    "BINGET of no entry": (b"K\x01q\0h\x01.", 4),
    "LONG_BINGET of no entry": (b"K\x01q\0j\0\0\0\x01.", 4),
    "STOP with nothing": (b".", 0),
    "STOP on a mark": (b"K\x01(.", 3),
}


@pytest.mark.parametrize(("data", "at"), REFUSED.values(), ids=REFUSED)
def test_what_cpython_refuses_is_damaged_at_its_opcode(data: bytes, at: int) -> None:
    with pytest.raises(Exception):  # noqa: B017
        pickle.loads(data)
    with pytest.raises(DamagedError) as caught:
        run(data, record="data.pkl")
    assert caught.value.where == ("data.pkl", at)


# --- identity -----------------------------------------------------------------------------------


def test_one_object_twice_is_one_object() -> None:
    shared = [1]
    for protocol in range(6):
        root = run(pickle.dumps([shared, shared, [1]], protocol)).root
        assert isinstance(root, list)
        assert root[0] is root[1]
        assert root[0] is not root[2]


def test_a_list_in_itself() -> None:
    whole: list[object] = []
    whole.append(whole)
    for protocol in range(6):
        root = run(pickle.dumps(whole, protocol)).root
        assert isinstance(root, list)
        assert root[0] is root


def test_a_tuple_in_itself_by_way_of_a_list() -> None:
    """The pickler puts the tuple together twice, throws one away and recalls the other."""
    inner: list[object] = []
    whole = (inner,)
    inner.append(whole)
    for protocol in range(6):
        root = run(pickle.dumps(whole, protocol)).root
        assert isinstance(root, tuple)
        assert root[0][0] is root


def test_an_object_in_its_own_state() -> None:
    #      m.C()  memo 0    {"self": it}
    data = b"cm\nC\n)\x81q\0}U\x04selfh\0sb."
    root = run(data).root
    assert isinstance(root, Call)
    assert isinstance(root.state, dict)
    assert root.state["self"] is root
    assert ("again", 0) in outline([root])


def test_an_object_among_its_own_keys_and_members() -> None:
    root = run(b"cm\nC\n)\x81q\0(h\0h\0u(h\0\x90(h\0e.").root
    assert isinstance(root, Call)
    assert (*root.pairs.items(), *root.added, *root.items) == ((root, root), root, root)


def test_a_sparse_index_costs_nothing() -> None:
    data = b"K\x07r\0\0\0\x80p99999999999999999999\n0j\0\0\0\x80g99999999999999999999\n\x86."
    assert run(data).root == (7, 7)


def test_an_index_that_is_written_again_holds_what_was_written_last() -> None:
    assert run(b"K\x01q\0K\x02q\0h\0.").root == 2
    assert run(b"K\x01q\x07K\x02q\x07h\x07.").root == 2


# --- sets ---------------------------------------------------------------------------------------


def test_a_set_keeps_the_streams_order_and_of_equals_the_first() -> None:
    root = run(b"\x8f(K\x03\x88K\x01G" + b"\x40\x08" + bytes(6) + b"NX\x01\0\0\0a\x90.").root
    assert isinstance(root, SetOf)
    assert [repr(member) for member in root] == ["3", "True", "None", "'a'"]
    assert len(root) == 4


@pytest.mark.parametrize("protocol", range(6))
def test_sets_of_sets_are_what_they_were(protocol: int) -> None:
    value = {frozenset({1, frozenset()}), frozenset({(1, 2)}), "a"}
    assert to_python(run(pickle.dumps(value, protocol)).root) == value


# --- changes of what is no container here -------------------------------------------------------


def test_what_is_done_to_an_object_is_kept_by_kind_and_in_order() -> None:
    made = b"cm\nC\n)R" + b"K\x01a" + b"(K\x02K\x03e" + b"K\x04K\x05s" + b"(K\x06K\x07u"
    root = run(made + b"(K\x08\x90" + b"K\x09b" + b"K\x0ab.").root
    assert isinstance(root, Call)
    assert (root.items, root.pairs, root.added) == ([1, 2, 3], {4: 5, 6: 7}, [8])
    assert root.changes is not None
    assert root.changes.states == [9, 10]
    assert root.state == 10


def test_a_changed_global_says_so() -> None:
    pickled = run(b"cm\nC\nq\0K\x01b0h\0.")
    assert isinstance(pickled.root, Global)
    assert pickled.root.state == 1
    assert pickled.globals == [pickled.root]


def test_nothing_done_is_no_change() -> None:
    root = run(b"cm\nC\n)R(e(u(\x90.").root
    assert isinstance(root, Call)
    assert root.changes is None
