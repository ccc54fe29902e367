"""The checks: which training, which file, which command line, and the right answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import FIXTURES
from tests.proofs.seed import seed_files

TRAININGS: dict[str, tuple[str, dict[str, str]]] = {
    "resnet": ("resnet", {}),
    "resnet-cudnn": ("resnet", {"BENCHMARK_CUDNN": "1"}),
    "gpt": ("gpt", {}),
    "gpt-math": ("gpt", {"BENCHMARK_SDPA": "math"}),
    "gpt-no-dropout": ("gpt", {"BENCHMARK_SDPA": "math", "BENCHMARK_DROPOUT": "0"}),
    "lstm": ("lstm", {}),
    "lstm-dropout": ("lstm", {"BENCHMARK_RNN_DROPOUT": "0.3"}),
    "grid-sample": ("grid_sample", {}),
}
"""Module of trainings/ and environment, by label."""

PACKAGE = "benchmarks.gpu.trainings"
TIMEOUT = 150
"""Seconds that one child process of a check may take."""


@dataclass(frozen=True, slots=True)
class Check:
    """A command line of ptinspect, and its right answer.

    Attributes:
        name: the name in the results.
        arguments: arguments of Python.
        training: label of the training whose files it reads, if any.
        verdict: the right verdict.
        causes: the kinds of the causes that the right answer names.
        is_timed: True if it runs alone, in processes of its own: time and memory are its own.
        crosses_on_cpu: True if it crosses from the CPU to the CPU.
    """

    name: str
    arguments: tuple[str, ...]
    training: str | None = None
    verdict: str = "same"
    causes: tuple[str, ...] = ()
    is_timed: bool = False
    crosses_on_cpu: bool = False


@dataclass(frozen=True, slots=True)
class Planner:
    """Builds the checks.

    Attributes:
        device: the device, `cpu` or of CUDA.
        work: the folder with the trainings' checkpoints.
    """

    device: str
    work: Path

    @property
    def is_cuda(self) -> bool:
        """True if the device is a GPU."""
        return self.device.startswith("cuda")

    def checks(self) -> list[Check]:
        """Return all checks: the timed ones, others of honest trainings, and faults."""
        checks = [*self._honest(), *self._seed(), *self._faulty()]
        return sorted(checks, key=lambda check: (not check.is_timed, check.verdict != "same"))

    def _honest(self) -> Iterator[Check]:
        for label in ("resnet", "gpt", "lstm"):
            yield self._resume(label, is_timed=True)
        for label in ("gpt-math", "resnet-cudnn"):
            yield self._resume(label)
        if self.is_cuda:  # cuDNN drops out from a state of its own, which no checkpoint holds
            yield self._resume("lstm-dropout", verdict="differs", causes=["cudnn-dropout"])
        else:
            yield self._resume("lstm-dropout")
        yield self._resume("resnet", "tensors-of-cuda-1")
        for label in ("resnet", "gpt-no-dropout", "lstm"):
            yield self._resume(label, crosses=True)
        if self.is_cuda:
            yield self._resume(
                "grid-sample", verdict="not-deterministic", causes=["non-determinism"]
            )
        else:
            yield self._resume("grid-sample")
        for label in ("resnet", "lstm"):
            arguments = self._arguments("roundtrip", self.work / label / "honest.pt")
            yield Check(f"roundtrip {label}", (*arguments, *self._training(label)), label)

    def _faulty(self) -> Iterator[Check]:
        every_training = {"no-optimizer": ["optimizer-state"], "weights-in-bf16": ["dtype"]}
        shuffled = {"no-torch-rng": ["rng-shuffling"]}
        gpt = {**every_training, "no-torch-rng": ["rng-shuffling" if self.is_cuda else "rng"]}
        if self.is_cuda:
            gpt |= {
                "no-cuda-rng": ["dropout"],
                "no-rng": ["rng-shuffling", "dropout"],
                "no-rng-no-optimizer": ["optimizer-state", "rng-shuffling", "dropout"],
            }
        rate = {"wrong-rate": ["learning-rate"]}
        resnet = {"no-scaler": ["grad-scaler"], "no-buffers": ["buffers"]}
        for label, faults in {
            "resnet": {**every_training, **shuffled, **rate, **resnet},
            "gpt-math": gpt,
            "lstm": {"no-optimizer": ["optimizer-state"], **shuffled, **rate},
        }.items():
            for file, causes in faults.items():
                yield self._resume(label, file, verdict="differs", causes=causes)

    def _seed(self) -> Iterator[Check]:
        files = seed_files(self.work)
        training = ("--model", files["model"], "--data", files["data"])
        for file in ("model.pth", "model_state_dict.pt", "checkpoint-6.pt"):
            arguments = self._arguments("roundtrip", FIXTURES / "seed" / file)
            yield Check(f"roundtrip seed {file}", (*arguments, *training))
        arguments = self._arguments("resume", FIXTURES / "seed/checkpoint-6.pt", crosses=True)
        yield Check(
            "resume seed checkpoint-6.pt, to the CPU and back", (*arguments, *training),
            verdict="differs", causes=("rng-shuffling",), crosses_on_cpu=not self.is_cuda,
        )  # fmt: skip

    def _resume(
        self,
        label: str,
        file: str = "honest",
        *,
        verdict: str = "same",
        causes: Sequence[str] = (),
        crosses: bool = False,
        is_timed: bool = False,
    ) -> Check:
        arguments = self._arguments("resume", self.work / label / f"{file}.pt", crosses=crosses)
        return Check(
            f"resume {label} {file}" + (", to the CPU and back" if crosses else ""),
            (*arguments, *self._training(label)),
            label,
            verdict,
            tuple(causes),
            is_timed,
            crosses and not self.is_cuda,
        )

    def _arguments(self, command: str, path: Path, *, crosses: bool = False) -> tuple[str, ...]:
        """Return the arguments up to those that describe the training.

        `auto` means the GPU without crossings, `cuda` with them.
        """
        runs_here = not self.is_cuda or crosses or command == "roundtrip"
        device = self.device if runs_here else "auto"
        options = ("-f", "json", "--no-progress", "--timeout", str(TIMEOUT), "--device", device)
        return ("-m", "ptinspect", "check", command, str(path), *options)

    def _training(self, label: str) -> tuple[str, ...]:
        """Return the arguments that describe a training. Its file is a module of trainings/ after
        the environment variables, because several checks share a process."""
        name, env = TRAININGS[label]
        source = Path(__file__).parent / "trainings" / f"{name}.py"
        loss = re.findall(r'^LOSS\b.* = "(\w+)"', source.read_text("utf-8"), re.MULTILINE)
        path = self.work / f"{label}.py"
        lines = [f"import os\n\nos.environ.update({env})\n", f"from {PACKAGE}.{name} import *\n"]
        path.write_text("\n".join(lines), "utf-8")
        return ("--model", f"{path}:Net", "--data", f"{path}:batches", "--loss", *loss)
