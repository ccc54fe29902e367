"""Thousands of damaged files: each is answered, or refused with one error; nothing is executed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.corpus import hostile, mutants
from tests.corpus.files import FIXTURES
from tests.tiers import rounds

ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("PTINSPECT_MUTANTS", rounds(20_000)))
SEED = int(os.environ.get("PTINSPECT_MUTANTS_SEED", "20240613"))
WORKERS = 4
"""Tests, so that xdist spreads them; each looks at its share in a process of its own."""


@pytest.mark.fuzz
@pytest.mark.parametrize("worker", range(WORKERS))
def test_a_mutant_is_shown_or_refused(worker: int) -> None:
    told = run(worker, WORKERS, COUNT)
    assert not told["wrong"], "\n".join(told["wrong"][:20])
    looked_at = sum(told["ends"].values())
    assert looked_at == len(range(worker, COUNT, WORKERS))
    # Were all refused at the first byte, or all shown as if whole, this would test nothing.
    assert told["ends"]["shown"] > looked_at // 20
    assert told["ends"]["damaged"] > looked_at // 20


def run(worker: int, workers: int, count: int) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.corpus.hostile"]
    command += [str(number) for number in (worker, workers, count, SEED)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_the_watch_sees_what_it_is_for() -> None:
    """A hook cannot be removed, so it is tried in a process of its own."""
    code = """
import os, sys
from tests.corpus.hostile import Acted, Watch
watch = Watch()
watch.armed = True
seen = 0
for act in (
    lambda: os.system("true"),
    lambda: exec("1"),
    lambda: __import__("tabnanny"),
    lambda: open(os.devnull, "w"),
    lambda: os.remove("nowhere"),
):
    try:
        act()
    except Acted:
        seen += 1
open(os.devnull, "rb").close()
watch.armed = False
sys.exit(seen)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == 5


def test_mutants_differ_from_the_file_and_come_again() -> None:
    data = (FIXTURES / "seed" / "model.pth").read_bytes()
    made = [mutants.mutant(data, Random(number)) for number in range(200)]
    assert made == [mutants.mutant(data, Random(number)) for number in range(200)]
    assert len(set(made)) > 180
    assert sum(one == data for one in made) < 10


def test_every_small_fixture_is_mutated() -> None:
    files = hostile.sources()
    assert len(files) >= 400
    assert rounds(20_000) <= COUNT or "PTINSPECT_MUTANTS" in os.environ
    assert {hostile.made(files, number, SEED)[0] for number in range(5000)} >= {"soup", files[0][0]}
