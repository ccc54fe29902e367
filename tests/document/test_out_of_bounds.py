"""What torch refuses is not shown as fine: a tensor that shows more than its storage has."""

from __future__ import annotations

from pathlib import Path

import pytest

import ptinspect

FIXTURE = Path(__file__).parents[2] / "fixtures" / "seed" / "model.pth"


@pytest.mark.parametrize("size", [1, 100])
def test_a_tensor_beyond_its_storage_is_warned_of(tmp_path: Path, size: int) -> None:
    """The shape (1, 2) of the weight, made (100, 2) in place."""
    data = FIXTURE.read_bytes()
    shape = b"K\x01K\x02\x86"
    assert data.count(shape) >= 1
    path = tmp_path / "model.pth"
    path.write_bytes(data.replace(shape, b"K" + bytes([size]) + b"K\x02\x86", 1))
    with ptinspect.open(path) as document:
        kinds = [warned.kind for warned in document.warnings]
    assert ("beyond-storage" in kinds) is (size > 1)
