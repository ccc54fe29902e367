"""`check resume`: does training go on from this checkpoint exactly as if nothing had happened?

Trains 2N steps without interruption; saves after N of them as the checkpoint is laid out; loads
that in a new process and trains N more; compares bit for bit. Where they differ, the usual causes
are tried: each by mending exactly that and running again in a new process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ptinspect.errors import add_error_path
from ptinspect.proofs.options import Options, for_child, given, hired, with_options
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.resume import cross_device
from ptinspect.proofs.resume.causes import Answer, Cause, candidates, order
from ptinspect.proofs.resume.plan import plan_of
from ptinspect.proofs.resume.plot import plot_losses, ready

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Difference(NamedTuple):
    """step: counted from the load, 0 is just after it. what: such as `loss`, `weights fc.bias`.
    more: how many further things differ at that step."""

    step: int
    what: str
    more: int = 0

    def __str__(self) -> str:
        where = "just after loading" if not self.step else f"at step {self.step} after loading"
        more = f", and {self.more} more" if self.more else ""
        return f"{self.what}, {where}{more}"


class ResumeReport(NamedTuple):
    """verdict: `same`, `differs` or `not-deterministic`. first: what differs first. causes: each
    proved by mending it; together they are all that has to be mended. notes: what a reader should
    know. facts: of the runs. losses: of the uninterrupted and of the resumed run. steps: N as it
    was. processes: that ran a part of it. crossings: to another device, and back."""

    path: str
    verdict: str
    first: Difference | None
    causes: list[Cause]
    notes: list[str]
    facts: Answer
    losses: tuple[list[float], list[float]]
    steps: int
    processes: int
    crossings: list[cross_device.Crossing]

    @property
    def code(self) -> int:
        """0: proved. 1: it differs."""
        proved = self.verdict == "same" and all(crossing.same for crossing in self.crossings)
        return 0 if proved else 1

    def text(self) -> str:
        """For people, ending in a newline."""
        from ptinspect.proofs.resume.report import text_of

        return text_of(self)

    def json(self) -> dict[str, object]:
        """For programs."""
        from ptinspect.proofs.resume.report import json_of

        return json_of(self)


@with_options
def check_resume(
    path: str, *, plot: str | None = None, force: bool = False, **options: Unpack[Options]
) -> ResumeReport:
    """The proof; see the module, and `Options`. plot: a file for both loss curves, which `force`
    overwrites. UnsafeError where the checkpoint may not be loaded; PtInspectError where the proof
    cannot be run."""
    with add_error_path(path):
        made = given(options)
    if plot is not None:
        ready(plot, force)
    with add_error_path(path):
        plan = plan_of(path, model=made["model"], entry=made["entry"], trust=made["trust"])
        with hired(made) as workers:
            report = Proof(path, plan, for_child(made), workers).run()
    if plot is not None:
        plot_losses(plot, report.losses, report.steps, force)
    return report


class Proof:
    """A run of the proof. plan: where the parts of the training lie. options: of the jobs."""

    def __init__(
        self, path: str, plan: dict[str, Any], options: dict[str, Any], workers: Workers
    ) -> None:
        self.path, self.plan, self.options = path, plan, options
        self.workers = workers
        self.middle, self.snapshot = workers.file(".pt"), workers.file(".snapshot")
        self.ends = workers.file(".ends")
        self.begun = workers.jobs
        self.crosses = cross_device.crosses(options["device"])

    def on(self, device: str, files: Proof | None = None) -> Proof:
        """The same on another device, with files of its own or those of another."""
        made = Proof(self.path, self.plan, {**self.options, "device": device}, self.workers)
        made.crosses = True
        if files is not None:
            made.middle, made.snapshot = files.middle, files.snapshot
        return made

    def run(self) -> ResumeReport:
        """All of it."""
        self.workers.say("training without interruption")
        whole = self.whole(self.middle)
        self.options |= {"added": whole["added"], "per_step": whole["per_step"]}
        self.options["device"] = whole["device"]
        self.workers.say("resuming in a new process")
        resumed = self.resumed(whole)
        first = first_difference(whole, resumed)
        if first is None:
            return self.report("same", None, [], whole, resumed)
        self.workers.say("training without interruption again")
        again = self.whole(None)
        apart = first_of_traces(whole["trace"], again["trace"])
        if apart is not None:
            told = Cause("non-determinism", (), _loose(whole, again))
            return self.report("not-deterministic", apart, [told], whole, resumed)
        return self.report("differs", first, self.causes(whole, resumed), whole, resumed)

    def whole(self, save: str | None) -> Answer:
        """2N steps; after N of them it is saved, if there is a file for it."""
        options = {k: v for k, v in self.options.items() if k not in ("added", "per_step")}
        job: dict[str, Any] = {
            "kind": "whole", "plan": self.plan, "options": options, "path": self.path,
        }  # fmt: skip
        if save is not None:
            job |= {"save": save, "snapshot": self.snapshot}
            job["ends"] = self.ends if self.crosses else None
        return self.workers.run(job)

    def resumed(
        self, whole: Answer, mends: tuple[str, ...] = (), ends: str | None = None
    ) -> Answer:
        """N more, from what was saved. ends: a file for what they come to, on another device."""
        return self.workers.run(
            {
                "kind": "resumed",
                "plan": self.plan,
                "options": {
                    **self.options,
                    "added": whole["added"],
                    "per_step": whole["per_step"],
                },
                "path": self.middle,
                "snapshot": self.snapshot,
                "mends": list(mends),
                "steps": len(whole["trace"]) - whole["saved"]["step"],
                "ends": ends,
                "across": ends is not None,
            }
        )

    # --- causes ---------------------------------------------------------------------------

    def causes(self, whole: Answer, resumed: Answer) -> list[Cause]:
        """The cause whose mend alone makes the bits agree; else the fewest that do together."""
        found = candidates(whole, resumed, self.plan)
        for cause in found:
            self.workers.say(f"trying: {cause.kind}")
            if self.agrees(whole, cause.mends):
                return [self.named(cause, whole, resumed)]
        found = self.wider(found, whole, resumed)
        if not found or not self.agrees(whole, _all(found)):
            return []
        for cause in found[::-1]:  # the general ones first
            rest = [other for other in found if other is not cause]
            self.workers.say(f"without: {cause.kind}")
            if rest and self.agrees(whole, _all(rest)):
                found = rest
        others = {cause: [one for one in found if one is not cause] for cause in found}
        return [self.named(cause, whole, resumed, _all(others[cause])) for cause in found]

    def wider(self, found: list[Cause], whole: Answer, resumed: Answer) -> list[Cause]:
        """What a failed load, or one cause, had hidden: seen once all that is known is mended."""
        for _ in range(3):
            if not found:
                return found
            after = self.resumed(whole, _all(found))
            if first_difference(whole, after) is None:
                return found
            known = {cause.mends for cause in found}
            more = [c for c in candidates(whole, after, self.plan) if c.mends not in known]
            if not more:
                return found
            found = [*found, *more]
        return found

    def agrees(self, whole: Answer, mends: tuple[str, ...]) -> bool:
        return first_difference(whole, self.resumed(whole, mends)) is None

    def named(
        self, cause: Cause, whole: Answer, resumed: Answer, others: tuple[str, ...] = ()
    ) -> Cause:
        """Of random numbers, also who draws them: told apart by giving the resumed training the
        very batches of the other. others: what else has to be mended."""
        if cause.kind != "rng":
            return cause
        shuffles = order(whole, resumed)
        if not shuffles:
            who = "dropout" if whole["dropout"] else "the model"
            return cause._replace(
                kind="dropout" if whole["dropout"] else cause.kind,
                message=f"{cause.message}: {who} draws other numbers after a resume",
            )
        if self.agrees(whole, (*others, "replay")):
            message = f"{cause.message}: the data are shuffled in another order after a resume"
            return cause._replace(kind="rng-shuffling", message=message)
        who = "dropout" if whole["dropout"] else "the model"
        message = f"{cause.message}: the order of the data and {who} differ after a resume"
        return cause._replace(message=message)

    # --- the answer -----------------------------------------------------------------------

    def report(
        self,
        verdict: str,
        first: Difference | None,
        causes: list[Cause],
        whole: Answer,
        resumed: Answer,
    ) -> ResumeReport:
        notes = list(whole["notes"])
        if whole["told"]:
            notes.append(whole["told"])
        if verdict == "same" and not _same_rng(whole, resumed):
            notes.append(
                "random numbers are drawn whose state is not saved; nothing that was compared "
                "depends on them"
            )
        if resumed.get("error"):
            notes.append(f"after the resume: {resumed['error']}")
        crossings = []
        if self.crosses and (verdict == "same" or (verdict == "differs" and causes)):
            crossings = cross_device.both_ways(self, whole, causes)
        step = whole["saved"]["step"]
        losses = (whole["losses"], whole["losses"][:step] + resumed["losses"])
        processes = self.workers.jobs - self.begun
        return ResumeReport(
            self.path, verdict, first, causes, notes, whole, losses, step, processes, crossings
        )


def _loose(whole: Answer, again: Answer) -> str:
    """Two trainings differ: what torch says of it."""
    names = list(dict.fromkeys([*whole["noisy"], *again["noisy"]]))
    text = "two trainings without any interruption differ: "
    if names:
        return f"{text}torch has no deterministic way to do {', '.join(names[:3])}"
    return f"{text}a kernel, or the code of the model or the data, is not deterministic"


def _all(causes: list[Cause]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(mend for cause in causes for mend in cause.mends))


def _same_rng(whole: Answer, resumed: Answer) -> bool:
    """Whether all generators that were drawn from stand where those of the other run do."""
    begin, end, other = (
        run["rng"] for run in (whole["saved"], whole["trace"][-1], resumed["trace"][-1])
    )
    return all(end[name] == other.get(name) for name in end if end[name] != begin.get(name))


def first_difference(whole: Answer, resumed: Answer) -> Difference | None:
    """Where the resumed run first is not the uninterrupted one; None where all bits agree. The
    generators are no part of it: what draws from them shows."""
    step = whole["saved"]["step"]
    if resumed.get("at") == "load":
        return Difference(0, f"loading fails: {resumed['error']}")
    apart = _differing(whole["saved"]["state"], resumed["state"])
    if apart:
        return Difference(0, apart[0], len(apart) - 1)
    found = first_of_traces(whole["trace"][step:], resumed["trace"])
    if found is None and "error" in resumed:
        return Difference(len(resumed["trace"]) + 1, f"the step fails: {resumed['error']}")
    return found


def first_of_traces(one: list[Any], other: list[Any]) -> Difference | None:
    """The first step at which two runs differ, and in what."""
    for number, (a, b) in enumerate(zip(one, other, strict=False), 1):
        if a["batch"] != b["batch"]:
            return Difference(number, "the batch")
        if a["loss"] != b["loss"]:
            return Difference(number, "the loss")
        apart = _differing(a["state"], b["state"])
        if apart:
            return Difference(number, apart[0], len(apart) - 1)
    return None


def _differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
