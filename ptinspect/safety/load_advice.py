"""How a file can be loaded: the call to paste, and what it needs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.pickling.values import PersistentId
from ptinspect.safety.policy.weights_only import ALLOWED, BLOCKED
from ptinspect.text import python_literal

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.pickling.machine import Pickled


NEWEST = 10
"""The last version of the zip that torch reads (`kMaxSupportedFileFormatVersion` in
caffe2/serialize/versions.h)."""


class LoadAdvice(NamedTuple):
    """weights_only: whether torch.load takes the file as its default does. needs: classes and
    functions that come from neither torch nor the standard library. safe_globals: names that
    weights_only asks to be allowed. map_location: "needed" where a device other than the CPU is
    recorded. call: a line to paste. why: what keeps weights_only from loading it at all, however
    much is allowed; empty where nothing does."""

    weights_only: bool
    needs: list[str]
    safe_globals: list[str]
    map_location: str | None
    call: str
    why: list[str]


def load_advice(document: Document) -> LoadAdvice:
    """How to load what `document` read."""
    names = list(dict.fromkeys(name.path for name in document.globals))
    why = _refusals(document)
    asked = [name for name in names if name not in ALLOWED]
    devices = {info.device for info in document.contents.tensors} - {"cpu", "meta", "unknown"}
    place = "needed" if devices else None
    plain = not why and not asked
    return LoadAdvice(
        plain,
        [name for name in asked if _is_foreign(name)],
        asked,
        place,
        _call(document, plain, place),
        why,
    )


def _is_foreign(name: str) -> bool:
    """Whether a name comes from neither torch nor the standard library."""
    top = name.split(".", 1)[0]
    return top in ("__main__", "__mp_main__") or (
        top not in sys.stdlib_module_names and top not in ("torch", "builtins")
    )


def _refusals(document: Document) -> list[str]:
    """Why weights_only cannot take the file, whatever is allowed."""
    archive, made = document.archive, []
    if archive.format == "pickle":
        made.append("a plain pickle, which torch.load does not read")
    elif archive.format == "torch-legacy-tar":
        made.append("the tar of torch 0.1")
    if archive.facts.get("tensors_folder"):
        made.append("the zip of torch 1.4, which torch.load no longer reads")
    version = archive.facts.get("version", "")
    if archive.format == "torch-zip" and str(version).isdigit() and int(str(version)) > NEWEST:
        made.append(f"version {version} of the zip: torch 2.13 reads up to {NEWEST}")
    refused = archive.facts.get("refused")
    made += refused if isinstance(refused, list) else []
    if "/" in str(archive.facts.get("folder", "")):
        made.append("records in a folder of a folder, where torch.load does not look")
    for stream in archive.streams:
        made += _stream_refusals(stream)
        if archive.format == "torch-legacy":
            made += [_NO_LEGACY[name.path] for name in stream.globals if name.path in _NO_LEGACY]
    return list(dict.fromkeys(made))


_NO_LEGACY = {
    **dict.fromkeys(
        ("torch.storage.UntypedStorage", "torch.UntypedStorage"),
        "an untyped storage in a legacy file, which torch.load cannot read at all",
    ),
    "torch.nested._internal.nested_tensor.NestedTensor": (
        "a jagged tensor in a legacy file, where its data comes too late for torch.load"
    ),
}


def _stream_refusals(stream: Pickled) -> list[str]:
    made = []
    unknown = sorted(stream.unsupported_opcodes)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        which = f"protocol {stream.protocol}, opcodes that it does not know"
        made.append(f"{which}: {', '.join(unknown[:3])}{more}")
    if any(isinstance(value, PersistentId) and _is_class(value) for value in stream.persistent):
        made.append("classes with their source, as a legacy full model holds them")
    blocked = [name.path for name in stream.globals if name.module in BLOCKED]
    if blocked:
        made.append(f"names that it never allows: {', '.join(blocked[:3])}")
    return made


def _is_class(value: PersistentId) -> bool:
    named = value.value
    return isinstance(named, tuple) and bool(named) and named[0] == "module"


def _call(document: Document, plain: bool, place: str | None) -> str:
    """The call, with the file's name as a literal."""
    name = python_literal(document.path)
    encoding = ', encoding="latin1"' if _is_latin(document) else ""
    if document.archive.format == "pickle":
        return f'pickle.load(open({name}, "rb"){encoding})'
    if document.archive.format == "safetensors":
        return f"safetensors.torch.load_file({name})"
    options = "" if plain else ", weights_only=False"
    options += ', map_location="cpu"' if place else ""
    if document.archive.format == "safetensors-index":
        return _each_shard(document.path, "safetensors.torch.load_file({})")
    if document.archive.format == "torch-index":
        return _each_shard(document.path, f"torch.load({{}}{options}{encoding})")
    return f"torch.load({name}{options}{encoding})"


def _each_shard(path: str, call: str) -> str:
    """One dict of what `call` gives for each of the files that the index names."""
    folder, name = os.path.dirname(path), python_literal(path)
    inner = call.format(f"os.path.join({python_literal(folder)}, f)" if folder else "f")
    shards = f'sorted({{*json.load(open({name}))["weight_map"].values()}})'
    return f"{{k: v for f in {shards} for k, v in {inner}.items()}}"


def _is_latin(document: Document) -> bool:
    return any(
        warned.kind == "python2-string"
        for stream in document.archive.streams
        for warned in stream.warnings
    )
