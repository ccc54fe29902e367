"""safe_open against safetensors' own, and against `open` for every fixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.errors import PtInspectError
from tests.corpus.files import FIXTURES

torch = pytest.importorskip("torch")
library = pytest.importorskip("safetensors")
np = pytest.importorskip("numpy")

INDICES: list[Any] = [
    0, -1, slice(1, 3), slice(None, None, 2), slice(5, 2), ..., (0, ...), (..., -1),
    (slice(None), 2), (slice(1, None), slice(None, -1), 3), (-1, 0, 1), (), (0, ..., slice(2)),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same tensors in three formats."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("files")
    base = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    tensors = {"b": base, "a": base.permute(2, 0, 1).half(), "c": torch.arange(60).reshape(3, 4, 5)}
    paths = [folder / name for name in ("m.safetensors", "m.pt", "m.npz")]
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(contiguous, paths[0], metadata={"format": "pt"})
    torch.save(tensors, paths[1])
    np.savez(paths[2], **{key: tensor.numpy() for key, tensor in contiguous.items()})
    return paths


@pytest.mark.parametrize("framework", ["pt", "np"])
@pytest.mark.parametrize("number", range(3))
def test_it_answers_as_safetensors_does(files: list[Path], number: int, framework: str) -> None:
    with (
        library.safe_open(files[0], framework) as want,
        ptinspect.safe_open(files[number], framework) as got,
    ):
        assert got.keys() == list(want.keys()) == sorted(got.offset_keys())
        assert got.metadata() == (want.metadata() if number == 0 else None)
        assert list(got.get_tensors()) == got.offset_keys()
        for key in want.keys():  # noqa: SIM118 - it is no dict
            whole, expected = got.get_tensor(key), want.get_tensor(key)
            assert type(whole) is type(expected)
            assert (whole.dtype, whole.shape) == (expected.dtype, expected.shape)
            assert (whole == expected).all()
            part = got.get_slice(key)
            assert part.get_shape() == want.get_slice(key).get_shape()
            assert part.get_dtype() == want.get_slice(key).get_dtype()
            for index in INDICES:
                found = part[index]
                assert found.shape == expected[index].shape, index
                assert (found == expected[index]).all(), index
        if framework == "np":
            assert (got.get_slice("b")[::-1] == want.get_tensor("b")[::-1]).all()
            assert (got.get_slice("b")[[2, 0]] == want.get_tensor("b")[[2, 0]]).all()


def test_only_the_part_is_read(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from ptinspect.document.tensor import Storage

    read: list[int] = []
    original = Storage.read
    monkeypatch.setattr(
        Storage, "read", lambda self, a, b: read.append(b - a) or original(self, a, b)
    )
    with ptinspect.safe_open(files[1], "np") as file:
        assert file.get_slice("b")[1].shape == (5, 6)
    assert read == [5 * 6 * 4]


def test_errors(files: list[Path]) -> None:
    with pytest.raises(PtInspectError, match="the framework 'tf' is neither 'pt' nor 'np'"):
        ptinspect.safe_open(files[0], "tf")
    with pytest.raises(PtInspectError, match="numpy has no device 'cuda:0'"):
        ptinspect.safe_open(files[0], "np", "cuda:0")
    with ptinspect.safe_open(files[0], "pt", device="meta") as file:
        assert file.get_tensor("b").device.type == "meta"
        with pytest.raises(PtInspectError, match="there is no tensor 'x'") as caught:
            file.get_tensor("x")
        assert caught.value.path == str(files[0])
        for index in (4, -5, (0, 0, 0, 0), (..., 6)):
            with pytest.raises(IndexError):
                file.get_slice("b")[index]


def check_fixture(name: str) -> None:
    """A fixture opens with the keys and the numbers of `open`; the sweep of tests/conversion calls
    this."""
    with (
        ptinspect.open(FIXTURES / name) as document,
        ptinspect.safe_open(FIXTURES / name, "np") as file,
    ):
        assert file.offset_keys() == list(document.tensors)
        for key, info in document.tensors.items():
            try:
                expected = info.numpy()
            except PtInspectError as error:
                with pytest.raises(type(error)):
                    file.get_tensor(key)
            else:
                assert file.get_tensor(key).tobytes() == expected.tobytes()
                if expected.shape:
                    assert file.get_slice(key)[:1].tobytes() == expected[:1].tobytes()
