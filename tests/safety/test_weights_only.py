"""What weights_only takes, held against torch's own tables and against torch.load itself."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import ptinspect
from ptinspect.pickling.opcodes import WEIGHTS_ONLY
from ptinspect.safety.load_advice import load_advice
from ptinspect.safety.policy import WEIGHTS_ONLY_BLOCKED_MODULES, WEIGHTS_ONLY_NAMES
from tests.conftest import FIXTURES
from tests.torch_child import torch_python

torch = pytest.importorskip("torch")
reader = pytest.importorskip("torch._weights_only_unpickler")

FILES = [
    Path(str(sidecar).removesuffix(".truth.json"))
    for sidecar in sorted(FIXTURES.glob("**/*.truth.json"))
]

# In a process of its own: importing more of torch (torch.distributed.tensor) allows more.
LOADING = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
said = {}
for file in json.load(sys.stdin):
    try:
        torch.load(file, weights_only=True, map_location="cpu")
        said[file] = True
    except Exception:
        said[file] = False
entered = [f"{o.__module__}.{o.__qualname__}" for o in torch.serialization.get_safe_globals()]
print(json.dumps({"loads": said, "entered": entered}))
"""


@cache
def torch_says() -> dict[str, dict[str, bool]]:
    asked = json.dumps([str(file) for file in FILES])
    command = [torch_python(), "-c", LOADING]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    said: dict[str, dict[str, bool]] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.slow
def test_the_names_are_torchs() -> None:
    assert {*reader._get_allowed_globals(), *torch_says()["entered"]} == WEIGHTS_ONLY_NAMES
    assert set(reader._blocklisted_modules) == WEIGHTS_ONLY_BLOCKED_MODULES


def test_the_opcodes_are_torchs() -> None:
    """Each branch of its loop compares with NAME[0]."""
    source = inspect.getsource(reader.Unpickler.load)
    assert set(re.findall(r"\b([A-Z][A-Z0-9_]+)\[0\]", source)) == WEIGHTS_ONLY


# torch reads a jagged tensor's offsets before it has read them from a legacy file: what it finds
# in that memory decides whether it raises.
BY_CHANCE = {"old/torch-2.4.1-py38/nested.legacy.pth", "old/torch-2.6.0-py39/nested.legacy.pth"}


@pytest.mark.slow
def test_the_advice_is_what_torch_load_does() -> None:
    """Said to load with weights_only: it does. Said not to: it does not."""
    for file in FILES:
        try:
            with ptinspect.open(file) as document:
                advice = load_advice(document)
        except ptinspect.PtInspectError:
            assert not torch_says()["loads"][str(file)], file
            continue
        if file.relative_to(FIXTURES).as_posix() in BY_CHANCE:
            assert not advice.weights_only, file
        else:
            assert advice.weights_only == torch_says()["loads"][str(file)], (file, advice)
