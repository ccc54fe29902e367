"""The seed's own story: what its checkpoint lacks, and that nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume import check_resume
from tests.conftest import FIXTURES
from tests.proofs.seed import seed_files

torch = pytest.importorskip("torch")

from tests.proofs.test_faults import faulty, kinds  # noqa: E402


def test_the_seeds_checkpoint_lacks_the_state_of_shuffling(
    tmp_path: Path, workers: Workers
) -> None:
    """S7: training goes on, but with another order of the data."""
    given = {"path": str(FIXTURES / "seed/checkpoint-6.pt"), **seed_files(tmp_path)}
    report = faulty(workers, given)
    assert kinds(report) == ["rng-shuffling"]
    assert report.causes[0].fixes == ("rng-torch",)
    assert (report.first.step, report.first.what) == (1, "the batch")  # type: ignore[union-attr]


def test_the_seeds_training_goes_on_bit_for_bit_once_the_state_is_kept(
    tmp_path: Path, workers: Workers
) -> None:
    """S5 to S7, with the one entry that the seed lacks."""
    made = torch.load(FIXTURES / "seed/checkpoint-6.pt", weights_only=True)
    made["rng_state"] = torch.get_rng_state()
    torch.save(made, tmp_path / "kept.pt")
    files = seed_files(tmp_path)
    report = check_resume(str(tmp_path / "kept.pt"), **files, steps=5, workers=workers)
    assert (report.verdict, report.causes) == ("same", []), report.text()
    assert report.losses[0] == report.losses[1]
    assert len(report.losses[0]) == 10
