"""A file that appears whole, or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ptinspect.atomic_file import atomic_outputs, check_destination, reserve_blocks
from ptinspect.errors import PtInspectError

posix = pytest.mark.skipif(os.name == "nt", reason="modes and signals of POSIX")


def write(path: Path, data: bytes, force: bool = False) -> None:
    with atomic_outputs([str(path)], force=force) as (output,):
        output.write(data)


def test_the_file_is_there_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with atomic_outputs([str(path)]) as (output,):
        output.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert os.listdir(tmp_path) == ["a.pt"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_outputs([str(tmp_path / "a")]) as (output,):
        output.write(b"abc")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_several_appear_in_order_or_none(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("1", "2")]
    with pytest.raises(KeyboardInterrupt), atomic_outputs(names) as outputs:
        outputs[0].write(b"1")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with atomic_outputs(names) as outputs:
        for output in outputs:
            output.write(b"x")
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(PtInspectError, match="already exists") as caught:
        write(path, b"new")
    assert caught.value.hint == "give force=True to overwrite it"
    assert path.read_bytes() == b"old"
    write(path, b"new", force=True)
    assert path.read_bytes() == b"new"


def test_not_even_what_appears_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with (
        pytest.raises(PtInspectError, match="already exists"),
        atomic_outputs([str(path)]) as (output,),
    ):
        output.write(b"new")
        path.write_bytes(b"somebody else's")
    assert path.read_bytes() == b"somebody else's"
    assert os.listdir(tmp_path) == ["a"]


@posix
def test_the_mode_is_what_open_gives_and_an_overwritten_file_keeps_its_own(tmp_path: Path) -> None:
    path, opened = tmp_path / "a", tmp_path / "b"
    before = os.umask(0o027)
    try:
        opened.touch()
        write(path, b"1")
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(opened.stat().st_mode) == 0o640
        path.chmod(0o604)
        write(path, b"2", force=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


@posix
def test_a_link_goes_on_pointing_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "a", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link, b"new", force=True)
    assert link.is_symlink() and target.read_bytes() == b"new"


@posix
def test_one_file_under_two_names_is_refused(tmp_path: Path) -> None:
    source, hard, soft = tmp_path / "a", tmp_path / "hard", tmp_path / "soft"
    source.write_bytes(b"1")
    os.link(source, hard)
    soft.symlink_to(source)
    for name in (source, hard, soft):
        with pytest.raises(PtInspectError, match="the same file"):
            check_destination(str(name), force=True, sources=[str(source)])
    check_destination(str(tmp_path / "other"), force=True, sources=[str(source)])


def test_what_cannot_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(PtInspectError, match="it is a folder"):
        write(tmp_path, b"", force=True)
    with pytest.raises(
        PtInspectError, match="cannot be written: its folder does not exist"
    ) as caught:
        write(tmp_path / "none" / "a", b"")
    assert caught.value.hint == "create the folder first"
    if os.path.exists("/dev/null"):
        with pytest.raises(PtInspectError, match="not a regular file"):
            write(Path("/dev/null"), b"", force=True)


CHILD = """
import sys, time
from ptinspect.atomic_file import atomic_outputs
with atomic_outputs([sys.argv[1]]) as (output,):
    output.write(b"x" * 100)
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_leaves_nothing_and_ends_as_it_would_have(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "a")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"writing\n"
    assert len(os.listdir(tmp_path)) == 1
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == -number
    if number != signal.SIGINT:  # of which Python tells itself
        assert said == f"ptinspect: terminated by {name}: no partial file remains\n".encode()
    assert os.listdir(tmp_path) == []


def test_a_thread_that_still_writes_creates_no_file_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_outputs([str(tmp_path / "a")]) as (output,):
        output.write(b"x")
        raise KeyError
    with pytest.raises(PtInspectError, match="cannot be written"):
        output.write(b"y", 1)
    assert os.listdir(tmp_path) == []


def test_reserved_blocks_do_not_change_the_file(tmp_path: Path) -> None:
    reserve_blocks(-1, 0, 1)
    with atomic_outputs([str(tmp_path / "a")]) as (output,):
        output.write(b"x")
        reserve_blocks(output.descriptor, 1, 1 << 20)
        assert os.fstat(output.descriptor).st_size == 1
        output.write(b"y")
    assert (tmp_path / "a").read_bytes() == b"xy"


@posix
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))"
    code = f"{limited}\n{CHILD}".replace("time.sleep(60)", "pass")
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "cannot be written: File too large" in done.stderr, done.stderr
    assert os.listdir(tmp_path) == []


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PtInspectError, match="Permission denied") as caught:
            write(tmp_path / "a", b"1")
        assert caught.value.hint == "choose a folder that you may write to"
    finally:
        tmp_path.chmod(0o700)


def test_a_name_left_by_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".a.{os.getpid()}-0.part").touch()
    write(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
