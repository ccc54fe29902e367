"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ptinspect.cli import cli
from tests.conftest import FIXTURES, ROOT

MODEL = FIXTURES / "seed/model.pth"
STATE_DICT = FIXTURES / "seed/model_state_dict.pt"
CHECKPOINT = FIXTURES / "seed/checkpoint-6.pt"


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    """In this process; nothing of it is a terminal."""
    return CliRunner().invoke(cli, [str(one) for one in arguments], input=stdin)


def process(
    *arguments: object,
    env: dict[str, str] | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own, as its user has it."""
    return subprocess.run(
        [sys.executable, "-m", "ptinspect", *(str(one) for one in arguments)],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        input=stdin,
        cwd=cwd,
    )


def forbid_listing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make a folder fail as one that may not be listed, which root always may."""
    scandir = os.scandir

    def refuse(path: Any = ".") -> Any:
        if os.fspath(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def cut_file(folder: Path) -> Path:
    """A model whose end is missing."""
    path = folder / "cut.pth"
    path.write_bytes(MODEL.read_bytes()[:1700])
    return path
