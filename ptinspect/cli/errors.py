"""Errors as the user reads them: what is wrong and where, and on the next line what to do."""

from __future__ import annotations

from ptinspect.display.text.escape import cut, safe
from ptinspect.errors import PtInspectError

BUGS = "please report it, with the file if you can, or with the output of --debug"


def lines_of(error: PtInspectError) -> str:
    """`ptinspect: FILE: what is wrong, where`, and the hint; nothing in it acts on a terminal.

    As `error.lines()`, with each line escaped: names in a message come from the file.
    """
    made = f"ptinspect: {cut(str(error))}"
    if error.hint:
        made += "".join(f"\n  {safe(line)}" for line in error.hint.split("\n"))
    return made


def unexpected(error: BaseException, path: str | None = None) -> PtInspectError:
    """What nobody foresaw, as an error that says so."""
    if isinstance(error, MemoryError):
        return PtInspectError("there is not enough memory to read it", path=path)
    name = type(error).__name__
    return PtInspectError(f"a bug in ptinspect: {name}: {error}", path=path, hint=BUGS)
