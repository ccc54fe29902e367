"""docs/zoo.md, from the results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Result = dict[str, Any]
WHOLE = {
    "load": "`torch.load(…, weights_only=False)`, with the tensors that were saved",
    "print": "prints what the original prints",
    "weights_only": "`torch.load` with `safe_globals(SAFE_GLOBALS)`, and prints the same",
    "build": "`build()` makes a model without the file",
    "built_print": "… that prints what the original prints",
    "facts": "… with its parameters, buffers, ties, dtypes, modes and frozen parameters",
    "strict": "… and takes its state_dict strictly",
    "attributes": "… and has its attributes, where they are plain values",
    "ruff": "the stub is as `ruff format` and `ruff check` would have it",
}
STATE_DICT = {
    "build": "a stub from the state_dict alone, whose `build()` makes a model",
    "strict": "… that takes the state_dict strictly",
    "ruff": "the stub is as `ruff format` and `ruff check` would have it",
}
HEAD = """# The zoo

Models of torchvision, timm and transformers, built with random weights and saved, then stubbed,
loaded, printed and built anew where none of the three is installed. Made by
`python -m benchmarks.zoo FOLDER --zoo-python PYTHON`, with PYTHON an interpreter that has them; it
takes an hour, and so it is no part of CI, where `tests/stubs` has models of its own.

No model is run: its initial numbers are cheap random ones, and torchvision's compiled operators
need not be there. Of several runs each model's last result counts, so that rows may come from
different commits; `--again` tries all of them anew.

"Prints what the original prints" leaves out what a class of the library itself has to say in its
`__repr__` or `extra_repr`, which no file records: its torch base speaks in its place.
"""


def written(folder: Path, results: dict[str, Result]) -> str:
    """The page."""
    versions = json.loads((folder / "names.json").read_text("utf-8"))["versions"]
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    built = {name: result for name, result in results.items() if "failed" not in result}
    saved = {name: result for name, result in built.items() if "whole" in result}
    used = {name: result for name, result in saved.items() if "unusable" not in result}
    lines = [HEAD, f"With {told}.", "", "## Whole models", ""]
    lines += [
        f"{len(built)} models. torch saves {len(saved)} of them whole, and {len(used)} of these",
        "are of use once they are loaded again where the library is installed.",
        "",
    ]
    lines += _checks(WHOLE, [result["whole"] for result in used.values()])
    lines += ["", "What is not so, and why:", "", *_exceptions(results)]
    lines += ["", "## state_dicts", ""]
    lines += _checks(STATE_DICT, [result["state_dict"] for result in built.values()])
    lines += ["", *_classes(list(built.values()))]
    lines += ["", "## Each model", "", *_models(results)]
    return "\n".join(lines) + "\n"


def _checks(checks: dict[str, str], said: list[Result]) -> list[str]:
    lines = ["| | models |", "|---|---|"]
    for key, words in checks.items():
        possible = [one for one in said if not (key == "weights_only" and "refused" in one)]
        right = sum(_right(one, key) for one in possible)
        lines.append(f"| {words} | {right} of {len(possible)} |")
    return lines


def _right(said: Result, key: str) -> bool:
    """Whether a check was made, and went well."""
    keys = ("load", "tensors") if key == "load" else (key,)
    return all(one in said and said[one] is None for one in keys)


# --- what is not so


WORDS = {
    "failed": "the library does not build it here",
    "unsaved": "torch does not save it whole",
    "unusable": "torch saves it whole, and cannot use what it loads of it, with the library too",
}
KNOWN = {
    "parametrized modules": "their classes are made at run time: only the state_dict is saved",
    "local object": "a hook is a function inside of a function, which pickle does not take",
    "has no attribute '_modules'": "`__setstate__` of torch.ao's convolutions makes no module",
    "torch.ScriptObject": "packed weights are objects of TorchScript, which weights_only refuses",
    "(in place of itself)": "the class holds what one of torch.nn holds, and yet it does not extend"
    " it; no file says which. The stub says that it is inferred",
}
"""Why it cannot be otherwise, by a part of what is said."""
_TAKEN_FOR = re.compile(r"'(\(\w+\): \w+)\(.+\)' in place of '\1\(\)'")


_OF = {"whole": "whole model", "state_dict": "state_dict"}
_STEPS = {
    "print": "print when loaded", "weights_only": "the same with weights_only",
    "build": "`build()`", "built_print": "print of `build()`", "strict": "strict load",
    "facts": "parameters and modes of `build()`", "attributes": "attributes of `build()`",
}  # fmt: skip


def _exceptions(results: dict[str, Result]) -> Iterator[str]:
    """One line for each thing that went otherwise, with the models."""
    found: dict[str, dict[str, None]] = {}
    for name, result in sorted(results.items()):
        for what in _said(result):
            found.setdefault(what, {})[name] = None
    for what, names in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"- {what}: {', '.join(names)}"


def _said(result: Result) -> Iterator[str]:
    for key, words in WORDS.items():
        if key in result:
            yield f"{words} ({_why(result[key])})"
    for kind in ("whole", "state_dict"):
        said = result.get(kind, {})
        for why in dict.fromkeys(why for why in said.values() if isinstance(why, str)):
            keys = [_STEPS.get(key, key) for key, other in said.items() if other == why]
            yield f"{_OF[kind]}: {', '.join(keys)} ({_why(why)})"
        if "refused" in said:
            yield f"weights_only cannot take it ({_why('; '.join(said['refused']))})"


def _why(text: str) -> str:
    text = _TAKEN_FOR.sub("(in place of itself)", text)
    for part, words in KNOWN.items():
        if part in text:
            return words
    return f"`{_short(text)}`"


def _short(text: str) -> str:
    text = text.replace("`", "'").replace("\n", " ")
    return text if len(text) <= 200 else f"{text[:199]}…"


# --- classes that were inferred


def _classes(results: list[Result]) -> list[str]:
    total = {key: sum(result[key] for result in results) for key in _COUNTED}
    layers = 100 * total["layers_right"] / max(total["layers"], 1)
    named = 100 * total["named_right"] / max(total["named"], 1)
    wrong: dict[str, int] = {}
    for result in results:
        for pair, count in result["wrong"].items():
            wrong[pair] = wrong.get(pair, 0) + count
    examples: dict[str, str] = {}
    for result in results:
        for pair, names in result["examples"].items():
            examples.setdefault(pair, f"{names[0]} of {result['name']}")
    most = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:20]
    return [
        "Classes, as keys and shapes let them be inferred. Right is the class of torch.nn that a",
        "module's class is or extends, and `Module` for a class of the model's own.",
        "",
        "| modules | right | share |",
        "|---|---|---|",
        f"| of torch.nn, with tensors of their own | {total['layers_right']:,} of"
        f" {total['layers']:,} | {layers:.1f} % |",
        f"| all that a key names | {total['named_right']:,} of {total['named']:,}"
        f" | {named:.1f} % |",
        "",
        "What is taken for something else (`None`: is inside of what is inferred as one module):",
        "",
        "| is | taken for | modules | for instance |",
        "|---|---|---|---|",
        *(f"| {pair.replace(' as ', ' | ')} | {n:,} | {examples[pair]} |" for pair, n in most),
    ]


_COUNTED = ("layers", "layers_right", "named", "named_right")


# --- each model


def _models(results: dict[str, Result]) -> Iterator[str]:
    yield "| model | parameters | modules | whole | weights_only | state_dict | classes right |"
    yield "|---|---|---|---|---|---|---|"
    for name, result in sorted(results.items()):
        if "failed" in result:
            yield f"| {name} | | | not built | | | |"
            continue
        whole = result.get("whole")
        cells = [name, f"{result['parameters']:,}", str(result["modules"])]
        cells += [
            _verdict(whole, WHOLE),
            _safely(whole),
            _verdict(result["state_dict"], STATE_DICT),
        ]
        cells.append(f"{result['named_right']} of {result['named']}")
        yield f"| {' | '.join(cells)} |"


def _verdict(said: Result | None, checks: dict[str, str]) -> str:
    if said is None:
        return "not saved"
    return "yes" if all(_right(said, key) for key in checks if key != "weights_only") else "no"


def _safely(said: Result | None) -> str:
    if said is None:
        return ""
    if "refused" in said:
        return "torch cannot"
    return "yes" if _right(said, "weights_only") else "no"
