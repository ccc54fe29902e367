"""The answer of `check resume`, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.text.escape import cut, safe

if TYPE_CHECKING:
    from ptinspect.proofs.resume.proof import ResumeReport

_SAME = "training goes on as if it had never been interrupted"
_APART = "a resumed training is not the uninterrupted one"
_ACROSS = "a training that is resumed on another device is not the uninterrupted one"
_LOOSE = "two uninterrupted trainings differ, so no resume can be proved"


def text_of(report: ResumeReport) -> str:
    """For people, ending in a newline."""
    same = _SAME if not report.code else _ACROSS
    verdict = {"same": same, "differs": _APART, "not-deterministic": _LOOSE}[report.verdict]
    lines = [f"{safe(report.path)}: {verdict}", ""]
    facts = _facts(report)
    width = max(len(label) for label, _ in facts)
    lines += [f"  {label.ljust(width)}   {cut(text)}" for label, text in facts]
    return "\n".join(lines) + "\n"


def _facts(report: ResumeReport) -> list[tuple[str, str]]:
    facts, steps = report.facts, report.steps
    parts = [facts["optimizer"].rsplit(".", 1)[-1]]
    if facts["scheduler"]:
        parts.append(f"{facts['scheduler']} per {'step' if facts['per_step'] else 'epoch'}")
    if facts["autocast"]:
        parts.append(f"autocast to {facts['autocast']}")
    parts += ["GradScaler"] * bool(facts["scaler"])
    made = [
        (
            "trained",
            f"{2 * steps} steps, and {steps} + {steps} with a save and a new process between",
        ),
        ("with", f"{', '.join(parts)}, on {facts['device']}"),
        ("loss", facts["loss"]),
    ]
    if report.verdict == "same":
        made.append(("compared", "weights, buffers, optimizer, learning rate, losses: bit for bit"))
    if report.first is not None:
        made.append(("differs", f"first in {report.first}"))
    made += [("cause", f"{cause.message} ({cause.kind})") for cause in report.causes]
    if report.verdict == "differs":
        if report.causes:
            mended = "that" if len(report.causes) == 1 else "these"
            made.append(("proof", f"with {mended} mended, and nothing else, the bits agree"))
        else:
            made.append(("cause", "not found: no mend of the usual ones makes the bits agree"))
    made += [(crossing.label, crossing.text()) for crossing in report.crossings]
    made += [("note", note) for note in report.notes]
    return made


def json_of(report: ResumeReport) -> dict[str, object]:
    """For programs."""
    facts = report.facts
    kept = (
        "device", "length", "taken", "loss", "optimizer", "scheduler", "per_step", "scaler",
        "autocast", "averages", "rng_saved",
    )  # fmt: skip
    return {
        "schema": 1,
        "check": "resume",
        "path": report.path,
        "verdict": report.verdict,
        "steps": report.steps,
        "processes": report.processes,
        "first": None
        if report.first is None
        else {"step": report.first.step, "what": report.first.what, "more": report.first.more},
        "causes": [
            {"kind": cause.kind, "message": cause.message, "mended": list(cause.mends)}
            for cause in report.causes
        ],
        "notes": report.notes,
        "training": {key: facts[key] for key in kept},
        "crossings": [crossing.json() for crossing in report.crossings],
        "losses": {"uninterrupted": report.losses[0], "resumed": report.losses[1]},
    }
