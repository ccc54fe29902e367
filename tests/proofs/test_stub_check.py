"""`stub --check`: both load ways, print and strict load, in a child process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptinspect.errors import UnsafeError
from ptinspect.proofs.stub_check import StubReport, check_stub
from ptinspect.proofs.worker.load_with_stub import check_same_text
from tests.cli.running import CHECKPOINT, MODEL, STATE_DICT, run
from tests.conftest import FIXTURES

pytest.importorskip("torch")
forked = pytest.mark.usefixtures("forked_torch")  # all but one, which starts Python as a user does


@pytest.mark.slow
@forked
@pytest.mark.parametrize("file", [MODEL, CHECKPOINT, STATE_DICT])
def test_the_stub_fits_its_file(file: Path) -> None:
    report = check_stub(str(file))
    assert report.exit_code == 0, report.text()
    assert {"import", "load", "weights_only", "build", "strict"} <= report.results.keys()


@pytest.mark.slow
@forked
@pytest.mark.parametrize("name", ["numpy.legacy.pth", "strings.pkl"])
def test_a_str_of_python_2_is_read_as_latin1(name: str, tmp_path: Path) -> None:
    file = FIXTURES / "old" / "torch-1.0.0-py27" / name
    if name == "strings.pkl":
        file = tmp_path / name
        file.write_bytes(b"\x80\x02}U\x04nameU\x02\xe9\xffs.")
    call = (
        'load(open("strings.pkl", "rb"), ' if name == "strings.pkl" else 'load("numpy.legacy.pth", '
    )
    assert call in run("stub", file).stdout and 'encoding="latin1")\n' in run("stub", file).stdout
    report = check_stub(str(file))
    assert report.ok and report.results["load"] is None, report.text()


@pytest.mark.slow
def test_a_package_is_checked_as_one(tmp_path: Path) -> None:
    result = run("stub", MODEL, "--package", tmp_path / "model_def", "--check")
    assert result.exit_code == 0, result.stderr
    assert "the stub fits the file" in result.stderr and "print" in result.stderr


@pytest.mark.slow
@forked
def test_what_differs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptinspect.stubs import write_module as module

    write_module = module.write_module
    monkeypatch.setattr(
        module,
        "write_module",
        lambda content: write_module(content).replace("out_features=1", "out_features=7"),
    )
    result = run("stub", MODEL, "--check")
    assert result.exit_code == 1
    assert "size mismatch" in result.stderr and "line 2" in result.stderr


def test_the_first_line_that_differs_is_named() -> None:
    assert check_same_text("a", "a", None)
    with pytest.raises(ValueError, match="line 2: b in the file, nothing in the stub"):
        check_same_text("a", "a\nb")
    assert StubReport("p", {"load": None, "strict": "no"}, []).exit_code == 1


def test_what_is_dangerous_is_not_loaded(tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(UnsafeError, match="dangerous"):
        check_stub(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


OTHERS = FIXTURES / "others"


@pytest.mark.slow
@forked
@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("pickles/model-2.pkl", "pickle.load"),
        ("pickles/model-5.pkl", "pickle.load"),
        ("pickles/state_dict.pkl", "pickle.load"),
        ("others/model.safetensors", "safetensors.torch.load_file"),
        ("old/torch-0.1-by-hand/model.tar.pth", None),
    ],
)
def test_each_is_loaded_by_what_loads_it(name: str, loader: str | None) -> None:
    if loader == "safetensors.torch.load_file":
        pytest.importorskip("safetensors")
    report = check_stub(str(FIXTURES / name))
    assert report.exit_code == 0, report.text()
    assert {"import", "load", "build", "strict"} <= report.results.keys()
    assert report.loader == loader and (loader is None or f"  {loader} " in report.text())


def test_what_needs_no_stub_says_why() -> None:
    result = run("stub", OTHERS / "torchscript.pt", "--check")
    assert result.exit_code == 2
    assert "torch.jit.load(" in result.stderr and "loads it" in result.stderr


@pytest.mark.slow
@forked
def test_what_torch_itself_fails_in_is_no_fault_of_the_stub() -> None:
    report = check_stub(str(FIXTURES / "modules" / "quantized-conv.pt"))
    assert report.exit_code == 0, report.text()
    assert set(report.torch_failures) == {"print", "strict"}
    assert "not possible: torch fails with the loaded model" in report.text()


def test_a_class_of_it_is_not_checked() -> None:
    result = run("stub", MODEL, "--check", "--class", "CustomModel")
    assert result.exit_code == 2 and "--check cannot be used with --class" in result.stderr
    assert "Not with --class" in " ".join(run("stub", "--help").stdout.split())
