"""Forked workers: the same answers, in order, whatever happens to a worker.

In a process of its own, which has no threads: pytest's workers have some.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, ROOT
from tests.safety.files import BAD, GOOD, OWN, torch_zip

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="nothing is forked here"
)

BEGIN = """
import os, sys, time
from ptinspect.safety import scan as scan_module
from ptinspect.safety.scan import map_files, scan, scan_many
scan_module.BASE_SECONDS = 1
paths = sys.argv[1:]
def scan_all(scan):
    return [scan(path) for path in paths]
"""


def python(code: str, *paths: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, *paths],
        capture_output=True,
        input=stdin,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    made = []
    for number in range(40):
        file = tmp_path / f"{number:02}.pt"
        file.write_bytes(torch_zip((GOOD, OWN, BAD)[number % 3]))
        made.append(str(file))
    return made


def test_the_reports_are_those_of_one_process() -> None:
    code = """
assert scan_module.can_fork()
paths = [os.path.join(base, name) for path in paths for base, _, names in os.walk(path)
         for name in sorted(names)]
assert map_files(scan, paths, jobs=2) == scan_all(scan)
print(len(paths))
"""
    assert int(python(code, str(FIXTURES / "containers"), str(FIXTURES / "pickles"))) > 100


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_a_file_that_kills_or_hangs_its_worker(many: list[str], jobs: int) -> None:
    code = f"""
def deadly(path):
    if path.endswith(("05.pt", "38.pt")):
        os._exit(9)
    if path.endswith("07.pt"):
        time.sleep(60)
    return scan(path)
class Broken:  # an executor that scans nothing: all is left to forked processes
    def submit(self, *task):
        raise RuntimeError
reports = map_files(deadly, paths, jobs={jobs}, executor=Broken())
assert [report.path for report in reports] == paths
for report in reports:
    if report.errors:
        print(report.path[-5:], report.verdict, report.errors[0].message)
    else:
        assert report == scan(report.path)
"""
    assert python(code, *many).splitlines() == [
        "05.pt unreadable the process that read it died",
        "07.pt unreadable it took more than 1 seconds",
        "38.pt unreadable the process that read it died",
    ]


@pytest.mark.slow
def test_a_slow_but_large_file_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "large.pt"
    file.write_bytes(torch_zip(GOOD) + bytes(8 << 20))  # four seconds more
    code = """
def slow(path):
    time.sleep(1.5)
    return scan(path)
print(*(report.errors for report in map_files(slow, paths, jobs=2)))
"""
    expected = python("print(*(scan(path).errors for path in paths))", str(file), str(file))
    assert python(code, str(file), str(file)) == expected


def test_standard_input_is_read_here(many: list[str]) -> None:
    code = """
reports = map_files(scan, [*paths[:20], "-", *paths[20:]], jobs=2)
assert [report.path for report in reports] == [*paths[:20], "-", *paths[20:]]
print(reports[20].verdict)
"""
    assert python(code, *many, stdin=torch_zip(BAD)) == "dangerous"


def test_without_any_process_the_files_are_scanned_here(many: list[str]) -> None:
    code = """
def refused():
    raise OSError(11, "no more processes")
os.fork = refused
assert scan_many(paths, jobs=2) == scan_all(scan)
"""
    python(code, *many)


def test_processes_that_can_be_started_no_more(many: list[str]) -> None:
    """What was not read is said to be so."""
    code = """
fork, started = os.fork, []
def once():
    if started:
        raise OSError(11, "no more processes")
    started.append(1)
    return fork()
os.fork = once
def deadly(path):
    if path.endswith("38.pt"):
        os._exit(9)
    return scan(path)
reports = map_files(deadly, paths, jobs=4)
assert reports[:36] == [scan(path) for path in paths[:36]]
print(*(report.verdict for report in reports[36:]))
print(reports[39].errors[0].message)
"""
    assert python(code, *many).splitlines() == [
        "unreadable unreadable unreadable unreadable",
        "no process could be started to read it: no more processes",
    ]


def test_processes_that_die_before_they_begin(many: list[str]) -> None:
    code = """
fork = os.fork
def dying():
    return fork() or os._exit(9)
os.fork = dying
print(*{report.errors[0].message for report in map_files(scan, paths, jobs=2)})
"""
    assert python(code, *many) == "the process that read it died"


def test_more_batches_than_fit_into_a_pipe(many: list[str]) -> None:
    code = """
scan_module.MAX_BATCHES = 3
assert map_files(scan, paths, jobs=2) == scan_all(scan)
"""
    python(code, *many)


def test_no_process_is_left_behind(many: list[str]) -> None:
    code = """
def interrupted(done, total):
    raise KeyboardInterrupt
try:
    map_files(scan, paths, jobs=2, progress=interrupted)
except KeyboardInterrupt:
    pass
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none")
"""
    assert python(code, *many) == "none"


def test_progress_counts_to_the_end(many: list[str]) -> None:
    code = """
told = []
map_files(scan, paths, jobs=2, progress=lambda done, total: told.append((done, total)))
assert told == sorted(set(told))
print(told[-1])
"""
    assert python(code, *many) == "(40, 40)"


def test_how_many_processes() -> None:
    code = """
os.sched_getaffinity = lambda pid: set(range(8))
print(*(scan_module.choose_job_count(files) for files in (1, 100, 128, 300, 100_000)))
import threading
threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
print(scan_module.can_fork(), scan_module.choose_job_count(1000))
"""
    assert python(code).splitlines() == ["1 1 2 4 8", "False 1"]
