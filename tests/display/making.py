"""Documents to be shown: pickles made here, and the fixtures that torch wrote."""

from __future__ import annotations

from pathlib import Path

from ptinspect.display import ShowOptions, renderer
from ptinspect.document import Document
from ptinspect.document import open as open_document
from tests.corpus.files import FIXTURES, REFUSED, fixtures, truth_of
from tests.document.making import document

READ = [name for name in fixtures() if name not in REFUSED]


def view_of(document: Document, format: str = "summary", **options: object) -> str:
    """Return a view of an open document, without the command line."""
    return renderer(format)(document, ShowOptions(**options), None)  # type: ignore[arg-type]


def shown(file: str | Path, format: str = "summary", **options: object) -> str:
    """The view of a file, without the command line. `file`: a path, or one below fixtures/."""
    path = Path(file)
    with open_document(path if path.is_absolute() else FIXTURES / path) as opened:
        return view_of(opened, format, **options)


def shown_value(value: object, format: str = "summary", **options: object) -> str:
    """The view of a plain pickle of `value`."""
    return view_of(document(value), format, **options)


__all__ = [
    "FIXTURES",
    "READ",
    "Document",
    "document",
    "shown",
    "shown_value",
    "truth_of",
    "view_of",
]
