"""State_dicts of full models whose classes add to them in code of their own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from ptinspect.conversion import convert
from ptinspect.errors import UnsupportedError

torch = pytest.importorskip("torch")
raw = pytest.importorskip("tests.corpus.torch_side").raw
nn = torch.nn

pytestmark = pytest.mark.filterwarnings("ignore")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, bidirectional=True)
        self.gru = nn.GRU(3, 4, 2)
        self.cell = nn.LSTMCell(3, 4)
        self.other = nn.RNNCell(3, 4)
        self.last = nn.GRUCell(3, 4)
        self.head = nn.Linear(3, 2)


KINDS = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.RNNCell, nn.GRUCell, nn.Linear}


def flat(value: Any) -> Any:
    """What a ScriptObject, a tensor or a tuple of them holds, to be compared."""
    if isinstance(value, torch.ScriptObject):
        return flat(value.__getstate__())
    if isinstance(value, (tuple, list)):
        return [flat(each) for each in value]
    if isinstance(value, torch.Tensor):
        if value.is_quantized:
            return (raw(value.int_repr()), str(value.qscheme()), value.q_scale())
        return (str(value.dtype), tuple(value.shape), raw(value.detach()))
    return value


@pytest.mark.parametrize("dtype", ["qint8", "float16"])
@pytest.mark.parametrize("legacy", [False, True])
def test_dynamic_recurrent_modules_as_torch_gives_them(
    tmp_path: Path, dtype: str, legacy: bool
) -> None:
    if torch.backends.quantized.engine == "none":
        pytest.skip("torch has no quantized engine here")
    model = torch.ao.quantization.quantize_dynamic(Recurrent(), KINDS, dtype=getattr(torch, dtype))
    want = model.state_dict()
    torch.save(model, tmp_path / "full.pt", _use_new_zipfile_serialization=not legacy)
    convert(tmp_path / "full.pt", tmp_path / "o.pt", verify=True)
    got = torch.load(tmp_path / "o.pt", weights_only=False)
    assert list(got) == list(want)
    assert {key: flat(value) for key, value in got.items()} == {
        key: flat(value) for key, value in want.items()
    }
    assert dict(got._metadata) == dict(want._metadata)
    other = torch.ao.quantization.quantize_dynamic(Recurrent(), KINDS, dtype=getattr(torch, dtype))
    assert str(other.load_state_dict(got)) == "<All keys matched successfully>"
    x = torch.ones(5, 2, 3)
    assert torch.equal(other.lstm(x)[0], model.lstm(x)[0])
    with pytest.raises(UnsupportedError, match="safetensors cannot hold"):
        convert(tmp_path / "full.pt", tmp_path / "o.safetensors")


def test_sparse_quantized_weights_are_refused_in_a_line(tmp_path: Path) -> None:
    """Their blocks are packed by the engine: only torch.ops.sparse.qlinear_unpack knows how."""
    from torch.ao.nn.sparse.quantized import Linear

    before = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = "fbgemm"
        torch.save(nn.Sequential(Linear(8, 4, 1, 4)), tmp_path / "a.pt")
    except RuntimeError:
        pytest.skip("torch has no sparse engine here")
    finally:
        torch.backends.quantized.engine = before
    with pytest.raises(UnsupportedError, match="only torch can unpack") as caught:
        convert(tmp_path / "a.pt", tmp_path / "o.pt")
    assert 'to="same"' in str(caught.value.hint)
    convert(tmp_path / "a.pt", tmp_path / "same.pt", to="same", verify=True)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def get_extra_state(self) -> Any:
        return {"seen": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_extra_state_that_the_file_tells_of_is_told(tmp_path: Path) -> None:
    """A legacy file holds the source of the class, and so that there is such a method."""
    model = nn.Sequential(Counting())
    assert "0._extra_state" in model.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(model, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    for target in ("o.pt", "o.safetensors"):
        report = convert(tmp_path / "a.pt", tmp_path / target)
        (line,) = (line for line in report.warnings if "missing: entries" in line)
        assert "Counting" in line and "get_extra_state()" in line
    torch.save(nn.Sequential(nn.Linear(1, 1)), tmp_path / "b.pt",
               _use_new_zipfile_serialization=False)  # fmt: skip
    report = convert(tmp_path / "b.pt", tmp_path / "b2.pt")
    assert not any("missing: entries" in line for line in report.warnings)


def test_extra_state_in_a_state_dict_is_kept(tmp_path: Path) -> None:
    torch.save(Counting().state_dict(), tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "o.pt", add_prefix="x.")
    got = torch.load(tmp_path / "o.pt", weights_only=True)
    assert got["x._extra_state"] == {"seen": 3}
    with pytest.raises(UnsupportedError, match="_extra_state is not a tensor"):
        convert(tmp_path / "a.pt", tmp_path / "o.safetensors")
