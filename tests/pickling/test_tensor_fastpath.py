"""The superinstruction against the plain machine: the same values, offsets, memo, uses and errors
for whatever bytes. Would the two differ, a file could show one tensor here and load as another."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptinspect.errors import PtInspectError
from ptinspect.limits import LIMITS
from ptinspect.pickling import state, tensor_fastpath
from ptinspect.pickling.machine import run, run_to_stop
from ptinspect.pickling.state import Machine, Recorder
from ptinspect.pickling.values import Call, Global, PersistentId, TensorCall
from tests.conftest import FIXTURES
from tests.pickling.outline import everything
from tests.pickling.streams import STREAMS
from tests.pickling.torch_like import Dense, Writer, attacked, drawn, moved_on, state_dict
from tests.tiers import all_rounds, rounds

SQUARE = Dense("7", 16, (4, 4), (4, 1))


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the stream."""
    monkeypatch.setattr(state, "FASTPATH_MIN_BYTES", 0)


def agree(data: bytes, start: int = 0, stop: int | None = None) -> list[object]:
    fast = everything(data, plain=False, start=start, stop=stop)
    assert fast == everything(data, plain=True, start=start, stop=stop), data
    return list(fast)


def in_one_go(data: bytes) -> int:
    """How many tensors the superinstruction reads."""
    return sum(type(made) is TensorCall for made in run(data).persistent)


def dict_of(count: int, tensor: Dense = SQUARE, **kind: bool | int) -> bytes:
    tensors = {f"layer.{n}": tensor._replace(key=str(n)) for n in range(count)}
    return state_dict(tensors, padding=300, **kind)  # type: ignore[arg-type]


# --- that it is used ----------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "tensor",
    [
        SQUARE,
        SQUARE._replace(size=(), stride=()),
        SQUARE._replace(size=(16,), stride=(1,)),
        SQUARE._replace(size=(2, 2, 4), stride=(8, 4, 1), grad=True),
        SQUARE._replace(size=(2, 2, 2, 2), stride=(8, 4, 2, 1), offset=70_000),
        SQUARE._replace(size=(1,) * 64, stride=(1,) * 64, numel=1 << 30),
        SQUARE._replace(parameter=True, grad=True),
    ],
    ids=lambda tensor: f"{len(tensor.size)}d",
)
def test_all_but_the_first_are_read_in_one_go(tensor: Dense, legacy: bool) -> None:
    data = dict_of(20, tensor, legacy=legacy)
    agree(data)
    assert in_one_go(data) == 19


def test_other_types_and_devices_than_the_firsts_are_read_in_one_go_too() -> None:
    tensors = {
        f"layer.{n}": SQUARE._replace(kind=kind, location=location)
        for n, (kind, location) in enumerate(
            [("FloatStorage", "cpu"), ("HalfStorage", "cuda:0")] * 2 + [("LongStorage", "cpu")] * 3
        )
    }
    data = state_dict(tensors, padding=300)
    agree(data)
    assert in_one_go(data) == 4  # each name is read once by the plain machine


def test_short_streams_are_left_to_the_plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dict_of(20)
    monkeypatch.setattr(state, "FASTPATH_MIN_BYTES", len(data) + 1)
    assert in_one_go(data) == 0
    monkeypatch.setattr(state, "FASTPATH_MIN_BYTES", len(data))
    assert in_one_go(data) == 19


@pytest.mark.slow
def test_more_tensors_than_are_read_without_a_look_at_the_limits() -> None:
    data = dict_of(2 * tensor_fastpath.BATCH + 5)
    agree(data)
    assert in_one_go(data) == 2 * tensor_fastpath.BATCH + 4


def test_lists_of_tensors() -> None:
    writer = Writer(padding=300)
    writer.pad()
    writer.out += b"("
    for number in range(9):
        writer.tensor(SQUARE._replace(key=str(number)))
    data = bytes(writer.out) + b"e."
    agree(data)
    assert in_one_go(data) == 8


# --- what it makes ------------------------------------------------------------------------------


def test_the_call_is_what_its_bytes_say() -> None:
    data = dict_of(2, SQUARE._replace(offset=5, grad=True, location="cuda:0"))
    pickled = run(data)
    made = pickled.persistent[1]
    assert isinstance(made, TensorCall)
    assert isinstance(made.func, Global)
    assert (made.func.path, made.opcode, made.kwargs) == (
        "torch._utils._rebuild_tensor_v2", "REDUCE", None,
    )  # fmt: skip
    storage, offset, size, stride, grad, hooks = made.args
    assert (offset, size, stride, grad) == (5, (4, 4), (4, 1), True)
    assert isinstance(storage, PersistentId)
    assert isinstance(storage.value, tuple)
    word, kind, *rest = storage.value
    assert (word, kind, rest) == ("storage", made.form.storage_type, ["1", "cuda:0", 16])
    assert made.form.storage_type.path == "torch.FloatStorage"
    assert isinstance(hooks, Call)
    assert (hooks.func, hooks.args) == (made.form.run.hooks, ())
    assert data[made.offset] == data[hooks.offset] == ord("R")
    assert data[storage.offset] == ord("Q")
    assert made.args is made.args
    assert made.storage is made.storage is storage
    assert repr(made).startswith("Call(torch._utils._rebuild_tensor_v2, 6 arguments")


def test_the_legacy_persistent_id_ends_in_none() -> None:
    made = run(dict_of(2, legacy=True)).persistent[1]
    assert isinstance(made, TensorCall)
    assert isinstance(made.storage.value, tuple)
    assert made.storage.value[2:] == ("1", "cpu", 16, None)


def test_a_recorder_is_told_what_is_called_on_a_tensor() -> None:
    data = dict_of(3, SQUARE._replace(parameter=True))
    told = Recorder()
    run(data, recorder=told)
    calls = [event.target for event in told.events if event.opcode == "REDUCE"]
    named = [call.func.path for call in calls if isinstance(call, Call)]  # type: ignore[attr-defined]
    assert named.count("torch._utils._rebuild_parameter") == 3


# --- what is not torch's ------------------------------------------------------------------------


def edited(data: bytes, old: bytes, new: bytes, which: int = -1) -> bytes:
    """One occurrence replaced, of those that there are."""
    places = [at for at in range(len(data)) if data.startswith(old, at)]
    at = places[which]
    return data[:at] + new + data[at + len(old) :]


# Edits of the last of five tensors, each of which makes it another than the pattern would say.
EDITS = {
    "TUPLE2 takes one": (b"K\4K\1\x86", b"K\4K\1\x85"),
    "TUPLE2 takes three": (b"K\4K\1\x86", b"K\4K\1\x87"),
    "the size takes the offset": (b"K\4K\4\x86", b"K\4K\4\x87"),
    "a longer key": (b"X\1\0\0\x004", b"X\2\0\0\x004"),
    "a shorter key": (b"X\1\0\0\x004", b"X\0\0\0\x004"),
    "a longer name": (b"X\7\0\0\0layer.4", b"X\x08\0\0\0layer.4"),
    "a shorter name": (b"X\7\0\0\0layer.4", b"X\6\0\0\0layer.4"),
    "a name that holds a memo index": (b"X\7\0\0\0layer.4", b"X\x0c\0\0\0layer.4rABCD"),
    "no MARK": (b"((", b"("),
    "three MARKs": (b"((", b"((("),
    "a number for the flag": (b"\x89j", b"K\0j"),
    "a list of hooks": (b")R", b"]R"),
    "a negative number of elements": (b"K\x10t", b"J\xff\xff\xff\xfft"),
    "None behind the number of elements": (b"K\x10t", b"K\x10Nt"),
    "a persistent id of two": (b"K\x10t", b"K\x10\x86"),
    "wider numbers": (b"K\4K\4\x86", b"M\4\0J\4\0\0\0\x86"),
    "a tuple by TUPLE": (b"K\4K\4\x86", b"(K\4K\4t"),
    "no size": (b"K\4K\4\x86", b")"),
    "BUILD in between": (b"tR", b"tR}b"),
    "a protocol in between": (b"((", b"(\x80\4("),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_what_deviates_is_read_by_the_plain_machine(edit: tuple[bytes, bytes]) -> None:
    data = dict_of(5)
    if edit[0] == b"tR":
        edit = (data[-13:-8], data[-13:-8] + b"}b0")  # behind the last R, on what it made
    changed = edited(data, *edit)
    assert changed != data
    agree(changed)


@pytest.mark.parametrize("by", [-300, -8, -1, 1, 8, 1 << 20])
def test_any_put_that_is_not_the_next(by: int) -> None:
    data = dict_of(4)
    places = [at for at in range(len(data)) if data[at : at + 1] == b"r"]
    tried = 0
    for at in places:
        index = struct.unpack_from("<I", data, at + 1)[0] if at + 5 <= len(data) else 0
        if 300 < index < 400:
            tried += 1
            agree(data[: at + 1] + struct.pack("<I", index + by) + data[at + 5 :])
    assert tried > 20


def test_what_the_run_remembers_is_there_to_recall() -> None:
    """Each of its eight entries, alone and after one of them is written again."""
    data = dict_of(3)[:-2]
    last = max(index for index in range(300, 400) if struct.pack("<cI", b"r", index) in data)
    for index in range(last - 8, last + 1):
        recall = struct.pack("<cI", b"j", index)
        agree(data + recall + recall + b"\x86\x86a.")
        for again in range(last - 8, last + 1):
            put = struct.pack("<cI", b"r", again)
            agree(data + recall + put + recall + struct.pack("<cI", b"j", again) + b"\x87\x86a.")
    agree(data + b"\x94" + struct.pack("<cI", b"j", last + 1) + b"\x86a.")


def test_an_entry_that_all_share_is_written_again() -> None:
    """The word, the hooks or the function itself is another thing from then on."""
    data = dict_of(6)
    start = data.index(b"X\7\0\0\0layer.4")
    for index in range(300, 320):
        for value in (b"K\1", b"X\7\0\0\0storage", b"cm\nC\n", b"ctorch\nHalfStorage\n"):
            attack = value + struct.pack("<cI", b"r", index) + b"0"
            agree(data[:start] + attack + data[start:])


def test_a_name_that_is_no_module_of_torchs() -> None:
    for old, new in (
        (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n"),
        (b"ccollections\nOrderedDict\n", b"ccollections\nChainMap\n"),
        (b"ctorch\nFloatStorage\n", b"X\4\0\0\0abcd"),
    ):
        data = edited(dict_of(5), old, new)
        agree(data)
        assert in_one_go(data) == 0


def test_changes_of_a_tensor_are_kept() -> None:
    data = dict_of(2)[:-2]
    last = max(index for index in range(300, 400) if struct.pack("<cI", b"r", index) in data)
    agree(data + struct.pack("<cI", b"j", last) + b"}X\1\0\0\0aK\1sb0a.")


# --- and anything else --------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_every_kind(name: str) -> None:
    agree(STREAMS[name])


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_off_or_bounded_anywhere(legacy: bool) -> None:
    data = state_dict(drawn(Random(7), 6), legacy=legacy, padding=300)
    for end in range(600, len(data)):
        agree(data[:end])
        agree(data, stop=end)


@pytest.mark.fuzz
@pytest.mark.parametrize("share", range(4))
def test_thousands_of_attacks(share: int) -> None:
    """Opcodes changed, moved, missing or more; indices, lengths and TUPLEs that are not theirs."""
    in_runs = whole = 0
    seeds = range(share, rounds(6_000), 4)
    for seed in seeds:
        rng = Random(seed)
        tensors = drawn(rng, rng.randint(2, 12))
        data = state_dict(tensors, rng.random() < 0.3, rng.choice((0, 254, 300, 300, 300)))
        data = attacked(data, rng)
        whole += len(agree(data)) > 1
        machine = Machine(data, 0, None, None, LIMITS, plain=False)
        with suppress(PtInspectError):
            run_to_stop(machine, 0)
        in_runs += any(type(made) is TensorCall for made in machine.persistent)
    least = len(seeds) / (5 if all_rounds() else 8)
    assert in_runs > least  # the attack reached what it is aimed at
    assert whole > least


@given(st.integers(0, 1 << 60))
def test_attacks_that_hypothesis_thinks_of(seed: int) -> None:
    rng = Random(seed)
    agree(attacked(state_dict(drawn(rng, 5), padding=300), rng))


def pickles_of_fixtures() -> Iterator[bytes]:
    for file in sorted(FIXTURES.rglob("*.pt")) + sorted(FIXTURES.rglob("*.pth")):
        if zipfile.is_zipfile(file):
            with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as held:  # some are damaged
                names = [name for name in held.namelist() if name.endswith("data.pkl")]
                yield from [held.read(name) for name in names]


@pytest.mark.slow
def test_every_fixture_behind_a_full_memo() -> None:
    """Its indices moved beyond 255, so that torch's own streams are read in one go."""
    tried = in_runs = 0
    for data in pickles_of_fixtures():
        tried += 1
        agree(data)
        if data[:1] != b"\x80":
            continue
        moved = moved_on(data)
        agree(moved)
        in_runs += in_one_go(moved) > 0
        rng = Random(tried)
        for _ in range(5):
            agree(attacked(moved, rng))
    assert tried > 50
    assert in_runs > 20
