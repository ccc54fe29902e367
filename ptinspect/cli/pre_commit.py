"""Hooks for pre-commit: `python -m ptinspect.cli.pre_commit RULE FILE…`.

The rule `state-dict-only` forbids whole models, `prefer-safetensors` tensors in a pickle. Files
that torch.save and pickle did not write are skipped. Exit code 0: no file breaks the rule. 1: one
does. 2: one could not be read. (The hook that scans runs `ptinspect scan`.)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ptinspect.cli.output import error_text
from ptinspect.errors import FormatError, PtInspectError
from ptinspect.text import cut, shell_word

if TYPE_CHECKING:
    from collections.abc import Sequence


RULES = {"state-dict-only": "state_dict", "prefer-safetensors": "safetensors"}
"""What `convert` turns a file into that breaks the rule."""


def check(path: str, rule: str) -> tuple[int, str]:
    """Return the exit code for one file, and the message to print."""
    from ptinspect.conversion.convert_file import find_refusal
    from ptinspect.document import open as open_document

    violation = None
    try:
        with open_document(path) as document:
            is_safe = not document.tensors or document.archive.format.startswith("safetensors")
            if rule == "state-dict-only" and document.modules:
                class_path = document.class_path or document.modules[0].module.class_path
                violation = f"a pickled model of class {class_path}: save its state_dict() instead"
            elif rule == "prefer-safetensors" and not is_safe:
                violation = "tensors in a pickle: safetensors stores them without anything that "
                violation += "could run"
    except FormatError:
        return 0, ""
    except PtInspectError as error:
        error.path = error.path or path
        return 2, error_text(error)
    if violation is None:
        return 0, ""
    target = RULES[rule]
    advice = f"ptinspect convert {shell_word(path)} --to {target}"
    refusal = find_refusal(path, target)
    if refusal is not None:
        advice = refusal.hint or f"convert cannot write it as {target}: {refusal.message}"
    lines = "\n  ".join(cut(line) for line in advice.split("\n"))
    return 1, f"{cut(path)}: {cut(violation)}\n  {lines}"


def main(args: Sequence[str]) -> int:
    """Check all files, print the messages, and return the exit code: 1 beats 2 beats 0."""
    if not args or args[0] not in RULES:
        sys.stderr.write(f"usage: python -m ptinspect.cli.pre_commit {'|'.join(RULES)} FILE...\n")
        return 2
    codes = {0}
    for path in args[1:]:
        code, message = check(path, args[0])
        codes.add(code)
        if message:
            sys.stdout.write(message + "\n")
    return next(code for code in (1, 2, 0) if code in codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
