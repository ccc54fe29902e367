"""Ways to have a pickle act that are no matter of one name: how the name is reached, how it is
called, what is changed without a call, and where a stream breaks off."""

from __future__ import annotations

import base64
import pickle
import struct
import zlib
from typing import Any

from tests.safety.corpus.changes import changes, imports, of_torch_and_numpy
from tests.safety.corpus.names import ISSUES, MODELSCAN, PAPER, PICKLESCAN
from tests.safety.corpus.sample import (
    BAD,
    BAG,
    CODE,
    COMMAND,
    EVAL,
    GOOD,
    MARK,
    OWN,
    PAYLOAD,
    PAYLOAD_2,
    SYSTEM,
    Sample,
    calling,
    dict_of,
    get,
    named,
    put,
    raw,
    result,
    stream,
    tuple_of,
    value,
)
from tests.safety.making import START, new, text

SHADOW = "arXiv 2607.17503"


class Reduced:
    """pickle itself writes the payload."""

    def __reduce__(self) -> Any:
        import posix

        return posix.system, (COMMAND,)


def protocols() -> dict[str, bytes]:
    """As pickle writes it, at every protocol."""
    return {f"protocol-{number}": pickle.dumps(Reduced(), number) for number in range(6)}


def calls() -> dict[str, bytes]:
    """By each opcode that calls."""
    popen = named("subprocess.Popen")
    return {
        "reduce": stream(BAD),
        "global-and-reduce": b"cposix\nsystem\n(V" + COMMAND.encode() + b"\ntR.",
        "inst": b"(V" + COMMAND.encode() + b"\niposix\nsystem\n.",
        "inst-nt": b"(V" + COMMAND.encode() + b"\nios\nsystem\n.",
        "obj": START + b"(" + SYSTEM + text(COMMAND) + b"o.",
        "obj-popped": START + b"(" + SYSTEM + text(COMMAND) + b"o0N.",
        "obj-of-the-memo": START + SYSTEM + b"\x940(" + get(0) + text(COMMAND) + b"o.",
        "reduce-popped": stream(BAD, value({"epoch": 1})),
        "reduce-pop-mark": START + b"(" + BAD + b"1N.",
        "newobj": stream(new(named("functools.partial"), SYSTEM, text(COMMAND)) + b")R"),
        "newobj-ex": START
        + named("functools.partial") + tuple_of(SYSTEM, COMMAND) + b"}\x92" + b")R.",
        "reconstructor": stream(
            calling("copyreg._reconstructor", popen, popen, tuple_of("touch", MARK))
        ),
        "newobj-helper": stream(
            result(calling("copyreg.__newobj__", named("functools.partial"), SYSTEM, COMMAND))
        ),
        "persistent-id": START + BAD + b"Q.",
        "in-a-persistent-id": START
        + tuple_of("storage", BAD, "0", "cpu", 1) + b"Q.",
        "in-a-key": START + b"}" + BAD + b"Ns.",
        "in-a-set": START + b"\x8f(" + BAD + b"\x90.",
        "in-a-frozenset": START + b"(" + BAD + b"\x91.",
        "in-a-state": START + BAG + dict_of(a=BAD) + b"b.",
        "in-arguments": stream(calling("fractions.Fraction", BAD)),
        "deep": START + b"](" * 300 + BAD + b"e" * 300 + b".",
        "as-the-root": START + SYSTEM + text(COMMAND) + b"\x85R.",
        "twice": stream(BAD, BAD),
        "in-the-memo-only": START + BAD + b"\x940}.",
    }  # fmt: skip


def names() -> dict[str, bytes]:
    """By how the name is said."""
    nothing = stream(calling("builtins.str", "posix"))[2:-1]
    given = text(COMMAND) + b"\x85R."
    join = calling("builtins.getattr", "", "join")
    return {
        "memo": START + text("posix") + b"\x940" + text("system") + b"\x940" + get(0) + get(1)
        + b"\x93" + given,
        "memo-far-away": START + text("posix") + b"r\xff\xff\x7f\x000" + text("system")
        + b"r\xfe\xff\x7f\x000" + b"j\xff\xff\x7f\x00" + b"j\xfe\xff\x7f\x00" + b"\x93"
        + given,
        "memo-put-late": START + text("posix") + text("harmless") + b"0" + put(1)
        + text("0") + b"0" + text("system") + b"\x93" + given,
        "memo-other-argument": START + text("posix") + put(5) + b"0"
        + text("system") + put(6) + b"0" + get(5) + text("collections") + b"0" + get(6)
        + text("OrderedDict") + b"0" + b"\x93" + given,
        "memo-overwritten": START + text("collections") + put(0) + b"0" + text("posix") + put(0)
        + b"0" + get(0) + text("system") + b"\x93" + given,
        "memo-of-a-tuple": START + text("posix") + text("system") + b"\x86" + put(1) + b"0"
        + text("posix") + text("system") + b"\x93" + given,
        "duplicated": START + text("posix") + b"20" + text("system") + b"20\x93" + given,
        "popped-between": START + text("posix") + text("collections") + b"0" + text("system")
        + text("OrderedDict") + b"0\x93" + given,
        "marks-between": START + text("posix") + b"(N1" + text("system") + b"(NN1\x93" + given,
        "string-opcodes": b"\x80\x04S'posix'\nS'system'\n\x93" + given,
        "binstring": b"\x80\x04U\x05posixT\x06\0\0\0system\x93" + given,
        "binunicode8": b"\x80\x04\x8d\x05\0\0\0\0\0\0\0posix\x8d\x06\0\0\0\0\0\0\0system\x93"
        + given,
        "unicode-escaped": b"\x80\x04V\\u0070osix\nV\\u0073ystem\n\x93" + given,
        "string-escaped": b"\x80\x04S'\\x70osix'\nS'\\x73ystem'\n\x93" + given,
        "computed-str": START + nothing + text("system") + b"\x93" + given,
        "computed-join": START + result(join, ["po", "six"]) + text("system") + b"\x93" + given,
        "computed-slice": START + calling("operator.getitem", "xposixx", calling(
            "builtins.slice", 1, 6)) + text("system") + b"\x93" + given,
        "extension": START + calling("copyreg.add_extension", "posix", "system", 7) + b"0"
        + b"\x82\x07" + given,
        "extension-2": START + calling("copyreg.add_extension", "posix", "system", 777) + b"0"
        + b"\x83\x09\x03" + given,
        "extension-table": START + named("copyreg._inverted_registry")
        + b"K\x09" + tuple_of("posix", "system") + b"s0\x82\x09" + given,
        "dotted-logging": stream(calling("logging:os.system", COMMAND)),
        "dotted-random": stream(calling("random:_os.system", COMMAND)),
        "dotted-class": stream(calling("argparse:Namespace.__init__.__globals__.__class__", [])),
        "dotted-builtins": stream(calling("builtins:object.__subclasses__")),
        "dotted-module": stream(calling("logging:sys.modules.get", "os")),
        "dotted-import": stream(calling("json:decoder.scanner.re.enum.sys.exit")),
        "re-export": stream(calling("tempfile:_os.system", COMMAND)),
        "getattr-module": stream(result(
            calling("builtins.getattr", calling("importlib.import_module", "posix"), "system"),
            COMMAND)),
        "getattr-global": stream(result(
            calling("builtins.getattr", named("logging:os"), "system"), COMMAND)),
        "getattr-twice": stream(result(calling("builtins.getattr", calling(
            "builtins.getattr", named("logging:os"), "path"), "exists"), MARK)),
        "getattr-python2": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(Vposix\ntR"
        + b"Vsystem\ntR(V" + COMMAND.encode() + b"\ntR.",
        "attrgetter": stream(result(result(
            calling("operator.attrgetter", "system"), named("logging:os")), COMMAND)),
        "attrgetter-c": stream(result(result(
            calling("_operator.attrgetter", "os.system"), calling("builtins.__import__",
                                                                  "logging")), COMMAND)),
        "methodcaller": stream(result(
            calling("operator.methodcaller", "system", COMMAND), named("logging:os"))),
        "itemgetter": stream(result(result(result(
            calling("operator.itemgetter", "posix"), named("sys.modules")), "x"), "y")),
        "resolve-name": stream(result(
            calling("pkgutil.resolve_name", "posix:system"), COMMAND)),
        "dict-get": stream(result(calling("builtins:dict.get", named(
            "collections:__builtins__"), "eval"), CODE)),
        "locate": stream(result(calling("pydoc.locate", "posix.system"), COMMAND)),
    }  # fmt: skip


def indirections() -> dict[str, bytes]:
    """By what calls in its turn."""
    mapped = calling("builtins.map", SYSTEM, [COMMAND])
    partial = calling("functools.partial", SYSTEM, COMMAND)
    default = calling("collections.defaultdict", partial)
    return {
        "partial": stream(result(partial)),
        "partial-with-state": stream(result(
            calling("functools.partial", named("builtins.print"))
            + tuple_of(SYSTEM, tuple_of(COMMAND), b"}", b"N") + b"b")),
        "partial-of-partial": stream(result(calling("functools.partial", partial))),
        "method-type": stream(result(calling("types.MethodType", SYSTEM, COMMAND))),
        "list-of-map": stream(calling("builtins.list", mapped)),
        "tuple-of-map": stream(calling("builtins.tuple", mapped)),
        "set-of-map": stream(calling("builtins.set", mapped)),
        "frozenset-of-map": stream(calling("builtins.frozenset", mapped)),
        "dict-of-map": stream(calling("builtins.dict", mapped)),
        "bytes-of-map": stream(calling("builtins.bytes", mapped)),
        "bytearray-of-map": stream(calling("builtins.bytearray", mapped)),
        "counter-of-map": stream(calling("collections.Counter", mapped)),
        "ordereddict-of-map": stream(calling("collections.OrderedDict", mapped)),
        "deque-of-map": stream(calling("collections.deque", mapped)),
        "newobj-of-map": stream(new(named("builtins.tuple"), mapped)),
        "newobj-frozenset-of-map": stream(new(named("builtins.frozenset"), mapped)),
        "sorted-by": stream(calling("builtins.list", calling(
            "itertools.starmap", SYSTEM, b"](" + tuple_of(COMMAND) + b"e"))),
        "filter": stream(calling("builtins.list", calling(
            "builtins.filter", SYSTEM, [COMMAND]))),
        "iter-of-call": stream(calling("builtins.tuple", calling(
            "builtins.iter", partial, 5))),
        "any-of-map": stream(calling("builtins.any", mapped)),
        "sum-of-map": stream(calling("builtins.sum", mapped)),
        "reduce-of-functools": stream(calling(
            "functools.reduce", EVAL, [CODE, {}])),
        "default-factory": stream(calling("operator.getitem", default, "x")),
        "array-of-map": stream(calling("array.array", "b", mapped)),
        "union-of-map": stream(calling("collections.ChainMap", mapped), BAD),
        "fraction-of-code": stream(calling("typing:ForwardRef._evaluate", calling(
            "typing.ForwardRef", CODE), b"}", b"}", calling("builtins.frozenset"))),
        "new-type": stream(calling("builtins.type", "X", b")", dict_of(
            __reduce__=SYSTEM)) + b")R" + text(COMMAND) + b"0"),
        "type-with-setstate": stream(calling("builtins.type", "X", b")", dict_of(
            __setstate__=SYSTEM)) + b")R" + text(COMMAND) + b"b"),
        "nested": stream(calling("pickle.loads", raw(stream(calling(
            "pickle.loads", raw(PAYLOAD)))))),
        "nested-decoded": stream(calling("pickle.loads", calling(
            "base64.b64decode", base64.b64encode(PAYLOAD).decode()))),
        "nested-zlib": stream(calling("pickle.loads", calling(
            "zlib.decompress", raw(zlib.compress(PAYLOAD))))),
        "nested-encoded": stream(calling("pickle.loads", calling(
            "_codecs.encode", PAYLOAD.decode("latin1"), "latin1"))),
        "compile-and-exec": stream(calling("builtins.exec", calling(
            "builtins.compile", CODE, "", "exec"))),
        "codec-by-name": stream(calling("_codecs.encode", "x", MARK)),
        "codec-of-bytes": stream(calling("_codecs.decode", raw(b"x"), "hex")),
        "unpickler": stream(result(calling("builtins.getattr", calling(
            "_pickle.Unpickler", calling("_io.BytesIO", raw(PAYLOAD))), "load"))),
        "bound-method-called": stream(result(calling("builtins.getattr", calling(
            "pathlib.PosixPath", MARK), "touch"))),
        "method-of-a-class": stream(calling("builtins:str.format", "{0.__class__}", SYSTEM)),
    }  # fmt: skip


def broken() -> dict[str, bytes]:
    """Streams that break off after the harm is done."""
    bad = START + BAD
    return {
        "no-stop": bad,
        "bad-opcode": bad + b"\xff",
        "cut-in-a-string": bad + b"X\xff\0\0\0abc",
        "cut-in-a-frame": bad + b"\x95\xff\xff",
        "frame-too-long": bad + b"\x95" + struct.pack("<Q", 1 << 40),
        "string-too-long": bad + b"\x8e" + struct.pack("<Q", 1 << 62),
        "no-value": bad + b"0.",
        "pop-too-many": bad + b"00000.",
        "no-mark": bad + b"t.",
        "no-memo": bad + b"h\x99.",
        "no-memo-for-a-name": bad + b"h\x98h\x99\x93.",
        "name-of-a-number": bad + b"K\x01K\x02\x93.",
        "names-missing": bad + b"\x93.",
        "bad-utf8": bad + b"\x8c\x02\xff\xfe.",
        "bad-number": bad + b"Iabc\n.",
        "bad-protocol": bad + b"\x80\x63.",
        "bad-extension": bad + b"\x82\xfe.",
        "build-on-nothing": bad + b"}b.",
        "setitem-on-none": bad + b"0NK\x01K\x02s.",
        "unhashable-key": bad + b"0}]Ns.",
        "bad-newobj": bad + b"0NN\x81.",
        "persistent-id": bad + b"P1\n.",
        "buffers": bad + b"\x97.",
        "text-behind": bad + b".\n# nothing to see here\n",
        "zeros-behind": bad + b"." + bytes(4096),
        "unknown-global-behind": bad + b"cno_such_module\nno_such_name\n.",
        "second-protocol": bad + b"\x80\x02\x80\x05.",
    }


def rows() -> dict[str, bytes]:
    """Several pickles in one file, and padding."""
    padded = pickle.dumps({"weights": "x" * 200_000}, 4)
    hidden = b"0cposix\nsystem\n(V" + COMMAND.encode() + b"\ntR"
    return {
        "second": GOOD + PAYLOAD,
        "fifth": GOOD * 4 + PAYLOAD,
        "behind-a-large-one": padded + PAYLOAD,
        "after-padding": START + value("x" * 100_000) + b"0" + BAD + b".",
        "after-many-opcodes": START + b"N0" * 50_000 + BAD + b".",
        "after-a-broken-one": GOOD[:-1] + PAYLOAD[2:],
        "protocol-first": b"\x80\x04" + PAYLOAD_2,
        "no-protocol": PAYLOAD[2:],
        "protocol-1-with-new-opcodes": b"\x80\x01" + PAYLOAD[2:],
        "frames-fit": START + b"\x95" + struct.pack("<Q", len(BAD) + 1) + BAD + b".",
        "frame-hides": START + b"\x95" + struct.pack("<Q", 11) + b"X\x0a\0\0\0AAAAAA"
        + b"BBBBX" + struct.pack("<I", len(hidden) + 1) + b"C" + hidden + b".",
        "frame-ends-early": START + b"\x95" + struct.pack("<Q", 4) + b"NNNN" + BAD + b".",
        "frame-in-a-frame": START + b"\x95" + struct.pack("<Q", len(BAD) + 10)
        + b"\x95" + struct.pack("<Q", 3) + BAD + b".",
        "frames-in-a-row": START + b"\x95" + struct.pack("<Q", 0) + b"\x95"
        + struct.pack("<Q", 0) + BAD + b".",
        "as-a-readme": b"Version 1.0 of this model\n0" + hidden[1:] + b".",
        "protocol-changes": START + b"N0\x80\x02c__builtin__\neval\n(V" + CODE.encode() + b"\ntR.",
        "python2-map": b"c__builtin__\ntuple\n(citertools\nimap\n(cposix\nsystem\n(lV"
        + COMMAND.encode() + b"\natRtR.",
        "as-text": b"(lp0\nV" + b"readme\np1\na" + b"cposix\nsystem\n(V" + COMMAND.encode()
        + b"\ntRa.",
        "as-a-comment": b"N0cposix\nsystem\n(V" + COMMAND.encode() + b"\ntR.",
    }  # fmt: skip


SOURCES = {
    "obj": "GHSA-mxhj-88fx-4pcv", "obj-popped": "GHSA-mxhj-88fx-4pcv",
    "memo": f"{ISSUES}22", "memo-other-argument": f"{ISSUES}22", "memo-put-late": f"{ISSUES}22",
    "memo-overwritten": f"{ISSUES}52", "memo-of-a-tuple": f"{ISSUES}14",
    "string-opcodes": f"{ISSUES}52", "computed-join": f"{MODELSCAN}331",
    "duplicated": f"{PICKLESCAN}GHSA-9gvj-pp9x-gcfr",
    "getattr-module": f"{MODELSCAN}331", "attrgetter": f"{PICKLESCAN}GHSA-955r-x9j8-7rhh",
    "attrgetter-c": f"{PICKLESCAN}GHSA-955r-x9j8-7rhh",
    "methodcaller": f"{PICKLESCAN}GHSA-m273-6v24-x4m4",
    "itemgetter": f"{PICKLESCAN}GHSA-m273-6v24-x4m4",
    "resolve-name": f"{PICKLESCAN}GHSA-vvpj-8cmc-gx39", "locate": "CVE-2026-22608",
    "dict-get": f"{MODELSCAN}89", "numpy-builtins": f"{MODELSCAN}89",
    "numpy-prod-modules": f"{MODELSCAN}89", "numpy-prod": f"{MODELSCAN}85",
    "numpy-size": f"{MODELSCAN}330", "partial": "https://github.com/trailofbits/fickling/pull/210",
    "nested": f"{MODELSCAN}267", "build-setstate": "https://github.com/trailofbits/fickling/pull/302",
    "setitem-sys-modules": SHADOW, "setitem-module-dict": SHADOW,
    "build-reduce": "GHSA-mhc9-48gj-9gp3",
    "no-memo-for-a-name": "https://github.com/protectai/modelscan/pull/348",
    "no-stop": PAPER, "bad-opcode": "nullifAI", "cut-in-a-string": "nullifAI",
    "reduce-popped": "GHSA-mxhj-88fx-4pcv", "tensor-setitem": "CVE-2026-24747",
    "tensor-setitems": "CVE-2026-24747", "load-from-bytes": PAPER, "second": PAPER,
}  # fmt: skip
"""Where a technique was published; the others are our own."""

NOT_LOADED = frozenset((
    "persistent-id", "in-a-persistent-id", "dotted-class", "itemgetter", "codec-by-name",
    "dotted-own-class", "memo-of-a-tuple", "dotted-import", "union-of-map",
    "dotted-builtins", "dotted-module", "codec-of-bytes", "method-of-a-class", "new-type",
    "as-text", "memo-put-late", "default-factory", "getattr-twice",
))  # fmt: skip
"""What acts, but shows nothing that could be waited for, or needs another reader."""


LEAST = {"codec-by-name": "unknown"}


def samples() -> list[Sample]:
    """All of them, each as one `.pkl`."""
    made = []
    for group in (protocols, calls, names, indirections, broken, rows):
        for name, data in group().items():
            how = "" if name in NOT_LOADED else "pickle"
            if name in ("second", "fifth", "behind-a-large-one"):
                how = "pickles"
            made.append(
                _sample(group.__name__, name, data, load=how, least=LEAST.get(name, "dangerous"))
            )
    for name, (data, seen) in changes().items():
        made.append(_sample("changes", name, data, load="" if seen is None else "pickle",
                            seen=seen or ""))  # fmt: skip
    for name, (data, needs) in of_torch_and_numpy().items():
        made.append(_sample("torch", name, data, load="pickle" if needs else "", needs=needs))
    for name, (data, least) in imports().items():
        made.append(_sample("imports", name, data, load="", least=least))
    return made


def _sample(group: str, name: str, data: bytes, **more: Any) -> Sample:
    return Sample(f"{group}-{name}.pkl", data, SOURCES.get(name, OWN), **more)
