"""`check script` on a script in a folder of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ptinspect.proofs.script import check_script
from ptinspect.proofs.script_report import ScriptReport
from tests.torch_child import torch_python

SCRIPTS = Path(__file__).parent / "scripts"
PLAIN = (SCRIPTS / "plain.py").read_text("utf-8")


def check(
    folder: Path,
    source: str,
    *arguments: str,
    python: tuple[str, ...] = (),
    executable: str = sys.executable,
    **options: Any,
) -> ScriptReport:
    """Check a script, with one thread: models this small gain nothing by more."""
    (folder / "train.py").write_text(source, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        return check_script(
            [executable, *python, "train.py", *arguments],
            **{"checkpoint": ["runs/*.pt"], "timeout": 300, **options},
        )


def check_forked(folder: Path, source: str, *arguments: str, **options: Any) -> ScriptReport:
    """`check` in forks of a process that has imported torch: the script starts four times."""
    return check(folder, source, *arguments, executable=torch_python(trains=True), **options)


def replaced(source: str, *replacements: tuple[str, str]) -> str:
    """Return the script with a fault: each text is replaced where it is, exactly once."""
    for old, new in replacements:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source
