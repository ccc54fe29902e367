"""The verdict on one pickle stream, from the machine's record of its run.

Every import, call and change is judged in the order of the stream, including those before an
error. A walk over the resulting value would miss what was popped or overwritten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.pickling import numpy_objects
from ptinspect.pickling.pyobjects import RECONSTRUCTORS
from ptinspect.pickling.source_text import call_repr, describe, value_repr
from ptinspect.pickling.state import Event
from ptinspect.pickling.values import Blob, Call, Extension, Global, Inert, PersistentId, key_value
from ptinspect.safety import calls, values
from ptinspect.safety.policy import (
    is_listed,
    is_plain_class,
    is_special,
    is_stdlib,
    listed_words,
    load_policy,
)
from ptinspect.safety.report import CLEAN, DANGEROUS, UNKNOWN, Finding
from ptinspect.safety.scan_state import FindingCollector
from ptinspect.safety.shapes import Shapes, parse_shapes
from ptinspect.text import is_outside

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, TypeVar

    from ptinspect.pickling.state import Recorder
    from ptinspect.pickling.values import Value

    Result = TypeVar("Result")
    Items = TypeVar("Items", bound=Collection[Value])

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

_RETURNS_FOREIGN = listed_words("returns foreign")
_MEMORY_INTERFACES = listed_words("memory interfaces")
_NOTABLE_ATTRIBUTES = _WATCHED_ATTRIBUTES.union(_MEMORY_INTERFACES)
_LOAD_FROM_BYTES = "torch.storage._load_from_bytes"

_WIDE = 64  # items, or characters, up to which a value is examined each time that it occurs
_MAX_SHARED_FIELDS = 8  # numpy dtypes that may share one wide table of fields
_SIZED = (str, bytes, tuple, list, dict)


def _has_computed_key(attributes: dict[Value, Value]) -> bool:
    """Return True if a key is the result of a call, which can be any string."""
    only_strings = set(map(type, attributes)) <= {str}
    return not only_strings and any(isinstance(key_value(key), Inert) for key in attributes)


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
        sparse: the calls that make sparse and nested tensors.
        texts: (offset, text) of each `_codecs.encode(text, …)`, as protocols 0 to 2 write bytes.
        weights_only_blockers: classes whose instances weights_only refuses to fill.
    """

    def __init__(self, record: str | None, shift: int = 0) -> None:
        self.record = record
        self.shift = shift
        self.findings = FindingCollector()
        self.payloads: list[tuple[int, bytes | Blob | str]] = []
        self.sparse: list[Call] = []
        self.texts: list[tuple[int, str]] = []
        self.weights_only_blockers: set[str] = set()
        self._quick_shapes: dict[Global, Shapes] = {}
        self._clean: set[tuple[Value, str]] = set()
        self._wide: dict[tuple[object, ...], Any] = {}
        self._attributes: dict[Value, dict[str, Value]] = {}
        self._loaders: dict[Global, Event] = {}
        self._loader_calls: dict[Global, int] = {}

    def judge(self, recorder: Recorder) -> None:
        """Add what the run did to `findings` and `payloads`.

        States are set again one after the other: each call sees those that BUILD has set before.
        """
        for event in recorder.events:
            if event.opcode == "BUILD" and isinstance(event.target, Inert):
                event.target.change().states.clear()
        frame_end = 0
        for event in recorder.events:
            opcode = event.opcode
            if opcode in _CALL_OPCODES:
                self._judge_call(event)
            elif opcode in _IMPORT_OPCODES:
                name = event.target
                judgement = calls.judge_import(name)
                if judgement.verdict != CLEAN:
                    self._add(event, judgement.verdict, judgement.name, judgement.reason)
                if isinstance(name, Global) and name.path == _LOAD_FROM_BYTES:
                    self._loaders.setdefault(name, event)
            elif opcode == "FRAME":  # C's unpickler reads past the end of a frame, pickle.py not
                if event.offset < frame_end:
                    reason = "a frame begins inside another one: readers disagree about its content"
                    self._add(event, DANGEROUS, "frame", reason)
                assert isinstance(event.target, int)
                frame_end = event.target
            else:
                if opcode == "BUILD" and isinstance(event.target, Inert):
                    event.target.change().states.append(event.argument)
                self._judge_change(event)
        for storage, offset, reason in numpy_objects.conflicting_storages(recorder.persistent):
            opcode = "REDUCE" if storage == "tensor" else "BINPERSID"
            self._add(Event(offset, opcode, None), DANGEROUS, storage, reason)
        for loader, event in self._loaders.items():
            if loader.uses > self._loader_calls.get(loader, 0):
                reason = "is stored as a value, and may later be called with bytes from elsewhere"
                self._add(event, UNKNOWN, f"{_LOAD_FROM_BYTES} as a value", reason)

    def _add(
        self, event: Event, verdict: str, name: str, reason: str, call: str | None = None
    ) -> None:
        offset = event.offset - self.shift
        self.findings.add(Finding(name, verdict, reason, self.record, offset, event.opcode, call))

    def _first_sight(self, purpose: str, value: Collection[Value]) -> Collection[Value]:
        """Return the items of a value; none of them if it is wide and was examined before."""
        if len(value) > _WIDE:
            if (purpose, id(value)) in self._wide:
                return ()
            self._wide[purpose, id(value)] = True
        return value

    # --- calls ----------------------------------------------------------------------------

    def _judge_call(self, event: Event) -> None:
        call = event.target
        assert isinstance(call, Call)
        func, args = call.func, call.args
        if not args and (func, call.opcode) in self._clean:
            return
        if isinstance(func, Global):
            if func.path in numpy_objects.VIEW_FUNCTIONS:
                if numpy_objects.view_exceeds_storage(args):
                    self._add(event, DANGEROUS, "tensor", numpy_objects.EXCEEDS_STORAGE)
            elif func.module.startswith("torch.") and values.has_indices(func, args):
                self.sparse.append(call)
            if not call.kwargs and len(args) <= _WIDE:
                shapes = self._quick_shapes.get(func)
                if shapes is None:
                    shapes = self._quick_shapes[func] = calls.quick_shapes(func.module, func.name)
                if shapes.find_call(args, calls.SHAPE_LETTERS.get(call.opcode, "")) is not None:
                    if not args:
                        self._clean.add((func, call.opcode))
                    return
            if func.path == "_codecs.encode" and args and isinstance(args[0], str):
                self.texts.append((event.offset - self.shift, args[0]))

        def judge() -> calls.Judgement:
            return calls.judge_call(func, args, call.opcode, keywords=call.kwargs)

        examined: tuple[Value, ...] = args if len(args) <= _WIDE else (args,)
        if any(isinstance(item, _SIZED) and len(item) > _WIDE for item in examined):
            judgement = self._remembered((id(func), call.opcode, *map(id, examined)), judge)
        else:
            judgement = judge()
        if isinstance(func, Global) and func in self._loaders:
            self._loader_calls[func] = self._loader_calls.get(func, 0) + 1
        if judgement.payload is not None:
            self.payloads.append((event.offset - self.shift, judgement.payload))
        name, verdict = judgement.name, judgement.verdict
        if verdict != CLEAN and not self.findings.count_repeated_call(
            name, self.record, event.opcode, verdict
        ):
            self._add(event, verdict, name, judgement.reason, call_repr(func, args))
        target = calls.resolve_callable(func)
        if isinstance(target, Global):
            self._judge_attributes_set_by_call(event, target, call)

    def _judge_attributes_set_by_call(self, event: Event, func: Global, call: Call) -> None:
        """Judge the attributes that an allowed call sets on its result, without BUILD.

        torch._utils._set_obj_state sets them. `_rebuild_from_type_v2` may call a function that sets
        some in its turn.
        """
        if func.path == "types.SimpleNamespace":  # Python 3.13: a mapping, or pairs
            self._judge_attributes(event, call, call.args)
            if any(not isinstance(part, dict) for part in call.args):
                reason = "sets attributes from something other than a dictionary"
                self._add(event, UNKNOWN, func.path, reason)
        callee, args = func, call.args
        for _ in range(values.MAX_DEPTH):
            rebuilds_from_type = callee.name.startswith("_rebuild_from_type")
            if len(args) < 3 or not (
                rebuilds_from_type or callee.name == "_rebuild_parameter_with_state"
            ):
                return
            for state in args[3:4]:
                self._judge_attributes(event, call, state, func.path)
                if values.replaces_nested_parts(func, call.args, state):
                    reason = "sets the values or offsets of a nested tensor, which were checked"
                    self._add(event, UNKNOWN, func.path, reason)
            inner = calls.resolve_callable(args[0])
            if (
                not rebuilds_from_type
                or not isinstance(args[2], tuple)
                or not isinstance(inner, Global)
            ):
                return
            callee, args = inner, args[2]

    # --- changes --------------------------------------------------------------------------

    def _judge_change(self, event: Event) -> None:
        target, opcode = event.target, event.opcode
        if isinstance(target, dict | list):
            reason = "an item is set again: what reads it in between sees another one"
            self._add(event, UNKNOWN, "item", reason)
            return
        if self._attributes:
            attributes = self._attributes.get(target, {})
            for method in _METHODS_CALLED_BY.get(opcode, ()):
                if method not in attributes:
                    continue
                replacement, args = attributes[method], (event.argument,)
                if isinstance(event.argument, list) and opcode != "BUILD":
                    args = tuple(event.argument)
                judgement = calls.judge_call(replacement, args, "REDUCE")
                name, reason = judgement.name, judgement.reason
                if judgement.verdict != DANGEROUS:
                    name = value_repr(replacement)
                    reason = f"replaces the method {method}, which {opcode} calls"
                self._add(event, DANGEROUS, name, reason, call_repr(replacement, args))
                return
        if isinstance(target, Call):
            if (target.func, opcode) not in self._clean:
                self._judge_changed_object(event, target)
        elif isinstance(target, Global | Extension | PersistentId):
            name = target.path if isinstance(target, Global) else value_repr(target)
            self._add(event, DANGEROUS, name, "is changed, and does not belong to the file")
        if opcode == "BUILD":
            # A piece of torch.distributed.checkpoint's `.metadata`, or a file next to a dump, which
            # joblib loads with allow_pickle.
            state, func = event.argument, getattr(target, "func", None)
            is_array = isinstance(func, Global) and func.name.endswith("NDArrayWrapper")
            key = "filename" if is_array else "relative_path"
            path = state.get(key) if isinstance(state, dict) else None
            if isinstance(path, str) and is_outside(path):
                reason = f"it names {path[:200]!r}, outside its folder"
                self._add(event, DANGEROUS, "piece-path", reason)
            method_name = values.overridden_method(event.argument, values.MAPPING_METHODS)
            if method_name is not None:
                reason = "is called to set the state, and the file has replaced it"
                self._add(event, DANGEROUS, f"{method_name}()", reason)
            self._judge_attributes(event, target, event.argument)

    def _judge_changed_object(self, event: Event, call: Call) -> None:
        func = calls.resolve_callable(call.func)
        is_build = event.opcode == "BUILD"
        if isinstance(func, Extension):
            return
        if isinstance(func, Call) and getattr(func.func, "path", None) == "functools.partial":
            # The result of a partial has the attributes that the partial passes by name.
            state = func.state
            keywords = state[2] if isinstance(state, tuple) and len(state) > 2 else None
            attributes = keywords if isinstance(keywords, dict) else {}
            if not is_build or self._watched_attributes(attributes):
                reason = "changes an object that a call returned"
                self._add(event, DANGEROUS, "functools.partial", reason)
            return
        if is_build and calls.is_own_object(func):
            return
        if not isinstance(func, Global) or func.path in _RETURNS_FOREIGN:
            name = func.path if isinstance(func, Global) else "call"
            self._add(event, DANGEROUS, name, "changes an object that a call returned")
            return
        if is_build and numpy_objects.builds_dtype(call):
            self._judge_dtype(event, call)
        if func.path in RECONSTRUCTORS and call.args:
            cls = calls.resolve_callable(call.args[0])
            if not isinstance(cls, Global):
                return  # an own class within another object
            func = cls
        row = load_policy().row(func.module, func.name)
        shapes = parse_shapes(row.shapes if row else "")
        is_listed = row is not None and row.verdict in ("allowed", "module")
        if is_build:
            state = event.argument
            if isinstance(state, tuple) and numpy_objects.view_exceeds_storage(state):
                self._add(event, DANGEROUS, "tensor", numpy_objects.EXCEEDS_STORAGE)
            if is_listed and not any(kind(state) for kind in shapes.states):
                reason = f"BUILD with {describe((state,))}: no writer builds it so"
                self._add(event, UNKNOWN, func.path, reason)
            return
        if event.opcode[:7] != "SETITEM" or func.name not in ("OrderedDict", "Counter"):
            self.weights_only_blockers.add(func.path)
        if event.opcode in shapes.fills:
            if func is call.func:
                self._clean.add((func, event.opcode))
            return
        if values.runs_source(func, event.argument):
            self._add(event, DANGEROUS, func.path, calls.RUNS_SOURCE)
        is_plain = is_plain_class(func.module, func.name, creates=True)
        if is_listed or (is_stdlib(func.module) and (row is not None or not is_plain)):
            reason = f"{event.opcode} does not apply to an object of {func.path}"
            self._add(event, DANGEROUS, func.path, reason)

    def _judge_dtype(self, event: Event, dtype: Call) -> None:
        # Copies of a dtype share their table of fields, and each of them is checked against it.
        for part in dtype.state if isinstance(dtype.state, tuple) else ():
            if isinstance(part, tuple | list | dict) and len(part) > _WIDE:
                uses = self._wide.get(("fields", id(part)), 0)
                if uses >= _MAX_SHARED_FIELDS:
                    reason = "too many dtypes share one table of fields"
                    self._add(event, UNKNOWN, numpy_objects.NUMPY_DTYPE, reason)
                    return
                self._wide["fields", id(part)] = uses + 1
        name = dtype.args[0] if dtype.args else None  # a class, judged when it was imported
        is_unlisted = isinstance(name, Global) and not is_listed(name.module, name.name)
        is_foreign = is_unlisted or isinstance(name, Extension)
        invalid = numpy_objects.invalid_dtype_reason(dtype, is_foreign)
        if invalid is not None:
            self._add(event, DANGEROUS, numpy_objects.NUMPY_DTYPE, invalid)

    # --- attributes -----------------------------------------------------------------------

    def _judge_attributes(
        self, event: Event, target: Value, state: Value, setter: str | None = None
    ) -> None:
        """Judge the attributes that a state sets, and remember those that opcodes would call.

        BUILD sets a dictionary without setattr, but the second of a pair with it, which can change
        an object's class. A function, the `setter`, sets each of them with it.
        """
        if (
            isinstance(state, dict)
            and setter is None
            and state.keys().isdisjoint(_NOTABLE_ATTRIBUTES)
            and not self._is_computed(state)
        ):
            return  # as most states
        watched = self._watched_attributes(state)
        if watched:
            self._attributes.setdefault(target, {}).update(watched)
        is_pair = isinstance(state, tuple) and len(state) == 2
        parts = self._first_sight("parts", state) if isinstance(state, tuple) else (state,)
        for index, part in enumerate(parts):
            if not isinstance(part, dict):
                is_computed = setter is not None and isinstance(part, Call)
            else:
                is_computed = self._is_computed(part)
                name = next((each for each in _MEMORY_INTERFACES if each in part), None)
                if name is not None:
                    reason = f"sets {name}, which gives numpy an address in memory"
                    self._add(event, DANGEROUS, name, reason)
                is_set = setter is not None or (is_pair and index == 1)
                for key in self._first_sight(setter or "slots", part) if is_set else ():
                    is_called = setter is not None and key in _WATCHED_ATTRIBUTES
                    if isinstance(key, str) and (is_called or is_special(key)):
                        self._add(event, DANGEROUS, setter or key, f"sets {key} of an object")
            if is_computed:
                reason = "sets attributes whose names a call computes"
                self._add(event, UNKNOWN, setter or "BUILD", reason)

    def _watched_attributes(self, state: Value) -> dict[str, Value]:
        """Return the watched attributes in a state: a dictionary, or a tuple of them."""

        if isinstance(state, tuple):
            return self._examined_once(
                "watched",
                state,
                lambda parts: {
                    name: value
                    for part in parts
                    if not isinstance(part, tuple)
                    for name, value in self._watched_attributes(part).items()
                },
            )
        if isinstance(state, dict) and not self._is_computed(state):
            return {name: state[name] for name in _WATCHED_ATTRIBUTES if name in state}
        is_computed = isinstance(state, dict | list | Call)
        return dict.fromkeys(_WATCHED_ATTRIBUTES, state) if is_computed else {}

    def _is_computed(self, attributes: dict[Value, Value]) -> bool:
        return self._examined_once("keys", attributes, _has_computed_key)

    def _examined_once(
        self, purpose: str, value: Items, examine: Callable[[Items], Result]
    ) -> Result:
        """Return examine(value), which is remembered for a wide value."""
        if len(value) <= _WIDE:
            return examine(value)
        return self._remembered((purpose, id(value)), lambda: examine(value))

    def _remembered(self, key: tuple[object, ...], examine: Callable[[], Result]) -> Result:
        if key not in self._wide:
            self._wide[key] = examine()
        result: Result = self._wide[key]
        return result
