"""Which kind of zip a zip is, by the names in it: one row per kind, the first that fits counts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.formats.signatures import Identity

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class ZipKind(NamedTuple):
    """A zip that has all of `has` (FOLDER/ stands for the folder of its first entry) is `what`."""

    has: tuple[str, ...]
    format: str
    what: str
    hint: str | None = None


_JIT = 'load it with torch.jit.load(path, map_location="cpu")'
_EXPORT = "load it with torch.export.load(path)"

ZIP_KINDS = (
    ZipKind(("FOLDER/constants.pkl", "FOLDER/bytecode.pkl"), "torchscript",
            "a TorchScript program for mobile devices", _JIT),
    ZipKind(("FOLDER/constants.pkl",), "torchscript", "a TorchScript program", _JIT),
    ZipKind(("FOLDER/model.json",), "torchscript", "a TorchScript program (torch < 1.4)", _JIT),
    ZipKind(("FOLDER/data.pkl",), "torch-zip", "a file of torch.save"),
    ZipKind(("FOLDER/.data/extern_modules",), "torch-package", "a torch.package archive",
            "torch.package.PackageImporter(path) opens it; that runs the code in it"),
    ZipKind(("FOLDER/archive_format",), "torch-export", "a .pt2 program (torch.export)", _EXPORT),
    ZipKind(("serialized_exported_program.json",), "torch-export", "a .pt2 program (torch.export)",
            _EXPORT),
    ZipKind(("MAR-INF/MANIFEST.json",), "zip", "a TorchServe archive (.mar)",
            "unzip it and show the .pt or .pth file in it"),
    ZipKind(("model.weights.h5", "config.json"), "zip", "a Keras 3 model",
            "load it with keras.models.load_model(path)"),
    ZipKind(("policy.pth", "pytorch_variables.pth"), "zip", "a Stable-Baselines3 model",
            "unzip it and show policy.pth"),
    ZipKind(("[Content_Types].xml",), "zip", "an Office document"),
    ZipKind(("META-INF/MANIFEST.MF",), "zip", "a Java archive or an Android app"),
)  # fmt: skip

SEVERAL = Identity(
    "torch-dcp",
    "several zips in a row, such as torch.distributed.checkpoint writes (.distcp)",
    "make one file of the folder: python -m torch.distributed.checkpoint.format_utils"
    " dcp_to_torch FOLDER model.pt",
)

UNFINISHED = Identity(
    "zip",
    "what a torch.save that failed leaves behind, without a data.pkl",
    "save it again: the error that torch.save raised names what it could not pickle",
)

_MODEL = re.compile(r"\.(?:pt|pth|bin|ckpt|pkl)$")


def torch_folder(names: Sequence[str]) -> str:
    """The folder that torch's reader looks into: the first entry's, with its slash. "" where
    there is none."""
    first = names[0] if names else ""
    return first[: first.find("/") + 1]


def kind_of(names: Sequence[str], index: Collection[str]) -> tuple[Identity, str]:
    """What the zip with these names is, and, if it is torch.save's, the folder it is in.

    A zip whose pickle lies elsewhere than torch looks (packed again by hand, or in another
    order) is torch.save's, too, if there is but one pickle that could be meant.
    """
    folder = torch_folder(names)
    for kind in ZIP_KINDS:
        if all(name.replace("FOLDER/", folder) in index for name in kind.has):
            return Identity(kind.format, kind.what, kind.hint), folder
    others = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(others) == 1:
        return Identity("torch-zip", "a file of torch.save"), others[0][: -len("data.pkl")]
    if names and all(name.endswith(".npy") for name in names):
        what = "a zip of numpy arrays (.npz)"
        return Identity("npz", what, "read it with numpy.load(path)"), folder
    if not names:
        return Identity("zip", "an empty zip"), folder
    if f"{folder}.data/serialization_id" in index:  # torch's writer ends a zip with it, always
        return UNFINISHED, folder
    inner = next((name for name in names if _MODEL.search(name)), None)
    hint = "unzip it, and show the model in it" if inner else None
    return Identity("zip", f"a zip of {len(names):,} files", hint), folder
