"""What passes through memory: never a shard, nor a tensor, as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.formats.shards import index_text, safetensors

pytestmark = pytest.mark.slow

# Not ru_maxrss: that begins with what the parent of a process had.
PEAK = """
import re, sys
from ptinspect.conversion import convert
convert(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("o.safetensors", "{}"),
        ("o.npz", "{}"),
        ("o.pt", "{}"),
        ("o.safetensors", "{'max_shard_size': 1 << 26}"),
    ],
)
def test_shards_are_not_loaded_into_memory(tmp_path: Path, target: str, options: str) -> None:
    size, weight_map = 1 << 27, {}
    for number in range(2):
        head = safetensors({f"{number}": b""}).replace(b"[0]", b"[%d]" % size)
        head = head.replace(b"[0, 0]", b"[0, %d]" % size)
        raw = head[8:].rstrip(b" ")
        raw += b" " * (-len(raw) % 8)
        with open(tmp_path / f"{number}.safetensors", "wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(8 + len(raw) + size)  # a hole: it takes no room on the disk
        weight_map[str(number)] = f"{number}.safetensors"
    index = tmp_path / "m.index.json"
    index.write_text(index_text(weight_map, 2 * size))
    command = [sys.executable, "-c", PEAK, str(index), str(tmp_path / target), options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10  # KiB; a shard has 128 MiB


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("stride", ["(1, 6000)", "(300, 5)"])
def test_no_tensor_is_held_while_it_is_laid_out(tmp_path: Path, stride: str) -> None:
    """A transposed matrix of 144 MB, and single elements from all over a storage of it."""
    torch = pytest.importorskip("torch")
    whole = torch.arange(36_000_000, dtype=torch.int32)
    view = whole.as_strided((6000, 6000) if stride == "(1, 6000)" else (100_000, 2), eval(stride))
    torch.save({"view": view}, tmp_path / "src.pt")
    target = tmp_path / "o.safetensors"
    command = [sys.executable, "-c", PEAK, str(tmp_path / "src.pt"), str(target), "{}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10
    assert target.read_bytes().endswith(view.contiguous().numpy().tobytes())
