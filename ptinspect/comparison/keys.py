"""Tensors that only one document has or that differ; and renamed keys: pairs of a removed and an
added tensor that are one, and their patterns."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from itertools import takewhile
from typing import TYPE_CHECKING

from ptinspect.comparison.numbers import distance, same_bytes, sample
from ptinspect.document.elements import iter_contiguous
from ptinspect.errors import PtInspectError

if TYPE_CHECKING:
    from ptinspect.comparison.numbers import Numbers, ValueChange
    from ptinspect.document import TensorInfo
    from ptinspect.pickling.pyobjects import Path

SAMPLE = 1 << 14
"""Elements that are looked at to find a renamed tensor whose numbers changed."""

MOST_PAIRS = 4096
"""Pairs of keys with equal endings that are tried: of more than 64 keys, each is only tried with
those that have about the same place in the other document."""

MOST_PATTERNS = 64
"""Patterns of renamed keys that are applied to the keys that are still open."""

CLOSE, CLOSE_SMALL, SMALL = 0.5, 0.02, 16
"""Largest relative distance of a renamed tensor's numbers; for tensors of fewer than `SMALL`
elements, which resemble each other by chance, the second."""

ROUNDED = 0.02
"""The same for tensors that were also cast: only rounding may tell them apart."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two documents."""

    path: str
    format: str
    kind: str


@dataclass(frozen=True, slots=True)
class Lone:
    """A tensor that only one document has. `in_model`: it belongs to a module or a state_dict.
    `tied_to`: of a removed one, a key that views the same bytes and that both documents have."""

    key: str
    path: Path
    dtype: str | None
    shape: tuple[int, ...]
    in_model: bool
    tied_to: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor that both documents have and that differs.

    Attributes:
        what: of "shape", "dtype", "device", "requires_grad", "role", "values".
        values: None if the shapes differ or the elements are not numbers.
        reason: why the values could not be compared, else None.
    """

    a: str
    b: str
    what: tuple[str, ...]
    shape: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: tuple[str | None, str | None]
    device: tuple[str, str]
    requires_grad: tuple[bool, bool]
    role: tuple[str, str]
    values: ValueChange | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Rename:
    """A tensor that has another key in the second document. `evidence` is "bytes" if they are
    equal, "numbers" if these are close, "names" if only the shape is equal, and the key changed as
    others with evidence did."""

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

    match(_kind_and_bytes, _equal, "bytes")
    match(_kind, close, "numbers")
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
    """Return the pairs of keys that were renamed as others were, each key at most once. Small
    tensors resemble each other by chance, so their numbers alone do not pair them."""
    if not removed or not added:
        return []
    shortest = Counter(min(p, key=_pattern_length) for p in map(_patterns_of, renames) if p)
    pairs: dict[str, str] = {}
    for (pattern_a, pattern_b), _ in shortest.most_common(MOST_PATTERNS):
        for key in removed:
            renamed = apply_pattern(pattern_a, pattern_b, key)
            if renamed is not None and renamed in added:
                pairs.setdefault(key, renamed)
    targets = Counter(pairs.values())
    return [(a, b) for a, b in pairs.items() if targets[b] == 1]


def _pattern_length(pattern: tuple[str, str]) -> tuple[int, int]:
    """Return what makes a pattern less clear than others: its holes, then its length."""
    return sum(side.count("{}") for side in pattern), len(pattern[0]) + len(pattern[1])


def apply_pattern(pattern_a: str, pattern_b: str, key: str) -> str | None:
    """Return what a pattern makes of a key of the first document; None if it does not fit."""
    if pattern_a.startswith("{}.") and pattern_a.endswith(".{}"):
        start, middle, end = key.partition(pattern_a[2:-2])
        return start + pattern_b[2:-2] + end if start and middle and end else None
    if pattern_a.endswith("{}") and pattern_b.endswith("{}") and key.startswith(pattern_a[:-2]):
        return pattern_b[:-2] + key[len(pattern_a) - 2 :]
    if pattern_a.startswith("{}") and pattern_b.startswith("{}") and key.endswith(pattern_a[2:]):
        return key[: len(key) - len(pattern_a) + 2] + pattern_b[2:]
    return None


def _kind(info: TensorInfo) -> object:
    return info.shape, info.tensor.dtype, info.tensor.layout


def _kind_and_bytes(info: TensorInfo) -> object:
    """Return the kind and a digest of the first block, if the tensor has bytes."""
    try:
        return _kind(info), blake2b(next(iter_contiguous(info.tensor), b"")).digest()
    except PtInspectError:
        return _kind(info), None


def _equal(a: TensorInfo, b: TensorInfo) -> bool:
    try:
        return same_bytes(a.tensor, b.tensor, lambda _: None)
    except PtInspectError:
        return False


def _best_pairs(
    keys_a: list[str], keys_b: list[str],
    infos_a: Mapping[str, TensorInfo], infos_b: Mapping[str, TensorInfo],
    fits: Callable[[TensorInfo, TensorInfo], bool],
) -> list[tuple[str, str]]:  # fmt: skip
    """Return the pairs that fit, the closest names first, each key at most once. Keys are
    grouped by their last 8 dotted parts, what is left by the last 7, and so on. The choice does
    not depend on which document is the first."""
    pairs: list[tuple[str, str]] = []
    tried: set[tuple[str, str]] = set()
    open_a, open_b = dict.fromkeys(keys_a), dict.fromkeys(keys_b)
    for count in range(8, -1, -1):
        groups: dict[object, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for side, keys in enumerate((open_a, open_b)):
            for key in keys:
                parts = key.rsplit(".", count)
                groups[tuple(parts[max(len(parts) - count, 0) :])][side].append(key)
        for group_a, group_b in groups.values():
            for a, b in _candidates(group_a, group_b):
                if a not in open_a or b not in open_b or (a, b) in tried:
                    continue
                if fits(infos_a[a], infos_b[b]):
                    pairs.append((a, b))
                    del open_a[a], open_b[b]
                else:
                    tried.add((a, b))
    return pairs


def _candidates(keys_a: list[str], keys_b: list[str]) -> list[tuple[str, str]]:
    """Return pairs to try, the closest names first: about `MOST_PAIRS`, or one for each key."""
    longest = max(len(keys_a), len(keys_b))
    reach = longest if longest**2 <= MOST_PAIRS else MOST_PAIRS // longest // 2

    def likeness(pair: tuple[int, int]) -> tuple[int, int, int, list[str]]:
        a, b = keys_a[pair[0]], keys_b[pair[1]]
        ends, starts = _common_parts(a, b)
        return -ends, -starts, abs(pair[0] - pair[1]), sorted((a, b))

    places = [
        (i, j)
        for i in range(len(keys_a))
        for j in range(max(0, i - reach), min(len(keys_b), i + reach + 1))
    ]
    return [(keys_a[i], keys_b[j]) for i, j in sorted(places, key=likeness)]


def _common_parts(a: str, b: str) -> tuple[int, int]:
    """Return how many dotted parts two keys share at the end, and at the start."""
    x, y = a.split("."), b.split(".")
    pairs = zip(reversed(x), reversed(y), strict=False), zip(x, y, strict=False)
    ends, starts = (sum(1 for _ in takewhile(lambda p: p[0] == p[1], both)) for both in pairs)
    return ends, starts


def find_patterns(renames: list[Rename]) -> list[Pattern]:
    """Return the shortest patterns that explain at least two renames each. `{}` is what a key has
    in common on both sides: its end (`module.{}` became `{}`), its start (`{}.q_proj.weight` became
    `{}.wq.weight`) or both (`{}.attn.{}` became `{}.mixer.{}`)."""
    explained: dict[tuple[str, str], set[int]] = defaultdict(set)
    for number, rename in enumerate(renames):
        for pattern in _patterns_of(rename):
            explained[pattern].add(number)
    unexplained = set(range(len(renames)))
    heap = [
        (-len(numbers), _pattern_length(pattern), sorted(pattern), pattern)
        for pattern, numbers in explained.items()
        if len(numbers) > 1
    ]
    heapify(heap)
    patterns: list[Pattern] = []
    while heap:  # counts only shrink: the first whose count is up to date explains most
        count, length, names, pattern = heappop(heap)
        numbers = explained[pattern] = {n for n in explained[pattern] if n in unexplained}
        if -count == len(numbers):
            patterns.append(Pattern(*pattern, len(numbers)))
            unexplained -= numbers
        elif len(numbers) > 1:
            heappush(heap, (-len(numbers), length, names, pattern))
    return patterns


def _patterns_of(rename: Rename) -> list[tuple[str, str]]:
    a, b = rename.a.split("."), rename.b.split(".")
    ends, starts = _common_parts(rename.a, rename.b)
    holes = [(0, length) for length in range(1, ends + 1)]
    holes += [(length, 0) for length in range(1, starts + 1)]
    left = min(len(a), len(b)) - 1  # both keep a part between the holes
    for start in (min(starts, left - 1), left - min(ends, left - 1)):
        end = min(ends, left - start)
        if 0 < start <= starts and end > 0:
            holes.append((start, end))
    return [(_holed(a, *hole), _holed(b, *hole)) for hole in holes]


def _holed(parts: list[str], start: int, end: int) -> str:
    """Return a key with `{}` in place of that many parts at its start and at its end."""
    rest = parts[start : len(parts) - end]
    return ".".join([*["{}"][: bool(start)], *rest, *["{}"][: bool(end)]])
