"""The tutorial, followed from its beginning to its end. Run this file to write into it what its
commands print today."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.docs.consoles import run  # noqa: E402

TUTORIAL = ROOT / "docs/tutorial.md"
_BLOCK = re.compile(r'^```(console|python title="([\w.]+)")\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def followed(text: str, folder: Path) -> str:
    """The text with what its commands print in `folder`, in which its files are written."""
    for name in ("dataset.csv", "checkpoint-6.pt"):
        shutil.copy(ROOT / "fixtures/seed" / name, folder / name)

    def block(match: re.Match[str]) -> str:
        if match[2]:
            (folder / match[2]).write_text(match[3], "utf-8")
            return match[0]
        commands = re.findall(r"^\$ (.*)$", match[3], re.MULTILINE)
        made = "".join(f"$ {command}\n{printed(command, folder)}" for command in commands)
        return f"```console\n{made}```"

    return _BLOCK.sub(block, text)


def printed(command: str, folder: Path) -> str:
    """What a command prints; `> FILE` is followed."""
    command, _, target = command.partition(" > ")
    if command.startswith("python "):
        done = subprocess.run(
            [sys.executable, *command.split()[1:]],
            cwd=folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        text = done.stdout + done.stderr
        return text.replace(f"{folder}{os.sep}", "")
    text = run(command)
    if not target:
        return text
    (folder / target).write_text(text, "utf-8")
    return ""


def test_every_command_prints_what_the_tutorial_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    text = TUTORIAL.read_text("utf-8")
    assert followed(text, tmp_path) == text


def test_it_tells_the_whole_story() -> None:
    text = TUTORIAL.read_text("utf-8")
    for command in ("show", "stub", "convert", "check roundtrip", "check optimizer"):
        assert f"$ ptinspect {command} " in text
    assert "(rng-shuffling)" in text
    assert "training goes on as if it had never been interrupted" in text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        TUTORIAL.write_text(followed(TUTORIAL.read_text("utf-8"), Path(place)), "utf-8")
