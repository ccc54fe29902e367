"""Work, memory and reports stay in proportion to the file, whatever it asks for."""

from __future__ import annotations

import gzip
import os
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from struct import pack

import pytest

import ptinspect
from ptinspect.limits import LIMITS, Limits
from ptinspect.safety.containers import dispatch
from ptinspect.safety.report import ScanReport, json_text
from ptinspect.source.local import MAX_COPY_BYTES
from tests.safety.files import BAD, GOOD, npy, put, scanned, torch_zip
from tests.safety.making import START, call, new, path, plain, text

MEGABYTE = 1 << 20


def seconds_and_report(folder: Path, data: bytes, called: str) -> tuple[float, ScanReport]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    report = scanned(folder, data, called)
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - before, report


HARD_HEADERS = {
    "spaces": " " * 60_000 + "!",
    "digits": "1" * 60_000 + "!",
    "an open string": "'" + "a" * 60_000,
    "escapes": "'" + "\\'" * 30_000,
    "brackets and spaces": "] " * 30_000 + "!",
    "prefixes": "b" * 60_000,
}


@pytest.mark.parametrize("kind", HARD_HEADERS)
def test_the_header_of_an_array_is_read_in_one_pass(kind: str, tmp_path: Path) -> None:
    header = "{'descr': '<f8', 'x': " + HARD_HEADERS[kind]
    seconds, report = seconds_and_report(tmp_path, npy(header, b""), "a.npy")
    assert report.verdict == "unreadable"
    assert seconds < 2


def test_frames_inside_frames_take_no_longer_than_their_bytes(tmp_path: Path) -> None:
    count = 20_000
    frames = b"".join(b"\x95" + pack("<Q", 9 * (count - i - 1) + 2) for i in range(count))
    seconds, report = seconds_and_report(tmp_path, b"\x80\x04" + frames + b"N.", "a.pkl")
    assert report.verdict == "dangerous"
    assert seconds < 5


def test_pickles_with_a_frame_that_is_too_long_are_searched_once(tmp_path: Path) -> None:
    data = b"\xff" * 8 + (b"\x80\x04\x95" + pack("<Q", 1 << 40) + b"N0") * 4000
    seconds, report = seconds_and_report(tmp_path, GOOD + data + b"N.", "a.pkl")
    assert report.verdict == "dangerous"  # because of the frames in each other
    assert seconds < 5


def test_arrays_of_joblib_that_pickle_reads_on_from_are_read_once(tmp_path: Path) -> None:
    dtype = call(path("numpy.dtype"), text("i1"), plain(False), plain(True))
    wrapper = new(path("joblib.numpy_pickle.NumpyArrayWrapper")) + b"}" + text("dtype") + dtype
    wrapper += b"s" + text("shape") + plain((3,)) + b"sb"
    rows = (START + wrapper + b"0C\x01" + b".") * 1000  # C\x01 makes STOP a part of bytes
    seconds, report = seconds_and_report(tmp_path, rows, "a.joblib")
    assert report.verdict == "unknown"
    assert seconds < 5


def test_repeated_calls_are_counted(tmp_path: Path) -> None:
    count = 100_000
    call = b"cposix\nsystem\nq\x00X\x01\x00\x00\x00x\x85q\x010"
    data = b"\x80\x02" + call + b"h\x00h\x01R0" * count + b"N."
    seconds, report = seconds_and_report(tmp_path, data, "a.pkl")
    (finding,) = report.findings
    assert (finding.verdict, finding.count) == ("dangerous", count)
    assert finding.call == "posix.system('x')"
    assert seconds < 5


def test_a_dense_pickle_is_read_in_proportion_to_its_compressed_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptinspect.safety.containers.dispatch.SMALL_PICKLE", 100_000)
    data = gzip.compress(b"\x80\x04" + BAD[2:-1] + b"0" + b"N0" * MEGABYTE + b"N.", 1)
    report = ptinspect.scan(put(tmp_path, data, "a.gz"), limits=Limits(pickle_ratio=2))
    assert report.verdict == "dangerous"
    assert "decompress to 2,097," in report.errors[0].message


@pytest.mark.parametrize("length", [LIMITS.name_chars, 1_000_000])
def test_long_names_are_cut_in_reports(length: int, tmp_path: Path) -> None:
    name = b"a" * length
    data = b"\x80\x04\x8c\x04mine\x8d" + pack("<Q", length) + name + b"\x93)\x81."
    report = scanned(tmp_path, data, "a.pkl")
    assert report.verdict == "unknown"
    assert len(str(report.as_dict())) < 20 * LIMITS.name_chars
    assert not any("add_safe_globals" in step for step in report.steps)


def test_members_above_the_limit_are_one_error(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(200):
            archive.writestr(f"{number}.pkl", b"\xff")
    report = ptinspect.scan(file, limits=Limits(streams=100))
    assert [error.kind for error in report.errors] == ["limit"]
    assert "streams" in str(report.errors[0].hint)
    assert len(report.members) <= 100


def test_items_above_the_limit_are_counted_and_the_worst_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(60):
            archive.writestr(f"{number}.pt", torch_zip(BAD if number == 50 else GOOD))
    report = ptinspect.scan(file, limits=Limits(reported_items=10))
    assert report.verdict == "dangerous"
    assert len(report.members) == 10
    assert report.first_dangerous() is not None
    assert "and 50 further members" in report.notes


def _many_long_names(folder: Path) -> Path:
    """A zip of 40 files, each of which imports 200 long names, six times as long in JSON."""
    file = folder / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(40):
            names = (b"cmine\n\xc3\xa9%s%d\n0" % (b"\xc3\xa9" * 300, name) for name in range(200))
            data = torch_zip(b"\x80\x02" + b"".join(names) + (BAD[2:] if not number else b"N."))
            archive.writestr(f"{number}.pt", data)
    return file


def test_a_report_is_bounded_in_bytes_and_says_what_is_left_out(tmp_path: Path) -> None:
    file = _many_long_names(tmp_path)
    whole = ptinspect.scan(file)
    size = len(json_text([whole], as_list=False))
    assert size > 10 * MEGABYTE
    assert not any("left out" in note for note in whole.notes)
    report = ptinspect.scan(file, limits=Limits(report_bytes=MEGABYTE))
    assert MEGABYTE / 2 < len(json_text([report], as_list=False)) < 1.1 * MEGABYTE
    assert report.verdict == whole.verdict == "dangerous"
    assert report.first_dangerous() is not None
    notes = [note for each in (report, *report.members) for note in each.notes]
    assert any(re.search(r"left out, .*: \d+ findings", note) for note in notes)
    assert any(re.search(r"left out, .*: .*\d+ members", note) for note in report.notes)


def test_the_reports_of_many_files_are_bounded_together(tmp_path: Path) -> None:
    file = _many_long_names(tmp_path)
    reports = ptinspect.scan_many([file] * 8, limits=Limits(reports_bytes=MEGABYTE))
    assert MEGABYTE / 2 < len(json_text(reports, as_list=True)) < 1.1 * MEGABYTE
    for report in reports:
        assert report.verdict == "dangerous"
        assert report.first_dangerous() is not None
        assert any("left out, because the report is too large" in note for note in report.notes)
    smallest = ptinspect.scan(file, limits=Limits(report_bytes=1))
    assert smallest.verdict == "dangerous"
    assert smallest.first_dangerous() is not None


def test_advice_on_loading_is_bounded_too(tmp_path: Path) -> None:
    names = b"".join(b"cmine\nname%06d\n0" % number for number in range(20_000))
    file = put(tmp_path, torch_zip(b"\x80\x02" + names + b"N."), "a.pt")
    report = ptinspect.scan(file, limits=Limits(report_bytes=100_000))
    assert report.load is None
    assert len(json_text([report], as_list=False)) < 110_000
    assert any("the advice on loading" in note for note in report.notes)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_decompressed_records_are_not_kept(tmp_path: Path) -> None:
    """40 records of 8 MB each, which a few kB hold, in far less than 320 MB."""
    file = tmp_path / "a.zip"
    blob = b"\x80\x04\x8e" + pack("<Q", 8 * MEGABYTE) + bytes(8 * MEGABYTE) + b"."
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"{number}.pkl", blob)
    # VmHWM is of this program alone; ru_maxrss would count what its parent used.
    code = (
        f"import ptinspect; print(ptinspect.scan({str(file)!r}).verdict);"
        " print(*[x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    verdict, kilobytes = done.stdout.split()
    assert verdict == "clean"
    assert int(kilobytes) < 150_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGBUS")
def test_a_file_that_is_truncated_while_it_is_scanned_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = put(tmp_path, torch_zip(GOOD), "good.pt")
    large = put(tmp_path, b"\x80\x04" + bytes(MAX_COPY_BYTES + 5 * MEGABYTE), "large.pkl")
    real = dispatch.scan_source

    def truncate_first(source: object, state: object) -> None:
        if "large" in str(getattr(state, "path", "")):
            source.window()  # type: ignore[attr-defined]
            os.truncate(large, 4096)
        real(source, state)  # type: ignore[arg-type]

    monkeypatch.setattr(dispatch, "scan_source", truncate_first)
    monkeypatch.setattr("ptinspect.safety.scan.can_fork", lambda: True)
    reports = ptinspect.scan_many([str(good), str(large), str(good)])
    assert [report.verdict for report in reports] == ["clean", "unreadable", "clean"]
    assert re.search("became shorter|died", reports[1].errors[0].message)


def _rows_of_pickles() -> bytes:
    return GOOD + b"\xff" + b"\x80\x04N0" * 200_000


DENSE = {
    "end records of a zip": lambda: torch_zip(GOOD) + b"PK\x05\x06" * 100_000,
    "protocols behind a pickle": _rows_of_pickles,
    "bytes that look like opcodes": lambda: (
        b"\x80\x04](" + (b"C\x14" + b"N" * 20) * 150_000 + b"e."
    ),
    "frames in base64 in Parquet": lambda: b"PAR1" + b"gASV" * 100_000,
    "pickles in base64": lambda: b'["' + b'gASVAAAAAAAAAAAAAAAAAAAAAA", "' * 20_000 + b'"]',
}


@pytest.mark.parametrize("kind", DENSE)
def test_what_looks_like_files_is_scanned_in_proportion(kind: str, tmp_path: Path) -> None:
    seconds, report = seconds_and_report(tmp_path, DENSE[kind](), "a.file")
    assert seconds < 5
    assert report.verdict == "clean" or kind not in ("bytes that look like opcodes",)


def test_pickles_nested_in_bytes_are_never_clean(tmp_path: Path) -> None:
    data = BAD
    for _ in range(20):
        data = b"\x80\x04B" + pack("<I", len(data)) + data + b"."
        assert scanned(tmp_path, data, "a.pkl").verdict in ("dangerous", "unknown")
