"""A file of this machine, standard input, or an open file object."""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import IO, TYPE_CHECKING, TypeAlias, cast

from ptinspect.errors import DamagedError, FormatError, Place, PtInspectError
from ptinspect.source.base import MemorySource, Source
from ptinspect.text import shell_word

if TYPE_CHECKING:
    from mmap import mmap

    from ptinspect.pickling.values import Buffer

    PathOrFile: TypeAlias = str | os.PathLike[str] | IO[bytes]

MAX_COPY_BYTES = 8 << 20
"""Up to this size the machine gets a copy of the file (fast, and deaf to later changes of the
file); beyond it a read-only map."""

CHUNK = 1 << 20
"""What is spooled, and read by one system call, at a time."""


def open_source(path_or_file: PathOrFile) -> Source:
    """The bytes of a path, of `-` (standard input), or of a file object that is open in binary
    mode (from its current position on, as torch.load reads it).

    A pipe is spooled to a temporary file. Raises FormatError for a folder, PtInspectError for
    what is missing, not permitted, or no regular file.
    """
    if isinstance(path_or_file, (str, os.PathLike)):
        path = os.fspath(path_or_file)
        if path != "-":
            return _open_path(path)
        if sys.stdin is None:
            raise PtInspectError("there is no standard input", path="-")
        return _open_file(cast("IO[bytes]", getattr(sys.stdin, "buffer", sys.stdin)), "-")
    name = getattr(path_or_file, "name", None)
    return _open_file(path_or_file, name if isinstance(name, str) else "<file object>")


class LocalSource(Source):
    """A regular file, by its descriptor, which it owns. `start`: where in it byte 0 lies."""

    def __init__(self, descriptor: int, path: str, start: int = 0) -> None:
        self.path = path
        self.base = start
        self.size = max(os.fstat(descriptor).st_size - start, 0)
        self._descriptor: int | None = descriptor
        self._start = start
        self._maps: dict[bool, mmap] = {}
        self._copy: bytes | None = None

    @property
    def descriptor(self) -> int | None:
        """See `Source.descriptor`; None once it is closed."""
        return self._descriptor

    def read(self, offset: int, length: int) -> bytes:
        """See `Source.read`."""
        self.within(offset, length)
        if self._descriptor is None:
            raise PtInspectError("it was closed already", path=self.path)
        parts: list[bytes] = []
        at, left = self._start + offset, length
        while left:
            try:
                part = _read_at(self._descriptor, left, at)
            except OSError as error:
                raise _failed(error, self.path) from error
            if not part:
                raise DamagedError(
                    "the file became shorter while it was read", where=Place(None, at)
                )
            if len(part) == length:
                return part
            parts.append(part)
            at += len(part)
            left -= len(part)
        return b"".join(parts)

    def window(self) -> tuple[Buffer, int, int]:
        """See `Source.window`: a copy up to `MAX_COPY_BYTES` bytes, a map beyond."""
        if self.size <= MAX_COPY_BYTES:
            if self._copy is None:
                self._copy = self.read(0, self.size)
            return self._copy, 0, self.size
        return self._map(scattered=False), self._start, self._start + self.size

    def headers(self) -> tuple[Buffer, int]:
        """See `Source.headers`."""
        if not self.size:
            return b"", 0
        return self._map(scattered=True), self._start

    def _map(self, scattered: bool) -> mmap:
        """The file as a read-only map. `scattered`: without reading ahead, which would fetch
        a large part of a large file for its headers alone."""
        import mmap

        if self._descriptor is None:
            raise PtInspectError("it was closed already", path=self.path)
        if scattered not in self._maps:
            try:
                made = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise PtInspectError(f"cannot be mapped: {error}", path=self.path) from error
            if scattered and self.size > MAX_COPY_BYTES and hasattr(mmap, "MADV_RANDOM"):
                made.madvise(mmap.MADV_RANDOM)
            self._maps[scattered] = made
        return self._maps[scattered]

    def close(self) -> None:
        """Closes the file. A map that a value still refers to lives until that value goes."""
        descriptor, self._descriptor = self._descriptor, None
        self._maps.clear()
        self._copy = None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()


if hasattr(os, "pread"):

    def _read_at(descriptor: int, length: int, offset: int) -> bytes:
        return os.pread(descriptor, length, offset)

else:  # Windows: one position per descriptor, and so one reader at a time

    def _read_at(descriptor: int, length: int, offset: int) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, min(length, CHUNK))


def _open_path(path: str) -> Source:
    try:
        _must_be_regular(os.stat(path).st_mode, path)  # before open: that of a pipe would wait
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return LocalSource(os.open(path, flags), path)
    except ValueError as error:  # a NUL in the path
        raise PtInspectError(
            f"no such file: {error}", path=path, hint="the name holds what no file's name can"
        ) from error
    except OSError as error:
        raise _failed(error, path) from error


def _must_be_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise FormatError("it is a folder, not a file", path=path)
    if stat.S_ISFIFO(mode):
        raise PtInspectError(
            "it is a pipe, not a file",
            path=path,
            hint="give its content on standard input: ptinspect show - < PIPE",
        )
    if not stat.S_ISREG(mode):
        raise PtInspectError("it is a device or a socket, not a file", path=path)


def _failed(error: OSError, path: str) -> PtInspectError:
    if isinstance(error, FileNotFoundError):
        hint = None
        if path.startswith(("http://", "https://")):
            hint = "download it first and show the file: this version does not read URLs"
        else:
            hint = _alike(path)
        return PtInspectError("no such file", path=path, hint=hint)
    if isinstance(error, PermissionError):
        return PtInspectError("no permission to read it", path=path)
    return PtInspectError(f"cannot be read: {error.strerror or error}", path=path)


def _alike(path: str) -> str:
    """What may have been meant by the name of a file that is not there."""
    from difflib import get_close_matches

    folder, name = os.path.split(path)
    try:
        there = os.listdir(folder or ".")
    except OSError:
        return f"there is no folder {folder}"
    close = get_close_matches(name, there, 1)
    if close:
        return f"did you mean {shell_word(os.path.join(folder, close[0]))}?"
    return "the name is taken from the folder that the command is run in, unless it begins with /"


def _open_file(file: IO[bytes], path: str) -> Source:
    """A file object: in memory, on disk (its descriptor is duplicated), or spooled."""
    try:
        if isinstance(file, io.BytesIO):
            return MemorySource(file.getvalue(), path, start=min(file.tell(), len(file.getvalue())))
        descriptor = _regular_descriptor(file)
        if descriptor is not None:
            return LocalSource(os.dup(descriptor), path, file.tell())
        return _spool(file, path)
    except OSError as error:
        raise _failed(error, path) from error
    except ValueError as error:  # "I/O operation on closed file"
        raise PtInspectError(f"cannot be read: {error}", path=path) from error


def _regular_descriptor(file: IO[bytes]) -> int | None:
    """The descriptor of a plain file object on a regular file. Others have a descriptor too,
    but it does not give what their `read` gives (`gzip.GzipFile`)."""
    raw = getattr(file, "raw", file)
    if not isinstance(file, (io.BufferedReader, io.BufferedRandom, io.FileIO)):
        return None
    if not isinstance(raw, io.FileIO):
        return None
    descriptor = raw.fileno()
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "it is a folder, not a file")
    return descriptor if stat.S_ISREG(mode) else None


def _spool(file: IO[bytes], path: str) -> Source:
    """Copies what can only be read once, and in order, to a temporary file without a name."""
    import tempfile

    with tempfile.TemporaryFile() as copy:
        while True:
            chunk: object = file.read(CHUNK)
            if not isinstance(chunk, (bytes, bytearray)):
                raise PtInspectError(
                    "it is open in text mode", path=path, hint='open it in binary mode: "rb"'
                )
            if not chunk:
                break
            copy.write(chunk)
        copy.flush()
        return LocalSource(os.dup(copy.fileno()), path)
