"""Scan the pickles of a file: each is run and judged, one after the other.

joblib puts the bytes of arrays between the opcodes, torch's legacy format puts storages behind the
last pickle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, LimitError, Place, PtInspectError
from ptinspect.formats.archive import class_sources, declared_storages
from ptinspect.formats.signatures import JOBLIB, begins_like_pickle, looks_like_file
from ptinspect.formats.torch.legacy import MAGIC, PROTOCOL, locate_storages
from ptinspect.pickling.machine import run
from ptinspect.pickling.numpy_objects import holds_objects, item_size
from ptinspect.pickling.opcodes import BY_CODE, skip_opcode
from ptinspect.pickling.pyobjects import constructor_arguments, function_path, resolve_global
from ptinspect.pickling.state import Recorder
from ptinspect.pickling.values import Blob, Call
from ptinspect.safety.report import DANGEROUS
from ptinspect.safety.scan_state import ScanState, scan_member
from ptinspect.safety.stream import StreamJudge
from ptinspect.source.base import MemorySource
from ptinspect.text import count_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.state import Machine
    from ptinspect.pickling.values import Buffer
    from ptinspect.source.base import Source

_LEGACY_PICKLES = 5  # pickles of torch's legacy format in front of the storages
_JOBLIB_MODULES = ("joblib.", "sklearn.externals.joblib.")
"""The packages that contain joblib; the second one in scikit-learn before 0.23."""

_JOBLIB_CLASS = ".joblib.numpy_pickle."

_STRING_DTYPE = "numpy._core._internal._convert_to_stringdtype_kwargs"
"""The function that returns numpy's StringDType, whose arrays are pickled like those of objects."""

_ZERO_TAIL = 1 << 20  # bytes behind the last pickle that are examined for being zero

UNREAD_FORMATS = ("sqlite", "parquet", "arrow")
"""Formats in which only pickles are searched: their readers may load them."""

_UNREAD = "unread"

SEARCHED_BYTES = 1 << 28

PICKLE = re.compile(rb"\x80[\x02-\x05]")
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}")
BASE64_PICKLE = re.compile(rb"gA[I-X][A-Za-z0-9+/_-]{20,}")
_ESCAPED_OTHERS = re.compile(rb"\\+(?:u(?!00[2-7])[0-9A-Fa-f]{4}|u0022|[^/u\\])|\\+(?=\\[/u])")
_ESCAPED_CODE = re.compile(rb"\\u00([2-7][0-9A-Fa-f])")
_NO_BASE64 = bytes(code for code in range(256) if not re.match(rb"[A-Za-z0-9+/]", bytes([code])))
_JSON_START = b"\xef\xbb\xbf\xff\xfe \t\r\n"
"""Byte order marks and spaces, which `json.loads` skips."""
_JSON_TEXT = re.compile(rb'"([^"]{24,})"')


def may_begin_pickle(head: bytes) -> bool:
    """Return True if the first byte is an opcode."""
    return bool(head) and head[0] in BY_CODE


def begins_with_protocol(head: bytes) -> bool:
    """Return True if the bytes begin like a pickle of protocol 2 or above."""
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


class JoblibRecorder(Recorder):
    """Skips the bytes of joblib's arrays (formats/joblib.py explains them), however their
    class is reached. An array of objects is a pickle of its own, in which nothing is skipped."""

    def __init__(self, scan_object_array: Callable[[int], int]) -> None:
        super().__init__()
        self.skips_bytes = False
        self._scan_object_array = scan_object_array

    def after_build(self, m: Machine, pos: int) -> int:
        """Return where the stream continues; see `Recorder.after_build`."""
        wrapper = m.stack[-1]
        if not isinstance(wrapper, Call):
            return pos
        classes = [wrapper.func, *wrapper.args[:1]]  # however and by whatever module it is reached
        if isinstance(wrapper.func, Call):  # functools.partial(NumpyArrayWrapper, …)()
            classes += wrapper.func.args[:1]
        if not any(
            name is not None
            and f"{name.module}.".startswith(_JOBLIB_MODULES)
            and name.name.rpartition(".")[2] == "NumpyArrayWrapper"
            for name in map(resolve_global, classes)
        ):
            return pos
        from ptinspect.formats.joblib import locate_array

        self.skips_bytes = True
        attributes = wrapper.state
        if not isinstance(attributes, dict) or constructor_arguments(wrapper):
            raise m.damaged("an array's wrapper is not as joblib writes it")
        dtype = attributes.get("dtype")
        is_string = isinstance(dtype, Call) and function_path(dtype) == _STRING_DTYPE
        size = 0 if is_string else item_size(dtype)
        if size is None:
            raise m.damaged("an array's dtype is invalid")
        if holds_objects(dtype):
            return self._scan_object_array(pos)
        return locate_array(m, pos, attributes, size)[2]


@dataclass(slots=True)
class PickleScanner:
    """Scans the pickles of one record.

    Attributes:
        payloads: names and bytes that a pickle would load as a file.
        values: names and bytes that a program may load as a file.
        is_harmful: True if a pickle calls something unknown, or does something dangerous.
        reached: the offset in the buffer at which the last pickle ended, or an error ended it.
    """

    state: ScanState
    data: Buffer
    start: int
    stop: int
    record: str | None
    payloads: list[tuple[str, bytes | Blob]] = field(default_factory=list)
    values: list[tuple[str, bytes | Blob]] = field(default_factory=list)
    is_harmful: bool = False
    reached: int = 0
    _plain_end: int = 0
    _seen_payloads: dict[int, bytes | Blob | str] = field(default_factory=dict)

    def scan_at(self, offset: int) -> Pickled:
        """Run the pickle at an offset of the buffer, and judge it, also if it raises."""
        recorder = JoblibRecorder(self._scan_object_array)
        try:
            pickled = self._run(offset, recorder)
        except PtInspectError as error:
            if error.where and error.where.offset is not None:  # count it in the record
                error.where = Place(self.record, error.where.offset - self.start)
            raise
        finally:
            # Otherwise no pickle begins here for pickle.load, which has read on.
            if recorder.skips_bytes and offset >= self._plain_end:
                plain = Recorder()
                try:  # as pickle.load reads it, for which the bytes of arrays are opcodes
                    self._plain_end = run(
                        self.data, offset, stop=self.stop, limits=self.state.limits, recorder=plain
                    ).end
                except PtInspectError as error:  # where honest numbers end it
                    self._plain_end = (error.where and error.where.offset) or offset
                judge = StreamJudge(self.record, self.start)
                judge.judge(plain)
                for finding in judge.findings.sorted():
                    if finding.verdict == DANGEROUS:
                        self.state.findings.add(finding)
                        self.is_harmful = True
        if self.data.find(b"gA", offset, pickled.end) >= 0:
            for position, decoded in find_base64(self.data, offset, pickled.end, BASE64_PICKLE):
                self.values.append((f"base64 @ {position - self.start}", decoded))
        return pickled

    def _run(self, offset: int, recorder: Recorder) -> Pickled:
        """Run and judge a pickle. Offsets of errors count in the buffer."""
        self.state.budget.count_member(self.record)
        self.reached = offset
        try:
            pickled = run(
                self.data, offset, stop=self.stop, record=self.record, limits=self.state.limits,
                recorder=recorder,
            )  # fmt: skip
            self.reached = pickled.end
        except PtInspectError as error:
            self.reached = (error.where and error.where.offset) or offset
            if isinstance(error, DamagedError) and recorder.c_error is not None:
                raise recorder.c_error from None
            raise
        finally:
            self._judge(recorder)
        if recorder.c_error is not None:
            raise recorder.c_error
        return pickled

    def _scan_object_array(self, offset: int) -> int:
        """Judge the pickle of an array of objects, and return its end. joblib reads it with an
        unpickler of its own, which does not skip the bytes of further arrays."""
        return self._run(offset, Recorder()).end

    def _judge(self, recorder: Recorder) -> None:
        judge = StreamJudge(self.record, self.start)
        frame_end = 0
        for event in recorder.events:
            # Frames inside other frames, which are a finding already, would take quadratic time.
            if event.opcode != "FRAME" or event.offset < frame_end:
                continue
            assert isinstance(event.target, int)
            frame_end = event.target
            offset = event.offset + 9
            while offset < frame_end and offset < self.stop:
                offset = skip_opcode(self.data, offset, self.stop)
            if frame_end < offset <= self.stop:  # C's unpickler continues there; pickle.py does not
                reason = "an opcode extends past the end of its frame: readers disagree about it"
                offset = event.offset - self.start
                self.state.find("frame", reason, self.record, DANGEROUS, offset, "FRAME")
        judge.judge(recorder)
        self.state.weights_only_blockers |= judge.weights_only_blockers
        self.state.sparse += judge.sparse
        for finding in judge.findings.sorted():
            self.state.findings.add(finding)
            if finding.call is not None or finding.verdict == DANGEROUS:
                self.is_harmful = True
        for offset, payload in judge.payloads:
            if id(payload) not in self._seen_payloads:
                self._seen_payloads[id(payload)] = payload  # a reference keeps its id unique
                name = str(Place(self.record, offset))
                if isinstance(payload, str):
                    payload = payload.encode("latin1", "replace")
                self.payloads.append((name, payload))
        for offset, text in judge.texts:
            head = text[:1024].encode("latin1", "replace")
            if looks_like_file(head, 0, len(head)):
                self.values.append((f"value @ {offset}", text[:].encode("latin1", "replace")))
        for offset, literal in recorder.literals:
            window = MemorySource.of_value(literal, "").window()
            if looks_like_file(*window) and id(literal) not in self._seen_payloads:
                self.values.append((f"value @ {offset - self.start}", literal))

    def scan_found(self) -> None:
        """Scan the files that the pickles load, and those that their values look like."""
        for items, scan in ((self.payloads, scan_member), (self.values, scan_suspect)):
            for name, payload in items:
                source = MemorySource.of_value(payload, self.state.path)
                scan(self.state, source, name)

    def add_trailing_bytes(self, offset: int) -> None:
        size, zeros = self.stop - offset, offset
        while not any(chunk := self.data[zeros : min(self.stop, zeros + _ZERO_TAIL)]):
            zeros += len(chunk)
            if not chunk:
                self.state.notes.append(f"{size:,} zero bytes follow the last pickle")
                return
        reason = f"{size:,} bytes follow the last pickle, and its reader ignores them"
        self.state.find("trailing-bytes", reason, self.record, offset=offset - self.start)
        chunk = bytes(chunk)
        first = zeros + len(chunk) - len(chunk.lstrip(b"\0"))
        if looks_like_file(self.data, first, self.stop):
            rest = Blob(self.data, first, self.stop - first, first)
            self.values.append((f"byte {first - self.start}", rest))
        scan_embedded(self.state, self.data, first, self.stop, self.start, self.record)

    def scan_legacy(self, first: Pickled) -> int:
        """Scan the five pickles of torch.serialization._legacy_save, and return the offset behind
        the storages."""
        is_first = len(self.state.streams) == 1
        pickles = [first]
        while len(pickles) < _LEGACY_PICKLES:
            pickles.append(self.scan_at(pickles[-1].end))
            self.state.streams.append(pickles[-1])
            if len(pickles) == 2 and pickles[1].root != PROTOCOL:
                return pickles[1].end
        if is_first:
            self.state.format = "torch-legacy"
        main, keys = pickles[3], pickles[4]
        sources = len(class_sources(main))
        if sources:
            classes = count_text(sources, "class", "classes")
            self.state.notes.append(f"holds the source of {classes} as text, which is never run")
        window = (self.data, self.start, self.stop)
        _, end = locate_storages(window, None, keys, declared_storages(main))
        return end


def scan_pickles(
    state: ScanState, data: Buffer, start: int, stop: int, record: str | None,
    *, skip: int = 0, until: bytes = b"",
) -> PickleScanner:  # fmt: skip
    """Run and judge all pickles of `data[start:stop]` after `skip` bytes that follow one another,
    up to what no reader of pickles reads; errors are added to `state.errors`. `until` may follow
    the last pickle, and is left to the caller."""
    scanner = PickleScanner(state, data, start, stop, record)
    offset, number = start + skip, 0
    try:
        while number == 0 or offset < stop:
            if number and until and data[offset : offset + len(until)] == until:
                break
            if len(state.streams) >= state.limits.streams:
                where = Place(record, offset - start)
                raise LimitError("too many pickles in a row", limit="streams", where=where)
            try:
                stream = scanner.scan_at(offset)
            except DamagedError:
                head = data[offset : min(offset + 2, stop)]
                if number == 0 or begins_with_protocol(head) or scanner.is_harmful:
                    raise
                scanner.add_trailing_bytes(offset)
                break
            state.streams.append(stream)
            if number == 0:
                state.format = "pickle"
                if any(_JOBLIB_CLASS in f".{name.path}" for name in stream.globals):
                    state.format, state.hint = "joblib", JOBLIB.advice(state.real_path)
            number += 1
            offset = stream.end
            if type(stream.root) is int and stream.root == MAGIC:
                offset = scanner.scan_legacy(stream)
    except PtInspectError as error:
        state.errors.append(error)
    return scanner


# --- files where none is announced --------------------------------------------------------

# In the bytes of a value, a storage, a text, or behind a pickle. Whether some program loads them is
# not known. They are scanned, and dropped if they do nothing: numbers can begin like any file.


def scan_embedded(
    state: ScanState, data: Buffer, start: int, stop: int, base: int, record: str | None
) -> None:
    """Judge the pickles that begin anywhere in bytes that no known reader takes for pickles.

    A pickle inside the bytes that another one runs through is not run again.
    """
    trial = ScanState(state.path, state.record, state.depth, state.budget)
    scanner = PickleScanner(trial, data, base, stop, record)
    reached = start
    for match in PICKLE.finditer(data, start, min(stop, start + SEARCHED_BYTES)):
        offset = match.start()
        if offset >= reached and begins_like_pickle(data, offset, stop):
            try:
                reached = scanner.scan_at(offset).end
            except LimitError as error:
                state.errors.append(error)
                break
            except PtInspectError:
                reached = scanner.reached
    for finding in trial.findings.sorted():
        if finding.call is not None or finding.verdict == DANGEROUS:
            state.findings.add(finding)


def scan_suspect(outer: ScanState, source: Source, record: str) -> None:
    """Scan bytes that may be a file by chance, and keep the result if it is harmful."""
    try:
        member = outer.new_member(record)
    except LimitError:
        outer.find(_UNREAD, "more of its bytes look like files than are scanned", None)
        return
    outer.budget.scan_source(source, member)
    if member.format == "compressed" and any(error.kind == "format" for error in member.errors):
        outer.find(_UNREAD, f"contains {member.description}, which scan does not open", record)
    elif _is_harmful(member):
        outer.add_member(member)


def _is_harmful(state: ScanState) -> bool:
    """Return True if something acts, is called, or was not scanned to its end by a limit."""
    return (
        any(
            finding.verdict == DANGEROUS or finding.call is not None or finding.name == _UNREAD
            for finding in state.findings.sorted()
        )
        or any(error.kind == "limit" for error in state.errors)
        or any(map(_is_harmful, state.members))
    )


def find_base64(
    data: Buffer, start: int, stop: int, pattern: re.Pattern[bytes]
) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, decoded bytes) of texts in base64 that look like files."""
    for match in pattern.finditer(data, start, stop):
        decoded = decode_base64(match[0])
        if looks_like_file(decoded, 0, len(decoded)):
            yield match.start(), decoded


def decode_base64(text: bytes) -> bytes:
    from base64 import b64decode

    text = text[: len(text) - (len(text) % 4 == 1)]
    return b64decode(text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4))


def scan_text(source: Source, state: ScanState) -> None:
    """Scan the files that a text contains in base64, as JSON and YAML do.

    A text of JSON may be inside another one: its escapes have two or more backslashes.
    """
    from binascii import a2b_base64

    text = source.read(0, min(source.size, SEARCHED_BYTES))
    if b"\0" in text[:4]:  # `json.loads` reads UTF-16 and UTF-32 as well
        text = text.replace(b"\0", b"")
    readings = [text]
    if b"\\" in text:  # without escapes, except of the characters of base64
        text = _ESCAPED_OTHERS.sub(b"", text).replace(b"\\/", b"/")
        readings.append(_ESCAPED_CODE.sub(lambda match: bytes([int(match[1], 16)]), text))
    found: dict[bytes, int] = {}
    for text in readings:
        for offset, decoded in find_base64(text, 0, len(text), BASE64):
            found.setdefault(decoded, offset)
    is_json = text[:256].lstrip(_JSON_START)[:1] in (b"{", b"[")
    for match in _JSON_TEXT.finditer(text) if is_json else ():
        letters = match[1].translate(None, _NO_BASE64)  # `b64decode` skips the others
        if len(letters) < len(match[1]) and len(letters) % 4 != 1:
            decoded = a2b_base64(letters + b"===")
            if looks_like_file(decoded, 0, len(decoded)):
                found.setdefault(decoded, match.start())
    for decoded, offset in found.items():
        scan_suspect(state, MemorySource(decoded, state.path, base=None), f"base64 @ {offset}")
