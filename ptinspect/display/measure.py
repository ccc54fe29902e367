"""Statistics and SHA-256 of tensors, and the SHA-256 of a file."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import dataclass
from math import inf, isfinite, prod, sqrt
from typing import TYPE_CHECKING

from ptinspect.document.elements import iter_contiguous
from ptinspect.document.tensor import Tensor
from ptinspect.document.to_array import count_nonzero, dot, ignore_numpy_warnings, iter_numbers
from ptinspect.dtypes import DTYPES
from ptinspect.errors import UnsupportedError
from ptinspect.text import cut

if TYPE_CHECKING:
    from typing import Any

    from ptinspect.display import Advance, ShowOptions
    from ptinspect.document import Document, TensorInfo

CHUNK_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class FileHash:
    """The SHA-256 of a file, and the digits that a name such as `resnet50-0676ba61.pth`
    promises."""

    sha256: str
    expected: str | None

    @property
    def mismatch(self) -> bool:
        return self.expected is not None and not self.sha256.startswith(self.expected)

    @property
    def text(self) -> str:
        if self.expected is None:
            return self.sha256
        if self.mismatch:
            return f"{self.sha256}, MISMATCH: the name says {self.expected}"
        return f"{self.sha256}, as the name says ({self.expected})"


def hash_in_name(path: str) -> str | None:
    """Return the digits in `name-<8 or more hex digits>.pth`, unless they look like a date or
    the number of a step, such as `step-000029999` or `checkpoint-10000000`.

    Source: `torch.hub.HASH_REGEX`, and `load_state_dict_from_url`, which asks for eight digits
    or more.
    """
    match = re.search(r"-([0-9a-f]{8,64})\.[A-Za-z0-9.]+$", path)
    date = r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
    if not match or re.fullmatch(rf"{date}|\d{{9,}}|00\d*[1-9]\d*|\d*[1-9]\d*000", match[1]):
        return None
    return match[1]


def hash_file(document: Document, options: ShowOptions) -> FileHash:
    from hashlib import sha256

    digest = sha256()
    source = document.archive.source
    with options.progress(source.size, "SHA-256 of the file") as advance:
        for offset in range(0, source.size, CHUNK_SIZE):
            size = min(CHUNK_SIZE, source.size - offset)
            digest.update(source.read(offset, size))
            advance(size)
    return FileHash(digest.hexdigest(), hash_in_name(document.path))


@dataclass(slots=True)
class TensorMeasurement:
    """The statistics and the SHA-256 of one tensor, or the `problem` why one is missing,
    escaped."""

    stats: Stats | None = None
    sha256: str | None = None
    problem: str = ""


def measure_tensors(
    infos: list[TensorInfo], options: ShowOptions
) -> dict[TensorInfo, TensorMeasurement]:
    """Read the tensors and return what --stats and --hash ask for: the SHA-256 is that of the bytes
    in C order, little-endian. Tensors that are the same view of the same bytes are read once."""
    from hashlib import sha256

    unique: dict[object, tuple[TensorMeasurement, Tensor]] = {}
    measurements = {}
    for info in infos:
        tensor = info.tensor
        view = (tensor.view_key, tensor.stored)
        measurements[info] = unique.setdefault(view, (TensorMeasurement(), tensor))[0]
    passes = options.stats + options.hash
    total = passes * sum(tensor.nbytes for _, tensor in unique.values())
    with options.progress(total, "reading tensors") as advance:
        for measurement, tensor in unique.values():
            try:
                if options.hash:
                    digest = sha256()
                    for block in iter_contiguous(tensor):
                        digest.update(block)
                        advance(len(block))
                    measurement.sha256 = digest.hexdigest()
                if options.stats:
                    measurement.stats = stats_of(tensor, advance)
            except UnsupportedError as error:
                measurement.problem = cut(error.message)
    return measurements


@dataclass(slots=True, eq=False)
class Stats:
    """Statistics of numbers that arrive in blocks.

    Attributes:
        count: number of finite numbers.
        min, max, mean: of the finite numbers; None if there are none or they are complex, which
            have no order.
        zeros, nan, inf: how many numbers are zero, NaN and infinite.
    """

    count: int = 0
    min: float | int | None = None
    max: float | int | None = None
    mean: float | None = None
    zeros: int = 0
    nan: int = 0
    inf: int = 0
    _squares: float = 0.0  # sum of the squared distances from the mean

    @property
    def std(self) -> float | None:
        """The standard deviation with n - 1, as in `torch.std`; None for fewer than two numbers."""
        if self.mean is None or self.count < 2:
            return None
        return sqrt(self._squares / (self.count - 1))

    def add(self, block: Any) -> None:
        kind = block.dtype.kind
        if kind == "b":
            block = block.view("u1")
        double = block if kind == "c" else block.astype("f8")
        # One NaN or infinity makes the sum one too.
        if kind == "c" or (kind == "f" and not isfinite(double.sum())):
            is_nan = block != block
            is_inf = abs(block) == inf
            self.nan += count_nonzero(is_nan)
            self.inf += count_nonzero(is_inf & ~is_nan)
            block = block[~(is_nan | is_inf)]
            double = block if kind == "c" else block.astype("f8")
        self.zeros += block.size - count_nonzero(block)
        if kind == "c":
            self.count += block.size
        elif block.size:
            low, high = block.min().item(), block.max().item()
            self.min = min(self.min, low) if self.min is not None else low
            self.max = max(self.max, high) if self.max is not None else high
            # The mean and the squared distances of two samples are merged. Source: Chan, Golub and
            # LeVeque, Updating formulae and a pairwise algorithm for computing sample variances.
            size, mean = int(double.size), float(double.mean())
            double -= mean
            squares, total = dot(double, double), self.count + size
            distance = mean - (self.mean or 0.0)
            if self.count:
                squares += self._squares + distance * distance * self.count * size / total
                mean = (self.mean or 0.0) + distance * size / total
            self.count, self.mean, self._squares = total, mean, squares

    def repeat(self, factor: int) -> None:
        for name in ("count", "_squares", "zeros", "nan", "inf"):
            setattr(self, name, getattr(self, name) * factor)

    def scale(self, scale: float) -> None:
        if self.min is None or self.max is None or self.mean is None:
            return
        self.min, self.max = sorted((self.min * scale, self.max * scale))
        self.mean *= scale
        self._squares *= scale * scale


def stats_of(tensor: Tensor, advance: Advance) -> Stats:
    """Return the statistics of a tensor's numbers. UnsupportedError if it has no bytes, or is
    sparse or quantized per channel."""
    stats = Stats()
    # Each element of an expanded tensor is read once, and counted as often as it occurs.
    pairs = list(zip(tensor.shape, tensor.stride or (), strict=False))
    view = copy(tensor)
    view.shape = tuple(1 if step == 0 and size > 1 else size for size, step in pairs)
    with ignore_numpy_warnings():
        if tensor.quantizer:
            scale, zero_point = tensor.quantizer.get("scale"), tensor.quantizer.get("zero_point")
            if not isinstance(scale, float) or not isinstance(zero_point, int):
                raise UnsupportedError(f"no statistics of {tensor.quantizer.get('qscheme')}")
            for block in iter_numbers(_stored_integers(view)):
                stats.add(block.astype("i8") - zero_point)
                advance(block.nbytes)
            stats.scale(scale)
        elif tensor.parts:
            raise UnsupportedError(f"no statistics of the layout {tensor.layout}")
        else:
            for block in iter_numbers(view):
                stats.add(block)
                advance(block.nbytes)
    stats.repeat(prod(size for size, step in pairs if step == 0 and size > 1))
    return stats


def _stored_integers(tensor: Tensor) -> Tensor:
    integer_types = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
    name = integer_types.get(tensor.dtype.name if tensor.dtype else "")
    if name is None:
        raise UnsupportedError("no statistics of numbers that share a byte")
    integers = copy(tensor)
    integers.dtype = integers.stored = DTYPES[name]
    return integers
