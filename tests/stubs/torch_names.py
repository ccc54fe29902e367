"""Writes `ptinspect/torchnn/tables/torch_classes.txt` from the torch that is installed.

Run as `python -m tests.stubs.torch_names > ptinspect/torchnn/tables/torch_classes.txt`.
torch is read, not imported.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

UNLISTED = (
    "_C.", "_awaits.", "_classes.", "_custom_op", "_decomp.", "_dynamo.", "_export.",
    "_functorch.", "_higher_order_ops.", "_inductor.", "_lazy.", "_library.", "_logging.",
    "_meta", "_native.", "_numpy.", "_ops.", "_prims", "_refs.", "_strobelight.", "_subclasses.",
    "_vendor.", "accelerator.", "ao.ns.", "ao.pruning.", "ao.quantization.fx.", "backends.",
    "compiler.", "contrib.", "cuda.", "distributed.", "export.", "func.", "fx.experimental.",
    "fx.passes.", "jit.", "monitor.", "mps.", "mtia.", "numa.", "onnx.", "package.", "profiler.",
    "return_types.", "signal.", "sparse.", "special.", "testing.", "utils._strobelight.",
    "utils._sympy.", "utils.benchmark.", "utils.bottleneck.", "utils.hipify.",
    "utils.model_dump.", "utils.tensorboard.", "utils.viz.", "xpu.",
)  # fmt: skip
"""Packages of torch that are not listed."""


def table() -> str:
    """One line per module: its name without `torch.`, and the classes that it defines."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    lines = []
    for path in root.rglob("*.py"):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__")
        name = name.rstrip(".")
        if f"{name}.".startswith(UNLISTED) or not name:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        lines.append(" ".join([name, *sorted(set(classes(tree.body)))]))
    return "\n".join([f"* {' '.join(UNLISTED)}", *sorted(lines)]) + "\n"


def classes(body: list[ast.stmt]) -> Iterator[str]:
    """The classes of a module, those under a condition, a name or from another module too."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            yield from (name for name in names if is_class(name))
        elif isinstance(node, ast.ImportFrom) and (
            node.level or f"{node.module}.".startswith("torch.")
        ):
            names = [alias.asname or alias.name for alias in node.names]
            yield from (name for name in names if is_class(name))
        elif isinstance(node, ast.If | ast.Try):
            yield from classes(node.body)
            yield from classes(node.orelse)


def is_class(name: str) -> bool:
    """Whether it looks like one: `Adam`, `_ASMoutput`; not `T`, not `MAX_SIZE`."""
    return name.lstrip("_")[:1].isupper() and not name.isupper()


if __name__ == "__main__":
    print(table(), end="")
