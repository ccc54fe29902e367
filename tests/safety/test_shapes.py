"""Calls in the shapes that writers use are clean; in any other shape they are not."""

from __future__ import annotations

import argparse
import array
import builtins
import collections
import datetime
import decimal
import fractions
import io
import ipaddress
import pathlib
import pickle
import random
import re
import statistics
import time
import types
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ptinspect.errors import PtInspectError
from ptinspect.pickling.machine import run
from ptinspect.pickling.state import Recorder
from ptinspect.pickling.values import Call, Global
from ptinspect.safety.policy import load_policy
from tests.conftest import ROOT
from tests.safety.corpus.sample import build, calling, dict_of, get, named, put, raw, tuple_of
from tests.safety.making import START, args, call, judged, new, path, plain, text, whole, worst

ERRORS = "an exception that was kept as a value"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def of_python() -> list[object]:
    """Values of the standard library."""
    utc = datetime.timezone.utc
    named_zone = datetime.timezone(datetime.timedelta(hours=1), "x")
    return [
        {1}, frozenset([1]), {(1, (2, "a"))}, b"", b"abc", b"\xff", bytearray(), bytearray(b"abc"),
        complex(1, 2), range(3), slice(1, 2), object(), type(None), int,
        collections.OrderedDict(a=1), collections.Counter("aab"), collections.UserDict(a=1),
        collections.defaultdict(list, a=[1]), collections.deque([1], 3), collections.ChainMap({}),
        collections.UserList([1]), collections.UserString("a"), collections.deque(),
        datetime.datetime(2024, 1, 2, tzinfo=utc), datetime.date(2024, 1, 2), datetime.time(1),
        datetime.timedelta(1), named_zone, datetime.datetime(2024, 1, 2, fold=1),
        decimal.Decimal("1.5"), decimal.Decimal("1.5").as_tuple(), fractions.Fraction(1, 3),
        uuid.UUID(int=7), uuid.SafeUUID.unknown, statistics.NormalDist(0, 1), time.gmtime(0),
        ipaddress.ip_address("1.2.3.4"), ipaddress.ip_address("::1"),
        ipaddress.ip_network("1.0.0.0/8"), ipaddress.ip_network("::/8"),
        ipaddress.ip_interface("1.2.3.4/8"), ipaddress.ip_interface("::1/8"),
        pathlib.Path("a"), pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:/a"),
        argparse.Namespace(a=1), types.SimpleNamespace(a=1), random.Random(0), re.compile("a"),
        array.array("f", [1]), array.array("i"), io.BytesIO(b"x"), io.StringIO("x"),
        OSError(2, "no", "file"), UnicodeDecodeError("utf8", b"a", 0, 1, "x"),
    ]  # fmt: skip


def of_errors() -> list[object]:
    """An exception of each listed class."""
    values: list[object] = [UnicodeDecodeError("utf8", b"a", 0, 1, "x")]
    for name, row in load_policy().names.items():
        kind = getattr(builtins, name.partition(".")[2], None)
        if row.reason == ERRORS and isinstance(kind, type):
            with suppress(TypeError):
                values.append(kind("a message"))
    return values


def of_numpy() -> list[object]:
    """Values of numpy."""
    import numpy as np

    rng = np.random
    fields = np.zeros(2, [("a", "f4"), ("b", "i8", (2,))])
    arrays = [np.ones(3), np.ones((2, 3)).T, np.array(1.0), np.array(["a"]), np.array([None, 1])]
    arrays += [fields, fields.view(np.recarray), fields[0], fields.view(np.recarray)[0]]
    arrays += [np.array([1], ">i4"), np.array(["2024"], "M8[D]"), np.ones((2, 2)).view(np.matrix)]
    arrays += [np.ma.array([1, 2], mask=[0, 1]), np.zeros((0, 3)), np.char.array(["a"])]
    numbers = [kind(1) for kind in (np.float16, np.float64, np.int8, np.uint64, np.bool_, np.str_)]
    generators = [rng.RandomState(0), rng.default_rng(0), rng.PCG64(1), rng.PCG64DXSM(1)]
    generators += [rng.MT19937(1), rng.Philox(1), rng.SFC64(1), rng.SeedSequence(1)]
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        arrays += [np.dtypes.StringDType(), np.dtypes.StringDType(na_object=None)]
    return [*arrays, *numbers, *generators, np.dtype("f8"), fields.dtype, np.float32]


def of_torch() -> list[object]:
    """Values of torch."""
    import torch

    ones, halves = torch.ones(2, 2), torch.ones(2).half()
    nested = [torch.ones(2), torch.ones(3)]
    values = [ones, ones.t(), halves, halves.bfloat16(), torch.tensor(1), torch.zeros(0)]
    values += [torch.nn.Parameter(ones), torch.nn.Buffer(ones), ones.to(torch.float8_e4m3fn)]
    values += [ones.to_sparse(), ones.to_sparse_csr(), ones.to("meta"), torch.Size([1])]
    values += [torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8), torch.device("cuda", 0)]
    values += [torch.nested.nested_tensor(nested), torch.strided, torch.float32]
    values += [torch.FloatStorage([1.0]), torch.nn.Linear(1, 1), torch.nn.LSTM(1, 1)]
    return values


def of_pandas() -> list[object]:
    """Tables of numbers."""
    import pandas as pd

    table = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.date_range("2020", periods=2))
    frame = pd.DataFrame([[1.0, 2.0]])
    return [pd.RangeIndex(3), pd.Index([1, 2]), frame, table["a"].reset_index(drop=True)]


LIBRARIES = {
    "python": of_python,
    "errors": of_errors,
    "numpy": of_numpy,
    "torch": of_torch,
    "pandas": of_pandas,
}


def pickles(values: list[object]) -> Iterator[tuple[object, int, bytes]]:
    """Each value by each protocol that can write it."""
    for value in values:
        for protocol in PROTOCOLS:
            with suppress(TypeError, pickle.PicklingError):
                yield value, protocol, pickle.dumps(value, protocol)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_the_writers_write_is_clean(library: str) -> None:
    if library not in ("python", "errors"):
        pytest.importorskip(library)
    for value, protocol, data in pickles(LIBRARIES[library]()):
        assert judged(data) == [], (type(value), protocol)


# --- every listed name ----------------------------------------------------------------------

OLD = (
    # written by versions, systems or hardware that no test has
    "pathlib._local.", "numpy.core.", "numpy._core.records.", "numpy._core.defchararray.",
    "numpy.ma.core.MaskedArray", "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_mlc_tensor", "pandas.core.", "torch.jit._pickle.", "torch.nn.Parameter",
    "torch.nn.parameter.Buffer", "torch.nn.parameter.UninitializedTensorMixin",
    "torch.distributed.checkpoint.", "torch.distributed._shard.", "numpy.random.__RandomState_ctor",
    "numpy.matrix", "numpy.recarray", "numpy.random.mtrand.", "numpy.random._generator.",
    "pathlib.Path", "pathlib.PurePath",
    "builtins.bool", "builtins.int", "builtins.float", "builtins.str",
    "builtins.len", "pandas.DatetimeIndex", "pandas.TimedeltaIndex", "torch.Tensor",
)  # fmt: skip
NUMBERS = "a type of numbers, and its numbers"


def called(data: bytes) -> set[str]:
    """The names that a pickle calls, or of which it creates objects."""
    recorder = Recorder()
    with suppress(PtInspectError):
        run(data, recorder=recorder)
    calls = [event.target for event in recorder.events if isinstance(event.target, Call)]
    names = [each for one in calls for each in (one.func, *one.args[:2])]
    return {each.path for each in names if isinstance(each, Global)}


def streams(file: Path) -> list[bytes]:
    """The pickles of a fixture."""
    if not zipfile.is_zipfile(file):
        return [file.read_bytes()]
    with zipfile.ZipFile(file) as archive:
        return [archive.read(each) for each in archive.namelist() if each.endswith(".pkl")]


@pytest.mark.filterwarnings("ignore")
def test_every_listed_name_is_pickled_here_or_stands_in_a_fixture() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pandas")
    seen = {
        name
        for make in LIBRARIES.values()
        for _, _, data in pickles(make())
        for name in called(data)
    }
    for file in sorted((ROOT / "fixtures").rglob("*.p*")):
        if file.suffix in (".pt", ".pth", ".pkl") and file.parent.name != "containers":
            with warnings.catch_warnings():
                seen |= {name for data in streams(file) for name in called(data)}
    rows = load_policy().names.items()
    listed = {name for name, row in rows if row.verdict == "allowed" and row.shapes != "-"}
    listed -= {name for name, row in rows if row.reason in (NUMBERS, ERRORS)}
    assert sorted(name for name in listed - seen if not name.startswith(OLD)) == []


# --- other shapes ---------------------------------------------------------------------------

STORAGE = args(text("storage"), path("torch.FloatStorage"), text("0"), text("cpu"), plain(4)) + b"Q"
HOOKS = call(path("collections.OrderedDict"))
NETWORK = calling("ipaddress.IPv6Network", "::/0")
DTYPE = calling("numpy.dtype", "O8", False, True)
MERSENNE = calling("numpy.random._pickle.__bit_generator_ctor", "MT19937")


def by_keyword(cls: str, **keywords: bytes) -> bytes:
    """NEWOBJ_EX."""
    return named(cls) + b")" + dict_of(**keywords) + b"\x92"


def position(value: bytes) -> bytes:
    """The state of a Mersenne twister."""
    state = dict_of(key=plain([1]), pos=value)
    return dict_of(bit_generator=text("MT19937"), state=state)


DANGEROUS = {
    "a storage with an allocator": by_keyword("torch.storage.UntypedStorage", allocator=plain(1)),
    "a tensor at an address": by_keyword("torch.Tensor", cdata=plain(1)),
    "the same by copyreg": calling(
        "copyreg.__newobj_ex__", named("torch.Tensor"), b")", dict_of(cdata=plain(1))
    ),
    "the same by a partial": call(
        calling("functools.partial", named("torch:Tensor.__new__"))
        + args(named("torch:Tensor.__new__"), args(path("torch.Tensor")),
               dict_of(cdata=plain(1)), b"N") + b"b"
    ),
    "an array over a buffer": new(path("numpy.ndarray"), plain((1,)), DTYPE, plain(b"A" * 8)),
    "an array in front of a buffer": calling(
        "numpy.ndarray", (1,), "f8", plain(b"A" * 8), plain(-64), plain((8,))
    ),
    "an array by keyword": by_keyword("numpy.ndarray", shape=plain((1,)), buffer=plain(b"A")),
    "quantized, beyond its storage": calling(
        "torch._utils._rebuild_qtensor", STORAGE, 0, (9,), (1,), (1,), False, HOOKS
    ),
    "of torch 0.1, beyond its storage": calling("torch.FloatTensor")
    + tuple_of(STORAGE, 0, (9,), (1,)) + b"b",
    "a file that is mapped by NEWOBJ": new(path("numpy.memmap"), text("x"), text("u1"), text("w+")),
    "a wrapper that loads its state": new(
        path("torch.utils.data.datapipes.datapipe._IterDataPipeSerializationWrapper")
    )
    + args(plain(b"N."), plain(False)) + b"b",
    "a file system that is a function": calling(
        "fsspec.spec.make_instance", named("pip.main"), b")", b"}"
    ),
    "a listed object that is called": call(new(path("argparse.Namespace")), plain(1)),
    "a function among the arguments": calling("builtins.list", named("pip.main")),
    "a partial that was another when it was called": calling("functools.partial", named("mine.f"))
    + put(0) + tuple_of(named("webbrowser.open"), ("x",), b"}", b"N") + b"b0" + get(0) + b")R0"
    + get(0) + tuple_of(named("mine.f"), ("x",), b"}", b"N") + b"b",
}  # fmt: skip


def table(start: int, stop: int) -> bytes:
    """A block at a place of a table with two columns."""
    place = calling("builtins.slice", plain(start), plain(stop), plain(1))
    values = calling("mine.array")
    block = calling("pandas._libs.internals._unpickle_block", values, place, plain(2))
    labels = dict_of(name=b"N", start=plain(0), stop=plain(2), step=plain(1))
    columns = calling("pandas.core.indexes.base._new_Index", named("pandas.RangeIndex"), labels)
    manager = "pandas.core.internals.managers.BlockManager"
    return calling(manager, args(block), b"](" + columns + b"e")


@pytest.mark.parametrize(("start", "stop", "fits"), [(0, 2, True), (1, 3, False), (-1, 1, False)])
def test_a_block_of_a_table_is_inside_of_it(start: int, stop: int, fits: bool) -> None:
    found = {each.name for each in judged(whole(table(start, stop)))}
    assert ("pandas.core.internals.managers.BlockManager" not in found) == fits


UNKNOWN = {
    "a network in a list": calling("builtins.list", NETWORK),
    "a network in a set": calling("builtins.set", NETWORK),
    "a network in a frozenset": new(named("builtins.frozenset"), NETWORK),
    "a network in a list by copyreg": calling(
        "copyreg._reconstructor", named("builtins.list"), named("builtins.list"), NETWORK
    ),
    "a network in an index": calling(
        "pandas.core.indexes.base._new_Index", named("pandas.Index"), dict_of(data=NETWORK)
    ),
    "a text of what is shared": calling("builtins.str", plain([1])),
    "an offset in front": calling(
        "torch._utils._rebuild_tensor_v2", STORAGE, plain(-1), (1,), (1,), False, HOOKS
    ),
    "a stride backwards": calling(
        "torch._utils._rebuild_tensor_v2", STORAGE, 3, (1,), (-1,), False, HOOKS
    ),
    "a generator beyond its numbers": MERSENNE + position(plain(1 << 40)) + b"b",
    "a generator in front of its numbers": MERSENNE + position(plain(-1)) + b"b",
    "a generator at a computed place": MERSENNE + position(calling("builtins.int")) + b"b",
    "an old generator": calling("numpy.random.__RandomState_ctor")
    + tuple_of("MT19937", [1], plain(10_000), 0, 0.0) + b"b",
    "a generator of another kind": calling(
        "numpy.random._pickle.__generator_ctor", calling("types.SimpleNamespace")
    ),
    "an array with a shape": calling(
        "numpy._core.multiarray._reconstruct", named("numpy.ndarray"), (3,), b"C\x01b"
    ),
    "a namespace of its arguments": calling("types.SimpleNamespace", dict_of(a=plain(1))),
    "a state of another kind": calling("uuid.UUID") + plain([1]) + b"b",
    "a linear layer with keywords": by_keyword("torch.nn.Linear", in_features=plain(1)),
    "an item that is set again": plain({}) + text("a") + plain(1) + b"s" + text("a") + plain(2)
    + b"s",
    "an element of a list that is set again": plain([1]) + plain(0) + plain(2) + b"s",
    "an own object that is called": call(new(path("mine.Getter")), plain(1)) + plain({}) + b"b",
    "a file system": calling("fsspec.spec.make_instance", named("mine.System"), b")", b"}"),
    "an exception of a module that acts": calling("subprocess.CalledProcessError", 1, "x"),
    "a class of the standard library": calling("argparse._SubParsersAction._ChoicesPseudoAction"),
}  # fmt: skip


@pytest.mark.parametrize("what", DANGEROUS)
def test_a_shape_that_acts(what: str) -> None:
    assert worst(whole(DANGEROUS[what])) == "dangerous"


@pytest.mark.parametrize("what", UNKNOWN)
def test_a_shape_that_no_writer_uses(what: str) -> None:
    assert worst(whole(UNKNOWN[what])) == "unknown"


def test_a_set_of_tuples_that_share_their_parts() -> None:
    shared = plain((1,)) + put(0) + b"".join(
        b"0" + get(index) * 2 + b"\x86" + put(index + 1) for index in range(40)
    )  # fmt: skip
    data = START + shared + b"0" + named("builtins.set") + b"]" + get(40) + b"a\x85R."
    assert worst(data) == "unknown"


def test_what_is_set_by_build_is_judged_when_it_is_set() -> None:
    bag = build(calling("types.SimpleNamespace"), a=plain(1))
    assert worst(whole(bag)) == "clean"
    again = put(0) + b"0" + get(0) + dict_of(a=plain(2)) + b"b"
    assert worst(whole(bag + again)) == "clean"
    assert worst(whole(bag + put(0) + b"0" + get(0) + plain((1, 2)) + b"b")) == "unknown"
    assert worst(whole(calling("_io.BytesIO") + tuple_of(raw(b"x"), 0, None) + b"b")) == "clean"
