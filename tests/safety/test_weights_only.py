"""What weights_only takes, held against torch's own tables and against torch.load itself."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import ptinspect
from ptinspect.pickling.opcodes import WEIGHTS_ONLY
from ptinspect.safety.advice import load_advice
from ptinspect.safety.weights_only import ALLOWED, BLOCKED
from tests.conftest import FIXTURES

torch = pytest.importorskip("torch")
reader = pytest.importorskip("torch._weights_only_unpickler")

FILES = sorted(FIXTURES.glob("**/*.truth.json"))


def test_the_names_are_torchs() -> None:
    code = "import torch; print(*(f'{o.__module__}.{o.__qualname__}' for o in "
    code += "torch.serialization.get_safe_globals()))"
    entered = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(reader._get_allowed_globals()) | set(entered) == ALLOWED
    assert set(reader._blocklisted_modules) == BLOCKED


def test_the_opcodes_are_torchs() -> None:
    """Each branch of its loop compares with NAME[0]."""
    source = inspect.getsource(reader.Unpickler.load)
    assert set(re.findall(r"\b([A-Z][A-Z0-9_]+)\[0\]", source)) == WEIGHTS_ONLY


@pytest.mark.parametrize(
    "sidecar", FILES, ids=lambda path: path.relative_to(FIXTURES).as_posix()[:-11]
)
def test_the_advice_is_what_torch_load_does(sidecar: Path) -> None:
    """Said to load with weights_only: it does. Said not to: it does not."""
    file = Path(str(sidecar).removesuffix(".truth.json"))
    try:
        with ptinspect.open(file) as document:
            advice = load_advice(document)
    except ptinspect.PtInspectError:
        pytest.skip("not readable, as its truth says")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loads = True
        try:
            torch.load(file, weights_only=True, map_location="cpu")
        except Exception:  # noqa: BLE001 - torch raises whatever a damaged or odd file leads to
            loads = False
    truth = json.loads(sidecar.read_text("utf-8"))
    assert advice.weights_only == loads, (advice, truth.get("load_error"))
