"""What each optimizer of torch.optim keeps for a parameter: which keys, and of which shape.

Sources: the classes' `_init_group` (LBFGS: `step`) in torch/optim/*.py.
"""

from __future__ import annotations

from ptinspect.pickling.values import Value

SAME_SHAPE = frozenset(
    (
        "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg",
        "grad_avg", "acc_delta", "sum", "prev", "step_size", "ax", "variance",
    )
)  # fmt: skip
"""Keys whose tensors have the parameter's own shape."""

ROW, COLUMN = "row_var", "col_var"
"""Adafactor's factors: the parameter's shape with 1 as the last dimension, or as the one before."""

FLAT = ("d", "prev_flat_grad")
"""LBFGS's vectors: as long as all parameters together, kept for the first one."""

_KEPT = {
    "Adam": "step exp_avg exp_avg_sq",
    "AdamW": "step exp_avg exp_avg_sq",
    "SparseAdam": "step exp_avg exp_avg_sq",
    "RAdam": "step exp_avg exp_avg_sq",
    "NAdam": "step exp_avg exp_avg_sq mu_product",
    "Adamax": "step exp_avg exp_inf",
    "RMSprop": "step square_avg",
    "Rprop": "step prev step_size",
    "Adagrad": "step sum",
    "Adadelta": "step square_avg acc_delta",
    "ASGD": "step eta mu ax",
    "Muon": "momentum_buffer",
    "Adafactor": "step",
    "LBFGS": "",
}


def kept_by(class_path: str | None, group: dict[Value, Value]) -> tuple[str, ...] | None:
    """The keys that the class always keeps once a parameter was trained; empty where it keeps
    nothing (SGD without momentum); None where the class is not one of torch.optim's."""
    name = (class_path or "").removeprefix("torch.optim.")
    if name == "SGD":
        return ("momentum_buffer",) if group.get("momentum") else ()
    if name not in _KEPT:
        return None
    keys = _KEPT[name].split()
    if name in ("Adam", "AdamW") and group.get("amsgrad") is True:
        keys.append("max_exp_avg_sq")
    if name == "RMSprop":
        keys += ["momentum_buffer"] if group.get("momentum") else []
        keys += ["grad_avg"] if group.get("centered") is True else []
    return tuple(keys)


def always_keeps(class_path: str | None, groups: tuple[dict[Value, Value], ...]) -> bool | None:
    """Whether an optimizer that has made a step keeps something; None where nobody knows."""
    if (class_path or "").endswith(".LBFGS"):
        return True
    if class_path is None and groups and all("betas" in group for group in groups):
        return True  # of Adam's family, if not told which: its averages are what the betas are for
    answers = [kept_by(class_path, group) for group in groups]
    if any(answer is None for answer in answers):
        return None
    return any(answers)
