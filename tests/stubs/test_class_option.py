"""`--class NAME`: one class of the file, and what it needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ptinspect.errors import PtInspectError
from ptinspect.stubs import StubOptions, stub
from tests.conftest import FIXTURES
from tests.stubs.trying import attempt, failures, outcomes
from tests.torch_child import run_python, torch_python

MAKER = Path(__file__).parent / "small_models.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("models")
    done = run_python(str(MAKER), str(folder))
    assert done.returncode == 0, done.stderr
    return {name: folder / f"{name}.pt" for name in done.stdout.split()}


def defined(source: str) -> list[str]:
    """The classes of a stub that are the file's."""
    tree = ast.parse(source)
    found = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return [name for name in found if not name.startswith("_")]


@pytest.mark.slow
def test_it_and_what_it_needs_is_written_and_nothing_else(saved: dict[str, Path]) -> None:
    assert defined(stub(saved["vit"], class_name="Mlp")) == ["Mlp"]
    assert {"Block", "Attention", "Mlp"} == set(defined(stub(saved["vit"], class_name="Block")))
    text = stub(saved["vit"], class_name="small_models.zoo.Block")
    assert "small_models.zoo.ViT" in text.split('"""')[1]  # named as left out
    assert "ViT," not in text.split("SAFE_GLOBALS = [")[1]


def test_the_root_asked_for_is_the_whole_stub(saved: dict[str, Path]) -> None:
    whole, chosen = stub(saved["resnet"]), stub(saved["resnet"], class_name="ResNet")
    assert defined(chosen) == defined(whole)
    one = attempt("resnet", saved["resnet"], StubOptions(class_name="ResNet"))
    assert one.source == chosen


@pytest.mark.slow
def test_a_whole_class_loads_the_file(saved: dict[str, Path], tmp_path: Path) -> None:
    one = attempt("unet", saved["unet"], StubOptions(class_name="UNet"))
    assert failures(one, outcomes([one], tmp_path)["unet"]) == {}


@pytest.mark.slow
def test_each_class_of_each_model_is_built_by_itself(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    """Imported, and built where the file has such an object, in one process."""
    number = 0
    for path in saved.values():
        for name in defined(stub(path)):
            (tmp_path / f"stub_{number}.py").write_text(stub(path, class_name=name), "utf-8")
            number += 1
    assert number > 80
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import importlib, warnings
warnings.simplefilter("ignore")
for number in range({number}):
    made = importlib.import_module(f"stub_{{number}}")
    try:
        made.build()
    except NotImplementedError as error:
        assert "the file holds no" in str(error), error
    except Exception as error:
        print(number, type(error).__name__, error)
""",
        "utf-8",
    )
    done = subprocess.run([torch_python(), script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(tmp_path)]
        ruff += ["--exclude", "script.py"]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]


def test_a_name_that_is_not_there_says_which_are() -> None:
    with pytest.raises(PtInspectError, match="no class Nothing") as caught:
        stub(FIXTURES / "seed" / "model.pth", class_name="Nothing")
    assert "__main__.CustomModel" in str(caught.value.hint)
