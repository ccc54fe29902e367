"""Which names torch 2.13 has, as far as files name them.

`tables/torch_classes.txt` has a line per module: its name without `torch.`, and its classes.
Functions are not listed: a listed module is assumed to have every function.
"""

from __future__ import annotations

from functools import cache

from ptinspect.text import read_package_file

UNLISTED = (
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
"""Packages of torch that are not listed: every name in them is assumed to exist."""


def exists_in_torch(module: str, name: str) -> bool:
    """Return True if torch 2.13 has `module.name`, or if the module is unlisted or not torch's."""
    top, _, inner = module.partition(".")
    if top != "torch" or not inner or f"{inner}.".startswith(UNLISTED):
        return True
    classes = _classes_by_module().get(inner)
    if classes is None:
        return False
    first = name.partition(".")[0]
    return not first.lstrip("_")[:1].isupper() or first in classes


@cache
def _classes_by_module() -> dict[str, frozenset[str]]:
    lines = read_package_file("torchnn/tables/torch_classes.txt").splitlines()
    return {module: frozenset(classes) for module, *classes in map(str.split, lines)}
