"""Measure `convert` against its budgets. `python -m benchmarks.convert [NAME…]`

It is compared with `cp` to a new file, `sync` and a rename over the old file, which is what convert
does, and with torch.load followed by torch.save or by save_file of safetensors.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import files
from benchmarks.side_by_side import side_by_side

GIB = 1 << 30
PAIRS = 5

_MODEL = """
import sys, torch
path, size, legacy = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
side = 2048
layers = [torch.nn.Linear(side, side, bias=False) for _ in range(size // (4 * side * side))]
torch.save(torch.nn.Sequential(*layers), path, _use_new_zipfile_serialization=not legacy)
"""
_LOAD = "import sys, torch; model = torch.load(sys.argv[1], weights_only=False); "
_SAVE = _LOAD + "torch.save(model.state_dict(), sys.argv[2])"
_SAFE = _LOAD + "import safetensors.torch as s; s.save_file(model.state_dict(), sys.argv[2])"
_AGAIN = "import sys, torch; torch.save(torch.load(sys.argv[1], weights_only=True), sys.argv[2])"

_DCP = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
rank, world, folder, size = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
dist.init_process_group("gloo", init_method=f"file://{folder}.store", rank=rank, world_size=world)
mesh, side = init_device_mesh("cpu", (world,)), 2048
state = {}
for number in range(size // (4 * side * side)):
    cut = number % 8 == 0  # most are cut along their rows, as FSDP does
    piece = torch.randn((side, side // world) if cut else (side // world, side))
    state[f"{number}.weight"] = DTensor.from_local(piece, mesh, [Shard(int(cut))])
dcp.save(state, checkpoint_id=folder)
dist.destroy_process_group()
"""
RANKS = 8


def distributed_checkpoint(folder: Path, size: int) -> str:
    """A folder of torch.distributed.checkpoint that `RANKS` processes wrote."""
    words = [str(RANKS), str(folder), str(size)]
    processes = [
        subprocess.Popen([sys.executable, "-c", _DCP, str(rank), *words]) for rank in range(RANKS)
    ]
    if any(process.wait(timeout=600) for process in processes):
        raise RuntimeError("a process failed")
    return str(folder)


def model(path: Path, size: int, legacy: bool = False) -> str:
    """A full model of `size` bytes."""
    subprocess.run(
        [sys.executable, "-c", _MODEL, str(path), str(size), str(int(legacy))], check=True
    )
    return str(path)


def convert(*words: str) -> list[str]:
    """Our command, as the installed script runs it."""
    return [sys.executable, "-m", "ptinspect", "convert", "--force", *words]


def copy(source: str, target: str) -> list[str]:
    """cp beside the old file, onto the disk, rename."""
    script = 'cp "$1" "$2.new" && sync "$2.new" && mv "$2.new" "$2"'
    return ["sh", "-c", script, "sh", source, target]


def large(legacy: bool = False) -> bool:
    """A full model of 1 GiB, to a state_dict and to safetensors, each against cp and torch."""
    met = []
    kind = "legacy" if legacy else "zip"
    with files.folder() as here:
        source = model(here / "model.pt", GIB, legacy)
        for target, script, name in (
            (str(here / "out.pt"), _SAVE, "state_dict"),
            (str(here / "out.safetensors"), _SAFE, "safetensors"),
        ):
            ours = convert(source, target)
            met.append(
                side_by_side(
                    f"1 GiB full model ({kind}) to {name}, against cp",
                    ours=ours, theirs=copy(source, target),
                    must=1 / 1.3, megabytes=64,
                    pairs=PAIRS,
                )
            )  # fmt: skip
            theirs = [sys.executable, "-c", script, source, target]
            met.append(
                side_by_side(
                    f"1 GiB full model ({kind}) to {name}, against torch",
                    ours=ours, theirs=theirs, must=4 if not legacy else 1, pairs=3,
                )
            )  # fmt: skip
    return all(met)


def large_legacy() -> bool:
    """Convert from the legacy stream, which records no CRCs."""
    return large(legacy=True)


def many() -> bool:
    """20,000 small tensors, to a state_dict and to safetensors."""
    with files.folder() as here:
        source = str(files.state_dict(here / "many.pt", 20_000))
        again = str(here / "again.pt")
        first = side_by_side(
            "20,000 tensors to a state_dict, against torch",
            ours=convert(source, again), theirs=[sys.executable, "-c", _AGAIN, source, again],
            must=1, pairs=PAIRS,
        )  # fmt: skip
        target = str(here / "out.safetensors")
        load = "import sys, torch, safetensors.torch as s; "
        load += "s.save_file(torch.load(sys.argv[1]), sys.argv[2])"
        second = side_by_side(
            "20,000 tensors to safetensors, against torch and safetensors",
            ours=convert(source, target), theirs=[sys.executable, "-c", load, source, target],
            must=1, pairs=PAIRS,
        )  # fmt: skip
        return first and second


def ten_times() -> bool:
    """Ten times the tensors, to each: at most eleven times the time."""
    met = []
    with files.folder() as here:
        large, small = (
            str(files.state_dict(here / f"{count}.pt", count)) for count in (100_000, 10_000)
        )
        for suffix in (".pt", ".safetensors"):
            met.append(
                side_by_side(
                    f"100,000 tensors to {suffix}, against 10,000",
                    ours=convert(large, str(here / f"large-out{suffix}")),
                    theirs=convert(small, str(here / f"small-out{suffix}")),
                    must=1 / 11, pairs=3,
                )
            )  # fmt: skip
    return all(met)


def distributed() -> bool:
    """A distributed checkpoint of 1 GiB in 8 pieces, against cp of its folder."""
    with files.folder() as here:
        source = distributed_checkpoint(here / "dcp", GIB)
        script = 'cp -r "$1" "$2.new" && sync "$2.new"/* && rm -rf "$2" && mv "$2.new" "$2"'
        return side_by_side(
            f"1 GiB distributed checkpoint in {RANKS} pieces to safetensors, against cp",
            ours=convert(source, str(here / "out.safetensors")),
            theirs=["sh", "-c", script, "sh", source, str(here / "copy")],
            must=1 / 1.5, megabytes=200, pairs=PAIRS,
        )  # fmt: skip


BENCHMARKS: dict[str, Callable[[], bool]] = {
    "large": large,
    "legacy": large_legacy,
    "distributed": distributed,
    "many": many,
    "ten_times": ten_times,
}


def main() -> None:
    """Those that are named, else all; exit code 1 where one misses its budget."""
    names = sys.argv[1:] or list(BENCHMARKS)
    results = [BENCHMARKS[name]() for name in names]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
