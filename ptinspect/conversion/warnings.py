"""Warnings about what SRC has and the output lacks, one line each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ptinspect.pickling.pyobjects import as_mapping, dotted
from ptinspect.text import count_text, join_names, size_text
from ptinspect.torchnn.attributes import WRAPPER_PREFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ptinspect.conversion.options import ConvertOptions
    from ptinspect.conversion.plan import ModelPart
    from ptinspect.document import Document
    from ptinspect.document.modules import Module
    from ptinspect.document.tensor import Tensor
    from ptinspect.pickling.pyobjects import Path

SCRIPT_DROPPED = "dropped: the code of the TorchScript program, which only TorchScript files hold"

_STATE_DICT_METHODS = re.compile(
    r"^\s+def\s+(?:get_extra_state|state_dict|_save_to_state_dict)\s*\(", re.MULTILINE
)


def loss_warnings(
    document: Document, model: ModelPart, options: ConvertOptions
) -> tuple[list[str], list[str]]:
    """Return warnings, and the names of dropped entries, for a file of which only the model is
    converted."""
    to = options.to
    warnings: list[str] = list(model.warnings)
    dropped: list[str] = []
    if document.archive.more_roots:
        dropped, count = _later_pickles(document), len(document.archive.more_roots)
        warnings.append(
            f"dropped: {join_names(dropped)} (the file holds {count_text(count, 'more pickle')}"
            " after the first)"
        )
    if model.path:
        entries = dropped_entries(document, model.path, options.other_entries)
        if entries:
            names = [f"{name} ({size_text(n)})" if n else name for name, n in entries.items()]
            keeps = "checkpoint" if to != "checkpoint" and is_checkpoint(document) else "same"
            warnings.append(f"dropped: {join_names(names)}; --to {keeps} keeps them")
        dropped += entries
    dropped += [*model.non_persistent, *model.excluded, *model.attributes]
    if model.attributes:
        warnings.append(
            f"dropped: {join_names(model.attributes)} (attributes set on tensors; --to same keeps"
            " them)"
        )
    if model.module is not None:
        if document.archive.format == "torchscript":
            warnings.append(SCRIPT_DROPPED)
        elif to != "checkpoint":
            warnings.append(
                f"dropped: the class `{model.module.class_path}` (a state_dict does not record"
                " it); --to same keeps the full model"
            )
        classes = classes_with_extra_state(model.module, document)
        if classes:
            warnings.append(
                f"missing: entries that the code of {join_names(classes)} adds to its state_dict()"
                " (such as get_extra_state()); only the class itself can save them"
            )
    if model.non_persistent:
        warnings.append(
            f"dropped: {join_names(model.non_persistent)} (buffers that are not persistent, which"
            " state_dict() leaves out)"
        )
    for prefix in WRAPPER_PREFIXES:
        if model.items and all(key.startswith(prefix) for key in model.items):
            warnings.append(f"all keys begin with {prefix!r}: --strip-prefix auto removes it")
    return [*warnings, *excluded_keys_warning(model.excluded)], dropped


def placeholder_warnings(tensors: Iterable[Tensor]) -> list[str]:
    """Return a warning about placeholders, which DeepSpeed leaves of parameters that ZeRO-3 has
    distributed, if there are any.

    Source: `deepspeed.runtime.zero.partition_parameters.free_param` (a tensor of the shape [0]).
    """
    shapes = [tensor.shape for tensor in tensors if not tensor.uninitialized]
    empty = shapes.count((0,))
    if not empty or empty * 2 < len(shapes):
        return []
    return [
        f"{empty:,} of {count_text(len(shapes), 'tensor')} have no elements: placeholders, as"
        " DeepSpeed ZeRO-3 leaves them; the weights are in other files (zero_to_fp32.py of the"
        " checkpoint's folder gathers them)"
    ]


def _later_pickles(document: Document) -> list[str]:
    """Return the tensors and entries of the pickles that follow the first."""
    count = len(document.archive.more_roots)
    return [f"[{number}]" for number in range(1, count + 1)]


def excluded_keys_warning(keys: list[str]) -> list[str]:
    """Return the warning about keys that --include and --exclude drop, if there are any."""
    return [f"dropped by --include and --exclude: {join_names(keys)}"] if keys else []


def is_checkpoint(document: Document) -> bool:
    """Return True if `--to checkpoint` takes over all entries of the file."""
    return document.kind == "checkpoint" and as_mapping(document.archive.root) is not None


def dropped_entries(
    document: Document, path: Path, other_entries: Sequence[Path] = ()
) -> dict[str, int]:
    """Return the outermost entries outside of `path`, each with the size of its tensors.

    Those below `other_entries` are written to other files.
    """
    sizes: dict[str, int] = {}
    contents = document.contents

    def is_written(entry: Path) -> bool:
        return any(entry[: len(other)] == other for other in other_entries)

    for entry in contents.entries:
        if entry.path and not is_written(entry.path) and entry.path[:1] != path[:1]:
            sizes.setdefault(dotted(entry.path[:1]), 0)
    seen: set[tuple[object, ...]] = set()
    for info in contents.tensors:
        if info.path[: len(path)] == path or not info.path or is_written(info.path):
            continue
        common = 0
        while info.path[common : common + 1] == path[common : common + 1] != ():
            common += 1
        name = dotted(info.path[: common + 1])
        view = info.tensor.view_key()
        sizes[name] = sizes.get(name, 0) + (0 if view in seen else info.nbytes)
        seen.add(view)
    for optimizer in contents.optimizers:
        if optimizer.path[: len(path)] != path and optimizer.path:
            sizes.setdefault(dotted(optimizer.path[:1]), 0)
    return sizes


def classes_with_extra_state(module: Module, document: Document) -> list[str]:
    """Return classes in a model whose own code adds to its state_dict, as far as that is known.

    Legacy files contain the source code of classes. What the code adds is in no file.

    Sources: `torch.nn.Module.get_extra_state`, which no class of torch overrides;
    `get_extra_state` of transformer_engine's `TransformerEngineBaseModule`.
    """
    overriding = {
        f"{source.module}.{source.name}"
        for source in document.archive.sources
        if _STATE_DICT_METHODS.search(source.text)
    }
    paths = dict.fromkeys(current.class_path for _, current in module.walk())
    return [path for path in paths if path in overriding or path.startswith("transformer_engine.")]
