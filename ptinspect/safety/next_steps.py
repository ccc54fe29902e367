"""What to do next with a file: `load_advice` of what scan has run, and lines to paste."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from ptinspect.pickling.values import Call, Global, TensorCall
from ptinspect.safety.analysis.calls import OK, imported
from ptinspect.safety.load_advice import LoadAdvice, load_advice
from ptinspect.safety.policy.table import row_of
from ptinspect.safety.report.findings import DANGEROUS, POINTER
from ptinspect.text import shell_word

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ptinspect.document import Document
    from ptinspect.pickling.machine import Pickled
    from ptinspect.pickling.values import Value
    from ptinspect.safety.report.scan_state import Part

TRUSTED = "2.10"
"""The torch from which on weights_only has no known hole (CVE-2025-32434 was closed by 2.6,
CVE-2026-24747 by 2.10)."""

LOADED = frozenset(("torch-zip", "torch-legacy", "torch-legacy-tar", "pickle"))
"""Formats that torch.load, or pickle.load, takes."""

BYGONE = frozenset(("torch._utils._rebuild_sparse_csr_tensor", "torch._utils._rebuild_mlc_tensor"))
"""Functions that torch had when it wrote them."""

HIDDEN = {"torch.nn.parallel.data_parallel.DataParallel": "torch.nn.DataParallel"}
"""Classes whose module is hidden by a function of its name, and where they are found."""

_MANY = 12
"""Names that a line to paste may have."""


class _Seen(NamedTuple):
    """What `load_advice` asks of a document: its path, container, names, and where tensors lie."""

    path: str
    archive: _Archive
    globals: list[Global]
    contents: _Contents


class _Archive(NamedTuple):
    format: str
    facts: dict[str, object]
    streams: list[Pickled]


class _Contents(NamedTuple):
    tensors: list[_Tensor]


class _Tensor(NamedTuple):
    device: str


def advice_of(part: Part) -> LoadAdvice | None:
    """How to load it; None where neither torch.load nor pickle.load takes it."""
    if part.format not in LOADED or not part.streams:
        return None
    streams = part.streams
    names = [name for stream in streams for name in stream.globals]
    tensors = [_Tensor(device) for device in sorted(_devices(streams))]
    archive = _Archive(part.format, part.facts, streams)
    seen = _Seen(part.path, archive, names, _Contents(tensors))
    return load_advice(cast("Document", seen))


def _devices(streams: Sequence[Pickled]) -> set[str]:
    found: set[str] = set()
    for stream in streams:
        for made in stream.persistent:
            if isinstance(made, TensorCall):
                found.add(made.location)
            elif isinstance(made.value, tuple) and len(made.value) > 3:
                place = made.value[3]
                if made.value[0] == "storage" and isinstance(place, str):
                    found.add(str(place))
    return found


def steps_of(
    part: Part, verdict: str, load: LoadAdvice | None, commands: Collection[str]
) -> list[str]:
    """Lines for people. `commands`: those of ptinspect that exist."""
    if verdict == DANGEROUS:
        return ["do not load it"]
    if verdict == POINTER:
        return [part.hint or "git lfs pull"]
    if part.errors:
        hint = next((error.hint for error in part.errors if error.hint), None)
        return [hint] if hint else []
    if load is None:
        return [part.hint] if part.hint and not part.passed else []
    if load.weights_only:
        return [f"{_nested(part)}{load.call}  # as it is, with torch {TRUSTED} or later"]
    return _not_as_it_is(part, load, commands)


def _nested(part: Part) -> str:
    """What torch wants to have been imported before it loads jagged tensors."""
    names = (name.module for stream in part.streams for name in stream.globals)
    return "import torch._dynamo, torch.nested; " if any(map(_is_nested, names)) else ""


def _is_nested(module: str) -> bool:
    return module.startswith("torch.nested.")


def _not_as_it_is(part: Part, load: LoadAdvice, commands: Collection[str]) -> list[str]:
    made = [f"weights_only cannot load it: {reason}" for reason in load.why]
    line = None if load.why else safe_globals_line(part, load)
    if line is not None:
        made.append(f"{line}  # torch {TRUSTED} or later")
    if load.needs and "stub" in commands:
        made.append(f"ptinspect stub {shell_word(part.path)} > model_def.py")
    if "convert" in commands and _may_hold_a_model(part):
        made.append(f"ptinspect convert {shell_word(part.path)} --to safetensors")
    if line is None:
        made.append(f"{load.call}  # runs what the file says")
    return made


def _may_hold_a_model(part: Part) -> bool:
    """Whether there are tensors in it, and it is more than an optimizer's state."""
    return any(stream.persistent for stream in part.streams) and not any(
        _is_optimizer(stream.root) for stream in part.streams
    )


def _is_optimizer(root: Value) -> bool:
    if isinstance(root, Call) and isinstance(root.func, Global):
        return root.func.path.startswith("torch.optim.")
    return isinstance(root, dict) and set(root) == {"state", "param_groups"}


def safe_globals_line(part: Part, load: LoadAdvice) -> str | None:
    """`import …; torch.serialization.add_safe_globals([…]); torch.load(…)`: with what the policy
    vouches for alone. None where the file needs more than that, or too much for a line.

    Each name is allowed as it is pickled, whatever its object calls itself; and numpy's elements
    each have a class that weights_only asks for as well.
    """
    names = {name.path: name for stream in part.streams for name in stream.globals}
    asked = [names[path] for path in load.safe_globals if path in names]
    if part.unfit or len(asked) > _MANY or any(imported(name).level != OK for name in asked):
        return None
    if any(name.module == "torch.tensor" or name.name.endswith("Error") for name in asked):
        return None  # renamed since: weights_only asks for the name that is written
    if any(map(_is_bygone, asked)):
        return None
    if any("." in name.name or not name.path.replace(".", "").isidentifier() for name in asked):
        return None
    modules = sorted({"torch", *(name.module for name in asked if name.module != "builtins")})
    listed = [
        f'({HIDDEN.get(name.path, name.path)}, "{name.path}")' for name in asked if _is_needed(name)
    ]
    if any(name.path == "numpy.dtype" for name in asked):
        listed.append("*map(type, map(numpy.dtype, numpy.sctypeDict))")
        modules = sorted({"numpy", *modules})
    if any(name.module == "builtins" for name in asked):
        modules = sorted({"builtins", *modules})
    call = load.call.replace(", weights_only=False", "")
    imports = ", ".join(modules)
    return f"import {imports}; torch.serialization.add_safe_globals([{', '.join(listed)}]); {call}"


def _is_bygone(name: Global) -> bool:
    """Whether torch has it no more, or no longer reads what it wrote then."""
    from ptinspect.torchnn.torch_names import exists_in_torch

    quantized = name.module.startswith("torch.nn.quantized.")
    return quantized or name.path in BYGONE or not exists_in_torch(name.module, name.name)


def _is_needed(name: Global) -> bool:
    row = row_of(name)
    return row is not None and row.verdict in ("allowed", "module", "reference")
