"""Files where none is announced: in the bytes of a value, a storage, a text, or behind a pickle.

Whether some program loads them is not known. They are scanned, and dropped if they do nothing:
numbers can begin like any file by chance.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ptinspect.errors import LimitError
from ptinspect.formats.signatures import looks_like_file
from ptinspect.safety.report import DANGEROUS
from ptinspect.source.base import MemorySource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptinspect.pickling.values import Buffer
    from ptinspect.safety.scan_state import ScanState
    from ptinspect.source.base import Source

UNREAD_FORMATS = ("sqlite", "parquet", "arrow")
"""Formats in which only pickles are searched: their readers may load them."""

_UNREAD = "unread"

SEARCHED_BYTES = 1 << 28

PICKLE = re.compile(rb"\x80[\x02-\x05]")
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}")
BASE64_PICKLE = re.compile(rb"gA[I-X][A-Za-z0-9+/_-]{20,}")
_ESCAPED_OTHERS = re.compile(rb"\\+(?:u(?!00[2-7])[0-9A-Fa-f]{4}|u0022|[^/u\\])|\\+(?=\\[/u])")
_ESCAPED_CODE = re.compile(rb"\\u00([2-7][0-9A-Fa-f])")
_NO_BASE64 = bytes(code for code in range(256) if not re.match(rb"[A-Za-z0-9+/]", bytes([code])))
_JSON_START = b"\xef\xbb\xbf\xff\xfe \t\r\n"
"""Byte order marks and spaces, which `json.loads` skips."""
_JSON_TEXT = re.compile(rb'"([^"]{24,})"')


def scan_suspect(outer: ScanState, source: Source, record: str) -> None:
    """Scan bytes that may be a file by chance, and keep the result if it is harmful."""
    try:
        member = outer.new_member(record)
    except LimitError:
        outer.find(_UNREAD, "more of its bytes look like files than are scanned", None)
        return
    outer.budget.scan_source(source, member)
    if member.format == "compressed" and any(error.kind == "format" for error in member.errors):
        outer.find(_UNREAD, f"contains {member.description}, which scan does not open", record)
    elif _is_harmful(member):
        outer.add_member(member)


def _is_harmful(state: ScanState) -> bool:
    """Return True if something acts, is called, or was not scanned to its end by a limit."""
    return (
        any(
            finding.verdict == DANGEROUS or finding.call is not None or finding.name == _UNREAD
            for finding in state.findings.sorted()
        )
        or any(error.kind == "limit" for error in state.errors)
        or any(map(_is_harmful, state.members))
    )


# --- inside other bytes -------------------------------------------------------------------


def find_base64(
    data: Buffer, start: int, stop: int, pattern: re.Pattern[bytes]
) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, decoded bytes) of texts in base64 that look like files."""
    for match in pattern.finditer(data, start, stop):
        decoded = decode_base64(match[0])
        if looks_like_file(decoded, 0, len(decoded)):
            yield match.start(), decoded


def decode_base64(text: bytes) -> bytes:
    from base64 import b64decode

    text = text[: len(text) - (len(text) % 4 == 1)]
    return b64decode(text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4))


def scan_text(source: Source, state: ScanState) -> None:
    """Scan the files that a text contains in base64, as JSON and YAML do.

    A text of JSON may be inside another one: its escapes have two or more backslashes.
    """
    from binascii import a2b_base64

    text = source.read(0, min(source.size, SEARCHED_BYTES))
    if b"\0" in text[:4]:  # `json.loads` reads UTF-16 and UTF-32 as well
        text = text.replace(b"\0", b"")
    readings = [text]
    if b"\\" in text:  # without escapes, except of the characters of base64
        text = _ESCAPED_OTHERS.sub(b"", text).replace(b"\\/", b"/")
        readings.append(_ESCAPED_CODE.sub(lambda match: bytes([int(match[1], 16)]), text))
    found: dict[bytes, int] = {}
    for text in readings:
        for offset, decoded in find_base64(text, 0, len(text), BASE64):
            found.setdefault(decoded, offset)
    is_json = text[:256].lstrip(_JSON_START)[:1] in (b"{", b"[")
    for match in _JSON_TEXT.finditer(text) if is_json else ():
        letters = match[1].translate(None, _NO_BASE64)  # `b64decode` skips the others
        if len(letters) < len(match[1]) and len(letters) % 4 != 1:
            decoded = a2b_base64(letters + b"===")
            if looks_like_file(decoded, 0, len(decoded)):
                found.setdefault(decoded, match.start())
    for decoded, offset in found.items():
        scan_suspect(state, MemorySource(decoded, state.path, base=None), f"base64 @ {offset}")
