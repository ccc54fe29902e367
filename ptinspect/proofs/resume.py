"""`check resume`: does the file hold all that an exact resume of this training needs?

Train 2N steps without interruption and save after N of them, in the layout of the checkpoint. Load
that in a new process, train N more steps, and compare bit for bit. If they differ, try the usual
causes: fix exactly one and run again in a new process.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

from ptinspect.document import open as open_document
from ptinspect.document.optim.check import check_optimizers
from ptinspect.errors import PtInspectError, add_error_path
from ptinspect.proofs.plan import (
    DEFAULT_STEPS,
    TrainingOptions,
    folder_job,
    make_plan,
    reproduce_command,
)
from ptinspect.proofs.processes import TIMEOUT, Watch, Workers, worker_pool
from ptinspect.proofs.resume_causes import (
    Answer,
    Cause,
    Difference,
    TrainingRuns,
    batch_order_differs,
    differing_names,
    first_difference,
    first_trace_difference,
    make_cause,
    possible_causes,
    same_contents,
)
from ptinspect.proofs.resume_report import Crossing, ResumeReport, check_plot_path, plot_losses
from ptinspect.text import join_names

OTHER_DEVICE = "cpu"


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
    no_cross: bool = False,
    trust: bool = False,
    timeout: float = TIMEOUT,
    plot: str | None = None,
    force: bool = False,
    progress: Watch | None = None,
    workers: Workers | None = None,
) -> ResumeReport:
    """Prove that a file holds all that an exact resume of this training needs, or find what lacks.

    Args:
        path: a checkpoint, or a folder of the Trainer of Hugging Face or of accelerate.
        model: the model's class, or a function that returns the model, as `FILE.py:NAME`.
        data: a function that returns batches, as `FILE.py:NAME`.
        loss: a loss of torch.nn.
        optimizer_class: a class of torch.optim, if the file does not record it.
        entry: path of the weights in the file.
        steps: steps before the save, and as many after it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        seed: seed of the random number generators.
        allow_tf32: let CUDA calculate in TF32.
        no_cross: with CUDA, do not resume on the CPU too.
        trust: load the file even if it has names that are not on the allowlist.
        timeout: seconds that one child process may take.
        plot, force: a picture of both loss curves to write, and whether to overwrite it.
        progress: called with the progress of the proof.
        workers: child processes to use, in which torch runs, instead of new ones.

    Raises:
        UnsafeError: the file must not be loaded.
        PtInspectError: the proof cannot be run.
    """
    options = TrainingOptions(model, data, loss, optimizer_class, steps, device, seed, allow_tf32)
    if plot is not None:
        check_plot_path(plot, force)
    with add_error_path(path), worker_pool(workers, timeout, progress) as pool:
        more: dict[str, Any] = {"entry": entry, "trust": trust, "no_cross": no_cross}
        reproduce = reproduce_command("resume", path, options, **more)
        file = pool.new_path(".pt") if os.path.isdir(path) else path
        if file != path:
            pool.run({**folder_job(path, model, trust), "target": file})
        plan = make_plan(file, model=model, entry=entry, trust=trust)
        crosses = should_cross(device) and not no_cross
        runs = TrainingRuns(file, plan, asdict(options), pool, pool.new_path(""), crosses)
        report = replace(_prove(runs, reproduce), path=path)
    if plot is not None:
        plot_losses(plot, report.losses, report.steps, force)
    return report


def _optimizer_findings(path: str, plan: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return what `check optimizer` calls wrong and undecided in the optimizers of a plan."""
    paths = [tuple(item["path"]) for item in plan["optimizers"]]
    with open_document(path) as document:
        results = [r for r in check_optimizers(document) if r.optimizer.path in paths]
    wrong = [str(fault) for result in results for fault in result.faults]
    return wrong, [str(fault) for result in results for fault in result.undecided]


def _prove(runs: TrainingRuns, reproduce: str) -> ResumeReport:
    workers, jobs_before = runs.workers, runs.workers.jobs
    workers.announce("training without interruption")
    uninterrupted = runs.uninterrupted()
    settled = {key: uninterrupted[key] for key in ("device", "warn_only")}
    runs = replace(runs, options={**runs.options, **settled})
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
            names = dict.fromkeys(uninterrupted["nondeterministic"] + repeated["nondeterministic"])
            variant = ":named" if names else ""
            causes = [make_cause(f"non-determinism{variant}", names=join_names(names, 3))]
        else:
            causes = _CauseSearch(runs, uninterrupted, resumed).run()
            if not causes and uninterrupted["rnn_dropout"]:
                causes = _cudnn_causes(runs)
            verdict = "differs"
    wrong, undecided = _optimizer_findings(runs.path, runs.plan)
    wrong += uninterrupted["wrong"]
    if difference is None and wrong:
        verdict = "inconsistent"
    elif difference is None and uninterrupted["scheduler_missing"]:
        verdict = "undecided"
    crossings = []
    if runs.keep_end_state and (difference is None or (verdict == "differs" and causes)):
        crossings = cross_both_ways(runs, uninterrupted, causes)
    losses, saved_step = uninterrupted["losses"], uninterrupted["saved"]["step"]
    return ResumeReport(
        path=runs.path,
        verdict=verdict,
        first=difference,
        causes=causes,
        notes=_notes(uninterrupted, resumed, difference),
        training=uninterrupted,
        losses=(losses, losses[:saved_step] + resumed["losses"]),
        steps=saved_step,
        processes=workers.jobs - jobs_before,
        crossings=crossings,
        wrong=wrong,
        undecided=undecided + uninterrupted["undecided"],
        environment=uninterrupted["environment"],
        reproduce=reproduce,
    )


@dataclass(frozen=True, slots=True)
class _CauseSearch:
    """Tries the possible causes of the difference between two runs."""

    runs: TrainingRuns
    uninterrupted: Answer
    resumed: Answer

    def run(self) -> list[Cause]:
        """Return the one cause whose fixes make the bits agree, else the fewest that do."""
        causes = possible_causes(self.uninterrupted, self.resumed, self.runs.plan)
        for cause in causes:
            self.runs.workers.announce(f"trying: {cause.kind}")
            if self._agrees(cause.fixes):
                return [self._with_consumer(cause, ())]
        # Replayed data draw no random numbers, so that no other cause could be proved with them.
        without_replay = [cause for cause in causes if "replay" not in cause.fixes]
        for candidates, replay in ((without_replay, False), (causes, True)):
            causes = self._with_hidden_causes(candidates, replay)
            if causes and self._agrees(_all_fixes(causes)):
                break
        else:
            return []
        for cause in causes[::-1]:  # the general causes come first, and go last
            rest = [other for other in causes if other is not cause]
            self.runs.workers.announce(f"without: {cause.kind}")
            if rest and self._agrees(_all_fixes(rest)):
                causes = rest
        return [
            self._with_consumer(cause, _all_fixes([c for c in causes if c is not cause]))
            for cause in causes
        ]

    def _agrees(self, fixes: tuple[str, ...]) -> bool:
        resumed = self.runs.resumed(self.uninterrupted, fixes)
        return first_difference(self.uninterrupted, resumed) is None

    def _with_hidden_causes(self, causes: list[Cause], replay: bool) -> list[Cause]:
        """Add causes that show only once the others are fixed, such as after a failed load."""
        for _ in range(3):
            if not causes:
                break
            resumed = self.runs.resumed(self.uninterrupted, _all_fixes(causes))
            if first_difference(self.uninterrupted, resumed) is None:
                break
            tried = {cause.fixes for cause in causes}
            more = [
                cause
                for cause in possible_causes(self.uninterrupted, resumed, self.runs.plan)
                if cause.fixes not in tried and (replay or "replay" not in cause.fixes)
            ]
            if not more:
                break
            causes = [*causes, *more]
        return causes

    def _with_consumer(self, cause: Cause, other_fixes: tuple[str, ...]) -> Cause:
        """Add to a cause of kind `rng` whether the model or the data draws the random numbers.

        If the bits agree once the resumed training gets the batches of the uninterrupted one,
        then only the data draw.
        """
        if cause.kind != "rng":
            return cause
        dropout = self.uninterrupted["dropout"]
        if not batch_order_differs(self.uninterrupted, self.resumed):
            name = "dropout" if dropout else "rng:model"
        elif self._agrees((*other_fixes, "replay")):
            same = same_contents(self.uninterrupted, self.resumed)
            name = "rng-shuffling:order" if same else "rng-shuffling:values"
        else:
            name = "rng:all"
        drawer = "dropout" if dropout else "the model"
        return replace(make_cause(name, cause=cause.message, drawer=drawer), fixes=cause.fixes)


def _all_fixes(causes: list[Cause]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fix for cause in causes for fix in cause.fixes))


def _cudnn_causes(runs: TrainingRuns) -> list[Cause]:
    """Return the cause cudnn-dropout if a resume is exact once cuDNN is switched off.

    Source: dropout_state_cache in ATen/native/cudnn/RNN.cpp.
    """
    runs.workers.announce("trying: cudnn-dropout")
    options = {**runs.options, "cudnn": False}
    runs = replace(runs, options=options, files=runs.workers.new_path(""))
    uninterrupted = runs.uninterrupted()
    if first_difference(uninterrupted, runs.resumed(uninterrupted)) is not None:
        return []
    return [make_cause("cudnn-dropout")]


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


# --- Resume on another device ---


def should_cross(device: str) -> bool:
    """Return True if the user named CUDA, so that the CPU is another device."""
    return device.partition(":")[0] == "cuda"


def cross_both_ways(
    runs: TrainingRuns, uninterrupted: Answer, causes: list[Cause]
) -> list[Crossing]:
    """Resume on the other device, and the other device's training on this one.

    The fixes of `causes`, which a single device needs already, are applied here too.
    """
    fixes = tuple(dict.fromkeys(["replay", *(fix for cause in causes for fix in cause.fixes)]))
    device = uninterrupted["device"]
    crossing = _cross(runs, uninterrupted, OTHER_DEVICE, fixes)
    try:
        runs.workers.announce(f"training without interruption on {OTHER_DEVICE}")
        other_runs = replace(runs.on_device(OTHER_DEVICE), files=runs.workers.new_path(""))
        other_answer = other_runs.uninterrupted()
    except PtInspectError as error:
        failed = Crossing(OTHER_DEVICE, device, None, f"it cannot be run: {error.message}")
        return [crossing, failed]
    return [crossing, _cross(other_runs, other_answer, device, fixes)]


def _cross(
    runs: TrainingRuns, uninterrupted: Answer, resumed_on: str, fixes: tuple[str, ...]
) -> Crossing:
    saved_on = uninterrupted["device"]
    runs.workers.announce(f"resuming on {resumed_on} what was saved on {saved_on}")
    end_state = runs.workers.new_path(".ends")
    try:
        resumed = runs.on_device(resumed_on).resumed(uninterrupted, fixes, end_state)
    except PtInspectError as error:
        return Crossing(saved_on, resumed_on, None, f"it cannot be run: {error.message}")
    if resumed.get("failed_at") == "load":
        return Crossing(saved_on, resumed_on, [f"loading fails: {resumed['error']}"])
    loaded = differing_names(uninterrupted["saved"]["state"], resumed["state"])
    if "error" in resumed:
        return Crossing(saved_on, resumed_on, loaded, f"a step fails: {resumed['error']}")
    if draws_on_cuda(uninterrupted) or draws_on_cuda(resumed):
        reason = "the model draws random numbers, and each device draws its own"
        return Crossing(saved_on, resumed_on, loaded, reason)
    unit = uninterrupted["autocast"] or ("float16" if runs.options["allow_tf32"] else None)
    job = {
        "kind": "compare", "end_states": [f"{runs.files}.ends", end_state], "unit": unit,
        "options": {"device": "cpu", "allow_tf32": False},
    }  # fmt: skip
    answer = runs.workers.run(job)
    distances = {key: answer[key] for key in ("first", "losses", "type")}
    tensors = tuple((dtype, ulps, name) for dtype, (ulps, name) in answer["tensors"].items())
    return Crossing(saved_on, resumed_on, loaded, tensors=tensors, unit=unit, **distances)


def draws_on_cuda(answer: Answer) -> bool:
    """Return True if the model of a run drew from CUDA's random number generators."""
    before = answer["saved"]["rng"] if "saved" in answer else answer["rng"]
    return bool(before.get("rng cuda") != answer["trace"][-1]["rng"].get("rng cuda"))
