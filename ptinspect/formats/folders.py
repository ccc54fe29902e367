"""Folders that are one checkpoint, by the names in them."""

from __future__ import annotations

import os
from typing import NamedTuple

from ptinspect.formats.signatures import Identity


class FolderKind(NamedTuple):
    """A folder that has all of `has` is `what`."""

    has: tuple[str, ...]
    format: str
    what: str
    hint: str


_DCP = (
    "make one file of it: python -m torch.distributed.checkpoint.format_utils"
    " dcp_to_torch FOLDER model.pt"
)
_UNPACKED = "pack it again, in the folder that it is in: zip -0 -r model.pth FOLDER"

FOLDER_KINDS = (
    FolderKind((".metadata",), "torch-dcp", "a checkpoint of torch.distributed.checkpoint", _DCP),
    FolderKind(("data.pkl", "version"), "torch-zip", "an unpacked file of torch.save", _UNPACKED),
    FolderKind(
        ("saved_model.pb",), "tensorflow", "a TensorFlow SavedModel", "load it in TensorFlow"
    ),
    FolderKind(("Manifest.json", "Data"), "coreml", "a Core ML package", "load it in coremltools"),
)


def folder_kind(path: str) -> Identity | None:
    """The checkpoint that a folder is as a whole; None if it is a folder of files."""
    for kind in FOLDER_KINDS:
        if all(os.path.exists(os.path.join(path, name)) for name in kind.has):
            return Identity(kind.format, kind.what, kind.hint)
    return None
