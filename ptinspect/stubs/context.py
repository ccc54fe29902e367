"""`stubbed(path)`: supply the classes of a file while a block runs, and remove them afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike


@contextmanager
def stubbed(
    file: str | PathLike[str], *, entry: str | None = None, recovered_source: bool = True
) -> Iterator[ModuleType]:
    """Supply the classes that `file` needs to any torch.load in a block, also with weights_only.

        with ptinspect.stubbed("model.pth") as model_def:
            model = torch.load("model.pth")

    Args:
        entry: path of the model that `build()` creates. Default: the first.
        recovered_source: use source code that the file contains.

    Yields:
        The stub as a module.

    Raises:
        PtInspectError: as `ptinspect.open`.
        ImportError: torch is not installed.
    """
    from ptinspect.stubs.build import stub

    source = stub(file, entry=entry, recovered_source=recovered_source)
    module = ModuleType("ptinspect_stub")
    before = _ModuleState()
    try:
        exec(compile(source, "<stub>", "exec"), vars(module))  # noqa: S102 - our own source
        serialization = getattr(sys.modules.get("torch"), "serialization", None)
        if not serialization:
            yield module
        else:
            # `safe_globals` removes all its entries in the end, so entries that were there before
            # must not be among them.
            existing = serialization.get_safe_globals()
            new = [pair for pair in module.SAFE_GLOBALS if pair not in existing]
            with serialization.safe_globals(new):
                yield module
    finally:
        before.restore()


class _ModuleState:
    """What a stub changes in the running program: finders, modules, and names in modules."""

    def __init__(self) -> None:
        self.finders = list(sys.meta_path)
        self.modules = dict(sys.modules)
        self.namespaces = {
            name: dict(vars(module))
            for name, module in self.modules.items()
            if "__stubbed__" in getattr(module, "__dict__", {}) or name == "__main__"
        }

    def restore(self) -> None:
        """Remove what a stub has added since. Other imported modules remain."""
        sys.meta_path[:] = [f for f in sys.meta_path if f in self.finders or not _is_from_stub(f)]
        for name, module in list(sys.modules.items()):
            namespace = getattr(module, "__dict__", None)
            if not isinstance(namespace, dict) or "__stubbed__" not in namespace:
                continue
            if name not in self.modules and _is_from_stub(getattr(module, "__loader__", None)):
                _remove_module(name)
            else:
                _restore_names(namespace, self.namespaces.get(name, {}))
        for name in list(sys.modules):
            spec = getattr(sys.modules[name], "__spec__", None)
            if name not in self.modules and _is_from_stub(getattr(spec, "loader", None)):
                _remove_module(name)


def _restore_names(namespace: dict[str, object], before: dict[str, object]) -> None:
    """Restore names that a stub has set in a module that exists without it."""
    names, earlier = namespace["__stubbed__"], before.get("__stubbed__", set())
    if not isinstance(names, set):
        return
    for name in list(names):
        if name in before:
            namespace[name] = before[name]
        elif not isinstance(earlier, set) or name not in earlier:
            namespace.pop(name, None)
            names.discard(name)
    if not names:
        namespace.pop("__stubbed__", None)


def _remove_module(name: str) -> None:
    """Remove a module, and the attribute of its package that refers to it."""
    module = sys.modules.pop(name)
    package, _, last = name.rpartition(".")
    namespace = getattr(sys.modules.get(package), "__dict__", {})
    if namespace.get(last) is module:
        del namespace[last]


def _is_from_stub(thing: object) -> bool:
    return type(thing).__name__ == "_Finder" and type(thing).__module__ == "ptinspect_stub"
