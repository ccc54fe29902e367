"""`ptinspect convert` and what is around it: folders that may not be written to, small disks,
terminals and pipes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, ROOT

SEED = FIXTURES / "seed"
NOBODY = 65534
posix = pytest.mark.skipif(os.name == "nt", reason="users and terminals of POSIX")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach, too; pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


AS_NOBODY = f"""
import os, sys, tempfile
from click.testing import CliRunner
from ptinspect.cli import cli, main
with tempfile.TemporaryDirectory() as name:  # all is imported while that may be read
    for options in ([], ["--max-shard-size", "8"]):
        target = os.path.join(name, f"{{len(options)}}.safetensors")
        result = CliRunner().invoke(cli, ["convert", sys.argv[-1], target, *options])
        assert result.exit_code == 0, result.output
    CliRunner().invoke(cli, ["convert", os.path.join(name, "none.pt"), target])
sys.argv.pop()
if os.geteuid() == 0:  # root may write anywhere
    os.setgid({NOBODY})
    os.setuid({NOBODY})
main()
"""


def as_nobody(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_NOBODY, "convert", *map(str, arguments)]
    command.append(str(SEED / "model.pth"))
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@posix
@pytest.mark.parametrize("options", [(), ("--max-shard-size", "8")])
def test_a_read_only_folder(open_folder: Path, options: tuple[str, ...]) -> None:
    source = Path(shutil.copy(SEED / "model.pth", open_folder / "model.pth"))
    source.chmod(0o644)
    inner = open_folder / "inner"
    inner.mkdir()
    inner.chmod(0o555)
    target = inner / "out.safetensors"
    try:
        done = as_nobody(source, target, *options)
    finally:
        inner.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert "cannot be written: Permission denied" in done.stderr
    assert "choose a folder that you may write to" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(inner) == []


@posix
def test_a_source_that_may_not_be_read(open_folder: Path) -> None:
    source = Path(shutil.copy(SEED / "model.pth", open_folder / "model.pth"))
    source.chmod(0)
    done = as_nobody(source, open_folder / "o.pt")
    assert done.returncode == 2
    assert "no permission to read it" in done.stderr


# --- the bar --------------------------------------------------------------------------------

SLOW = """
import time
from ptinspect.conversion.output.sink import Sink
write_pieces = Sink.write_pieces
def slow(self, *args, **more):
    time.sleep(1.2)  # all pieces of a file are written in one call
    return write_pieces(self, *args, **more)
Sink.write_pieces = slow
from ptinspect.cli import main; main()
"""


def on_a_terminal(code: str, *arguments: object) -> str:
    """What a terminal shows of standard error."""
    import pty

    main, other = pty.openpty()
    command = [sys.executable, "-c", code, "convert", *map(str, arguments)]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=other, env=env)
    os.close(other)
    seen = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # the other side is gone
            break
        if not part:
            break
        seen += part
    os.close(main)
    assert running.wait(60) == 0
    return seen.decode()


@pytest.mark.slow
@posix
def test_work_above_a_second_has_a_bar_on_a_terminal(tmp_path: Path) -> None:
    seen = on_a_terminal(SLOW, SEED / "model.pth", tmp_path / "a.safetensors")
    assert "model.pth" in seen and "100%" in seen
    seen = on_a_terminal(SLOW, "--no-progress", SEED / "model.pth", tmp_path / "b.safetensors")
    assert "%" not in seen and "\r " not in seen
    quick = "from ptinspect.cli import main; main()"
    assert "%" not in on_a_terminal(quick, SEED / "model.pth", tmp_path / "c.safetensors")


@pytest.mark.slow
@posix
def test_a_pipe_has_none(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, "convert", SEED / "model.pth", tmp_path / "a.pt"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0
    assert "%" not in done.stderr and "\r" not in done.stderr
    assert all(line.startswith("ptinspect: ") for line in done.stderr.splitlines())
