"""One file of the corpus, and the parts that all payloads are made of.

A payload does no more than try to touch a file of the name MARK in the current folder. No test
runs one outside the child process of `refusing.py`, which stops it before it acts.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.safety.making import START, args, call, path, plain, text

MARK = "ptinspect-marker"
COMMAND = f"touch {MARK}"
CODE = f"open({MARK!r}, 'w')"
HOST = f"{MARK}.invalid"
URL = f"http://{HOST}/"

OWN = "ours"
"""The source of a technique that is not known to be published."""


class Sample(NamedTuple):
    """A file. name: with its suffix. source: where the technique was published, or OWN. least:
    the mildest verdict that is right. load: how `refusing.py` loads it to see that it acts; ""
    where the names are not on every machine, or the act could not be stopped in time. seen: what
    is seen then: the audit event, or an expression over the process that is true afterwards; ""
    for any event that names MARK. needs: modules without which it cannot be loaded."""

    name: str
    data: bytes
    source: str = OWN
    least: str = "dangerous"
    load: str = "pickle"
    seen: str = ""
    needs: tuple[str, ...] = ()


def value(given: object) -> bytes:
    """Opcodes that push a plain value; bytes are opcodes already, and stay as they are."""
    return given if isinstance(given, bytes) else plain(given)


def raw(data: bytes) -> bytes:
    """BINBYTES."""
    return b"B" + len(data).to_bytes(4, "little") + data


def calling(dotted: str, *given: object) -> bytes:
    """Opcodes that call a name with values."""
    return call(named(dotted), *map(value, given))


def named(dotted: str) -> bytes:
    """Opcodes that push what a name stands for: "module:a.b", or "module.name"."""
    module, colon, attribute = dotted.partition(":")
    return text(module) + text(attribute) + b"\x93" if colon else path(dotted)


def result(func: bytes, *given: object) -> bytes:
    """Opcodes that call what other opcodes push."""
    return call(func, *map(value, given))


def tuple_of(*given: object) -> bytes:
    """Opcodes that push a tuple."""
    return args(*map(value, given))


def stream(*parts: bytes) -> bytes:
    """A pickle of protocol 4: the last part is its value, the others are popped."""
    return START + b"0".join(parts) + b"."


def old(*lines: str) -> bytes:
    """A pickle of protocol 0, line by line."""
    return "\n".join(lines).encode()


SYSTEM = path("posix.system")
BAD = calling("posix.system", COMMAND)
PAYLOAD = stream(BAD)
"""The plainest: everybody should see it. What is tried with it is the container."""
PAYLOAD_2 = b"\x80\x02cposix\nsystem\nX" + len(COMMAND).to_bytes(4, "little")
PAYLOAD_2 += COMMAND.encode() + b"\x85R."
"""The same as protocol 2 writes it, which all of torch's formats use."""
GOOD = b"\x80\x02}q\x00X\x05\x00\x00\x00epochq\x01K\x03s."
"""{"epoch": 3}"""


def put(index: int) -> bytes:
    """BINPUT."""
    return b"q" + bytes([index])


def get(index: int) -> bytes:
    """BINGET."""
    return b"h" + bytes([index])


def build(target: bytes, **state: bytes) -> bytes:
    """BUILD with a dictionary."""
    return target + dict_of(**state) + b"b"


def build_slots(target: bytes, **state: bytes) -> bytes:
    """BUILD with the pair that slots have, which setattr is called for."""
    return target + b"N" + dict_of(**state) + b"\x86b"


def dict_of(**state: bytes) -> bytes:
    """Opcodes that push a dictionary."""
    return b"}(" + b"".join(text(key) + made for key, made in state.items()) + b"u"


EVAL = named("builtins.eval")
BAG = calling("types.SimpleNamespace")
"""An object with a `__dict__`, of a class that nobody minds."""
