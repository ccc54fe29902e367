"""What a bare torch.load does with a converted file. test_fixtures.py asks it of fixtures."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from ptinspect.conversion import convert
from tests.corpus.files import FIXTURES

torch = pytest.importorskip("torch")

_NAMED = "[getattr(each, '__qualname__', '') for each in torch.serialization.get_safe_globals()]"


@cache
def bare() -> frozenset[str]:
    """What `import torch` alone allows: other tests import parts of torch that allow more."""
    code = f"import torch; print({_NAMED})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(ast.literal_eval(ran.stdout))


@contextmanager
def as_at_first() -> Iterator[None]:
    """With no more allowed than in a process that has only imported torch."""
    now = torch.serialization.get_safe_globals()
    first = [each for each in now if getattr(each, "__qualname__", "") in bare()]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(first)
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(now)


def loads(path: Path) -> bool:
    try:
        with warnings.catch_warnings(), as_at_first():
            warnings.simplefilter("ignore")
            torch.load(path, weights_only=True, map_location="cpu")  # the devices are not here
    except Exception:  # noqa: BLE001 - whatever torch raises
        return False
    return True


def test_the_line_says_why_and_how(tmp_path: Path) -> None:
    source = FIXTURES / "old" / "torch-1.0.0-py27" / "numpy.legacy.pth"
    report = convert(source, tmp_path / "f.pt")
    (line,) = report.warnings
    assert "numpy.core.multiarray._reconstruct" in line
    call = f'torch.load("{tmp_path / "f.pt"}", weights_only=False, encoding="latin1")'
    assert call in line
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = eval(call)
        want = torch.load(source, weights_only=False, encoding="latin1")
    assert repr(got) == repr(want)
    same = convert(source, tmp_path / "s.pt", to="same")
    call = f'torch.load("{tmp_path / "s.pt"}", weights_only=False, encoding="latin1")'
    assert f"because a str of Python 2 in it is not utf-8: {call}" in same.warnings[-1]
    with pytest.raises(UnicodeDecodeError):
        torch.load(tmp_path / "s.pt", weights_only=False)
    assert repr(eval(call)) == repr(want)
    report = convert(source, tmp_path / "p.pt", to="checkpoint", plain=True)
    assert report.warnings == []
    assert torch.load(tmp_path / "p.pt")["score"] == 0.75
