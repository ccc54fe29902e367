"""The models by name, and how each is built: with random weights, and nothing fetched.

Runs in the environment that has torchvision, timm and transformers.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMM: list[str] = (HERE / "timm.txt").read_text("utf-8").split()
"""One or two small ones of each of timm's families, by timm's own names."""
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = json.loads(
    (HERE / "transformers.json").read_text("utf-8")
)
"""By the name of the model's class: the name of its configuration's class, and its sizes."""


def names() -> Iterator[str]:
    """`torchvision/resnet18`, …: every builder of torchvision, and those listed of the others."""
    from torchvision.models import list_models  # type: ignore[import-not-found]

    for name in sorted(list_models()):
        yield f"torchvision/{name}"
        if name.startswith("quantized_"):
            yield f"torchvision/{name}:int8"
    yield from (f"timm/{name}" for name in TIMM)
    yield from (f"transformers/{name}" for name in TRANSFORMERS)


def build(name: str) -> Any:
    """The model. Whatever the library raises, where it does not build it."""
    library, _, inner = name.partition("/")
    return BUILDERS[library](inner)


def _torchvision(name: str) -> Any:
    """name: torchvision's, with `:int8` behind it for one that is quantized, not only ready for
    it."""
    from torchvision.models import get_model_builder

    inner, _, quantized = name.partition(":")
    builder = get_model_builder(inner)
    known = inspect.signature(builder).parameters
    given: dict[str, Any] = {"weights": None}
    if "weights_backbone" in known:
        given["weights_backbone"] = None
    if "init_weights" in str(known) or inner in ("googlenet", "inception_v3"):
        given["init_weights"] = False  # theirs takes minutes
    if quantized:
        given["quantize"] = True
    return builder(**given)


def _timm(name: str) -> Any:
    import timm  # type: ignore[import-not-found]

    return timm.create_model(name, pretrained=False)


def _transformers(name: str) -> Any:
    import transformers  # type: ignore[import-not-found]

    config, given = TRANSFORMERS[name]
    return getattr(transformers, name)(getattr(transformers, config)(**given))


BUILDERS: dict[str, Callable[[str], Any]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
