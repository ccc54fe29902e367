"""Statistics of a tensor's numbers, in one pass and in bounded memory."""

from __future__ import annotations

from math import inf, isfinite, sqrt
from typing import TYPE_CHECKING

from ptinspect.document.tensor import Tensor
from ptinspect.document.to_array import number_blocks, quiet
from ptinspect.dtypes import DTYPES
from ptinspect.errors import UnsupportedError

if TYPE_CHECKING:
    from typing import Any

    from ptinspect.display.options import Look


class Stats:
    """Of the finite numbers: min, max, mean and std (with n - 1, as `torch.std` has it; None
    where there is no number, or for std one only). Of all: how many are zero, NaN and infinite.

    Complex numbers have no order: min, max, mean and std are None.
    """

    __slots__ = ("_squares", "count", "inf", "max", "mean", "min", "nan", "zeros")

    def __init__(self) -> None:
        self.count = 0  # of finite numbers
        self.min: float | int | None = None
        self.max: float | int | None = None
        self.mean: float | None = None
        self.zeros = self.nan = self.inf = 0
        self._squares = 0.0  # sum of the squared distances from the mean

    @property
    def std(self) -> float | None:
        """See the class."""
        if self.mean is None or self.count < 2:
            return None
        return sqrt(self._squares / (self.count - 1))

    def add(self, block: Any) -> None:
        """A numpy array of numbers more."""
        if block.dtype.kind == "b":
            block = block.view("u1")
        double = None
        if block.dtype.kind == "f":
            double = block.astype("f8")
            if not isfinite(double.sum()):  # one NaN or infinity is in the sum as well
                block = self._finite(block)
                double = block.astype("f8")
        elif block.dtype.kind == "c":
            block = self._finite(block)
        self.zeros += trues(block == 0)
        if not block.size:
            return
        if block.dtype.kind == "c":
            self.count += block.size
            return
        low, high = block.min().item(), block.max().item()
        self.min = low if self.min is None else min(self.min, low)
        self.max = high if self.max is None else max(self.max, high)
        self._moments(block.astype("f8") if double is None else double)

    def _finite(self, block: Any) -> Any:
        """The block without what is NaN or infinite, which is counted."""
        absent = block != block
        infinite = abs(block) == inf
        self.nan += trues(absent)
        self.inf += trues(infinite & ~absent)
        return block[~(absent | infinite)]

    def _moments(self, block: Any) -> None:
        """Joins mean and squares of two samples. Overwrites the block.

        Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing
        sample variances, 1979.
        """
        size = int(block.size)
        mean = float(block.mean())
        block -= mean
        squares = float(block.dot(block))
        total = self.count + size
        distance = mean - (self.mean or 0.0)
        if self.count:
            squares += self._squares + distance * distance * self.count * size / total
            mean = (self.mean or 0.0) + distance * size / total
        self.count, self.mean, self._squares = total, mean, squares

    def times(self, factor: int) -> None:
        """As if each number stood there so often."""
        self.count *= factor
        self._squares *= factor
        self.zeros *= factor
        self.nan *= factor
        self.inf *= factor

    def scale(self, scale: float) -> None:
        """As if each number were `number * scale`."""
        if self.min is None or self.max is None or self.mean is None:
            return
        self.min, self.max = sorted((self.min * scale, self.max * scale))
        self.mean *= scale
        self._squares *= scale * scale


def trues(mask: Any) -> int:
    """How many of a numpy array of bools are true, several times faster than its `sum`."""
    count: int = mask.tobytes().count(1)
    return count


def stats_of(tensor: Tensor, look: Look) -> Stats:
    """Raises UnsupportedError for what has no bytes or whose numbers are not told here (sparse,
    quantized per channel), DamagedError where bytes are missing."""
    with quiet():
        return _measured(tensor, look)


def _measured(tensor: Tensor, look: Look) -> Stats:
    made = Stats()
    once, factor = _without_repetition(tensor)
    if tensor.quantizer:
        scale, zero = tensor.quantizer.get("scale"), tensor.quantizer.get("zero_point")
        if not isinstance(scale, float) or not isinstance(zero, int):
            raise UnsupportedError(f"no statistics of {tensor.quantizer.get('qscheme')}")
        for block in number_blocks(_as_integers(once)):
            made.add(block.astype("i8") - zero)
            look.passed(block.nbytes)
        made.scale(scale)
        made.times(factor)
        return made
    if tensor.parts:
        raise UnsupportedError(f"no statistics of the layout {tensor.layout}")
    for block in number_blocks(once):
        made.add(block)
        look.passed(block.nbytes)
    made.times(factor)
    return made


def _without_repetition(tensor: Tensor) -> tuple[Tensor, int]:
    """A view that was expanded, as each element once, and how often each stands there."""
    if tensor.stride is None or 0 not in tensor.stride:
        return tensor, 1
    factor, shape = 1, []
    for size, step in zip(tensor.shape, tensor.stride, strict=True):
        repeated = step == 0 and size > 1
        factor *= size if repeated else 1
        shape.append(1 if repeated else size)
    return _like(tensor, tuple(shape)), factor


_INTEGERS = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}


def _as_integers(tensor: Tensor) -> Tensor:
    """A quantized tensor as the integers that are stored."""
    name = _INTEGERS.get(tensor.dtype.name if tensor.dtype else "")
    if name is None:
        raise UnsupportedError("no statistics of numbers that share a byte")
    made = _like(tensor, tensor.shape)
    made.dtype = made.stored = DTYPES[name]
    return made


def _like(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same bytes seen with another shape."""
    made = Tensor(
        tensor.dtype, shape, tensor.stride, tensor.storage_offset, tensor.storage, tensor.device,
        tensor.requires_grad, tensor.at, tensor.layout,
    )  # fmt: skip
    made.stored = tensor.stored
    made.conj, made.neg = tensor.conj, tensor.neg
    return made
