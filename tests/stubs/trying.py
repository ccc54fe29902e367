"""Stubs, tried: written to files, and imported in processes that never saw the classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import ptinspect
from ptinspect.display.tree import module_tree
from ptinspect.document import Document
from ptinspect.stubs import StubOptions, stub_of
from tests.torch_child import run_python

CHILDREN = Path(__file__).parent / "children.py"


class Try(NamedTuple):
    """A stub and its file. root: where in the file the model lies; None without one. tree: what
    print(model) prints, as ptinspect has it. refused: whether the stub says that weights_only
    cannot load the file."""

    name: str
    file: Path
    source: str
    root: list[str | int] | None
    tree: str | None
    refused: bool
    pickled: bool


def attempt(name: str, file: Path, options: StubOptions | None = None) -> Try:
    """The stub of a file."""
    with ptinspect.open(file) as document:
        source = stub_of(document, options)
        root, tree = root_of(document)
        pickled = document.archive.format == "pickle"
    return Try(name, file, source, root, tree, "weights_only cannot load it" in source, pickled)


def root_of(document: Document) -> tuple[list[str | int] | None, str | None]:
    """Where the first model lies, and how it prints."""
    for info in document.modules:
        if not info.name:
            return list(info.root), "\n".join(module_tree(document, info.module))
    if document.archive.more_roots:  # pickle.load reads the first of them alone
        return None, None
    path = next(iter(document.contents.state_dicts), None)
    return (None if path is None else list(path)), None


def outcomes(tries: list[Try], folder: Path) -> dict[str, dict[str, Any]]:
    """What happened to each, by name: see children.py."""
    jobs = []
    for number, one in enumerate(tries):
        place = folder / str(number)
        place.mkdir()
        (place / "model_def.py").write_text(one.source, "utf-8")
        jobs.append([str(place / "model_def.py"), str(one.file), one.root, one.pickled])
    (folder / "jobs.json").write_text(json.dumps(jobs), "utf-8")
    done = run_python(str(CHILDREN), str(folder / "jobs.json"), cwd=folder)
    lines = done.stdout.splitlines()
    assert len(lines) == len(tries), done.stderr[-2000:]
    return {one.name: json.loads(line) for one, line in zip(tries, lines, strict=True)}


SAID = ("loaded_print", "built_print", "classes")
"""What is no yes or no."""


def failures(one: Try, said: dict[str, Any]) -> dict[str, Any]:
    """All that did not go as it should."""
    bad = {key: value for key, value in said.items() if key not in SAID and value is not True}
    if one.refused and bad.pop("weights_only", None) is None:
        bad["weights_only"] = "loads, though the stub says that it cannot"
    for key in ("loaded_print", "built_print"):
        if one.tree is not None and said.get(key, True) not in (True, None, one.tree):
            bad[key] = said[key]
    return bad


def run_script(folder: Path, script: str, *arguments: str) -> str:
    """Runs a script in a folder, without ptinspect; what it prints."""
    (folder / "script.py").write_text(script, "utf-8")
    done = run_python("script.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout
