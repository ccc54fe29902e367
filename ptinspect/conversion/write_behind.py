"""Bytes on their way to the disk while more are written.

An output is put on the disk (fsync) before it takes its name. Where the system begins with that
only at the end, the disk idles while the bytes are copied, and the program while the disk works:
of 1 GiB that was half of the time. So a thread asks for it every now and then.
"""

from __future__ import annotations

import os
from threading import Thread

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
