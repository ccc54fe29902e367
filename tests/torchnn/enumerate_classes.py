"""Prints, as JSON, the path of every subclass of nn.Module that torch's packages define.

Run as a program of its own, since it imports all of torch. What cannot be imported (it needs a
package that is not there) is left out; no such module defines classes that files hold.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import warnings

import torch

UNWALKED = ("__main__", "torch.testing.", "torch.utils.tensorboard", "torch.distributed.run")


def paths() -> list[str]:
    for found in pkgutil.walk_packages(torch.__path__, "torch.", onerror=lambda name: None):
        if any(part in found.name for part in UNWALKED):
            continue
        try:
            importlib.import_module(found.name)
        except Exception as error:  # noqa: BLE001  (any: it is torch's own code)
            print(found.name, error, file=sys.stderr)
    seen: set[type] = {torch.nn.Module}
    todo: list[type] = [torch.nn.Module]
    while todo:
        for sub in todo.pop().__subclasses__():
            if sub not in seen:
                seen.add(sub)
                todo.append(sub)
    return sorted(f"{c.__module__}.{c.__qualname__}" for c in seen)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(paths()))
