"""A million levels of nesting are read, and thrown away again, without recursion.

Two hundred thousand where a level is heavy: C's stack has room for some ten thousand.
Each in a process of its own, since what fails here does not raise: it ends the interpreter.
"""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

from tests.conftest import ROOT

DEPTH = 1_000_000
LESS = 200_000
LIGHT = ("lists", "tuples", "dicts as values", "calls as arguments")
# What makes a stream for each kind, as source for the other process.
SOURCES = {
    "lists": ('b"]" * n + b"a" * (n - 1)', "value[0]"),
    "tuples": ('b")" + b"\\x85" * (n - 1)', "value[0]"),
    "long tuples": ('b"(" * n + b"t" * n', "value[0]"),
    "dicts as values": ('b"}K\\1" * (n - 1) + b"}" + b"s" * (n - 1)', "value[1]"),
    "calls as arguments": ('b"cm\\nC\\n" * n + b")R" + b"\\x85R" * (n - 1)', "value.args[0]"),
    "calls as state": ('b"cm\\nC\\n)R" * n + b"b" * (n - 1)', "value.state"),
    "calls as functions": ('b"cm\\nC\\n)R" + b")R" * (n - 1)', "value.func"),
    "calls as items": ('b"cm\\nC\\n)R" * n + b"a" * (n - 1)', "value.items[0]"),
    "calls as values": ('b"cm\\nC\\n)RK\\1" * (n - 1) + b"cm\\nC\\n)R" + b"s" * (n - 1)',
                        "value.pairs[1]"),
    "persistent ids": ('b"N" + b"Q" * n', "value.value"),
    "sets": ('b"\\x8f(cm\\nC\\n)R" * (n - 1) + b"\\x8f" + b"b\\x90" * (n - 1)', None),
}  # fmt: skip
CODE = """
import faulthandler
faulthandler.enable()
from ptinspect.pickling.machine import run
n = {depth}
value = run({source} + b".").root
depth = 1
{walk}
print(depth)
del value, inner
print("gone")
"""
WALK = """
inner = value
for depth in range(1, n + 1):
    value = inner
    try:
        inner = {step}
    except (IndexError, KeyError, AttributeError, TypeError):
        break
    if inner is None or isinstance(inner, str):
        break
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_nesting_is_no_recursion(kind: str) -> None:
    source, step = SOURCES[kind]
    levels = DEPTH if kind in LIGHT else LESS
    walk = WALK.format(step=step) if step else "inner = None"
    code = dedent(CODE).format(depth=levels, source=source, walk=walk)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    depth, gone = done.stdout.split()
    assert gone == "gone"
    assert step is None or int(depth) >= levels - 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_nesting_that_is_not_finished_is_no_recursion_either(kind: str) -> None:
    """Cut off before its STOP, so that all of it is thrown away by an error."""
    code = f"""
from ptinspect.errors import DamagedError
from ptinspect.pickling.machine import run
n = {LESS}
try:
    run({SOURCES[kind][0]})
except DamagedError as error:
    print("truncated" in error.message)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr[-2000:]


def test_marks_in_marks_meet_the_limit() -> None:
    """2**20 of them; each is a list of its own."""
    code = """
from ptinspect.errors import LimitError
from ptinspect.pickling.machine import run
try:
    run(b"(" * 3_000_000 + b".")
except LimitError as error:
    print(error.limit)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "mark_depth"), done.stderr[-2000:]
