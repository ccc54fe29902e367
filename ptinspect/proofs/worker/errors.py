"""What a job cannot do, told to the parent in its answer."""

from __future__ import annotations


class CannotRun(Exception):
    """The proof cannot be run: message, and what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def said(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
