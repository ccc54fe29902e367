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
    "build": "`build()` returns a model without the file",
    "built_print": "… that prints what the original prints",
    "facts": "… with its parameters, buffers, ties, dtypes, modes and frozen parameters",
    "strict": "… and takes its state_dict strictly",
    "attributes": "… and has its attributes, if they are plain values",
    "ruff": "the stub passes `ruff format --check` and `ruff check`",
}
STATE_DICT = {
    "build": "a stub from the state_dict alone, whose `build()` returns a model",
    "strict": "… that takes the state_dict strictly",
    "ruff": "the stub passes `ruff format --check` and `ruff check`",
}
HEAD = """# The zoo

This page lists models of torchvision, timm and transformers. Each was built with random weights
and saved where these libraries are installed. It was then stubbed, loaded, printed and built
again where none of them is installed. `python -m benchmarks.zoo FOLDER --zoo-python PYTHON`
writes this page, with PYTHON an interpreter that has the libraries. It takes an hour, so CI
does not run it; `tests/stubs` has models of its own.

No model is run: its numbers are cheap random ones, and the compiled operators of torchvision
are not needed. After several runs, the last result of each model counts, so rows can come from
different commits; `--again` tries all models again.

"Prints what the original prints" ignores the text of a library's own `__repr__` or
`extra_repr`, which no file records. The text of its torch base class is compared instead.
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
        "can be used after they are loaded again where the library is installed.",
        "",
    ]
    lines += _checks(WHOLE, [result["whole"] for result in used.values()])
    lines += ["", "Exceptions and their causes:", "", *_exceptions(results)]
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
    """Return True if a check was made and succeeded."""
    keys = ("load", "tensors") if key == "load" else (key,)
    return all(one in said and said[one] is None for one in keys)


# --- what is not so


WORDS = {
    "failed": "the library does not build it here",
    "unsaved": "torch does not save it whole",
    "unusable": "torch saves it whole, but the loaded model does not work, even with the library",
}
KNOWN = {
    "parametrized modules": "their classes are created at run time, so only the state_dict is"
    " saved",
    "local object": "a hook is a function inside a function, which pickle refuses",
    "has no attribute '_modules'": "`__setstate__` of the convolutions of torch.ao does not"
    " restore a module",
    "torch.ScriptObject": "packed weights are objects of TorchScript, which weights_only refuses",
    "(in place of itself)": "the class has the attributes of a torch.nn class but does not extend"
    " it, and no file records which. The stub says that it is inferred",
}
"""Explanations of known failures, by a part of their message."""
_TAKEN_FOR = re.compile(r"'(\(\w+\): \w+)\(.+\)' in place of '\1\(\)'")


_OF = {"whole": "whole model", "state_dict": "state_dict"}
_STEPS = {
    "print": "print when loaded", "weights_only": "the same with weights_only",
    "build": "`build()`", "built_print": "print of `build()`", "strict": "strict load",
    "facts": "parameters and modes of `build()`", "attributes": "attributes of `build()`",
}  # fmt: skip


def _exceptions(results: dict[str, Result]) -> Iterator[str]:
    """Return one line per failure, with the models."""
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
        "Classes that were inferred from keys and shapes. The right class is the class of torch.nn",
        "that the class of a module is or extends, and `Module` for classes that the model",
        "defines.",
        "",
        "| modules | right | share |",
        "|---|---|---|",
        f"| of torch.nn, with their own tensors | {total['layers_right']:,} of"
        f" {total['layers']:,} | {layers:.1f} % |",
        f"| all that a key names | {total['named_right']:,} of {total['named']:,}"
        f" | {named:.1f} % |",
        "",
        "Wrongly inferred classes (`None`: it is part of what was inferred as one module):",
        "",
        "| class | inferred as | modules | example |",
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
