"""`ptinspect convert` as its user meets it."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ptinspect
from ptinspect.cli import cli
from tests.conftest import FIXTURES
from tests.formats.making import Stored, make_zip, torch_zip

SEED = FIXTURES / "seed"
posix = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, args)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(SEED / "model.pth", tmp_path / "model.pth"))


def keys(path: Path) -> list[str]:
    with ptinspect.open(path) as document:
        return list(document.tensors)


# --- the story -----------------------------------------------------------------------------


def test_s4_a_full_model_to_a_state_dict(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "state_dict.pt"
    result = run(model, target)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"wrote {target}: 2 tensors, 12 bytes copied, 0 bytes changed\n"
    assert "dropped: the class `__main__.CustomModel`" in result.stderr
    assert "--to same keeps the full model" in result.stderr
    with ptinspect.open(target) as document:
        assert document.kind == "state_dict"
        assert [(key, t.shape, str(t.dtype), t.device) for key, t in document.tensors.items()] == [
            ("layer.weight", (1, 2), "torch.float32", "cuda:0"),
            ("layer.bias", (1,), "torch.float32", "cuda:0"),
        ]


def test_s6_a_checkpoint_from_a_full_model(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "checkpoint.pt"
    text = "CustomModel 체크포인트-6"
    optimizer = SEED / "checkpoint-6.pt"
    sets = ("--set", "epoch=5999", "--set", f"description={text}")
    result = run(model, target, "--to", "checkpoint", *sets, "--optimizer", optimizer)
    assert result.exit_code == 0, result.output
    with ptinspect.open(target) as document:
        found = {entry.path: entry.value for entry in document.entries}
        assert found[("model",)] == "CustomModel"
        assert (found[("epoch",)], found[("description",)]) == (5999, text)
        (made,) = document.optimizers
        assert (made.path, made.class_path) == (("optimizer_state_dict",), "torch.optim.SGD")
        assert made.groups[0]["lr"] == 0.0001
        assert list(document.tensors) == [
            "model_state_dict.layer.weight", "model_state_dict.layer.bias",
        ]  # fmt: skip


def test_s6_the_parts_of_a_checkpoint(tmp_path: Path) -> None:
    source = SEED / "checkpoint-6.pt"
    result = run(source, tmp_path / "model.pt")
    assert keys(tmp_path / "model.pt") == ["layer.weight", "layer.bias"]
    assert "dropped: " in result.stderr and "optimizer_state_dict" in result.stderr
    assert "--to checkpoint keeps them" in result.stderr
    run(source, tmp_path / "optimizer.pt", "--entry", "optimizer_state_dict")
    with ptinspect.open(tmp_path / "optimizer.pt") as document:
        assert document.kind == "optimizer"


# --- names, keys, choices --------------------------------------------------------------------


def test_names_are_derived(model: Path, tmp_path: Path) -> None:
    assert run(model, "--to", "safetensors").exit_code == 0
    assert (tmp_path / "model.safetensors").exists()
    folder = tmp_path / "out"
    folder.mkdir()
    run(model, "--to", "state_dict")
    run(model, folder, "--to", "checkpoint")
    assert (tmp_path / "model_state_dict.pt").exists()
    assert (folder / "model_checkpoint.pt").exists()
    other = shutil.copy(SEED / "model_state_dict.pt", tmp_path / "other.pt")
    assert run(model, other, folder, "--to", "safetensors").exit_code == 0
    assert sorted(os.listdir(folder)) == [
        "model.safetensors", "model_checkpoint.pt", "other.safetensors",
    ]  # fmt: skip
    result = run(model, other, tmp_path / "none", "--to", "safetensors")
    assert (result.exit_code, "DST must be a folder" in result.stderr) == (2, True)


@pytest.mark.parametrize("target", [None, "out.weights"])
def test_without_a_goal_the_lines_to_type_are_shown(model: Path, target: str | None) -> None:
    result = run(model, *([model.parent / target] if target else []))
    assert result.exit_code == 2
    typed = f"ptinspect convert {model}" + (f" {model.parent / target}" if target else "")
    lines = [line.strip() for line in result.stderr.splitlines() if "ptinspect convert" in line]
    assert lines[0] == f"{typed} --to safetensors"
    assert len(lines) == 3 and all(line.startswith(typed) for line in lines)
    for line in lines:
        words = shlex.split(line, comments=True)
        assert run(*words[2:], "--force").exit_code == 0


def test_without_a_goal_no_line_is_shown_that_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.pth"
    page.write_text("<html><title>Sign in</title></html>")
    result = run(page)
    assert (result.exit_code, "ptinspect convert" in result.stderr) == (2, False)
    assert "it is a web page" in result.stderr
    alone = shutil.copy(FIXTURES / "others/model.safetensors", tmp_path / "a.safetensors")
    assert "--to safetensors" not in run(alone).stderr  # it would replace what it reads
    assert f"ptinspect convert {alone} --to state_dict" in run(alone).stderr


def test_of_several_models_one_is_chosen(tmp_path: Path) -> None:
    source = FIXTURES / "checkpoints" / "gan.pt"
    result = run(source, tmp_path / "a.pt")
    assert result.exit_code == 2 and not (tmp_path / "a.pt").exists()
    line = next(line for line in result.stderr.splitlines() if "netG" in line).strip()
    assert line == f"ptinspect convert {source} {tmp_path / 'a.pt'} --entry 'netG'"
    assert run(source, tmp_path / "a.pt", "--entry", "netG").exit_code == 0
    assert keys(tmp_path / "a.pt")
    result = run(source, tmp_path / "b.pt", "--entry", "nothing")
    assert "there is no entry at 'nothing'" in result.stderr
    assert "--entry can be one of: " in result.stderr


def test_keys_are_edited(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.pt"
    run(model, target, "--rename", r"layer\.(\w+)=block.\1", "--add-prefix", "module._orig_mod.")
    assert keys(target) == ["module._orig_mod.block.weight", "module._orig_mod.block.bias"]
    run(target, tmp_path / "b.pt", "--strip-prefix", "auto", "--exclude", "*.bias")
    assert keys(tmp_path / "b.pt") == ["block.weight"]
    with ptinspect.open(tmp_path / "b.pt") as document:
        (metadata,) = document.archive.root.changes.states  # type: ignore[attr-defined]
        assert list(metadata["_metadata"].pairs) == ["", "block"]
    result = run(model, tmp_path / "c.pt", "--rename", "(weight|bias)=x")
    assert "two keys would get the same name" in result.stderr
    result = run(model, tmp_path / "c.pt", "--strip-prefix", "nobody.")
    assert "no key begins with 'nobody.'" in result.stderr
    result = run(model, tmp_path / "c.pt", "--include", "nothing*")
    assert "--include and --exclude drop all 2 keys" in result.stderr
    result = run(model, tmp_path / "c.pt", "--rename", "(x=y")
    assert "--rename takes REGEX=NEW" in result.stderr
    assert not (tmp_path / "c.pt").exists()


def test_options_that_mean_nothing_are_refused(model: Path, tmp_path: Path) -> None:
    for wrong in (
        ("--set", "a=1"), ("--max-shard-size", "5GB"), ("--shared", "error"), ("--dtype", "int8"),
        ("--device", "my gpu"), ("--to", "same", "--dtype", "float16"), ("--set", "a"),
        ("--to", "same", "--add-prefix", "x"), ("--to", "safetensors", "--max-shard-size", "many"),
    ):  # fmt: skip
        result = run(model, tmp_path / "a.pt", *wrong)
        assert result.exit_code == 2, wrong
        assert not (tmp_path / "a.pt").exists()


# --- what is said ----------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.pt"
    result = run(model, target, "--dry-run", "--dtype", "bfloat16", "--add-prefix", "x.")
    assert result.stdout.splitlines() == [
        f"would write {target}: 2 tensors, 0 bytes copied, 6 bytes changed",
        "  layer.weight -> x.layer.weight  float32 -> bfloat16 (1, 2)",
        "  layer.bias -> x.layer.bias  float32 -> bfloat16 (1,)",
    ]
    assert os.listdir(tmp_path) == ["model.pth"]


def test_json(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    result = run(model, target, "-f", "json", "--verify")
    told = json.loads(result.stdout)
    assert (told["schema"], told["to"], told["files"]) == (1, "safetensors", [str(target)])
    assert (told["written"], told["verified"]) == (True, True)
    assert told["bytes"] == {"copied": 12, "changed": 0}
    assert told["tensors"][0] == {
        "key": "layer.weight", "source": "layer.weight", "dtype": "float32", "shape": [1, 2],
        "nbytes": 8,
        "changed": False,
    }  # fmt: skip
    assert any("cuda:0" in line for line in told["warnings"])


def test_nothing_is_overwritten(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.pt"
    target.write_bytes(b"precious")
    result = run(model, target)
    assert result.exit_code == 2 and "give --force to overwrite it" in result.stderr
    assert target.read_bytes() == b"precious"
    assert run(model, target, "--force").exit_code == 0
    before = model.read_bytes()
    os.link(model, tmp_path / "hard.pt")
    for same in (model, tmp_path / "hard.pt"):
        result = run(model, same, "--to", "same", "--force")
        assert result.exit_code == 2 and "the same file" in result.stderr
    assert model.read_bytes() == before


def test_a_payload_is_not_laundered(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    source = tmp_path / "evil.pt"
    source.write_bytes(pickle.dumps({"weights": [1.0], "x": Evil()}, 2))
    for goal in ("same", "checkpoint"):
        result = run(source, tmp_path / "out.pt", "--to", goal)
        assert result.exit_code == 2
        assert os.listdir(tmp_path) == ["evil.pt"]
    assert "loading the output would run posix.system" in run(source, "--to", "same").stderr


# --- nothing lost ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 MB, so that signals arrive while it is being written."""
    path = tmp_path_factory.mktemp("large") / "large.pt"
    records = torch_zip([Stored(str(n), os.urandom(1 << 20)) for n in range(16)])
    path.write_bytes(make_zip(records))
    return path


def child(*args: object, before: str = "") -> subprocess.Popen[bytes]:
    code = f"{before}\nfrom ptinspect.cli import cli; cli()"
    command = [sys.executable, "-c", code, "convert", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


SLOW = """
from ptinspect.conversion.output import sink as copying
copying.kernel_copy = lambda: None
copying.BUFFER = copying.LARGE = 1 << 12
"""


KILLED = """
import os, random, signal, sys, time
from ptinspect.conversion import convert
source, folder = sys.argv[1:]
target = os.path.join(folder, "out.pt")
began = time.monotonic()
convert(source, target, to="same")
takes = time.monotonic() - began
whole = open(target, "rb").read()
os.unlink(target)
moments, seen = random.Random(6), []
for _ in range(50):
    child = os.fork()
    if not child:
        convert(source, target, to="same")
        os._exit(0)
    time.sleep(moments.uniform(0, 1.2) * takes)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    there = os.path.exists(target)
    seen.append(there)
    assert not there or open(target, "rb").read() == whole
    for name in os.listdir(folder):
        assert name == "out.pt" or name.endswith(".part"), name
        os.unlink(os.path.join(folder, name))
print(seen.count(True), seen.count(False))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_fifty_kills_at_random_moments(large: Path, tmp_path: Path) -> None:
    """Under the final name there is nothing, or all of it; the source is as it was."""
    before = large.read_bytes()
    command = [sys.executable, "-c", KILLED, str(large), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    whole, nothing = map(int, done.stdout.split())
    assert whole + nothing == 50 and nothing
    assert large.read_bytes() == before


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(large: Path, tmp_path: Path, number: int) -> None:
    process = child(large, tmp_path / "out.pt", "--to", "same", before=SLOW)
    until = time.monotonic() + 30
    while not os.listdir(tmp_path) and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(number)
    code = process.wait(30)
    assert code == (130 if number == signal.SIGINT else -number)
    assert os.listdir(tmp_path) == []


@posix
@pytest.mark.parametrize("fast", [True, False])
def test_a_full_disk(large: Path, tmp_path: Path, fast: bool) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22))\n"
    process = child(large, tmp_path / "out.pt", "--to", "same", before=limit + SLOW * (not fast))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    text = errors.decode()
    assert "cannot be written: File too large" in text and "Traceback" not in text
    assert os.listdir(tmp_path) == []


def test_a_source_that_changes_meanwhile(model: Path, tmp_path: Path) -> None:
    from ptinspect.conversion import convert_file

    before = convert_file.plan_conversion

    def planned(*args: Any) -> Any:
        made = before(*args)
        os.utime(model, ns=(1, 1))
        return made

    convert_file.plan_conversion = planned
    try:
        result = run(model, tmp_path / "a.pt")
    finally:
        convert_file.plan_conversion = before
    assert result.exit_code == 2
    assert "the file changed while it was converted" in result.stderr
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize("name", ["containers/model-zip.pt", "containers/model-legacy.pt"])
def test_with_the_fast_path_off_it_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptinspect.conversion.output import sink as copy

    run(FIXTURES / name, tmp_path / "fast" / "a.pt", "--to", "same")
    (tmp_path / "fast").mkdir()
    (tmp_path / "slow").mkdir()
    monkeypatch.setattr(copy, "LARGE", 1)
    assert run(FIXTURES / name, tmp_path / "fast" / "a.pt", "--to", "same").exit_code == 0
    monkeypatch.setattr(copy, "kernel_copy", lambda: None)
    assert run(FIXTURES / name, tmp_path / "slow" / "a.pt", "--to", "same").exit_code == 0
    fast, slow = (tmp_path / side / "a.pt" for side in ("fast", "slow"))
    assert fast.read_bytes() == slow.read_bytes()
