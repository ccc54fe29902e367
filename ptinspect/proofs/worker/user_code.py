"""The user's own files: the model's class, the batches. They are code that the user trusts."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker.errors import CannotRun, said


def optimizer_class(path: str) -> Any:
    """A class of torch.optim, by its name."""
    kind = getattr(torch.optim, path.removeprefix("torch.optim."), None)
    base = torch.optim.Optimizer
    if not isinstance(kind, type) or not issubclass(kind, base) or kind is base:
        raise CannotRun(
            f"torch.optim has no {path}",
            "give --optimizer-class torch.optim.AdamW, or write make_optimizer(model) beside the "
            "model's class",
        )
    return kind


def loss_of(name: str) -> Any:
    """A loss of torch.nn, by its class's name."""
    if name not in nn.modules.loss.__all__:
        raise CannotRun(f"torch.nn has no loss {name}", "such as MSELoss or CrossEntropyLoss")
    return getattr(nn, name)()


def loaded(plan: dict[str, Any], path: str) -> Any:
    """What torch.load makes of a file, on the CPU. CannotRun where a class is not found."""
    try:
        return torch.load(path, map_location="cpu", weights_only=plan["weights_only"])
    except (AttributeError, ImportError) as error:
        traceback.print_exc()
        name = str(error).partition(" on <module")[0]
        raise CannotRun(
            f"torch.load: {name}",
            "put it where Python finds it, that of __main__ into the --model file",
        ) from error


# ---


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
    with failing(f"{path} cannot be imported"):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def failing(what: str, hint: str | None = None) -> Iterator[None]:
    """What the user's code raises, `sys.exit()` among it, as a CannotRun; the log has it whole."""
    try:
        yield
    except CannotRun:
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise CannotRun(f"{what}: {said(error)}", hint) from error


def made_by(model: Any, reference: str) -> Any:
    """The model: of its class, of a function that makes it, or the module itself."""
    import torch

    made = model
    if callable(model) and not isinstance(model, torch.nn.Module):
        hint = "a function without parameters that makes the model can be named as well"
        with failing(f"{reference} cannot be called", hint):
            made = model()
    if not isinstance(made, torch.nn.Module):
        raise CannotRun(f"{reference} makes no torch.nn.Module")
    return made


def named(reference: str) -> tuple[Any, Any]:
    """The module and the object that `FILE.py:NAME` names."""
    path, _, name = reference.rpartition(":")
    if not path and os.path.isfile(name):
        raise CannotRun(f"{name}: which name in it?", "written FILE.py:NAME")
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
