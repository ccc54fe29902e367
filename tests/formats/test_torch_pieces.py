"""Tensors in pieces: what is put together is the whole tensor, from any byte to any other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from random import Random

import pytest

from ptinspect.dtypes import DTYPES
from ptinspect.errors import DamagedError
from ptinspect.formats.archive import PicklelessArchive, Span
from ptinspect.formats.torch import pieces as module
from ptinspect.formats.torch.pieces import Elements, Piece, PiecedSpan
from ptinspect.limits import LIMITS
from ptinspect.source.local import open_source

np = pytest.importorskip("numpy")
CUTS = {
    (7, 10): ((0, 3, 7), (0, 2, 9, 10)),
    (5, 4, 6): ((0, 5), (0, 1, 4), (0, 6)),
    (4, 3, 8): ((0, 1, 4), (0, 2, 3), (0, 5, 8)),
}


@pytest.fixture(params=[True, False], ids=["preadv", "read"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 100)
    monkeypatch.setattr(module, "IOV_MAX", 3)
    if not request.param:
        monkeypatch.delattr(os, "preadv", raising=False)


@pytest.fixture(params=CUTS, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return tuple(request.param)


@pytest.fixture
def archive(shape: tuple[int, ...], tmp_path: Path) -> Iterator[PicklelessArchive]:
    whole = np.random.default_rng(1).integers(0, 1 << 30, shape, "<i4")
    data = [whole[box].tobytes() for box in boxes(shape)]
    (tmp_path / "file").write_bytes(b"head" + b"".join(data))
    (tmp_path / "whole").write_bytes(whole.tobytes())
    with open_source(tmp_path / "file") as source:
        yield PicklelessArchive(source, LIMITS)


def boxes(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    return list(product(*([slice(*pair) for pair in pairwise(c)] for c in CUTS[shape])))


def pieced(archive: PicklelessArchive, shape: tuple[int, ...], copies: int = 1) -> PiecedSpan:
    pieces, begin, dtype = [], 4, DTYPES["int32"]
    for box in boxes(shape):
        sizes = tuple(part.stop - part.start for part in box)
        span = Span(None, archive.source.size - begin, begin, 0)
        elements = Elements(archive, span, dtype, sizes, 0)
        begin += elements.nbytes
        pieces.append(
            Piece(tuple(part.start for part in box), sizes, "file", lambda e=elements: [e] * copies)
        )
    return PiecedSpan(dtype, shape, pieces)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("copies", [1, 2])
def test_any_range_of_the_whole(
    archive: PicklelessArchive, shape: tuple[int, ...], copies: int, tmp_path: Path
) -> None:
    whole = (tmp_path / "whole").read_bytes()
    span = pieced(archive, shape, copies)
    random = Random(0)
    ranges = [sorted(random.choices(range(len(whole) + 1), k=2)) for _ in range(30)]
    for start, stop in [(0, len(whole)), *ranges]:
        if start < stop:
            assert b"".join(archive.chunks(span, start, stop)) == whole[start:stop]


@pytest.mark.usefixtures("small_blocks")
def test_a_file_that_became_shorter(
    archive: PicklelessArchive, shape: tuple[int, ...], tmp_path: Path
) -> None:
    span = pieced(archive, shape)
    os.truncate(tmp_path / "file", archive.source.size - 1)
    with pytest.raises(DamagedError, match="became shorter"):
        b"".join(archive.chunks(span))
