"""numpy believes what a pickle says of its elements: what contradicts itself is dangerous."""

from __future__ import annotations

import pickle

import pytest

from tests.safety.corpus.sample import (
    build,
    calling,
    dict_of,
    get,
    named,
    put,
    raw,
    result,
    stream,
    tuple_of,
)
from tests.safety.making import judged, new, plain, text, worst

COPY = (False, True)


def plain_type(code: str, *state: object) -> bytes:
    return calling("numpy.dtype", code, *COPY) + tuple_of(3, "<", *(state or NOTHING)) + b"b"


NOTHING = (None, None, None, -1, -1, 0)
OBJECT = plain_type("O8", None, None, None, -1, -1, 63)
NUMBER = plain_type("f8")


def structure(field: bytes, offset: int, flags: int, size: int = 8) -> bytes:
    fields = dict_of(a=tuple_of(field, offset))
    return plain_type(f"V{size}", None, ("a",), fields, size, 1, flags)


def array(dtype: bytes) -> bytes:
    made = calling("numpy._core.multiarray._reconstruct", named("numpy.ndarray"), (0,), raw(b"b"))
    return made + tuple_of(1, (1,), dtype, False, raw(b"AAAAAAAA")) + b"b"


BAD = {
    "pointers-out-of-bytes": structure(OBJECT, 0, 0),
    "pointers-in-a-number": structure(OBJECT, 0, 25),
    "objects-that-are-bytes": plain_type("O8", *NOTHING),
    "objects-without-a-list": plain_type("O8", None, None, None, -1, -1, 61),
    "no-flags": calling("numpy.dtype", "O8", *COPY)
    + tuple_of(3, "|", None, None, None, -1, -1) + b"b",
    "beyond": structure(NUMBER, 1 << 30, 0),
    "just-beyond": structure(NUMBER, 1, 0),
    "in-front": structure(NUMBER, -8, 0),
    "no-field": plain_type("V8", None, ("b",), dict_of(a=tuple_of(NUMBER, 0)), 8, 1, 0),
    "field-that-is-none": plain_type("V8", None, ("a",), dict_of(a=plain(1)), 8, 1, 0),
    "field-of-a-class": structure(calling("numpy.dtype", named("numpy.object_"), *COPY), 0, 0),
    "nested": structure(structure(OBJECT, 0, 27), 0, 0),
    "array-too-large": plain_type("V8", tuple_of(NUMBER, (1 << 20,)), None, None, 8, 1, 0),
    "array-of-objects": plain_type("V8", tuple_of(OBJECT, (1,)), None, None, 8, 1, 0),
    "number-of-one-byte": plain_type("f8", None, None, None, 1, 1, 0),
    "number-with-fields": plain_type("f8", None, ("a",), dict_of(a=tuple_of(OBJECT, 0)), -1, -1, 0),
    "text-of-a-third": plain_type("U1", None, None, None, 3, 1, 0),
    "less-than-nothing": plain_type("V8", None, None, None, -8, 1, 0),
    "of-a-class": calling("numpy.dtype", named("numpy.float64"), *COPY)
    + tuple_of(3, "<", None, None, None, 1, 1, 0) + b"b",
    "numpy-s-own": calling("numpy.dtype", "f8") + tuple_of(3, ">", *NOTHING) + b"b",
    "twice": NUMBER + tuple_of(3, ">", *NOTHING) + b"b",
    "later": NUMBER + put(0) + b"0" + get(0) + tuple_of(3, ">", *NOTHING) + b"b",
    "by-newobj-helper": calling("copyreg.__newobj__", named("numpy.dtype"), "O8", *COPY)
    + tuple_of(3, "|", *NOTHING) + b"b",
    "by-torch": calling("torch._tensor._rebuild_from_type_v2", named("numpy.dtype"),
                        named("numpy.dtype"), ("O8", *COPY), b"}")
    + tuple_of(3, "|", *NOTHING) + b"b",
    "by-new": new(named("numpy.dtype"), plain("O8"), plain(False), plain(True))
    + tuple_of(3, "|", *NOTHING) + b"b",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_type_that_does_not_agree_with_itself(name: str) -> None:
    for data in (stream(BAD[name]), stream(array(BAD[name]))):
        assert worst(data) == "dangerous", judged(data)


MEMORY = dict_of(
    shape=plain((1,)), typestr=text("<f8"), data=plain((0x41414141, False)), version=plain(3)
)
BAG = calling("types.SimpleNamespace")


@pytest.mark.parametrize(
    "lent",
    [
        build(BAG, __array_interface__=MEMORY),
        build(calling("argparse.Namespace"), __array_interface__=MEMORY),
        build(calling("builtins.ValueError"), __array__=MEMORY),
        calling("types.SimpleNamespace", dict_of(__array_interface__=MEMORY)),
        calling("_io.BytesIO") + tuple_of(raw(b"x"), 0, dict_of(__array_struct__=MEMORY)) + b"b",
    ],
)
def test_memory_that_the_file_names(lent: bytes) -> None:
    assert worst(stream(calling("numpy.float64", lent))) == "dangerous"


def test_attributes_whose_names_are_computed() -> None:
    name = calling("builtins.str", "__array_interface__")
    assert worst(stream(BAG + b"}" + name + MEMORY + b"sb")) == "unknown"
    pairs = b"](" + tuple_of("__array_interface__", MEMORY) + b"e"
    assert worst(stream(result(named("types.SimpleNamespace"), pairs))) == "unknown"


def test_what_numpy_writes_is_clean() -> None:
    np = pytest.importorskip("numpy")
    types = ["f8", ">i4", "U3", "S5", "V8", "O", "M8[D]", "m8[ns]", "?", "c16", "g", "U", "S", "V"]
    structures = [
        [("a", "f4"), ("b", "O")],
        [("a", "f4", (2, 3)), ("b", "i8")],
        (np.record, [("a", "f4")]),
        ("f4", (2,)),
        {"names": ["a", "b"], "formats": ["f4", "i8"], "offsets": [0, 16], "itemsize": 32},
        [(("title", "a"), "f4")],
        [("a", "U0"), ("b", "V0")],
        [],
        [("a", [("b", "O", (2,)), ("c", "U4")])],
    ]
    made = [np.dtype(each) for each in types + structures]
    made += [np.dtype(structures[1], align=True), np.dtype("f8", metadata={"a": 1})]
    for dtype in made:
        for protocol in range(6):
            values = [dtype, np.zeros((2,), dtype)]
            for value in values if dtype.itemsize else values[:1]:
                found = judged(pickle.dumps(value, protocol))
                assert [f for f in found if f.verdict == "dangerous"] == [], (dtype, protocol)
                assert not found or dtype.kind == "V", (dtype, found)
