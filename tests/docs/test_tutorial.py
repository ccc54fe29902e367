"""The tutorial, followed from its beginning to its end. `python -m tests.docs.test_tutorial`
writes into it what its commands print today."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.docs.consoles import ROOT, follow, renewed

TUTORIAL = ROOT / "docs" / "tutorial.md"
PATH = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
GIVEN = ("dataset.csv", "model.pth")


def prepare(folder: Path) -> None:
    """What the tutorial says lies in its folder."""
    for name in GIVEN:
        shutil.copy(ROOT / "fixtures" / "seed" / name, folder / name)


@pytest.mark.slow
def test_every_command_prints_what_the_tutorial_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked_training: None
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pandas")
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the page is one of a CPU
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}{os.pathsep}{PATH}")
    text = TUTORIAL.read_text("utf-8")
    assert follow(TUTORIAL) == text.count("\n```") // 2


def test_it_tells_the_whole_story() -> None:
    """The scenes of the lesson, in order, each by what only its command prints."""
    text = TUTORIAL.read_text("utf-8")
    scenes = (
        "import pandas as pd", "batch_size=128, shuffle=True, drop_last=True", "lr=0.0001",
        "range(10000)", "cost += loss", 'f"CustomModel 체크포인트-{checkpoint}"',
        'torch.save(model, "model.pt")',
        'torch.load("model.pt", weights_only=False, map_location="cpu")',
        "Weights only load failed",
        "Can't get attribute 'CustomModel' on <module '__main__'",
        "full model of class __main__.CustomModel",
        "class CustomModel(nn.Module): pass",
        "\n  (layer): Linear(in_features=2, out_features=1, bias=True)\n",
        "$ ptinspect stub model.pt > model_def.py",
        "self.layer = nn.Linear(in_features=2, out_features=1)",
        "safe_globals(SAFE_GLOBALS)", "<All keys matched successfully>",
        "strict load of the state_dict     works",
        "load         import model_def, torch; "
        'torch.load("model.pth", weights_only=False, map_location="cpu")',
        "layer.weight  parameter  float32  (1, 2)  cuda:0",
        "tensor([[ 3.1076, -1.7026]], device='cuda:0')", "--device cpu",
        "tensor([[  1.4343],", "[ 69.2063],", "[357.3203]])", "1.4342, 69.2052 and 357.3152",
        "each converted form is the same model as the original, in numbers",
        "SGD (inferred), lr 0.0001, 2 parameters", "description  'CustomModel 체크포인트-6'",
        'range(checkpoint_epoch + 1, 10000)', "\nCustomModel 체크포인트-6\n", "Epoch : 10000",
        "the recorded optimizer state is consistent with the recorded model",
        "(rng-shuffling)", '"rng_state": torch.get_rng_state()',
        "the file holds all that an exact resume of this training needs",
        "it does not end where it would have ended", "torch's RNG at step",
        "killed and started again, it ends where it would have ended",
        "killed inside a save, it cannot be started again", "--device cuda",
    )  # fmt: skip
    at = 0
    for scene in scenes:
        found = text.find(scene, at)
        assert found >= 0, scene
        at = found


def test_the_given_files_are_named() -> None:
    text = TUTORIAL.read_text("utf-8")
    start = text.partition("\n## ")[0]
    assert all(f"`{name}`" in start for name in GIVEN)
    assert re.findall(r'title="([\w.]+)"', text)[0] == "data.py"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        os.chdir(place)
        os.environ.update(CUDA_VISIBLE_DEVICES="", PATH=PATH)
        TUTORIAL.write_text(renewed(TUTORIAL.read_text("utf-8")), "utf-8")
