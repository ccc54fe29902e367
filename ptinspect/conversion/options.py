"""The options of a conversion, checked as far as that is possible without a file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.conversion.output.pieces import CAST_DTYPES
from ptinspect.conversion.output.torch_zip import TensorOptions
from ptinspect.dtypes import DType, dtype_by_name
from ptinspect.errors import PtInspectError
from ptinspect.pickling.pyobjects import bracketed
from ptinspect.text import is_selected, shell_quoted, shell_word
from ptinspect.torchnn.attributes import WRAPPERS

if TYPE_CHECKING:
    from ptinspect.document.entries import Subtree
    from ptinspect.pickling.pyobjects import Path

TARGETS = ("state_dict", "checkpoint", "safetensors", "npz", "same")
TENSORS_ONLY = ("safetensors", "npz")
"""Targets that hold tensors by name, and no pickle."""
SHARED = ("keep-one", "duplicate", "error")
SUFFIXES = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), "state_dict"),
    ".safetensors": "safetensors",
    ".npz": "npz",
}
"""The target for each suffix of DST, if `--to` is not used."""

WRAPPER_PREFIX = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(WRAPPERS)})\.")
_NAME_ENDINGS = {
    "state_dict": "_state_dict.pt", "checkpoint": "_checkpoint.pt", "safetensors": ".safetensors",
    "npz": ".npz", "same": "_same.pt",
}  # fmt: skip
# The devices of torch.device whose tensors have bytes.
_DEVICE = re.compile(r"(cpu|(cuda|mps|xpu|xla|hpu|npu|mtia|ipu|hip|privateuseone)(:\d{1,3})?)")
_SIZE = re.compile(r"(\d+)\s*([KMGT]?i?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_INDEX_SUFFIX = re.compile(r"\.\w+\.index\.json$")  # as in model.safetensors.index.json


class KeyEdits(NamedTuple):
    """Changes of keys, in the order in which they are applied. The prefix `auto` in `strip` removes
    the names of wrappers wherever they are."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    rename: tuple[tuple[re.Pattern[str], str], ...] = ()
    add: str = ""

    def selects(self, key: str) -> bool:
        """Return True if a key of the source is written."""
        return is_selected(key, self.include, self.exclude)

    def new_key(self, key: str) -> str:
        """Return the new name of a key."""
        for prefix in self.strip:
            key = WRAPPER_PREFIX.sub("", key) if prefix == "auto" else key.removeprefix(prefix)
        for pattern, replacement in self.rename:
            key = pattern.sub(replacement, key)
        return self.add + key

    def unused(self, keys: Iterable[str]) -> list[str]:
        """Return a warning for each glob and expression that no key matches: it may be mistyped."""
        keys = list(keys)
        globs = [("--include", glob) for glob in self.include]
        globs += [("--exclude", glob) for glob in self.exclude]
        unused = [row for row in globs if not any(is_selected(key, [row[1]], ()) for key in keys)]
        for number, (pattern, new) in enumerate(self.rename):
            before = self._replace(rename=self.rename[:number], add="")
            if not any(pattern.search(before.new_key(key)) for key in keys):
                unused.append(("--rename", f"{pattern.pattern}={new}"))
        return [f"no key matches {name} {text!r}" for name, text in unused]

    def new_module_name(self, name: str) -> str:
        """Return the new name of a module in `_metadata`: it changes as its keys do."""
        return self.new_key(f"{name}." if name else "").removesuffix(".")

    def apply(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the new name of each key that is written, in order. PtInspectError if two keys
        get one name, if no key is left, or if no key has a prefix that is to be removed."""
        keys = list(keys)
        new_keys = {key: self.new_key(key) for key in keys if self.selects(key)}
        old_keys: dict[str, str] = {}
        for key, new in new_keys.items():
            if new in old_keys:
                raise PtInspectError(
                    f"two keys would get the same name: {old_keys[new]!r} and {key!r} become"
                    f" {new!r}",
                    hint="change the expression of --rename, or drop one of them with --exclude",
                )
            old_keys[new] = key
        if keys and not new_keys:
            raise nothing_selected(keys)
        for prefix in self.strip:
            if prefix != "auto" and not any(prefix in key for key in keys):
                hint = f"the first key is {keys[0]!r}" if keys else None
                raise PtInspectError(f"no key begins with {prefix!r}", hint=hint)
        return new_keys


def nothing_selected(keys: list[str]) -> PtInspectError:
    """Return the error that `--include` and `--exclude` leave none of `keys`."""
    hint = f"they match whole keys of the source, such as {keys[0]!r}" if keys else None
    return PtInspectError(f"--include and --exclude drop all {len(keys):,} keys", hint=hint)


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """The options of `conversion.convert`, parsed. `dst` is DST as it was typed; `other_entries`
    are entries of the same file that are written to files of their own."""

    to: str
    entry: str | None = None
    edits: KeyEdits = field(default_factory=KeyEdits)
    tensors: TensorOptions = field(default_factory=TensorOptions)
    shared: str = "keep-one"
    set: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    optimizer: str | None = None
    plain: bool = False
    max_shard_size: int | str | None = None
    allow_overflow: bool = False
    force: bool = False
    other_entries: tuple[Path, ...] = ()
    dst: str | None = None
    source: str = "SRC"
    part: Subtree | None = None

    def command(self, *words: str) -> str:
        """Return the command as it was typed, with further options."""
        import json

        typed = ["ptinspect convert", shell_word(self.source)]
        typed += [] if self.dst is None else [shell_word(self.dst)]
        suffix = os.path.splitext(self.dst or "")[1].lower()
        if SUFFIXES.get(suffix) != self.to:
            typed.append(f"--to {self.to}")
        edits, tensors = self.edits, self.tensors
        options: dict[str, object] = {
            "include": edits.include, "exclude": edits.exclude, "strip-prefix": edits.strip,
            "rename": [f"{pattern.pattern}={new}" for pattern, new in edits.rename],
            "add-prefix": edits.add, "dtype": tensors.dtype and tensors.dtype.name,
            "device": tensors.device, "contiguous": tensors.contiguous,
            "shared": "" if self.shared == "keep-one" else self.shared,
            "optimizer": self.optimizer, "plain": self.plain,
            "max-shard-size": self.max_shard_size, "allow-overflow": self.allow_overflow,
            "force": self.force,
            "set": [f"{name}={json.dumps(value, default=str)}" for name, value in self.set.items()],
            "metadata": [f"{name}={value}" for name, value in self.metadata.items()],
        }  # fmt: skip
        for name, value in options.items():
            if value is True:
                typed.append(f"--{name}")
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if item and item is not True:
                    text = str(item)
                    quoted = shell_quoted(text) if text.startswith("-") else shell_word(text)
                    typed.append(f"--{name}={quoted}")
        for entry in ([self.entry] if self.entry else []) + [*map(bracketed, self.other_entries)]:
            typed.append(f"--entry{'=' if entry.startswith('-') else ' '}{shell_quoted(entry)}")
        return " ".join([*typed, *words])

    def check(self) -> None:
        """Raise PtInspectError for invalid values, and for options that the target lacks."""
        to, tensors = self.to, self.tensors
        if to not in TARGETS:
            raise PtInspectError(f"{to!r} is not one of {', '.join(TARGETS)}")
        if self.shared not in SHARED:
            raise PtInspectError(f"--shared takes {', '.join(SHARED)}, not {self.shared!r}")
        unchecked = [*self.set.items()][::-1]
        seen: dict[int, object] = {}
        while unchecked:
            name, item = unchecked.pop()
            if id(item) in seen:
                continue
            seen[id(item)] = item
            if isinstance(item, dict) and type(item) is dict:
                unchecked += [(name, part) for pair in item.items() for part in pair]
            elif isinstance(item, (list, tuple)) and type(item) in (list, tuple):
                unchecked += [(name, part) for part in item]
            elif item is not None and type(item) not in (bool, int, float, str, bytes):
                kind = f"{type(item).__module__}.{type(item).__qualname__}"
                raise PtInspectError(
                    f"the entry {name!r} cannot be set: it contains an object of the type {kind}",
                    hint="None, bool, int, float, str, bytes, list, tuple and dict can be set",
                )
        if not all(isinstance(text, str) for item in self.metadata.items() for text in item):
            raise PtInspectError("--metadata takes strings, as safetensors does")
        if self.max_shard_size is not None:
            parse_size(self.max_shard_size)
        misplaced = {
            "--set": self.set and to != "checkpoint",
            "--metadata": self.metadata and to != "safetensors",
            "--plain": self.plain and to != "checkpoint",
            "--optimizer": self.optimizer and to != "checkpoint",
            "--max-shard-size": self.max_shard_size and to != "safetensors",
            "--shared": self.shared != "keep-one" and to not in TENSORS_ONLY,
            "--dtype": tensors.dtype and to == "same",
            f"--dtype {tensors.dtype and tensors.dtype.name}": to == "npz"
            and tensors.dtype
            and not tensors.dtype.numpy,
            "--contiguous": tensors.contiguous and to == "same",
            "an option that changes keys": any(self.edits) and to == "same",
        }
        for name, is_misplaced in misplaced.items():
            if is_misplaced:
                raise PtInspectError(f"{name} cannot be used with --to {to}")
        if self.allow_overflow and tensors.dtype is None:
            raise PtInspectError("--allow-overflow needs --dtype")


def target_of_suffix(
    path: str | None,
    to: str | None,
    source: str = "SRC",
    refusal: Callable[[str], PtInspectError | None] = lambda to: None,
) -> str:
    """Return the target: `to`, or else the one for the suffix of DST.

    If there is none, the error names the targets for which there is no `refusal`; if all are
    refused, it is the last refusal.
    """
    if to is not None:
        return to
    suffix = os.path.splitext(path or "")[1].lower()
    if path and suffix in SUFFIXES:
        return SUFFIXES[suffix]
    refusals = {name: refusal(name) for name in ("safetensors", "state_dict", "checkpoint")}
    targets = [name for name, error in refusals.items() if error is None]
    if not targets and refusals["checkpoint"]:
        raise refusals["checkpoint"]
    notes = {"checkpoint": "  # or --to same: everything in SRC"}
    words = f"ptinspect convert {shell_word(source)}{f' {shell_word(path)}' if path else ''} --to"
    raise PtInspectError(
        f"the suffix of {path} does not say what to write"
        if path
        else "neither DST nor --to says what to write",
        hint="\n".join(["one of these:", *(f"{words} {to}{notes.get(to, '')}" for to in targets)]),
    )


def output_path(source: str, path: str | None, to: str, entry: str = "") -> str:
    """Return DST, or a derived name in the folder DST or else in that of SRC. `entry` is added to
    the name: it is the one of several entries that this file gets."""
    part = re.sub(r"\W+", "_", entry).strip("_")
    if path is not None and not os.path.isdir(path):
        if not os.path.basename(path):
            raise PtInspectError(
                "the folder does not exist", path=path, hint="create the folder first"
            )
        if not part:
            return path
        root, suffix = os.path.splitext(path)
        return f"{root}_{part}{suffix}"
    folder, name = os.path.split(source)
    stem = "model"
    if source != "-":
        stem = _INDEX_SUFFIX.sub("", name)
        stem = os.path.splitext(name)[0] if stem == name else stem
    ending = _NAME_ENDINGS[to]
    if part:
        stem = f"{stem}_{part}"
        if part.endswith("state_dict"):
            ending = ending.removeprefix("_state_dict")
    return os.path.join(folder if path is None else path, stem + ending)


def parse_size(text: int | str) -> int:
    """Return a number of bytes: `5GB` is 5 * 10**9, `5GiB` is 5 * 2**30."""
    match = _SIZE.fullmatch(str(text).strip())
    if not match or not int(match[1]):
        raise PtInspectError(f"{text!r} is not a size", hint="such as 5GB, 500MB or 5GiB")
    unit = match[2].upper()
    factor = 1 << 10 * "KMGT".index(unit[0]) + 10 if unit.endswith("I") else _UNITS[unit]
    return int(match[1]) * factor


def as_tuple(values: Sequence[str]) -> tuple[str, ...]:
    """Return the values as a tuple; a single string is one value."""
    return (values,) if isinstance(values, str) else tuple(values)


def parse_rename(text: str) -> tuple[re.Pattern[str], str]:
    """Parse `REGEX=NEW`, where NEW may refer to groups."""
    expression, equals, replacement = text.partition("=")
    try:
        if not equals:
            raise re.error("there is no =")
        pattern = re.compile(expression)
        pattern.sub(replacement, "")
        re.compile(expression + "|").sub(replacement, "")  # always matches: checks the groups
    except (re.error, IndexError) as error:
        raise PtInspectError(
            f"--rename takes REGEX=NEW, not {text!r}: {error}",
            hint=r"such as --rename '^blocks\.(\d+)=layers.\1'",
        ) from error
    return pattern, replacement


def parse_dtype(value: object) -> DType | None:
    """Parse a name, a torch.dtype, a numpy dtype or a scalar type of numpy."""
    if value is None:
        return None
    name = value.__name__ if isinstance(value, type) else str(value)
    short_name = re.fullmatch(r"(b?)fp?(16|32|64)", name)
    if short_name:
        name = f"{short_name[1]}float{short_name[2]}"
    dtype = dtype_by_name(name.removeprefix("torch."))
    if dtype is None or dtype.name not in CAST_DTYPES:
        raise PtInspectError(
            f"--dtype takes a floating dtype, not {name!r}", hint=f"one of {', '.join(CAST_DTYPES)}"
        )
    return dtype


def parse_device(name: str | None) -> str | None:
    if name is not None and not _DEVICE.fullmatch(name):
        raise PtInspectError(f"{name!r} is not a device", hint="such as cpu, cuda:0 or mps")
    return "cuda:0" if name == "cuda" else name
