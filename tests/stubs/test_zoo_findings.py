"""What real models showed, each as a small one: built from the stub, it is what was saved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stubs.trying import attempt, failures, outcomes
from tests.torch_child import run_python

torch = pytest.importorskip("torch")

MAKER = Path(__file__).parent / "zoo_models.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    done = run_python(str(MAKER), str(folder))
    assert done.returncode == 0, done.stderr
    return {name: folder / f"{name}.pt" for name in done.stdout.split()}


@pytest.mark.slow
def test_each_is_loaded_printed_and_built_anew(saved: dict[str, Path], tmp_path: Path) -> None:
    tries = [attempt(name, file) for name, file in saved.items()]
    said = outcomes(tries, tmp_path)
    found = {one.name: failures(one, said[one.name]) for one in tries}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_a_module_that_is_an_argument_is_used_once(saved: dict[str, Path]) -> None:
    source = attempt("norms", saved["norms"]).source
    assert "def __init__(self, norm1, norm2, act):" in source
    assert "for _ in range(num_blocks)" not in source


def test_a_coder_has_layers_of_torchs(saved: dict[str, Path]) -> None:
    source = attempt("not_a_coder", saved["not_a_coder"]).source
    assert "class Coder(nn.TransformerEncoder):" in source
    assert "class Part(nn.Module):" in source


def test_what_every_module_has_is_set_in_a_loop(saved: dict[str, Path]) -> None:
    source = attempt("marked_everywhere", saved["marked_everywhere"]).source
    assert "for module in self.modules():\n            module.is_initialized = True" in source
    assert "].is_initialized" not in source


def test_all_are_as_ruff_would_have_them(saved: dict[str, Path], tmp_path: Path) -> None:
    for name, file in saved.items():
        (tmp_path / f"{name}.py").write_text(attempt(name, file).source, "utf-8")
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(tmp_path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
