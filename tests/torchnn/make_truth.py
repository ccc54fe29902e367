"""Writes truth.json: pickled modules and what torch printed for them, for tests without torch.

    python -m tests.torchnn.make_truth

Per group: the pickle of a list of modules (zlib, base64) in which a persistent id stands for
each tensor, the different facts on those tensors and which are whose, and `str(module)` of
each module, by the torch named.
"""

from __future__ import annotations

import base64
import json
import pickle
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from tests.torchnn import cases, quantized_cases, test_whole_models
from tests.torchnn.oracle import Facts, dumps

WHOLE = (
    test_whole_models.folding,
    test_whole_models.shared,
    test_whole_models.odd_names,
    test_whole_models.none_in_a_list,
    test_whole_models.recurrent,
    test_whole_models.quantized_dynamically,
    test_whole_models.numpy_settings,
)
SKIPPED = (cases.wrappers, quantized_cases.quantized_convolutions, quantized_cases.tools)


def whole_models() -> Iterator[nn.Module]:
    for make in WHOLE:
        yield make()


def few(group: Callable[[], Iterator[nn.Module]]) -> list[nn.Module]:
    """Two modules of each class: the first, and the last."""
    found: dict[str, list[nn.Module]] = {}
    for module in group():
        found.setdefault(f"{type(module).__module__}.{type(module).__qualname__}", []).append(
            module
        )
    return [
        module
        for made in found.values()
        for module in {id(m): m for m in (made[0], made[-1])}.values()
    ]


def facts(tensor: torch.Tensor) -> dict[str, object]:
    """What `TensorFacts` asks for; the numbers of small tensors alone."""
    known = Facts(tensor)
    small = not nn.parameter.is_lazy(tensor) and known.device == "cpu" and tensor.numel() <= 8
    small = small and not tensor.is_quantized  # torch leaves such memory as it finds it
    made = {name: getattr(known, name) for name in ("dtype", "shape", "parameter")}
    other = {"device": "cpu", "layout": "strided", "qscheme": None}
    made |= {
        name: getattr(known, name) for name, usual in other.items() if getattr(known, name) != usual
    }
    if small and not known.parameter:
        made["text"] = known.text()
        if not known.shape:
            made["item"] = str(known.item())
    return made


def truth(group: Callable[[], Iterator[nn.Module]]) -> dict[str, object]:
    torch.manual_seed(0)
    modules = whole_list(group)
    data, tensors = dumps(modules)
    known = [facts(tensor) for tensor in tensors]
    unique = [fact for i, fact in enumerate(known) if fact not in known[:i]]
    return {
        "group": group.__name__,
        "pickle": base64.b64encode(zlib.compress(data, 9)).decode(),
        "facts": unique,
        "tensors": [unique.index(fact) for fact in known],
        "texts": [str(module) for module in modules],
    }


def whole_list(group: Callable[[], Iterator[nn.Module]]) -> list[nn.Module]:
    """The modules of a group that pickle takes."""
    kept = []
    for module in list(group()) if group is whole_models else few(group):
        if "PackedParams" in type(module).__name__:
            continue  # prints what torch leaves as it finds it
        try:
            dumps(module)
        except (AttributeError, pickle.PicklingError):
            continue
        kept.append(module)
    return kept


def main() -> None:
    warnings.simplefilter("ignore")
    groups = [g for g in (*cases.NN, *quantized_cases.AO, whole_models) if g not in SKIPPED]
    lines = ",\n".join(json.dumps(truth(group), ensure_ascii=False) for group in groups)
    version = json.dumps(torch.__version__.partition("+")[0])
    path = Path(__file__).with_name("truth.json")
    path.write_text(f'{{"torch": {version}, "groups": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
