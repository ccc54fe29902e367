"""Advice on loading a file: the call to paste, and what it needs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptinspect.pickling.values import Global, PersistentId
from ptinspect.safety.policy import WEIGHTS_ONLY_BLOCKED_MODULES, WEIGHTS_ONLY_NAMES
from ptinspect.text import join_names, python_literal, shell_word

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ptinspect.document import Document
    from ptinspect.pickling.machine import Pickled


NEWEST_ZIP_VERSION = 10
"""The newest version of torch's zip format that torch reads.

Source: `kMaxSupportedFileFormatVersion` in caffe2/serialize/versions.h.
"""

_UNREADABLE_IN_LEGACY = {
    **dict.fromkeys(
        ("torch.storage.UntypedStorage", "torch.UntypedStorage"),
        "an untyped storage in a legacy file, which torch.load cannot read at all",
    ),
    "torch.nested._internal.nested_tensor.NestedTensor": (
        "a jagged tensor in a legacy file, where its data comes too late for torch.load"
    ),
}

# torch wrote these functions once and no longer has them.
_REMOVED_FUNCTIONS = frozenset(
    ("torch._utils._rebuild_sparse_csr_tensor", "torch._utils._rebuild_mlc_tensor")
)

MAX_SAFE_GLOBALS = 12
"""Names that one line to paste may list."""


@dataclass(frozen=True, slots=True)
class LoadAdvice:
    """Advice on loading one file.

    Attributes:
        weights_only: True if torch.load reads the file with its default, weights_only=True.
        needs: classes and functions that neither torch, numpy nor the standard library has.
        safe_globals: names that weights_only needs as safe globals.
        map_location: "needed" if a device other than the CPU is recorded.
        call: the line of Python that loads the file.
        blockers: what keeps weights_only from loading the file, whatever the safe globals are.
    """

    weights_only: bool
    needs: list[str]
    safe_globals: list[str]
    map_location: str | None
    call: str
    blockers: list[str]


def load_advice(document: Document) -> LoadAdvice:
    """Return how to load the file of an open document."""
    return advise_loading(
        path_to_load(document),
        document.archive.format,
        document.archive.facts,
        document.archive.streams,
        [name.path for name in document.globals],
        {tensor.device for tensor in document.contents.tensors},
    )


def path_to_load(document: Document) -> str:
    """Return the path for the reader of the format: the folder of a distributed checkpoint, the
    first rank's file of Megatron, and the file in it for a folder of another kind."""
    archive = document.archive
    path = archive.parts[0].source.path if archive.format == "megatron" else archive.source.path
    return os.path.dirname(path) or "." if archive.format in _FOLDERS else path


def advise_loading(
    path: str,
    format: str,
    facts: Mapping[str, object],
    streams: Sequence[Pickled],
    names: Iterable[str],
    devices: Collection[str],
) -> LoadAdvice:
    """Return how to load a file.

    Args:
        path: the file's path, for the line to paste.
        format: name of the container's format, as in JSON.
        facts: what the container records besides its pickles.
        streams: the file's pickles, after they were run.
        names: the globals that loading imports, as `module.name`.
        devices: the devices that tensors are recorded on.
    """
    if format in _OTHER_READERS:  # torch.load does not read their pickles
        names, streams = (), ()
    elif format == "torch-ranks":  # the tensors that `convert` writes are ordinary ones
        names = [name for name in names if not name.startswith("torch.distributed.")]
    blockers = _weights_only_blockers(format, facts, streams)
    safe_globals = [name for name in dict.fromkeys(names) if name not in WEIGHTS_ONLY_NAMES]
    weights_only = not blockers and not safe_globals
    map_location = "needed" if set(devices) - {"cpu", "meta", "unknown"} else None
    is_latin1 = any(
        warning.kind == "python2-string" for stream in streams for warning in stream.warnings
    )
    options = "" if weights_only else ", weights_only=False"
    options += ', map_location="cpu"' if map_location else ""
    encoding = ', encoding="latin1"' if is_latin1 else ""
    return LoadAdvice(
        weights_only=weights_only,
        needs=[name for name in safe_globals if _is_user_defined(name)],
        safe_globals=safe_globals,
        map_location=map_location,
        call=_load_call(path, format, options, encoding),
        blockers=blockers,
    )


def _is_user_defined(name: str) -> bool:
    """Return True if a name belongs to neither torch, numpy nor the standard library."""
    top = name.split(".", 1)[0]
    return top in ("__main__", "__mp_main__") or (
        top not in sys.stdlib_module_names and top not in ("torch", "numpy", "builtins")
    )


def _weights_only_blockers(
    format: str, facts: Mapping[str, object], streams: Sequence[Pickled]
) -> list[str]:
    blockers = []
    if format == "pickle":
        blockers.append("a plain pickle, which torch.load does not read")
    elif format == "torchscript":
        blockers.append("a TorchScript archive, which weights_only refuses")
    elif format in _OTHER_READERS:
        blockers.append(f"a file of the format {format}, which torch.load does not read")
    elif format == "torch-legacy-tar":
        blockers.append("the tar of torch 0.1")
    if facts.get("tensors_folder"):
        blockers.append("the zip of torch 1.4, which torch.load no longer reads")
    version = str(facts.get("version", ""))
    if format == "torch-zip" and version.isdigit() and int(version) > NEWEST_ZIP_VERSION:
        blockers.append(
            f"version {version} of the zip: torch 2.13 reads up to {NEWEST_ZIP_VERSION}"
        )
    refused = facts.get("refused")
    blockers += refused if isinstance(refused, list) else []
    if "/" in str(facts.get("folder", "")):
        blockers.append("records in a nested folder, where torch.load does not look")
    for stream in streams:
        blockers += _stream_blockers(stream)
        if format == "torch-legacy":
            blockers += [
                _UNREADABLE_IN_LEGACY[name.path]
                for name in stream.globals
                if name.path in _UNREADABLE_IN_LEGACY
            ]
    return list(dict.fromkeys(blockers))


def _stream_blockers(stream: Pickled) -> list[str]:
    blockers = []
    if stream.unsupported_opcodes:
        opcodes = join_names(sorted(stream.unsupported_opcodes), 3)
        blockers.append(f"protocol {stream.protocol}, opcodes that it does not support: {opcodes}")
    if any(isinstance(value, PersistentId) and _is_class(value) for value in stream.persistent):
        blockers.append("classes stored with their source, as in a legacy full model")
    blocked = [name.path for name in stream.globals if name.module in WEIGHTS_ONLY_BLOCKED_MODULES]
    if blocked:
        blockers.append(f"names that it never allows: {', '.join(blocked[:3])}")
    return blockers


def _is_class(persistent_id: PersistentId) -> bool:
    fields = persistent_id.value
    return isinstance(fields, tuple) and bool(fields) and fields[0] == "module"


_FOLDERS = ("deepspeed", "torch-dcp")
"""Formats whose reader takes a folder."""

_OTHER_READERS = {
    "npy": "numpy.load({})",
    "npz": "numpy.load({})",
    "joblib": "joblib.load({})",
    "deepspeed": "deepspeed.utils.zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint({})",
    "onnx": "onnx.load({})",
    "gguf": "gguf.GGUFReader({})",
    "torchscript": "torch.jit.load({})",
    "torch-export": "torch.export.load({})",
    "torch-package": "torch.package.PackageImporter({})",
    "torch-dcp": "torch.distributed.checkpoint.load(state_dict, checkpoint_id={})",
}
"""The call that reads a file of a format whose own reader is not torch.load."""


def _load_call(path: str, format: str, options: str, encoding: str) -> str:
    """Return the line of Python that loads the file, with its path as a literal."""
    literal = python_literal(path)
    if format == "pickle":
        return f'pickle.load(open({literal}, "rb"){encoding})'
    if format == "safetensors":
        return f"safetensors.torch.load_file({literal})"
    if format == "torch-ranks":
        command = f"ptinspect convert {shell_word(path)} model.pt --to same"
        return f'torch.load("model.pt"{options}{encoding})  # written by: {command}'
    if format in _OTHER_READERS:
        where = ', map_location="cpu"' if format == "torchscript" and "map_" in options else ""
        return _OTHER_READERS[format].format(literal + where)
    if format == "safetensors-index":
        return _load_shards_call(path, "safetensors.torch.load_file({})")
    if format == "torch-index":
        return _load_shards_call(path, f"torch.load({{}}{options}{encoding})")
    if path.endswith(".safetensors"):  # by this name, torch 2.13 takes a file for safetensors
        literal = f'open({literal}, "rb")'
    return f"torch.load({literal}{options}{encoding})"


def _load_shards_call(index_path: str, load_template: str) -> str:
    """Return a dict comprehension over all shards that the index names."""
    folder = os.path.dirname(index_path)
    shard_path = f"os.path.join({python_literal(folder)}, f)" if folder else "f"
    shards = f'sorted({{*json.load(open({python_literal(index_path)}))["weight_map"].values()}})'
    load = load_template.format(shard_path)
    return f"{{k: v for f in {shards} for k, v in {load}.items()}}"


def is_in_today_torch(name: Global) -> bool:
    """Return True unless the name is one of torch that was renamed or removed."""
    from ptinspect.torchnn.classes import exists_in_torch

    # Renamed since it was written: weights_only asks for the old name.
    is_renamed = name.module == "torch.tensor" or name.name.endswith("Error")
    is_removed = (
        name.module.startswith("torch.nn.quantized.")
        or name.path in _REMOVED_FUNCTIONS
        or not exists_in_torch(name.module, name.name)
    )
    return not is_renamed and not is_removed
