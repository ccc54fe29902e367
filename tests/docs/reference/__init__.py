"""The reference pages that are made from the code: the command line from click, JSON from the
shipped schemas, the limits from `ptinspect/limits.py`. A page keeps the text outside of its
markers; `python -m tests.docs.reference` writes what is between them."""

from __future__ import annotations

from tests.conftest import ROOT
from tests.docs.reference import command_line, limits, schemas

REFERENCE = ROOT / "docs" / "reference"
BEGIN = "<!-- made by `python -m tests.docs.reference`: begin -->"
END = "<!-- end -->"

PAGES = {"cli.md": command_line.made, "json.md": schemas.made, "limits.md": limits.made}


def renewed(name: str) -> str:
    """The page with what the code says today."""
    text = (REFERENCE / name).read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/reference/{name} lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{PAGES[name]().strip()}\n\n{END}{after}"
