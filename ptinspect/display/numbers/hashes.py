"""SHA-256 of a file and of each tensor, and what a file's name says its hash is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ptinspect.display.options import Look
    from ptinspect.document import Document, TensorInfo

CHUNK = 1 << 20


class FileHash(NamedTuple):
    """sha256: of the whole file. expected: the digits that its name gives, as torch.hub names
    files (`resnet50-0676ba61.pth`); None where the name gives none."""

    sha256: str
    expected: str | None

    @property
    def mismatch(self) -> bool:
        """Whether the name says another hash."""
        return self.expected is not None and not self.sha256.startswith(self.expected)

    @property
    def text(self) -> str:
        """The hash, and whether it is the name's."""
        if self.expected is None:
            return self.sha256
        if self.mismatch:
            return f"{self.sha256}, MISMATCH: the name says {self.expected}"
        return f"{self.sha256}, as the name says ({self.expected})"


def expected_in(path: str) -> str | None:
    """The digits in `name-<8 or more hex digits>.pth`; not those of a date (`run-20240131.pt`).

    Source: `torch.hub.HASH_REGEX`, and `load_state_dict_from_url`, which asks for eight digits
    or more.
    """
    import re

    found = re.search(r"-([0-9a-f]{8,64})\.[A-Za-z0-9.]+$", path)
    if not found or re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", found[1]):
        return None
    return found[1]


def file_hash(document: Document, look: Look) -> FileHash:
    """Reads the whole file, in pieces."""
    from hashlib import sha256

    made = sha256()
    source = document.archive.source
    with look.bar(source.size, "SHA-256 of the file") as passed:
        for at in range(0, source.size, CHUNK):
            made.update(source.read(at, min(CHUNK, source.size - at)))
            passed(min(CHUNK, source.size - at))
    return FileHash(made.hexdigest(), expected_in(document.path))


def tensor_hash(info: TensorInfo, look: Look) -> str:
    """Of the bytes in C order, little-endian, as `info.read()` gives them. Raises as that does."""
    from hashlib import sha256

    from ptinspect.document.to_array import raw_blocks

    made = sha256()
    for block in raw_blocks(info.tensor):
        made.update(block)
        look.passed(len(block))
    return made.hexdigest()
