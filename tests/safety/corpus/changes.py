"""What a pickle changes without calling a name; allowed names that are given what is not; names
that only wait to be called."""

from __future__ import annotations

from tests.safety.corpus.sample import (
    BAD,
    BAG,
    CODE,
    COMMAND,
    EVAL,
    MARK,
    PAYLOAD_2,
    SYSTEM,
    build,
    build_slots,
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

NUMPY, TORCH = ("numpy",), ("torch",)


def changes() -> dict[str, tuple[bytes, str | None]]:
    """Without any call of a name: a stream, and what is true afterwards ("": an event shows it;
    None: nothing could be waited for)."""
    called = text(COMMAND)
    module = named("logging:os")
    return {
        "setitem-environ": (stream(named("os.environ") + text(MARK) + text("1") + b"s"), ""),
        "setitems-environ": (
            stream(named("os.environ") + b"(" + text(MARK) + text("1") + b"u"), ""),
        "setitem-sys-modules": (
            stream(named("sys.modules") + text(MARK) + module + b"s"),
            f"{MARK!r} in sys.modules"),
        "append-sys-path": (
            stream(named("sys.path") + text(MARK) + b"a"), f"{MARK!r} in sys.path"),
        "appends-sys-path": (
            stream(named("sys.path") + b"(" + text(MARK) + b"e"), f"{MARK!r} in sys.path"),
        "append-meta-path": (
            stream(named("sys.meta_path") + SYSTEM + b"a"), "len(sys.meta_path) > 3"),
        "append-gc-callbacks": (
            stream(named("gc.callbacks") + SYSTEM + b"a"), "len(gc.callbacks) > 0"),
        "additems-os-set": (
            stream(named("os.supports_fd") + b"(" + text(MARK) + b"\x90"),
            f"{MARK!r} in os.supports_fd"),
        "setitem-builtins": (
            stream(named("builtins:__dict__") + text("abs") + SYSTEM + b"s"),
            "abs.__name__ == 'system'"),
        "setitem-dispatch-table": (
            stream(named("copyreg.dispatch_table") + text("x") + SYSTEM + b"s"),
            "'x' in __import__('copyreg').dispatch_table"),
        "setitem-module-dict": (
            stream(named("posixpath:__dict__") + text("exists") + SYSTEM + b"s"),
            "__import__('posixpath').exists.__name__ == 'system'"),
        "build-module": (
            stream(build(module, sep=text(MARK))), f"os.sep == {MARK!r}"),
        "build-module-slots": (
            stream(build_slots(module, sep=text(MARK))), f"os.sep == {MARK!r}"),
        "build-class": (
            stream(build_slots(named("argparse.Namespace"), __eq__=SYSTEM)),
            "__import__('argparse').Namespace.__eq__.__name__ == 'system'"),
        "build-function": (
            stream(build(named("posixpath.join"), x=text(MARK))),
            f"os.path.join.x == {MARK!r}"),
        "build-function-defaults": (
            stream(build_slots(named("posixpath.join"), __doc__=text(MARK))),
            f"os.path.join.__doc__ == {MARK!r}"),
        "build-setstate": (
            stream(build(BAG, __setstate__=SYSTEM) + called + b"b"), ""),
        "build-setstate-slots": (
            stream(build_slots(BAG, __setstate__=SYSTEM) + called + b"b"), ""),
        "build-append": (stream(build(BAG, append=SYSTEM) + called + b"a"), ""),
        "build-append-many": (stream(build(BAG, append=SYSTEM) + b"(" + called + b"e"), ""),
        "build-extend": (
            stream(build(BAG, extend=named("os._exit")) + b"(" + called + b"e"), None),
        "build-add": (stream(build(BAG, add=SYSTEM) + b"(" + called + b"\x90"), ""),
        "build-class-append": (
            stream(build_slots(named("argparse.Namespace"), append=SYSTEM),
                   calling("argparse.Namespace") + called + b"a"), ""),
        "build-object-of-memo": (
            START + BAG + put(1) + b"0" + get(1) + dict_of(__setstate__=SYSTEM) + b"b0"
            + get(1) + called + b"b.", ""),
        "class-attribute": (
            stream(build_slots(BAG, __class__=named("argparse.Namespace"))), None),
        "namespace-mapping-setstate": (
            stream(calling("types.SimpleNamespace", dict_of(
                __setstate__=named("torch.storage._load_from_bytes"))) + raw(PAYLOAD_2) + b"b"),
            None),
        "namespace-mapping-append": (
            stream(calling("types.SimpleNamespace", dict_of(
                append=named("torch.storage._load_from_bytes"))) + raw(PAYLOAD_2) + b"a"), None),
        "file-state-setstate": (
            stream(calling("_io.BytesIO") + tuple_of(raw(b"x"), 0, dict_of(
                __setstate__=SYSTEM)) + b"b" + called + b"b"), ""),
        "module-getattr": (
            stream(new(named("torch.nn.modules.linear.Linear")) + dict_of(_modules=dict_of(
                append=SYSTEM), _parameters=b"}", _buffers=b"}") + b"b" + called + b"a"), None),
        "build-partial": (
            stream(result(calling("functools.partial", named("builtins.print")) + tuple_of(
                SYSTEM, tuple_of(COMMAND), b"}", b"}") + b"b")), ""),
        "build-reduce": (
            stream(calling("ftplib.FTP") + dict_of(host=text("x")) + b"b"), None),
    }  # fmt: skip


def of_torch_and_numpy() -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """Allowed names that are given what is not; and torch's own weights_only."""
    again = "torch._tensor._rebuild_from_type_v2"
    storage = tuple_of("storage", named("torch.FloatStorage"), "0", "cpu", 4) + b"Q"
    tensor = calling("torch._utils._rebuild_tensor_v2", storage, 0, (2, 2), (2, 1), False,
                     calling("collections.OrderedDict"))  # fmt: skip
    return {
        "from-type-v2": (stream(calling(again, SYSTEM, named("torch.Tensor"),
                                        tuple_of(COMMAND), b"}")), TORCH),
        "from-type": (stream(calling("torch._tensor._rebuild_from_type", SYSTEM,
                                     named("torch.Tensor"), tuple_of(COMMAND), b"}")), TORCH),
        "from-type-nested": (stream(calling(again, named(again), named("torch.Tensor"), tuple_of(
            SYSTEM, named("torch.Tensor"), tuple_of(COMMAND), b"}"), b"}")), TORCH),
        "wrapper-subclass": (stream(calling(
            "torch._utils._rebuild_wrapper_subclass", SYSTEM, None, None, None, None, None,
            None, None)), ()),
        "load-from-bytes": (stream(calling(
            "torch.storage._load_from_bytes", raw(PAYLOAD_2))), TORCH),
        "load-from-bytes-text": (stream(calling("torch.storage._load_from_bytes", calling(
            "_codecs.encode", PAYLOAD_2.decode("latin1"), "latin1"))), TORCH),
        "load-from-computed": (stream(calling("torch.storage._load_from_bytes", calling(
            "builtins.bytes", calling("builtins.list", list(PAYLOAD_2))))), TORCH),
        "load-from-bytes-twice": (stream(calling("torch.storage._load_from_bytes", raw(stream(
            calling("torch.storage._load_from_bytes", raw(PAYLOAD_2)))))), TORCH),
        "load-appended": (START + named("torch.storage._load_from_bytes")
                          + b"\x96" + bytes(8) + b"(" + b"".join(
                              b"K" + bytes([byte]) for byte in PAYLOAD_2) + b"e\x85R.", TORCH),
        "module-class": (stream(build_slots(
            named("torch.nn.modules.module.Module"), __setstate__=SYSTEM)), ()),
        "module-hook": (stream(new(named("torch.nn.modules.linear.Linear")) + dict_of(
            _forward_hooks=b"}K\x00" + SYSTEM + b"s") + b"b"), ()),
        "registry": (stream(named("torch.serialization._package_registry") + SYSTEM + b"a"), ()),
        "dotted-torch": (stream(calling("torch.serialization:os.system", COMMAND)), TORCH),
        "dotted-torch-nn": (stream(calling("torch.nn.modules:module.warnings.sys.exit")), ()),
        "dotted-own-class": (stream(calling("models.yolo:os.system", COMMAND)), ()),
        "tensor-setitem": (stream(tensor + value(0) + value(1) + b"s"), ()),
        "tensor-setitems": (stream(tensor + b"(" + value(0) + value(1) + b"u"), ()),
        "tensor-append": (stream(tensor + value(0) + b"a"), ()),
        "storage-append": (stream(storage + value(0) + b"a"), ()),
        "size-setitem": (stream(calling("torch.Size", [1]) + value(0) + value(1) + b"s"), ()),
        "numpy-builtins": (stream(result(calling("builtins:dict.get", named(
            "numpy:__builtins__"), "eval"), CODE)), NUMPY),
        "numpy-prod": (START + named("numpy.prod") + b"N}" + text("a") + text("posix") + b"s"
                       + b"\x86b0" + named("numpy.prod") + b"N}" + text("b") + text("system")
                       + b"s\x86b0" + named("numpy:prod.a") + named("numpy:prod.b") + b"\x93"
                       + text(COMMAND) + b"\x85R.", NUMPY),
        "numpy-prod-modules": (stream(
            named("numpy.prod") + b"N"
            + named("numpy:_core._internal.sys.modules") + b"\x86b",
            calling("numpy:prod.posix.system", COMMAND)), NUMPY),
        "numpy-size": (START + named("numpy.size") + put(1) + b"0" + named("numpy:__builtins__")
                       + put(3) + b"0" + get(1) + b"}}" + text("shape") + get(3) + b"s\x86b0"
                       + result(calling("numpy:size.shape.get", "eval"), CODE) + b".", NUMPY),
        "numpy-generator": (stream(calling(
            "numpy.random._pickle.__generator_ctor", COMMAND, SYSTEM)), NUMPY),
        "numpy-bit-generator": (stream(calling(
            "numpy.random._pickle.__bit_generator_ctor", named("posix.getpid"))), ()),
        "numpy-reconstruct": (stream(calling(
            "numpy._core.multiarray._reconstruct", named("subprocess.Popen"), (0,), "b")), ()),
        "numpy-object-array": (stream(calling(
            "numpy._core.multiarray._reconstruct", named("numpy.ndarray"), tuple_of(0),
            raw(b"b")) + tuple_of(1, (1,), calling("numpy.dtype", "O8", False, True), False,
                                     b"](" + BAD + b"e") + b"b"), NUMPY),
        "numpy-masked": (stream(calling(
            "numpy.ma.core._mareconstruct", named("subprocess.Popen"), SYSTEM, (0,), "b")), ()),
    }  # fmt: skip


def imports() -> dict[str, tuple[bytes, str]]:
    """Names whose import alone acts, or that only wait to be called."""
    return {
        "antigravity": (stream(named("antigravity.geohash")), "dangerous"),
        "this": (stream(named("this.s")), "unknown"),
        "main": (stream(named("pip.__main__.x")), "dangerous"),
        "idle": (stream(named("idlelib.idle.x")), "unknown"),
        "kept-system": (stream(dict_of(forward=SYSTEM)), "dangerous"),
        "kept-partial": (
            stream(dict_of(f=calling("functools.partial", SYSTEM, COMMAND))), "dangerous"),
        "kept-eval": (stream(dict_of(f=EVAL)), "unknown"),
        "kept-factory": (
            stream(calling("collections.defaultdict", SYSTEM)), "dangerous"),
        "kept-extension": (stream(b"\x82\x05" + text(COMMAND) + b"\x85R"), "unknown"),
    }  # fmt: skip
