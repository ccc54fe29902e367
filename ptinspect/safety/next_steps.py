"""Next steps for a scanned file: how to load it, and lines to paste.

Every `show` imports this module: the scanner itself is imported only for a file with suspicious
names, because that takes 5 ms of the 65 ms of CPU time that `show` takes for a small file.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ptinspect.pickling.values import Call, Global, TensorCall
from ptinspect.safety.load_advice import (
    MAX_SAFE_GLOBALS,
    LoadAdvice,
    advise_loading,
    is_in_today_torch,
)
from ptinspect.safety.policy import WEIGHTS_ONLY_NAMES, is_listed
from ptinspect.text import shell_word
from ptinspect.torchnn.classes import lookup

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ptinspect.document import Document
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Value
    from ptinspect.safety.report import Finding
    from ptinspect.safety.scan_state import ScanState
    from ptinspect.source.base import Source

TRUSTED_TORCH = "2.10"
"""The first torch whose weights_only has no known hole.

CVE-2025-32434 was closed by 2.6, CVE-2026-24747 by 2.10.
"""

_LOADABLE_FORMATS = frozenset(("torch-zip", "torch-legacy", "torch-legacy-tar", "pickle"))

# A function of the same name hides the class's module: this is where the class can be found.
_HIDDEN_CLASSES = {"torch.nn.parallel.data_parallel.DataParallel": "torch.nn.DataParallel"}


def state_load_advice(state: ScanState) -> LoadAdvice | None:
    """Return how to load a scanned file; None if neither torch.load nor pickle.load reads it."""
    if state.format not in _LOADABLE_FORMATS or not state.streams:
        return None
    from ptinspect.safety.report import shorten

    return advise_loading(
        state.path,
        state.format,
        state.facts,
        state.streams,
        [shorten(name.path) for name in _globals(state)],
        _devices(state.streams),
    )


def next_steps(
    state: ScanState, verdict: str, load: LoadAdvice | None, commands: Collection[str]
) -> list[str]:
    """Return lines for people: what to do next with a file, lines to paste first.

    Args:
        state: the finished scan.
        verdict: the file's verdict.
        load: how to load it, from `state_load_advice`.
        commands: the subcommands of ptinspect that the lines may name.
    """
    from ptinspect.safety.report import DANGEROUS, POINTER

    if verdict == DANGEROUS:
        return ["do not load it"]
    if verdict == POINTER:
        return [state.hint or "git lfs pull"]
    if state.errors:
        hint = next((error.hint for error in state.errors if error.hint), None)
        return [hint] if hint else []
    if load is None:
        return [state.hint] if state.hint and not state.skipped else []
    if load.weights_only:
        # torch loads jagged tensors only after these modules were imported.
        is_nested = any(name.module.startswith("torch.nested.") for name in _globals(state))
        imports = "import torch._dynamo, torch.nested; " if is_nested else ""
        return [f"{imports}{load.call}  # as it is, with torch {TRUSTED_TORCH} or later"]
    return _steps_without_weights_only(state, load, commands)


def _globals(state: ScanState) -> Iterable[Global]:
    return (name for stream in state.streams for name in stream.globals)


def _devices(streams: Sequence[Pickled]) -> set[str]:
    devices: set[str] = set()
    for stream in streams:
        for item in stream.persistent:
            if isinstance(item, TensorCall):
                devices.add(item.location)
            elif isinstance(item.value, tuple) and len(item.value) > 3:
                kind, location = item.value[0], item.value[3]
                if kind == "storage" and isinstance(location, str):
                    devices.add(str(location))
    return devices


def _steps_without_weights_only(
    state: ScanState, load: LoadAdvice, commands: Collection[str]
) -> list[str]:
    steps = [f"weights_only cannot load it: {blocker}" for blocker in load.blockers]
    line = None if load.blockers else safe_globals_line(state, load)
    if line is not None:
        steps.append(f"{line}  # torch {TRUSTED_TORCH} or later")
    if load.needs and "stub" in commands:
        steps.append(f"ptinspect stub {shell_word(state.path)} > model_def.py")
    has_tensors = any(stream.persistent for stream in state.streams)
    is_optimizer = any(_is_optimizer(stream.root) for stream in state.streams)
    if "convert" in commands and has_tensors and not is_optimizer:
        steps.append(f"ptinspect convert {shell_word(state.path)} --to safetensors")
    if line is None:
        steps.append(f"{load.call}  # runs what the file says")
    return steps


def _is_optimizer(root: Value) -> bool:
    if isinstance(root, Call) and isinstance(root.func, Global):
        return root.func.path.startswith("torch.optim.")
    return isinstance(root, dict) and set(root) == {"state", "param_groups"}


def safe_globals_line(state: ScanState, load: LoadAdvice) -> str | None:
    """Return `import …; torch.serialization.add_safe_globals([…]); torch.load(…)`.

    Each global is added under its pickled name, whatever `__qualname__` its object has.

    Returns:
        None if the file needs a name that the policy does not allow, or too many for one line.
    """
    names = {name.path: name for name in _globals(state)}
    needed = [names[path] for path in load.safe_globals if path in names]
    if (
        state.weights_only_blockers
        or len(needed) < len(load.safe_globals)  # a name is too long to be written
        or len(needed) > MAX_SAFE_GLOBALS
        or not all(map(_can_be_safe_global, needed))
    ):
        return None
    safe_globals = [
        f'({_HIDDEN_CLASSES.get(name.path, name.path)}, "{name.path}")' for name in needed
    ]
    modules = {"torch", *(name.module for name in needed)}
    if any(name.path == "numpy.dtype" for name in needed):
        # weights_only also asks for the class of each numpy dtype.
        safe_globals.append("*map(type, map(numpy.dtype, numpy.sctypeDict))")
        modules.add("numpy")
    call = load.call.replace(", weights_only=False", "")
    return (
        f"import {', '.join(sorted(modules))};"
        f" torch.serialization.add_safe_globals([{', '.join(safe_globals)}]); {call}"
    )


def _can_be_safe_global(name: Global) -> bool:
    """Return True if the policy allows the name and the current torch resolves it."""
    return (
        is_listed(name.module, name.name)
        and is_in_today_torch(name)
        and "." not in name.name
        and name.path.replace(".", "").isidentifier()
    )


# --- open documents -----------------------------------------------------------------------


def dangerous_findings(document: Document) -> list[Finding]:
    """Return the dangerous findings of an open file, in the order of the report.

    Nothing is scanned if all names are harmless by themselves: torch's own, classes of torch.nn,
    and user-defined classes.
    """
    if all(map(_is_harmless_name, document.globals)):
        return []
    from ptinspect.safety.report import DANGEROUS

    findings: list[Finding] = []
    reports = [_scan(document, source).report() for source in document.archive.files]
    for report in reports:
        findings += [finding for finding in report.findings if finding.verdict == DANGEROUS]
        reports += report.members
    return findings


def has_safe_globals_line(document: Document, advice: LoadAdvice) -> bool:
    """Return True if `scan` prints the line with which weights_only loads the file."""
    if all(map(_is_harmless_name, document.globals)):
        names = {name.path: name for name in document.globals}
        needed = [names.get(path) for path in advice.safe_globals]
        return len(needed) <= MAX_SAFE_GLOBALS and all(
            name is not None and is_in_today_torch(name) for name in needed
        )
    return safe_globals_line(_scan(document, document.archive.source), advice) is not None


def _scan(document: Document, source: Source) -> ScanState:
    from ptinspect.safety.containers.dispatch import scan_source
    from ptinspect.safety.scan_state import Budget, ScanState

    state = ScanState(document.path, None, 0, Budget(document.limits))
    scan_source(source, state)
    return state


def _is_harmless_name(name: Global) -> bool:
    if name.path in WEIGHTS_ONLY_NAMES or lookup(name.path) is not None:
        return True
    top = name.module.split(".", 1)[0]
    return top == "__main__" and "." not in name.name and top not in sys.stdlib_module_names
