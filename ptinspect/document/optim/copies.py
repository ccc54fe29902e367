"""Weights that are stored twice: tied weights, and averages that are no averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.elements import contiguous, iter_contiguous
from ptinspect.document.optim.matching import (
    AVERAGE,
    FROZEN,
    Fault,
    Match,
    Slot,
    Weight,
    Weights,
    best_match,
)
from ptinspect.errors import UnsupportedError
from ptinspect.pickling.pyobjects import dotted

if TYPE_CHECKING:
    from ptinspect.document.tensor import Tensor
    from ptinspect.dtypes import DType

EMBEDDINGS = frozenset(
    ["wte", "embed_tokens", "word_embeddings", "tok_embeddings", "embed_in", "embedding", "shared"]
)
HEADS = frozenset(["lm_head", "output", "embed_out", "decoder", "head", "generator", "proj"])
"""Modules of language models that usually have one weight together."""


def decide_copies(slots: list[Slot], match: Match) -> Match:
    """Return the match with a model whose tied weights were stored twice, if that decides it.

    Weights that seem tied are undecided if their numbers differ and the optimizer covers only one
    of them: if one is frozen, the file is right.
    """
    is_ambiguous = any(fault.kind == "names" for fault in match.faults)
    tied = _usually_tied(match.weights)
    names = {name for pair in tied for name in pair}
    prints = {
        weight.name: _fingerprint(weight.tensor)
        for weight in match.weights.parameters
        if is_ambiguous or weight.name in names  # reading all of a large model takes minutes
    }
    # Parameters with the shape and the numbers of an earlier one are tied weights that were stored
    # twice, as after `{k: v.clone() for k, v in ...}`, or frozen copies: no file records which, and
    # a name that sounds frozen counts as the copy's. Equal constants, such as biases that were
    # never trained, are no copies.
    first_names: dict[Fingerprint, str] = {}
    copies = {}
    for name, fingerprint in sorted(prints.items(), key=lambda row: bool(FROZEN.search(row[0]))):
        if fingerprint is not None and not fingerprint.is_constant:
            first = first_names.setdefault(fingerprint, name)
            if first != name:
                copies[name] = first
    single = [weight for weight in match.weights.parameters if weight.name not in copies]
    if is_ambiguous:
        decided = best_match(slots, [replace(match.weights, parameters=single)])
        if decided is not None and not decided.faults:
            match = decided
    pairs = dict.fromkeys(tied, "models usually tie it to")
    for copy, original in copies.items():
        modules = [name.rpartition(".")[0] for name in (original, copy)]
        for weight in single:
            if modules[1] and weight.name.startswith(f"{modules[1]}."):
                sibling = modules[0] + weight.name.removeprefix(modules[1])
                pairs[sibling, weight.name] = "its module is otherwise a copy of that of"
    names = {weight.name for weight in single}
    for (a, b), reason in pairs.items():
        covered = {a, b}.intersection(match.names)
        differ = {a, b} <= names and prints.get(a) != prints.get(b)
        if differ and len(covered) == 1 and None not in match.names:
            message = (
                f"{reason} {a}, and the optimizer has one state for both, but their numbers "
                "differ: wrong if they are tied, right if one is frozen"
            )
            match.faults.append(Fault("tied", message, b, is_certain=False))
    return match


class Fingerprint(NamedTuple):
    """Type, shape and hash of a tensor, and whether all its elements are equal."""

    dtype: DType | None
    shape: tuple[int, ...]
    digest: bytes
    is_constant: bool


def _fingerprint(tensor: Tensor) -> Fingerprint | None:
    """Return the fingerprint of a tensor; None if it is sparse, packed, or without bytes."""
    from hashlib import blake2b  # `show` imports this module: start-up time counts

    size = tensor.dtype.itemsize if tensor.dtype is not None else 1
    hasher, first, is_constant = blake2b(), b"", True
    try:
        for chunk in iter_contiguous(tensor):
            hasher.update(chunk)
            first = first or chunk[:size]
            is_constant = is_constant and chunk == first * (len(chunk) // size)
    except UnsupportedError:
        return None
    return Fingerprint(tensor.dtype, tensor.shape, hasher.digest(), is_constant)


def _usually_tied(weights: Weights) -> list[tuple[str, str]]:
    """Return the names of embeddings and output layers that language models usually tie.

    A pickled module records whether they are tied, so that nothing has to be guessed.
    """

    def named(modules: frozenset[str]) -> list[Weight]:
        return [
            weight
            for weight in weights.parameters
            if weight.trainable is None and modules.intersection(weight.name.split(".")[-2:-1])
        ]

    return [
        (a.name, b.name)
        for a in named(EMBEDDINGS)
        for b in named(HEADS)
        if a.tensor.shape == b.tensor.shape
    ]


def equal_averages(models: list[Weights]) -> Iterator[str]:
    """Yield a message for each average (EMA, SWA) that has the model's own numbers."""
    own = [model for model in models if not model.is_average]
    for average in models:
        if not any(AVERAGE.search(str(step)) for step in average.path):
            continue
        tensors = {weight.name.removeprefix("module."): weight.tensor for weight in average.order}
        for model in own:
            floats = [weight for weight in model.order if weight.tensor.is_float]
            pairs = [(w.tensor, tensors[w.name]) for w in floats if w.name in tensors]
            if not pairs or len(pairs) < len(floats):
                continue
            if all(first.storage is second.storage for first, second in pairs):
                yield f"{dotted(average.path)} is the model's own tensors, not a copy"
                continue
            with suppress(UnsupportedError):  # sparse, packed, without bytes
                if all(
                    first.dtype is second.dtype
                    and first.shape == second.shape
                    and contiguous(first) == contiguous(second)
                    for first, second in pairs
                ):
                    message = f"{dotted(average.path)} has the same numbers as the model"
                    yield f"{message}: not averaged yet, not updated, or not restored"
