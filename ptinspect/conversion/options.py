"""What a user asks of a conversion, checked as far as that goes without a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ptinspect.conversion.keys import Edits, renaming
from ptinspect.conversion.tensors.dtype_cast import TARGETS
from ptinspect.conversion.tensors.storage_layout import Wish
from ptinspect.dtypes import DType, dtype_by_name
from ptinspect.errors import PtInspectError

GOALS = ("state_dict", "checkpoint", "safetensors", "same")
SHARED = ("keep-one", "duplicate", "error")
SUFFIXES = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), "state_dict"),
    ".safetensors": "safetensors",
}
"""What the suffix of DST says of the goal."""

_ENDINGS = {
    "state_dict": "_state_dict.pt", "checkpoint": "_checkpoint.pt", "safetensors": ".safetensors",
    "same": "_same.pt",
}  # fmt: skip
_DEVICE = re.compile(r"(cpu|(cuda|mps|xpu|xla|hpu|npu|mtia|ipu|hip|privateuseone)(:\d{1,3})?)")
"""Of `torch.device`: those whose tensors have bytes."""
_SIZE = re.compile(r"(\d+)\s*([KMGT]?i?)B?", re.IGNORECASE)
_INDEX = re.compile(r"\.\w+\.index\.json$")
"""How the name of an index ends: model.safetensors.index.json."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Options(NamedTuple):
    """See `conversion.convert`. `set`: entries to add; `wish`: what changes of every tensor."""

    to: str
    entry: str | None = None
    edits: Edits = Edits()
    wish: Wish = Wish()
    shared: str = "keep-one"
    set: tuple[tuple[str, object], ...] = ()
    optimizer: str | None = None
    plain: bool = False
    max_shard_size: int | None = None


def checked(
    to: str,
    *,
    entry: str | None,
    include: Sequence[str],
    exclude: Sequence[str],
    strip_prefix: Sequence[str],
    add_prefix: str,
    rename: Sequence[str],
    dtype: str | None,
    device: str | None,
    contiguous: bool,
    shared: str,
    set: Mapping[str, object],
    optimizer: str | None,
    plain: bool,
    max_shard_size: int | str | None,
) -> Options:
    """The options as one object. PtInspectError for values that are none, and for options that
    mean nothing for that goal."""
    if to not in GOALS:
        raise PtInspectError(f"{to!r} is none of {', '.join(GOALS)}")
    if shared not in SHARED:
        raise PtInspectError(f"--shared takes {', '.join(SHARED)}, not {shared!r}")
    edits = Edits(
        _several(include),
        _several(exclude),
        _several(strip_prefix),
        tuple(map(renaming, _several(rename))),
        add_prefix,
    )
    wish = Wish(_dtype(dtype), _device(device), contiguous)
    size = None if max_shard_size is None else byte_size(max_shard_size)
    for name, value in set.items():
        _must_be_plain(name, value)
    made = Options(to, entry, edits, wish, shared, tuple(set.items()), optimizer, plain, size)
    _must_fit(made)
    return made


def _several(given: Sequence[str]) -> tuple[str, ...]:
    """As given; one string is one, not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def _must_be_plain(name: str, value: object) -> None:
    """PtInspectError for an entry that is not of what JSON has, a tuple or bytes beside it."""
    todo = [value]
    seen: dict[int, object] = {}
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, dict) and type(each) is dict:
            todo += [*each, *each.values()]
        elif isinstance(each, (list, tuple)) and type(each) in (list, tuple):
            todo += each
        elif each is not None and type(each) not in (bool, int, float, str, bytes):
            kind = f"{type(each).__module__}.{type(each).__qualname__}"
            raise PtInspectError(
                f"the entry {name!r} cannot be set: it holds an object of the type {kind}",
                hint="None, bool, int, float, str, bytes, list, tuple and dict can be",
            )


def _must_fit(options: Options) -> None:
    to, wish = options.to, options.wish
    wrong = {
        "--set": options.set and to != "checkpoint",
        "--plain": options.plain and to != "checkpoint",
        "--optimizer": options.optimizer and to != "checkpoint",
        "--max-shard-size": options.max_shard_size and to != "safetensors",
        "--shared": options.shared != "keep-one" and to != "safetensors",
        "--dtype": wish.dtype and to == "same",
        "--contiguous": wish.contiguous and to == "same",
        "--entry": options.entry and to == "same",
        "an option that changes keys": options.edits.any and to == "same",
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise PtInspectError(f"{name} means nothing with --to {to}")


def _dtype(name: str | None) -> DType | None:
    if name is None:
        return None
    known = dtype_by_name(name.removeprefix("torch."))
    if known is None or known.name not in TARGETS:
        raise PtInspectError(
            f"--dtype takes a floating type, and {name!r} is none",
            hint=f"one of {', '.join(TARGETS)}",
        )
    return known


def _device(name: str | None) -> str | None:
    if name is not None and not _DEVICE.fullmatch(name):
        raise PtInspectError(f"{name!r} is no device", hint="such as cpu, cuda:0 or mps")
    return "cuda:0" if name == "cuda" else name


def byte_size(text: int | str) -> int:
    """`5GB` (10**9), `5GiB` (2**30) or a number of bytes."""
    match = _SIZE.fullmatch(str(text).strip())
    if not match or not int(match[1]):
        raise PtInspectError(f"{text!r} is no size", hint="such as 5GB, 500MB or 5GiB")
    unit = match[2].upper()
    factor = 1 << 10 * "KMGT".index(unit[0]) + 10 if unit.endswith("I") else _UNITS[unit]
    return int(match[1]) * factor


def goal_of(target: str | None, to: str | None) -> str:
    """The goal: as said, else what the suffix of DST means."""
    if to is not None:
        return to
    suffix = os.path.splitext(target or "")[1].lower()
    if target and suffix in SUFFIXES:
        return SUFFIXES[suffix]
    name = target or "DST"
    raise PtInspectError(
        "it is not said what to write" if not target else f"the suffix of {name} does not say what",
        hint="one of these:\n"
        "ptinspect convert SRC DST.safetensors\n"
        "ptinspect convert SRC DST.pt                      (a state_dict)\n"
        "ptinspect convert SRC DST --to checkpoint         (or --to same: all that is in SRC)",
    )


def target_of(source: str, target: str | None, to: str) -> str:
    """DST: as given, in a folder that was given, or beside SRC; there with a derived name."""
    if target is not None and not os.path.isdir(target):
        if not os.path.basename(target):
            raise PtInspectError("there is no such folder", path=target, hint="make it first")
        return target
    folder, name = os.path.split(source)
    stem = _INDEX.sub("", name) if _INDEX.search(name) else os.path.splitext(name)[0]
    stem = stem if source != "-" else "model"
    return os.path.join(folder if target is None else target, stem + _ENDINGS[to])
