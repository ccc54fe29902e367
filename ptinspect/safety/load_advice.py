"""Advice on loading a file: the call to paste, what it needs, and the next steps after a scan.

Every `show` imports this module: the scanner itself is imported only for a file with suspicious
names, because that takes 5 ms of the 65 ms of CPU time that `show` takes for a small file.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from ptinspect.pickling.pyobjects import function_path
from ptinspect.pickling.values import Call, Global, PersistentId, TensorCall
from ptinspect.report import LoadAdvice
from ptinspect.safety.policy import (
    WEIGHTS_ONLY_BLOCKED_MODULES,
    WEIGHTS_ONLY_NAMES,
    is_listed,
    listed_pairs,
)
from ptinspect.text import join_names, python_literal, shell_word
from ptinspect.torchnn.classes import exists_in_torch, lookup

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ptinspect.document import Document
    from ptinspect.pickling.machine import Pickled
    from ptinspect.safety.report import Finding
    from ptinspect.safety.scan_state import ScanState

TRUSTED_TORCH = "2.10"
"""The first torch whose weights_only has no known hole: CVE-2025-32434 was closed by 2.6,
CVE-2026-24747 by 2.10."""

NEWEST_ZIP_VERSION = 10
"""The newest version of torch's zip format that torch reads.

Source: `kMaxSupportedFileFormatVersion` in caffe2/serialize/versions.h.
"""

_FOLDERS = ("deepspeed", "torch-dcp")  # formats whose reader takes a folder
_JAGGED_MODULES = ("torch._dynamo", "torch.nested")
"""Modules without which torch does not load jagged tensors."""
_DIM_RANGE = "torch._dynamo.decorators._DimRange"  # a name in them that they make a safe global

_LOADABLE_FORMATS = frozenset(("torch-zip", "torch-legacy", "torch-legacy-tar", "pickle"))

_READERS, _REFUSED = listed_pairs("readers"), listed_pairs("refused")
NEED_PROCESS_GROUP = frozenset(listed_pairs("process group"))
"""Classes whose objects do not load without a process group."""

_STORE = "store=torch.distributed.HashStore()"
_PROCESS_GROUP = f'torch.distributed.init_process_group("gloo", rank=0, world_size=1, {_STORE}); '

_WELL_KNOWN = {*sys.stdlib_module_names, "torch", "numpy"} - {"__main__", "__mp_main__"}
"""Packages whose names need no code of the user."""

MAX_SAFE_GLOBALS = 12
"""Names that one line to paste may list."""

MAX_PLANNED = 1000
"""Storages of a file whose conversion is planned before it is advised, which can take as long as
the scan itself."""


def load_advice(document: Document) -> LoadAdvice:
    """Return how to load the file of an open document."""
    path, archive = path_to_load(document), document.archive
    names = [name.path for name in document.globals]
    devices = {tensor.device for tensor in document.contents.tensors}
    return advise_loading(path, archive.format, archive.facts, archive.streams, names, devices)


def path_to_load(document: Document) -> str:
    """Return the path for the reader of the format: the folder of a distributed checkpoint, the
    first rank's file of Megatron, and the file in it for a folder of another kind."""
    archive = document.archive
    path = archive.parts[0].source.path if archive.format == "megatron" else archive.source.path
    return os.path.dirname(path) or "." if archive.format in _FOLDERS else path


def advise_loading(
    path: str, format: str, facts: Mapping[str, object], streams: Sequence[Pickled],
    names: Iterable[str], devices: Collection[str],
) -> LoadAdvice:  # fmt: skip
    """Return how to load a file.

    Args:
        path: the file's path, for the line to paste.
        format: name of the container's format, as in JSON.
        facts: what the container records besides its pickles.
        streams: the file's pickles, after they were run.
        names: the globals that loading imports, as `module.name`.
        devices: the devices that tensors are recorded on.
    """
    has_pickles = bool(streams)
    if format in _READERS:  # torch.load does not read their pickles
        names, streams = (), ()
    elif format == "torch-ranks":  # the tensors that `convert` writes are ordinary ones
        names = [name for name in names if not name.startswith("torch.distributed.")]
    refusals = _torch_refusals(format, facts, streams)
    reader = "torch-ranks" if refusals else format
    if format == "torch-dcp" and not has_pickles:
        reader = "safetensors of torch-dcp"
    reader = str(facts.get("reader", reader))
    blockers = refusals + _weights_only_blockers(format, streams)
    safe_globals = [name for name in dict.fromkeys(names) if name not in WEIGHTS_ONLY_NAMES]
    weights_only = not blockers and not safe_globals
    map_location = "needed" if set(devices) - {"cpu", "meta", "unknown"} else None
    is_latin1 = any(
        warning.kind == "python2-string" for stream in streams for warning in stream.warnings
    )
    options = "" if len(blockers) == len(refusals) and not safe_globals else ", weights_only=False"
    options += ', map_location="cpu"' if map_location else ""
    encoding = ', encoding="latin1"' if is_latin1 else ""
    return LoadAdvice(
        weights_only=weights_only,
        needs=[name for name in safe_globals if name.partition(".")[0] not in _WELL_KNOWN],
        safe_globals=safe_globals,
        map_location=map_location,
        call=load_call(path, reader, options, encoding),
        blockers=blockers,
    )


def _torch_refusals(
    format: str, facts: Mapping[str, object], streams: Sequence[Pickled]
) -> list[str]:
    """Return why torch.load cannot read the file, whatever its options are."""
    names = {name.path for stream in streams for name in stream.globals}
    unreadable = {reason for name, reason in listed_pairs("legacy").items() if name in names}
    reasons = sorted(unreadable) if format == "torch-legacy" else []
    if facts.get("tensors_folder"):
        reasons.append("the zip of torch 1.4, which torch.load no longer reads")
    version = str(facts.get("version", ""))
    is_number = version.isascii() and version.isdigit() and len(version) < 20
    if format == "torch-zip" and is_number and int(version) > NEWEST_ZIP_VERSION:
        reasons.append(f"version {version} of the zip: torch 2.13 reads up to {NEWEST_ZIP_VERSION}")
    refused = facts.get("refused")
    if format == "torch-zip" and isinstance(refused, list):
        reasons += refused
    if format == "torch-zip" and "/" in str(facts.get("folder", "")):
        reasons.append("records in a nested folder, where torch.load does not look")
    return reasons


def _weights_only_blockers(format: str, streams: Sequence[Pickled]) -> list[str]:
    blockers = []
    if format in _REFUSED:
        blockers.append(_REFUSED[format])
    elif format in _READERS:
        blockers.append(f"a file of the format {format}, which torch.load does not read")
    for stream in streams:
        if stream.unsupported_opcodes:
            what = f"protocol {stream.protocol}, opcodes that it does not support"
            blockers.append(f"{what}: {join_names(sorted(stream.unsupported_opcodes), 3)}")
        persistent = (item.value for item in stream.persistent if isinstance(item, PersistentId))
        if any(isinstance(fields, tuple) and fields[:1] == ("module",) for fields in persistent):
            blockers.append("classes stored with their source, as in a legacy full model")
        blocked = [n.path for n in stream.globals if n.module in WEIGHTS_ONLY_BLOCKED_MODULES]
        if blocked:
            blockers.append(f"names that it never allows: {', '.join(blocked[:3])}")
    return list(dict.fromkeys(blockers))


def load_call(path: str, format: str, options: str, encoding: str) -> str:
    """Return the line of Python that loads the file, with its path as a literal."""
    literal = python_literal(path)
    if format == "pickle":
        return f'pickle.load(open({literal}, "rb"){encoding})'
    if format == "safetensors":
        return f"safetensors.torch.load_file({literal})"
    if format == "torch-ranks":
        command = f"ptinspect convert {shell_word(path)} model.pt --to same"
        return f'torch.load("model.pt"{options}{encoding})  # written by: {command}'
    if format in _READERS:
        where = ', map_location="cpu"' if format == "torchscript" and "map_" in options else ""
        return _READERS[format].format(literal + where)
    if format in ("safetensors-index", "torch-index"):  # all shards that the index names
        folder = os.path.dirname(path)
        shard = f"os.path.join({python_literal(folder)}, f)" if folder else "f"
        shards = f'sorted({{*json.load(open({literal}))["weight_map"].values()}})'
        load = f"torch.load({shard}{options}{encoding})"
        if format == "safetensors-index":
            load = f"safetensors.torch.load_file({shard})"
        return f"{{k: v for f in {shards} for k, v in {load}.items()}}"
    if path.endswith(".safetensors"):  # by this name, torch 2.13 takes a file for safetensors
        literal = f'open({literal}, "rb")'
    return f"torch.load({literal}{options}{encoding})"


_CALLED = re.compile(r'"(?:[^"\\]|\\.)*"|\b([a-z][\w.]*)\.\w+\(')  # a literal, or a module


def pasteable(call: str, names: Iterable[Global], has_stub: bool = False) -> str:
    """Return the line of Python that imports what a call of `load_advice` needs, also for the names
    in the file, and then calls. `has_stub`: the stub was advised, as model_def.py."""
    code, _, written_by = call.partition("  # written by: ")
    paths = [name.path for name in names]
    if not written_by and not NEED_PROCESS_GROUP.isdisjoint(paths):
        code = call = _PROCESS_GROUP + call
    modules = {match[1] for match in _CALLED.finditer(code) if match[1]}
    if any(path.startswith("torch.nested.") for path in paths):
        modules.update(_JAGGED_MODULES)
    modules |= {"model_def"} if has_stub else set()
    return f"import {', '.join(sorted(modules))}; {call}"


def is_in_today_torch(name: Global) -> bool:
    """Return True unless the name is one of torch that was renamed or removed."""
    return (
        # Renamed since it was written: weights_only asks for the old name.
        name.module != "torch.tensor"
        and not name.name.endswith("Error")
        and not name.module.startswith("torch.nn.quantized.")
        and name.path not in listed_pairs("removed")
        and exists_in_torch(name.module, name.name)
    )


# --- next steps of a scan -----------------------------------------------------------------


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
        {device for stream in state.streams for device in _devices(stream)},
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
        if not state.hint or state.skipped:
            return []
        arrays = (state, *state.members) if state.format in ("npy", "npz") else ()
        if any(each.streams for each in arrays):
            return [f"{state.hint[:-1]}, allow_pickle=True)  # runs what the file says"]
        return [state.hint]
    is_jagged = _is_jagged(state)
    if load.weights_only or (is_jagged and not load.blockers and load.safe_globals == [_DIM_RANGE]):
        line = pasteable(load.call.replace(", weights_only=False", ""), _globals(state))
        return [f"{line}  # as it is, with torch {TRUSTED_TORCH} or later"]
    return _steps_without_weights_only(state, load, commands)


def _globals(state: ScanState) -> Iterable[Global]:
    return (name for stream in state.streams for name in stream.globals)


def _is_jagged(state: ScanState) -> bool:
    return any(name.module.startswith("torch.nested.") for name in _globals(state))


def _devices(stream: Pickled) -> Iterator[str]:
    for item in stream.persistent:
        if isinstance(item, TensorCall):
            yield item.location
        elif isinstance(item.value, tuple) and len(item.value) > 3:
            kind, location = item.value[0], item.value[3]
            if kind == "storage" and isinstance(location, str):
                yield str(location)


def _steps_without_weights_only(
    state: ScanState, load: LoadAdvice, commands: Collection[str]
) -> list[str]:
    from ptinspect.safety.report import WITHOUT_WEIGHTS_ONLY

    steps = [f"{WITHOUT_WEIGHTS_ONLY}{blocker}" for blocker in load.blockers]
    if state.format == "pickle":
        steps = []  # nobody expects torch.load to read it
    repair = state.facts.get("repair")
    if repair:
        return [*steps, str(repair)]
    line = None if load.blockers else safe_globals_line(state, load)
    if line:
        steps.append(f"{line}  # torch {TRUSTED_TORCH} or later")
    has_stub = bool(load.needs) and "stub" in commands
    if has_stub:
        steps.append(f"ptinspect stub {shell_word(state.path)} > model_def.py")
    tensors = sum(len(stream.persistent) for stream in state.streams)
    roots = [stream.root for stream in state.streams]
    is_optimizer = any(
        (isinstance(root, dict) and set(root) == {"state", "param_groups"})
        or (isinstance(root, Call) and (function_path(root) or "").startswith("torch.optim."))
        for root in roots
    )
    if "convert" in commands and tensors and not is_optimizer:
        is_large = tensors > MAX_PLANNED
        trial = " --dry-run  # says whether it can be written" if is_large else ""
        steps.append(f"ptinspect convert {shell_word(state.path)} --to safetensors{trial}")
    if not line:
        call, _, command = load.call.partition("  # written by: ")
        is_safe = command and "weights_only=False" not in call
        line = pasteable(load.call, _globals(state), has_stub)
        steps.append(command if is_safe else f"{line}  # runs what the file says")
    return steps


def safe_globals_line(state: ScanState, load: LoadAdvice) -> str | None:
    """Return `import …; torch.serialization.add_safe_globals([…]); torch.load(…)`.

    Each global is added under its pickled name, whatever `__qualname__` its object has.

    Returns:
        None if the file needs a name that the policy does not allow, or too many for one line.
    """
    needed = _needed_globals(_globals(state), load)
    if state.weights_only_blockers or needed is None:
        return None
    for name in needed:  # the policy has to allow it, and the current torch to resolve it
        is_usable = is_listed(name.module, name.name) and is_in_today_torch(name)
        if not is_usable or "." in name.name or not name.path.replace(".", "").isidentifier():
            return None
    safe_globals = [
        f'({listed_pairs("hidden").get(name.path, name.path)}, "{name.path}")' for name in needed
    ]
    modules = {"torch", *(name.module for name in needed)}
    modules |= set(_JAGGED_MODULES if _is_jagged(state) else ())
    if classes := [cls for name in needed if (cls := listed_pairs("returned").get(name.path))]:
        safe_globals += classes
        modules.add("numpy")
    call = load.call.replace(", weights_only=False", "")
    return (
        f"import {', '.join(sorted(modules))};"
        f" torch.serialization.add_safe_globals([{', '.join(safe_globals)}]); {call}"
    )


def _needed_globals(names: Iterable[Global], load: LoadAdvice) -> list[Global] | None:
    """Return the names that weights_only needs; None if they are too many, or one too long, to be
    written in a line."""
    by_path = {name.path: name for name in names}
    needed = [by_path[path] for path in load.safe_globals if path in by_path]
    return needed if len(needed) == len(load.safe_globals) <= MAX_SAFE_GLOBALS else None


# --- open documents -----------------------------------------------------------------------


def dangerous_findings(document: Document) -> list[Finding]:
    """Return the dangerous findings of an open file, in the order of the report.

    Nothing is scanned if all names are harmless by themselves: torch's own, classes of torch.nn,
    and user-defined classes.
    """
    if all(map(_is_harmless_name, document.globals)):
        return []
    from ptinspect.safety.containers.dispatch import scan_whole
    from ptinspect.safety.report import DANGEROUS

    reports = [scan_whole(file, document.limits).report() for file in document.archive.files]
    findings = (finding for report in reports for finding in report.all_findings())
    return [finding for finding in findings if finding.verdict == DANGEROUS]


def has_safe_globals_line(document: Document, advice: LoadAdvice) -> bool:
    """Return True if `scan` prints the line with which weights_only loads the file."""
    if all(map(_is_harmless_name, document.globals)):
        needed = _needed_globals(document.globals, advice)
        return needed is not None and all(map(is_in_today_torch, needed))
    from ptinspect.safety.containers.dispatch import scan_whole

    state = scan_whole(document.archive.source, document.limits)
    return safe_globals_line(state, advice) is not None


def _is_harmless_name(name: Global) -> bool:
    if name.path in WEIGHTS_ONLY_NAMES or lookup(name.path) is not None:
        return True
    top = name.module.split(".", 1)[0]
    return top == "__main__" and "." not in name.name and top not in sys.stdlib_module_names
