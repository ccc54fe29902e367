"""Files that appear complete or not at all.

Data goes to a temporary file in the destination folder, is flushed to disk (fsync) and then takes
its final name in one rename; the folder is synced after that. Errors, signals and full disks leave
neither a partial file nor the temporary one. After `kill -9` the temporary file may remain, under
its own name.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import threading
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from ptinspect.errors import PtInspectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

WRITEBACK_INTERVAL = 64 << 20
"""Number of bytes after which a thread makes the system write them to the disk."""

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_CATCHABLE_SIGNALS = ("SIGTERM", "SIGHUP")
_MAX_TEMPORARY_NAMES = 100


class Terminated(BaseException):
    """Raised when a signal asks the program to end, so that open files are cleaned up."""


class AtomicFile:
    """A file being written under a temporary name. The first `write` creates it.

    Attributes:
        path: the name as the caller gave it.
        descriptor: of the temporary file, open for reading and writing; -1 while it is closed.
        temporary: path of the temporary file; empty before the first write and after `commit`.
    """

    def __init__(self, path: str, force: bool) -> None:
        self.path = path
        self.force = force
        self.target = os.path.realpath(path)  # a symbolic link keeps pointing to the same file
        self.descriptor = -1
        self.temporary = ""
        self._writeback = _BackgroundWriteback()

    def write(self, data: bytes | bytearray | memoryview, offset: int | None = None) -> None:
        """Write all of `data` at the current position; or at an offset, where neither the position
        changes nor the bytes are counted, so that threads can do it. The file must be open then."""
        if not self.temporary and offset is None:
            self._open()
        with map_os_errors(self.path), memoryview(data) as view:
            done = 0
            while done < len(view):
                part = view[done : done + (1 << 30)]
                if offset is None:
                    count = os.write(self.descriptor, part)
                    self.count_written(count)
                else:
                    count = os.pwrite(self.descriptor, part, offset + done)
                done += count

    def count_written(self, count: int) -> None:
        """Record that `count` bytes were written to `descriptor`, by `write` or by the kernel."""
        self._writeback.count_written(self.descriptor, count)

    def finish(self) -> None:
        """Sync the data to disk and close the temporary file. May be called twice."""
        if self.descriptor >= 0:
            with map_os_errors(self.path):
                self._writeback.wait()
                os.fsync(self.descriptor)
            self._close()  # Windows cannot rename an open file

    def commit(self) -> None:
        """Give the file its final name. Does nothing if it was never written to."""
        self.finish()
        if self.temporary:
            with map_os_errors(self.path):
                self._rename()
                self.temporary = ""
                _sync_folder(os.path.dirname(self.target))

    def discard(self) -> None:
        """Remove the temporary file if there is one."""
        self._close()
        temporary, self.temporary = self.temporary, ""
        if temporary:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _open(self) -> None:
        check_destination(self.path, force=self.force)
        mode = _mode(self.target)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        folder, name = os.path.split(self.target)
        name = os.fsdecode(os.fsencode(name)[:200])
        with map_os_errors(self.path):
            for number in range(_MAX_TEMPORARY_NAMES):
                # Stored before the file exists: a signal may come at any moment, and `discard`
                # must know the name.
                self.temporary = os.path.join(folder, f".{name}.{os.getpid()}-{number}.part")
                try:
                    self.descriptor = os.open(self.temporary, flags, 0o666)
                    break
                except FileExistsError:  # left by a process that was killed
                    self.temporary = ""
            else:
                raise FileExistsError(errno.EEXIST, "too many temporary files of that name exist")
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(self.descriptor, stat.S_IMODE(mode))

    def _rename(self) -> None:
        if self.force:
            os.replace(self.temporary, self.target)
            return
        # Without `force` not even a file that was created in the meantime may be overwritten:
        # link and (on Windows) rename fail if the name is taken.
        try:
            if os.name == "nt":
                os.rename(self.temporary, self.target)
                return
            os.link(self.temporary, self.target)
        except FileExistsError:
            raise already_exists_error(self.path) from None
        except OSError:  # a file system without hard links
            check_destination(self.path, force=False)
            os.replace(self.temporary, self.target)
        else:
            os.unlink(self.temporary)

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def reserve_blocks(descriptor: int, offset: int, length: int) -> None:
    """Allocate blocks on the disk for bytes that will be written, where the system can do that:
    large writes then take a fifth less time in the kernel of Linux. Errors are left to the writes.
    """
    fallocate = _fallocate()
    if fallocate is not None and descriptor >= 0:
        fallocate(descriptor, _KEEP_SIZE, offset, length)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """Return the system call of Linux. os.posix_fallocate would write to each block where the file
    system cannot allocate it (NFS)."""
    if sys.platform != "linux" or sys.maxsize <= 1 << 32:
        return None
    try:
        import ctypes

        function = ctypes.CDLL(None).fallocate
    except (ImportError, OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


class _BackgroundWriteback:
    """Makes the system write to the disk, in a thread, what was written to a file, so that the
    final fsync is short.

    For POSIX_FADV_DONTNEED, Linux starts to write the pages of a range (mm/fadvise.c), and keeps
    those that are not on the disk yet. fdatasync would wait for them, and the disk for the next
    call. Errors of the disk are those of the final fsync. Does nothing on other systems.
    """

    def __init__(self) -> None:
        self._written = self._started = 0
        self._thread: threading.Thread | None = None

    def count_written(self, descriptor: int, count: int) -> None:
        self._written += count
        start, length = self._started, self._written - self._started
        if length < WRITEBACK_INTERVAL or not hasattr(os, "posix_fadvise"):
            return
        if self._thread is None or not self._thread.is_alive():
            self._started = self._written
            duplicate = os.dup(descriptor)  # the original may be closed while the thread runs
            arguments = duplicate, start, length
            self._thread = threading.Thread(target=self._run, args=arguments, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the system allows no more threads
                self._thread = None
                os.close(duplicate)

    def _run(self, descriptor: int, start: int, length: int) -> None:
        try:
            with suppress(OSError):
                os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)  # type: ignore[attr-defined,unused-ignore]
        finally:
            os.close(descriptor)

    def wait(self) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join()


@contextmanager
def atomic_outputs(paths: Sequence[str], *, force: bool = False) -> Iterator[list[AtomicFile]]:
    """Open files that take their final names, in order, if the block ends without an error.

    Each file is created by its first write. With many files, call `finish` on one before writing
    the next: systems allow only some hundred open descriptors.

    Raises:
        PtInspectError: a file exists (without `force`) or cannot be written.
    """
    files: list[AtomicFile] = []
    with signals_raise():
        try:
            files += [AtomicFile(path, force) for path in paths]
            yield files
            for file in files:
                file.commit()
        finally:
            for file in files:
                file.discard()


def write_file(path: str, data: bytes, *, force: bool = False) -> None:
    """Write `data` to a file that appears complete or not at all."""
    with atomic_outputs([path], force=force) as (file,):
        file.write(data)


@contextmanager
def atomic_folder(path: str) -> Iterator[str]:
    """Yield a temporary folder that replaces the folder `path` if the block ends without an error.

    The caller checks beforehand that `path` may be replaced. OSErrors become PtInspectErrors.
    """
    import shutil

    target = os.path.realpath(path)
    prefix = f"{target}.{os.urandom(4).hex()}"
    temporary, replaced = f"{prefix}.tmp", f"{prefix}.old"
    try:
        with map_os_errors(path):
            os.mkdir(temporary)
            yield temporary
            if os.path.isdir(target):
                os.rename(target, replaced)
            try:
                os.rename(temporary, target)
            except OSError:
                if os.path.isdir(replaced):
                    os.rename(replaced, target)
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def check_destination(path: str, *, force: bool, sources: Iterable[str | int] = ()) -> None:
    """Raise PtInspectError if a file cannot be written to `path`.

    Args:
        path: the destination.
        force: an existing regular file may be overwritten.
        sources: paths or descriptors of files that are read; `path` must be none of them.
    """
    mode = _mode(path)
    if mode is None:
        if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
            raise _write_error(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), path)
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise PtInspectError(f"cannot be overwritten: it is {kind}", path=path)
    for source in sources:
        with suppress(OSError, ValueError):
            if os.path.samestat(os.stat(source), os.stat(path)):
                name = source if isinstance(source, str) else "the source"
                raise PtInspectError(
                    f"cannot be overwritten: it is the same file as {name}",
                    path=path,
                    hint="write to another name and rename that file afterwards",
                )
    if not force:
        raise already_exists_error(path)


def already_exists_error(path: str) -> PtInspectError:
    """Return the error for a file or folder that is not overwritten without `force`."""
    return PtInspectError("already exists", path=path, hint="give --force to overwrite it")


def check_disk_space(path: str, size: int) -> None:
    """Raise PtInspectError if the disk of `path` has fewer than `size` bytes free."""
    if not size:
        return
    import shutil  # takes 2 ms

    try:
        free = shutil.disk_usage(os.path.dirname(os.path.realpath(path))).free
    except (OSError, ValueError):
        return
    if size > free:
        raise PtInspectError(
            f"{size:,} bytes are needed, but the disk has only {free:,} free", path=path
        )


@contextmanager
def map_os_errors(path: str) -> Iterator[None]:
    """Re-raise OSErrors from the block as PtInspectErrors about writing `path`."""
    try:
        yield
    except PtInspectError:  # may be a FileNotFoundError as well
        raise
    except OSError as error:
        raise _write_error(error, path) from error


def _write_error(error: OSError | ValueError, path: str) -> PtInspectError:
    code = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    hint = None
    if code in (errno.ENOSPC, errno.EDQUOT):
        hint = "no file was written: free some space, or write to another disk"
    elif code == errno.EFBIG:
        hint = "no file was written: it would exceed the file size limit of this system"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a folder that you may write to"
    elif code == errno.ENOENT:
        reason, hint = "its folder does not exist", "create the folder first"
    return PtInspectError(f"cannot be written: {reason}", path=path, hint=hint)


def _mode(path: str) -> int | None:
    """Return `st_mode` of a file, or None if there is none."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _write_error(error, path) from error


def _sync_folder(folder: str) -> None:
    """Sync a rename to disk. Windows cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the file has its name nevertheless
    finally:
        os.close(descriptor)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `Terminated` in the block, then end the program as usual.

    Only signals that have no handler yet, and only in the main thread, as Python requires.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _CATCHABLE_SIGNALS if hasattr(signal, name)]
    unhandled = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    received: list[int] = []

    def raise_terminated(number: int, frame: object) -> NoReturn:
        received.append(number)
        raise Terminated(f"terminated by {signal.Signals(number).name}")

    # Ignored, so that writing past RLIMIT_FSIZE fails with EFBIG instead.
    size_signal = getattr(signal, "SIGXFSZ", None)
    if size_signal is not None and signal.getsignal(size_signal) == signal.SIG_DFL:
        signal.signal(size_signal, signal.SIG_IGN)
    for number in unhandled:
        signal.signal(number, raise_terminated)
    try:
        yield
    finally:
        for number in unhandled:
            signal.signal(number, signal.SIG_DFL)
        if received:
            name = signal.Signals(received[0]).name
            sys.stderr.write(f"ptinspect: terminated by {name}: no partial file remains\n")
            os.kill(os.getpid(), received[0])
