"""A verdict per technique: pickles made by hand, judged by what the machine saw."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import pathlib
import pickle
import random
import re
import types
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.safety.files import scanned
from tests.safety.making import (
    START,
    args,
    call,
    framed,
    judged,
    name,
    new,
    path,
    plain,
    text,
    whole,
    worst,
)

SYSTEM = name("posix", "system")
BAD = call(SYSTEM, text("touch x"))
MINE = name("mine", "Thing")
ORDERED = call(name("collections", "OrderedDict"))


def _parameter(state: bytes) -> bytes:
    """A parameter with attributes, as torch writes it."""
    func = path("torch._utils._rebuild_parameter_with_state")
    return call(func, plain(1), plain(True), ORDERED, state)


def _setting(method: bytes) -> dict[str, bytes]:
    """Objects with an attribute in a method's place, by calls that are allowed."""
    set_it = method + path("torch.storage._load_from_bytes") + b"s"
    computed = call(path("builtins.str"), method)
    set_computed = computed + path("torch.storage._load_from_bytes") + b"s"
    bag = path("types.SimpleNamespace")
    return {
        "a parameter": _parameter(b"}" + set_it),
        "a parameter, slots": _parameter(b"N}" + set_it + b"\x86"),
        "a parameter, from an OrderedDict": _parameter(ORDERED + set_it),
        "a parameter, by a computed name": _parameter(b"}" + set_computed),
        "a parameter, then hidden": _parameter(b"}\x94" + set_it) + b"h\x00" + method + b"Ns0",
        "a parameter within a type": call(
            path("torch._tensor._rebuild_from_type_v2"),
            path("torch._utils._rebuild_parameter_with_state"),
            path("torch.nn.parameter.Parameter"),
            args(plain(1), plain(True), ORDERED, b"}" + set_it),
            b"}",
        ),
        "a namespace": call(bag, b"}" + set_it),
        "a namespace, of pairs": call(bag, b"](" + set_it[:-1] + b"\x86e"),
        "a namespace, of an OrderedDict": call(bag, ORDERED + set_it),
        "an OrderedDict that is built": call(bag) + ORDERED + set_it + b"b",
        "a computed name that is built": call(bag) + b"}" + set_computed + b"b",
    }


HARMFUL = {
    "reduce": whole(BAD),
    "popped": whole(BAD, plain(1)),
    "newobj of a class that acts": whole(new(name("subprocess", "Popen"), text("x"))),
    "newobj_ex": whole(name("subprocess", "Popen") + args(text("x")) + b"}\x92"),
    "obj": START + b"(" + SYSTEM + text("x") + b"o.",
    "inst": b"(" + b"S'x'\niposix\nsystem\n.",
    "global of protocol 0": b"cos\nsystem\n(S'x'\ntR.",
    "name of Python 2": b"c__builtin__\neval\n(S'x'\ntR.",
    "commands of Python 2": b"ccommands\ngetoutput\n(S'x'\ntR.",
    "strings from the memo": START + text("posix") + b"\x940" + text("system") + b"\x940"
    + b"h\x00h\x01\x93" + text("x") + b"\x85R.",
    "a string made twice": START + text("posix") + b"2" + b"0" + text("system") + b"\x93"
    + text("x") + b"\x85R.",
    "broken off": START + BAD + b"\xff",
    "cut": START + BAD,
    "no value": START + BAD + b"0.",
    "dotted": whole(call(name("torch.serialization", "os.system"), text("x"))),
    "dotted through a class of one's own": whole(call(name("mine", "os.system"), text("x"))),
    "main of a package": whole(call(name("pip.__main__", "x"))),
    "getattr and call": whole(
        call(call(path("builtins.getattr"), name("mine", "thing"), text("os")), text("x")),
        call(
            call(
                path("builtins.getattr"),
                call(path("builtins.getattr"), name("mine", "thing"), text("os")),
                text("system"),
            ),
            text("x"),
        ),
    ),
    "getattr of a special name": whole(call(path("builtins.getattr"), MINE, text("__globals__"))),
    "getattr with a default": whole(
        call(path("builtins.getattr"), MINE, text("a"), path("builtins.print"))
    ),
    "getattr of no identifier": whole(call(path("builtins.getattr"), MINE, text("a.b"))),
    "map in a set": whole(
        call(path("builtins.set"), call(path("builtins.map"), path("builtins.eval"), plain(["1"])))
    ),
    "_rebuild_from_type_v2": whole(
        call(
            path("torch._tensor._rebuild_from_type_v2"),
            SYSTEM, path("torch.Tensor"), args(text("x")), b"}",
        )
    ),
    "numpy's generator": whole(
        call(path("numpy.random._pickle.__generator_ctor"), text("x"), path("shutil.rmtree"))
    ),
    "numpy's bit generator": whole(
        call(path("numpy.random._pickle.__bit_generator_ctor"), path("code.interact"))
    ),
    "copyreg._reconstructor": whole(
        call(path("copyreg._reconstructor"), MINE, path("subprocess.Popen"), text("x"))
    ),
    "setitems on os.environ": whole(path("os.environ") + b"(" + text("A") + text("b") + b"u"),
    "append to sys.path": whole(path("sys.path") + text("/tmp") + b"a"),
    "appends to a list of one's own": whole(path("mine.hooks") + b"(" + text("x") + b"e"),
    "additems to a set of one's own": whole(path("mine.names") + b"(" + text("x") + b"\x90"),
    "setitem on sys.modules": whole(path("sys.modules") + text("a") + MINE + b"s"),
    "build on a class": whole(MINE + b"}" + text("run") + SYSTEM + b"sb"),
    "build on a function": whole(path("mine.run") + b"}" + text("__code__") + b"Nsb"),
    "append in a method's place": whole(
        ORDERED + b"}" + text("append") + path("mine.run") + b"sb" + text("x") + b"a"
    ),
    "extend in a method's place": whole(
        new(MINE) + b"}" + text("extend") + path("builtins.print") + b"sb(" + text("x") + b"e"
    ),
    "add in a method's place": whole(
        new(MINE) + b"}" + text("add") + path("builtins.print") + b"sb(" + text("x") + b"\x90"
    ),
    "__setstate__ in a method's place": whole(
        new(MINE) + b"}" + text("__setstate__") + path("builtins.print") + b"sb" + text("x") + b"b"
    ),
    **{
        f"{method} by the state of {what}": whole(made + text("x") + opcode)
        for method, opcode in (("__setstate__", b"b"), ("append", b"a"))
        for what, made in _setting(text(method)).items()
    },
    "an attribute that is special": whole(_parameter(b"}" + text("__class__") + MINE + b"s")),
    "a class changed through slots": whole(
        new(MINE) + b"N}" + text("__class__") + path("mine.Other") + b"s\x86b"
    ),
    "setitem on a tensor": whole(
        call(path("torch._utils._rebuild_tensor_v2"), plain(1)) + plain(0) + plain(1) + b"s"
    ),
    "append to a device": whole(call(path("torch.device"), text("cpu")) + plain(1) + b"a"),
    "storage twice": whole(
        args(text("storage"), path("torch.FloatStorage"), text("0"), text("cpu"), plain(1)) + b"Q",
        args(text("storage"), path("torch.FloatStorage"), text("0"), text("cpu"), plain(9)) + b"Q",
    ),
    "frames in one another": START + b"\x95" + bytes([12, 0, 0, 0, 0, 0, 0, 0])
    + b"\x95" + bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"N0N.",
    "pickle.loads": whole(call(path("pickle.loads"), plain(b"N."))),
    "torch.load": whole(call(path("torch.load"), text("x"))),
    "numpy.load": whole(call(path("numpy.load"), text("x"))),
    "joblib.load": whole(call(path("joblib.load"), text("x"))),
    "bytes that a call makes": whole(
        call(path("torch.storage._load_from_bytes"), call(path("mine.bytes")))
    ),
    "a bytearray that is filled": whole(
        call(path("torch.storage._load_from_bytes"), b"\x96" + bytes(8) + b"(K\x80e")
    ),
    "a bytearray that is filled afterwards": whole(
        b"\x96" + bytes(8) + b"\x94" + path("torch.storage._load_from_bytes") + b"h\x00"
        + b"\x85R" + b"h\x00K\x80a"
    ),
    "a class made of nothing": whole(
        call(path("builtins.type"), text("A"), plain(()), plain({"a": 1}))
    ),
    "code by value": whole(call(path("types.CodeType"), plain(1))),
    "dill": whole(call(path("dill._dill._create_function"), plain(1))),
    "cloudpickle": whole(call(path("cloudpickle.cloudpickle._make_skeleton_class"), plain(1))),
    "a partial, called": whole(
        call(call(path("functools.partial"), path("shutil.rmtree"), text("x")))
    ),
    "what a call gave, called": whole(call(call(MINE), plain(1))),
    "extension, changed": whole(b"\x82\x05" + b"}" + text("a") + b"Nsb"),
}  # fmt: skip


@pytest.mark.parametrize("technique", HARMFUL)
def test_harm_is_dangerous_whatever_follows_it(technique: str) -> None:
    assert worst(HARMFUL[technique]) == "dangerous"
    data = HARMFUL[technique].removesuffix(b".")
    assert worst(data + b"0" + b"\x00\x01\x02") == "dangerous", "damage after it hides it"


DOUBTFUL = {
    "a class of one's own": whole(new(MINE) + b"}b"),
    "a function of one's own": whole(call(path("mine.make"), plain(1))),
    "an enum's member": whole(call(path("mine.Colour"), plain(1))),
    "a bound method": whole(call(path("builtins.getattr"), new(MINE), text("close"))),
    "a class within a class": whole(
        new(call(path("builtins.getattr"), path("mine.Outer"), text("Inner"))) + b"}b"
    ),
    "an extension code": whole(b"\x82\x05"),
    "a bound method of a list": whole(call(path("builtins.getattr"), plain([1]), text("append"))),
    "a partial": whole(call(path("functools.partial"), path("torch.nn.Linear"))),
    "a function kept as a value": whole(path("mine.run")),
    "a callable of Python kept as a value": whole(path("json.dumps")),
    "a class of a package": whole(new(path("sklearn.linear_model._base.LinearRegression")) + b"}b"),
    "a module of torch.nn that is constructed": whole(call(path("torch.nn.Linear"), plain(1))),
    "bytes without end": whole(call(path("builtins.bytearray"), plain(1 << 40))),
    "arguments that a call makes": START + path("collections.OrderedDict") + call(MINE) + b"R.",
}


@pytest.mark.parametrize("what", DOUBTFUL)
def test_what_nobody_vouches_for_is_unknown(what: str) -> None:
    assert worst(DOUBTFUL[what]) == "unknown"


def test_what_cloudpickle_writes_without_code_is_unknown() -> None:
    """A bound method, views of a dictionary, the text of an open file."""
    cloudpickle = pytest.importorskip("cloudpickle")
    with open(__file__, encoding="utf-8") as file:
        for value in ([1].append, pathlib.Path("a").exists, {1: 2}.keys(), {1: 2}.items(), file):
            assert worst(cloudpickle.dumps(value)) in ("unknown", "clean"), value
    method = call(path("cloudpickle.cloudpickle._builtin_type"), text("MethodType"))
    bound = call(method, path("mine.run"), new(MINE))
    assert worst(whole(bound)) == "unknown"
    assert worst(whole(call(bound))) == "dangerous"
    code = call(path("cloudpickle.cloudpickle._builtin_type"), text("CodeType"))
    assert worst(whole(code)) == "dangerous"


def test_what_dill_writes_without_code_is_unknown() -> None:
    """Arrays, locks, files in memory: dill._dill.save_numpy_array, save_lock, save_stringi."""
    array = path("numpy.ndarray"), plain((0,)), plain(b"b")
    state = args(plain(1), plain((2,)), call(path("numpy.dtype"), text("i4")), plain(False),
                 plain(bytes(8)))  # fmt: skip
    make = path("numpy._core.multiarray._reconstruct")
    values = {
        "_create_array": (make, args(*array), state, b"N"),
        "_create_lock": (plain(False),),
        "_create_rlock": (plain(0), b"N"),
        "_create_stringi": (text("x"), plain(0), plain(False)),
        "_create_weakref": (b"N",),
    }
    for function, arguments in values.items():
        assert worst(whole(call(path(f"dill._dill.{function}"), *arguments))) == "unknown", function
    other = call(path("dill._dill._create_array"), path("mine.run"), args(*array), state, b"N")
    assert worst(whole(other)) == "dangerous"


PLAIN_OBJECTS = [
    {"lr": 0.1, "betas": (0.9, 0.999), "names": ["a"], "s": {1, 2}, "b": b"x" * 9, "n": None},
    collections.OrderedDict(a=1),
    collections.Counter("aab"),
    collections.defaultdict(list, a=[1]),
    collections.deque([1, 2], maxlen=3),
    pathlib.PurePosixPath("/a/b"),
    pathlib.PureWindowsPath("c:/a"),
    argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("x")),
    types.SimpleNamespace(a=1),
    datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    datetime.timedelta(1),
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=7),
    complex(1, 2),
    bytearray(b"abc"),
    frozenset([1]),
    range(3),
    slice(1, 2),
    random.Random(0),
    re.compile("a+"),
    ValueError("x"),
    int,
]


@pytest.mark.parametrize("value", PLAIN_OBJECTS, ids=lambda value: type(value).__name__)
def test_plain_objects_are_clean(value: object) -> None:
    first = 2 if isinstance(value, slice) else 0  # a slice needs protocol 2
    for protocol in range(first, pickle.HIGHEST_PROTOCOL + 1):
        assert judged(pickle.dumps(value, protocol)) == [], protocol


def test_numpy_is_clean_in_both_spellings() -> None:
    np = pytest.importorskip("numpy")
    values = [np.ones(3), np.float32(1), np.array(["a"]), np.dtype("f8"), np.random.default_rng(0)]
    values += [np.random.RandomState(0), np.ma.array([1, 2], mask=[0, 1]), np.arange(3)[::2]]
    for protocol in range(2, 6):
        for value in values:
            data = pickle.dumps(value, protocol)
            assert judged(data) == [], value
            if protocol < 4:  # from 4 on the lengths of names are written
                assert judged(data.replace(b"numpy._core.", b"numpy.core.")) == [], value
                assert judged(data.replace(b"numpy.core.", b"numpy._core.")) == [], value
    number = call(path("numpy.dtype"), text("f8"), plain(False), plain(True))
    assert judged(whole(call(path("numpy.core.multiarray.scalar"), number, plain(b"")))) == []


def test_torch_s_objects_are_clean() -> None:
    torch = pytest.importorskip("torch")
    import io

    values = [torch.nn.Linear(1, 2), torch.ones(2).half(), torch.Size([1]), torch.device("cpu")]
    values += [torch.nn.Transformer(8, 2, 1, 1, 8), torch.nn.Parameter(torch.ones(1)), torch.int8]
    for value in values:
        for new_format in (True, False):
            file = io.BytesIO()
            torch.save(value, file, _use_new_zipfile_serialization=new_format)
            data = file.getvalue()
            at = data.index(b"\x80\x02", 40 if new_format else 20)
            assert [each for each in judged(data[at:]) if each.opcode] == []


def test_a_finding_says_where_and_what() -> None:
    (found,) = judged(framed(whole(BAD)))
    assert found.chain == "data.pkl @ 38: REDUCE posix.system('touch x')"
    assert found.reason
    assert (found.record, found.offset, found.opcode) == ("data.pkl", 38, "REDUCE")


def test_an_own_class_is_named() -> None:
    (found,) = judged(whole(new(name("model", "BDA")) + b"}b"))
    assert "needs your own class `model.BDA`" in found.reason


def test_calls_of_one_name_are_counted() -> None:
    (found,) = judged(whole(new(MINE), new(MINE), new(MINE)))
    assert found.count == 3


def test_arguments_of_any_size_and_depth_make_a_short_line() -> None:
    deep = b"]" + b"]" * 5_000 + b"a" * 5_000
    (found,) = judged(whole(call(SYSTEM, deep, plain("x" * 100_000), plain(1 << 9_000))))
    assert found.call is not None
    assert len(found.call) < 500


def test_a_legacy_class_is_judged_by_its_name() -> None:
    source = args(text("module"), MINE, text("model.py"), text("class Thing: ...")) + b"Q"
    (found,) = judged(whole(new(source) + b"}b"))
    assert (found.name, found.verdict) == ("mine.Thing", "unknown")
    assert found.call == "mine.Thing()"
    source = args(text("module"), path("subprocess.Popen"), text("a"), text("b")) + b"Q"
    assert worst(whole(call(source, text("x")))) == "dangerous"


def test_what_protocol_2_writes_for_getnewargs_ex() -> None:
    """partial(cls.__new__, cls, …)(): pickle.py, save_reduce."""
    made = call(path("builtins.getattr"), MINE, text("__new__"))
    kept = call(path("functools.partial"), made) + args(made, args(MINE), b"}", b"N") + b"b"
    assert worst(whole(call(kept))) == "unknown"
    other = call(path("functools.partial"), made) + args(made, args(SYSTEM), b"}", b"N") + b"b"
    assert worst(whole(call(other))) == "dangerous"


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(data: bytes) -> None:
    assert isinstance(judged(b"\x80\x04" + data), list)


@given(st.sampled_from(sorted(HARMFUL)), st.integers(0, 400))
def test_a_cut_never_makes_an_error_of_our_own(technique: str, at: int) -> None:
    judged(HARMFUL[technique][:at])


@pytest.mark.parametrize(
    "data",
    [
        b"cposix\nsystem\n](Vtouch x\neR.",  # func(*[…])
        b"\x80\x04cbuiltins\nmap\n](Ne\x81.",
        # an object of a text as arguments, whose attribute is then called as a method
        b"cargparse\nNamespace\nVab\n\x81}Vappend\ncposix\nsystem\nsbVtouch x\na.",
        b"\x80\x04\x95\xff\0\0\0\0\0\0\0cposix\nsystem\n(Vtouch x\ntR.",  # a frame that is too long
        b"iantigravity\nx\n.",  # imported, and only then is a mark missed
    ],
)
def test_what_only_python_s_own_unpickler_does(data: bytes, tmp_path: Path) -> None:
    """joblib and dill leave their files to pickle.py, which is less strict than C's."""
    report = scanned(tmp_path, data, "a.pkl")
    assert report.verdict == "dangerous", report
    assert report.errors


def test_an_honest_stream_that_is_cut_off_says_so(tmp_path: Path) -> None:
    whole_one = pickle.dumps({"a": "x" * 100}, 4)
    report = scanned(tmp_path, whole_one[:-20], "a.pkl")
    assert (report.verdict, report.findings) == ("unreadable", ())
    assert "FRAME announces" in report.errors[0].message


LOADS = path("torch.storage._load_from_bytes")


def test_what_loads_bytes_and_is_kept(tmp_path: Path) -> None:
    """Some attribute or other may be called by what reads the file."""
    bag = call(path("collections.ChainMap"))
    kept = [
        START + b"}" + text("a") + LOADS + b"s.",
        START + bag + b"}" + text("a") + LOADS + b"sb.",
    ]
    duplicate = START + b"]" + LOADS + b"2C\x00\x85R0a."
    recalled = START + LOADS + b"\x940h\x00C\x00\x85R0h\x00."
    for data in (*kept, duplicate, recalled):
        assert worst(data) == "unknown", judged(data)
    called_each_time = START + LOADS + b"C\x00\x85R0" + LOADS + b"C\x01N\x85R."
    assert worst(called_each_time) == "clean", judged(called_each_time)


@pytest.mark.parametrize(
    "front",
    [
        b"Np12345678901234567890123\n",  # more than a size_t: an error for C's unpickler alone
        b"V" + b"words " * 20 + b"\np" + b"9" * 30 + b"\n0",
        b"I 1_0\n0L0x10\n0F 1e3 \n0",
    ],
)
def test_a_text_that_pickle_py_runs_is_no_text(front: bytes, tmp_path: Path) -> None:
    report = scanned(tmp_path, front + b"cposix\nsystem\n(Vtouch x\ntR.", "notes.txt")
    assert report.verdict == "dangerous", report
    assert not report.skipped


def test_a_text_that_meets_a_limit_is_not_skipped(tmp_path: Path) -> None:
    data = b"L" + b"9" * 100_000 + b"\n0cposix\nsystem\n(Vtouch x\ntR."
    report = scanned(tmp_path, data, "notes.txt")
    assert report.verdict in ("dangerous", "unreadable"), report
    assert not report.skipped


def test_an_object_is_no_name_of_a_module() -> None:
    """`pickle` refuses it; the bytes of an array in a joblib file may look like this."""
    model = new(name("sklearn.tree", "DecisionTreeClassifier"))
    assert worst(whole(model + text("dtype") + b"\x93")) != "dangerous"
    assert worst(whole(call(path("builtins.str"), model) + text("dtype") + b"\x93")) == "dangerous"


def test_sympy_runs_the_text_of_other_objects() -> None:
    hidden = call(path("pathlib.PurePosixPath"), text("__import__('os').system('touch x')"))
    assert worst(whole(new(path("sympy.core.containers.Tuple"), hidden))) == "dangerous"
    matrix = new(path("sympy.matrices.dense.MutableDenseMatrix"), plain([1]))
    assert worst(whole(matrix + plain(0) + text("print(1)") + b"s")) == "dangerous"
    assert worst(whole(matrix + plain(0) + text("x") + b"s")) == "unknown"
    symbol = new(path("sympy.core.symbol.Symbol"), text("f(x)"))
    assert worst(whole(new(path("sympy.core.containers.Tuple"), symbol))) == "unknown"


def test_an_undefined_function_of_sympy_is_unknown() -> None:
    """Function("f")(x): the class is made by its name, and its argument is an expression."""
    make = path("sympy.core.function._rebuild_undef")
    symbol = new(path("sympy.core.symbol.Symbol"), text("x"))
    function = call(make, text("f"), b"}")
    assert worst(whole(new(function, symbol))) == "unknown"
    assert worst(whole(call(function, symbol))) == "unknown"
    assert worst(whole(new(call(make, text("f"), plain({"real": True})), symbol))) == "unknown"
    assert worst(whole(new(function, text("print(1)")))) == "dangerous"
    attributes = b"}" + text("__init_subclass__") + path("builtins.print") + b"s"
    assert worst(whole(call(make, text("f"), attributes))) == "dangerous"
    assert worst(whole(call(make, symbol, b"}"))) == "dangerous"


def test_classes_of_torchscript_are_code_in_the_archive() -> None:
    for data in (new(name("__torch__.torch.nn", "Linear")), name("__torch__", "Net")):
        assert [each.reason for each in judged(whole(data))] == [
            "its class is TorchScript code in the archive"
        ]
