"""Names and calls that stand for values with a text of their own: dtypes, devices, functions,
numpy's scalars."""

from __future__ import annotations

import struct

from ptinspect.pickling.values import Blob, Call, Global, Inert, SetOf, Value

DTYPES = frozenset(
    (  # noqa: SIM905
        "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 bfloat16 "
        "complex32 complex64 complex128 qint8 quint8 qint32 quint4x2 quint2x4 float8_e4m3fn "
        "float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 "
        "bits1x8 bits2x4 bits4x2 bits8 bits16 int1 int2 int3 int4 int5 int6 int7 "
        "uint1 uint2 uint3 uint4 uint5 uint6 uint7"
    ).split()
)
QSCHEMES = frozenset(
    (  # noqa: SIM905
        "per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric "
        "per_channel_affine_float_qparams"
    ).split()
)
TYPES = frozenset(
    (  # noqa: SIM905
        "bool bytearray bytes complex dict float frozenset int list object range set slice str "
        "tuple type"
    ).split()
)
LONGEST = 2_000  # bytes that are looked at, of what is written whole
NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def global_text(value: Global) -> str:
    """A dtype, a class, a function, as far as the name tells which it is."""
    module, name = value.module, value.name
    if module == "torch" and (name in DTYPES or name in QSCHEMES):
        return f"torch.{name}"
    last = name.rpartition(".")[2]
    if module == "builtins":
        a_class = name in TYPES or last[:1].isupper()
        return f"<class '{name}'>" if a_class else f"<built-in function {name}>"
    if last.lstrip("_")[:1].isupper():
        return f"<class '{value.path}'>"
    built_in = module == "math" or module.startswith("torch._C")
    return f"<built-in function {last}>" if built_in else f"<function {name}>"


def device_parts(value: Call) -> list[str]:
    """`torch.device("cuda", 0)`: type and, where given, index; empty for all else."""
    if not isinstance(value.func, Global) or value.func.path != "torch.device":
        return []
    first, *rest = value.args or (None,)
    if not isinstance(first, str) or not all(isinstance(i, int) and i < 1 << 31 for i in rest):
        return []
    return [*first.split(":"), *map(str, rest)][:2]


def known_call(value: Call) -> str | None:
    """Objects whose call torch or Python writes for something with a text of its own."""
    path = value.func.path if isinstance(value.func, Global) else ""
    args = value.args
    if device := device_parts(value):
        index = "".join(f", index={part}" for part in device[1:])
        return f"device(type={device[0]!r}{index})"
    if path == "torch.serialization._get_layout" and args and isinstance(args[0], str):
        return str(args[0])
    if path == "builtins.complex" and len(args) == 2:
        real, imaginary = args
        if isinstance(real, float) and isinstance(imaginary, float):
            return repr(complex(real, imaginary))
    if path == "builtins.bytearray" and args and isinstance(args[0], bytes):
        return repr(bytearray(args[0][:LONGEST]))
    if path == "builtins.getattr" and len(args) == 2 and isinstance(args[1], str):
        return f"<built-in method {args[1][:LONGEST]}>"
    if path == "functools.partial" and args and isinstance(args[0], Global):
        return f"functools.partial({global_text(args[0])})"
    return None


def numpy_number(value: Call) -> tuple[str, str] | None:
    """What f-strings and what `repr` (numpy 2) make of a numpy scalar (`scalar(dtype, bytes)`),
    which real models hold where a setting was computed: ("0.1", "np.float64(0.1)")."""
    func, args = value.func, value.args
    if not isinstance(func, Global) or func.path not in NUMPY_SCALARS or len(args) != 2:
        return None
    dtype, raw = args[0], latin1_bytes(args[1])
    if not isinstance(dtype, Call) or not dtype.args or raw is None:
        return None
    kind, state = dtype.args[0], dtype.state
    name, code = _NUMPY.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
    if not code or len(raw) != struct.calcsize(code):
        return None
    order = ">" if isinstance(state, tuple) and state[1:2] == (">",) else "<"
    number = struct.unpack(order + code, raw)[0]
    digits = shortest(number, code) if code in "ef" else str(number)
    return str(number), f"np.{name}({digits})"


def latin1_bytes(value: Value) -> bytes | None:
    """Bytes, which protocols 0 to 2 write as `_codecs.encode(text, "latin1")`."""
    if isinstance(value, Call) and isinstance(value.func, Global) and value.args:
        text = value.args[0]
        encoded = (
            value.func.path == "_codecs.encode" and isinstance(text, str) and len(text) < LONGEST
        )
        return str(text).encode("latin1", "replace") if encoded else None
    return value if isinstance(value, bytes) else None


_NUMPY = {
    "f8": ("float64", "d"),
    "f4": ("float32", "f"),
    "f2": ("float16", "e"),
    "i8": ("int64", "q"),
    "i4": ("int32", "i"),
    "i2": ("int16", "h"),
    "i1": ("int8", "b"),
    "u8": ("uint64", "Q"),
    "u4": ("uint32", "I"),
    "u2": ("uint16", "H"),
    "u1": ("uint8", "B"),
    "b1": ("bool", "?"),
}


def shortest(number: float, code: str) -> str:
    """The shortest digits that give the same float16 or float32 again, as numpy prints them."""
    for digits in range(1, 10):
        text = f"{number:.{digits}g}"
        if struct.pack(code, float(text)) == struct.pack(code, number):
            return repr(float(text))
    return repr(number)  # nan


def type_name(value: Value) -> str:
    """`type(value).__name__` of what the value stands for."""
    if isinstance(value, SetOf):
        return "frozenset" if value.frozen else "set"
    if isinstance(value, Blob):
        return "bytearray" if value.mutable else "bytes"
    if isinstance(value, Global):
        text = global_text(value)
        if text.startswith("torch."):
            return "qscheme" if value.name in QSCHEMES else "dtype"
        if text.startswith("<class"):
            return "type"
        return "function" if text.startswith("<function") else "builtin_function_or_method"
    if isinstance(value, Call) and isinstance(value.func, Global):
        number = numpy_number(value)
        name = number[1][3:].partition("(")[0] if number else value.func.name
        return name.rpartition(".")[2]
    if isinstance(value, Inert):
        return "object"
    return "str" if isinstance(value, str) else type(value).__name__
