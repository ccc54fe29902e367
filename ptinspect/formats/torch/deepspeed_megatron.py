"""Checkpoints of DeepSpeed and of Megatron-LM: folders with the files of all ranks.

DeepSpeed: the float32 weights of all ranks, as `zero_to_fp32` joins them.

    latest                                           the name of the newest checkpoint's folder
    TAG/mp_rank_00_model_states.pt                   module, param_shapes, … (stages 0 to 2)
    TAG/zero_pp_rank_R_mp_rank_00_model_states.pt    likewise, of each rank (stage 3)
    TAG/[bf16_]zero_pp_rank_R_mp_rank_00_optim_states.pt
                                                     the flat float32 vectors of rank R

Stages 1 and 2 cut the vector of each parameter group into one part per rank: joined, it has the
parameters in the order of `param_shapes`, with `param_alignment_paddings` between them. Stage 3
cuts each parameter into one part per rank, all of one length, and joins the parts of a rank.
Without ZeRO (stage 0) the weights are those of `module`. Source: zero_to_fp32.py of DeepSpeed
(_zero2_merge_trainable_params, _zero3_merge_trainable_params, parse_model_states).

Megatron-LM: the files of all ranks, side by side.

    latest_checkpointed_iteration.txt               the newest iteration, or "release"
    iter_0000020/mp_rank_TT[_PPP][_EEE]/model_optim_rng.pt
                                                    tensor, pipeline and expert rank
    …/distrib_optim.pt                              the distributed optimizer: named, not read

No file records along which dimension a tensor was cut, so the ranks' tensors are not joined: each
is shown below its folder's name. Source: megatron/training/checkpointing.py of Megatron-LM
(get_checkpoint_name, generate_state_dict).
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

from ptinspect.dtypes import DTYPES, decoder
from ptinspect.errors import DamagedError, PtInspectError, UnsupportedError
from ptinspect.formats.archive import (
    Archive,
    Finding,
    PicklelessArchive,
    prefix_storage_keys,
    text_items,
)
from ptinspect.formats.safetensors import dense_tensor, ordered_dict
from ptinspect.formats.torch.pieces import Elements, Piece, PiecedSpan, locate, sizes_of
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.pyobjects import as_mapping, as_sequence, attributes_of
from ptinspect.pickling.values import Call, Global, Value
from ptinspect.text import bounded_repr, join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.formats.archive import OpenArchive
    from ptinspect.source.base import Source

_MODEL, _OPTIMIZER = "_model_states.pt", "_optim_states.pt"
_FLAT_KEYS = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups",
              3: "fp32_flat_groups"}  # fmt: skip
_FLOAT = DTYPES["float32"]
_REBUILD_PARAMETER = Global("torch._utils", "_rebuild_parameter", 0)


def _names(folder: str, ending: str) -> list[str]:
    """Return the files of a folder with this ending, in the order of their ranks."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(ending)]
    except OSError:
        return []
    return sorted(
        names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
    )


def read_deepspeed(
    source: Source, folder: str, open_archive: OpenArchive, limits: Limits = LIMITS
) -> PicklelessArchive:
    """Read the checkpoint in `folder`, which `source` names. DamagedError if a rank's file is
    missing or the vectors have not the length of the parameters, UnsupportedError with tensor
    parallelism."""
    archive = PicklelessArchive(source, limits, "deepspeed")
    models, optimizers = _names(folder, _MODEL), _names(folder, _OPTIMIZER)
    names = [*models, *optimizers]
    if any(re.search(r"mp_rank_0*[1-9]", name) for name in names):
        raise UnsupportedError(
            "the checkpoint is cut by tensor parallelism too, which zero_to_fp32 does not undo"
        )
    archive.open_parts(folder, names, open_archive)
    try:
        for part, name in zip(archive.parts, names, strict=True):
            if as_mapping(part.root) is None:
                raise DamagedError(f"{printable_name(name)} is not a file of DeepSpeed")
        states = [text_items(part.root) for part in archive.parts]
        _join(archive, states[: len(models)], states[len(models) :], optimizers)
    except PtInspectError:
        archive.close()
        raise
    archive.streams = [stream for part in archive.parts for stream in part.streams]
    archive.facts["set"] = {
        "ranks": max(len(optimizers), 1), "tag": os.path.basename(folder),
        "files": names, "missing": [],
    }  # fmt: skip
    archive.warnings.append(
        Finding("unread-object", "the state of the optimizer is not put together")
    )
    return archive


def _join(
    archive: PicklelessArchive, models: list[dict[str, Value]], optimizers: list[dict[str, Value]],
    names: list[str],
) -> None:  # fmt: skip
    """Set the archive's value: buffers, frozen parameters, parameters, shared ones."""
    model, first = models[0], archive.parts[0]
    module = text_items(model.get("module"))
    joiner = _Joiner(archive)
    if not optimizers:
        for key, value in module.items():
            part = _locate(first, key, value)
            joiner.add(key, [part], part.shape, is_parameter=False)
        archive.value = ordered_dict(joiner.tensors)
        return
    zero = [text_items(state.get("optimizer_state_dict")) for state in optimizers]
    stage, ranks = _stage(zero[0]), _rank_count(zero[0])
    if ranks != len(zero):
        raise _missing_ranks_error(ranks, names)
    for key in map(str, as_sequence(model.get("buffer_names")) or ()):
        if key in module:
            part = _locate(first, key, module[key])
            cast = part.dtype.kind == "float" and part.dtype is not _FLOAT
            joiner.add(key, [part], part.shape, is_parameter=False, cast=cast)
    frozen = text_items(model.get("frozen_param_shapes"))
    for key, size in frozen.items():
        sources = models if stage == 3 else models[:1]
        parts = [
            _locate(part, key, text_items(state.get("frozen_param_fragments")).get(key))
            for part, state in zip(archive.parts, sources, strict=False)
        ]
        shape = sizes_of(size, bounded_repr(key))
        joiner.add(key, _cut(parts, 0, prod(shape), key), shape)
    flat_key = _FLAT_KEYS[stage]
    groups = [
        [
            replace(_locate(part, flat_key, value), group=number)
            for number, value in enumerate(as_sequence(state.get(flat_key)) or ())
        ]
        for part, state in zip(archive.parts[len(models) :], zero, strict=True)
    ]
    shapes = [text_items(group) for group in as_sequence(model.get("param_shapes")) or ()]
    (_join_stage_3 if stage == 3 else _join_stage_2)(joiner, groups, shapes, zero[0])
    for alias, kept in text_items(model.get("shared_params")).items():
        if str(kept) in joiner.tensors:
            joiner.tensors[alias] = joiner.tensors[str(kept)]
    archive.value = ordered_dict(joiner.tensors)


def _join_stage_2(
    joiner: _Joiner, groups: list[list[Elements]], shapes: list[dict[str, Value]],
    zero: dict[str, Value],
) -> None:  # fmt: skip
    paddings = as_sequence(zero.get("param_alignment_paddings"))
    align = 2 * len(groups)
    if any(len(rank) != len(shapes) for rank in groups):
        raise DamagedError("the ranks have other parameter groups than param_shapes")
    for number, group in enumerate(shapes):
        vector = [rank[number] for rank in groups]
        steps = as_sequence(paddings[number]) if paddings is not None else None
        position = 0
        for index, (key, size) in enumerate(group.items()):
            shape = sizes_of(size, bounded_repr(key))
            joiner.add(key, _cut(vector, position, position + prod(shape), key), shape)
            position += prod(shape)
            step = steps[index] if steps is not None and index < len(steps) else 0
            position += step if type(step) is int and step > 0 else 0
        total = sum(part.numel for part in vector)
        if -(-position // align) != -(-total // align):
            raise DamagedError(
                f"the vector of parameter group {number} has {total:,} elements, its parameters"
                f" have {position:,}"
            )


def _join_stage_3(
    joiner: _Joiner, groups: list[list[Elements]], shapes: list[dict[str, Value]],
    zero: dict[str, Value],
) -> None:  # fmt: skip
    ranks, position = len(groups), 0
    for key, size in chain.from_iterable(group.items() for group in shapes):
        shape = sizes_of(size, bounded_repr(key))
        length = -(-prod(shape) // ranks)
        parts = [p for rank in groups for p in _cut(rank, position, position + length, key)]
        joiner.add(key, _cut(parts, 0, prod(shape), key), shape)
        position += length
    for number, rank in enumerate(groups):
        total = sum(part.numel for part in rank)
        if total != position:
            raise DamagedError(
                f"the vector of rank {number} has {total:,} elements, its parameters have"
                f" {position:,}"
            )


class _Joiner:
    """Collects the tensors, with a storage for each."""

    def __init__(self, archive: PicklelessArchive) -> None:
        self.spans = archive.spans
        self.tensors: dict[str, Value] = {}

    def add(
        self, key: str, parts: list[Elements], shape: tuple[int, ...], *,
        is_parameter: bool = True, cast: bool = False,
    ) -> None:  # fmt: skip
        """Add a tensor whose parts follow one another; cast to float32 if `cast` is set."""
        dtypes = {part.dtype for part in parts} or {_FLOAT}
        if len(dtypes) > 1 or key in self.tensors:
            raise DamagedError(f"{bounded_repr(key)} is there twice or with two element types")
        dtype = _FLOAT if cast else dtypes.pop()
        pieces, offset = [], 0
        for part in parts:
            elements = partial(_as_float, part) if cast else partial(list, [part])
            path = os.path.basename(part.archive.source.path)
            vector = part.first, part.first + part.numel, part.group
            pieces.append(Piece((offset,), (part.numel,), path, elements, vector))
            offset += part.numel
        if offset != prod(shape):
            raise DamagedError(f"{bounded_repr(key)} is not complete")
        self.spans[key] = PiecedSpan(dtype, (offset,), pieces)
        call = dense_tensor(key, dtype, shape)
        if is_parameter:
            call = Call(_REBUILD_PARAMETER, (call, True, ordered_dict({})), "REDUCE", 0)
        self.tensors[key] = call


def _as_float(part: Elements) -> list[Elements]:
    """Return float16, bfloat16 or float64 as float32: `Tensor.float()`."""
    from array import array

    raw = b"".join(part.chunks(0, part.nbytes))
    numbers = array("f", decoder(part.dtype)(raw))  # type: ignore[type-var]
    return [replace(part, dtype=_FLOAT, data=numbers.tobytes())]


def _cut(parts: list[Elements], start: int, stop: int, key: str) -> list[Elements]:
    """Return elements `start` to `stop` of parts that follow one another."""
    result, first = [], 0
    for part in parts:
        low, high = max(start - first, 0), min(stop - first, part.numel)
        if low < high:
            result.append(part.range(low, high))
        first += part.numel
    if stop > first:
        raise DamagedError(
            f"{bounded_repr(key)} needs elements up to {stop:,} of a vector that has {first:,}"
        )
    return result


def _locate(archive: Archive, key: str, value: Value) -> Elements:
    return locate(archive, value, bounded_repr(key))


def _stage(zero: dict[str, Value]) -> int:
    """Return the number of the stage, which is an enum of DeepSpeed."""
    value = zero.get("zero_stage")
    value = value.args[0] if isinstance(value, Call) and value.args else value
    if value not in _FLAT_KEYS:
        raise UnsupportedError(f"stage {bounded_repr(value)} of ZeRO is not known")
    return int(str(value))


def _rank_count(zero: dict[str, Value]) -> int:
    value: Any = zero.get("partition_count")
    counts = as_sequence(value) if not isinstance(value, int) else [value]
    if not counts or not all(type(count) is int for count in counts):
        raise DamagedError("the number of ranks is not recorded")
    return max(counts)  # type: ignore[type-var, return-value]


def _missing_ranks_error(ranks: int, names: list[str]) -> DamagedError:
    present = {int(match[1]) for name in names if (match := re.search(r"pp_rank_(\d+)", name))}
    missing = [
        re.sub(r"pp_rank_\d+", f"pp_rank_{rank}", names[0])
        for rank in range(min(ranks, 10_000)) if rank not in present
    ]  # fmt: skip
    text = f"files are missing: {join_names(map(printable_name, missing), 3)}"
    if not missing:
        text = "there are files of more ranks than that"
    return DamagedError(
        f"the checkpoint has {ranks:,} ranks, {text}",
        hint="copy the files of all ranks into one folder",
    )


# --- Megatron-LM ---------------------------------------------------------------------------

_RANK = re.compile(r"mp_rank_(\d+)(?:_(\d+))?(?:_\d+)?")
_MODELS = ("model_optim_rng.pt", "model_rng.pt")
_SIZES = ("tensor_model_parallel_size", "pipeline_model_parallel_size")


def read_megatron(
    source: Source, folder: str, open_archive: OpenArchive, limits: Limits = LIMITS
) -> PicklelessArchive:
    """Read the ranks' files in the folder of an iteration, which `source` names."""
    archive = PicklelessArchive(source, limits, "megatron")
    names = sorted(name for name in os.listdir(folder) if _RANK.fullmatch(name))
    paths = [os.path.join(name, model) for name in names for model in _MODELS]
    files = [path for path in paths if os.path.isfile(os.path.join(folder, path))]
    if not files:
        raise DamagedError(f"no rank in {printable_name(folder)} has a file of its model")
    archive.open_parts(folder, files, open_archive)
    ranks: dict[str, Value] = {}
    try:
        for number, (path, part) in enumerate(zip(files, archive.parts, strict=True)):
            prefix_storage_keys(part.pickled, str(number))
            archive.streams += part.streams
            ranks[os.path.dirname(path)] = part.root
    except PtInspectError:
        archive.close()
        raise
    archive.value = dict(ranks)
    missing = _missing_ranks(archive.parts[0], files)
    archive.facts["set"] = {
        "ranks": len(files), "tag": os.path.basename(folder), "files": files, "missing": missing,
    }  # fmt: skip
    if missing:
        text = f"files are missing: {join_names(map(printable_name, missing), 3)}"
        archive.warnings.append(Finding("missing-file", text))
    # Files next to those of the model, such as distrib_optim.pt of the distributed optimizer.
    paths = [os.path.join(r, name) for r in ranks for name in os.listdir(os.path.join(folder, r))]
    others = sorted(path for path in paths if path.endswith(".pt") and path not in files)
    if others:
        listed = join_names(map(printable_name, others), 3)
        text = f"files of torch.save that are not read: {listed}"
        archive.warnings.append(Finding("not-read", text))
    if len(files) + len(missing) > 1:
        entry = f"{os.path.dirname(files[0])}.model"
        text = (
            "each rank is a part of the model, and is shown for itself: no file records along which"
            f" dimension a tensor was cut. `convert --entry {entry}` writes one rank;"
            " tools/checkpoint/convert.py of Megatron-LM joins them"
        )
        archive.warnings.append(Finding("not-joined", text))
    return archive


def _missing_ranks(first: Archive, files: list[str]) -> list[str]:
    """Return the files of the ranks that the recorded arguments name, and that are not there."""
    arguments = (as_mapping(first.root) or {}).get("args")
    recorded = attributes_of(arguments) if isinstance(arguments, Call) else {}
    sizes = [recorded.get(name) for name in _SIZES]
    tensor, pipeline = (n if type(n) is int and 0 < n <= 4096 else 1 for n in sizes)
    present = {(int(m[1]), int(m[2] or 0)) for path in files if (m := _RANK.match(path))}
    model = os.path.basename(files[0])
    return [
        f"mp_rank_{t:02d}{f'_{p:03d}' if pipeline > 1 else ''}/{model}"
        for p in range(pipeline) for t in range(tensor) if (t, p) not in present
    ]  # fmt: skip
