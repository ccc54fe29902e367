"""Bounds that hostile files met, and what the walk says of a tensor that is none."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import ptinspect
from ptinspect.cli import cli
from ptinspect.errors import LimitError
from tests.document.making import of_bytes

STORAGE = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"


def tensor(size: bytes, stride: bytes) -> bytes:
    """A pickle that calls `_rebuild_tensor_v2` with these opcodes as size and stride."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"I0\n" + size + stride
    return b"\x80\x02" + call + b"\x89ccollections\nOrderedDict\n)RtR."


def saved(path: Path, pickle: bytes, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("a/data.pkl", pickle)
        archive.writestr("a/data/0", bytes(16), zipfile.ZIP_STORED)
        archive.writestr("a/version", "3\n", zipfile.ZIP_STORED)
    return path


def test_a_pickle_that_is_packed_too_densely_is_refused_unread(tmp_path: Path) -> None:
    file = saved(tmp_path / "bomb.pt", b"N0" * (10 << 20) + b"N.", zipfile.ZIP_DEFLATED)
    with pytest.raises(LimitError) as met:
        ptinspect.open(file)
    assert met.value.limit == "pickle_ratio"
    assert file.stat().st_size < 100_000


@pytest.mark.parametrize(
    ("size", "stride"),
    [(b"]", b"K\x01\x85"), (b"K\x02K\x02\x86", b"K\x01\x85"), (b"K\x04\x85", b"N")],
    ids=["a list", "fewer strides", "none"],
)
def test_a_tensor_that_torch_does_not_write_is_said(
    tmp_path: Path, size: bytes, stride: bytes
) -> None:
    file = saved(tmp_path / "odd.pt", tensor(size, stride))
    with ptinspect.open(file) as document:
        assert not document.tensors or size == b"]"
        kinds = [warned.kind for warned in document.warnings]
    assert kinds == ([] if document.tensors else ["unreadable-tensor"])


def test_more_dimensions_than_allowed_meet_the_limit(tmp_path: Path) -> None:
    many = b"(" + b"K\x01" * 600 + b"t"
    file = saved(tmp_path / "dims.pt", tensor(many, many))
    with ptinspect.open(file) as document, pytest.raises(LimitError) as met:
        _ = document.tensors
    assert met.value.limit == "dims"


def test_long_paths_to_shared_objects_stay_small_when_printed(tmp_path: Path) -> None:
    """Two hundred calls, each with the one before it as both arguments."""
    level = b"cfoo\nbar\nq\x00K\x01"
    for index in range(1, 200):
        put = b"r" + index.to_bytes(4, "little")
        get = b"j" + index.to_bytes(4, "little")
        level += put + b"h\x00" + get + get + b"\x86R"
    file = tmp_path / "shared.pkl"
    file.write_bytes(b"\x80\x02" + level + b".")
    for view in ("summary", "json", "tree", "markdown"):
        shown = CliRunner().invoke(cli, ["show", "-f", view, str(file)])
        assert shown.exit_code == 0
        assert len(shown.stdout) < 1_000_000


def test_the_walk_warns_of_no_honest_call() -> None:
    assert of_bytes(b"\x80\x02ccollections\nOrderedDict\n)R.").warnings == []


def within(stream: bytes) -> bytes:
    """The opcodes of `torch.storage._load_from_bytes(stream)`."""
    size = len(stream).to_bytes(4, "little")
    return b"ctorch.storage\n_load_from_bytes\nB" + size + stream + b"\x85R"


def legacy(opcodes: bytes) -> bytes:
    """A legacy stream of that one object, without storages."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    start = b"".join(pickle.dumps(value, 2) for value in head)
    return start + b"\x80\x03" + opcodes + b"." + pickle.dumps([], 2)


def test_streams_inside_streams_end_at_the_limit() -> None:
    """Each storage of a plain pickle is a legacy stream; here each holds the next."""
    inner = b"N"
    for _ in range(6):
        inner = within(legacy(inner))
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + inner + b"K\x00K\x01\x85K\x01\x85\x89}tR."
    with of_bytes(b"\x80\x03" + call) as document, pytest.raises(LimitError) as met:
        _ = document.tensors
    assert met.value.limit == "nested_archives"
