"""Models in several files, written by hand: safetensors shards, and the index beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SAFETENSORS = "model-{:05}-of-{:05}.safetensors"


def safetensors(tensors: dict[str, bytes], metadata: dict[str, str] | None = None) -> bytes:
    """A file of uint8 vectors."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, data in tensors.items():
        end = at + len(data)
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + b"".join(tensors.values())


def index_text(weight_map: Any, total: Any = None) -> str:
    """As transformers writes it: json.dumps(index, indent=2, sort_keys=True), and a newline."""
    index = {"metadata": {} if total is None else {"total_size": total}, "weight_map": weight_map}
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def model(folder: Path, *shards: dict[str, bytes], total: Any = None) -> Path:
    """The shards and their index, whose path is returned."""
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = SAFETENSORS.format(number, len(shards))
        (folder / name).write_bytes(safetensors(tensors))
        weight_map.update(dict.fromkeys(tensors, name))
    size = sum(len(data) for tensors in shards for data in tensors.values())
    path = folder / "model.safetensors.index.json"
    path.write_text(index_text(weight_map, size if total is None else total), "utf-8")
    return path
