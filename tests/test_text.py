"""Names of files in lines that are pasted: whatever the name, it stays one word."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess

import pytest

from ptinspect.text import python_literal, shell_word

NAMES = [
    "model.pth", "my model.pth", "a;touch hurt;.pt", "$(touch hurt).pt", "`touch hurt`", "it's.pt",
    'say "x".pt', "-rf", "--help", "a\nb", "a\\b", "\x1b[2J", "\u202etp.lmth", "naïve.pt",
    "日本.pt", "a\udcff.pt", "'\n'", "~", "a*b?", "a&b", "#c", "!!", "\x7f'\\\u2028", "1\x001"[:1],
]  # fmt: skip


@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize("name", NAMES)
def test_a_shell_reads_the_name_again(name: str, tmp_path: os.PathLike[str]) -> None:
    word = shell_word(name)
    assert word.isprintable()
    ran = subprocess.run(
        ["bash", "-c", f"printf %s {word}"], capture_output=True, cwd=tmp_path, check=True
    )
    meant = f"./{name}" if name.startswith("-") else name
    assert ran.stdout == meant.encode("utf-8", "surrogateescape")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_python_reads_the_name_again(name: str) -> None:
    literal = python_literal(name)
    assert literal.isprintable() and ast.literal_eval(literal) == name


def test_standard_input_has_no_name() -> None:
    assert (shell_word("-"), python_literal("-")) == ("FILE", '"FILE"')
