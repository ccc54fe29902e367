"""The seed's reader, who has a model.pth and not its class (S2, S3)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, ROOT
from tests.torch_child import run_python

MODEL = FIXTURES / "seed" / "model.pth"
PRINTED = "CustomModel(\n  (layer): Linear(in_features=2, out_features=1, bias=True)\n)"
CLASS = """
class CustomModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(in_features=2, out_features=1)

    def forward(self, *args, **kwargs):
        # layer: Linear, (*, 2) -> (*, 1)
        raise NotImplementedError("the file does not record CustomModel.forward")
"""


def write_stub(folder: Path) -> str:
    """As the reader does: `ptinspect stub model.pth > model_def.py`."""
    done = subprocess.run(
        [sys.executable, "-m", "ptinspect", "stub", str(MODEL)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (folder / "model_def.py").write_bytes(done.stdout)
    return done.stdout.decode()


def script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that lies beside model_def.py, and has no other path to anything."""
    path = folder / "script.py"
    path.write_text(text, "utf-8")
    return run_python(str(path))


def test_the_class_stands_in_the_stub_as_its_author_would_write_it(tmp_path: Path) -> None:
    assert CLASS in write_stub(tmp_path)


def test_without_the_stub_the_load_fails(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = script(tmp_path, f"import torch; torch.load({str(MODEL)!r}, weights_only=False)")
    assert "Can't get attribute 'CustomModel' on <module '__main__'" in done.stderr


@pytest.mark.parametrize("line", ["from model_def import *", "import model_def"])
def test_with_it_the_model_loads_and_prints(tmp_path: Path, line: str) -> None:
    pytest.importorskip("torch")
    write_stub(tmp_path)
    done = script(
        tmp_path,
        f"""
import torch
{line}
model = torch.load({str(MODEL)!r}, weights_only=False, map_location="cpu")
print(model)
print(model.layer.weight.tolist())
""",
    )
    assert done.stdout.startswith(PRINTED), done.stderr
    assert "3.10" in done.stdout or "[[" in done.stdout


def test_with_its_safe_globals_it_loads_under_weights_only(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_stub(tmp_path)
    done = script(
        tmp_path,
        f"""
import torch
import model_def
with torch.serialization.safe_globals(model_def.SAFE_GLOBALS):
    print(torch.load({str(MODEL)!r}, weights_only=True, map_location="cpu"))
""",
    )
    assert done.stdout.strip() == PRINTED, done.stderr


def test_the_class_is_built_anew_and_takes_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_stub(tmp_path)
    done = script(
        tmp_path,
        f"""
import torch
from model_def import *
print(CustomModel())
saved = torch.load({str(MODEL)!r}, weights_only=False, map_location="cpu").state_dict()
model = CustomModel()
print(model.load_state_dict(saved, strict=True))
try:
    model(torch.ones(1, 2))
except NotImplementedError as error:
    print(error)
""",
    )
    assert done.stdout.splitlines()[-2:] == [
        "<All keys matched successfully>",
        "the file does not record CustomModel.forward",
    ], done.stderr
    assert done.stdout.startswith(PRINTED)


def test_saving_again_writes_the_same_names(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_stub(tmp_path)
    script(
        tmp_path,
        f"""
import torch
from model_def import *
model = torch.load({str(MODEL)!r}, weights_only=False, map_location="cpu")
torch.save(model, {str(tmp_path / "again.pth")!r})
""",
    )
    import ptinspect

    with ptinspect.open(tmp_path / "again.pth") as document:
        assert document.class_path == "__main__.CustomModel"
