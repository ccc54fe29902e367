"""What Python 2 wrote: both of its picklers, each of its protocols."""

from __future__ import annotations

import pytest

from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Call, Global, Python2Str
from tests.pickling.streams import PYTHON2

every = pytest.mark.parametrize("name", PYTHON2)


def parts(name: str) -> list[object]:
    root = run(PYTHON2[name]).root
    assert isinstance(root, list)
    return root


@every
def test_scalars_and_containers(name: str) -> None:
    first, real, number, *_ = parts(name)
    assert first == {"k": "가", "n": (None, True, False)}
    assert (real, number) == (1.5, -7)


@every
def test_strings_keep_the_bytes_that_they_are(name: str) -> None:
    pickled = run(PYTHON2[name])
    text, noise = parts(name)[3:5]
    assert isinstance(text, Python2Str)
    assert isinstance(noise, Python2Str)
    assert (text, text.raw) == ("café", b"caf\xc3\xa9")
    assert (noise, noise.raw) == ("ÿ\0\n\"'", b"\xff\0\n\"'")
    assert [warning.kind for warning in pickled.warnings] == ["python2-string"]


@every
def test_classes_of_both_kinds(name: str) -> None:
    old, new = parts(name)[5:7]
    assert isinstance(old, Call)
    assert isinstance(new, Call)
    assert old.opcode == ("INST" if name.endswith("0") else "OBJ")
    assert (old.args, old.state) == ((), {"x": 1})
    assert new.state == {"x": [1, 1 << 70]}
    named = new.func if new.opcode == "NEWOBJ" else new.args[0]
    assert isinstance(named, Global)
    assert named.path == "__main__.New"


@every
def test_arguments_of_init(name: str) -> None:
    made = parts(name)[8]
    assert isinstance(made, Call)
    assert made.args == (1, "a")


@every
def test_names_are_python_3s(name: str) -> None:
    used = {used.path for used in run(PYTHON2[name]).globals}
    assert "builtins.set" in used
    assert not {path for path in used if path.startswith(("__builtin__", "copy_reg"))}


@every
def test_what_was_one_object_is_one(name: str) -> None:
    whole = parts(name)
    assert whole[0] is whole[-1]
    assert len(whole) == 11
