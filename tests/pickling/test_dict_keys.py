"""Dictionary keys: equal when pickle's are, and never expensive."""

from __future__ import annotations

import io
import pickle
import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptinspect.errors import DamagedError, LimitError
from ptinspect.limits import Limits
from ptinspect.pickling.containers import HUGE, MANY_KEYS
from ptinspect.pickling.machine import Pickled, run
from ptinspect.pickling.values import Key, SetOf, key_value
from tests.pickling.python import to_python


def pairs(pickled: Pickled) -> list[tuple[object, object]]:
    assert isinstance(pickled.root, dict)
    return [(key_value(key), value) for key, value in pickled.root.items()]


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a%c" % len(raw) + raw


def real(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


# --- which keys are equal -----------------------------------------------------------------------


def test_of_equal_keys_the_later_value_wins_with_a_warning() -> None:
    pickled = run(b"}(X\1\0\0\0aK\1X\1\0\0\0bK\2X\1\0\0\0aK\3u.")
    assert pairs(pickled) == [("a", 3), ("b", 2)]
    (warning,) = pickled.warnings
    assert (warning.kind, warning.offset) == ("duplicate-key", 26)
    assert "'a' is set twice" in warning.message


def test_a_key_of_an_earlier_batch_counts_too() -> None:
    pickled = run(b"}(X\1\0\0\0aK\1u(X\1\0\0\0bK\2X\1\0\0\0aK\3u.")
    assert pairs(pickled) == [("a", 3), ("b", 2)]
    assert "'a' is set twice" in pickled.warnings[0].message


def test_keys_that_all_differ_are_no_warning() -> None:
    assert run(pickle.dumps({"a": 1, 1: 2, None: 3, (1,): 4, 1.5: 5})).warnings == []


def test_a_warning_does_not_print_a_long_key() -> None:
    long = b"X" + struct.pack("<I", 100_000) + b"k" * 100_000 + b"q\0"
    (warning,) = run(b"}(" + long + b"K\1h\0K\2u.").warnings
    assert len(warning.message) < 200


def test_one_and_true_and_one_point_nought_are_one_key() -> None:
    pickled = run(b"}(K\1K\1" + real(1.0) + b"K\2\x88K\3u.")
    assert repr(pairs(pickled)) == "[(1, 3)]"  # the first key stays, as in Python


@pytest.mark.parametrize("value", [HUGE, -HUGE, 1 << 61, (1 << 61) - 1, 1 << 70, 1 << 1000])
def test_huge_numbers_are_equal_as_numbers_are(value: int) -> None:
    pickled = run(b"}(" + number(value) + b"K\1" + number(value) + b"K\2u.")
    assert pairs(pickled) == [(value, 2)]
    assert pairs(run(b"}(" + number(value) + b"K\1" + number(value + 1) + b"K\2u.")) == [
        (value, 1),
        (value + 1, 2),
    ]


def test_huge_floats_are_equal_to_their_integers() -> None:
    assert pairs(run(b"}(" + number(1 << 70) + b"K\1" + real(2.0**70) + b"K\2u.")) == [(1 << 70, 2)]
    infinite = float("inf")
    assert pairs(run(b"}(" + real(infinite) + b"K\1" + real(infinite) + b"K\2u.")) == [
        (infinite, 2)
    ]


def test_nan_is_the_same_key_only_if_it_is_the_same_object() -> None:
    nan = real(float("nan"))
    assert len(pairs(run(b"}(" + nan + b"K\1" + nan + b"K\2u."))) == 2
    assert len(pairs(run(b"}(" + nan + b"q\0K\1h\0K\2u."))) == 1
    assert len(pairs(run(b"}(" + nan + b"q\0\x85K\1h\0\x85K\2u."))) == 1


def test_a_tuple_is_one_key_however_it_is_made() -> None:
    one, same = b"(K\1X\1\0\0\0at", real(1.0) + b"X\1\0\0\0a\x86"
    assert repr(pairs(run(b"}(" + one + b"K\1" + same + b"K\2u."))) == "[((1, 'a'), 2)]"


def test_a_tuple_a_frozenset_and_their_parts_are_different_keys() -> None:
    value = {(1,): 1, frozenset({1}): 2, 1: 3, ((1,),): 4, (): 5, frozenset(): 6, "1": 7}
    assert len(pairs(run(pickle.dumps(value)))) == 7
    assert to_python(run(pickle.dumps(value)).root) == value


def test_frozensets_are_equal_in_any_order() -> None:
    data = b"}((K\1K\2\x91K\1(K\2K\1\x91K\2u."
    assert len(pairs(run(data))) == 1


def test_equal_keys_of_two_dicts_stay_what_each_was() -> None:
    root = run(b"}(K\1\x85K\5u}(" + real(1.0) + b"\x85K\6u\x86.").root
    assert isinstance(root, tuple)
    assert [repr(key_value(key)) for held in root for key in held] == ["(1,)", "(1.0,)"]


def test_long_bytes_are_equal_by_what_they_hold() -> None:
    one = b"B" + struct.pack("<I", 5000) + bytes(5000)
    other = b"B" + struct.pack("<I", 5000) + bytes(4999) + b"x"
    assert len(pairs(run(b"}(" + one + b"K\1" + one + b"K\2" + other + b"K\3u."))) == 2


keys = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([1 << 60, (1 << 61) - 1, 1 << 61, -(1 << 61), 1 << 70])
    | st.sampled_from([0.0, -0.0, 1.0, 0.5, 2.0**60, 2.0**61, 2.0**70, float("inf")])
    | st.sampled_from(["", "a", "1", b"", b"a"]),
    lambda inner: st.tuples(inner) | st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.tuples(keys, st.integers(0, 9)), max_size=20))
def test_dictionaries_are_pythons(items: list[tuple[object, int]]) -> None:
    """Written pair by pair, equal keys and all, then read as Python would have it."""
    want: dict[object, int] = {}
    data = b"}"
    for key, value in items:
        data += _bare(key) + b"K%cs" % value
        want[key] = value
    made = to_python(run(data + b".").root)
    assert list(map(shown, made.items())) == list(map(shown, want.items()))


def shown(value: object) -> str:
    """As repr, but that the order of a frozenset means nothing."""
    if isinstance(value, frozenset):
        return f"{{{sorted(map(shown, value))}}}"
    return f"({[*map(shown, value)]})" if isinstance(value, tuple) else repr(value)


def _bare(value: object) -> bytes:
    """The opcodes that push a value, without memo and frame."""
    pickler = pickle._Pickler(file := io.BytesIO(), 4)  # type: ignore[attr-defined]
    pickler.fast = True
    pickler.save(value)
    return file.getvalue()


# --- which keys cannot be -----------------------------------------------------------------------

UNHASHABLE = {
    "list": b"]",
    "dict": b"}",
    "set": b"\x8f",
    "bytearray": b"\x96" + bytes(8),
    "list in a tuple": b"]\x85",
    "set in a frozenset": b"(\x8f\x91",
    "dict deep in tuples": b"}" + b"\x85" * 50,
}


@pytest.mark.parametrize("key", UNHASHABLE.values(), ids=UNHASHABLE)
@pytest.mark.parametrize("data", [b"}%bK\1s.", b"(%bK\1d.", b"(%b\x91.", b"\x8f(%b\x90."])
def test_what_python_cannot_hash_is_damage(key: bytes, data: bytes) -> None:
    with pytest.raises(TypeError):
        pickle.loads(data % key)
    with pytest.raises(DamagedError, match=r"key that cannot be hashed|cannot be hashed"):
        run(data % key)


# --- which keys would be expensive --------------------------------------------------------------


def dict_of(keys: list[bytes]) -> bytes:
    return b"}(" + b"N".join(keys) + b"Nu."


def seconds(work: Callable[[], object]) -> float:
    """Of this process, the quicker of two."""
    taken = []
    for _ in range(2):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken)


def probed(key: int, bits: int, count: int) -> list[int]:
    """The first places in which a dictionary with 2**bits of them looks for a key (dictobject.c:
    `perturb`). As keys themselves they fill just these."""
    at, rest, made = key % (1 << bits), key, {}
    while len(made) < count:
        made[at] = None
        rest >>= 5
        at = (5 * at + rest + 1) % (1 << bits)
    return list(made)


def colliding_tuples(count: int) -> list[bytes]:
    """Pairs of integers for which CPython's hash of a tuple is one and the same: its second step
    is undone modulo 2**64."""
    one, two, five = 11400714785074694791, 14029467366897019727, 2870177450012600261
    mask = (1 << 64) - 1

    def lane(acc: int, value: int) -> int:
        acc = (acc + value * two) & mask
        return (((acc << 31) | (acc >> 33)) * one) & mask

    target = (lane(five, 1) + 12345 * two) & mask
    back = pow(two, -1, 1 << 64)
    made: list[bytes] = []
    first = 0
    while len(made) < count:
        first += 1
        second = (target - lane(five, first)) * back & mask
        second -= 1 << 64 if second >> 63 else 0
        if abs(second) < (1 << 61) - 1:
            made.append(number(first) + number(second) + b"\x86")
    return made


def test_the_tuples_collide_in_python() -> None:
    values = [pickle.loads(data + b".") for data in colliding_tuples(50)]
    assert len({hash(value) for value in values}) == 1
    assert len(set(values)) == 50


FAR = (1 << 59) + 12_345


def repeated(count: int) -> list[bytes]:
    """A table filled along the way that one key is looked for, and that key again and again."""
    return [number(key) for key in [*probed(FAR, 17, 80_000), *[FAR] * count]]


def test_the_one_key_is_slow_in_python() -> None:
    held = dict.fromkeys(probed(FAR, 17, 80_000))
    slow = seconds(lambda: [FAR in held for _ in range(100)])
    assert slow > 100 * seconds(lambda: [FAR + 1 in held for _ in range(100)])


ATTACKS: dict[str, Callable[[int], list[bytes]]] = {
    "remainder 0": lambda n: [number(k * ((1 << 61) - 1)) for k in range(n)],
    "remainder 0 in tuples": lambda n: [number(k * ((1 << 61) - 1)) + b"\x85" for k in range(n)],
    "as floats": lambda n: [real(float(k << 61)) for k in range(n)],
    "low bits alike": lambda n: [number(k << 40) for k in range(n)],
    "pairs with one hash": colliding_tuples,
    "one long probe again and again": repeated,
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_keys_that_collide_take_linear_time(attack: Callable[[int], list[bytes]]) -> None:
    """A hundred thousand of them; Python's own dictionary would take minutes to hours."""
    data = dict_of(attack(100_000))
    assert seconds(lambda: run(data)) < 15


def test_counting_keys_stay_what_they_are() -> None:
    """An optimizer's state: {0: …, 1: …}, beyond the number from which keys are wrapped."""
    count = 3 * MANY_KEYS
    root = run(pickle.dumps(dict.fromkeys(range(count)), 2)).root
    assert isinstance(root, dict)
    assert list(root) == list(range(count))
    assert {type(key) for key in root} == {int}


def test_scattered_keys_of_a_large_dict_are_wrapped_and_found_again() -> None:
    values = [7_919 * key % 1_000_003 for key in range(2 * MANY_KEYS)]
    data = dict_of([number(value) for value in values + values])
    pickled = run(data)
    assert [key for key, _ in pairs(pickled)] == values
    assert isinstance(pickled.root, dict)
    assert MANY_KEYS * 0.9 < sum(isinstance(key, Key) for key in pickled.root) <= MANY_KEYS
    assert "is set twice" in pickled.warnings[0].message


def test_a_number_wrapped_when_it_was_far_ahead_is_found_when_the_count_reaches_it() -> None:
    ahead = 2 * MANY_KEYS
    order = [*range(MANY_KEYS), ahead, *range(MANY_KEYS, ahead + 2)]
    assert len(pairs(run(dict_of([number(value) for value in order])))) == ahead + 2


def test_shared_tuples_are_no_bomb() -> None:
    """t = (t, t), forty deep: two to the fortieth leaves to hash."""
    bomb = b")" + b"2\x86" * 40
    with pytest.raises(LimitError) as caught:
        run(b"}" + bomb + b"Ns.")
    assert caught.value.limit == "key_items"


def test_a_tuple_a_million_deep_is_no_key() -> None:
    """CPython's C unpickler crashes on it."""
    with pytest.raises(LimitError) as caught:
        run(b"})" + b"\x85" * 1_000_000 + b"Ns.")
    assert caught.value.limit == "key_depth"


def test_a_wide_tuple_within_the_limit_is_a_key() -> None:
    data = b"}(" + b"N" * 100 + b"tNs."
    assert len(pairs(run(data, limits=Limits(key_items=101)))) == 1
    with pytest.raises(LimitError):
        run(data, limits=Limits(key_items=100))


def test_depth_is_counted() -> None:
    data = b"})" + b"\x85" * 9 + b"Ns."
    assert len(pairs(run(data, limits=Limits(key_depth=10)))) == 1
    with pytest.raises(LimitError) as caught:
        run(data, limits=Limits(key_depth=9))
    assert caught.value.limit == "key_depth"


def test_a_big_key_used_often_is_looked_into_once() -> None:
    """By the memo: each use takes five bytes of stream, and would hash ten thousand parts."""
    big = b"(" + b"N" * 9_990 + b"tq\0"
    data = big + b"}" + b"h\0Ns" * 100_000 + b"."
    assert seconds(lambda: run(data)) < 15
    inside = big + b"](" + b"}h\0M\1\2\x86Ns" * 50_000 + b"e."
    assert seconds(lambda: run(inside)) < 15


def test_a_frozenset_with_many_members_is_linear() -> None:
    data = b"(" + b"".join(number(k * ((1 << 61) - 1)) for k in range(100_000)) + b"\x91."
    root = run(data).root
    assert isinstance(root, SetOf)
    assert len(root) == 100_000
