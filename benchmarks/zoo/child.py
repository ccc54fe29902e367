"""Loads files with their stubs, each in a process that never saw the classes.

`child.py`, run by its path where the libraries are not installed. Each line of standard input is
a job as JSON, and each is answered by one line: for each thing tried null, or why it failed. torch
is imported once, and each job has a process of its own that is forked from here.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from digest import facts_of, shapes_of  # type: ignore[import-not-found]  # beside this file

Said = dict[str, Any]


def main() -> None:
    """Answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _without_initial_values()
    for line in sys.stdin:
        print(_in_a_fork(json.loads(line)), file=answers, flush=True)


def _without_initial_values() -> None:
    """What `build()` makes is filled right away: the time for random numbers is saved."""
    for name in dir(torch.nn.init):
        if name.endswith("_") and not name.startswith("_"):
            setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


def _in_a_fork(job: dict[str, Any]) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        said = TRIED[job["kind"]](job)
        with os.fdopen(writer, "w", encoding="utf-8") as out:
            json.dump(said, out)
        os._exit(0)
    os.close(writer)
    text = ""
    with os.fdopen(reader, encoding="utf-8") as source:
        if select.select([source], [], [], job["limit"])[0]:
            text = source.read()
        else:
            os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return text or json.dumps({"import": f"dead, or not done in {job['limit']} seconds"})


def attempt(said: Said, what: str, call: Callable[[], Any]) -> Any:
    """The call's result; None, and why, where it failed."""
    try:
        made = call()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
        said[what] = f"{type(error).__name__}: {error}"[:500]
        return None
    said[what] = None
    return made


def whole(job: dict[str, Any]) -> Said:
    """A model saved whole: both ways to load it, print, `build()`, strict load."""
    said: Said = {}
    with open(job["truth"], encoding="utf-8") as file:
        truth = json.load(file)
    stub = _stub(said, job)
    if stub is None:
        return said
    model = attempt(said, "load", lambda: _load(job["file"]))
    if "unusable" in truth:
        return said
    if model is not None:
        attempt(said, "print", lambda: _same_text(str(model), truth["print"]))
        attempt(said, "tensors", lambda: _same(shapes_of(model.state_dict()), truth["state"]))
    if not job["refused"]:
        safe = attempt(said, "weights_only", lambda: _safely(job["file"], stub))
        if safe is not None:
            attempt(said, "weights_only", lambda: _same_text(str(safe), truth["print"]))
        del safe
    built = attempt(said, "build", stub.build)
    if built is None:
        return said
    attempt(said, "built_print", lambda: _same_text(str(built), truth["print"]))
    attempt(said, "facts", lambda: _same_facts(facts_of(built), truth["facts"]))
    if model is not None:
        attempt(said, "strict", lambda: _filled(built, model.state_dict()))
        attempt(said, "attributes", lambda: _same_attributes(built, model))
    return said


def state_dict(job: dict[str, Any]) -> Said:
    """A bare state_dict: `build()`, strict load, and the classes that were inferred."""
    said: Said = {}
    stub = _stub(said, job)
    built = attempt(said, "build", stub.build) if stub is not None else None
    if built is None:
        return said
    state = torch.load(job["file"], map_location="cpu", weights_only=True, mmap=True)
    attempt(said, "strict", lambda: _filled(built, state))
    said["classes"] = {name: _torchs(type(inner)) for name, inner in built.named_modules()}
    return said


def _stub(said: Said, job: dict[str, Any]) -> Any:
    sys.path.insert(0, job["folder"])
    sys.dont_write_bytecode = True
    return attempt(said, "import", lambda: __import__("model_def"))


def _load(path: str) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)


def _safely(path: str, stub: Any) -> Any:
    with torch.serialization.safe_globals(stub.SAFE_GLOBALS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _torchs(kind: type) -> str:
    return next(base.__name__ for base in kind.__mro__ if base.__module__.startswith("torch."))


# --- equal, or what differs first


def _filled(built: Any, state: dict[str, Any]) -> bool:
    """Loads strictly, and compares what the model then has: names, order, types, values."""
    built.load_state_dict(state, strict=True)
    have = built.state_dict()
    if set(have) != set(state):
        raise ValueError(f"other keys: {sorted(set(have) ^ set(state))[:3]}")
    for key, value in state.items():
        mine = have[key]
        if not isinstance(value, torch.Tensor):
            continue
        if (mine.dtype, mine.shape) != (value.dtype, value.shape):
            raise ValueError(f"{key} is another tensor")
        if not torch.equal(_bits(mine), _bits(value)):
            raise ValueError(f"{key} has other values")
    return True


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Its bytes: NaN equals NaN there."""
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _same(have: list[list[Any]], want: list[list[Any]]) -> bool:
    for mine, other in zip(have, want, strict=False):
        if mine != other:
            raise ValueError(f"{mine} in place of {other}")
    if len(have) != len(want):
        raise ValueError(f"{len(have)} in place of {len(want)}")
    return True


def _same_facts(have: dict[str, Any], want: dict[str, Any]) -> bool:
    for key, value in want.items():
        if have[key] != value:
            odd = [item for item in have[key] if item not in value][:3]
            lost = [item for item in value if item not in have[key]][:3]
            raise ValueError(f"{key}: {odd} in place of {lost}")
    return True


def _same_attributes(built: Any, model: Any) -> bool:
    """Plain attributes of each module: numbers, strings, and what is made of them."""
    theirs = dict(model.named_modules())
    for name, inner in built.named_modules():
        mine, other = vars(inner), vars(theirs[name])
        for key, value in other.items():
            if key in INTERNAL or not _plain(value):
                continue
            same = key in mine and (mine[key] == value or repr(mine[key]) == repr(value))
            if not same:  # as text NaN equals NaN, as values sets of another order are equal
                have = repr(mine.get(key, "nothing"))
                raise ValueError(f"{name}.{key}: {have[:150]} in place of {repr(value)[:150]}")
    return True


INTERNAL = {"_non_persistent_buffers_set", "_all_weights", "_flat_weights"}


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, int | float | str | bytes)


def _same_text(have: str, want: str) -> bool:
    if have == want:
        return True
    mine, other = have.splitlines(), want.splitlines()
    for a, b in zip(mine, other, strict=False):
        if a != b:
            raise ValueError(f"{a.strip()!r} in place of {b.strip()!r}"[:400])
    raise ValueError(f"{len(mine)} lines in place of {len(other)}")


TRIED: dict[str, Callable[[dict[str, Any]], Said]] = {"whole": whole, "state_dict": state_dict}

if __name__ == "__main__":
    main()
