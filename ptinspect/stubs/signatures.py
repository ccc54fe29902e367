"""What a child takes and gives, in a few words: to start a forward from."""

from __future__ import annotations

from ptinspect.stubs.code import Expr, Make, Many
from ptinspect.stubs.fold import as_make
from ptinspect.stubs.names import prose

_CONV = {"1d": "L", "2d": "H, W", "3d": "D, H, W"}


def signature(expr: Expr) -> str:
    """`Linear, (*, 2) -> (*, 1)`"""
    made = as_make(expr)
    if not isinstance(made, Make | Many):
        return f"the argument {prose(made.text)}"
    name = made.func.rpartition(".")[2]
    args = {key: prose(value.text) for key, value in made.args} if isinstance(made, Make) else {}
    shapes = _shapes(name, args)
    return f"{name}, {shapes}" if shapes else name


def _shapes(name: str, args: dict[str | None, str]) -> str:
    if name == "Linear" and {"in_features", "out_features"} <= set(args):
        return f"(*, {args['in_features']}) -> (*, {args['out_features']})"
    if name.startswith("Conv") and {"in_channels", "out_channels"} <= set(args):
        dims = _CONV.get(name[-2:], "...")
        out = ", ".join(f"{dim}'" for dim in dims.split(", "))
        return f"(N, {args['in_channels']}, {dims}) -> (N, {args['out_channels']}, {out})"
    if name == "Embedding" and "embedding_dim" in args:
        return f"(*) of indices -> (*, {args['embedding_dim']})"
    if name in ("LSTM", "GRU", "RNN") and {"input_size", "hidden_size"} <= set(args):
        return f"sequences of {args['input_size']} -> of {args['hidden_size']}, and a state"
    return ""
