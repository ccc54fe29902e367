"""Objects of packages that are not installed here, as pickle would write them: classes of the
same names, made for the moment of the pickling. What these look like inside is from the packages'
own files; see the sources named in `benign.py`."""

from __future__ import annotations

import enum
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class World:
    """Makes classes and functions under foreign names, and pickles with them in place."""

    def __init__(self) -> None:
        self.modules: dict[str, types.ModuleType] = {}

    def _module(self, name: str) -> types.ModuleType:
        made = self.modules.get(name)
        if made is None:
            made = self.modules[name] = types.ModuleType(name)
        return made

    def _put(self, dotted: str, made: Any) -> Any:
        module, _, name = dotted.rpartition(".")
        made.__module__, made.__qualname__ = module, name
        setattr(self._module(module), name, made)
        return made

    def cls(self, dotted: str, *bases: type, **body: Any) -> Any:
        """A class."""
        module, _, name = dotted.rpartition(".")
        known = getattr(self.modules.get(module), name, None)
        return known or self._put(dotted, type(name, bases or (object,), body))

    def function(self, dotted: str) -> Any:
        """A function, kept as a value."""
        return self._put(dotted, lambda *args: None)

    def obj(self, dotted: str, /, **state: Any) -> Any:
        """An object with this `__dict__`."""
        made = self.cls(dotted)()
        made.__dict__.update(state)
        return made

    def mapping(self, dotted: str, items: Mapping[Any, Any], /, **state: Any) -> Any:
        """An object of a class that extends dict."""
        made = self.cls(dotted, dict)(items)
        made.__dict__.update(state)
        return made

    def reduced(self, dotted: str, *args: Any, state: Any = None) -> Any:
        """An object that pickle writes as a call: REDUCE, and BUILD with a state."""
        made = self._put(dotted, type(dotted.rpartition(".")[2], (), {}))
        answer = (made, args) if state is None else (made, args, state)
        made.__reduce__ = lambda self: answer
        return made()

    def called(self, dotted: str, *args: Any, state: Any = None) -> Any:
        """The same of a function that makes the object."""
        function = self.function(dotted)
        answer = (function, args) if state is None else (function, args, state)
        return type("Made", (), {"__reduce__": lambda self: answer})()

    def member(self, dotted: str, value: Any, *bases: type) -> Any:
        """A member of an enum."""
        module, _, name = dotted.rpartition(".")
        made: Any = (enum.Enum if not bases else bases[-1])(
            name, {"MEMBER": value}, module=module, qualname=name
        )
        setattr(self._module(module), name, made)
        return made.MEMBER

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        packages = {}
        for name in self.modules:
            while "." in name:
                name = name.rpartition(".")[0]
                packages[name] = types.ModuleType(name)
        before = dict(sys.modules)
        sys.modules.update(packages | self.modules)
        try:
            yield
        finally:
            sys.modules.clear()
            sys.modules.update(before)

    def pickled(self, value: Any, protocol: int = 4) -> bytes:
        """What pickle writes of it."""
        with self._in_place():
            return pickle.dumps(value, protocol)
