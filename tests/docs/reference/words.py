"""Text as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


def marked(text: str) -> str:
    """A text for people as Markdown: `code` stays code, and nothing else is taken for markup."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if at % 2 else _plain(part) for at, part in enumerate(parts))


def _plain(text: str) -> str:
    return re.sub(r"([*\\])", r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """As code. A `|` in a cell of a table is said in HTML: what escapes it differs from reader to
    reader."""
    if "|" in text:
        return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"
    return f"`{text}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; `|` inside of a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
