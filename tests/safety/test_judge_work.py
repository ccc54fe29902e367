"""What is shared is judged once: work grows with the stream, whatever it hands out again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from ptinspect.limits import LIMITS
from ptinspect.pickling.machine import run
from ptinspect.pickling.state import Recorder
from ptinspect.safety import stream as stream_module
from ptinspect.safety.containers.pickles import scan_pickles
from ptinspect.safety.scan_state import Budget, ScanState
from ptinspect.safety.stream import StreamJudge

START = b"\x80\x02"
THING = b"cmodel\nThing\n)\x81"
NAMESPACE = b"ctypes\nSimpleNamespace\nq\x050"
WITH_STATE = b"ctorch._utils\n_rebuild_parameter_with_state\nq\x050"


def wide(count: int) -> bytes:
    """A dictionary of so many names, as entry 1 of the memo."""
    pairs = (b"X\x07\x00\x00\x00k%06dN" % number for number in range(count))
    return b"}q\x01(" + b"".join(pairs) + b"u0"


STREAMS: dict[str, Callable[[int], bytes]] = {
    "BUILD": lambda n: wide(n) + THING + b"h\x01b" * n,
    "BUILD of slots": lambda n: wide(n) + THING + b"Nh\x01\x86b" * n,
    "BUILD of a wide tuple": lambda n: b"(" + b"N" * n + b"tq\x030" + THING + b"h\x03b" * n,
    "a call that sets attributes": lambda n: wide(n) + WITH_STATE + b"h\x05(NNNh\x01tR0" * n + b"N",
    "a namespace": lambda n: wide(n) + NAMESPACE + b"h\x05h\x01\x85R0" * n + b"N",
    "wide arguments": lambda n: (
        NAMESPACE + b"(" + b"N" * n + b"tq\x060" + b"h\x05h\x06R0" * n + b"N"
    ),
}


def work(stream: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lines of the package that the judge runs, and keys that are looked at without a line."""
    recorder, count = Recorder(), 0
    run(START + stream + b".", recorder=recorder)
    computed = stream_module._has_computed_key

    def counted(part: dict[object, object]) -> bool:
        nonlocal count
        count += len(part)
        return computed(part)

    def line(frame: FrameType, event: str, arg: object) -> object:
        nonlocal count
        count += 1
        return line

    monkeypatch.setattr(stream_module, "_has_computed_key", counted)
    before = sys.gettrace()
    sys.settrace(line)  # type: ignore[arg-type]
    try:
        StreamJudge(None).judge(recorder)
    finally:
        sys.settrace(before)
        monkeypatch.undo()
    return count


@pytest.mark.parametrize("kind", STREAMS)
def test_work_grows_with_the_stream(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    less = work(STREAMS[kind](300), monkeypatch)
    more = work(STREAMS[kind](3_000), monkeypatch)
    assert less < more < 15 * less


@pytest.mark.parametrize("count", [3, 300])
def test_a_method_in_a_wide_state_is_seen_on_each_object(count: int) -> None:
    """What is looked at once counts for all that it was given to."""
    method = b"h\x01X\x0c\x00\x00\x00__setstate__cposix\nsystem\ns0"
    stream = START + wide(count) + method + (THING + b"h\x01bNb0") * 3 + b"N."
    recorder = Recorder()
    run(stream, recorder=recorder)
    judged = StreamJudge(None)
    judged.judge(recorder)
    (found,) = (each for each in judged.findings.sorted() if each.name == "posix.system")
    assert (found.verdict, found.count) == ("dangerous", 3)


@pytest.mark.parametrize("times", [1, 50])
def test_bytes_that_are_loaded_again_and_again_are_looked_into_once(times: int) -> None:
    """Protocol 2 writes them as a text, which each call would encode anew."""
    text = b"c_codecs\nencode\n(X\x04\x00\x00\x00\x80\x02N.X\x06\x00\x00\x00latin1tRq\x010"
    text = text.replace(b"\x04\x00\x00\x00\x80", b"\x05\x00\x00\x00\xc2\x80")
    stream = START + text + b"ctorch.storage\n_load_from_bytes\nh\x01\x85R0" * times + b"N."
    part = ScanState("file", None, 0, Budget(LIMITS))
    streams = scan_pickles(part, stream, 0, len(stream), None)
    assert [data for _, data in streams.payloads] == [b"\x80\x02N."]
