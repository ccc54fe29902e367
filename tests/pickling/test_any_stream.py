"""Properties of every stream: it ends in a value or in our error, and where CPython's unpickler
loads it, in the same value."""

from __future__ import annotations

import pickle
from contextlib import suppress
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptinspect.errors import PtInspectError
from ptinspect.limits import LIMITS
from ptinspect.pickling.machine import Handler, Loop, run, run_to_stop, run_until
from ptinspect.pickling.state import Machine, Recorder
from tests.corpus.mutants import only_soup
from tests.pickling import cpython
from tests.pickling.outline import everything, value_of
from tests.pickling.python import to_python
from tests.pickling.soup import soup
from tests.pickling.streams import STREAMS
from tests.pickling.torch_like import attacked, drawn, state_dict
from tests.tiers import all_rounds, rounds

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from(["\udc80", "\0\n\\u0041", "x" * 300, b"\n'\\", bytes(5000), 1 << 600, -0.0])
)
keys = st.integers() | st.text() | st.binary() | st.tuples(st.text(), st.integers())
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
        | st.binary().map(bytearray)
    ),
    max_leaves=20,
)


@given(plain, st.integers(0, pickle.HIGHEST_PROTOCOL))
@example([[]] * 2, 2)  # one list twice: the memo
@example([bytearray(b"a")] * 2, 5)
@example(dict.fromkeys(range(2_500)), 1)  # more than one batch
def test_reads_what_pickle_writes(value: object, protocol: int) -> None:
    made = to_python(run(pickle.dumps(value, protocol)).root)
    assert cpython.outline(made) == cpython.outline(value)


@given(st.lists(plain, min_size=1, max_size=4), st.data())
def test_what_was_one_object_stays_one(parts: list[object], data: st.DataObject) -> None:
    value = [data.draw(st.sampled_from(parts)) for _ in range(6)]
    for protocol in (0, 2, 4):
        made = to_python(run(pickle.dumps(value, protocol)).root)
        assert cpython.outline(made) == cpython.outline(value)


@given(st.binary(max_size=400))
def test_any_bytes_end_in_a_value_or_our_error(data: bytes) -> None:
    with suppress(PtInspectError):
        run(data)


@given(st.integers(0, 1 << 32))
def test_any_opcodes_end_in_a_value_or_our_error(seed: int) -> None:
    """Opcodes with absurd arguments, then some that mostly make sense."""
    with suppress(PtInspectError):
        run(only_soup(Random(seed)))
    with suppress(PtInspectError):
        run(soup(Random(seed), wild=0.5))


@given(st.sampled_from(sorted(STREAMS)), st.data())
def test_a_changed_byte_ends_in_a_value_or_our_error(name: str, data: st.DataObject) -> None:
    changed = bytearray(STREAMS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    with suppress(PtInspectError):
        run(bytes(changed))


def by_handlers(m: Machine, table: list[Handler], pos: int, pause: int) -> int:
    """Call the handler of each opcode."""
    while pos < pause:
        m.offset = pos
        pos = table[m.data[pos]](m, pos + 1)
    return pos


@pytest.mark.fuzz
@pytest.mark.parametrize("share", range(2))
def test_what_is_done_without_a_call_is_what_the_handlers_do(share: int) -> None:
    """The opcodes that the machine's loop does itself, on streams of all kinds and cut at any
    place: values, offsets, uses of globals, errors."""
    for seed in range(share, rounds(3_000), 2):
        rng = Random(seed)
        made = (soup(rng), state_dict(drawn(rng, 3), padding=rng.choice((0, 250))))
        for data in (*made, attacked(made[1], rng), made[0][: rng.randrange(len(made[0]))]):
            mine = everything(data, plain=True)
            assert mine == everything(data, plain=True, loop=by_handlers), data


def recorded(loop: Loop, data: bytes) -> list[tuple[object, ...]]:
    recorder = Recorder()
    with suppress(PtInspectError):
        run_to_stop(Machine(data, 0, None, None, LIMITS, True, recorder), 0, loop)
    return [
        (at, op, getattr(target, "offset", None), type(target).__name__)
        for at, op, target, _ in recorder.events
    ]


@pytest.mark.fuzz
def test_what_is_done_without_a_call_is_written_down_as_well() -> None:
    seen = set()
    for seed in range(rounds(1_000)):
        rng = Random(seed)
        for data in (soup(rng), state_dict(drawn(rng, 3))):
            mine = recorded(run_until, data)
            assert mine == recorded(by_handlers, data), data
            seen |= {op for _, op, *_ in mine}
    assert {"REDUCE", "BUILD", "GLOBAL", "SETITEMS"} <= seen


def agrees(data: bytes, unpickler: type) -> bool:
    """Whether `unpickler` loads the stream at all; then the machine must, to the same value."""
    try:
        want, end = cpython.load(data, unpickler)
    except Exception:  # noqa: BLE001
        return False  # an unpickler raises whatever it likes
    assert value_of(data) == want, data
    assert run(data).end == end or b"\x95" in data, data  # a frame is taken out of a file whole
    return True


@given(st.integers(0, 1 << 32))
def test_what_cpython_loads_is_read_to_the_same_value(seed: int) -> None:
    """Held against the C unpickler, which is what torch.load and pickle.load are."""
    agrees(soup(Random(seed)), pickle.Unpickler)


@pytest.mark.fuzz
@pytest.mark.parametrize("share", range(4))
def test_thousands_of_streams_are_read_as_cpython_reads_them(share: int) -> None:
    seeds = range(share, rounds(8_000), 4)
    loaded = sum(agrees(soup(Random(seed)), pickle.Unpickler) for seed in seeds)
    assert loaded > 0.3 * len(seeds)  # or the comparison would be an empty one


@pytest.mark.fuzz
@pytest.mark.parametrize("name", [name for name in STREAMS if "state_dict" not in name])
def test_one_changed_byte_is_read_as_cpython_reads_it(name: str) -> None:
    """At each place; at each tenth in the first tier."""
    rng = Random(name)
    loaded = 0
    places = range(0, len(STREAMS[name]), 1 if all_rounds() else 10)
    for at in places:
        changed = bytearray(STREAMS[name])
        changed[at] = rng.randrange(256)
        if is_harmless(bytes(changed)):
            loaded += agrees(bytes(changed), pickle.Unpickler)
    assert loaded > (20 if all_rounds() else 2)


def is_harmless(data: bytes) -> bool:
    """Whether CPython may be shown it: its memo is as large as the largest index."""
    machine = Machine(data, 0, None, None, LIMITS, plain=True)
    with suppress(PtInspectError):
        run_to_stop(machine, 0)
    return all(int(index, 16) < 10_000 for index in machine.sparse)
