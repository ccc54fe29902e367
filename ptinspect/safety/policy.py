"""The policy: the verdict on a name, before anything is known about how the pickle uses it.

`policy.txt` is data: one line per verdict, with its names, reason and source. It is read at the
first lookup. A name is looked up as pickle would resolve it: by its module and, in that module, by
its dotted name. The names and formats that other rules go by are in `lists.txt`.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import NamedTuple

from ptinspect.text import read_package_file, read_sections

_CACHED_LOOKUPS = 10_000

_LISTS = read_sections("safety/lists.txt")


def listed_words(section: str) -> tuple[str, ...]:
    """Return a list of `lists.txt`."""
    return tuple(" ".join(_LISTS[section]).split())


@lru_cache(16)
def listed_pairs(section: str) -> dict[str, str]:
    """Return the values of a section of `lists.txt` by their keys."""
    return {key: value for key, _, value in (line.partition(" | ") for line in _LISTS[section])}


WEIGHTS_ONLY_NAMES: frozenset[str] = frozenset(
    f"{line.split()[0]}.{name}" for line in _LISTS["weights_only"] for name in line.split()[1:]
)
"""Names that `torch.load(weights_only=True)` accepts by default."""

_STDLIB_PACKAGES = frozenset(listed_words("stdlib packages"))

WEIGHTS_ONLY_BLOCKED_MODULES = frozenset(listed_words("blocked modules"))


class PolicyRow(NamedTuple):
    """A line of the policy, for one of its names. `policy.txt` explains verdicts and shapes."""

    verdict: str
    name: str
    reason: str
    source: str
    shapes: str = ""


# What torch 0.1 writes. An allocator or an address of memory makes torch trust the file.
_TENSOR_SHAPES = "R() N() =(storage nat shape shape) !keywords"


class Policy:
    """The parsed policy.

    Attributes:
        names: rows by whole name.
        prefixes: rows of names that end in `.*`, by the part before the star.
        packages: rows of known packages, by package name.
    """

    def __init__(self, text: str) -> None:
        self.names: dict[str, PolicyRow] = {}
        self.prefixes: dict[str, PolicyRow] = {}
        self.packages: dict[str, PolicyRow] = {}
        self.row = lru_cache(_CACHED_LOOKUPS)(self._find_row)
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            verdict, listed, *shapes, reason, source = map(str.strip, line.split(" | "))
            first, *others = listed.split()
            names = [first, *others]
            if verdict != "known" and others and not any("." in name for name in others):
                names = [f"{first}.{name}" for name in others]
            for name in names:
                row = PolicyRow(verdict, name, reason, source, *shapes)
                if verdict == "known":
                    self.packages[name] = row
                elif name.endswith(".*"):
                    self.prefixes[name[:-2]] = row
                else:
                    self.names[name] = row

    def _find_row(self, module: str, name: str) -> PolicyRow | None:
        """Return the row for a name, or None if the policy has none."""
        path = f"{module}.{name}"
        row = self.names.get(path)
        if row is not None:
            return row
        if path in WEIGHTS_ONLY_NAMES:
            source = "torch/_weights_only_unpickler.py"
            shapes = _TENSOR_SHAPES if name.endswith(("Tensor", "Storage")) else ""
            reason = "torch's weights_only accepts it by default"
            return PolicyRow("allowed", path, reason, source, shapes)
        if module.endswith(".__main__"):
            reason = "starts a program when it is imported"
            return PolicyRow("dangerous", "__main__", reason, "Lib/runpy.py")
        end = path.find(".")
        top = path[:end]
        is_shadowed = top not in _STDLIB_PACKAGES and is_stdlib(top)
        while end >= 0:
            row = self.prefixes.get(path[:end])
            if row is not None and not (is_shadowed and end < len(module)):
                return row
            end = path.find(".", end + 1)
        if top != "torch":
            return None
        from ptinspect.torchnn.classes import PARAMETRIZED, lookup

        # A class of torch.nn, under its current or a former name, except one that torch creates at
        # run time (`ParametrizedLinear`).
        if path.startswith(PARAMETRIZED) or lookup(path) is None:
            return None
        reason = "a module of torch.nn; weights_only accepts it once it is a safe global"
        return PolicyRow("module", path, reason, "ptinspect/torchnn/tables", "N() =dict|tuple")


def policy_row(module: str, name: str) -> PolicyRow | None:
    """Return the policy's row for a name, or None without one.

    A dotted name that leads through a module of the standard library (`torch.serialization`,
    `os.system`) has the row of the name that it leads to.
    """
    row = load_policy().row(module, name)
    if row is not None and row.name.endswith(".*"):
        plain = _plain_classes().get(module, ())
        if f"!{name}" in plain or (name in plain and not is_stdlib(module)):
            reason = "an exception, or an enum's member, that was kept as a value"
            return PolicyRow("unknown", f"{module}.{name}", reason, "plain_classes.txt")
    if "." in name and (row is None or row.verdict not in ("allowed", "dangerous")):
        parts = name.split(".")
        for index, part in enumerate(parts[:-1]):
            owner = load_policy().row(module, ".".join(parts[: index + 1]))
            if owner is not None and owner.verdict == "allowed":
                return row  # a class of that name, such as datetime.datetime
            if is_stdlib(part):
                target = load_policy().row(part, ".".join(parts[index + 1 :]))
                reason = f"reaches the standard library's module {part} through another module"
                return target or PolicyRow("acts", f"{module}.{name}", reason, "")
    return row


def is_listed(module: str, name: str) -> bool:
    """Return True for a name that may be imported."""
    row = policy_row(module, name)
    return row is not None and row.verdict in ("allowed", "reference", "module")


def is_stdlib(module: str) -> bool:
    """Return True if Python itself has the module.

    `test` and `__main__` count as the user's: many projects have a module of that name.
    """
    top, _, submodule = module.partition(".")
    if submodule and top not in _STDLIB_PACKAGES:
        return False
    return top in sys.stdlib_module_names and top not in ("test", "__main__")


# A class (`Tree`, `cKDTree`, `GPS`), also within classes, or what Cython writes for one: it creates
# an object and sets its attributes.
_CLASS = r"(?:_*[a-z]?[A-Z]\w*[a-z]\w*|_*[A-Z][A-Z0-9_]+)"
_CLASS_NAME = re.compile(rf"({_CLASS}\.)*({_CLASS}|__pyx_unpickle_\w+)")


def is_special(name: str) -> bool:
    """Return True if a name is a special attribute such as `__class__`."""
    return name.startswith("__") and name.endswith("__")


def is_class_name(name: str) -> bool:
    """Return True if a name looks like a class, by the customs of Python and Cython."""
    return _CLASS_NAME.fullmatch(name) is not None


def is_plain_class(module: str, name: str, creates: bool) -> bool:
    """Return True for a class of the standard library, or an enumeration or exception of a package,
    that does nothing but set attributes when an object is constructed; with `creates`, when one is
    created without its constructor.

    `plain_classes.txt` has them; `python -m tests.safety.plain_classes` generates it.
    """
    names = _plain_classes().get(module, ())
    return name in names or f"!{name}" in names or (creates and f"~{name}" in names)


@lru_cache(1)
def _plain_classes() -> dict[str, frozenset[str]]:
    lines = (line.split() for line in read_package_file("safety/plain_classes.txt").splitlines())
    return {module: frozenset(names) for module, *names in lines}


def is_known_package(module: str) -> bool:
    """Return True if the module belongs to a package that the policy lists as known."""
    return module.partition(".")[0] in load_policy().packages


@lru_cache(1)
def load_policy() -> Policy:
    """Return the policy that ptinspect ships."""
    return Policy(read_package_file("safety/policy.txt"))
