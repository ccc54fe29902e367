"""Opcodes that in a real unpickler import, call or build: each one records, and no more."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict, deque
from pathlib import PurePosixPath

import pytest

from ptinspect.errors import DamagedError
from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Call, Extension, Global, PersistentId, Value
from tests.conftest import ROOT
from tests.pickling.outline import persistent_ids


def call(data: bytes) -> Call:
    root = run(data).root
    assert isinstance(root, Call)
    return root


def path(value: Value) -> str:
    assert isinstance(value, Global)
    return value.path


@pytest.mark.parametrize(
    ("data", "how", "args"),
    [
        (b"cm\nC\n(K\x01K\x02tR.", "REDUCE", (1, 2)),
        (b"cm\nC\n(K\x01K\x02t\x81.", "NEWOBJ", (1, 2)),
        (b"cm\nC\n(K\x01K\x02t}\x92.", "NEWOBJ_EX", (1, 2)),
        (b"(K\x01K\x02im\nC\n.", "INST", (1, 2)),
        (b"(cm\nC\nK\x01K\x02o.", "OBJ", (1, 2)),
        (b"(im\nC\n.", "INST", ()),
        (b"(cm\nC\no.", "OBJ", ()),
        (b"X\x01\0\0\0mX\x01\0\0\0C\x93)R.", "REDUCE", ()),
    ],
)
def test_a_call_is_recorded(data: bytes, how: str, args: tuple[Value, ...]) -> None:
    made = call(data)
    assert (path(made.func), made.opcode, made.args, made.state) == ("m.C", how, args, None)
    assert data[made.offset] in b"R\x81\x92io"


def test_keyword_arguments_are_recorded() -> None:
    made = call(b"cm\nC\n)}U\x01aK\x01s\x92.")
    assert (made.opcode, made.args, made.kwargs) == ("NEWOBJ_EX", (), {"a": 1})


def test_inst_leaves_what_is_below_its_mark() -> None:
    root = run(b"K\x07(K\x01im\nC\n\x86.").root
    assert isinstance(root, tuple)
    assert root[0] == 7
    assert isinstance(root[1], Call)


def test_arguments_that_an_object_would_unpack_to_are_marked_so() -> None:
    made = call(b"cm\nf\ncm\nargs\n)RR.")
    assert made.opcode == "REDUCE*"
    assert isinstance(made.args[0], Call)
    made = call(b"cm\nC\n)cm\nkwargs\n\x92.")
    assert made.kwargs is not None
    assert path(made.kwargs["**"]) == "m.kwargs"


def test_what_a_call_gives_can_be_called() -> None:
    made = call(b"cm\nf\n)R(K\x01tR.")
    assert isinstance(made.func, Call)
    assert made.args == (1,)


def test_a_global_is_one_object_and_its_uses_are_counted() -> None:
    pickled = run(b"cm\nC\nq\0h\0cm\nC\ng0\n(tX\x01\0\0\0mX\x01\0\0\0C\x93.")
    (only,) = pickled.globals
    assert pickled.root is only
    assert (only.path, only.offset, only.uses) == ("m.C", 0, 5)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_names_of_python_2_are_python_3s_below_protocol_3(protocol: int) -> None:
    start = b"\x80%c" % protocol if protocol > 1 else b""
    root = run(
        start + b"(c__builtin__\nset\nccopy_reg\n_reconstructor\nc__builtin__\nxrange\nt."
    ).root
    assert isinstance(root, tuple)
    new = ["builtins.set", "copyreg._reconstructor", "builtins.range"]
    old = ["__builtin__.set", "copy_reg._reconstructor", "__builtin__.xrange"]
    assert [path(item) for item in root] == (new if protocol < 3 else old)


def test_a_dotted_name_is_kept_whole() -> None:
    root = run(pickle.dumps(OrderedDict.fromkeys, 4)).root
    assert isinstance(root, Call)  # getattr(OrderedDict, "fromkeys")
    assert path(root.func) == "builtins.getattr"
    assert path(run(b"cm\nA.b.c\n.").root) == "m.A.b.c"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x01.", 1),
        (b"\x82\xff.", 255),
        (b"\x83\xff\xff.", 65_535),
        (b"\x84\xff\xff\xff\x7f.", 0x7FFFFFFF),
    ],
)
def test_an_extension_code_stays_a_number(data: bytes, code: int) -> None:
    root = run(data).root
    assert isinstance(root, Extension)
    assert (root.code, root.offset) == (code, 0)


def test_persistent_ids_are_kept_in_order_and_one_per_use() -> None:
    pickled = run(b"Pone\nq\0h\0(K\x01tQ(t.")
    assert [made.value for made in persistent_ids(pickled)] == ["one", (1,)]
    assert [made.offset for made in persistent_ids(pickled)] == [0, 13]
    root = run(b"Pone\n2\x86.").root
    assert isinstance(root, tuple)
    assert isinstance(root[0], PersistentId)
    assert root[0] is root[1]


@pytest.mark.parametrize("state", [b"N", b"}", b"K\0", b")", b"NN\x86", b"}N\x86", b"}}\x86"])
def test_a_build_of_nothing_is_none(state: bytes) -> None:
    """As pickle.py has it; a number for its target is no object to keep it."""
    assert run(b"K\x05" + state + b"b.").root == 5


REFUSED = {
    "REDUCE of a number": b"K\x01)R.",
    "REDUCE with a list": b"cm\nC\n]R.",
    "REDUCE of nothing": b")R.",
    "NEWOBJ of a text": b"X\0\0\0\0)\x81.",
    "NEWOBJ_EX with a list": b"cm\nC\n)]\x92.",
    "OBJ of nothing": b"(o.",
    "OBJ of a number": b"(K\x01o.",
    "INST without a mark": b"im\nC\n.",
    "BUILD on a list": b"]K\x01b.",
    "BUILD on a dict, with a pair": b"}}U\x01aK\x01sN\x86b.",
    "STACK_GLOBAL of numbers": b"K\x01K\x02\x93.",
    "STACK_GLOBAL of one": b"X\0\0\0\0\x93.",
    "GLOBAL that is not utf-8": b"c\xff\nC\n.",
    "EXT1 with 0": b"\x82\0.",
    "EXT4 below 0": b"\x84\xff\xff\xff\xff.",
    "PROTO 6": b"\x80\x06N.",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_called_or_built_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedError) as caught:
        run(data, record="data.pkl")
    assert caught.value.where is not None
    assert caught.value.where.record == "data.pkl"


class Custom:
    def __init__(self) -> None:
        self.items = {"a": [1, 2]}


@pytest.mark.parametrize("protocol", range(6))
def test_what_real_pickles_do_to_their_objects(protocol: int) -> None:
    value = [Custom(), deque([1, 2], 5), defaultdict(list, a=[1]), PurePosixPath("a/b"), 3 + 4j]
    root = run(pickle.dumps(value, protocol)).root
    assert isinstance(root, list)
    custom, queue, default, place, number = root
    assert all(isinstance(made, Call) for made in root)
    assert custom.state == {"items": {"a": [1, 2]}}
    assert (path(queue.func), queue.args, queue.items) == (
        "collections.deque",
        ((), 5),
        [1, 2],
    ) or (
        queue.args[0] == [1, 2]  # below protocol 2, as an argument
    )
    assert path(default.args[0]) == "builtins.list"
    assert default.pairs == {"a": [1]}
    assert place.args[:2] == ("a", "b") or place.args == ("a/b",)  # since Python 3.13
    assert number.args == (3.0, 4.0)


WATCHED = r"""
import sys
from ptinspect.pickling.machine import run
run(b"c__builtin__\nset\n.")  # loads the table of Python 2's names, which is the interpreter's own
def hook(event, args):
    if event in ("import", "exec", "compile", "open", "os.system", "pickle.find_class"):
        raise SystemExit(f"{event} {args}")
sys.addaudithook(hook)
attack = b"(cposix\nsystem\n(X\4\0\0\0trueX\1\0\0\0atR"
attack += b"(X\1\0\0\0xios\nremove\n\x82\1X\x08\0\0\0tabnannyX\5\0\0\0check\x93)\x81K\1bt."
pickled = run(attack)
print(*(used.path for used in pickled.globals), "tabnanny" in sys.modules)
"""


def test_nothing_of_the_stream_is_imported_called_or_opened() -> None:
    """Watched by an audit hook, in a process of its own: a hook cannot be taken away again."""
    command = [sys.executable, "-c", WATCHED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.split() == ["posix.system", "os.remove", "tabnanny.check", "False"]
