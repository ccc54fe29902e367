"""That the harmful files are harmful: each is loaded as its readers would, in a process that stops
itself at the moment it would act. What no name or module of this machine is there for is left out.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.safety.corpus.malicious import samples
from tests.safety.corpus.sample import Sample

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.skipif(
        sys.implementation.name != "cpython", reason="what acts is CPython's own unpickler"
    ),
]


def attempts(chosen: Iterable[Sample], folder: Path, *modules: str) -> dict[str, str]:
    """What each was about to do. Nothing may have been done."""
    chosen = list(chosen)
    lines = [
        json.dumps(
            {
                "data": base64.b64encode(sample.data).decode(),
                "load": sample.load,
                "seen": sample.seen,
                "needs": sample.needs,
            }
        )
        for sample in chosen
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.safety.corpus.refusing", *modules],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(chosen), done.stderr[-2000:]
    assert list(folder.iterdir()) == []
    return {sample.name: each for sample, each in zip(chosen, said, strict=True)}


@pytest.mark.slow
def test_plain_pickle_does_it(tmp_path: Path) -> None:
    chosen = [s for s in samples() if s.load and not {"torch", "numpy"} & set(s.needs)]
    made = attempts(chosen, tmp_path)
    assert [name for name, said in made.items() if not said] == []
    acted = [name for name, said in made.items() if not said.startswith("missing")]
    assert len(acted) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("module", ["numpy", "torch"])
def test_its_readers_do_it(module: str, tmp_path: Path) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    chosen = [s for s in samples() if s.load and module in s.needs]
    made = attempts(chosen, tmp_path, module)
    assert [name for name, said in made.items() if not said] == []
    acted = [name for name, said in made.items() if not said.startswith("missing")]
    assert len(acted) >= 10
