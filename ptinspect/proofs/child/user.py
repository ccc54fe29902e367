"""The user's own files: the model's class, the batches. They are code that the user trusts."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from typing import Any

from ptinspect.proofs.child.failing import CannotRun


def module_of(path: str) -> Any:
    """The module that a file is, under its own name, once per process; its folder is importable."""
    place = os.path.abspath(path)
    name = os.path.splitext(os.path.basename(place))[0]
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == place:
        return known
    folder = os.path.dirname(place)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise CannotRun(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CannotRun(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def named(reference: str) -> tuple[Any, Any]:
    """The module and the object that `FILE.py:NAME` names."""
    path, _, name = reference.rpartition(":")
    if not path or not os.path.isfile(path):
        raise CannotRun(f"{path or reference}: no such file", "written FILE.py:NAME")
    module = module_of(path)
    if not hasattr(module, name):
        raise CannotRun(f"{path} has no {name}")
    return module, getattr(module, name)


def findable(module: Any, names: list[str]) -> None:
    """Puts the user's classes under the names that the pickle has for them (`__main__.Net`)."""
    for path in names:
        place, _, name = path.rpartition(".")
        if not hasattr(module, name):
            continue
        home = sys.modules.get(place)
        if home is None:
            home = sys.modules[place] = types.ModuleType(place)
        if not hasattr(home, name):
            setattr(home, name, getattr(module, name))
