"""Does this optimizer state fit this model? Without torch; what cannot be decided is listed so."""

from __future__ import annotations

from array import array
from collections import Counter
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from ptinspect.document.optim.matching import Fault, Pairing, Slot, pair, slots_of
from ptinspect.document.optim.rules import COLUMN, FLAT, ROW, SAME_SHAPE, always_keeps, kept_by
from ptinspect.document.optim.training_state import counter_of, schedulers_of, weights_of
from ptinspect.document.walk import Path, dotted
from ptinspect.errors import UnsupportedError
from ptinspect.pickling.pyobjects import as_sequence
from ptinspect.pickling.values import Value

if TYPE_CHECKING:
    from ptinspect.document.document import Document
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.document.optim.training_state import Weight
    from ptinspect.document.tensor import Tensor


SMALL = 1 << 18
"""Bytes up to which Python reads a tensor itself."""

_CODES = {"float32": "f", "float64": "d", "complex64": "f", "complex128": "d", "float16": "e"}


def number_of(tensor: Tensor) -> float | None:
    """The value of a tensor of one element; None where it is no plain number."""
    import struct

    from ptinspect.document.to_array import contiguous

    codes = {**_CODES, "int64": "q", "int32": "i", "int16": "h", "uint8": "B", "bool": "B"}
    code = codes.get(tensor.dtype.name) if tensor.dtype else None
    if code is None or tensor.numel != 1 or tensor.dtype is None:
        return None
    if tensor.dtype.name.startswith("complex"):
        return None
    (value,) = struct.unpack(f"<{code}", contiguous(tensor))
    return float(value)


def not_finite(tensor: Tensor) -> str | None:
    """`NaN` or `inf` where some element is that; None where all are finite, or are no floats.

    DamagedError where bytes are missing.
    """
    if tensor.dtype is None or not tensor.numel:
        return None
    name = tensor.dtype.name
    if not name.startswith(("float", "bfloat", "complex")):
        return None
    try:
        if tensor.nbytes <= SMALL and tensor.is_contiguous and not tensor.quantizer:
            return _small(tensor, name)
        return _large(tensor)
    except UnsupportedError:  # sparse, packed, without bytes
        return None


def _small(tensor: Tensor, name: str) -> str | None:
    from ptinspect.document.to_array import contiguous

    raw = contiguous(tensor)
    if name == "bfloat16":
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
        name = "float32"
    code = _CODES.get(name)
    if code is None:
        return _large(tensor)
    if code == "e":
        import struct

        return _named(struct.unpack(f"<{len(raw) // 2}e", raw))
    numbers: array[float] = array(code)
    numbers.frombytes(raw)
    if _swapped():
        numbers.byteswap()
    return None if isfinite(sum(numbers)) else _named(numbers)


def _swapped() -> bool:
    import sys

    return sys.byteorder == "big"


def _named(numbers: array[float] | tuple[float, ...]) -> str | None:
    odd = [number for number in numbers if not isfinite(number)]
    return None if not odd else "NaN" if any(number != number for number in odd) else "inf"


def _large(tensor: Tensor) -> str | None:
    from ptinspect.document.to_array import number_blocks, quiet

    found = None
    with quiet():
        for block in number_blocks(tensor):
            if (block != block).any():
                return "NaN"
            if (abs(block) == float("inf")).any():
                found = "inf"
    return found


# ---


class OptimizerFit(NamedTuple):
    """What was found of one optimizer. model: where the weights lie that it was held against;
    None without any. names: per parameter, None where undecided. faults: what does not fit.
    undecided: what nothing in the file decides."""

    optimizer: Optimizer
    model: Path | None
    parameters: int
    names: list[str | None]
    faults: list[Fault]
    undecided: list[Fault]

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.faults

    @property
    def verdict(self) -> str:
        """`fits` or `differs`."""
        return "fits" if self.fits else "differs"

    def told(self) -> dict[str, object]:
        """What is wrong and what is undecided, for programs."""
        return {
            "wrong": [fault._asdict() for fault in self.faults],
            "undecided": [fault._asdict() for fault in self.undecided],
        }


def check_optimizers(document: Document, *, values: bool = True) -> list[OptimizerFit]:
    """Each optimizer state of a file held against the weights beside it. `values`: whether the
    numbers are looked at too (NaN, inf, steps that disagree), which reads the state's tensors."""
    if not document.optimizers:
        return []
    candidates, beside = weights_of(document), _Beside(document)
    made = []
    for found in document.optimizers:
        slots = slots_of(found, document)
        made.append(_Check(beside, found, slots, pair(slots, candidates)).run(values))
    return made


def fit_line(document: Document) -> str | None:
    """One line for `show`: None where a file has no optimizer state. Reads no tensors' values."""
    found = check_optimizers(document, values=False)
    if not found:
        return None
    faults = [(one, fault) for one in found for fault in one.faults]
    if faults:
        one, fault = faults[0]
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        place = f"{dotted(one.optimizer.path)}: " if len(found) > 1 else ""
        where = f"{fault.parameter}: " if fault.parameter else ""
        return f"no: {place}{where}{fault.message}{more}"
    if any(one.model is None for one in found):
        return "undecided: no weights lie beside it"
    undecided = sum(len(one.undecided) for one in found)
    more = f"; {undecided} undecided" if undecided else ""
    places = list(dict.fromkeys(one.model for one in found if one.model))
    many = f"{len(places)} models"
    said = dotted(places[0]) if len(places) == 1 else many if places else "the model"
    return f"yes, {said}{more}"


class _Beside:
    """What else is in the file, looked for once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.schedulers = schedulers_of(document)
        self.counter = counter_of(document, schedulers=self.schedulers)
        self.optimizers = len(document.optimizers)


class _Check:
    def __init__(
        self, beside: _Beside, optimizer: Optimizer, slots: list[Slot], pairing: Pairing | None
    ) -> None:
        self.beside = beside
        self.document = beside.document
        self.optimizer = optimizer
        self.pairing = pairing
        self.slots = slots
        self.faults: list[Fault] = list(pairing.faults) if pairing else []
        self.undecided: list[Fault] = list(pairing.undecided) if pairing else []
        order = pairing.weights.order if pairing else []
        self.weights: dict[str, Weight] = {weight.name: weight for weight in order}
        self.names = pairing.names if pairing else [slot.name for slot in self.slots]

    def run(self, values: bool) -> OptimizerFit:
        """All checks, in the order in which one would ask."""
        if self.pairing is None:
            self.doubt("model", "no weights lie beside it, so it is held against itself only")
        self.numbering()
        self.presence()
        for slot in self.slots:
            self.keys(slot)
            self.shapes(slot)
        self.flat()
        self.rates()
        if values:
            self.steps()
            self.numbers()
        model = self.pairing.weights.path if self.pairing else None
        return OptimizerFit(
            self.optimizer, model, len(self.slots), self.names, self.faults, self.undecided
        )

    def fault(self, kind: str, message: str, parameter: str | None = None) -> None:
        """It does not fit."""
        self.faults.append(Fault(kind, message, parameter))

    def doubt(self, kind: str, message: str, parameter: str | None = None) -> None:
        """Nothing in the file decides it."""
        self.undecided.append(Fault(kind, message, parameter))

    def called(self, slot: Slot) -> str:
        """A parameter's name, else its number."""
        return self.names[slot.number] or slot.name or f"parameter {slot.number}"

    # --- which states there are -----------------------------------------------------------

    def numbering(self) -> None:
        """Each parameter once, and no state of others."""
        numbers = [slot.key for slot in self.slots if isinstance(slot.key, int | str)]
        counts = Counter(numbers)
        twice = [str(key) for key, times in counts.items() if times > 1]
        if twice:
            self.fault("duplicate", f"parameter {', '.join(twice[:3])} stands in the groups twice")
        extra = [key for key in self.optimizer.state if type(key) is int and key not in counts]
        if extra and numbers:
            more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
            listed = ", ".join(map(str, extra[:3]))
            self.fault("extra-state", f"state {listed}{more} belongs to no parameter of the groups")

    def presence(self) -> None:
        """Whether the state that such an optimizer keeps is there."""
        name = self.optimizer.class_path
        keeps = always_keeps(name, self.optimizer.groups)
        without = [slot for slot in self.slots if not slot.kept]
        some = bool(self.optimizer.state) and (name or "").endswith(".LBFGS")
        if not without or keeps is False or some:  # LBFGS keeps all at its first parameter
            return
        if len(without) == len(self.slots):
            self.empty(keeps)
            return
        missing = [self.called(slot) for slot in without if not self.is_frozen(slot)]
        if missing and keeps:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            listed = ", ".join(missing[:3])
            self.doubt("missing-state", f"no state for {listed}{more}: frozen, unused, or lost")

    def empty(self, keeps: bool | None) -> None:
        """No state at all."""
        name = (self.optimizer.class_path or "the optimizer").removeprefix("torch.optim.")
        begun = self.begun()
        if keeps and name == "Adagrad":
            self.fault("missing-state", "the state is empty; Adagrad keeps some from its first day")
        elif keeps and begun:
            self.fault(
                "missing-state", f"the state is empty beside {begun}; {name} always keeps some"
            )
        elif keeps:
            self.doubt("missing-state", "the state is empty: training has not begun, or it is lost")
        elif keeps is None:
            self.doubt("missing-state", "the state is empty; nobody knows whether it keeps some")

    def begun(self) -> str | None:
        """What in the file says that steps were made."""
        entry = self.beside.counter
        if entry is not None and isinstance(entry.value, int | float) and entry.value > 0:
            return f"{dotted(entry.path)} {entry.value}"
        for found in self.beside.schedulers:
            if found.last_epoch > 0:
                return f"a scheduler at step {found.last_epoch}"
        return None

    def is_frozen(self, slot: Slot) -> bool:
        """Whether the file says that the parameter is not trained."""
        if slot.own is not None:
            return not slot.own.requires_grad
        found = self.weights.get(self.names[slot.number] or "")
        return found is not None and found.trainable is False

    # --- what each state holds ------------------------------------------------------------

    def keys(self, slot: Slot) -> None:
        """All that the class keeps is there."""
        if not slot.kept:
            return
        group = self.optimizer.groups[slot.group]
        needed = kept_by(self.optimizer.class_path, group) or ()
        lacking = [key for key in needed if key not in slot.kept]
        if self.optimizer.class_path == "torch.optim.Adafactor" and not lacking:
            factored = {ROW, COLUMN} <= set(slot.kept)
            lacking = [] if factored or "variance" in slot.kept else ["variance"]
        if lacking:
            self.fault("missing-state", f"its state lacks {', '.join(lacking)}", self.called(slot))

    def shapes(self, slot: Slot) -> None:
        """Tensors of the parameter's shape and dtype."""
        if not slot.kept:
            return
        weight = self.weight(slot)
        shape = weight.shape if weight is not None else slot.shape
        for key, tensor in slot.tensors.items():
            if key not in SAME_SHAPE:
                continue
            if tensor.shape != shape and shape is not None:
                if not any(fault.kind in ("shape", "order") for fault in self.faults):
                    message = f"{key} has the shape {tensor.shape}, the parameter {shape}"
                    self.fault("shape", message, self.called(slot))
            elif weight is not None and tensor.dtype is not weight.dtype:
                message = f"{key} is {_name(tensor.dtype)}, the parameter {_name(weight.dtype)}"
                if not any(fault.kind == "dtype" for fault in self.faults):
                    self.fault("dtype", message, self.called(slot))

    def weight(self, slot: Slot) -> Tensor | None:
        """The model's tensor of a slot."""
        found = self.weights.get(self.names[slot.number] or "")
        return found.tensor if found is not None else None

    def flat(self) -> None:
        """LBFGS's vectors are as long as all parameters together."""
        if self.optimizer.class_path != "torch.optim.LBFGS" or self.pairing is None:
            return
        if len(self.slots) != len(self.pairing.weights.parameters):
            return
        for key in FLAT:
            tensor = self.slots[0].tensors.get(key) if self.slots else None
            if tensor is not None and tensor.numel != self.pairing.weights.numel:
                message = (
                    f"{key} has {tensor.numel} elements, all parameters together "
                    f"{self.pairing.weights.numel}"
                )
                self.fault("shape", message)

    def steps(self) -> None:
        """Whole numbers; within a module the same, as its parameters are trained together."""
        counted: dict[float, list[Slot]] = {}
        modules: dict[str, set[float]] = {}
        for slot in self.slots:
            if not slot.kept or "step" not in slot.kept:
                continue
            step = self.number(slot.kept["step"])
            if step is None:
                continue
            if step != step or step < 0 or step != int(step):
                self.fault("step", f"step is {step:g}", self.called(slot))
                continue
            counted.setdefault(step, []).append(slot)
            name = self.names[slot.number]
            if name is not None and "." in name:
                modules.setdefault(name.rsplit(".", 1)[0], set()).add(step)
        if len(counted) < 2:
            return
        apart = [name for name, found in modules.items() if len(found) > 1]
        told = " and ".join(f"{step:g} ({len(counted[step])})" for step in sorted(counted)[:4])
        if apart:
            self.fault("step", f"the steps disagree within {apart[0]}: {told}")
        else:
            self.doubt(
                "step", f"the steps disagree: {told}; unfrozen later, without gradients, or mixed"
            )

    def number(self, value: Value) -> float | None:
        """A number, or a tensor of one element."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        tensor = self.document.tensor_of(value) if value is not None else None
        return number_of(tensor) if tensor is not None else None

    def rates(self) -> None:
        """The learning rates are numbers, and the scheduler's."""
        rates = [self.number(group.get("lr")) for group in self.optimizer.groups]
        for at, rate in enumerate(rates):
            if rate is not None and not 0 <= rate < float("inf"):
                self.fault("lr", f"the learning rate of group {at} is {rate:g}")
        if not self.beside.schedulers and any("initial_lr" in g for g in self.optimizer.groups):
            self.doubt(
                "lr", "the learning rate was scheduled, but no scheduler's state is in the file"
            )
        known = [found for found in self.beside.schedulers if found.last_lr is not None]
        same = [found for found in known if len(found.last_lr or ()) == len(rates)]
        if not same or None in rates:
            return
        if any(_close(rates, found.last_lr or []) for found in same):
            return
        mine, other = _joined(rates), _joined(same[0].last_lr or [])
        message = (
            f"the learning rate is {mine}, that of the scheduler {dotted(same[0].path)} {other}"
        )
        alone = self.beside.optimizers == 1 and len(known) == 1
        (self.fault if alone else self.doubt)("lr", message)

    def numbers(self) -> None:
        """Neither NaN nor inf in what the optimizer keeps."""
        for slot in self.slots:
            for key, value in (slot.kept or {}).items():
                parts = as_sequence(value) if not isinstance(value, int | float | str) else None
                for part in parts if parts is not None else (value,):
                    found = self.odd(part)
                    if found:
                        self.fault("nan", f"{key} holds {found}", self.called(slot))
                        break

    def odd(self, value: Value) -> str | None:
        """`NaN` or `inf`, if a number or tensor holds that."""
        if isinstance(value, float):
            return None if abs(value) < float("inf") else "NaN" if value != value else "inf"
        if value is None or isinstance(value, int | str):
            return None
        tensor = self.document.tensor_of(value)
        return not_finite(tensor) if tensor is not None else None


def _name(dtype: object) -> str:
    return str(getattr(dtype, "name", "of no known type"))


def _close(mine: list[float | None], other: list[float]) -> bool:
    pairs = zip(mine, other, strict=True)
    return all(a is not None and abs(a - b) <= 1e-6 * max(abs(a), abs(b)) for a, b in pairs)


def _joined(rates: list[float | None] | list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates if rate is not None)


__all__ = ["Fault", "OptimizerFit", "check_optimizers", "fit_line"]
