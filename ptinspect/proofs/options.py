"""What `check resume` and `check roundtrip` have in common: how to train, and where."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar

from ptinspect.errors import PtInspectError
from ptinspect.proofs.processes import TIMEOUT, Watch, Workers

STEPS = 4
"""N, unless the user says otherwise; whole epochs are made of it."""


class Options(TypedDict, total=False):
    """As the shell has them. model: `FILE.py:CLASS`. data: `FILE.py:FUNCTION`. loss: a class of
    torch.nn. optimizer_class: such as `torch.optim.AdamW`. entry: which part of the file. steps: N.
    device: `auto`, `cpu`, `cuda` or `cuda:N`. timeout: seconds that one child process may take.
    progress: is told what is being done. workers: child processes that are there already."""

    model: str | None
    data: str | None
    loss: str
    optimizer_class: str | None
    entry: str | None
    steps: int
    device: str
    seed: int
    allow_tf32: bool
    trust: bool
    timeout: float
    progress: Watch | None
    workers: Workers | None


USUAL: Options = {
    "model": None, "data": None, "loss": "MSELoss", "optimizer_class": None, "entry": None,
    "steps": STEPS, "device": "auto", "seed": 0, "allow_tf32": False, "trust": False,
    "timeout": TIMEOUT, "progress": None, "workers": None,
}  # fmt: skip

_Proof = TypeVar("_Proof", bound=Callable[..., Any])


def with_options(proof: _Proof) -> _Proof:
    """`**options` of a function as what they are, for `help()`."""
    signature = inspect.signature(proof)
    own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=usual,
            annotation=Options.__annotations__[name],
        )
        for name, usual in USUAL.items()
    ]
    proof.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return proof


def given(options: Options) -> Options:
    """All of them. TypeError for a name that is none; PtInspectError for what is no device, and
    for fewer steps than one."""
    unknown = set(options) - set(USUAL)
    if unknown:
        raise TypeError(f"there is no option {sorted(unknown)[0]!r}")
    made: Options = {**USUAL, **options}
    kind, _, number = made["device"].partition(":")
    named = kind in ("auto", "cpu", "cuda") and not made["device"].endswith(":")
    if not named or (number and not (kind == "cuda" and number.isdecimal())):
        raise PtInspectError(f"{made['device']!r} is no device", hint="auto, cpu, cuda or cuda:N")
    if made["steps"] < 1:
        raise PtInspectError("at least one step has to be made", hint="give --steps N")
    return made


@contextmanager
def hired(options: Options) -> Iterator[Workers]:
    """The child processes: those that are there, else new ones, which end with the proof."""
    there, watch = options["workers"], options["progress"]
    if there is None:
        with Workers(options["timeout"], watch) as made:
            yield made
        return
    there.watch, before = watch, there.watch
    try:
        yield there
    finally:
        there.watch = before


def for_child(options: Options) -> dict[str, Any]:
    """Those that a job has to know."""
    return {
        "model": options["model"], "data": options["data"], "loss": options["loss"],
        "optimizer_class": options["optimizer_class"], "steps": options["steps"],
        "device": options["device"], "seed": options["seed"], "tf32": options["allow_tf32"],
    }  # fmt: skip
