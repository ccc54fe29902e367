"""Tensors as a file records them."""

from __future__ import annotations

from dataclasses import fields

from ptinspect.document.tensor import Storage, Tensor, strided_tensor
from ptinspect.dtypes import DTYPES
from ptinspect.formats.archive import EMPTY_PICKLE, Archive
from ptinspect.pickling.machine import run
from ptinspect.pickling.values import Global, TensorCall, TensorForm, TensorRun
from ptinspect.source.base import MemorySource


def test_the_fast_way_to_a_tensor_sets_the_fields_as_the_constructor_does() -> None:
    names = Global("torch._utils", "_rebuild_tensor_v2", 0), Global("torch", "FloatStorage", 0)
    call = TensorCall.__new__(TensorCall)
    words = TensorRun(names[0], "storage", (), names[0])
    call.form = TensorForm(words, names[1], 9, 1, (2, 3), (4, 1), True)
    call.location, call.offset = "cuda:0", 77
    archive = Archive(MemorySource(b"", "x"), run(EMPTY_PICKLE))
    storage, dtype = Storage(archive, "0", "cuda:0", 36), DTYPES["float32"]
    fast = strided_tensor(call, dtype, storage)
    slow = Tensor(dtype, (2, 3), (4, 1), 1, storage, "cuda:0", True, 77)
    for field in fields(Tensor):
        assert getattr(fast, field.name) is getattr(slow, field.name) or field.name in (
            "shape", "stride",
        ), field.name  # fmt: skip
    assert (fast.shape, fast.stride) == (slow.shape, slow.stride)
