"""Hooks for pre-commit that `scan` is not for: `python -m ptinspect.cli.pre_commit RULE FILE…`.

state-dict-only: no file may hold a whole model. prefer-safetensors: no file may hold tensors in a
pickle. Exit code 0: none does. 1: one does. 2: one could not be read. What is no file of torch.save
or pickle is passed over.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ptinspect.errors import FormatError, PtInspectError
from ptinspect.text import shell_word

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ptinspect.document import Document


def state_dict_only(document: Document) -> str | None:
    """What to say of a file that holds a module; None where it holds none."""
    if not document.modules:
        return None
    named = document.class_path or document.modules[0].module.class_path
    return f"a pickled model of class {named}: save its state_dict() instead"


def prefer_safetensors(document: Document) -> str | None:
    """What to say of a file that holds tensors in a pickle; None where it holds none."""
    if not document.tensors or document.archive.format.startswith("safetensors"):
        return None
    return "tensors in a pickle: a safetensors file holds them without anything that could run"


RULES: dict[str, tuple[Callable[[Document], str | None], str]] = {
    "state-dict-only": (state_dict_only, "state_dict"),
    "prefer-safetensors": (prefer_safetensors, "safetensors"),
}
"""By name: what is asked of a file, and what `convert` would make of it."""


def check(path: str, rule: str) -> tuple[int, str]:
    """The exit code for one file, and what to say."""
    from ptinspect.cli.output import error_text
    from ptinspect.display.text.escape import cut
    from ptinspect.document import open as open_document

    ask, kind = RULES[rule]
    try:
        with open_document(path) as document:
            said = ask(document)
    except FormatError:
        return 0, ""
    except PtInspectError as error:
        error.path = error.path or path
        return 2, error_text(error)
    if said is None:
        return 0, ""
    made = f"{cut(path)}: {cut(said)}"
    return 1, f"{made}\n  ptinspect convert {shell_word(path)} --to {kind}"


def main(args: Sequence[str]) -> int:
    """The exit code for all files: 1 beats 2 beats 0."""
    if not args or args[0] not in RULES:
        sys.stderr.write(f"usage: python -m ptinspect.cli.pre_commit {'|'.join(RULES)} FILE...\n")
        return 2
    codes = set()
    for path in args[1:]:
        code, said = check(path, args[0])
        codes.add(code)
        if said:
            sys.stdout.write(said + "\n")
    return next((code for code in (1, 2) if code in codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
