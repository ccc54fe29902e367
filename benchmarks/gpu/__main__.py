"""Run the proofs on a device: trainings, round trips, resumes, crossings, faults, tests.

    python -m benchmarks.gpu --device cuda --out FOLDER

gpu.json and gpu.md are rewritten after each check. Without CUDA, `--device cpu --small` runs the
same checks on models in miniature, and crosses from the CPU to the CPU. Exit code 1: an answer
is not right, or a test failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import TRAININGS, Check, Planner
from benchmarks.gpu.memory import MemorySampler
from benchmarks.gpu.report import markdown

ROOT = Path(__file__).parent.parent.parent
CORES = os.cpu_count() or 1
SPARE = 15.0
"""Seconds that have to be left in the budget for another check to start."""

TESTS = ("tests/proofs/test_cross_device.py", "tests/proofs/test_determinism.py")
SOUND_TESTS = "every_ or amp or scaler or muon or sparse or half or groups"
"""Tests of test_sound.py that are worth running on CUDA too: optimizers, schedulers, precision."""


@dataclass(slots=True)
class Run:
    """A run: its options, and the results so far."""

    options: argparse.Namespace
    work: Path
    is_cuda: bool
    sampler: MemorySampler
    start: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    results: dict[str, Any] = field(default_factory=lambda: {"trainings": {}, "checks": []})

    def seconds_left(self) -> float:
        return self.options.budget - (time.monotonic() - self.start)

    def log(self, text: str) -> None:
        print(f"{time.monotonic() - self.start:6.1f} s  {text}", flush=True)

    def python(self, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Run Python and return exit code, output and errors; code -1 if the budget was spent."""
        # More threads than cores make the small models on the CPU several times slower.
        threads = 4 if self.is_cuda else max(1, CORES // self.options.jobs)
        inherited = {"OMP_NUM_THREADS": str(threads), **os.environ}
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        small = {"BENCHMARK_SMALL": "1"} if self.options.small else {}
        try:
            result = subprocess.run(
                [sys.executable, *arguments],
                capture_output=True, text=True, check=False, cwd=ROOT, stdin=subprocess.DEVNULL,
                env={**inherited, "PYTHONPATH": os.pathsep.join(path), **small, **(env or {})},
                timeout=max(5.0, self.seconds_left()),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return -1, "", "the budget was spent before it ended"
        return result.returncode, result.stdout, result.stderr

    def train(self, label: str) -> None:
        """Run a training script, which leaves its checkpoints in a folder."""
        folder = self.work / label
        folder.mkdir()
        name, env = TRAININGS[label]
        arguments = ("-m", "benchmarks.gpu.train", name, self.options.device, str(folder))
        code, output, errors = self.python(*arguments, env=env)
        facts = json.loads(output) if code == 0 else {"error": errors[-600:]}
        self.results["trainings"][label] = facts
        self.log(f"training {label}: {facts.get('error') or facts['seconds']}")

    def check(self, check: Check) -> None:
        """Run a check and add its row to the results."""
        if check.is_timed:
            self.sampler.reset()
        start = time.perf_counter()
        code, output, errors = -1, "", "not run: the budget is spent"
        if self.seconds_left() > SPARE:
            code, output, errors = self.python(*check.arguments, env=check.env)
        seconds = round(time.perf_counter() - start, 1)
        try:
            answer = json.loads(output)
        except ValueError:
            answer = {"verdict": "no answer"}
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
        with self.lock:
            self.results["checks"].append(row)
            self.write()
        self.log(f"{'ok' if good else 'NOT GOOD'} {check.name}: {found[0]} {causes} {seconds} s")

    def torch_facts(self) -> None:
        """Ask torch what it does on this device."""
        file = self.work / "torch_facts.json"
        arguments = (
            "-W",
            "ignore",
            "-m",
            "benchmarks.gpu.torch_facts",
            self.options.device,
            str(file),
        )
        _, _, errors = self.python(*arguments)
        facts = json.loads(file.read_text()) if file.exists() else {"error": errors[-800:]}
        self.results["torch_facts"] = facts
        self.log("facts about torch: " + ("failed" if "error" in facts else "ok"))

    def tests(self) -> None:
        """Run the tests marked `gpu`, those of their modules, and with CUDA those of optimizers."""
        arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *TESTS]
        env = {}
        if self.is_cuda:
            arguments += [
                "tests/proofs/test_sound.py",
                "-k",
                f"cross_device or determinism or {SOUND_TESTS}",
            ]
            env = {"PTINSPECT_NEED_GPU": "1", "PTINSPECT_TEST_ON_GPU": "1"}
        if importlib.util.find_spec("xdist"):
            arguments += ["-n", str(min(6, CORES))]
        code, output, errors = self.python(*arguments, env=env)
        self.results["tests"] = {"exit_code": code, "tail": (output + errors)[-6000:]}
        last_line = next(iter(output.strip().splitlines()[-1:]), errors)
        self.log(f"tests: exit code {code}: {last_line}")

    def write(self) -> None:
        """Write what is known so far."""
        options = self.options
        seconds = round(time.monotonic() - self.start, 1)
        self.results |= {"device": options.device, "small": options.small, "seconds": seconds}
        (options.out / "gpu.json").write_text(json.dumps(self.results, indent=1) + "\n")
        (options.out / "gpu.md").write_text(markdown(self.results))

    def whole(self) -> bool:
        """Run everything that was asked for, and return True if all of it is good."""
        options = self.options
        checks = Planner(options.device, self.work).checks()
        checks = [check for check in checks if options.only in check.name]
        labels = dict.fromkeys(check.training for check in checks if check.training)
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(self.train, labels))
        for check in [check for check in checks if check.is_timed]:
            self.check(check)
        with ThreadPoolExecutor(options.jobs) as pool:
            others = [] if options.only else [self.torch_facts, self.tests]
            jobs = [pool.submit(other) for other in others]
            jobs += [pool.submit(self.check, check) for check in checks if not check.is_timed]
            for job in jobs:
                job.result()
        self.write()
        bad = [row["name"] for row in self.results["checks"] if not row["good"]]
        self.log(f"{len(checks)} checks, {len(bad)} not good: {', '.join(bad) or 'none'}")
        tests_failed = self.results.get("tests", {}).get("exit_code", 0) != 0
        return bool(checks) and not bad and not tests_failed


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
