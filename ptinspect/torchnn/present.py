"""Which names torch 2.13 has, as far as files name them.

`tables/torch_classes.txt` has a line per module: its name without `torch.`, and its classes.
Functions are not listed: a module that is there is taken to have those it is asked for.
"""

from __future__ import annotations

import os

TRUSTED = (
    "_C.", "_awaits.", "_classes.", "_custom_op", "_decomp.", "_dynamo.", "_export.", "_functorch.",
    "_higher_order_ops.", "_inductor.", "_lazy.", "_library.", "_logging.", "_meta", "_native.",
    "_numpy.", "_ops.", "_prims", "_refs.", "_strobelight.", "_subclasses.", "_vendor.",
    "accelerator.",
    "ao.ns.", "ao.pruning.", "ao.quantization.fx.", "backends.", "compiler.", "contrib.", "cuda.",
    "distributed.", "export.", "func.", "fx.experimental.", "fx.passes.", "jit.", "monitor.",
    "mps.", "mtia.", "numa.", "onnx.", "package.", "profiler.", "return_types.", "signal.",
    "sparse.", "special.", "testing.", "utils._strobelight.", "utils._sympy.", "utils.benchmark.",
    "utils.bottleneck.", "utils.hipify.", "utils.model_dump.", "utils.tensorboard.",
    "utils.viz.", "xpu.",
)  # fmt: skip
"""Packages of torch that are not listed: what they are asked for is taken to be there."""
_known: dict[str, frozenset[str]] = {}


def is_there(module: str, name: str) -> bool:
    """Whether torch 2.13 has `module.name`; True for all that is not torch's or not listed."""
    top, _, inner = module.partition(".")
    if top != "torch" or not inner or f"{inner}.".startswith(TRUSTED):
        return True
    if not _known:
        path = os.path.join(os.path.dirname(__file__), "tables", "torch_classes.txt")
        with open(path, encoding="utf-8") as file:
            for line in file:
                home, *classes = line.split()
                _known[home] = frozenset(classes)
    found = _known.get(inner)
    if found is None:
        return False
    first = name.partition(".")[0]
    return not first.lstrip("_")[:1].isupper() or first in found
