"""Models without tensors, damaged sources, and options that would change more than is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

import ptinspect
from ptinspect.errors import PtInspectError
from tests.conftest import FIXTURES

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "value", [{}, torch.nn.Module().state_dict(), torch.nn.Sequential(torch.nn.ReLU())]
)
def test_a_model_without_tensors(tmp_path: Path, value: object) -> None:
    from safetensors.torch import load_file

    torch.save(value, tmp_path / "a.pt")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    ptinspect.convert(tmp_path / "a.pt", tmp_path / "c.pt")
    ptinspect.convert(tmp_path / "b.safetensors", tmp_path / "d.pt")
    assert load_file(tmp_path / "b.safetensors") == {}
    assert torch.load(tmp_path / "c.pt") == torch.load(tmp_path / "d.pt") == {}


def test_a_source_whose_bytes_have_another_crc_is_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"w": torch.arange(1000.0)}, source)
    sound = source.read_bytes()
    data = bytearray(sound)
    at = data.index(torch.arange(1000.0).numpy().tobytes()) + 400
    data[at] ^= 1
    source.write_bytes(data)
    report = ptinspect.convert(source, tmp_path / "b.pt", verify=True)
    assert report.warnings == ["the bytes of a/data/0 do not match their CRC-32: w may be damaged"]
    source.write_bytes(sound)
    assert ptinspect.convert(source, tmp_path / "c.pt", verify=True).warnings == []


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:x", "cpu:1"])
def test_devices_without_bytes(tmp_path: Path, device: str) -> None:
    with pytest.raises(PtInspectError, match="is not a device"):
        ptinspect.convert(
            FIXTURES / "seed" / "model_state_dict.pt", tmp_path / "a.pt", device=device
        )


def test_a_dtype_for_a_checkpoint_s_optimizer_is_told(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    state = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(state, tmp_path / "a.pt")
    report = ptinspect.convert(
        tmp_path / "a.pt", tmp_path / "b.pt", to="checkpoint", dtype="float16"
    )
    assert any("including its step counts" in line for line in report.warnings)
