"""The progress bar: on a terminal, for work that takes a while, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES
from tests.safety.files import GOOD, torch_zip

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")

MODEL = FIXTURES / "seed" / "model.pth"


def said(*arguments: object, after: float = 0, folder: Path | None = None) -> str:
    """What the terminal gets that is standard error; standard output is a pipe. after: seconds
    from which on there is a bar."""
    import pty

    code = f"import ptinspect.cli.output as p; p.DELAY = {after}; from ptinspect.cli import main"
    command = [sys.executable, "-c", f"{code}; main()", *map(str, arguments)]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    main, other = pty.openpty()
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, stderr=other, env=env,
        cwd=folder,
    )  # fmt: skip
    os.close(other)
    parts = []
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:  # the other side is gone
            break
        if not part:
            break
        parts.append(part)
    os.close(main)
    assert running.wait(timeout=60) == 0
    return b"".join(parts).decode("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        (tmp_path / f"{number}.pt").write_bytes(torch_zip(GOOD))
    return tmp_path


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_scan_counts_files(folder: Path, jobs: str) -> None:
    seen = said("scan", folder, "-j", jobs)
    assert "40/40" in seen
    assert "100%" in seen or seen.count("40/40")
    assert seen.endswith("\r\n")
    assert said("scan", folder, "-j", jobs, "--no-progress") == ""


def test_show_tells_what_is_read() -> None:
    seen = said("show", "--hash", "--stats", MODEL)
    assert "SHA-256 of the file" in seen
    assert "reading tensors" in seen
    assert "100%" in seen
    assert said("show", "--hash", "--stats", "--no-progress", MODEL) == ""
    assert said("show", MODEL) == ""  # nothing is read in full


def test_convert_tells_what_is_written(tmp_path: Path) -> None:
    seen = said("convert", MODEL, tmp_path / "a.safetensors")
    assert "model.pth" in seen
    assert "100%" in seen
    assert "%" not in said("convert", "--no-progress", MODEL, tmp_path / "b.safetensors")


def test_short_work_has_no_bar(folder: Path, tmp_path: Path) -> None:
    assert said("scan", folder, after=60) == ""
    assert said("show", "--hash", MODEL, after=60) == ""
    assert "%" not in said("convert", MODEL, tmp_path / "a.safetensors", after=60)


def test_a_pipe_gets_no_bar(folder: Path) -> None:
    code = "import ptinspect.cli.output as p; p.DELAY = 0; from ptinspect.cli import main; main()"
    command = [sys.executable, "-c", code, "scan", str(folder)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""


def test_a_name_does_not_act_on_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b]0;title\x07.pth").write_bytes(MODEL.read_bytes())
    seen = said("convert", "a\x1b]0;title\x07.pth", "b.safetensors", folder=tmp_path)
    assert "\x1b]0" not in seen
    assert "\\x1b]0;title" in seen
