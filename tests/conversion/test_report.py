"""What convert says before and after: the same, valid by its schema, and whole."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ptinspect.conversion import convert
from ptinspect.errors import PtInspectError, UnsafeError
from tests.corpus.files import FIXTURES

SCHEMA = json.loads(
    files("ptinspect.conversion").joinpath("convert.schema.json").read_text("utf-8")
)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_dry_run_refuses_what_the_run_refuses(tmp_path: Path) -> None:
    source = tmp_path / "evil.pt"
    source.write_bytes(
        b"\x80\x02}(X\x01\0\0\0ecposix\nsystem\nX\x04\0\0\0true\x85RX\x01\0\0\0nK\x01u."
    )
    for options in ({"to": "same"}, {"to": "checkpoint", "set": {"a": 1}}):
        for dry_run in (True, False):
            with pytest.raises((UnsafeError, PtInspectError)) as caught:
                convert(source, tmp_path / "o.pt", dry_run=dry_run, **options)  # type: ignore[arg-type]
            if options["to"] == "same":
                assert isinstance(caught.value, UnsafeError)
                assert "posix.system" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_what_nobody_vouches_for_is_told(tmp_path: Path) -> None:
    model = FIXTURES / "seed" / "model.pth"
    for to, told in (("same", True), ("state_dict", False), ("safetensors", False)):
        report = convert(model, tmp_path / "o", to=to, dry_run=True)
        lines = [line for line in report.warnings if "not on the allowlist" in line]
        assert bool(lines) == told
        assert all("__main__.CustomModel" in line for line in lines)


def test_a_dry_run_does_not_pass_over_what_is_there(tmp_path: Path) -> None:
    model = Path(shutil.copy(FIXTURES / "seed" / "model.pth", tmp_path / "m.pth"))
    (tmp_path / "o.pt").write_bytes(b"mine")
    with pytest.raises(PtInspectError, match="already exists"):
        convert(model, tmp_path / "o.pt", dry_run=True)
    convert(model, tmp_path / "o.pt", dry_run=True, force=True)
    assert (tmp_path / "o.pt").read_bytes() == b"mine"


# --- what is dropped ------------------------------------------------------------------------


def dropped(name: str, **options: Any) -> list[str]:
    return convert(FIXTURES / name, "nowhere.out", dry_run=True, **options).dropped


def test_every_step_tells_what_it_drops() -> None:
    seed, buffers = "seed/checkpoint-6.pt", "modules/everything.pt"
    assert set(dropped(seed, to="state_dict")) >= {"epoch", "optimizer_state_dict"}
    with_options = dropped(seed, to="safetensors", exclude=["*.bias"])
    assert set(with_options) >= {"epoch", "layer.bias"}
    assert "cache" in dropped(buffers, to="state_dict")
    assert "cache" in dropped(buffers, to="checkpoint")
    assert dropped(seed, to="checkpoint") == dropped(seed, to="same") == []


def test_the_steps_of_a_plain_checkpoint_all_tell(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    value = {"model": {"a": torch.ones(1), "b": torch.ones(1)}, "odd": len, "lr": 0.1}
    torch.save(value, tmp_path / "a.pt")
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1).state_dict()
    torch.save({**optimizer, "hook": print}, tmp_path / "b.pt")
    report = convert(
        tmp_path / "a.pt", tmp_path / "o.pt", to="checkpoint", plain=True, exclude=["b"],
        optimizer=tmp_path / "b.pt",
    )  # fmt: skip
    assert "model.b" in report.dropped
    loaded = torch.load(tmp_path / "o.pt", weights_only=True)
    assert set(loaded) == {"model", "lr", "odd", "optimizer_state_dict"} - {
        name for name in report.dropped if name in ("odd", "lr")
    }
