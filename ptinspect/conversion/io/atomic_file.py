"""A file that appears whole, or not at all.

The bytes go to a temporary file in the folder of the final one, and are on the disk (fsync)
before it takes the final name in one step (rename); then the folder is, too. An error, a
signal or a full disk leaves neither a part of the file nor the temporary one behind; after
`kill -9` the temporary one may stay, under its own name.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import threading
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, NoReturn

from ptinspect.errors import PtInspectError

EVERY = 64 << 20
"""Bytes that are new before the disk is asked again."""


class WriteBehind:
    """For one file. Does nothing where the system has no fdatasync (macOS, Windows)."""

    def __init__(self) -> None:
        self._new = 0
        self._thread: Thread | None = None
        self._error: OSError | None = None

    def wrote(self, descriptor: int, count: int) -> None:
        """`count` more bytes were given to the system."""
        self._new += count
        if self._new < EVERY or not hasattr(os, "fdatasync"):
            return
        if self._thread is None or not self._thread.is_alive():
            self._new = 0
            own = os.dup(descriptor)  # the other may be closed meanwhile
            self._thread = Thread(target=self._sync, args=(own,), daemon=True)
            self._thread.start()

    def _sync(self, own: int) -> None:
        try:
            os.fdatasync(own)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:  # which the system tells once: a later fsync may succeed
            self._error = self._error or error
        finally:
            os.close(own)

    def wait(self) -> None:
        """Until nothing is under way. Raises the OSError that the disk has answered, if any."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error


# ---


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Handler = signal.Handlers | int | None

_ENDINGS = ("SIGTERM", "SIGHUP")
"""Signals that end a program without an exception, unless somebody makes one of them."""

_TRIES = 100


class Ended(BaseException):
    """A signal asks the program to end: raised so that what is open is cleaned up on the way."""


class Output:
    """The file that is being written. `descriptor` is open for reading and writing.

    path: the final name. temporary: its name until `commit`.
    """

    def __init__(self, path: str, force: bool) -> None:
        self.path = path
        self.force = force
        self.target = os.path.realpath(path)  # a link goes on pointing to the same place
        self.folder = os.path.dirname(self.target) or "."
        self.descriptor = -1
        self.temporary = ""
        self._behind = WriteBehind()

    def open(self) -> None:
        """Makes the temporary file, with the mode that `open` gives or that the overwritten file
        has. Its name is known before it is there: a signal may come at any moment, and `discard`
        must find it."""
        mode = self._mode_of_target()
        with told(self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
            for temporary in self._free_names():
                self.temporary = temporary
                try:
                    self.descriptor = os.open(temporary, flags, 0o666)
                    break
                except FileExistsError:  # made meanwhile by another process
                    self.temporary = ""
            else:
                raise FileExistsError(errno.EEXIST, "temporary files are in the way")
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(self.descriptor, mode)

    def _free_names(self) -> Iterator[str]:
        """Names beside the final one that nobody has; those of killed processes are passed over."""
        name = os.fsdecode(os.fsencode(os.path.basename(self.target))[:200])
        for number in range(_TRIES):
            temporary = os.path.join(self.folder, f".{name}.{os.getpid()}-{number}.part")
            if not os.path.lexists(temporary):
                yield temporary

    def _mode_of_target(self) -> int | None:
        """The mode of the file that is overwritten; None where there is none. An error where it
        may not be overwritten."""
        try:
            there = os.stat(self.target)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _failed(error, self.path) from error
        must_be_free(self.path, self.force)
        return stat.S_IMODE(there.st_mode)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes all of `data` at the current position; the first opens what is not open yet."""
        if not self.temporary:
            self.open()
        with told(self.path), memoryview(data) as view:
            at = 0
            while at < len(view):
                done = os.write(self.descriptor, view[at : at + (1 << 30)])
                self.wrote(done)
                at += done

    def wrote(self, count: int) -> None:
        """`count` bytes were written to `descriptor`, here or by the kernel."""
        self._behind.wrote(self.descriptor, count)

    def finish(self) -> None:
        """Puts the bytes on the disk, and closes the temporary file. Twice is no error."""
        if self.descriptor >= 0:
            with told(self.path):
                self._behind.wait()
                os.fsync(self.descriptor)
            self._close()  # Windows renames no open file

    def commit(self) -> None:
        """Gives the file its final name, once its bytes are on the disk."""
        self.finish()
        with told(self.path):
            self._rename()
            self.temporary = ""
            _sync_folder(self.folder)

    def _rename(self) -> None:
        """Without `force` nothing is overwritten, not even what appeared meanwhile."""
        if self.force or not hasattr(os, "link"):
            os.replace(self.temporary, self.target)
            return
        try:
            os.link(self.temporary, self.target)
        except FileExistsError:
            must_be_free(self.path, self.force)
            raise
        except OSError:  # a file system without hard links
            os.replace(self.temporary, self.target)
        else:
            os.unlink(self.temporary)

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def discard(self) -> None:
        """Removes the temporary file, if it is still there."""
        self._close()
        name, self.temporary = self.temporary, ""
        if name:
            with suppress(FileNotFoundError):
                os.unlink(name)


@contextmanager
def written(paths: Sequence[str], *, force: bool = False) -> Iterator[list[Output]]:
    """Outputs of these names; they take them, in order, when the block ends without an error. Of
    several each is opened by its first bytes, and to be finished before the next: a system lends
    some hundred descriptors.

    PtInspectError where one exists (unless `force`), cannot be made, or the disk is full.
    """
    outputs: list[Output] = []
    with _signals_raise():
        try:
            outputs += [Output(path, force) for path in paths]
            if len(outputs) == 1:
                outputs[0].open()
            yield outputs
            for output in outputs:
                output.commit()
        finally:
            for output in outputs:
                output.discard()


def must_be_free(path: str, force: bool) -> None:
    """PtInspectError where something of that name is there and may not be overwritten."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _failed(error, path) from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise PtInspectError(f"it is {what}, and cannot be overwritten", path=path)
    if not force:
        raise PtInspectError("it exists already", path=path, hint="--force overwrites it")


def must_have_room(path: str, size: int) -> None:
    """PtInspectError where the folder is missing, or its disk has fewer bytes left."""
    import shutil

    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise _failed(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), path)
    try:
        free = shutil.disk_usage(folder).free
    except (OSError, ValueError):
        return
    if size > free:
        raise PtInspectError(
            f"{size:,} bytes are to be written, and the disk has room for {free:,}", path=path
        )


def must_differ(source: str | int, target: str) -> None:
    """PtInspectError where the two are one file, also by a link. source: its name or descriptor."""
    try:
        same = os.path.samestat(os.stat(source), os.stat(target))
    except (OSError, ValueError):
        return
    if same:
        raise PtInspectError(
            f"it is the same file as {source if isinstance(source, str) else 'SRC'}",
            path=target,
            hint="write to another name, and rename that afterwards",
        )


def _sync_folder(folder: str) -> None:
    """The rename itself on the disk. Windows has no descriptors of folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the file has its name all the same
    finally:
        os.close(descriptor)


@contextmanager
def told(path: str) -> Iterator[None]:
    """An OSError of the block as ours."""
    try:
        yield
    except OSError as error:
        raise _failed(error, path) from error


def _failed(error: OSError | ValueError, path: str) -> PtInspectError:
    code = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    hint = None
    if code in (errno.ENOSPC, errno.EDQUOT):
        hint = "nothing was written under that name: make room, or write to another disk"
    elif code == errno.EFBIG:
        hint = "nothing was written under that name: the file would be larger than allowed here"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a folder that you may write to"
    elif code == errno.ENOENT:
        hint = "make the folder first"
    return PtInspectError(f"cannot be written: {reason}", path=path, hint=hint)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP raise while the block runs, and then end the program as they would
    have. Only where nobody else handles them, and in the main thread, as Python asks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _ENDINGS if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    received: list[int] = []

    def ended(number: int, frame: object) -> NoReturn:
        received.append(number)
        raise Ended(f"ended by {signal.Signals(number).name}")

    big = getattr(signal, "SIGXFSZ", None)  # Python ignores it: writing then gives EFBIG
    if big is not None and signal.getsignal(big) == signal.SIG_DFL:
        signal.signal(big, signal.SIG_IGN)
    for number in ours:
        signal.signal(number, ended)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if received:
            name = signal.Signals(received[0]).name
            sys.stderr.write(f"ptinspect: ended by {name}: no file is left half-written\n")
            os.kill(os.getpid(), received[0])
