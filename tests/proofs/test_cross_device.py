"""From one device to another. Here both are the CPU, unless there is CUDA; the distances are made
by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ptinspect.proofs import resume as proof
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume import check_resume
from ptinspect.proofs.resume_report import TOLERANCE, Crossing, ResumeReport

torch = pytest.importorskip("torch")

from tests.proofs.trainings import DROPOUT, NET, SHUFFLED, Training  # noqa: E402


def crossed(workers: Workers, given: dict[str, Any], **more: Any) -> ResumeReport:
    return check_resume(given.pop("path"), **given, **more, steps=3, workers=workers)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "should_cross", lambda device: True)


@pytest.mark.slow
def test_both_ways_are_run_and_measured(tmp_path: Path, workers: Workers, always: None) -> None:
    training = Training(tmp_path)
    report = crossed(workers, training.save(training.parts()))
    assert [crossing.label for crossing in report.crossings] == ["cpu → cpu", "cpu → cpu"]
    for crossing in report.crossings:
        assert (crossing.loaded, crossing.first, crossing.losses, crossing.reason) == (
            [],
            0,
            0,
            None,
        )
        assert {dtype for dtype, _, _ in crossing.tensors} == {"float32", "int64"}
    assert (report.exit_code, report.processes) == (0, 7)
    assert "cpu → cpu   the same bits after loading; losses within 0 ULPs" in report.text()


@pytest.mark.slow
def test_what_a_single_device_lacks_is_mended_first(
    tmp_path: Path, workers: Workers, always: None
) -> None:
    """The order of the batches is not the other device's fault."""
    training = Training(tmp_path, data=SHUFFLED)
    report = crossed(workers, training.save(training.parts()))
    assert [cause.kind for cause in report.causes] == ["rng-shuffling"]
    assert [(crossing.loaded, crossing.losses) for crossing in report.crossings] == [([], 0)] * 2
    assert report.exit_code == 1


@pytest.mark.slow
def test_a_step_that_fails_elsewhere_is_told(
    tmp_path: Path, workers: Workers, always: None
) -> None:
    """A model that runs only where it was trained: here, only from the seed of that training."""
    picky = NET.replace(
        "        return self.head(",
        "        assert not (torch.initial_seed() == 1 and self.again), 'not here'\n"
        "        return self.head(",
    ).replace(
        "        super().__init__()",
        "        super().__init__()\n        import os\n"
        "        self.again = os.path.exists(__file__ + '.again')",
    )
    training = Training(tmp_path, net=NET)
    given = training.save(training.parts(), picky)
    kept = proof.cross_both_ways

    def then(*args: Any) -> Any:
        (tmp_path / "net.py.again").touch()
        return kept(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "cross_both_ways", then)
        report = crossed(workers, given)
    assert [str(crossing.reason) for crossing in report.crossings] == [
        "a step fails: AssertionError: not here"
    ] * 2
    assert report.exit_code == 0  # it was not asked to run there
    assert "the rest is not compared" in report.text()


@pytest.mark.slow
def test_no_crossing_on_request(tmp_path: Path, workers: Workers, always: None) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    report = crossed(workers, given, no_cross=True)
    assert (report.exit_code, report.crossings) == (0, [])
    assert report.reproduce.endswith(" --steps 3 --no-cross")


def made(**more: Any) -> Crossing:
    return replace(Crossing("cuda:0", "cpu", []), **more)


def test_the_verdict_of_a_crossing() -> None:
    most = TOLERANCE["float32"]
    assert made().same
    assert made(first=most).same
    assert not made(first=most + 1).same
    assert made(losses=10 * most).same  # told, but no proof of anything
    assert not made(loaded=["weights fc"]).same
    assert made(loaded=None, reason="it cannot be run").same
    assert made(first=TOLERANCE["bfloat16"], type="bfloat16").same
    assert not made(first=TOLERANCE["bfloat16"] + 1, unit="bfloat16").same
    assert not made(first=float("inf")).same


def test_the_words_of_a_crossing() -> None:
    most = TOLERANCE["float32"]
    far = made(losses=2.0 * most, tensors=(("float32", 3.0 * most, "weights fc"),))
    assert far.out_of_tolerance == [
        "the losses by 8192 ULPs of float32",
        "weights fc by 1.229e+04 ULPs of float32",
    ]
    assert "out of tolerance: the losses by 8192 ULPs" in far.text()
    near = made(losses=3, unit="bfloat16", tensors=(("float32", 2.0, "weights fc"),))
    assert near.out_of_tolerance == []
    assert near.text().endswith(
        "losses within 3 ULPs, float32 tensors within 2 (tolerance: 16 of bfloat16)"
    )
    assert made(loaded=["weights a", "weights b"]).text() == (
        "not the same after loading: weights a, and 1 more"
    )
    assert made(loaded=None, reason="x").as_dict()["verdict"] == "not-compared"
    assert made(loaded=["a"]).as_dict()["verdict"] == "differs"
    assert near.as_dict()["tensors"] == [
        {"name": "weights fc", "dtype": "float32", "ulps": 2.0, "tolerance": 16}
    ]


def test_distances_of_two_trainings(tmp_path: Path) -> None:
    """The job that measures: a tensor one bit off, and a loss."""
    from ptinspect.proofs.worker.jobs import compare_end_states

    weights = {"weights a": torch.ones(3), "weights b": torch.zeros(2), "buffer n": torch.tensor(3)}
    one = {"losses": torch.tensor([1.0, 0.5], dtype=torch.float64), "dtype": "float32"}
    other = {**one, "losses": one["losses"] * (1 + 2**-22)}
    bent = {**weights, "weights b": torch.tensor([0.0, 1e-45])}
    paths = [str(tmp_path / "one"), str(tmp_path / "other")]
    torch.save({**one, "state": weights}, paths[0])
    torch.save({**other, "state": bent}, paths[1])
    found = compare_end_states({"end_states": paths, "unit": None})
    assert (found["first"], found["losses"], found["type"]) == (2, 2, "float32")
    assert found["tensors"] == {"float32": [1, "weights b"], "int64": [0, "buffer n"]}
    found = compare_end_states({"end_states": paths, "unit": "bfloat16"})
    assert found["type"] == "bfloat16"
    assert 0 < found["losses"] < 0.1


def test_what_draws_on_the_device_is_not_compared() -> None:
    begin, end = {"rng": {"rng cuda": "a"}}, {"rng": {"rng cuda": "b"}}
    assert proof.draws_on_cuda({"saved": begin, "trace": [end]})
    assert not proof.draws_on_cuda({"saved": begin, "trace": [begin]})
    assert proof.draws_on_cuda({**begin, "trace": [end]})
    assert not proof.draws_on_cuda(
        {"rng": {"rng torch": "a"}, "trace": [{"rng": {"rng torch": "b"}}]}
    )


def test_only_who_names_cuda_crosses() -> None:
    assert [proof.should_cross(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == [
        False, False, True, True,
    ]  # fmt: skip


# --- where there is CUDA ------------------------------------------------------------------

SGD = {"make": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)}


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_to_cpu_and_back_within_the_tolerance(
    device: str, tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path, **SGD)
    report = crossed(workers, training.save(training.parts()), device=device)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert [crossing.label for crossing in report.crossings] == [
        f"{device} → cpu",
        f"cpu → {device}",
    ]
    for crossing in report.crossings:
        assert (crossing.loaded, crossing.reason) == ([], None), report.text()
        assert crossing.out_of_tolerance == [], report.text()


@pytest.mark.slow
@pytest.mark.gpu
def test_dropout_on_cuda_with_the_states_of_its_generators(
    tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path, net=DROPOUT, data=SHUFFLED)
    states = {**training.rng(), "cuda_rng_state": torch.cuda.get_rng_state_all()}
    given = training.save({**training.parts(), **states})
    report = crossed(workers, dict(given), device="cuda")
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert all("each device draws its own" in str(one.reason) for one in report.crossings)
    one = {**training.parts(), **training.rng(), "cuda_rng_state": torch.cuda.get_rng_state()}
    torch.save(one, given["path"])
    assert crossed(workers, dict(given), device="cuda").verdict == "same"


@pytest.mark.slow
@pytest.mark.gpu
def test_dropout_on_cuda_without_them_is_named(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, net=DROPOUT)
    given = training.save({**training.parts(), **training.rng()})
    report = crossed(workers, given, device="cuda")
    assert [cause.fixes for cause in report.causes] == [("rng-cuda",)], report.text()


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["amp", "scaler"])
def test_mixed_precision_on_cuda(kind: str, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path, **SGD, **{kind: True})
    report = crossed(workers, training.save(training.parts()), device="cuda")
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    unit = "bfloat16" if kind == "amp" else None
    assert {crossing.unit for crossing in report.crossings} == {unit}


@pytest.mark.slow
@pytest.mark.gpu
def test_tf32_is_off_unless_it_is_allowed(tmp_path: Path, workers: Workers) -> None:
    """A product whose exact result TF32's ten bits cannot hold."""
    net = NET.replace(
        "        return self.head(",
        "        one = torch.full((64, 64), 1 + 2**-12, device=x.device)\n"
        "        exact = bool(((one @ torch.eye(64, device=x.device)) == one).all())\n"
        "        x = x * (1.0 if exact else 0.0)\n"
        "        return self.head(",
    )
    training = Training(tmp_path, net=net, **SGD)
    given = training.save(training.parts())
    exact = crossed(workers, dict(given), device="cuda")
    loose = crossed(workers, dict(given), device="cuda", allow_tf32=True)
    assert exact.verdict == loose.verdict == "same"
    assert exact.crossings[0].out_of_tolerance == []
    assert exact.losses != loose.losses or torch.cuda.get_device_capability()[0] < 8


@pytest.mark.slow
@pytest.mark.gpu
def test_a_round_trip_on_cuda(tmp_path: Path, workers: Workers) -> None:
    from ptinspect.proofs.roundtrip import check_roundtrip

    training = Training(tmp_path)
    given = training.save(training.parts())
    report = check_roundtrip(given.pop("path"), **given, workers=workers, device="cuda")
    assert (report.exit_code, report.device) == (0, "cuda"), report.text()
