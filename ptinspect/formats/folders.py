"""Folders that are one model or checkpoint: which of their files describes the whole."""

from __future__ import annotations

import os

from ptinspect.errors import FormatError
from ptinspect.source.folder import check_listable
from ptinspect.text import is_outside

INDEXES = (
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "adapter_model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
SINGLE_FILES = (
    ("adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")),
    ("config.json", ("model.safetensors", "pytorch_model.bin", "tf_model.safetensors")),
    ("config.json", ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")),
)
MEMBER_SUFFIXES = (".safetensors", ".bin", ".distcp", ".index.json", ".metadata")
"""Ends of the names of files that belong to the document of their folder."""


def main_file(folder: str) -> str | None:
    """Return the file that stands for the whole folder; None if the folder is a list of files.
    It is the `.metadata` of torch.distributed.checkpoint, the index of a sharded model, or the
    one file of a Hugging Face model. Of safetensors and .bin, as transformers does, the former."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return None
    if ".metadata" in names:
        return os.path.join(folder, ".metadata")
    if LATEST in names and deepspeed_folder(folder) is not None:
        return os.path.join(folder, LATEST)
    for index in INDEXES:
        if index in names:
            return os.path.join(folder, index)
    for config, models in SINGLE_FILES:
        if config in names:
            for model in models:
                if model in names:
                    return os.path.join(folder, model)
    return None


LATEST = "latest"


def deepspeed_folder(folder: str) -> str | None:
    """Return the folder of DeepSpeed's newest checkpoint, which the file `latest` names."""
    try:
        with open(os.path.join(folder, LATEST), encoding="utf-8") as file:
            tag = file.read(256).strip()
        if not tag.isprintable() or not tag or is_outside(tag) or {*"/\\:"} & set(tag):
            return None
        names = os.listdir(os.path.join(folder, tag))
    except (OSError, ValueError):
        return None
    is_checkpoint = any(name.endswith("_model_states.pt") for name in names)
    return os.path.join(folder, tag) if is_checkpoint else None


def main_file_of_folder(folder: str) -> str:
    """Return the file that stands for the whole folder; FormatError if it is not one checkpoint."""
    path = main_file(folder)
    if path is None:
        check_listable(folder)
        raise FormatError(
            "a folder, and not one checkpoint: it has no .metadata, index or model with a config",
            path=folder,
            hint="name the file in it that is meant",
        )
    return path
