"""Local files, standard input, open file objects, and the files below a folder."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING, TypeAlias, cast

from ptinspect.errors import DamagedError, FormatError, MissingFileError, Place, PtInspectError
from ptinspect.source.base import MemorySource, Source
from ptinspect.text import count_text, shell_word

if TYPE_CHECKING:
    from mmap import mmap

    from ptinspect.pickling.values import Buffer

    PathOrFile: TypeAlias = str | os.PathLike[str] | IO[bytes]

MAX_COPY_BYTES = 8 << 20
"""Files up to this size are copied to memory, which is fast and unaffected by later changes of the
file. Larger ones are mapped, read-only."""

CHUNK = 1 << 20
"""Bytes per read of a pipe."""


def open_source(path_or_file: PathOrFile) -> Source:
    """Open a path, `-` (standard input), or a file object in binary mode.

    A file object is read from its current position, as torch.load does; a pipe is copied to a
    temporary file. TypeError if it is neither; FormatError for a folder; PtInspectError if it is
    missing, not permitted, or not a regular file.
    """
    check_type(path_or_file)
    if isinstance(path_or_file, (str, os.PathLike)):
        path = os.fspath(path_or_file)
        if path != "-":
            return _open_path(path)
        if sys.stdin is None:
            raise PtInspectError("there is no standard input", path="-")
        return _open_file(cast("IO[bytes]", getattr(sys.stdin, "buffer", sys.stdin)), "-")
    name = getattr(path_or_file, "name", None)
    return _open_file(path_or_file, name if isinstance(name, str) else "<file object>")


def check_type(path_or_file: object) -> None:
    """Raise TypeError if the argument is neither a path nor a file object."""
    is_path = isinstance(path_or_file, (str, os.PathLike))
    if not is_path and not callable(getattr(path_or_file, "read", None)):
        kind = type(path_or_file).__name__
        hint = " (io.BytesIO(data) makes bytes a file)" if kind == "bytes" else ""
        raise TypeError(f"expected a path or a binary file object, not {kind}{hint}")


class LocalSource(Source):
    """A regular file from offset `start` on. Owns its descriptor."""

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
        return self._descriptor

    def read(self, offset: int, length: int) -> bytes:
        self.check_range(offset, length)
        descriptor = self._open_descriptor()
        parts: list[bytes] = []
        position, left = self._start + offset, length
        while left:
            try:
                part = _read_at(descriptor, left, position)
            except OSError as error:
                raise _read_error(error, self.path) from error
            if not part:
                message = "the file became shorter while it was read"
                raise DamagedError(message, where=Place(None, position))
            if len(part) == length:
                return part
            parts.append(part)
            position += len(part)
            left -= len(part)
        return b"".join(parts)

    def read_into(self, offset: int, buffer: bytearray) -> None:
        if hasattr(os, "preadv"):
            self.check_range(offset, len(buffer))
            with suppress(OSError):  # `read` raises it again, with the path
                if os.preadv(self._open_descriptor(), [buffer], self._start + offset) == len(
                    buffer
                ):
                    return
        super().read_into(offset, buffer)

    def window(self) -> tuple[Buffer, int, int]:
        if self.size <= MAX_COPY_BYTES:
            if self._copy is None:
                self._copy = self.read(0, self.size)
            return self._copy, 0, self.size
        return self._map(scattered=False), self._start, self._start + self.size

    def headers(self) -> tuple[Buffer, int]:
        if not self.size:
            return b"", 0
        return self._map(scattered=True), self._start

    def _map(self, scattered: bool) -> mmap:
        """Map the file, read-only. `scattered` disables read-ahead, which would load most of a
        large file for its headers."""
        import mmap

        descriptor = self._open_descriptor()
        if scattered not in self._maps:
            try:
                view = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise PtInspectError(f"it cannot be mapped: {error}", path=self.path) from error
            if scattered and self.size > MAX_COPY_BYTES and hasattr(mmap, "MADV_RANDOM"):
                view.madvise(mmap.MADV_RANDOM)
            self._maps[scattered] = view
        return self._maps[scattered]

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise PtInspectError("it is closed", path=self.path)
        return self._descriptor

    def close(self) -> None:
        """Close the file. A map lives as long as a value refers to it."""
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
        mode = os.stat(path).st_mode  # first, because opening a pipe would wait
        if stat.S_ISDIR(mode):
            check_listable(path)
            raise FormatError("it is a folder, not a file", path=path)
        if stat.S_ISFIFO(mode):
            hint = "pass its content on standard input: ptinspect show - < PIPE"
            raise PtInspectError("it is a pipe, not a file", path=path, hint=hint)
        if not stat.S_ISREG(mode):
            raise PtInspectError("it is a device or a socket, not a file", path=path)
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return LocalSource(os.open(path, flags), path)
    except ValueError as error:  # a NUL in the path
        hint = "a file name cannot contain these characters"
        raise PtInspectError(f"no such file: {error}", path=path, hint=hint) from error
    except OSError as error:
        raise _read_error(error, path) from error


def _read_error(error: OSError, path: str) -> PtInspectError:
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            message = f"it is a link to {os.readlink(path)}, which does not exist"
            return MissingFileError(message, path=path)
        from difflib import get_close_matches

        folder, name = os.path.split(path)
        hint = "a path without a leading / is relative to the folder in which the command runs"
        if path.startswith(("http://", "https://")):
            hint = "download it first and show the file: this version does not read URLs"
        else:
            try:
                if matches := get_close_matches(name, os.listdir(folder or "."), 1):
                    hint = f"did you mean {shell_word(os.path.join(folder, matches[0]))}?"
            except OSError:
                hint = f"there is no folder {folder}"
        return MissingFileError("no such file", path=path, hint=hint)
    if isinstance(error, PermissionError):
        return PtInspectError("no permission to read it", path=path)
    return PtInspectError(f"it cannot be read: {error.strerror or error}", path=path)


def _open_file(file: IO[bytes], path: str) -> Source:
    """Open a file object: in memory, on disk (with a duplicate descriptor), or copied."""
    try:
        if isinstance(file, io.BytesIO):
            return MemorySource(file.getvalue(), path, start=min(file.tell(), len(file.getvalue())))
        descriptor = _regular_descriptor(file)
        if descriptor is not None:
            return LocalSource(os.dup(descriptor), path, file.tell())
        import tempfile

        # What can only be read once, and in order, is copied to a file without a name.
        with tempfile.TemporaryFile() as copy:
            chunk: object = file.read(CHUNK)
            while isinstance(chunk, bytes | bytearray) and chunk:
                copy.write(chunk)
                chunk = file.read(CHUNK)
            if not isinstance(chunk, bytes | bytearray):
                hint = 'open it in binary mode: "rb"'
                raise PtInspectError("it is open in text mode", path=path, hint=hint)
            copy.flush()
            return LocalSource(os.dup(copy.fileno()), path)
    except OSError as error:
        raise _read_error(error, path) from error
    except ValueError as error:  # "I/O operation on closed file"
        raise PtInspectError(f"it cannot be read: {error}", path=path) from error


def _regular_descriptor(file: IO[bytes]) -> int | None:
    """Return the descriptor of a plain file object on a regular file, or None. Those of other
    objects (`gzip.GzipFile`) read other bytes than their `read`."""
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


# The files below a folder, and counts of what is left out

LeftOut: TypeAlias = Counter[str]
"""How many items of a folder are not read, by their kind."""

VERSION_CONTROL = "version control folder"
FOLDER_LINK = "link to a folder"
BROKEN_LINK = "broken link"
EXCLUDED = "excluded"
_PLURALS = {FOLDER_LINK: "links to folders", EXCLUDED: EXCLUDED}

_VERSION_CONTROL_FOLDERS = frozenset((".git", ".hg", ".svn"))


def files_below(
    folder: str, left_out: LeftOut, is_excluded: Callable[[str], bool] = lambda path: False
) -> Iterator[str]:
    """Yield the files below a folder, sorted by name.

    A folder that cannot be listed is yielded as well: opening it raises an error that says so.
    Version control folders are not entered and links to folders are not followed; `left_out`
    counts them.
    """
    unlisted: list[OSError] = []
    for base, folders, names in os.walk(folder, onerror=unlisted.append):
        yield from _unlisted_folders(unlisted, folder)
        entered = []
        for name in sorted(folders):
            path = os.path.join(base, name)
            if name in _VERSION_CONTROL_FOLDERS:
                left_out[VERSION_CONTROL] += 1
            elif is_excluded(path):
                left_out[EXCLUDED] += 1
            elif os.path.islink(path):
                left_out[FOLDER_LINK] += 1
            else:
                entered.append(name)
        folders[:] = entered
        for name in sorted(names):
            path = os.path.join(base, name)
            if is_excluded(path):
                left_out[EXCLUDED] += 1
            else:
                yield path
    yield from _unlisted_folders(unlisted, folder)


def find_files(paths: Iterable[str], exclude: Collection[str], left_out: LeftOut) -> Iterator[str]:
    """Yield the files of paths, folders and globs; those of a folder by name.

    A path that does not exist and a folder that cannot be listed are yielded as well, so that
    opening them raises an error. `exclude` has globs of paths, names and folders; `left_out` counts
    what is not yielded.
    """

    def is_excluded(path: str) -> bool:
        if not exclude:
            return False
        from fnmatch import fnmatch

        parts = path.replace(os.sep, "/").split("/")
        parents = ["/".join(parts[: index + 1]) for index in range(len(parts))]
        return any(fnmatch(text, glob) for glob in exclude for text in (*parents, *parts))

    for path in paths:
        matches = [path]
        is_glob = any(char in path for char in "*?[") and not os.path.lexists(path)
        if is_glob:
            import glob

            matches = sorted(glob.glob(path, recursive=True)) or [path]
        for match in matches:
            if match != "-" and os.path.isdir(match):
                if not is_glob or "**" not in path:
                    yield from files_below(match, left_out, is_excluded)
            elif is_excluded(match):
                left_out[EXCLUDED] += 1
            else:
                yield match


def _unlisted_folders(errors: list[OSError], folder: str) -> Iterator[str]:
    while errors:
        name = errors.pop().filename
        yield os.fsdecode(name) if name else folder


def check_listable(folder: str) -> None:
    """Raise PtInspectError if the folder cannot be listed."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        reason = f"the folder cannot be listed: {error.strerror or error}"
        raise PtInspectError(reason, path=folder) from error


def left_out_text(left_out: LeftOut) -> str:
    """Return `1 version control folder, 2 links to folders`."""
    return ", ".join(
        count_text(count, kind, _PLURALS.get(kind)) for kind, count in sorted(left_out.items())
    )
