"""Loads a file with its stub, in a process that has neither ptinspect nor the classes.

It is imported from its path by a command line that leaves `__main__` empty, and imports nothing
of ptinspect. Standard output has one JSON object: for each thing tried null, or why it failed.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Reads the job, a file named on the command line."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what code of a package prints is no answer
    warnings.simplefilter("ignore")
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    for name in ("sys", "load_with_stub"):  # a class of the file may have that name
        vars(sys.modules["__main__"]).pop(name, None)
    sys.path[0] = job["folder"]
    said: dict[str, str | None] = {}
    unable: dict[str, str | None] = {}
    tried(job, said, unable)
    json.dump({"tried": said, "unable": {key: why for key, why in unable.items() if why}}, channel)
    channel.close()


def tried(job: dict[str, Any], said: dict[str, str | None], unable: dict[str, str | None]) -> None:
    """Both load ways, print, strict load. unable: what torch fails in with what it loaded."""
    import torch

    def imported() -> Any:
        import model_def  # type: ignore[import-not-found]

        return model_def

    stub = attempt(said, "import", imported)
    if stub is None:
        return
    path, where = job["path"], job["model_path"]
    load = {"pickle": unpickled, "safetensors": from_safetensors}.get(job["form"], plainly)
    loaded = attempt(said, "load", lambda: at(load(torch, path), where))
    if not job["refused"] and load is plainly:
        safe = attempt(said, "weights_only", lambda: at(safely(torch, path, stub), where))
        loaded = safe if loaded is None else loaded
    if where is None or loaded is None:
        return
    built = attempt(said, "build", stub.build)
    if built is None:
        return
    if isinstance(loaded, torch.nn.Module):
        show = str if job["whole"] else repr  # str of a GraphModule shows its source, too
        text = attempt(unable, "print", lambda: show(loaded))
        tree = job["tree"] if job["whole"] else None
        attempt(said, "print", lambda: same(show(built), text, tree))
        state = attempt(unable, "strict", loaded.state_dict)
        if state is not None:
            attempt(said, "strict", lambda: built.load_state_dict(state))
    else:
        attempt(said, "strict", lambda: built.load_state_dict(loaded))


def plainly(torch: Any, path: str) -> Any:
    """Without weights_only."""
    return torch.load(path, map_location="cpu", weights_only=False)


def unpickled(torch: Any, path: str) -> Any:
    """What torch.save did not write."""
    with open(path, "rb") as file:
        return pickle.load(file)  # scan has judged it


def from_safetensors(torch: Any, path: str) -> Any:
    """A state_dict."""
    from safetensors.torch import load_file

    return load_file(path)


def safely(torch: Any, path: str, stub: Any) -> Any:
    """With it, and with the stub's list."""
    with torch.serialization.safe_globals(stub.SAFE_GLOBALS):
        return torch.load(path, map_location="cpu", weights_only=True)


def at(value: Any, where: list[Any] | None) -> Any:
    """What lies under a path of keys; True in place of what tells nothing."""
    for key in where or ():
        simple = isinstance(value, dict | list | tuple)
        value = value[key] if simple else getattr(value, str(key))
    return True if value is None else value


def same(built: str, *files: str | None) -> bool:
    """Raises ValueError with the first line that differs."""
    for text in files:
        if text is None or text == built:
            continue
        ours, theirs = text.splitlines(), built.splitlines()
        number = next(
            (n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
            min(len(ours), len(theirs)),
        )
        lines = [(text[number : number + 1] or ["nothing"])[0].strip() for text in (ours, theirs)]
        raise ValueError(f"line {number + 1}: {lines[0]} in the file, {lines[1]} in the stub")
    return True


def attempt(said: dict[str, str | None], what: str, call: Callable[[], Any]) -> Any:
    """The call's result; None, and why, where it failed."""
    try:
        made = call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        said[what] = f"{type(error).__name__}: {error}"[:600]
        return None
    said[what] = None
    return made
