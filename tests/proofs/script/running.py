"""`check script` on a script in a folder of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ptinspect.proofs.script.proof import check_script
from ptinspect.proofs.script.report import ScriptReport

PLAIN = (Path(__file__).parent / "plain.py").read_text("utf-8")


def check(folder: Path, source: str, *arguments: str, **options: Any) -> ScriptReport:
    """Check a script, with one thread: models this small gain nothing by more."""
    (folder / "train.py").write_text(source)
    here, threads = Path.cwd(), os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(folder)
    try:
        return check_script(
            [sys.executable, "train.py", *arguments],
            **{"checkpoint": ["runs/*.pt"], "timeout": 120, **options},
        )
    finally:
        os.chdir(here)
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
