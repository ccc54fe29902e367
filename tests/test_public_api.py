"""The public names, and that importing them is cheap."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import ptinspect
from ptinspect.cli import COMMANDS, cli
from tests.conftest import FIXTURES

NAMES = [
    "ConversionReport",
    "DamagedError",
    "DiffReport",
    "Document",
    "FormatError",
    "LimitError",
    "Limits",
    "LossError",
    "MissingFileError",
    "OptimizerReport",
    "Place",
    "PtInspectError",
    "RecoveryReport",
    "ResumeReport",
    "RoundtripReport",
    "SafeTensorFile",
    "ScanReport",
    "ScriptReport",
    "StubReport",
    "TensorInfo",
    "UnsafeError",
    "UnsupportedError",
    "__version__",
    "check_optimizer",
    "check_resume",
    "check_roundtrip",
    "check_script",
    "check_stub",
    "convert",
    "diff",
    "open",
    "recover",
    "safe_open",
    "scan",
    "scan_many",
    "stub",
    "stub_package",
    "stubbed",
]


def test_the_public_names_are_these() -> None:
    assert ptinspect.__all__ == NAMES == sorted(NAMES)
    assert all(getattr(ptinspect, name) is not None for name in NAMES)
    assert dir(ptinspect) == NAMES


def test_importing_costs_no_more_than_errors_and_limits() -> None:
    code = "import sys; import ptinspect; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("ptinspect")}
    assert loaded == {"ptinspect", "ptinspect.report", "ptinspect.errors", "ptinspect.limits"}


def test_open_works_before_and_after_its_room_is_imported() -> None:
    """A function and a package of one name would be one attribute, and the last one bound wins."""
    file = FIXTURES / "seed" / "model.pth"
    code = f"""
import ptinspect
assert ptinspect.open({str(file)!r}).kind == "module"
import ptinspect.document
import ptinspect.document.document
assert ptinspect.open({str(file)!r}).kind == "module"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_convert_works_before_and_after_its_room_is_imported(tmp_path: Path) -> None:
    file = FIXTURES / "seed" / "model.pth"
    code = f"""
import ptinspect
for number in range(2):
    assert ptinspect.convert({str(file)!r}, f"{tmp_path}/{{number}}.pt").tensors == 2
    import ptinspect.conversion
    import ptinspect.conversion.convert_file
    import ptinspect.cli.convert
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scan_works_before_and_after_its_room_is_imported() -> None:
    file = FIXTURES / "seed" / "model.pth"
    code = f"""
import ptinspect
assert ptinspect.scan({str(file)!r}).verdict == "unknown"
import ptinspect.safety
import ptinspect.safety.scan
import ptinspect.cli.scan
assert ptinspect.scan({str(file)!r}).verdict == "unknown"
assert len(ptinspect.scan_many([{str(file)!r}] * 2)) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["optimizer", "resume", "roundtrip"])
def test_the_proofs_take_what_the_shell_takes(name: str) -> None:
    """Under the same names, with the same defaults; the shell alone says where the answer goes."""
    command = COMMANDS["check"]().commands[name]  # type: ignore[attr-defined]
    shell = {str(option.name): option.default for option in command.params}
    own = {"output_format", "output"} | ({"no_progress"} if name != "optimizer" else set())
    own |= {"force"} if name != "resume" else set()
    theirs = inspect.signature(getattr(ptinspect, f"check_{name}")).parameters
    python = {name: one.default for name, one in theirs.items()}
    more = set(python) - set(shell)
    assert more == (set() if name == "optimizer" else {"progress", "workers"})
    assert set(shell) - set(python) == own
    for option in set(shell) - own - {"path"}:
        given = None if "UNSET" in str(shell[option]) else shell[option]
        assert (given or None) == (python[option] or None), option


def test_a_proof_takes_no_option_that_is_none() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepps'"):
        ptinspect.check_resume("x.pt", stepps=3)  # type: ignore[call-arg]


def test_check_works_before_and_after_its_room_is_imported() -> None:
    file = FIXTURES / "checkpoints" / "resumable.pt"
    code = f"""
import ptinspect
assert ptinspect.check_optimizer({str(file)!r}).exit_code == 0
import ptinspect.proofs.optimizer
import ptinspect.proofs.resume
import ptinspect.cli.check
assert ptinspect.check_optimizer({str(file)!r}).exit_code == 0
assert callable(ptinspect.check_resume) and callable(ptinspect.check_roundtrip)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_s_python_example() -> None:
    with ptinspect.open(FIXTURES / "seed" / "model.pth") as document:
        assert document.kind == "module"
        assert document.class_path == "__main__.CustomModel"
        weight = document.tensors["layer.weight"]
        assert (weight.shape, weight.stride, weight.device) == ((1, 2), (2, 1), "cuda:0")
        assert weight.read() == weight.numpy().tobytes()


@pytest.mark.parametrize("value", [None, b"model.pth", 3])
def test_what_is_neither_path_nor_file_is_a_type_error(value: Any) -> None:
    for function in (ptinspect.open, ptinspect.scan, ptinspect.convert):
        with pytest.raises(TypeError, match=type(value).__name__):
            function(value, "x.pt") if function is ptinspect.convert else function(value)


def test_a_missing_file_is_also_a_file_not_found_error() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ptinspect.open("missing.pth")
    assert isinstance(caught.value, ptinspect.PtInspectError)
    assert str(caught.value) == "missing.pth: no such file"


def test_limits_are_none_in_signatures() -> None:
    for name in ("open", "convert", "diff", "recover", "scan", "scan_many"):
        assert inspect.signature(getattr(ptinspect, name)).parameters["limits"].default is None


def test_reprs_say_what_it_is() -> None:
    with ptinspect.open(FIXTURES / "seed/model.pth") as document:
        info = document.tensors["layer.weight"]
        assert repr(document).endswith("seed/model.pth': torch-zip, 2.7 kB, module, 2 tensors>")
    assert repr(info) == "TensorInfo('layer.weight', torch.float32, (1, 2), parameter, cuda:0)"


def test_a_dtype_may_be_that_of_a_library(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    values = [torch.float16, numpy.float16, numpy.dtype("float16"), "fp16", "half"]
    for number, dtype in enumerate(values):
        path = tmp_path / f"{number}.safetensors"
        ptinspect.convert(FIXTURES / "seed/model.pth", path, dtype=dtype)
        with ptinspect.open(path) as document:
            assert {repr(info.dtype) for info in document.tensors.values()} == {"torch.float16"}


def test_python_errors_name_arguments_and_the_shell_s_name_options(tmp_path: Path) -> None:
    source, target = FIXTURES / "seed/model.pth", tmp_path / "o.pt"
    target.write_bytes(b"")
    with pytest.raises(ptinspect.PtInspectError) as caught:
        ptinspect.convert(source, target)
    assert caught.value.hint == "give force=True to overwrite it"
    with pytest.raises(ptinspect.PtInspectError, match=r"^dtype takes a floating dtype"):
        ptinspect.convert(source, target, dtype="int8")
    result = CliRunner().invoke(cli, ["convert", str(source), str(target)])
    assert "give --force to overwrite it" in result.stderr


@pytest.mark.parametrize(
    ("name", "in_shell_only"),
    [("convert", set()), ("diff", {"output"}), ("recover", {"output"})],
)
def test_options_of_the_shell_are_arguments(name: str, in_shell_only: set[str]) -> None:
    """docs/reference/api.md promises it."""
    from ptinspect.cli import cli

    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = {
        max(param.opts, key=len).removeprefix("--").replace("-", "_")
        for param in command.params
        if isinstance(param, click.Option)
    }
    arguments = {
        argument.name
        for argument in inspect.signature(getattr(ptinspect, name)).parameters.values()
        if argument.kind is argument.KEYWORD_ONLY
    }
    output = {"format", "no_progress", "help", *in_shell_only}
    assert options - output == arguments - {"progress", "limits"}
