"""Builds and saves models, one at a time: `python -m benchmarks.zoo.maker`, or with `--list`.

Runs in the environment that has the libraries. Each line of standard input is a model's name, a
tab and a folder, and each is answered by one line of JSON: `seconds`, and `failed` with the reason
where the library did not build it. It leaves `whole.pt`, `state_dict.pt` and `truth.json` in the
folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.zoo.digest import facts_of, shapes_of


def main() -> None:
    """Answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.simplefilter("ignore")
    from benchmarks.zoo import models

    if "--list" in sys.argv:
        answers.write(json.dumps({"names": list(models.names()), "versions": _versions()}))
        return
    import torch

    torch.set_num_threads(1)
    _quick_values()
    for line in sys.stdin:
        begin = time.perf_counter()
        answer: dict[str, Any] = {}
        name, _, folder = line.strip().partition("\t")
        try:
            torch.manual_seed(0)
            _make(models.build(name), Path(folder))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
            answer["failed"] = _said(error)
        answer["seconds"] = time.perf_counter() - begin
        print(json.dumps(answer), file=answers, flush=True)


def _quick_values() -> None:
    """Random numbers that cost little: no model of the zoo is run."""
    import torch

    for name in ("normal_", "trunc_normal_", "kaiming_normal_", "xavier_normal_", "orthogonal_"):
        setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor.data.uniform_())


def _make(model: Any, folder: Path) -> None:
    """Saves it whole and as a state_dict, with what is true of it beside."""
    import torch

    state = model.state_dict()
    truth: dict[str, Any] = {
        "print": "",
        "classes": {name: _torchs(type(inner)) for name, inner in model.named_modules()},
        "foreign": sorted({_path(type(m)) for m in model.modules() if _foreign(type(m))}),
        "state": shapes_of(state),
        "facts": facts_of(model),
    }
    try:
        torch.save(model, folder / "whole.pt")
        _used_again(folder / "whole.pt", truth)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
        truth["unsaved"] = _said(error)
        (folder / "whole.pt").unlink(missing_ok=True)
    torch.save(state, folder / "state_dict.pt")
    truth["print"] = _printed(model)
    (folder / "truth.json").write_text(json.dumps(truth), "utf-8")


def _used_again(file: Path, truth: dict[str, Any]) -> None:
    """Whether what was saved is of use where the library is: of a quantized convolution it is not,
    as torch.ao's `__setstate__` makes no module of it."""
    import torch

    loaded = torch.load(file, weights_only=False, mmap=True)
    try:
        str(loaded), loaded.state_dict()
    except Exception as error:  # noqa: BLE001
        truth["unusable"] = _said(error)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "torchvision", "timm", "transformers")}


# --- what no file records


def _foreign(kind: type) -> bool:
    return not _path(kind).startswith("torch.")


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _torchs(kind: type) -> str:
    """The class of torch's that a class is, or extends."""
    return next(base.__name__ for base in kind.__mro__ if not _foreign(base))


def _printed(model: Any) -> str:
    """print(model), where what a foreign class itself has to say in it is left to its base."""
    for kind in {type(inner) for inner in model.modules()}:
        for name in ("__repr__", "extra_repr", "_get_name"):
            _of_its_base(kind, name)
    return str(model)


def _of_its_base(kind: type, name: str) -> None:
    holders = [base for base in kind.__mro__ if name in vars(base)]
    if holders and _foreign(holders[0]):
        torchs = next(base for base in holders if not _foreign(base) and base is not object)
        setattr(kind, name, vars(torchs)[name])


def names_of(names: list[str], patterns: list[str]) -> Iterator[str]:
    """Those that one of the patterns matches; all, without patterns."""
    from fnmatch import fnmatch

    for name in names:
        if not patterns or any(fnmatch(name, pattern) for pattern in patterns):
            yield name


if __name__ == "__main__":
    main()
