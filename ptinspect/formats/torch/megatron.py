"""A checkpoint of Megatron-LM: the files of all ranks, side by side.

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
from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError, PtInspectError
from ptinspect.formats.archive import Finding, PicklelessArchive, prefix_storage_keys
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.pyobjects import as_mapping, attributes_of
from ptinspect.pickling.values import Call, Value
from ptinspect.text import join_names, printable_name

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive, OpenArchive
    from ptinspect.source.base import Source

_RANK = re.compile(r"mp_rank_(\d+)(?:_(\d+))?(?:_\d+)?")
_MODELS = ("model_optim_rng.pt", "model_rng.pt")
_SIZES = ("tensor_model_parallel_size", "pipeline_model_parallel_size")


class Megatron(PicklelessArchive):
    """See the module's docstring. `parts` are the ranks' files."""

    format = "megatron"


def rank_files(folder: str) -> list[str]:
    """Return the model files of all ranks below the folder of an iteration."""
    names = sorted(name for name in os.listdir(folder) if _RANK.fullmatch(name))
    paths = [os.path.join(name, model) for name in names for model in _MODELS]
    return [path for path in paths if os.path.isfile(os.path.join(folder, path))]


def read_megatron(
    source: Source, folder: str, open_archive: OpenArchive, limits: Limits = LIMITS
) -> Megatron:
    """Read the ranks' files in the folder of an iteration, which `source` names."""
    archive = Megatron(source, limits)
    files = rank_files(folder)
    if not files:
        raise DamagedError(f"no rank in {printable_name(folder)} has a file of its model")
    archive.open_parts(folder, files, open_archive)
    ranks: dict[Value, Value] = {}
    try:
        for number, (path, part) in enumerate(zip(files, archive.parts, strict=True)):
            prefix_storage_keys(part.pickled, str(number))
            archive.streams += part.streams
            ranks[os.path.dirname(path)] = part.root
    except PtInspectError:
        archive.close()
        raise
    archive.value = ranks
    missing = _missing_ranks(archive.parts[0], files)
    archive.facts["set"] = {
        "ranks": len(files), "tag": os.path.basename(folder), "files": files, "missing": missing,
    }  # fmt: skip
    if missing:
        text = f"files are missing: {join_names(map(printable_name, missing), 3)}"
        archive.warnings.append(Finding("missing-file", text))
    others = _other_files(folder, files)
    if others:
        text = (
            f"files of torch.save that are not read: {join_names(map(printable_name, others), 3)}"
        )
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


def _other_files(folder: str, files: list[str]) -> list[str]:
    """Return the files next to those of the model, such as distrib_optim.pt, which has the state of
    the distributed optimizer."""
    ranks = dict.fromkeys(map(os.path.dirname, files))
    paths = [os.path.join(r, name) for r in ranks for name in os.listdir(os.path.join(folder, r))]
    return sorted(path for path in paths if path.endswith(".pt") and path not in files)


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
