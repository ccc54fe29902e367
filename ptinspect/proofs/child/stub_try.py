"""Loads a file with its stub, in a process that has neither ptinspect nor the classes.

It is imported from its path by a command line that leaves `__main__` empty, and imports nothing
of ptinspect. Standard output has one JSON object: for each thing tried null, or why it failed.
"""

from __future__ import annotations

import json
import os
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
    for name in ("sys", "stub_try"):  # a class of the file may have that name
        vars(sys.modules["__main__"]).pop(name, None)
    sys.path[0] = job["folder"]
    said: dict[str, str | None] = {}
    tried(job, said)
    json.dump(said, channel)
    channel.close()


def tried(job: dict[str, Any], said: dict[str, str | None]) -> None:
    """Both load ways, print, strict load."""
    import torch

    def imported() -> Any:
        import model_def  # type: ignore[import-not-found]

        return model_def

    stub = attempt(said, "import", imported)
    if stub is None:
        return
    path, where = job["path"], job["model_path"]
    loaded = attempt(said, "load", lambda: at(plainly(torch, path), where))
    if not job["refused"]:
        safe = attempt(said, "weights_only", lambda: at(safely(torch, path, stub), where))
        loaded = safe if loaded is None else loaded
    if where is None or loaded is None:
        return
    built = attempt(said, "build", stub.build)
    if built is None:
        return
    if isinstance(loaded, torch.nn.Module):
        attempt(said, "print", lambda: same(str(loaded), str(built), job["tree"]))
        attempt(said, "strict", lambda: built.load_state_dict(loaded.state_dict()))
    else:
        attempt(said, "strict", lambda: built.load_state_dict(loaded))


def plainly(torch: Any, path: str) -> Any:
    """Without weights_only."""
    return torch.load(path, map_location="cpu", weights_only=False)


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


def same(*texts: str | None) -> bool:
    """Raises ValueError with the first line that differs."""
    first = texts[0]
    for other in texts[1:]:
        if other is None or other == first:
            continue
        ours, theirs = (first or "").splitlines(), other.splitlines()
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
