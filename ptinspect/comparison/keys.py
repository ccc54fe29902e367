"""Which key of one document is which key of the key_b: equal, renamed, added or removed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import TYPE_CHECKING

from ptinspect.comparison.numbers import distance, same_bytes, sample
from ptinspect.document.elements import iter_contiguous
from ptinspect.errors import PtInspectError

if TYPE_CHECKING:
    from ptinspect.comparison.numbers import Numbers
    from ptinspect.document import TensorInfo
    from ptinspect.document.tensor import Tensor

SAMPLE = 1 << 14
"""Elements that are looked at to find a renamed tensor whose numbers changed."""

CANDIDATES = 64
"""Keys of one shape on a side, up to which each is tried with each of the key_b side. Of more,
only those are tried whose names end alike."""

CLOSE, CLOSE_SMALL, SMALL = 0.5, 0.02, 16
"""Largest relative distance of a renamed tensor's numbers; for tensors of fewer than `SMALL`
elements, which resemble each key_b by chance, the second."""

ROUNDED = 0.02
"""The same for tensors that were also cast: only rounding may tell them apart."""


@dataclass(frozen=True, slots=True)
class Rename:
    """A tensor that has another key in the key_b document.

    Attributes:
        evidence: "bytes" if the bytes are equal, "numbers" if only the numbers are close,
            "names" if only the shape is equal, and the key changed as others with evidence did.
    """

    a: str
    b: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """What several renames have in common: `module.{}` became `{}`."""

    a: str
    b: str
    count: int


def find_renames(
    removed: Mapping[str, TensorInfo], added: Mapping[str, TensorInfo]
) -> list[Rename]:
    """Return the pairs of removed and added keys that are one tensor, one to one: first those with
    the same shape, dtype and bytes, of the rest those whose numbers are close. Where several fit,
    the pair whose names have most in common is chosen."""
    renames: list[Rename] = []
    open_a, open_b = dict(removed), dict(added)

    def match(
        group: Callable[[TensorInfo], object],
        fits: Callable[[TensorInfo, TensorInfo], bool],
        evidence: str,
    ) -> None:
        buckets: dict[object, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for side, infos in enumerate((open_a, open_b)):
            for key, info in infos.items():
                buckets[group(info)][side].append(key)
        for keys_a, keys_b in buckets.values():
            for a, b in _best_pairs(keys_a, keys_b, open_a, open_b, fits):
                renames.append(Rename(a, b, evidence))
                del open_a[a], open_b[b]

    samples: dict[int, Numbers | None] = {}

    def gap(a: TensorInfo, b: TensorInfo) -> float:
        for info in (a, b):
            if id(info) not in samples:
                samples[id(info)] = sample(info.tensor, SAMPLE)
        x, y = samples[id(a)], samples[id(b)]
        return math.inf if x is None or y is None or len(x) != len(y) else distance(x, y)

    def close(a: TensorInfo, b: TensorInfo) -> bool:
        return gap(a, b) <= (CLOSE if a.tensor.numel >= SMALL else CLOSE_SMALL)

    def rounded(a: TensorInfo, b: TensorInfo) -> bool:
        return bool(a.dtype and b.dtype and a.dtype.kind == b.dtype.kind) and gap(a, b) <= ROUNDED

    match(lambda info: (_kind(info.tensor), _first_bytes(info.tensor)), _equal, "bytes")
    match(lambda info: _kind(info.tensor), close, "numbers")
    match(lambda info: info.shape, rounded, "numbers")
    for a, b in _by_patterns(renames, open_a, open_b):
        if open_a[a].shape == open_b[b].shape:
            renames.append(Rename(a, b, "names"))
            del open_a[a], open_b[b]
    order = {key: number for number, key in enumerate(removed)}
    return sorted(renames, key=lambda rename: order[rename.a])


def _by_patterns(
    renames: list[Rename], removed: Mapping[str, TensorInfo], added: Mapping[str, TensorInfo]
) -> list[tuple[str, str]]:
    """Return the pairs of keys that were renamed as others were, each key at most once. (Small
    tensors resemble each other by chance, so their numbers alone do not pair them.)"""
    pairs: dict[str, str] = {}
    for rename in renames:
        patterns = _patterns_of(rename)
        for pattern_a, pattern_b in sorted(patterns, key=lambda pair: sum(map(len, pair)))[:1]:
            for key in removed:
                key_b = apply_pattern(pattern_a, pattern_b, key)
                if key_b is not None and key_b in added:
                    pairs.setdefault(key, key_b)
    targets = list(pairs.values())
    return [(a, b) for a, b in pairs.items() if targets.count(b) == 1]


def apply_pattern(pattern_a: str, pattern_b: str, key: str) -> str | None:
    """Return what a pattern makes of a key of the first document; None if it does not fit."""
    start, end = pattern_a.split("{}")
    if not (key.startswith(start) and key.endswith(end)) or len(key) < len(start) + len(end):
        return None
    return pattern_b.replace("{}", key[len(start) : len(key) - len(end)])


def _kind(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.layout


def _first_bytes(tensor: Tensor) -> bytes | None:
    """Return a digest of the first block; None for tensors without bytes."""
    try:
        return blake2b(next(iter_contiguous(tensor), b"")).digest()
    except PtInspectError:
        return None


def _equal(a: TensorInfo, b: TensorInfo) -> bool:
    try:
        return same_bytes(a.tensor, b.tensor, lambda _: None)
    except PtInspectError:
        return False


def _best_pairs(
    keys_a: list[str],
    keys_b: list[str],
    infos_a: Mapping[str, TensorInfo],
    infos_b: Mapping[str, TensorInfo],
    fits: Callable[[TensorInfo, TensorInfo], bool],
) -> list[tuple[str, str]]:
    """Return the pairs that fit, the closest names first, each key at most once, whichever document
    is the first."""
    if not keys_a or not keys_b:
        return []
    if len(keys_a) > CANDIDATES or len(keys_b) > CANDIDATES:
        by_ending: dict[str, list[str]] = defaultdict(list)
        for b in keys_b:
            by_ending[_ending(b)].append(b)
        candidates = [(a, b) for a in keys_a for b in by_ending[_ending(a)][:CANDIDATES]]
    else:
        candidates = list(product(keys_a, keys_b))
    place_a = {key: number for number, key in enumerate(keys_a)}
    place_b = {key: number for number, key in enumerate(keys_b)}

    def likeness(pair: tuple[str, str]) -> tuple[int, int, int, list[str]]:
        a, b = pair
        ends, starts = _common_parts(a, b)
        return -ends, -starts, abs(place_a[a] - place_b[b]), sorted(pair)

    pairs: list[tuple[str, str]] = []
    used_a: set[str] = set()
    used_b: set[str] = set()
    for a, b in sorted(candidates, key=likeness):
        if a in used_a or b in used_b or not fits(infos_a[a], infos_b[b]):
            continue
        pairs.append((a, b))
        used_a.add(a)
        used_b.add(b)
    return pairs


def _ending(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _common_parts(a: str, b: str) -> tuple[int, int]:
    """Return how many dotted parts two keys share at the end, and at the start."""
    parts_a, parts_b = a.split("."), b.split(".")
    ends = starts = 0
    for x, y in zip(reversed(parts_a), reversed(parts_b), strict=False):
        if x != y:
            break
        ends += 1
    for x, y in zip(parts_a, parts_b, strict=False):
        if x != y:
            break
        starts += 1
    return ends, starts


def find_patterns(renames: list[Rename]) -> list[Pattern]:
    """Return the shortest patterns that explain at least two renames each. `{}` is what a key has
    in common on both sides: its end (`module.{}` became `{}`) or start (`{}.q_proj.weight` became
    `{}.wq.weight`)."""
    explained: dict[tuple[str, str], set[int]] = defaultdict(set)
    for number, rename in enumerate(renames):
        for pattern in _patterns_of(rename):
            explained[pattern].add(number)
    patterns: list[Pattern] = []
    open_renames = set(range(len(renames)))
    while open_renames:
        best = min(
            explained,
            key=lambda pattern: (
                -len(explained[pattern] & open_renames),
                len(pattern[0]) + len(pattern[1]),
                sorted(pattern),
            ),
            default=None,
        )
        count = len(explained[best] & open_renames) if best is not None else 0
        if best is None or count < 2:
            break
        patterns.append(Pattern(*best, count))
        open_renames -= explained.pop(best)
    return patterns


def _patterns_of(rename: Rename) -> list[tuple[str, str]]:
    a, b = rename.a.split("."), rename.b.split(".")
    ends, starts = _common_parts(rename.a, rename.b)
    patterns = []
    for length in range(1, ends + 1):
        patterns.append((_holed(a[:-length], "end"), _holed(b[:-length], "end")))
    for length in range(1, starts + 1):
        patterns.append((_holed(a[length:], "start"), _holed(b[length:], "start")))
    return patterns


def _holed(parts: list[str], side: str) -> str:
    return ".".join([*parts, "{}"] if side == "end" else ["{}", *parts])
