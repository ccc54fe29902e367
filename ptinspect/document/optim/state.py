"""Optimizer state, wherever it lies, and which class of torch.optim wrote it.

Source: `torch.optim.Optimizer.state_dict`: {"state": {index: {…}}, "param_groups": [{…}]};
each class's keys are the `defaults` of its `__init__` and what its `step` keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ptinspect.pickling.pyobjects import as_mapping, as_sequence, attributes_of, class_path
from ptinspect.pickling.pyobjects import path_step as step_of
from ptinspect.pickling.values import Call, Value


class Optimizer(NamedTuple):
    """path: where it lies. class_path: `torch.optim.SGD`, or None. evidence: `recorded` (the
    object itself was pickled), `inferred` (from its hyper-parameters and state) or `unknown`.
    groups: the param_groups, in order. state: per parameter (its index, else its place) what
    the optimizer keeps."""

    path: tuple[str | int, ...]
    class_path: str | None
    evidence: str
    groups: tuple[dict[Value, Value], ...]
    state: dict[Value, Value]

    @property
    def step(self) -> Value:
        """The first parameter's step, a number or a 0-dim tensor; None without."""
        for kept in self.state.values():
            step = (as_mapping(kept) or {}).get("step")
            if step is not None:
                return step
        return None

    def parameters(self, group: int) -> int:
        """How many parameters a group covers."""
        return len(as_sequence(self.groups[group].get("params")) or ())

    def members(self) -> Iterator[tuple[tuple[str | int, ...], Value]]:
        """The insides with their paths: state (by the parameter's index where the pickled object
        has the parameters themselves as keys), then groups."""
        order: dict[int, int] = {}
        for group in self.groups:
            for parameter in as_sequence(group.get("params")) or ():
                order.setdefault(id(parameter), len(order))
        for key, kept in self.state.items():
            at = order.get(id(key)) if isinstance(key, Call) else None
            yield (*self.path, "state", step_of(key) if at is None else at), kept
        for number, group in enumerate(self.groups):
            yield (*self.path, "param_groups", number), group

    def names(self, group: int) -> list[str]:
        """`param_names`, where recorded (torch ≥ 2.6, when given named parameters)."""
        names = as_sequence(self.groups[group].get("param_names")) or ()
        return [name for name in names if isinstance(name, str)]


def optimizer_of(value: Value, path: tuple[str | int, ...]) -> Optimizer | None:
    """The optimizer state that `value` is, a state_dict or the pickled object; else None."""
    items, recorded = as_mapping(value), None
    if items is None and isinstance(value, Call):
        items, recorded = attributes_of(value), class_path(value)
    if not items or "state" not in items or "param_groups" not in items:
        return None
    state, groups = as_mapping(items["state"]), as_sequence(items["param_groups"])
    if state is None or groups is None:
        return None
    found = tuple(group for group in map(as_mapping, groups) if group is not None)
    if len(found) != len(groups) or not all("params" in group for group in found):
        return None
    name = _public(recorded) if recorded else infer(found, state)
    evidence = "recorded" if recorded else "inferred" if name else "unknown"
    return Optimizer(path, name, evidence, found, state)


def _public(path: str) -> str:
    """`torch.optim.adam.Adam` under its public name, `torch.optim.Adam`."""
    parts = path.split(".")
    return f"torch.optim.{parts[-1]}" if parts[:2] == ["torch", "optim"] else path


# Per class: the group's keys and the state's keys that together are found in no other.
# `!key` must be absent. The first match counts.
_SIGNS: tuple[tuple[str, str, str], ...] = (
    ("LBFGS", "max_iter history_size tolerance_grad", ""),
    ("Muon", "ns_steps ns_coefficients", ""),
    ("Adafactor", "beta2_decay d", ""),
    ("SGD", "momentum dampening nesterov", ""),
    ("RMSprop", "alpha centered momentum", ""),
    ("ASGD", "lambd alpha t0", ""),
    ("Rprop", "etas step_sizes", ""),
    ("Adadelta", "rho eps", ""),
    ("Adagrad", "lr_decay eps", ""),
    ("NAdam", "betas momentum_decay", ""),
    ("Adamax", "betas eps", "exp_inf"),
    ("AdamW", "betas amsgrad decoupled_weight_decay=True", ""),
    ("Adam", "betas amsgrad decoupled_weight_decay=False", ""),
    ("RAdam", "betas eps decoupled_weight_decay !amsgrad", ""),
    ("AdamW", "betas eps amsgrad weight_decay=0.01", ""),
    ("Adam", "betas eps amsgrad", ""),
    ("SparseAdam", "betas eps !weight_decay !amsgrad", ""),
    ("RAdam", "betas eps weight_decay !amsgrad", "exp_avg exp_avg_sq"),
)


def infer(groups: tuple[dict[Value, Value], ...], state: dict[Value, Value]) -> str | None:
    """The class of torch.optim whose hyper-parameters and state these are; None if none's.

    Adam and AdamW of torch before 2.7 write the same keys: a weight decay of 0.01, which
    is AdamW's default, is taken for AdamW, any other for Adam.
    """
    if not groups:
        return None
    kept: dict[Value, Value] = {}
    for values in state.values():
        kept.update(as_mapping(values) or {})
    for name, group_signs, state_signs in _SIGNS:
        if all(_has(groups[0], sign) for sign in group_signs.split()) and (
            all(sign in kept for sign in state_signs.split())
        ):
            return f"torch.optim.{name}"
    return None


def _has(group: dict[Value, Value], sign: str) -> bool:
    if sign.startswith("!"):
        return sign[1:] not in group
    key, _, value = sign.partition("=")
    return key in group and (not value or str(group[key]) in (value, value + ".0"))
