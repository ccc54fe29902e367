"""What a file is, as far as its content tells; by name and in words."""

from __future__ import annotations

from typing import NamedTuple

from ptinspect.errors import FormatError, Place


class Identity(NamedTuple):
    """format: its name, as in JSON. what: in words, "a safetensors file". hint: what to do
    with it, where ptinspect does not read it."""

    format: str
    what: str
    hint: str | None = None

    def refused(self) -> FormatError:
        """The error that names it."""
        return FormatError(f"it is {self.what}, not a file that torch.save writes", hint=self.hint)


READABLE = (
    "torch-zip", "torch-legacy", "torch-legacy-tar", "pickle", "safetensors", "safetensors-index",
    "torch-index",
)  # fmt: skip
"""The formats that `open_archive` opens."""


def unknown(head: bytes) -> FormatError:
    """The error for content that nothing is known to begin with."""
    start = head[:16]
    shown = " ".join(f"{byte:02x}" for byte in start)
    return FormatError(
        f"it is not a file that torch.save writes, nor one of another known format: it begins"
        f" with the bytes {shown}",
        where=Place(None, 0),
    )
