"""torch's answer to the questions that ptinspect is asked, by torch alone.

The files are loaded with `weights_only=True`; a class that is not installed here is stood for by
an empty one of its name. So no code of a file runs, and no package has to be installed.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.corpus.digest import Line

FIXTURES = Path(__file__).parents[2] / "fixtures"
HARMLESS = ("torch.nn.", "numpy.", "collections.", "builtins.dict", "builtins.list", "builtins.int")


def load(file: Path) -> tuple[Any, Any]:
    """What torch loads, and the devices that the file names (truth_facts.Places); of a
    safetensors file what its own library does."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file), None
    places = truth_module().Places()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.serialization.safe_globals(allowed(file)))
        return torch.load(file, map_location=places, weights_only=True), places


def allowed(file: Path) -> list[Any]:
    """(object, name) of each global that weights_only asks for: the real one of torch.nn and
    numpy, a stand-in for any other."""
    if not zipfile.is_zipfile(file):
        return []
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    made: list[Any] = [(found(name), name) for name in names]
    if any(name.startswith("numpy") for name in names):
        numpy = importlib.import_module("numpy")
        made += [type(numpy.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "O", "U3")]
    return made


def found(name: str) -> Any:
    """The object of that name if it is harmless and here, else a stand-in."""
    module, _, last = name.rpartition(".")
    if name.startswith(HARMLESS):
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(module), last)
    base = nn.Module if module == "model" else object
    return type(last, (base,), {"__module__": module})


def truth_module() -> Any:
    """fixtures/truth.py, which says what torch finds in an object."""
    if str(FIXTURES) not in sys.path:
        sys.path.insert(0, str(FIXTURES))
    return importlib.import_module("truth")


def truth_of(file: Path) -> dict[str, Any]:
    """The sidecar that the recorder would write for this file."""
    obj, places = load(file)
    truth = truth_module()
    walk = truth.Walk(places, {})
    walk.visit(obj, ())
    kind = truth.classify(obj, len(walk.tensors))
    keys = {"/".join(map(str, path)): list(root.state_dict()) for path, root in walk.roots}
    prints = {"/".join(map(str, path)): truth.printed(root) for path, root in walk.roots}
    return {
        "kind": kind,
        "format": "safetensors" if file.suffix == ".safetensors" else truth.file_format(str(file)),
        "tensors": walk.tensors,
        "aliases": truth.aliases(walk.shared),
        "modules": walk.modules,
        "state_dict_keys": keys,
        "prints": prints,
        "entries": walk.entries,
        "optimizers": walk.optimizers,
        "arrays": walk.arrays,
        "storages": walk.storages,
    }


def tensors_in(obj: Any) -> list[tuple[tuple[Any, ...], torch.Tensor]]:
    """Every tensor in nested dicts, lists and tuples, with its path, in order. A container that
    lies inside itself is not entered again."""
    made: list[tuple[tuple[Any, ...], torch.Tensor]] = []
    todo: list[tuple[tuple[Any, ...], Any, tuple[int, ...]]] = [((), obj, ())]
    while todo:
        path, value, around = todo.pop()
        if isinstance(value, torch.Tensor):
            made.append((path, value))
        elif isinstance(value, dict | list | tuple) and id(value) not in around:
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            inside = (*around, id(value))
            todo += [((*path, step), item, inside) for step, item in reversed(list(pairs))]
    return made


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes in C order, of any dtype, NaNs and all."""
    plain = tensor.detach().contiguous().flatten()
    return bytes(plain.view(torch.uint8).numpy().tobytes())


def lines(file: Path) -> list[Line]:
    """What `digest` is made of, for a file of dense tensors."""
    told = truth_of(file)
    obj, _ = load(file)
    held = dict(_by_key(obj, told["tensors"]))
    return [
        (fact["key"], fact["dtype"], fact["shape"], raw(held[fact["key"]]))
        for fact in told["tensors"]
    ]


def _by_key(obj: Any, facts: list[dict[str, Any]]) -> list[tuple[str, torch.Tensor]]:
    """The tensors themselves, found by their paths."""
    made = []
    for fact in facts:
        value = obj
        for step in fact["path"]:
            value = _step(value, step)
        made.append((fact["key"], value))
    return made


def _step(value: Any, step: Any) -> Any:
    return value[step] if isinstance(value, dict | list | tuple) else getattr(value, step)
