"""The results as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """Return the results of a run as a page."""
    answers = [row["answer"] for row in results["checks"]]
    environments = [answer["environment"] for answer in answers if "environment" in answer]
    versions = next(iter(environments), {})
    lines = [
        f"# Proofs on {versions.get('device_name', results['device'])}",
        "",
        f"torch {versions.get('torch')}, CUDA {versions.get('cuda')}, cuDNN "
        f"{versions.get('cudnn')}, driver {versions.get('driver')}, Python "
        f"{versions.get('python')}; {results['seconds']} s in all"
        + (", models in miniature." if results["small"] else "."),
        "",
        *_check_rows(results["checks"]),
        *_crossing_rows(results["checks"]),
    ]
    for row in results["checks"]:
        if not row["good"]:
            lines += ["", f"- {row['name']}: {row['detail']}"]
    for name, facts in results["torch_facts"].items():
        lines += ["", f"## {name}", "", "```json", json.dumps(facts, indent=1)[:6000], "```"]
    for module, result in results["tests"].items():
        lines += ["", f"## {module}", "", "```", result["tail"][-2500:], "```"]
    for name, failure in results["failures"].items():
        lines += ["", f"## {name} failed", "", "```", failure, "```"]
    return "\n".join(lines) + "\n"


def _check_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| check | right answer | answer | seconds | GPU MB | |"
    yield "|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: row["name"]):
        right = ", ".join([row["right_verdict"], *row["right_causes"]])
        answer = ", ".join([row["verdict"], *row["causes"]])
        mark = "" if row["good"] else "**not good**"
        numbers = f"{row['seconds']} | {row['gpu_mb'] or ''}"
        yield f"| {row['name']} | {right} | {answer} | {numbers} | {mark} |"


def _crossing_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    crossings = [(row["name"], crossing) for row in rows for crossing in row["crossings"]]
    if not crossings:
        return
    yield ""
    yield "| crossing | verdict | first loss (ULPs) | all losses (ULPs) | unit | remark |"
    yield "|---|---|---|---|---|---|"
    for name, crossing in crossings:
        first, losses = crossing["first_loss"] or {}, crossing["losses"] or {}
        remark = crossing["reason"] or "; ".join(crossing["out_of_tolerance"])
        unit = crossing["unit"] or first.get("dtype", "")
        label = f"{name.partition(',')[0]}: {crossing['saved_on']} → {crossing['resumed_on']}"
        numbers = f"{first.get('ulps', '')} | {losses.get('ulps', '')} | {unit}"
        yield f"| {label} | {crossing['verdict']} | {numbers} | {remark} |"
