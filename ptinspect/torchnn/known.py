"""Names and calls that stand for values with a text of their own: dtypes, devices, functions,
numpy's scalars."""

from __future__ import annotations

import struct

from ptinspect.dtypes import DTYPES
from ptinspect.pickling.numpy_objects import as_scalar
from ptinspect.pickling.values import Blob, Call, Global, Inert, SetOf, Value

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


def numpy_number(value: Value) -> tuple[str, str] | None:
    """Return `str` and numpy 2's `repr` of a numpy number: ("0.1", "np.float64(0.1)").

    Real models hold them where a setting was computed.
    """
    scalar = as_scalar(value)
    if scalar is None or not isinstance(scalar[1], bool | int | float):
        return None
    name, number = scalar[0].rstrip("_"), scalar[1]
    dtype = DTYPES[name]
    is_float = isinstance(number, float) and dtype.letter is not None
    digits = shortest(number, dtype.letter) if is_float and dtype.letter else str(number)
    return str(number), f"np.{name}({digits})"


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
