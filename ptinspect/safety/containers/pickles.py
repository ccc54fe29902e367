"""The pickles of a file, one after the other, each run and judged; joblib's arrays between them,
torch's legacy storages behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, LimitError, Place, PtInspectError
from ptinspect.formats.persistent_ids import class_sources, declared_storages
from ptinspect.formats.torch_legacy import MAGIC, PROTOCOL
from ptinspect.pickling.machine import run
from ptinspect.pickling.opcodes import BY_CODE, Arg
from ptinspect.pickling.state import Recorder
from ptinspect.safety.analysis.stream import Judge
from ptinspect.safety.containers.joblib import WRAPPER, JoblibRecorder
from ptinspect.safety.report.findings import DANGEROUS, UNKNOWN, Finding

if TYPE_CHECKING:
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Blob, Buffer, Value
    from ptinspect.safety.report.scan_state import Part

LEGACY_STREAMS = 5
"""Pickles that torch's legacy format has in front of the storages."""


class Streams:
    """Reads the pickles of a buffer into a part. `inner`: bytes that a pickle would load as a
    file, with a name for them. `until`: what may follow the last, which the caller reads."""

    def __init__(self, part: Part, data: Buffer, start: int, stop: int, record: str | None) -> None:
        self.part = part
        self.data = data
        self.start = start
        self.stop = stop
        self.record = record
        self.inner: list[tuple[str, bytes | Blob]] = []
        self.harm = False
        self.nested = 0
        self.until = b""
        self._seen: dict[int, bytes | Blob | str] = {}

    def one(self, pos: int) -> Pickled:
        """Runs the pickle at `pos`, and judges it, also where it raises."""
        self.part.budget.part(self.record)
        recorder = self._recorder()
        try:
            return self._run(pos, recorder)
        except PtInspectError as error:
            if error.where and error.where.offset is not None and not self.nested:
                error.where = Place(self.record, error.where.offset - self.start)
            raise
        finally:
            self._judge(recorder)

    def _run(self, pos: int, recorder: Recorder) -> Pickled:
        try:
            made = run(
                self.data,
                pos,
                stop=self.stop,
                record=self.record,
                limits=self.part.limits,
                recorder=recorder,
            )
        except DamagedError as error:
            raise recorder.frame_error or error from None
        if recorder.frame_error is not None:
            raise recorder.frame_error
        return made

    def _recorder(self) -> Recorder:
        return JoblibRecorder(self._object_array)

    def _object_array(self, pos: int) -> int:
        """A pickle inside the stream: the array of objects that joblib puts behind a wrapper."""
        if self.nested >= self.part.limits.nested_archives:
            where = Place(self.record, pos - self.start)
            raise LimitError(
                "arrays of objects lie in one another", limit="nested_archives", where=where
            )
        self.nested += 1
        end = self.one(pos).end
        self.nested -= 1  # an error ends it all
        return end

    def _judge(self, recorder: Recorder) -> None:
        judge = Judge(self.record, self.start)
        for event in recorder.events:
            if event.opcode == "FRAME" and crosses(
                self.data, event.offset + 9, event.target, self.stop
            ):
                why = "an opcode reaches beyond the frame that it is in: readers disagree on it"
                at = event.offset - self.start
                self.part.findings.add(Finding("frame", DANGEROUS, why, self.record, at, "FRAME"))
        judge.judge(recorder)
        self.part.unfit |= judge.unfit
        for finding in judge.found.list():
            self.part.findings.add(finding)
            if finding.call is not None or finding.verdict == DANGEROUS:
                self.harm = True
        for at, data in judge.inner:
            if id(data) not in self._seen:  # kept, so that no other object has its id
                self._seen[id(data)] = data
                name = f"{self.record} @ {at}" if self.record else f"byte {at}"
                if isinstance(data, str):
                    data = data.encode("latin1", "replace")
                self.inner.append((name, data))

    # --- a file of pickles ----------------------------------------------------------------

    def all(self, skip: int = 0) -> None:
        """Runs all that follow one another. What could not be read stands in `part.errors`."""
        first = self.one(self.start + skip)
        self.part.streams.append(first)
        if type(first.root) is int and first.root == MAGIC:
            self._legacy(first)
        else:
            self.part.format = "pickle"
            if any(name.path == WRAPPER for name in first.globals):
                self.part.format, self.part.hint = "joblib", "joblib.load is what reads it"
            self._others(first.end)

    def _others(self, pos: int) -> None:
        """Further pickles; then what no reader takes, if anything."""
        while pos < self.stop:
            if self.until and self.data[pos : pos + len(self.until)] == self.until:
                return
            if len(self.part.streams) >= self.part.limits.streams:
                where = Place(self.record, pos - self.start)
                raise LimitError("too many pickles in a row", limit="streams", where=where)
            try:
                more = self.one(pos)
            except DamagedError as error:
                if announced(self.data[pos : min(pos + 2, self.stop)]) or self.harm:
                    self.part.errors.append(error)
                else:
                    self._trailing(pos)
                return
            self.part.streams.append(more)
            pos = more.end

    def _trailing(self, pos: int) -> None:
        if not any(self.data[pos : min(self.stop, pos + (1 << 20))]):
            self.part.notes.append(f"{self.stop - pos:,} zero bytes follow the last pickle")
            return
        why = f"{self.stop - pos:,} bytes follow the last pickle, which its reader does not read"
        at = pos - self.start
        self.part.findings.add(Finding("trailing-bytes", UNKNOWN, why, self.record, at))

    def _legacy(self, first: Pickled) -> None:
        """The five pickles of `torch.serialization._legacy_save`, and the storages."""
        self.part.format = "torch-legacy"
        found = [first]
        while len(found) < LEGACY_STREAMS:
            found.append(self.one(found[-1].end))
            self.part.streams.append(found[-1])
            if len(found) == 2 and found[1].root != PROTOCOL:
                self.part.format = "pickle"
                self._others(found[1].end)
                return
        from ptinspect.formats.torch_legacy import locate_storages

        main, keys = found[3], found[4]
        many = len(class_sources(main))
        if many:
            self.part.notes.append(f"holds the source of {many} classes: text, which nobody runs")
        window = (self.data, self.start, self.stop)
        _, end = locate_storages(window, None, keys, declared_storages(main))
        self._others(end)


_SIZES = {Arg.SIZE1: 1, Arg.SIZE4: 4, Arg.SIZE8: 8}
_COUNTED = [_SIZES.get(BY_CODE[code].arg, 0) if code in BY_CODE else 0 for code in range(256)]
_PLAIN = [int(BY_CODE[code].arg) if code in BY_CODE else 0 for code in range(256)]
_LINES = [{Arg.LINE: 1, Arg.TWO_LINES: 2}.get(BY_CODE[code].arg, 0) if code in BY_CODE else 0
          for code in range(256)]  # fmt: skip


def crosses(data: Buffer, pos: int, end: Value, stop: int) -> bool:
    """Whether an opcode that begins before `end`, where a frame ends, ends behind it. C's unpickler
    reads on; pickle.py does not."""
    assert isinstance(end, int)
    while pos < end and pos < stop:
        code = data[pos]
        pos += 1
        size = _COUNTED[code]
        if size:
            pos += size + int.from_bytes(data[pos : pos + size], "little")
        elif _LINES[code]:
            for _ in range(_LINES[code]):
                pos = data.find(b"\n", pos, stop) + 1
                if not pos:
                    return False  # it is cut off
        else:
            pos += _PLAIN[code]
    return pos > end and pos <= stop


def announced(head: bytes) -> bool:
    """Whether it begins as a pickle of protocol 2 or above does."""
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


def read_pickles(
    part: Part,
    data: Buffer,
    start: int,
    stop: int,
    record: str | None,
    *,
    skip: int = 0,
    until: bytes = b"",
) -> Streams:
    """Runs and judges all pickles in `data[start:stop]`, which begin `skip` bytes behind `start`
    and may end where `until` stands; errors go to `part.errors`."""
    streams = Streams(part, data, start, stop, record)
    streams.until = until
    try:
        streams.all(skip)
    except PtInspectError as error:
        part.errors.append(error)
    return streams


def may_begin(head: bytes) -> bool:
    """Whether a pickle can begin with this byte."""
    return bool(head) and head[0] in BY_CODE
