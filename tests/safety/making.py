"""Small pickles by hand, opcode by opcode. None of them is ever loaded."""

from __future__ import annotations

import pickle
from contextlib import suppress
from struct import pack

from ptinspect.errors import PtInspectError
from ptinspect.pickling.machine import run
from ptinspect.pickling.state import Recorder
from ptinspect.safety.report import Finding
from ptinspect.safety.stream import StreamJudge

START = b"\x80\x04"


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(attribute) + b"\x93"


def path(dotted: str) -> bytes:
    """The same, of a whole name: all but its last part is the module."""
    module, _, attribute = dotted.rpartition(".")
    return name(module, attribute)


def plain(value: object) -> bytes:
    """A plain value, without PROTO, FRAME, memo and STOP."""
    return pickle.dumps(value, 3)[2:-1]


def args(*values: bytes) -> bytes:
    """A tuple of what these opcodes push."""
    return b"(" + b"".join(values) + b"t"


def call(func: bytes, *values: bytes) -> bytes:
    """REDUCE."""
    return func + args(*values) + b"R"


def new(cls: bytes, *values: bytes) -> bytes:
    """NEWOBJ."""
    return cls + args(*values) + b"\x81"


def whole(*parts: bytes) -> bytes:
    """A pickle whose value is the last of these; the others are popped."""
    return START + b"0".join(parts) + b"."


def framed(data: bytes) -> bytes:
    """The same pickle in a frame of protocol 4."""
    return START + b"\x95" + pack("<Q", len(data) - 2) + data[2:]


def judged(data: bytes, **more: object) -> list[Finding]:
    """What is found in a stream, whether it can be run to its end or not."""
    recorder, judge = Recorder(), StreamJudge("data.pkl")
    with suppress(PtInspectError):
        run(data, recorder=recorder)
    judge.judge(recorder)
    return judge.findings.sorted()


def verdicts(data: bytes) -> dict[str, str]:
    """The same by name."""
    return {finding.name: finding.verdict for finding in judged(data)}


def worst(data: bytes) -> str:
    """The worst verdict; "clean" where nothing was found."""
    found = set(verdicts(data).values())
    return "dangerous" if "dangerous" in found else "unknown" if found else "clean"
