"""The same real files, held against torch's own reading of them in every field."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ptinspect.document import open as open_document  # noqa: E402
from tests.corpus import torch_side  # noqa: E402
from tests.corpus.compare import differences  # noqa: E402
from tests.corpus.packages import file_of  # noqa: E402
from tests.corpus.test_corpus import READ_BY_TORCH, TORCHSCRIPT, name_of  # noqa: E402

pytestmark = pytest.mark.corpus


@pytest.mark.parametrize("model", READ_BY_TORCH, ids=name_of)
def test_a_real_file_is_what_torch_reads(model: dict[str, Any]) -> None:
    file = file_of(model)
    with open_document(file) as document:
        found = differences(torch_side.truth_of(file), document)
    assert not found, "\n".join([f"{len(found)} differences:", *found])


@pytest.mark.parametrize("model", TORCHSCRIPT, ids=name_of)
def test_a_torchscript_archive_is_what_torch_reads(model: dict[str, Any]) -> None:
    file = file_of(model)
    want = torch.jit.load(file, map_location="cpu").state_dict()
    with open_document(file) as document:
        document.check()
        got = {key: info for key, info in document.tensors.items() if info.role != "constant"}
        assert document.archive.format == "torchscript"
        assert {key: info.shape for key, info in got.items() if key in want} == {
            key: tuple(value.shape) for key, value in want.items()
        }
        for key, value in want.items():
            assert got[key].read() == torch_side.raw(value), key


@pytest.mark.parametrize("model", READ_BY_TORCH, ids=name_of)
def test_its_tensors_are_torchs_bit_for_bit(model: dict[str, Any]) -> None:
    """Without the recorder between: order, dtype, shape, stride, offset and bytes."""
    file = file_of(model)
    if model["kind"] == "module":
        pytest.skip("a module holds its tensors as attributes: compared above")
    theirs = torch_side.tensors_in(torch_side.load(file)[0])
    with open_document(file) as document:
        ours = list(document.tensors.values())
        assert [info.path for info in ours] == [path for path, _ in theirs]
        for info, (_, want) in zip(ours, theirs, strict=True):
            assert (str(info.dtype), info.shape) == (str(want.dtype), tuple(want.shape))
            assert (info.stride, info.tensor.storage_offset) == (
                want.stride(),
                want.storage_offset(),
            )
            assert info.read() == torch_side.raw(want)
