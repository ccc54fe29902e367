"""Each line that scan advises does what it says, in torch itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ptinspect.safety.scanning import scan
from tests.conftest import FIXTURES
from tests.safety.files import BAD, scanned

pytest.importorskip("torch")

FILES = [file for folder in ("objects", "checkpoints", "modules", "optimizers", "tensors", "seed")
         for file in sorted((FIXTURES / folder).iterdir())
         if file.with_name(file.name + ".truth.json").exists()]  # fmt: skip

RUN = """
import contextlib, io, sys, warnings, torch
warnings.simplefilter("ignore")
for line in sys.stdin.read().splitlines():
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(line, {"torch": torch})
        print("yes")
    except Exception as error:
        print("no", type(error).__name__, str(error).replace("\\n", " ")[-400:])
"""


def outcomes(lines: list[str]) -> list[str]:
    """What becomes of each line, in one process that has imported nothing else."""
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def lines_with(part: str) -> dict[Path, str]:
    """By file; not of those for a device or a system that is not here."""
    found = {}
    for file in FILES:
        if any(word in file.name for word in ("mps", "xla", "windows", "3.13")):
            continue
        for step in scan(file).steps:
            if part in step and step.startswith(("torch.load", "import ")):
                found[file] = step
    return found


def test_what_loads_as_it_is() -> None:
    lines = lines_with("# as it is")
    assert len(lines) > 100
    answers = outcomes(list(lines.values()))
    failed = [(f.name, a) for f, a in zip(lines, answers, strict=True) if a != "yes"]
    assert failed == []


def test_what_needs_names_to_be_allowed() -> None:
    """Each in a process of its own would take minutes: allowed is what each of them allows."""
    lines = lines_with("add_safe_globals")
    assert len(lines) >= 25
    fresh = {
        f: step.replace(
            "torch.serialization.add_safe_globals(",
            "torch.serialization.clear_safe_globals(); torch.serialization.add_safe_globals(",
        )
        for f, step in lines.items()
    }
    answers = outcomes(list(fresh.values()))
    failed = [(f.name, a) for f, a in zip(fresh, answers, strict=True) if a != "yes"]
    assert failed == []


def test_dangerous_files_get_no_line(tmp_path: Path) -> None:
    report = scanned(tmp_path, BAD)
    assert report.load is None
    assert report.steps == ("do not load it",)


def test_what_can_act_is_never_advised() -> None:
    for step in lines_with("add_safe_globals").values():
        for name in ("getattr", "eval", "partial", "__main__", "_load_from_bytes"):
            assert name not in step
