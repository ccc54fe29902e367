"""Which keys are written, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from ptinspect.errors import PtInspectError

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What DataParallel, torch.compile, FSDP and activation checkpointing put into keys."""

_AUTO = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(WRAPPERS)})\.")


class Edits(NamedTuple):
    """Changes of keys, in the order in which they are made: `include` and `exclude` choose by the
    source's keys (globs), `strip` takes prefixes off (`auto`: the wrappers', wherever they stand),
    `rename` replaces (regular expression, replacement), `add` puts a prefix in front."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    rename: tuple[tuple[re.Pattern[str], str], ...] = ()
    add: str = ""

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return any(self)

    def takes(self, key: str) -> bool:
        """Whether a key of the source is written."""
        if self.include and not any(fnmatchcase(key, glob) for glob in self.include):
            return False
        return not any(fnmatchcase(key, glob) for glob in self.exclude)

    def name(self, key: str) -> str:
        """The new name of a key."""
        for prefix in self.strip:
            key = _AUTO.sub("", key) if prefix == "auto" else key.removeprefix(prefix)
        for pattern, new in self.rename:
            key = pattern.sub(new, key)
        return self.add + key

    def module_name(self, name: str) -> str:
        """The new name of a module in `_metadata`: that of what lies in it, less the dot."""
        return self.name(f"{name}." if name else "").removesuffix(".")

    def apply(self, keys: Iterable[str]) -> dict[str, str]:
        """The new name of each key that is written, in order.

        PtInspectError where two get one name, where nothing is left, or where a prefix to take off
        stands nowhere.
        """
        listed = list(keys)
        made: dict[str, str] = {}
        taken: dict[str, str] = {}
        for key in listed:
            if not self.takes(key):
                continue
            new = self.name(key)
            if new in taken:
                raise PtInspectError(
                    f"two keys would have one name: {taken[new]!r} and {key!r} become {new!r}",
                    hint="change the expression of --rename, or leave one out with --exclude",
                )
            made[key] = new
            taken[new] = key
        if listed and not made:
            raise PtInspectError(
                f"no key is left of {len(listed):,}",
                hint=f"the first is {listed[0]!r}: --include and --exclude choose by such names",
            )
        self._prefixes_stand_somewhere(listed)
        return made

    def _prefixes_stand_somewhere(self, keys: list[str]) -> None:
        for prefix in self.strip:
            if prefix != "auto" and not any(prefix in key for key in keys):
                raise PtInspectError(
                    f"no key begins with {prefix!r}",
                    hint=f"the first key is {keys[0]!r}" if keys else None,
                )


def renaming(text: str) -> tuple[re.Pattern[str], str]:
    """`REGEX=NEW` of `--rename`; NEW may refer to groups. PtInspectError for a broken one."""
    pattern, equals, new = text.partition("=")
    try:
        if not equals:
            raise re.error("it has no =")
        made = re.compile(pattern)
        made.sub(new, "")
        re.compile(pattern + "|").sub(new, "")
    except (re.error, IndexError) as error:
        raise PtInspectError(
            f"--rename takes REGEX=NEW, and {text!r} is none: {error}",
            hint=r"such as --rename '^blocks\.(\d+)=layers.\1'",
        ) from error
    return made, new
