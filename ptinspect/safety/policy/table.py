"""The policy, as data: what scan thinks of a name before it has seen what is done with it.

`policy.txt` is read once, at the first question. A name is looked up as pickle would find it:
by its module and, in it, its dotted name.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.safety.policy.weights_only import ALLOWED

if TYPE_CHECKING:
    from ptinspect.pickling.values import Global

VERDICTS = ("allowed", "reference", "unknown", "acts", "dangerous", "known")

_PACKAGES = frozenset(
    (  # noqa: SIM905
        "asyncio collections compression concurrent ctypes curses dbm distutils email encodings"
        " ensurepip html http idlelib importlib json lib2to3 logging multiprocessing os pathlib"
        " pydoc_data re sqlite3 string sysconfig test tkinter tomllib turtledemo unittest urllib"
        " venv wsgiref xml xmlrpc zipfile zoneinfo"
    ).split()
)
"""What in the standard library has modules inside. `code.model.Net` is not of its `code`."""


REMEMBERED = 10_000
"""Names whose lines are kept at hand."""


class Row(NamedTuple):
    """A line of the policy, for one of its names. `verdict`: see policy.txt."""

    verdict: str
    name: str
    reason: str
    source: str


_TORCH_LIST = "torch's weights_only takes it as it is"
_NN = "a module of torch.nn; weights_only asks for it to be allowed"
_SUBMODULE = Row("dangerous", "__main__", "starts a program when it is imported", "Lib/runpy.py")


class Policy:
    """names: by whole name. stars: what stands before `.*`. known: packages."""

    def __init__(self, text: str) -> None:
        self.names: dict[str, Row] = {}
        self.stars: dict[str, Row] = {}
        self.known: dict[str, Row] = {}
        self._asked: dict[tuple[str, str], Row | None] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                self._add(*(field.strip() for field in line.split(" | ")))

    def _add(self, verdict: str, names: str, reason: str, source: str) -> None:
        if verdict == "known":
            for name in names.split():
                self.known[name] = Row(verdict, name, reason, source)
            return
        for name in _spelled_out(names):
            if name.endswith(".*"):
                self.stars[name[:-2]] = Row(verdict, name, reason, source)
            else:
                self.names[name] = Row(verdict, name, reason, source)

    def row(self, module: str, name: str) -> Row | None:
        """The line for a name; None where there is none."""
        key = (module, name)
        if key not in self._asked:
            if len(self._asked) >= REMEMBERED:
                self._asked.clear()
            self._asked[key] = self._row(module, name)
        return self._asked[key]

    def _row(self, module: str, name: str) -> Row | None:
        path = f"{module}.{name}"
        row = self.names.get(path)
        if row is not None:
            return row
        if path in ALLOWED:
            return Row("allowed", path, _TORCH_LIST, "torch/_weights_only_unpickler.py")
        if module.endswith(".__main__"):
            return _SUBMODULE
        return self._starred(module, path) or _module_of_torch(path)

    def _starred(self, module: str, path: str) -> Row | None:
        end = path.find(".")
        top = path[:end]
        while end >= 0:
            row = self.stars.get(path[:end])
            inside = end < len(module) and top not in _PACKAGES and is_standard(top)
            if row is not None and not inside:
                return row
            end = path.find(".", end + 1)
        return None


def _spelled_out(names: str) -> list[str]:
    first, *others = names.split()
    if not others or any("." in name for name in others):
        return [first, *others]
    return [f"{first}.{name}" for name in others]


def _module_of_torch(path: str) -> Row | None:
    """A class of torch.nn, under the name that it has or had; not what is made from one at run
    time (`ParametrizedLinear`)."""
    if not path.startswith("torch."):
        return None
    from ptinspect.torchnn.classes import PARAMETRIZED, lookup

    if path.startswith(PARAMETRIZED) or lookup(path) is None:
        return None
    return Row("module", path, _NN, "ptinspect/torchnn/tables")


def is_standard(module: str) -> bool:
    """Whether Python itself has the module. `test` counts as a user's: many have one."""
    top, _, inner = module.partition(".")
    if inner and top not in _PACKAGES:
        return False
    return top in sys.stdlib_module_names and top not in ("test", "__main__")


def is_known(module: str) -> bool:
    """Whether the module is of a package on the list."""
    return module.partition(".")[0] in policy().known


_policy: Policy | None = None


def policy() -> Policy:
    """The policy that is shipped."""
    global _policy
    if _policy is None:
        path = os.path.join(os.path.dirname(__file__), "policy.txt")
        with open(path, encoding="utf-8") as file:
            _policy = Policy(file.read())
    return _policy


def row_of(name: Global) -> Row | None:
    """The line for a global of a pickle; None where there is none."""
    return policy().row(name.module, name.name)
