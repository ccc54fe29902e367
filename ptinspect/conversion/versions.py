"""The version numbers that modules write into a state_dict's `_metadata`.

A class has it as its attribute `_version`, which no pickle records; these are those of torch
2.13. Almost all are 1. A class of a user's that extends one of these has its number, too, and is
told by its attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.torchnn import candidates

if TYPE_CHECKING:
    from ptinspect.document.modules import Module

_NORMS = tuple(f"{kind}Norm{n}d" for kind in ("Batch", "Instance") for n in (1, 2, 3))
_BY_NAME = {
    **dict.fromkeys((*_NORMS, *(f"Lazy{name}" for name in _NORMS), "SyncBatchNorm"), 2),
    **{f"ConvBn{relu}{n}d": 2 for n in (1, 2, 3) for relu in ("", "ReLU")},
    "BNReLU2d": 2,
    "BNReLU3d": 2,
    "HistogramObserver": 3,
    "MinMaxObserver": 3,
    "MovingAverageMinMaxObserver": 3,
    "MovingAveragePerChannelMinMaxObserver": 3,
    "PerChannelMinMaxObserver": 3,
    "LinearPackedParams": 3,
}
_QUANTIZED = {"Linear": 3, "LinearReLU": 3, "LinearLeakyReLU": 3, "LinearTanh": 3}
_DYNAMIC = {"Linear": 4, "LinearReLU": 4, "GRU": 2, "LSTM": 2}
_BATCH = ("running_mean", "running_var", "num_batches_tracked")


def version_of(module: Module) -> int:
    """The module's `_version`: its class's, where that is torch's, else that of the torch class
    which it seems to extend."""
    own = module.attributes.get("_version")
    if isinstance(own, int):
        return own
    path, name = module.class_path, module.class_name
    if path.startswith("torch."):
        if ".sparse." in path or ".reference." in path:
            return 1
        if ".quantized.dynamic." in path:
            return _DYNAMIC.get(name, 1)
        if ".quantized." in path and name in _QUANTIZED:
            return _QUANTIZED[name]
        return _BY_NAME.get(name, 1)
    buffers = dict(module.members("_buffers"))
    if not all(key in buffers for key in _BATCH):
        return 1
    found = candidates(module.attributes)
    return _BY_NAME.get(found[0].name, 1) if found else 1
