"""Stubs tried where the libraries are not installed: the side that writes the stubs and asks."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT = 600
"""Seconds for each model, in each step."""
LIBRARIES = ("torchvision", "timm", "transformers")
_WHY = re.compile(r"weights_only cannot load it, because it contains\n((?:  - .*\n)+)")


def refuse_where_installed() -> None:
    """A stub is tried where its classes are missing, or the trial says nothing."""
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is not None:
            raise SystemExit(f"{name} is installed here: run this where only torch is")


class Server:
    """A process that answers each line by a line of JSON. It is started again when it dies."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.process: subprocess.Popen[str] | None = None

    def ask(self, line: str) -> dict[str, Any]:
        """The answer; `{"failed": …}` where the process died of the question."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(line, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.process.wait()
            return {"failed": f"the process ended with {code}"}
        made: dict[str, Any] = json.loads(answer)
        return made

    def close(self) -> None:
        """Ends it."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def child() -> Server:
    """What loads the files."""
    return Server([sys.executable, "-B", str(HERE / "child.py")])


def tried(folder: Path, asked: Server) -> dict[str, Any]:
    """One model of the zoo, whole and as a state_dict: all that was found out."""
    truth = json.loads((folder / "truth.json").read_text("utf-8"))
    made: dict[str, Any] = {"modules": len(truth["classes"]), "foreign": len(truth["foreign"])}
    made["parameters"] = _elements(truth)
    made |= {key: truth[key] for key in ("unsaved", "unusable") if key in truth}
    if "unsaved" not in truth:
        made["whole"] = _stubbed(folder, "whole", asked)
        made["megabytes"] = (folder / "whole.pt").stat().st_size / 1e6
    inferred = _stubbed(folder, "state_dict", asked)
    classes = inferred.pop("classes", {})
    made["state_dict"] = inferred
    made |= _share(truth, classes)
    return made


def _stubbed(folder: Path, kind: str, asked: Server) -> dict[str, Any]:
    """The stub of one file, written and tried."""
    file, place = folder / f"{kind}.pt", folder / kind
    place.mkdir(exist_ok=True)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "ptinspect", "stub", str(file), "-o", "model_def.py"]
    (place / "model_def.py").unlink(missing_ok=True)
    try:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, timeout=LIMIT, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"stub": f"not written in {LIMIT} seconds"}
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        return {"stub": (done.stderr.strip().splitlines() or ["?"])[-1][:500]}
    source = (place / "model_def.py").read_text("utf-8")
    why = _WHY.search(source)
    job = {"kind": kind, "file": str(file), "truth": str(folder / "truth.json"),
           "folder": str(place), "refused": why is not None, "limit": LIMIT}  # fmt: skip
    answer = {"stub": None, **asked.ask(json.dumps(job)), "ruff": _linted(place)}
    answer["seconds"] = seconds
    if why is not None:
        answer["refused"] = [line[4:] for line in why[1].splitlines()]
    return answer


def _linted(place: Path) -> str | None:
    """What ruff would have otherwise."""
    for command in (["check", "--output-format", "concise"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "model_def.py"],
            cwd=place, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            return done.stdout.strip()[:300] or done.stderr.strip()[-300:]
    return None


def _elements(truth: dict[str, Any]) -> int:
    total = 0
    for _, _, shape in truth["facts"]["parameters"]:
        count = 1
        for size in shape:
            count *= size
        total += count
    return total


def _share(truth: dict[str, Any], classes: dict[str, str]) -> dict[str, Any]:
    """How many modules that a key of the state_dict names got their class: those of torch.nn that
    hold tensors themselves, and all of them. Right is the class of torch's that the module's
    class is or extends: Module for a class of the model's own."""
    keys = [entry[0] for entry in truth["state"]]
    holding = {key.rpartition(".")[0] for key in keys}
    named = {""}
    for name in holding:
        while name:
            named.add(name)
            name = name.rpartition(".")[0]
    wrong: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    counts = {"layers": 0, "layers_right": 0, "named": 0, "named_right": 0}
    for name, kind in truth["classes"].items():
        if name not in named:
            continue
        right = classes.get(name) == kind
        counts["named"] += 1
        counts["named_right"] += right
        if name in holding and kind != "Module":
            counts["layers"] += 1
            counts["layers_right"] += right
        if not right:
            pair = f"{kind} as {classes.get(name)}"
            wrong[pair] = wrong.get(pair, 0) + 1
            examples.setdefault(pair, []).append(name)
    first = {pair: names[:3] for pair, names in examples.items()}
    return {**counts, "wrong": wrong, "examples": first}
