"""Streams that are cut off or wrong: one clear error with the offset, and nothing allocated."""

from __future__ import annotations

import mmap
import pickle
import struct
import tracemalloc
from pathlib import Path

import pytest

from ptinspect.errors import DamagedError, LimitError
from ptinspect.limits import Limits
from ptinspect.pickling import state
from ptinspect.pickling.machine import run
from ptinspect.pickling.opcodes import BY_CODE, Arg
from tests.pickling.outline import everything
from tests.pickling.streams import STREAMS
from tests.pickling.torch_like import offsets

every = pytest.mark.parametrize("name", STREAMS)


@pytest.fixture(autouse=True, params=[True, False], ids=["plain", "runs"])
def plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways in which the machine reads, whatever the size of the stream."""
    monkeypatch.setattr(state, "FASTPATH_MIN_BYTES", 0)
    return bool(request.param)


@every
def test_cut_off_anywhere_it_is_damaged_there(name: str, plain: bool) -> None:
    data = STREAMS[name]
    starts = offsets(data)
    framed = 2 if data[2:3] == b"\x95" else None  # a FRAME says at once what is missing
    for end in range(len(data)):
        with pytest.raises(DamagedError) as caught:
            run(data[:end], record="r", plain=plain)
        where = caught.value.where
        assert where is not None
        assert where.record == "r"
        # Where it ends, or at the opcode whose argument is cut, or at the frame that is.
        last = max((at for at in starts if at < end), default=0)
        assert where.offset in (end, last, framed), (end, caught.value)
        assert "truncated: download or copy the file again" in (caught.value.hint or ""), (
            end,
            caught.value,
        )


@pytest.mark.slow
@every
def test_a_bound_inside_the_data_cuts_it_off_likewise(name: str, plain: bool) -> None:
    """`stop` before the end of the buffer: what lies behind it is never looked at."""
    data = STREAMS[name]
    for stop in range(len(data)):
        with pytest.raises(DamagedError) as caught:
            run(data, stop=stop, plain=plain)
        with pytest.raises(DamagedError) as cut:
            run(data[:stop], plain=plain)
        assert (caught.value.message, caught.value.where) == (cut.value.message, cut.value.where)


@every
def test_what_is_around_the_stream_does_not_matter(name: str, plain: bool) -> None:
    data = STREAMS[name]
    around = b"\xff" * 7 + data + b"\xff" * 7
    pickled = run(around, 7, plain=plain)
    assert (pickled.start, pickled.end) == (7, 7 + len(data))
    whole = everything(around, start=7, plain=plain)
    assert whole == everything(around, start=7, stop=7 + len(data), plain=plain)
    assert len(whole) == len(everything(data, plain=plain))


@every
def test_a_map_of_a_file_reads_like_its_bytes(name: str, plain: bool, tmp_path: Path) -> None:
    data = STREAMS[name]
    file = tmp_path / "data.pkl"
    file.write_bytes(data)
    with file.open("rb") as held, mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        made = everything(mapped, plain=plain)  # type: ignore[arg-type]
    assert made == everything(data, plain=plain)


def test_nothing_at_all(plain: bool) -> None:
    with pytest.raises(DamagedError) as caught:
        run(b"", plain=plain)
    assert caught.value.where == (None, 0)
    with pytest.raises(DamagedError):
        run(b"N.", 2, plain=plain)
    with pytest.raises(DamagedError):
        run(b"N.", 99, plain=plain)


def test_a_byte_that_is_no_opcode(plain: bool) -> None:
    codes = [code for code in range(256) if code not in BY_CODE]
    assert len(codes) > 180
    for code in codes:
        with pytest.raises(DamagedError) as caught:
            run(b"NN%cNN." % code, plain=plain)
        assert caught.value.where == (None, 2)
        assert f"{code:#04x}" in caught.value.message


@pytest.mark.parametrize(
    "data", [b"p0\n.", b"q\0.", b"r\0\0\0\0.", b"a.", b"K\1a.", b"R.", b"\x94.", b"Q.", b"b."]
)
def test_too_little_on_the_stack_is_not_a_cut_stream(data: bytes, plain: bool) -> None:
    with pytest.raises(DamagedError) as caught:
        run(data, plain=plain)
    assert "too few values on the stack" in caught.value.message
    assert caught.value.hint is None


# --- announced lengths --------------------------------------------------------------------------

SIZED = {row.name: row for row in BY_CODE.values() if row.arg in (Arg.SIZE4, Arg.SIZE8)}


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("size", [100, 1 << 20, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1])
def test_an_announced_length_is_not_allocated(name: str, size: int, plain: bool) -> None:
    row = SIZED[name]
    width = 4 if row.arg == Arg.SIZE4 else 8
    field = (size & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    data = bytes((row.code,)) + field + bytes(50)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError) as caught:
            run(data, plain=plain)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.where == (None, 0)
    assert "announces" in caught.value.message


def test_a_frame_that_is_longer_than_the_stream(plain: bool) -> None:
    with pytest.raises(DamagedError) as caught:
        run(b"\x80\x04\x95" + struct.pack("<Q", 3) + b"N.", plain=plain)
    assert "FRAME announces 3 bytes, but only 2 are left" in caught.value.message


def test_a_memo_index_is_not_allocated(plain: bool) -> None:
    tracemalloc.start()
    try:
        assert run(b"K\1r\xff\xff\xff\xff.", plain=plain).root == 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# --- limits -------------------------------------------------------------------------------------

MET = {
    "stack_items": (b"N" * 20 + b".", 19, 20),
    "memo_items": (b"K\1" + b"".join(b"r%c\0\0\0" % at for at in range(20)) + b".", 19, 20),
    "mark_depth": (b"(" * 20 + b"N.", 19, 20),
    "int_bytes": (b"\x8b" + struct.pack("<i", 300) + b"\1" * 300 + b".", 299, 300),
    "int_digits": (b"L" + b"7" * 300 + b"\n.", 299, 300),
    "string_bytes": (b"X" + struct.pack("<I", 300) + b"a" * 300 + b".", 299, 300),
    "key_items": (b"}(" + b"N" * 20 + b"tNs.", 20, 21),
    "key_depth": (b"})" + b"\x85" * 20 + b"Ns.", 20, 21),
}


@pytest.mark.parametrize("name", MET)
def test_a_limit_is_met_and_not_before(name: str, plain: bool) -> None:
    data, low, enough = MET[name]
    run(data, limits=Limits(**{name: enough}), plain=plain)
    with pytest.raises(LimitError) as caught:
        run(data, limits=Limits(**{name: low}), record="r", plain=plain)
    assert caught.value.limit == name
    assert caught.value.where is not None
    assert caught.value.where.record == "r"
    assert f"Limits({name}=...)" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "data",
    [
        b"S'%b'\n." % (b"a" * 300),
        b"V%b\n." % (b"a" * 302),
        b"T" + struct.pack("<I", 302) + b"a" * 302 + b".",
        b"\x8d" + struct.pack("<Q", 302) + b"a" * 302 + b".",
        b"P%b\n." % (b"a" * 302),
        b"c%b\nC\n." % (b"a" * 302),
    ],
)
def test_every_kind_of_string_is_bounded(data: bytes, plain: bool) -> None:
    run(data, limits=Limits(string_bytes=302), plain=plain)
    with pytest.raises(LimitError) as caught:
        run(data, limits=Limits(string_bytes=301), plain=plain)
    assert caught.value.limit == "string_bytes"


@pytest.mark.parametrize("data", [b"I%b\n." % (b"7" * 300), b"F%b\n." % (b"7" * 300)])
def test_every_number_in_digits_is_bounded(data: bytes, plain: bool) -> None:
    run(data, limits=Limits(int_digits=300), plain=plain)
    with pytest.raises(LimitError) as caught:
        run(data, limits=Limits(int_digits=299), plain=plain)
    assert caught.value.limit == "int_digits"


def test_bytes_are_not_bounded_since_they_are_not_copied(plain: bool) -> None:
    data = pickle.dumps(bytes(300_000), 4)
    run(data, limits=Limits(string_bytes=1), plain=plain)


def test_sparse_memo_entries_count(plain: bool) -> None:
    data = b"K\1" + b"".join(struct.pack("<cI", b"r", 5 + at) for at in range(20)) + b"."
    run(data, limits=Limits(memo_items=20), plain=plain)
    with pytest.raises(LimitError) as caught:
        run(data, limits=Limits(memo_items=19), plain=plain)
    assert caught.value.limit == "memo_items"


def test_warnings_are_kept_up_to_the_limit_and_counted_beyond(plain: bool) -> None:
    data = b"}" + b"".join(b"K%cNsK%cNs" % (key, key) for key in range(30)) + b"."
    pickled = run(data, limits=Limits(warnings=10), plain=plain)
    assert (len(pickled.warnings), pickled.dropped_warnings) == (10, 20)


def test_what_is_parked_below_marks_counts_as_stack(plain: bool) -> None:
    with pytest.raises(LimitError) as caught:
        run(b"N(" * 20 + b"N.", limits=Limits(stack_items=15), plain=plain)
    assert caught.value.limit == "stack_items"
