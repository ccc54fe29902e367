"""The how-tos on stubs, followed: each command and each script runs as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIXTURES, ROOT
from tests.torch_child import run_python

pytestmark = pytest.mark.slow

HOWTO = ROOT / "docs" / "howto"
FILES = {
    "cant-get-attribute": ("seed/model.pth", "model.pth"),
    "no-module-named": ("checkpoints/yolov5.pt", "model.pt"),
    "weights-only-load-failed": ("seed/model.pth", "model.pth"),
}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    text = (HOWTO / f"{page}.md").read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.mark.parametrize("page", FILES)
def test_the_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source, name = FILES[page]
    shutil.copy(FIXTURES / source, tmp_path / name)
    # beside the scripts lies only the stub; ptinspect itself is found as if it were installed
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for line in "".join(blocks(page, "console")).splitlines():
        command = line.removeprefix("$ ptinspect ").split()
        target = tmp_path / command[-1] if ">" in command else None
        done = subprocess.run(
            [sys.executable, "-m", "ptinspect", *command[: -2 if target else None]],
            capture_output=True, check=False, cwd=tmp_path, env=env,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if target is not None:
            target.write_bytes(done.stdout)
    scripts = blocks(page, "python")
    assert scripts
    for script in scripts:
        (tmp_path / "script.py").write_text(script, "utf-8")
        run = run_python("script.py", cwd=tmp_path, path=[ROOT])
        assert run.returncode == 0, run.stderr[-2000:]
