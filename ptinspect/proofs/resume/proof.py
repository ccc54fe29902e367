"""`check resume`: does the file hold all that an exact resume of this training needs?

Train 2N steps without interruption and save after N of them, in the layout of the checkpoint. Load
that in a new process, train N more steps, and compare bit for bit. If they differ, try the usual
causes: fix exactly one and run again in a new process.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from ptinspect.errors import add_error_path
from ptinspect.proofs.plan import DEFAULT_STEPS, TrainingOptions, make_plan
from ptinspect.proofs.processes import TIMEOUT, Watch, Workers, worker_pool
from ptinspect.proofs.resume import cross_device
from ptinspect.proofs.resume.causes import Cause, batch_order_differs, possible_causes
from ptinspect.proofs.resume.report import ResumeReport, check_plot_path, plot_losses
from ptinspect.proofs.resume.runs import (
    Answer,
    Difference,
    TrainingRuns,
    first_difference,
    first_trace_difference,
)


def check_resume(
    path: str,
    *,
    model: str | None = None,
    data: str | None = None,
    loss: str = "MSELoss",
    optimizer_class: str | None = None,
    entry: str | None = None,
    steps: int = DEFAULT_STEPS,
    device: str = "auto",
    seed: int = 0,
    allow_tf32: bool = False,
    trust: bool = False,
    timeout: float = TIMEOUT,
    plot: str | None = None,
    force: bool = False,
    progress: Watch | None = None,
    workers: Workers | None = None,
) -> ResumeReport:
    """Prove that a file holds all that an exact resume of this training needs, or find what lacks.

    torch runs in child processes.

    Args:
        path: a checkpoint.
        model: the model's class, or a function that returns the model, as `FILE.py:NAME`.
        data: a function that returns batches, as `FILE.py:NAME`.
        loss: a loss of torch.nn.
        optimizer_class: a class of torch.optim, if the file does not record it.
        entry: path of the weights in the file.
        steps: steps before the save, and as many after it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. With CUDA, a resume on the CPU is tried too.
        seed: seed of the random number generators.
        allow_tf32: let CUDA calculate in TF32.
        trust: load the file even if it has names that are not on the allowlist.
        timeout: seconds that one child process may take.
        plot: a picture of both loss curves to write.
        force: overwrite `plot`.
        progress: called with the progress of the proof.
        workers: child processes to use, instead of new ones.

    Raises:
        UnsafeError: the file must not be loaded.
        PtInspectError: the proof cannot be run.
    """
    with add_error_path(path):
        options = TrainingOptions(
            model, data, loss, optimizer_class, steps, device, seed, allow_tf32
        )
    if plot is not None:
        check_plot_path(plot, force)
    with add_error_path(path):
        plan = make_plan(path, model=model, entry=entry, trust=trust)
        with worker_pool(workers, timeout, progress) as pool:
            report = _prove(TrainingRuns.create(path, plan, asdict(options), pool))
    if plot is not None:
        plot_losses(plot, report.losses, report.steps, force)
    return report


def _prove(runs: TrainingRuns) -> ResumeReport:
    workers, first_job = runs.workers, runs.workers.jobs
    crosses = cross_device.should_cross(runs.options["device"])
    runs = replace(runs, keep_end_state=crosses)
    workers.announce("training without interruption")
    uninterrupted = runs.uninterrupted()
    runs = replace(runs, options={**runs.options, "device": uninterrupted["device"]})
    workers.announce("resuming in a new process")
    resumed = runs.resumed(uninterrupted)
    difference = first_difference(uninterrupted, resumed)
    verdict, causes = "same", list[Cause]()
    if difference is not None:
        workers.announce("training without interruption again")
        repeated = runs.uninterrupted(save=False)
        nondeterminism = first_trace_difference(uninterrupted["trace"], repeated["trace"])
        if nondeterminism is not None:
            verdict, difference = "not-deterministic", nondeterminism
            causes = [_nondeterminism(uninterrupted, repeated)]
        else:
            verdict, causes = "differs", _find_causes(runs, uninterrupted, resumed)
    crossings = []
    if crosses and (verdict == "same" or (verdict == "differs" and causes)):
        crossings = cross_device.cross_both_ways(runs, uninterrupted, causes)
    step = uninterrupted["saved"]["step"]
    losses = uninterrupted["losses"]
    return ResumeReport(
        runs.path,
        verdict,
        difference,
        causes,
        _notes(uninterrupted, resumed, difference),
        uninterrupted,
        (losses, losses[:step] + resumed["losses"]),
        step,
        workers.jobs - first_job,
        crossings,
    )


def _find_causes(runs: TrainingRuns, uninterrupted: Answer, resumed: Answer) -> list[Cause]:
    """Return the one cause whose fixes make the bits agree, else the fewest that do together."""
    causes = possible_causes(uninterrupted, resumed, runs.plan)
    for cause in causes:
        runs.workers.announce(f"trying: {cause.kind}")
        if _agrees(runs, uninterrupted, cause.fixes):
            return [_with_consumer(runs, cause, uninterrupted, resumed, ())]
    causes = _with_hidden_causes(runs, causes, uninterrupted)
    if not causes or not _agrees(runs, uninterrupted, _all_fixes(causes)):
        return []
    for cause in causes[::-1]:  # the general ones come first, and go last
        rest = [other for other in causes if other is not cause]
        runs.workers.announce(f"without: {cause.kind}")
        if rest and _agrees(runs, uninterrupted, _all_fixes(rest)):
            causes = rest
    return [
        _with_consumer(
            runs,
            cause,
            uninterrupted,
            resumed,
            _all_fixes([other for other in causes if other is not cause]),
        )
        for cause in causes
    ]


def _with_hidden_causes(
    runs: TrainingRuns, causes: list[Cause], uninterrupted: Answer
) -> list[Cause]:
    """Add causes that show only once the other ones are fixed, such as after a failed load."""
    for _ in range(3):
        if not causes:
            break
        resumed = runs.resumed(uninterrupted, _all_fixes(causes))
        if first_difference(uninterrupted, resumed) is None:
            break
        tried = {cause.fixes for cause in causes}
        candidates = possible_causes(uninterrupted, resumed, runs.plan)
        more = [cause for cause in candidates if cause.fixes not in tried]
        if not more:
            break
        causes = [*causes, *more]
    return causes


def _agrees(runs: TrainingRuns, uninterrupted: Answer, fixes: tuple[str, ...]) -> bool:
    return first_difference(uninterrupted, runs.resumed(uninterrupted, fixes)) is None


def _all_fixes(causes: list[Cause]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fix for cause in causes for fix in cause.fixes))


def _with_consumer(
    runs: TrainingRuns,
    cause: Cause,
    uninterrupted: Answer,
    resumed: Answer,
    other_fixes: tuple[str, ...],
) -> Cause:
    """Add to a cause of kind `rng` whether the model or the data draws the random numbers.

    If the bits agree once the resumed training gets the batches of the uninterrupted one, then
    only the data draw.
    """
    if cause.kind != "rng":
        return cause
    drawer = "dropout" if uninterrupted["dropout"] else "the model"
    if not batch_order_differs(uninterrupted, resumed):
        return replace(
            cause,
            kind="dropout" if uninterrupted["dropout"] else cause.kind,
            message=f"{cause.message}: {drawer} draws other numbers after a resume",
        )
    if _agrees(runs, uninterrupted, (*other_fixes, "replay")):
        message = f"{cause.message}: the data are shuffled in another order after a resume"
        return replace(cause, kind="rng-shuffling", message=message)
    message = f"{cause.message}: the order of the data and {drawer} differ after a resume"
    return replace(cause, message=message)


def _nondeterminism(uninterrupted: Answer, repeated: Answer) -> Cause:
    operations = dict.fromkeys([*uninterrupted["nondeterministic"], *repeated["nondeterministic"]])
    if operations:
        names = ", ".join(list(operations)[:3])
        reason = f"torch has no deterministic way to do {names}"
    else:
        reason = "a kernel, or the code of the model or the data, is not deterministic"
    message = f"two trainings without any interruption differ: {reason}"
    return Cause("non-determinism", (), message)


def _notes(uninterrupted: Answer, resumed: Answer, difference: Difference | None) -> list[str]:
    notes = list(uninterrupted["notes"])
    if uninterrupted["batches_note"]:
        notes.append(uninterrupted["batches_note"])
    if difference is None:
        before, after = uninterrupted["saved"]["rng"], uninterrupted["trace"][-1]["rng"]
        resumed_rng = resumed["trace"][-1]["rng"]
        drawn = [name for name in after if after[name] != before.get(name)]
        if any(after[name] != resumed_rng.get(name) for name in drawn):
            notes.append(
                "random numbers are drawn whose state is not saved; nothing that was compared "
                "depends on them"
            )
    if resumed.get("error"):
        notes.append(f"after the resume: {resumed['error']}")
    return notes
