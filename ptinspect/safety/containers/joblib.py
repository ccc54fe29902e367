"""joblib's dumps: behind the wrapper of each array its bytes stand in the middle of the pickle,
and joblib's own unpickler takes them out.

Source: joblib/numpy_pickle.py: `NumpyArrayWrapper.read_array`, `NumpyUnpickler.load_build`. The
wrapper's state has the array's `shape`, `dtype` and, from joblib 1.1 on,
`numpy_array_alignment_bytes`; then one byte says how many of padding follow it. An array of
objects is a pickle of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ptinspect.pickling.state import Recorder
from ptinspect.pickling.values import Call, Global, Value

if TYPE_CHECKING:
    from ptinspect.pickling.state import Machine

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_LETTER = {"?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "l": 8, "L": 8}
_LETTER |= {"q": 8, "Q": 8, "d": 8, "F": 8, "D": 16}


class JoblibRecorder(Recorder):
    """Leaps over the bytes of arrays. objects: reads the pickle at an offset, and returns the
    offset behind it."""

    def __init__(self, objects: Callable[[int], int]) -> None:
        super().__init__()
        self.objects = objects

    def after_build(self, m: Machine, pos: int) -> int:
        """See `Recorder.after_build`."""
        wrapper = m.stack[-1]
        if not isinstance(wrapper, Call) or not isinstance(wrapper.state, dict):
            return pos
        func = wrapper.args[0] if wrapper.args and wrapper.opcode == "REDUCE" else wrapper.func
        if not isinstance(func, Global) or func.path != WRAPPER:
            return pos
        state = wrapper.state
        size = item_size(state.get("dtype"))
        if size is None:
            return self.objects(pos)
        total = size
        shape = state.get("shape")
        for length in shape if isinstance(shape, tuple) else ():
            if type(length) is not int or length < 0:
                raise m.damaged("an array's shape is none")
            total *= length
        if state.get("numpy_array_alignment_bytes") is not None and pos < m.stop:
            pos += 1 + m.data[pos]
        m.check_left(pos, total)
        return pos + total


def item_size(dtype: Value) -> int | None:
    """Bytes of one element; None where they are objects. `numpy.dtype("f8", …)` and its state."""
    if not isinstance(dtype, Call) or not dtype.args or not isinstance(dtype.args[0], str):
        return None
    code = str(dtype.args[0]).lstrip("<>=|")
    state = dtype.state
    if "O" in code:
        return None
    if code[:1] == "V" and isinstance(state, tuple) and len(state) > 4:
        return None if _has_objects(state) else _digits(code[1:])
    if code[:1] in "biufcSVaM" and code[1:].isdigit():
        return _digits(code[1:]) or _of_state(state)
    if code[:1] in "mM":
        return 8
    if code[:1] == "U":
        return 4 * (_digits(code[1:]) or (_of_state(state) or 0) // 4)
    return _LETTER.get(code)


def _digits(text: str) -> int:
    return int(text) if text.isdigit() and len(text) < 10 else 0


def _of_state(state: Value) -> int:
    """The size that the state of a dtype records: (version, order, subdtype, names, fields,
    itemsize, alignment, flags)."""
    size = state[5] if isinstance(state, tuple) and len(state) > 5 else 0
    return size if type(size) is int and size > 0 else 0


def _has_objects(state: tuple[Value, ...]) -> bool:
    """flags & NPY_ITEM_HASOBJECT (1)."""
    flags = state[7] if len(state) > 7 else 0
    return isinstance(flags, int) and bool(flags & 1)
