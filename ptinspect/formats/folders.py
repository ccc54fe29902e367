"""Folders that are one model or checkpoint: which of their files describes the whole."""

from __future__ import annotations

import os

from ptinspect.errors import FormatError
from ptinspect.source.folder import check_listable

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
    for index in INDEXES:
        if index in names:
            return os.path.join(folder, index)
    for config, models in SINGLE_FILES:
        if config in names:
            for model in models:
                if model in names:
                    return os.path.join(folder, model)
    return None


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
