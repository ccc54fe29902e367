"""What was written is read again: a byte that changed on its way to the disk is noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.conversion import convert, convert_file, safetensors, verify
from ptinspect.conversion.output import sink
from ptinspect.conversion.output.object_graph import ObjectGraph
from ptinspect.conversion.plan import Plan
from ptinspect.errors import PtInspectError
from tests.conftest import FIXTURES
from tests.formats.shards import model

SAMPLES = 14
"""Places in a file at which a byte is changed."""


def flipped(monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> list[int]:
    """Changes a byte of a written file (by its number) before it is checked; the sizes of all."""
    real = verify.verify_outputs
    sizes: list[int] = []

    def check(plan: Plan, paths: list[str], limits: Any, *, compare_bytes: bool) -> list[str]:
        sizes[:] = [os.path.getsize(path) for path in paths]
        with open(paths[number], "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
        return real(plan, paths, limits, compare_bytes=compare_bytes)

    monkeypatch.setattr(convert_file, "verify_outputs", check)
    return sizes


def tries(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[tuple[int, int]]:
    """The places (file, offset) at which a changed byte was not noticed."""
    convert(source, target, **options)
    report = convert(source, target, force=True, **options)
    sizes = [os.path.getsize(path) for path in report.files]
    before = [Path(path).read_bytes() for path in report.files]
    missed = []
    for number, size in enumerate(sizes):
        for at in sorted({*range(0, size, max(size // SAMPLES, 1)), size - 1}):
            with monkeypatch.context() as patch:
                flipped(patch, number, at)
                try:
                    convert(source, target, force=True, verify=True, **options)
                except PtInspectError:
                    continue
            missed.append((number, at))
    assert [Path(path).read_bytes() for path in report.files] == before  # nothing took its name
    assert sorted(os.listdir(target.parent)) == sorted(map(os.path.basename, report.files))
    return missed


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seed/model.pth", {"to": "state_dict"}),
        ("seed/model.pth", {"to": "safetensors"}),
        ("seed/model.pth", {"to": "same"}),
        ("seed/checkpoint-6.pt", {"to": "checkpoint"}),
        ("seed/checkpoint-6.pt", {"to": "same"}),
        ("seed/checkpoint-6.pt", {"to": "checkpoint", "plain": True, "dtype": "float16"}),
        ("tensors/sparse-coo.pt", {"to": "same"}),
        ("tensors/quantized-channels.pt", {"to": "same"}),
        ("tensors/storages-zip.pt", {"to": "same"}),
    ],
)
def test_every_changed_byte_is_noticed(
    name: str, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tries(FIXTURES / name, tmp_path / "out.pt", monkeypatch, **options) == []


def test_in_every_shard_and_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source = model(tmp_path / "a", {"a": b"aaaa", "b": b"bbb"}, {"c": b"ccccc"})
    target = tmp_path / "b" / "o.safetensors"
    assert tries(source, target, monkeypatch, max_shard_size=5) == []


def test_bytes_behind_the_end_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verify.verify_outputs

    def check(plan: Plan, paths: list[str], limits: Any, *, compare_bytes: bool) -> list[str]:
        with open(paths[0], "ab") as file:
            file.write(b"\0")
        return real(plan, paths, limits, compare_bytes=compare_bytes)

    monkeypatch.setattr(convert_file, "verify_outputs", check)
    for to in ("state_dict", "safetensors"):
        with pytest.raises(PtInspectError):
            convert(FIXTURES / "seed" / "model.pth", tmp_path / "o", to=to, verify=True)
    assert os.listdir(tmp_path) == []


def test_a_wrong_checksum_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is written a second time."""
    write = sink.Sink.write_pieces
    monkeypatch.setattr(sink.Sink, "write_pieces", lambda *a, **k: write(*a, **k) ^ 1)
    for to in ("state_dict", "same"):
        with pytest.raises(PtInspectError, match="do not match their CRC-32"):
            convert(FIXTURES / "seed" / "model.pth", tmp_path / "o.pt", to=to, verify=True)
    assert os.listdir(tmp_path) == []


# --- without --verify -----------------------------------------------------------------------


def test_pickle_header_and_index_are_read_again_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "o.pt"
    convert(FIXTURES / "seed" / "model.pth", target)
    at = target.read_bytes().index(b"layer.weight")
    with monkeypatch.context() as patch:
        flipped(patch, 0, at)
        with pytest.raises(PtInspectError, match="not what was planned"):
            convert(FIXTURES / "seed" / "model.pth", target, force=True)


@pytest.mark.parametrize("field", ["shape", "stride", "dtype", "missing"])
def test_a_checkpoints_tensors_are_held_against_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """A checkpoint from a checkpoint: also those of the optimizer."""
    real = verify.verify_outputs

    def check(plan: Plan, paths: list[str], limits: Any, *, compare_bytes: bool) -> list[str]:
        names = [move.key for move in plan.tensors]
        assert any("optimizer" in name for name in names)
        assert any("model" in name for name in names)
        at = next(i for i, move in enumerate(plan.tensors) if "optimizer" in move.key)
        move = plan.tensors[at]
        if field == "dtype":
            from ptinspect.dtypes import DTYPES

            plan.tensors[at] = move._replace(dtype=DTYPES["int8"])
        elif field == "missing":
            plan.tensors.append(move._replace(key="nowhere"))
        else:
            from copy import copy

            other = copy(move.tensor)
            setattr(other, field, (*(getattr(other, field) or ()), 7))
            if field == "stride":
                plan.tensors[at] = move._replace(tensor=other)
                monkeypatch.setattr(type(other), "is_contiguous", False)
            plan.tensors[at] = move._replace(tensor=other)
        return real(plan, paths, limits, compare_bytes=compare_bytes)

    monkeypatch.setattr(convert_file, "verify_outputs", check)
    with pytest.raises(PtInspectError, match="not what was planned"):
        convert(FIXTURES / "checkpoints" / "resumable.pt", tmp_path / "o.pt", to="checkpoint")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [None, "cuda:7", "cp"])
@pytest.mark.parametrize("to", ["state_dict", "checkpoint", "same"])
@pytest.mark.parametrize("is_verified", [False, True])
def test_device_and_requires_grad_are_those_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, to: str, is_verified: bool
) -> None:
    real = ObjectGraph._tensor_call

    def changed(self: ObjectGraph, *args: Any) -> Any:
        call = real(self, *args)
        if value:
            call.location = value
        else:
            call.form = call.form._replace(requires_grad=not call.form.requires_grad)
        call._args = None
        return call

    monkeypatch.setattr(ObjectGraph, "_tensor_call", changed)
    name = "device cuda:7" if value == "cuda:7" else "device cp" if value else "requires_grad="
    source = FIXTURES / "seed" / "checkpoint-6.pt"
    with pytest.raises(PtInspectError, match=f"not what was planned: .* has (the )?{name}"):
        convert(source, tmp_path / "o.pt", to=to, verify=is_verified)
    assert os.listdir(tmp_path) == []


def test_verify_says_so(tmp_path: Path) -> None:
    report = convert(
        FIXTURES / "seed" / "checkpoint-6.pt", tmp_path / "o.pt", to="checkpoint", verify=True
    )
    assert report.verified and "every byte compared" in report.text()
    assert ptinspect.scan(tmp_path / "o.pt").verdict == "clean"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"[2,3]", b"[3,2]"),
        (b"F32", b"I32"),
        (b"[0,24]", b"[0,20]"),
        (b'"w":', b'"v":'),
        (b'"w":', b'"w";'),
        (b'"w":', b'"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"w":'),
    ],
)
def test_a_header_that_is_not_as_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: bytes, wrong: bytes
) -> None:
    """Without --verify, too: the header is not only what was written, but what was meant."""
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "a.pt")
    real = safetensors.header
    monkeypatch.setattr(safetensors, "header", lambda *args: real(*args).replace(right, wrong))
    with pytest.raises(PtInspectError, match="is not what was planned"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
