"""`stubbed(path)`: the classes of a file while a block runs, and no trace of them afterwards."""

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
    """Around any torch.load of `file`: what its classes need is there, weights_only included.

        with ptinspect.stubbed("model.pth") as model_def:
            model = torch.load("model.pth")

    Gives the stub as a module. It needs torch. Raises as `ptinspect.open`, and ImportError
    where torch is not installed.
    """
    from ptinspect.stubs import stub

    source = stub(file, entry=entry, recovered_source=recovered_source)
    made = ModuleType("ptinspect_stub")
    before = _State()
    try:
        exec(compile(source, "<stub>", "exec"), vars(made))  # noqa: S102 - our own source
        allowed = getattr(sys.modules.get("torch"), "serialization", None)
        if allowed is None:
            yield made
        else:
            # leaving takes away all that was given, and others' entries are not ours to take
            others = allowed.get_safe_globals()
            new = [pair for pair in made.SAFE_GLOBALS if pair not in others]
            with allowed.safe_globals(new):
                yield made
    finally:
        before.restore()


class _State:
    """What a stub changes in the running program: finders, modules, names in modules."""

    def __init__(self) -> None:
        self.finders = list(sys.meta_path)
        self.modules = dict(sys.modules)
        self.stubbed = {
            name: dict(vars(module))
            for name, module in self.modules.items()
            if "__stubbed__" in getattr(module, "__dict__", {}) or name == "__main__"
        }

    def restore(self) -> None:
        """Takes away what is there now and was not before; what else was imported stays."""
        sys.meta_path[:] = [f for f in sys.meta_path if f in self.finders or not _is_ours(f)]
        for name, module in list(sys.modules.items()):
            own = getattr(module, "__dict__", None)
            if not isinstance(own, dict) or "__stubbed__" not in own:
                continue
            if name not in self.modules and _is_ours(getattr(module, "__loader__", None)):
                _forget(name)
                continue
            self._names(own, self.stubbed.get(name, {}))
        for name in list(sys.modules):
            spec = getattr(sys.modules[name], "__spec__", None)
            if name not in self.modules and _is_ours(getattr(spec, "loader", None)):
                _forget(name)

    @staticmethod
    def _names(own: dict[str, object], before: dict[str, object]) -> None:
        """Names that a stub set on a module that is there without it."""
        names = own["__stubbed__"]
        earlier = before.get("__stubbed__", set())
        if not isinstance(names, set):
            return
        for name in list(names):
            if name in before:
                own[name] = before[name]
            elif not isinstance(earlier, set) or name not in earlier:
                own.pop(name, None)
                names.discard(name)
        if not names:
            own.pop("__stubbed__", None)


def _forget(name: str) -> None:
    """Takes a module away, and the attribute of its package that it is."""
    module = sys.modules.pop(name)
    package, _, last = name.rpartition(".")
    own = getattr(sys.modules.get(package), "__dict__", {})
    if own.get(last) is module:
        del own[last]


def _is_ours(thing: object) -> bool:
    return type(thing).__name__ == "_Finder" and type(thing).__module__ == "ptinspect_stub"
