"""Find out what a file is by its content, never by its name, and open it; and which file of a
folder describes the whole.

The order is torch's: a file that begins like a zip is one, a tar with torch's members is a torch
file, and everything that is not known to be something else is read as pickles. Modules that a zip
does not need are imported when they are needed, because most files are zips.
"""

from __future__ import annotations

import os
import re
from importlib import import_module  # noqa: TID251 (names in `READERS` only)
from typing import TYPE_CHECKING

from ptinspect.errors import DOWNLOAD_AGAIN, DamagedError, FormatError
from ptinspect.formats.archive import SHARD_FILE, Archive
from ptinspect.formats.signatures import (
    CONCATENATED_ZIPS,
    ZIP_MAGIC,
    Identity,
    as_text_error,
    identify_index,
    identify_signature,
    identify_text,
    identify_zeros,
    identify_zip,
    is_tar,
    text_transfer_error,
)
from ptinspect.limits import LIMITS, Limits
from ptinspect.pickling.opcodes import BY_CODE
from ptinspect.source.local import check_listable
from ptinspect.text import count_text, is_outside, join_names, shell_word

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ptinspect.formats.zip_directory import ZipDirectory
    from ptinspect.source.base import Source

COMPRESSED = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x5d\0\0",
    b"\x78",
    b"\x04\x22\x4d\x18",
    b"ZF0x",
)
"""First bytes of the compressions that joblib uses."""

MAX_TAG = 255
"""Bytes of the longest file `latest` of DeepSpeed, which names a folder."""

PIECES = ("DTensor", "ShardedTensor")
"""Classes of tensors of which a file of torch.save has only a rank's piece."""

PIPELINE = "model_index.json"
ITERATION = "latest_checkpointed_iteration.txt"
"""The file of Megatron that names its newest checkpoint's folder."""

LATEST = "latest"
"""The file of DeepSpeed that names its newest checkpoint's folder."""

_KINDS = (
    "adapter_model", "model", "pytorch_model", "tf_model", "diffusion_pytorch_model",
    "consolidated",
)  # fmt: skip
"""Names of models of Hugging Face, and of Mistral and Llama. transformers loads the first."""
_MODEL = re.compile(rf"({'|'.join(_KINDS)})(\.\w+)?\.(safetensors|bin|pth)(\.index(\.\w+)?\.json)?")
"""A model, perhaps of a variant (`fp16`), or its index."""
_CONFIGS = {"adapter_model": "adapter_config.json", "consolidated": "params.json"}
"""The file that makes a folder with such a model one document, if it is not `config.json`. An index
needs none."""
RANK_FILE = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
"""The file of a rank, as FSDP trainers (verl) name it."""
_METADATA = re.compile(r"(?:__\d+)?\.metadata")
"""With a number, it is of one process: torch writes it with `use_collectives=False`."""
MEMBER = re.compile(
    r".*\.distcp|.*\.metadata|.*-\d+-of-\d+\.(?:safetensors|bin)|.*\.index(?:\.\w+)?\.json|"
    + f"{_MODEL.pattern}|{RANK_FILE.pattern}"
)
"""Files that belong to the document of their folder, or that its warning names."""

HEAD_BYTES = 4096
"""Bytes that are read before it is decided what a file is."""


def open_archive(source: Source, limits: Limits = LIMITS) -> Archive:
    """Open the file in `source`. FormatError if torch.save does not write such files (the message
    names the format), DamagedError if it is truncated or inconsistent, LimitError."""
    try:
        archive = _open(source, limits, allow_index=True)
    except (DamagedError, FormatError) as error:
        raise text_transfer_error(source) or error from None
    if any(name.module.endswith("\r") for stream in archive.streams for name in stream.globals):
        raise as_text_error()
    return archive


def _open_shard(source: Source, limits: Limits) -> Archive:
    return _open(source, limits, allow_index=False)


READERS = {
    "torch-zip": "torch.zip_file.open_zip",
    "torchscript": "torch.torchscript.read_torchscript",
    "torch-package": "torch.zip_file.read_package",
    "torch-export": "torch.export.read_export",
    "npz": "numpy_files.read_npz",
    "npy": "numpy_files.read_npy",
    "safetensors": "safetensors.read_safetensors",
    "gguf": "gguf.read_gguf",
    "onnx": "onnx.read_onnx",
    "torch-legacy-tar": "torch.tar.read_tar",
    "safetensors-index": "sharded.read_sharded",
    "torch-index": "sharded.read_sharded",
}
"""The function that reads each format that the first bytes identify, and below each other one. Its
module is imported when it is needed."""

_OTHER_READERS = {
    "deepspeed": "torch.deepspeed_megatron.read_deepspeed",
    "megatron": "torch.deepspeed_megatron.read_megatron",
    "torch-ranks": "torch.ranks.read_ranks",
    "torch-dcp": "torch.distributed.read_dcp",
    "pickle": "torch.legacy.open_pickle",
}


def reader_of(format: str) -> Callable[..., Archive]:
    """Return the function that reads a format."""
    module, _, name = (READERS.get(format) or _OTHER_READERS[format]).rpartition(".")
    return getattr(import_module(f"ptinspect.formats.{module}"), name)  # type: ignore[no-any-return]


def _open(source: Source, limits: Limits, allow_index: bool) -> Archive:
    head = source.read(0, min(source.size, HEAD_BYTES))
    if head.startswith(ZIP_MAGIC):
        archive = _open_zip(source, limits)
        has_pieces = any(name.name in PIECES for name in archive.pickled.globals)
        if allow_index and (has_pieces or RANK_FILE.fullmatch(os.path.basename(source.path))):
            from ptinspect.formats.torch.ranks import is_rank_file

            if is_rank_file(archive):
                return reader_of("torch-ranks")(source, _open_shard, limits)
        return archive
    if source.size <= MAX_TAG and allow_index and head:
        parent, name = os.path.split(source.path)
        if name == LATEST and (checkpoint := deepspeed_folder(parent)) is not None:
            return reader_of("deepspeed")(source, checkpoint, _open_shard, limits)
        if name == ITERATION and (iteration := megatron_folder(parent)) is not None:
            return reader_of("megatron")(source, iteration, _open_shard, limits)
    if head.startswith(COMPRESSED):
        from ptinspect.formats.joblib import open_compressed

        if (dump := open_compressed(source, head, limits)) is not None:
            return dump
    named = identify_head(source, head, limits)
    if named is not None:
        is_index = named.format.endswith("-index")
        is_ggml = named.format == "gguf" and not head.startswith(b"GGUF")
        if named.format not in READERS or is_ggml or (is_index and not allow_index):
            raise named.error(source.path)
        if named.format == "npz":
            from ptinspect.formats.zip_directory import ZipDirectory

            return reader_of("npz")(source, ZipDirectory(source, limits), "", limits)
        if is_index:
            return reader_of(named.format)(source, _open_shard, limits)
        is_shard = allow_index and SHARD_FILE.fullmatch(os.path.basename(source.path))
        if is_shard and os.path.isfile(source.path):
            from ptinspect.formats.sharded import read_shard_files

            return read_shard_files(source, _open_shard, limits)
        return reader_of(named.format)(source, limits)
    archive = reader_of("pickle")(source, head, limits)
    is_named = _METADATA.fullmatch(os.path.basename(source.path))
    if allow_index and (is_named or b".checkpoint.metadata" in head):
        from ptinspect.formats.sharded import index_folder
        from ptinspect.formats.torch.distributed import is_metadata

        if is_metadata(archive.root):
            folder = index_folder(source)
            return reader_of("torch-dcp")(source, archive.pickled, folder, _open_shard, limits)
        if is_named and any(x.endswith(".distcp") for x in os.listdir(index_folder(source) or ".")):
            raise DamagedError("it does not list the .distcp files", hint=DOWNLOAD_AGAIN)
    return archive


def _open_zip(source: Source, limits: Limits) -> Archive:
    directory, identity, folder = read_zip_directory(source, limits)
    if identity.format not in READERS:
        raise identity.error(source.path)
    if identity.format == "torch-export":
        return reader_of("torch-export")(source, directory, folder, _open_shard, limits)
    return reader_of(identity.format)(source, directory, folder, limits)


def identify_head(source: Source, head: bytes, limits: Limits) -> Identity | None:
    """Return the format of a file by its first `HEAD_BYTES` bytes; None for pickles, zips with
    entries and unknown content."""
    if not source.size:
        return Identity("empty", "an empty file (0 bytes)", DOWNLOAD_AGAIN)
    if not any(head):
        return identify_zeros(source)
    if head.startswith(b"PK\x05\x06") and source.path.endswith(".npz"):
        return Identity("npz", "an npz without arrays")
    if head.startswith((b"PK\x05\x06", b"PK\x07\x08")):
        return Identity("zip", "an empty zip, or the first part of one in several files")
    tail = source.read(max(source.size - 8, 0), min(source.size, 8))
    identity = identify_signature(head, tail, source.size)
    if identity:
        return identity
    if is_tar(head):
        from ptinspect.formats.torch.tar import identify_tar

        return identify_tar(source, limits)
    if head[0] in BY_CODE:
        return None
    identity = identify_text(head, source.size)
    if (
        identity is not None
        and source.size > len(head)
        and (identity.format == "json" or not head.strip())
    ):
        data, start, stop = source.window()  # spaces and metadata may precede the map
        return identify_index(data, start, min(stop, start + limits.index_bytes)) or identity
    return identity


def read_zip_directory(source: Source, limits: Limits) -> tuple[ZipDirectory, Identity, str]:
    """Return the directory of a zip, its format, and the folder that contains torch's pickle."""
    from ptinspect.formats.zip_directory import ZipDirectory
    from ptinspect.formats.zip_records import has_end_record, is_concatenated

    if not has_end_record(source):
        from ptinspect.formats.zip_records import truncated_zip_error

        raise truncated_zip_error(source, limits)
    try:
        directory = ZipDirectory(source, limits)
    except DamagedError:
        if is_concatenated(source):
            raise CONCATENATED_ZIPS.error(source.path) from None
        raise
    return directory, *identify_zip(directory.names, directory.index)


# Folders that are one model or checkpoint


def main_file(folder: str) -> str | None:
    """Return the file that stands for the whole folder; None if the folder is a list of files.
    It is the `.metadata` of torch.distributed.checkpoint, the file of the lowest rank, or the model
    or index of Hugging Face that transformers would load."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return None
    metadata = [name for name in names if _METADATA.fullmatch(name)]
    if ".metadata" in names or len(metadata) == 1:
        return os.path.join(folder, ".metadata" if ".metadata" in names else metadata[0])
    if ranks := sorted(
        (m[1], int(m[2]), m[0]) for m in map(RANK_FILE.fullmatch, names) if m
    ):  # of several worlds, the user has to choose
        return os.path.join(folder, ranks[0][2]) if ranks[0][0] == ranks[-1][0] else None
    if LATEST in names and deepspeed_folder(folder) is not None:
        return os.path.join(folder, LATEST)
    if ITERATION in names and megatron_folder(folder) is not None:
        return os.path.join(folder, ITERATION)
    if shards := sorted(filter(SHARD_FILE.fullmatch, names)):
        return os.path.join(folder, shards[0])
    models = _models(names)
    is_clear = models and (not models[0][0] or len({variant for variant, _ in models}) == 1)
    return os.path.join(folder, models[0][1]) if is_clear else None


def _models(names: Collection[str]) -> list[tuple[str, str]]:
    """Return variants and names of the models in a folder, the one first that loaders prefer."""
    models = []
    for match in filter(None, map(_MODEL.fullmatch, names)):
        kind, variant, suffix, index, index_variant = match.groups("")
        if index or _CONFIGS.get(kind, "config.json") in names:
            variant = variant or index_variant
            order = variant, _KINDS.index(kind), suffix != "safetensors", index
            models.append((order, match[0]))
    return [(order[0], name) for order, name in sorted(models)]


def other_models(path: str) -> list[str]:
    """Return the models that are in the folder of one, and are not opened with it."""
    folder, name = os.path.split(path)
    names = [model for _, model in _models(os.listdir(folder or "."))]
    return [each for each in names if each != name] if name in names else []


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


def megatron_folder(folder: str) -> str | None:
    """Return the folder of Megatron's newest checkpoint, which `ITERATION` names, if it has a file
    per rank."""
    try:
        with open(os.path.join(folder, ITERATION), encoding="utf-8") as file:
            text = file.read(256).strip()
        name = text if text == "release" else f"iter_{int(text):07d}"
        names = os.listdir(os.path.join(folder, name))
    except (OSError, ValueError):
        return None
    is_checkpoint = any(name.startswith("mp_rank_") for name in names)
    return os.path.join(folder, name) if is_checkpoint else None


def main_file_of_folder(folder: str) -> str:
    """Return the file that stands for the whole folder; FormatError if it is not one checkpoint."""
    path = main_file(folder)
    if path is None:
        check_listable(folder)
        names = sorted(os.listdir(folder))
        components = []
        if PIPELINE in names:  # save_pretrained of diffusers' DiffusionPipeline writes it
            components = [name for name in names if main_file(os.path.join(folder, name))]
        if components:
            first = shell_word(os.path.join(folder, components[0]))
            raise FormatError(
                f"a pipeline of {count_text(len(components), 'model')}: {join_names(components)}",
                path=folder,
                hint=f"name the folder of one of them: {first}",
            )
        models = [model for _, model in _models(names)]
        if models:
            raise FormatError(
                f"a folder with {count_text(len(models), 'model')}: {join_names(models)}",
                path=folder,
                hint=f"name one of them: {shell_word(os.path.join(folder, models[0]))}",
            )
        raise FormatError(
            "a folder, and not one checkpoint: it has no .metadata, index or model with a config",
            path=folder,
            hint="name the file in it that is meant",
        )
    return path
