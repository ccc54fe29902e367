"""Run the proofs on a device: trainings, round trips, resumes, crossings, faults, tests.

    python -m benchmarks.gpu --device cuda --out FOLDER

The honest trainings come first, then the faults, the facts about torch and the tests. gpu.json and
gpu.md are rewritten after each, and what fails leaves the others running. Without CUDA,
`--device cpu --small` runs the same checks on models in miniature, and crosses from the CPU to the
CPU. Exit code 1: an answer is not right, or a test failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import TIMEOUT, Check, Planner
from benchmarks.gpu.memory import MemorySampler
from benchmarks.gpu.report import markdown

ROOT = Path(__file__).parent.parent.parent
CORES = os.cpu_count() or 1
SPARE = 15.0
"""Seconds that have to be left in the budget for another check to start."""

TESTS = ("test_cross_device", "test_determinism")
SOUND_TESTS = "every_ or amp or scaler or muon or sparse or half or groups"
"""Tests of test_sound.py that are worth running on CUDA too: optimizers, schedulers, precision."""


SECTIONS = ("trainings", "checks", "tests", "torch_facts", "failures")

Output = tuple[int, str, str]
SPENT = "the budget was spent before it ended"
Results = dict[str, dict[str, Any]]
"""Results by section and name."""


@dataclass(slots=True)
class Run:
    """A run: its options, and the results so far."""

    options: argparse.Namespace
    work: Path
    is_cuda: bool
    sampler: MemorySampler
    start: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    sessions: list[subprocess.Popen[str]] = field(default_factory=list)
    results: Results = field(default_factory=lambda: {section: {} for section in SECTIONS})

    def seconds_left(self) -> float:
        return self.options.budget - (time.monotonic() - self.start)

    def log(self, text: str) -> None:
        print(f"{time.monotonic() - self.start:6.1f} s  {text}", flush=True)

    def environment(self) -> dict[str, str]:
        """Return the environment of all child processes."""
        # More threads than cores make the small models on the CPU several times slower.
        threads = 4 if self.is_cuda else max(1, CORES // self.options.jobs)
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        small = {"BENCHMARK_SMALL": "1"} if self.options.small else {}
        return {
            "OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": os.pathsep.join(path),
            **small,
        }  # fmt: skip

    def python(self, *arguments: str, env: dict[str, str] | None = None) -> Output:
        """Run Python and return exit code, output and errors; code -1 if the budget was spent."""
        try:
            result = subprocess.run(
                [sys.executable, *arguments],
                capture_output=True, text=True, check=False, cwd=ROOT, stdin=subprocess.DEVNULL,
                env={**self.environment(), **(env or {})}, timeout=max(5.0, self.seconds_left()),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return -1, "", SPENT
        return result.returncode, result.stdout, result.stderr

    def ptinspect(self, check: Check) -> Output:
        """Run a command line of ptinspect in a session: those have imported torch already."""
        try:
            session = self.sessions.pop()
        except IndexError:
            command = [sys.executable, "-m", "benchmarks.gpu.session", str(TIMEOUT)]
            session = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env=self.environment(),
            )  # fmt: skip
        assert session.stdin is not None
        assert session.stdout is not None
        timer = threading.Timer(max(5.0, self.seconds_left()), session.kill)
        timer.start()
        session.stdin.write(json.dumps([check.arguments[2:], check.crosses_on_cpu]) + "\n")
        session.stdin.flush()
        line = session.stdout.readline()
        timer.cancel()
        if not line:
            return -1, "", SPENT if self.seconds_left() < SPARE else "the session has ended"
        self.sessions.append(session)
        code, output, errors = json.loads(line)
        return code, output, errors

    def train(self, labels: list[str]) -> Results:
        """Run training scripts, which leave their checkpoints in folders."""
        options, folder = self.options, self.work
        arguments = (options.device, str(options.jobs), str(folder), *labels)
        _, _, errors = self.python("-m", "benchmarks.gpu.train", *arguments)
        results = {}
        for label in labels:
            path = folder / f"{label}.json"
            facts = json.loads(path.read_text()) if path.exists() else {"error": errors[-600:]}
            self.log(f"training {label}: {facts.get('error') or facts['seconds']}")
            results[label] = facts
        return {"trainings": results}

    def check(self, check: Check) -> Results:
        """Run a check and return its row."""
        if check.is_timed:
            self.sampler.reset()
        start = time.perf_counter()
        code, output, errors = -1, "", "not run: the budget is spent"
        if self.seconds_left() > SPARE:
            shares = "ptinspect" in check.arguments and not check.is_timed
            code, output, errors = (
                self.ptinspect(check) if shares else self.python(*check.arguments)
            )
        seconds = round(time.perf_counter() - start, 1)
        answer: dict[str, Any] = {"verdict": "no answer"}
        with contextlib.suppress(ValueError):
            answer |= json.loads(output)
        causes = [cause["kind"] for cause in answer.get("causes", [])]
        found = (answer["verdict"], sorted(causes))
        good = found == (check.verdict, sorted(check.causes)) and (code == 0) == (
            found[0] == "same"
        )
        details = [cause["message"] for cause in answer.get("causes", [])]
        row = {
            "name": check.name,
            "right_verdict": check.verdict,
            "right_causes": check.causes,
            "verdict": answer["verdict"],
            "causes": causes,
            "good": good,
            "exit_code": code,
            "seconds": seconds,
            "gpu_mb": self.sampler.gpu_mb if check.is_timed else None,
            "host_mb": round(self.sampler.host_mb) if check.is_timed else None,
            "detail": errors.strip()[-700:] or "; ".join(details) or answer.get("first"),
            "crossings": answer.get("crossings", []),
            "answer": answer,
        }
        self.log(f"{'ok' if good else 'NOT GOOD'} {check.name}: {found[0]} {causes} {seconds} s")
        return {"checks": {check.name: row}}

    def torch_facts(self) -> Results:
        """Ask torch what it does on this device."""
        file = self.work / "torch_facts.json"
        options = ("-W", "ignore", "-m", "benchmarks.gpu.torch_facts")
        _, _, errors = self.python(*options, self.options.device, str(file))
        facts = json.loads(file.read_text()) if file.exists() else {"error": errors[-800:]}
        self.log("facts about torch: " + ("failed" if "error" in facts else "ok"))
        return {"torch_facts": facts}

    def test(self, module: str, *options: str) -> Results:
        """Run the tests of a module of tests/proofs; with CUDA all of them see the GPU."""
        arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *options)
        env = {"PTINSPECT_NEED_GPU": "1", "PTINSPECT_TEST_ON_GPU": "1"} if self.is_cuda else {}
        code, output, errors = self.python(*arguments, f"tests/proofs/{module}.py", env=env)
        last_line = next(iter(output.strip().splitlines()[-1:]), errors)
        self.log(f"{module}: exit code {code}: {last_line}")
        return {"tests": {module: {"exit_code": code, "tail": (output + errors)[-6000:]}}}

    def step(self, function: Callable[..., Results], *arguments: Any) -> None:
        """Run a part of all, and write what is known after it, whatever fails in it."""
        try:
            results = function(*arguments)
        except Exception:  # noqa: BLE001 - the other parts go on
            failure = traceback.format_exc()
            self.log(failure)
            results = {"failures": {f"{function.__name__} {arguments}": failure}}
        with self.lock:
            for section, values in results.items():
                self.results[section] = {**self.results[section], **values}
            self.write()

    def write(self) -> None:
        """Write what is known so far."""
        options = self.options
        results = {
            **self.results, "checks": [*self.results["checks"].values()],
            "device": options.device, "small": options.small,
            "seconds": round(time.monotonic() - self.start, 1),
        }  # fmt: skip
        texts = {"json": json.dumps(results, indent=1) + "\n", "md": markdown(results)}
        for suffix, text in texts.items():
            file = options.out / f"gpu.{suffix}"
            file.with_suffix(".new").write_text(text)
            os.replace(file.with_suffix(".new"), file)

    def whole(self) -> bool:
        """Run everything that was asked for, and return True if all of it is good."""
        options = self.options
        checks = Planner(options.device, self.work).checks()
        checks = [check for check in checks if options.only in check.name]
        labels = list(dict.fromkeys(check.training for check in checks if check.training))
        if labels:
            self.step(self.train, labels)
        for check in [check for check in checks if check.is_timed]:
            self.step(self.check, check)
        jobs: list[Any] = [(self.check, check) for check in checks if not check.is_timed]
        if not options.only:
            tests: list[Any] = [(self.torch_facts,), *((self.test, module) for module in TESTS)]
            tests += [(self.test, "test_sound", "-k", SOUND_TESTS)] if self.is_cuda else []
            jobs += tests
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda job: self.step(*job), jobs))
        for session in self.sessions:
            session.communicate()
        bad = [name for name, row in self.results["checks"].items() if not row["good"]]
        self.log(f"{len(checks)} checks, {len(bad)} not good: {', '.join(bad) or 'none'}")
        tests_failed = any(result["exit_code"] for result in self.results["tests"].values())
        return bool(checks) and not (bad or tests_failed or self.results["failures"])


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--out", required=True, type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--budget", type=float, default=330.0, help="seconds for all of it")
    parser.add_argument(
        "--jobs", type=int, default=min(6, CORES), help="checks that run at the same time"
    )
    parser.add_argument("--small", action="store_true", help="models in miniature")
    parser.add_argument("--only", default="", help="only checks with this in their name; no tests")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    is_cuda = options.device.startswith("cuda")
    with tempfile.TemporaryDirectory(prefix="ptinspect-gpu-") as work:
        sampler = MemorySampler(is_cuda)
        good = Run(options, Path(work), is_cuda, sampler).whole()
        sampler.end()
    print((options.out / "gpu.md").read_text()[:7000])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
