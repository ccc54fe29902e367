"""No file of the adversary is clean, nearly all are dangerous, and each of them acts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

from ptinspect.safety.scan import scan
from tests.safety.corpus.adversary import FILE, attacks, write
from tests.safety.corpus.malicious import RANK
from tests.safety.corpus.sample import MARK

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adversary")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(folder, attacks())
    return folder


def test_harm_is_seen(folder: Path) -> None:
    verdicts = Counter()
    for name, attack in attacks().items():
        report = scan(folder / name / FILE)
        verdicts[report.verdict] += 1
        found = [finding.chain for finding in report.all_findings()], report.errors
        assert RANK[report.verdict] >= RANK[attack.least], (name, found)
        assert not any("a bug in ptinspect" in error.message for error in report.errors), name
    assert not list(folder.rglob(MARK))
    assert verdicts["clean"] == verdicts["pointer"] == 0
    assert verdicts.total() >= 250
    assert verdicts["dangerous"] >= 0.95 * verdicts.total(), verdicts


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_every_file_acts_in_its_reader(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    read = {name: attack.load for name, attack in attacks().items() if attack.load}
    assert len(read) >= 250
    write(tmp_path, read)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.safety.corpus.acting", str(tmp_path)],
        input="\n".join(map(json.dumps, read.items())),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    acted = dict(zip(read, map(json.loads, done.stdout.split()), strict=True))
    assert [name for name, did in acted.items() if not did] == [], done.stderr[-3000:]


def test_payloads_only_touch_a_marker() -> None:
    for name, attack in attacks().items():
        for word in (b"rm -", b"curl ", b"/bin/sh -", b"http", b"sudo"):
            assert word not in attack.data.replace(b"https://git-lfs", b""), name
