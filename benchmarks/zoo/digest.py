"""What two models are held against each other by: plain data, told by a model or a state_dict.

Imported on both sides, so it needs nothing but torch.
"""

from __future__ import annotations

import zlib
from typing import Any


def shapes_of(state: dict[str, Any]) -> list[list[Any]]:
    """Each entry of a state_dict, in order: key, dtype, shape, and a checksum of its values."""
    return [[key, *_tensor(value)] for key, value in state.items()]


def _tensor(value: Any) -> list[Any]:
    import torch

    if not isinstance(value, torch.Tensor):
        return [type(value).__name__, [], zlib.crc32(repr(value).encode())]
    if value.is_quantized:
        return [str(value.dtype), list(value.shape), zlib.crc32(repr(value).encode())]
    plain = value.detach().contiguous().flatten().view(torch.uint8)
    return [str(value.dtype), list(value.shape), zlib.crc32(plain.numpy().data)]


def facts_of(model: Any) -> dict[str, Any]:
    """Modes, frozen parameters, all buffers (those left out of the state_dict too), and ties."""
    return {
        "training": [name for name, inner in model.named_modules() if not inner.training],
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "buffers": [
            [name, str(b.dtype), list(b.shape)]
            for name, b in model.named_buffers(remove_duplicate=False)
        ],
        "parameters": [
            [name, str(p.dtype), list(p.shape)]
            for name, p in model.named_parameters(remove_duplicate=False)
        ],
        "tied": _tied(model),
    }


def _tied(model: Any) -> list[list[str]]:
    """Names of one and the same parameter, buffer or module."""
    names: dict[int, list[str]] = {}
    for kind in ("named_parameters", "named_buffers", "named_modules"):
        for name, value in getattr(model, kind)(remove_duplicate=False):
            names.setdefault(id(value), []).append(name)
    return sorted(group for group in names.values() if len(group) > 1)
