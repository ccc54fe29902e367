"""All harmful files, and where they are written."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

from tests.safety.corpus import containers, names, techniques
from tests.safety.corpus.sample import Sample

RANK = {"clean": 0, "pointer": 0, "unreadable": 1, "unknown": 2, "dangerous": 3}
"""Which verdict is milder."""


@cache
def samples() -> tuple[Sample, ...]:
    """Every file, each name once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a name that is there twice
        made = (*names.samples(), *techniques.samples(), *containers.samples())
    assert len({sample.name for sample in made}) == len(made)
    return made


def write(folder: Path) -> list[Path]:
    """Writes them into a folder, in the order of `samples`. `.metadata` gets a folder of its
    own, as torch.distributed.checkpoint has it."""
    paths = []
    for sample in samples():
        path = folder / sample.name
        path.write_bytes(sample.data)
        paths.append(path)
    return paths
