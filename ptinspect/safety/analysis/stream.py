"""The verdict on one pickle stream, from the machine's own record of what it does: every import,
call and change in the order of the stream, those before an error included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptinspect.pickling.values import (
    Blob,
    Call,
    Extension,
    Global,
    Inert,
    PersistentId,
    TensorCall,
    Value,
    key_value,
)
from ptinspect.safety.analysis.call_repr import call_text, text_of
from ptinspect.safety.analysis.calls import (
    ALIASES,
    DEPTH,
    FINE,
    OK,
    Opinion,
    called,
    imported,
    put_in_state,
    resolved,
)
from ptinspect.safety.analysis.calls import UNKNOWN as LEVEL_UNKNOWN
from ptinspect.safety.analysis.numpy_dtypes import DTYPE, ill_made, lends, makes
from ptinspect.safety.policy.table import is_standard, row_of
from ptinspect.safety.report.findings import DANGEROUS, UNKNOWN, Finding, Findings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ptinspect.pickling.state import Event, Recorder


VIEWS = frozenset(
    (
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    )
)
"""What makes a view of a storage."""

DIMS = 64
"""Dimensions that a tensor may have for torch; it says the rest itself."""

_INTS = frozenset((int,))


def reaches_beyond(args: tuple[Value, ...]) -> bool:
    """Whether a view, (storage, offset, size, stride, …), needs elements that its storage does not
    have. Where that cannot be told, torch tells."""
    stored = args[0].value if args and isinstance(args[0], PersistentId) else None
    if not isinstance(stored, tuple) or len(stored) < 5 or len(args) < 4:
        return False
    numel, (offset, size, stride) = stored[4], args[1:4]
    if isinstance(size, Call) and size.args:
        size = size.args[0]  # torch.Size((2, 2))
    if type(numel) is not int or type(offset) is not int:
        return False
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) > DIMS:
        return False
    stride = stride[: len(size)]
    if not set(map(type, (*size, *stride))) <= _INTS:
        return False
    return extent(offset, size, stride) > numel


def reach(made: TensorCall) -> int:
    """Elements that the storage of a tensor must have, which the machine read in one go."""
    return extent(made.storage_offset, made.size, made.stride)


def extent(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements that the storage of a view must have; 0 for a view of nothing."""
    last = offset
    for length, step in zip(size, stride, strict=False):
        if length == 0:
            return 0
        last += (length - 1) * step
    return last + 1


# ---


CALLS = frozenset(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"))
IMPORTS = frozenset(("GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"))

_METHODS = {
    "APPEND": ("append",),
    "APPENDS": ("extend", "append"),
    "ADDITEMS": ("add",),
    "BUILD": ("__setstate__",),
}
"""What the opcode calls on its target, which an attribute of that name takes the place of
(CPython's _pickle.c: do_append, load_additems, load_build)."""

_WATCHED = frozenset(name for names in _METHODS.values() for name in names)

_FITTING = {
    "SETITEM": (
        "collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.dict"
    ),
    "APPEND": ("collections.deque", "builtins.list", "array.array"),
    "ADDITEMS": ("builtins.set",),
}  # fmt: skip
_FITTING |= {"SETITEMS": _FITTING["SETITEM"], "APPENDS": _FITTING["APPEND"]}
"""Of what is allowed: what the opcode is meant for. On a tensor it would write to memory
(CVE-2026-24747)."""

WIDE = 64
"""Parts, or letters, of a value that is looked at whenever it comes by."""

LOADS = "torch.storage._load_from_bytes"
COPIES = 8
"""Types of elements that may share so many fields."""

_COUNTED = frozenset((str, bytes, tuple, list, dict))

_MAKERS = ("copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__")


_REACHED = frozenset(("builtins.getattr", *ALIASES))
"""What gives something that need not belong to the file."""


def _is_partial(value: Value) -> bool:
    func = value.func if isinstance(value, Call) else None
    return isinstance(func, Global) and func.path == "functools.partial"


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _computed(part: dict[Value, Value]) -> bool:
    """Whether a key is what a call makes, which may be any string."""
    plain = set(map(type, part)) <= {str}
    return not plain and any(isinstance(key_value(key), Inert) for key in part)


def _states(func: Value, args: tuple[Value, ...]) -> list[Value]:
    """What torch._utils._set_obj_state is given by a call: names and values, or a pair of such.
    `_rebuild_from_type_v2` may call what sets attributes in its turn."""
    found: list[Value] = []
    for _ in range(DEPTH):
        if not isinstance(func, Global) or len(args) < 3:
            break
        from_type = func.name.startswith("_rebuild_from_type")
        if not from_type and func.name != "_rebuild_parameter_with_state":
            break
        found.extend(args[3:4])
        if not from_type or not isinstance(args[2], tuple):
            break
        func, args = resolved(args[0]), args[2]
    return found


class Judge:
    """Judges one stream. record: its name in the findings; shift: what is taken from offsets, so
    that they count in that record. inner: what loading would load as a file, and where (see
    `Opinion`).
    unfit: what is filled in a way that weights_only refuses, whatever is allowed."""

    def __init__(self, record: str | None, shift: int = 0) -> None:
        self.record = record
        self.shift = shift
        self.found = Findings()
        self.inner: list[tuple[int, bytes | Blob | str]] = []
        self.unfit: set[str] = set()
        self._plain: set[Global] = set()
        # What is wide is looked at once, by its identity: a stream can hand the same to each of a
        # million opcodes. All of it lives as long as the record of the run.
        self._opinions: dict[tuple[object, ...], Opinion] = {}
        self._watched: dict[int, dict[str, Value]] = {}
        self._named: set[tuple[str, int]] = set()
        self._checked: dict[int, bool] = {}
        self._shared: dict[int, int] = {}
        self._loads: dict[Global, list[Any]] = {}
        self._attributes: dict[Value, dict[str, Value]] = {}
        self._frame = 0

    def judge(self, recorder: Recorder) -> None:
        """Adds what the run did to `found` and `inner`."""
        for event in recorder.events:
            if event.opcode in CALLS:
                self._called(event)
            elif event.opcode in IMPORTS:
                self._imported(event)
            elif event.opcode == "FRAME":
                self._framed(event)
            else:
                self._changed(event)
        self._stored(recorder.persistent)
        self._kept()

    def _imported(self, event: Event) -> None:
        name = event.target
        self._add(imported(name), event)
        if isinstance(name, Global) and name.path == LOADS:
            self._loads.setdefault(name, [event, 0])

    def _kept(self) -> None:
        """What loads bytes is called each time that it is named: kept in an attribute or a
        container it waits to be called with bytes that are not looked at here."""
        for name, (event, calls) in self._loads.items():
            if name.uses > calls:
                why = "is kept, and may be called with bytes that nobody looks at"
                self._add(Opinion(LEVEL_UNKNOWN, f"{LOADS} as a value", why), event)

    # --- calls ----------------------------------------------------------------------------

    def _called(self, event: Event) -> None:
        call = event.target
        assert isinstance(call, Call)
        func = call.func
        if not call.args and func in self._plain:
            return
        opinion = self._opinion(func, call)
        if self._loads and isinstance(func, Global) and func in self._loads:
            self._loads[func][1] += 1
        if opinion.inner is not None:
            self.inner.append((event.offset - self.shift, opinion.inner))
        if opinion.level == OK and not call.args and isinstance(func, Global):
            self._plain.add(func)
        if opinion.level != OK:
            self._add(opinion, event, call_text(func, call.args))
        if isinstance(func, Global) and func.path in VIEWS and reaches_beyond(call.args):
            self._beyond(event.offset)
        if isinstance(func := resolved(func), Global):
            self._set_by_call(event, func, call)

    def _set_by_call(self, event: Event, func: Global, call: Call) -> None:
        """What an allowed call sets as attributes of what it gives, without BUILD."""
        if func.path == "types.SimpleNamespace":
            self._remember(call, call.args)  # Python 3.13: of a mapping, or of pairs
            self._lent(event, call.args)
            if any(not isinstance(part, dict) for part in call.args):
                why = "takes attributes from what is no dictionary"
                self._add(Opinion(LEVEL_UNKNOWN, func.path, why), event)
        for state in _states(func, call.args):
            self._remember(call, state)
            for part in self._unseen("call", state) if isinstance(state, tuple) else (state,):
                if isinstance(part, Call) or (isinstance(part, dict) and self._computed(part)):
                    why = "sets attributes whose names a call makes"
                    self._add(Opinion(LEVEL_UNKNOWN, func.path, why), event)
                for name in self._unseen("call", part) if isinstance(part, dict) else ():
                    if isinstance(name, str) and (name in _WATCHED or _is_special(name)):
                        self._add(Opinion(2, func.path, f"sets {name} of an object"), event)

    def _opinion(self, func: Value, call: Call) -> Opinion:
        args = call.args
        for arg in args if len(args) <= WIDE else (args,):
            if type(arg) in _COUNTED and len(arg) > WIDE:  # type: ignore[arg-type]
                given = map(id, args) if len(args) <= WIDE else (id(args),)
                key = (id(func), call.opcode, *given)
                if key not in self._opinions:
                    self._opinions[key] = called(func, args, call.opcode)
                return self._opinions[key]
        return called(func, args, call.opcode)

    def _unseen(self, what: str, wide: Collection[Value]) -> Collection[Value]:
        """All of it; nothing of what is wide and was asked for the same before."""
        if len(wide) <= WIDE:
            return wide
        if (what, id(wide)) in self._named:
            return ()
        self._named.add((what, id(wide)))
        return wide

    def _add(self, opinion: Opinion, event: Event, call: str | None = None) -> None:
        if opinion.level != OK:
            verdict = UNKNOWN if opinion.level == LEVEL_UNKNOWN else DANGEROUS
            at = event.offset - self.shift
            made = Finding(opinion.name, verdict, opinion.why, self.record, at, event.opcode, call)
            self.found.add(made)

    # --- changes --------------------------------------------------------------------------

    def _changed(self, event: Event) -> None:
        target = event.target
        known = self._attributes.get(target) if self._attributes else None
        for method in _METHODS.get(event.opcode, ()) if known else ():
            if known and method in known:  # whatever it is in the end: it may have been set since
                self._overridden(event, method, known[method])
                return
        if isinstance(target, Global | Extension | PersistentId):
            name = target.path if isinstance(target, Global) else text_of(target)
            self._add(Opinion(2, name, "is changed, and does not belong to the file"), event)
        elif isinstance(target, Call):
            self._changed_object(event, target)
        if event.opcode == "BUILD":
            self._remember(target, event.argument)
            self._slots(event)
            if (taken := put_in_state(event.argument)) is not None:
                why = "is called when the state is set, and the file has put something in its place"
                self._add(Opinion(2, f"{taken}()", why), event)
            self._lent(event, event.argument)

    def _changed_object(self, event: Event, call: Call) -> None:
        func = resolved(call.func)
        if isinstance(func, Extension):
            return
        if _is_partial(func):
            self._of_a_partial(event, func)
            return
        if not isinstance(func, Global) or func.path in _REACHED:
            name = func.path if isinstance(func, Global) else "call"
            self._add(Opinion(2, name, "what a call reached is changed"), event)
            return
        if event.opcode == "BUILD":
            if makes(call):
                self._elements(event, call)
            return
        if func.path in _MAKERS and call.args and isinstance(call.args[0], Global):
            func = call.args[0]
        if event.opcode[:7] != "SETITEM" or func.name not in ("OrderedDict", "Counter"):
            self.unfit.add(func.path)
        if func.path in _FITTING[event.opcode]:
            return
        row = row_of(func)
        if is_standard(func.module) or (row and row.verdict in ("allowed", "module")):
            why = f"{event.opcode} is no opcode for what {func.path} makes"
            self._add(Opinion(2, func.path, why), event)

    def _of_a_partial(self, event: Event, partial: Value) -> None:
        """What a partial makes has the attributes that it was given by name."""
        state = partial.state if isinstance(partial, Call) else None
        given = state[2] if isinstance(state, tuple) and len(state) > 2 else None
        named = given if isinstance(given, dict) else {}
        if event.opcode != "BUILD" or self._watched_of(named):
            self._add(Opinion(2, "functools.partial", "what a call reached is changed"), event)

    def _elements(self, event: Event, dtype: Call) -> None:
        """A type of numpy's elements. Of what is wide, the copies of a type share its fields."""
        for part in dtype.state if isinstance(dtype.state, tuple) else ():
            if isinstance(part, tuple | list | dict) and len(part) > WIDE:
                self._shared[id(part)] = self._shared.get(id(part), 0) + 1
                if self._shared[id(part)] > COPIES:
                    many = "so many types of elements share their fields"
                    self._add(Opinion(LEVEL_UNKNOWN, DTYPE, many), event)
                    return
        if why := ill_made(dtype):
            self._add(Opinion(2, DTYPE, why), event)

    def _overridden(self, event: Event, method: str, put: Value) -> None:
        """The opcode calls what the file has put in a method's place."""
        given = event.argument if event.opcode != "BUILD" else [event.argument]
        args = tuple(given) if isinstance(given, list) else (given,)
        opinion = called(put, args, "REDUCE")
        if opinion is FINE or opinion.level < 2:
            path = text_of(put)
            opinion = Opinion(
                2, path, f"stands in the place of {method}, which {event.opcode} calls"
            )
        self._add(opinion, event, call_text(put, args))

    def _remember(self, target: Value, state: Value) -> None:
        """Attributes of an object that an opcode would call as its methods."""
        found = self._watched_of(state)
        if found:
            self._attributes.setdefault(target, {}).update(found)

    def _watched_of(self, state: Value) -> dict[str, Value]:
        """Those among a state: a dictionary, or a pair of such."""
        wide = isinstance(state, tuple | dict) and len(state) > WIDE
        if wide and id(state) in self._watched:
            return self._watched[id(state)]
        found: dict[str, Value] = {}
        if isinstance(state, tuple):
            for part in state:
                if isinstance(part, dict | list | Call):
                    found.update(self._watched_of(part))
        elif isinstance(state, dict) and not self._computed(state):
            found = {name: state[name] for name in _WATCHED if name in state}
        elif isinstance(state, dict | list | Call):
            found = dict.fromkeys(_WATCHED, state)  # it may hold each of them
        if wide:
            self._watched[id(state)] = found
        return found

    def _computed(self, part: dict[Value, Value]) -> bool:
        if len(part) <= WIDE:
            return _computed(part)
        if id(part) not in self._checked:
            self._checked[id(part)] = _computed(part)
        return self._checked[id(part)]

    def _slots(self, event: Event) -> None:
        """The second half of a pair is set by setattr, which can change the class."""
        state = event.argument
        slots = state[1] if isinstance(state, tuple) and len(state) == 2 else None
        if isinstance(slots, dict):
            for name in self._unseen("slots", slots):
                if isinstance(name, str) and _is_special(name):
                    why = f"sets {name} of an object"
                    self._add(Opinion(2, name, why), event)

    def _lent(self, event: Event, state: Value) -> None:
        """Attributes by which numpy would read, and write, memory of the file's choice."""
        for part in self._unseen("lent", state) if isinstance(state, tuple) else (state,):
            if name := lends(part):
                self._add(Opinion(2, name, f"sets {name}, which says where memory lies"), event)
            if isinstance(part, dict) and self._computed(part):
                why = "sets attributes whose names a call makes"
                self._add(Opinion(LEVEL_UNKNOWN, "BUILD", why), event)

    # --- what stands beside ---------------------------------------------------------------

    def _framed(self, event: Event) -> None:
        """CPython's C unpickler reads on where a frame ends; pickle.py and pickletools do not."""
        end = event.target
        assert isinstance(end, int)
        if event.offset < self._frame:
            why = "a frame begins inside another: readers disagree on what it holds"
            self._add(Opinion(2, "frame", why), event)
        self._frame = end

    def _beyond(self, at: int) -> None:
        """CVE-2026-24747 and its like; torch itself refuses such a view."""
        why = "a tensor reaches beyond its storage"
        self.found.add(Finding("tensor", DANGEROUS, why, self.record, at - self.shift, "REDUCE"))

    def _stored(self, persistent: Sequence[PersistentId | TensorCall]) -> None:
        """A storage has one size (CVE-2026-24747: memory beyond it was reached)."""
        sizes: dict[Value, Value] = {}
        for made in persistent:
            if isinstance(made, TensorCall):
                key: Value = made.storage_key
                numel: Value = made.numel
                at = made.persistent_id_offset
            else:
                value, at = made.value, made.offset
                if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage":
                    continue
                key, numel = value[2], value[4]
                if not isinstance(key, str | int):
                    continue
            if isinstance(made, TensorCall) and reach(made) > made.numel:
                self._beyond(made.offset)
            if sizes.setdefault(key, numel) != numel:
                why = "a storage is said to have two sizes"
                at -= self.shift
                self.found.add(Finding("storage", DANGEROUS, why, self.record, at, "BINPERSID"))
