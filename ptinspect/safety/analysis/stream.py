"""The verdict on one pickle stream, from the machine's record of its run.

Every import, call and change is judged in the order of the stream, including those before an
error. A walk over the resulting value would miss what was popped or overwritten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.pickling.pyobjects import RECONSTRUCTORS
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
from ptinspect.safety.analysis.call_rules import (
    ALIASING,
    MAX_DEPTH,
    VIEW_FUNCTIONS,
    Judgement,
    is_special,
    required_numel,
    resolve_callable,
    view_exceeds_storage,
)
from ptinspect.safety.analysis.calls import (
    RUNS_SOURCE,
    call_repr,
    is_own_object,
    judge_call,
    judge_import,
    overridden_mapping_method,
    quick_shapes,
    runs_source,
    value_repr,
)
from ptinspect.safety.analysis.numpy_dtypes import (
    NUMPY_DTYPE,
    builds_dtype,
    invalid_dtype_reason,
    memory_interface_attribute,
)
from ptinspect.safety.analysis.shapes import Shapes, describe, parse_shapes
from ptinspect.safety.policy import is_plain_class, is_stdlib, load_policy
from ptinspect.safety.report import CLEAN, DANGEROUS, UNKNOWN, Finding
from ptinspect.safety.scan_state import FindingCollector

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ptinspect.pickling.state import Event, Recorder

_CALL_OPCODES = frozenset(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"))
_IMPORT_OPCODES = frozenset(("GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"))

# The methods that an opcode calls on its target, and that an attribute of the same name replaces.
# Source: CPython's _pickle.c: do_append, load_additems, load_build.
_METHODS_CALLED_BY = {
    "APPEND": ("append",),
    "APPENDS": ("extend", "append"),
    "ADDITEMS": ("add",),
    "BUILD": ("__setstate__",),
}
_WATCHED_ATTRIBUTES = frozenset(name for names in _METHODS_CALLED_BY.values() for name in names)

# Callables that return something that may not belong to the file.
_RETURNS_FOREIGN = frozenset(("builtins.getattr", *ALIASING))

_SHAPE_LETTERS = {"REDUCE": "R", "NEWOBJ": "N"}
_LOAD_FROM_BYTES = "torch.storage._load_from_bytes"

_WIDE = 64
"""Items, or characters, up to which a value is examined each time that it occurs."""

_MAX_SHARED_FIELDS = 8
"""numpy dtypes that may share one wide table of fields."""

_SIZED = (str, bytes, tuple, list, dict)


def _has_computed_key(attributes: dict[Value, Value]) -> bool:
    """Return True if a key is the result of a call, which can be any string."""
    only_strings = set(map(type, attributes)) <= {str}
    return not only_strings and any(isinstance(key_value(key), Inert) for key in attributes)


def _states_set_by_call(func: Value, args: tuple[Value, ...]) -> list[Value]:
    """Return the states that a call passes to torch._utils._set_obj_state.

    `_rebuild_from_type_v2` may call a function that sets attributes in its turn.
    """
    states: list[Value] = []
    for _ in range(MAX_DEPTH):
        if not isinstance(func, Global) or len(args) < 3:
            break
        rebuilds_from_type = func.name.startswith("_rebuild_from_type")
        if not rebuilds_from_type and func.name != "_rebuild_parameter_with_state":
            break
        states.extend(args[3:4])
        if not rebuilds_from_type or not isinstance(args[2], tuple):
            break
        func, args = resolve_callable(args[0]), args[2]
    return states


class StreamJudge:
    """Judges one stream.

    A wide value is examined once, by its identity: a stream can hand the same one to each of a
    million opcodes. Values live as long as the recorder, so that their ids stay unique.

    Args:
        record: name of the record, for findings.
        shift: subtracted from offsets, so that they count in that record.

    Attributes:
        findings: what is unknown or dangerous.
        payloads: (offset, bytes) that loading would load as a file; see `Judgement`.
        weights_only_blockers: classes whose instances weights_only refuses to fill.
    """

    def __init__(self, record: str | None, shift: int = 0) -> None:
        self.record = record
        self.shift = shift
        self.findings = FindingCollector()
        self.payloads: list[tuple[int, bytes | Blob | str]] = []
        self.weights_only_blockers: set[str] = set()
        self._quick_shapes: dict[Value, Shapes] = {}
        self._wide_calls: dict[tuple[object, ...], Judgement] = {}
        self._wide_states: dict[int, dict[str, Value]] = {}
        self._wide_computed: dict[int, bool] = {}
        self._seen_wide: set[tuple[str, int]] = set()
        self._field_tables: dict[int, int] = {}
        self._attributes: dict[Value, dict[str, Value]] = {}
        self._loaders: dict[Global, Event] = {}
        self._loader_calls: dict[Global, int] = {}
        self._frame_end = 0

    def judge(self, recorder: Recorder) -> None:
        """Add what the run did to `findings` and `payloads`.

        States are set again one after the other: each call sees those that BUILD has set before.
        """
        for event in recorder.events:
            if event.opcode == "BUILD" and isinstance(event.target, Inert):
                event.target.change().states.clear()
        for event in recorder.events:
            if event.opcode == "BUILD" and isinstance(event.target, Inert):
                event.target.change().states.append(event.argument)
            if event.opcode in _CALL_OPCODES:
                self._judge_call(event)
            elif event.opcode in _IMPORT_OPCODES:
                self._judge_import(event)
            elif event.opcode == "FRAME":
                # CPython's C unpickler reads past the end of a frame; pickle.py does not.
                if event.offset < self._frame_end:
                    reason = "a frame begins inside another one: readers disagree about its content"
                    self._add(event, DANGEROUS, "frame", reason)
                assert isinstance(event.target, int)
                self._frame_end = event.target
            else:
                self._judge_change(event)
        self._judge_storages(recorder.persistent)
        for name, event in self._loaders.items():
            if name.uses > self._loader_calls.get(name, 0):
                reason = "is stored as a value, and may later be called with bytes from elsewhere"
                self._add(event, UNKNOWN, f"{_LOAD_FROM_BYTES} as a value", reason)

    def _add(
        self, event: Event, verdict: str, name: str, reason: str, call: str | None = None
    ) -> None:
        offset = event.offset - self.shift
        self.findings.add(Finding(name, verdict, reason, self.record, offset, event.opcode, call))

    def _first_sight(self, purpose: str, value: Collection[Value]) -> Collection[Value]:
        """Return the items of a value; none of them if it is wide and was examined before."""
        if len(value) <= _WIDE:
            return value
        if (purpose, id(value)) in self._seen_wide:
            return ()
        self._seen_wide.add((purpose, id(value)))
        return value

    def _parts(self, purpose: str, state: Value) -> Iterable[Value]:
        """Return the parts of a state: a pair of dictionaries, or the state itself."""
        return self._first_sight(purpose, state) if isinstance(state, tuple) else (state,)

    # --- imports --------------------------------------------------------------------------

    def _judge_import(self, event: Event) -> None:
        name = event.target
        judgement = judge_import(name)
        if judgement.verdict != CLEAN:
            self._add(event, judgement.verdict, judgement.name, judgement.reason)
        if isinstance(name, Global) and name.path == _LOAD_FROM_BYTES:
            self._loaders.setdefault(name, event)

    # --- calls ----------------------------------------------------------------------------

    def _judge_call(self, event: Event) -> None:
        call = event.target
        assert isinstance(call, Call)
        func, args = call.func, call.args
        if func in self._quick_shapes and not call.kwargs and len(args) < _WIDE:
            letter = _SHAPE_LETTERS.get(call.opcode, "")
            if self._quick_shapes[func].find_call(args, letter) is not None:
                return
        judgement = self._cached_judgement(func, call)
        if isinstance(func, Global) and func in self._loaders:
            self._loader_calls[func] = self._loader_calls.get(func, 0) + 1
        if judgement.payload is not None:
            self.payloads.append((event.offset - self.shift, judgement.payload))
        if judgement.verdict != CLEAN:
            if not self.findings.count_repeated_call(
                judgement.name, self.record, event.opcode, judgement.verdict
            ):
                text = call_repr(func, args)
                self._add(event, judgement.verdict, judgement.name, judgement.reason, text)
        elif isinstance(func, Global) and func not in self._quick_shapes:
            self._quick_shapes[func] = quick_shapes(func.module, func.name)
        is_view = isinstance(func, Global) and func.path in VIEW_FUNCTIONS
        if is_view and view_exceeds_storage(args):
            self._add_view_finding(event.offset)
        target = resolve_callable(func)
        if isinstance(target, Global):
            self._judge_attributes_set_by_call(event, target, call)

    def _cached_judgement(self, func: Value, call: Call) -> Judgement:
        args = call.args
        examined: tuple[Value, ...] = args if len(args) <= _WIDE else (args,)
        if not any(isinstance(item, _SIZED) and len(item) > _WIDE for item in examined):
            return judge_call(func, args, call.opcode, keywords=call.kwargs)
        key = (id(func), call.opcode, *map(id, examined))
        if key not in self._wide_calls:
            self._wide_calls[key] = judge_call(func, args, call.opcode, keywords=call.kwargs)
        return self._wide_calls[key]

    def _judge_attributes_set_by_call(self, event: Event, func: Global, call: Call) -> None:
        """Judge the attributes that an allowed call sets on its result, without BUILD."""
        if func.path == "types.SimpleNamespace":
            self._watch_attributes(call, call.args)  # Python 3.13: a mapping, or pairs
            self._judge_memory_attributes(event, call.args)
            if any(not isinstance(part, dict) for part in call.args):
                reason = "sets attributes from something other than a dictionary"
                self._add(event, UNKNOWN, func.path, reason)
        if not func.name.startswith("_rebuild_"):
            return
        for state in _states_set_by_call(func, call.args):
            self._watch_attributes(call, state)
            for part in self._parts("call", state):
                if isinstance(part, Call) or (isinstance(part, dict) and self._is_computed(part)):
                    reason = "sets attributes whose names a call computes"
                    self._add(event, UNKNOWN, func.path, reason)
                for name in self._first_sight("call", part) if isinstance(part, dict) else ():
                    if isinstance(name, str) and (name in _WATCHED_ATTRIBUTES or is_special(name)):
                        self._add(event, DANGEROUS, func.path, f"sets {name} of an object")

    # --- changes --------------------------------------------------------------------------

    def _judge_change(self, event: Event) -> None:
        target, state = event.target, event.argument
        if isinstance(target, dict | list):
            reason = "an item is set again: what reads it in between sees another one"
            self._add(event, UNKNOWN, "item", reason)
            return
        attributes = self._attributes.get(target) if self._attributes else None
        for method in _METHODS_CALLED_BY.get(event.opcode, ()) if attributes else ():
            if attributes and method in attributes:
                self._judge_replaced_method(event, method, attributes[method])
                return
        if isinstance(target, Global | Extension | PersistentId):
            name = target.path if isinstance(target, Global) else value_repr(target)
            reason = "is changed, and does not belong to the file"
            self._add(event, DANGEROUS, name, reason)
        elif isinstance(target, Call):
            self._judge_changed_object(event, target)
        if event.opcode == "BUILD":
            self._watch_attributes(target, state)
            self._judge_slots(event)
            method_name = overridden_mapping_method(state)
            if method_name is not None:
                reason = "is called to set the state, and the file has replaced it"
                self._add(event, DANGEROUS, f"{method_name}()", reason)
            self._judge_memory_attributes(event, state)

    def _judge_changed_object(self, event: Event, call: Call) -> None:
        func = resolve_callable(call.func)
        if isinstance(func, Extension):
            return
        if isinstance(func, Call) and getattr(func.func, "path", None) == "functools.partial":
            self._judge_changed_partial_result(event, func)
            return
        if event.opcode == "BUILD" and is_own_object(func):
            return
        if not isinstance(func, Global) or func.path in _RETURNS_FOREIGN:
            name = func.path if isinstance(func, Global) else "call"
            self._add(event, DANGEROUS, name, "changes an object that a call returned")
            return
        if event.opcode == "BUILD" and builds_dtype(call):
            self._judge_dtype(event, call)
        if func.path in RECONSTRUCTORS and call.args:
            cls = resolve_callable(call.args[0])
            if not isinstance(cls, Global):
                return  # an own class within another object
            func = cls
        row = load_policy().row(func.module, func.name)
        is_listed = row is not None and row.verdict in ("allowed", "module")
        shapes = parse_shapes(row.shapes if row else "")
        if event.opcode == "BUILD":
            if isinstance(event.argument, tuple) and view_exceeds_storage(event.argument):
                self._add_view_finding(event.offset)
            if is_listed and not shapes.has_state(event.argument):
                kind = describe((event.argument,))
                self._add(event, UNKNOWN, func.path, f"BUILD with {kind}: no writer builds it so")
            return
        if event.opcode[:7] != "SETITEM" or func.name not in ("OrderedDict", "Counter"):
            self.weights_only_blockers.add(func.path)
        if event.opcode in shapes.fills:
            return
        if runs_source(func, event.argument):
            self._add(event, DANGEROUS, func.path, RUNS_SOURCE)
        is_plain = is_plain_class(func.module, func.name, creates=True)
        if is_listed or (is_stdlib(func.module) and (row is not None or not is_plain)):
            reason = f"{event.opcode} does not apply to an object of {func.path}"
            self._add(event, DANGEROUS, func.path, reason)

    def _judge_changed_partial_result(self, event: Event, partial: Call) -> None:
        """The result of a partial has the attributes that the partial passes by name."""
        state = partial.state
        keywords = state[2] if isinstance(state, tuple) and len(state) > 2 else None
        attributes = keywords if isinstance(keywords, dict) else {}
        if event.opcode != "BUILD" or self._watched_attributes(attributes):
            reason = "changes an object that a call returned"
            self._add(event, DANGEROUS, "functools.partial", reason)

    def _judge_dtype(self, event: Event, dtype: Call) -> None:
        # Copies of a dtype share their table of fields, and each of them is checked against it.
        for part in dtype.state if isinstance(dtype.state, tuple) else ():
            if isinstance(part, tuple | list | dict) and len(part) > _WIDE:
                self._field_tables[id(part)] = self._field_tables.get(id(part), 0) + 1
                if self._field_tables[id(part)] > _MAX_SHARED_FIELDS:
                    reason = "too many dtypes share one table of fields"
                    self._add(event, UNKNOWN, NUMPY_DTYPE, reason)
                    return
        invalid = invalid_dtype_reason(dtype)
        if invalid is not None:
            self._add(event, DANGEROUS, NUMPY_DTYPE, invalid)

    def _judge_replaced_method(self, event: Event, method: str, replacement: Value) -> None:
        """Judge the call of an attribute that the file has put in a method's place."""
        args = tuple(event.argument) if isinstance(event.argument, list) else (event.argument,)
        if event.opcode == "BUILD":
            args = (event.argument,)
        judgement = judge_call(replacement, args, "REDUCE")
        name, reason = judgement.name, judgement.reason
        if judgement.verdict != DANGEROUS:
            name = value_repr(replacement)
            reason = f"replaces the method {method}, which {event.opcode} calls"
        self._add(event, DANGEROUS, name, reason, call_repr(replacement, args))

    # --- attributes -----------------------------------------------------------------------

    def _watch_attributes(self, target: Value, state: Value) -> None:
        """Remember the attributes of an object that an opcode would call as its methods."""
        watched = self._watched_attributes(state)
        if watched:
            self._attributes.setdefault(target, {}).update(watched)

    def _watched_attributes(self, state: Value) -> dict[str, Value]:
        """Return the watched attributes in a state: a dictionary, or a pair of dictionaries."""
        is_wide = isinstance(state, tuple | dict) and len(state) > _WIDE
        if is_wide and id(state) in self._wide_states:
            return self._wide_states[id(state)]
        watched: dict[str, Value] = {}
        if isinstance(state, tuple):
            for part in state:
                if isinstance(part, dict | list | Call):
                    watched.update(self._watched_attributes(part))
        elif isinstance(state, dict) and not self._is_computed(state):
            watched = {name: state[name] for name in _WATCHED_ATTRIBUTES if name in state}
        elif isinstance(state, dict | list | Call):
            watched = dict.fromkeys(_WATCHED_ATTRIBUTES, state)  # it may set any of them
        if is_wide:
            self._wide_states[id(state)] = watched
        return watched

    def _is_computed(self, attributes: dict[Value, Value]) -> bool:
        if len(attributes) <= _WIDE:
            return _has_computed_key(attributes)
        if id(attributes) not in self._wide_computed:
            self._wide_computed[id(attributes)] = _has_computed_key(attributes)
        return self._wide_computed[id(attributes)]

    def _judge_slots(self, event: Event) -> None:
        """Judge the second half of a state: setattr sets it, and can change the class."""
        state = event.argument
        slots = state[1] if isinstance(state, tuple) and len(state) == 2 else None
        for name in self._first_sight("slots", slots) if isinstance(slots, dict) else ():
            if isinstance(name, str) and is_special(name):
                self._add(event, DANGEROUS, name, f"sets {name} of an object")

    def _judge_memory_attributes(self, event: Event, state: Value) -> None:
        """Judge attributes by which numpy would read and write memory at any address."""
        for part in self._parts("memory", state):
            name = memory_interface_attribute(part)
            if name is not None:
                reason = f"sets {name}, which gives numpy an address in memory"
                self._add(event, DANGEROUS, name, reason)
            if isinstance(part, dict) and self._is_computed(part):
                reason = "sets attributes whose names a call computes"
                self._add(event, UNKNOWN, "BUILD", reason)

    # --- storages -------------------------------------------------------------------------

    def _add_view_finding(self, offset: int) -> None:
        """CVE-2026-24747 and similar; torch itself refuses such a view."""
        reason = "a tensor extends past the end of its storage"
        offset -= self.shift
        self.findings.add(Finding("tensor", DANGEROUS, reason, self.record, offset, "REDUCE"))

    def _judge_storages(self, persistent: Sequence[PersistentId | TensorCall]) -> None:
        """Report storages with two sizes (CVE-2026-24747: memory behind the smaller is read)."""
        sizes: dict[Value, Value] = {}
        for item in persistent:
            key: Value
            numel: Value
            if isinstance(item, TensorCall):
                key, numel, offset = item.storage_key, item.numel, item.persistent_id_offset
                if required_numel(item.storage_offset, item.size, item.stride) > item.numel:
                    self._add_view_finding(item.offset)
            else:
                fields, offset = item.value, item.offset
                if not isinstance(fields, tuple) or len(fields) < 5 or fields[0] != "storage":
                    continue
                key, numel = fields[2], fields[4]
                if not isinstance(key, str | int):
                    continue
            if sizes.setdefault(key, numel) != numel:
                reason = "a storage is recorded with two sizes"
                offset -= self.shift
                self.findings.add(
                    Finding("storage", DANGEROUS, reason, self.record, offset, "BINPERSID")
                )
