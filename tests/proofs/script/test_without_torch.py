"""Scripts that record no steps: what is compared, refused and left alone, without torch."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ptinspect.cli import cli
from ptinspect.comparison import diff
from ptinspect.errors import PtInspectError
from ptinspect.proofs.script import check_script
from ptinspect.proofs.script_report import Checkpoint, Item, _items, restart_keys
from tests.proofs.script.running import check, check_forked

COUNTER = """
import glob, os, sys, time
import numpy

os.makedirs("runs", exist_ok=True)
saved = sorted(glob.glob("runs/*.npz"))
weights, start = numpy.zeros(3), 0
if saved:
    with numpy.load(saved[-1]) as file:
        weights, start = file["weights"], int(file["epoch"]) + 1
for epoch in range(start, 3):
    weights = weights * 2 + epoch
    numpy.savez("new.npz", weights=weights, epoch=epoch)
    os.replace("new.npz", f"runs/{epoch}.npz")
    time.sleep(0.5)
"""


def refused(tmp_path: Path, source: str, **options: object) -> PtInspectError:
    with pytest.raises(PtInspectError) as caught:
        check(tmp_path, source, **options)
    return caught.value


@pytest.mark.slow
def test_files_alone_are_compared(tmp_path: Path) -> None:
    report = check(tmp_path, COUNTER, checkpoint=["runs/*.npz"], at=1)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert "no optimizer step of torch was recorded; only files were compared" in report.notes
    assert report.kill is not None
    assert report.kill.where == "files"
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.slow
def test_a_difference_in_a_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = COUNTER.replace('file["weights"]', 'file["weights"] + 1')
    (tmp_path / "train.py").write_text(wrong)
    monkeypatch.chdir(tmp_path)
    options = ["--checkpoint", "runs/*.npz", "--at", "1", "--timeout", "60", "-f", "json"]
    command = ["check", "script", *options, "--", sys.executable, "train.py"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    assert report["verdict"] == "differs"
    assert [cause["kind"] for cause in report["causes"]] == ["entries"]
    assert [item["key"] for item in report["different"][-1]["items"]] == ["weights"]
    assert report["reproduce"] == shlex.join(["ptinspect", *command]).replace(" -f json", "")


GAN = """
import os, time
import torch

weights, start = {"discriminator": torch.ones(2), "generator": torch.ones(2)}, 0
os.makedirs("runs", exist_ok=True)
if os.path.exists("runs/gan.pt"):
    saved = torch.load("runs/gan.pt")
    weights["discriminator"] = saved["discriminator"]["weight"]
    start = saved["epoch"] + 1
for epoch in range(start, 4):
    weights = {name: weight * 2 + epoch for name, weight in weights.items()}
    models = {name: {"weight": weight} for name, weight in weights.items()}
    rng = torch.arange(start, start + 5).to(torch.uint8)
    torch.save({"epoch": epoch, **models, "rng": rng}, "new.pt")
    os.replace("new.pt", "runs/gan.pt")
    time.sleep(0.5)
"""


@pytest.mark.slow
def test_a_generator_of_images_is_no_generator_of_random_numbers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    report = check_forked(tmp_path, GAN)
    assert (report.verdict, report.exit_code) == ("differs", 1), report.text()
    assert [item.key for item in report.different[-1].items] == ["generator.weight"]


def test_the_states_of_generators(tmp_path: Path) -> None:
    """States as Python, numpy and torch save them, and what a GAN has under the same name."""
    torch, numpy = pytest.importorskip("torch"), pytest.importorskip("numpy")
    for seed in (1, 2):
        random.seed(seed)
        random.gauss(0, 1)
        numpy.random.seed(seed)
        numpy.random.normal()
        torch.manual_seed(seed)
        states = {
            "rng": {"torch": torch.get_rng_state(), "numpy": numpy.random.get_state()},
            "python_random": random.getstate(),
            "numpy_rng": numpy.random.get_state(legacy=False),
            "generator": {"state": numpy.random.default_rng(seed).bit_generator.state},
        }
        weights = {"weight": torch.full([2], seed), "norm.num_batches_tracked": torch.tensor(seed)}
        optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=seed)
        counted = {
            "generator_a": {"epoch": seed, **weights},
            "generator_loss": seed / 2,
            "generator_losses": [seed / 2],
            "generator_optimizer": optimizer.state_dict(),
        }
        torch.save({**states, **counted}, tmp_path / f"{seed}.pt")
    items = list(_items(diff(str(tmp_path / "1.pt"), str(tmp_path / "2.pt"))))
    by_kind = [{re.split(r"[.[]", it.key)[0] for it in items if (it.kind == "rng") is is_rng}
               for is_rng in (True, False)]  # fmt: skip
    assert by_kind == [set(states), set(counted)]


def test_options_of_the_second_start_and_counters_of_the_same_name() -> None:
    names = ["args.resume", "args.start_epoch", "config.init_from", "state.start_epoch", "resume"]
    items = [Item(name, "entry", name) for name in [*names, "args.lr"]]
    checkpoints = [Checkpoint("1.pt", "1.pt", (*items, Item("net.resume", "tensor", "")))]
    again = ["train.py", "--lr=1", "--init-from=resume"]
    assert restart_keys(checkpoints, ["train.py", "--lr=1"], again) == names[:3]
    assert restart_keys(checkpoints, ["train.py"], ["train.py"]) == names[:2]


def test_a_command_that_fails(tmp_path: Path) -> None:
    error = refused(tmp_path, "import sys; print('no data', file=sys.stderr); sys.exit(7)")
    assert str(error) == "the command failed (exit code 7; the first whole run)"
    assert error.hint == "its last output:\n    no data"


def test_a_command_that_saves_nothing(tmp_path: Path) -> None:
    error = refused(tmp_path, "print('done')")
    assert str(error) == "the command wrote no file that matches runs/*.pt"


@pytest.mark.slow
def test_a_command_that_saves_at_its_end_only(tmp_path: Path) -> None:
    error = refused(tmp_path, "open('a.npz', 'w').write('x')", checkpoint=["*.npz"])
    assert "the command saves only at its end, so it cannot be killed at save 1" in str(error)


@pytest.mark.slow
def test_a_command_that_takes_too_long(tmp_path: Path) -> None:
    error = refused(tmp_path, "import time; time.sleep(60)", timeout=1)
    assert str(error) == "the command took more than 1 seconds and was killed"


@pytest.mark.slow
def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PtInspectError, match="the command cannot be started: No such file"):
        check_script(["no-such-command"], checkpoint=["*.pt"], work=str(tmp_path / "work"))


@pytest.mark.parametrize("glob", ["/runs/*.pt", "../runs/*.pt"])
def test_a_glob_that_leaves_the_folder(glob: str, tmp_path: Path) -> None:
    assert "is not below the current folder" in str(refused(tmp_path, "", checkpoint=[glob]))


def test_a_path_into_the_current_folder(tmp_path: Path) -> None:
    with pytest.raises(PtInspectError, match="the command runs in a copy of it"):
        check(tmp_path, "", str(tmp_path.resolve() / "runs"))


def test_a_work_folder_that_is_not_empty(tmp_path: Path) -> None:
    assert str(refused(tmp_path, "", work=str(tmp_path))).endswith("is not empty")


@pytest.mark.slow
def test_the_folder_is_copied_without_old_checkpoints_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "2.npz").write_text("old")
    (tmp_path / "data.txt").write_text("data")
    (tmp_path / "link").symlink_to("nowhere")
    source = COUNTER + "open('data.txt', 'a').write('more')\n"
    work = tmp_path / "work"
    report = check(tmp_path, source, checkpoint=["runs/*.npz"], at=1, work=str(work))
    assert report.verdict == "same", report.text()
    assert (tmp_path / "data.txt").read_text() == "data"
    assert (tmp_path / "runs" / "2.npz").read_text() == "old"
    assert (work / "first" / "data.txt").read_text() == "datamore"


@pytest.mark.slow
def test_another_sitecustomize_runs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import builtins; builtins.mark = 'seen'")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    error = refused(tmp_path, "import sys; sys.exit(mark)")
    assert error.hint == "its last output:\n    seen"


JSON_COUNTER = """
import json, os, time

os.makedirs("runs", exist_ok=True)
saved = sorted(os.listdir("runs"))
total, start = (json.load(open("runs/" + saved[-1]))["total"], len(saved)) if saved else (0, 0)
for epoch in range(start, 3):
    total += epoch + 1
    json.dump({"total": total}, open("new", "w"))
    os.replace("new", f"runs/{epoch}.json")
    time.sleep(0.3)
"""


@pytest.mark.slow
def test_files_of_an_unknown_format_are_compared_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    options: dict[str, list[str]] = {"checkpoint": ["runs/*.json"]}
    assert check(tmp_path / "a", JSON_COUNTER, **options).verdict == "same"
    report = check(tmp_path, JSON_COUNTER.replace('"total"], len', '"total"] + 1, len'), **options)
    assert (report.verdict, report.exit_code) == ("differs", 1), report.text()
    assert report.causes == ["entries"]


@pytest.mark.slow
def test_nothing_is_left_to_compare(tmp_path: Path) -> None:
    source = JSON_COUNTER.replace('": total}', '": total, "at": time.time()}')
    error = refused(tmp_path, source, checkpoint=["runs/*.json"])
    assert "nothing can be compared: two whole runs differ in runs/0.json" in str(error)


@pytest.mark.slow
def test_a_script_without_steps_that_never_resumes(tmp_path: Path) -> None:
    source = JSON_COUNTER.replace("if saved else", "if 0 else")
    report = check(tmp_path, source, checkpoint=["runs/*.json"])
    assert (report.verdict, report.exit_code) == ("not-resumed", 2), report.text()


@pytest.mark.slow
def test_a_kill_inside_a_save_needs_torch(tmp_path: Path) -> None:
    error = refused(tmp_path, JSON_COUNTER, checkpoint=["runs/*.json"], kill_during_save=True)
    assert "so it cannot be killed inside a save" in str(error)


def test_a_work_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = refused(tmp_path, "", work=str(tmp_path / "file"))
    assert str(error).endswith("cannot be written: File exists"), error


def test_an_interpreter_in_the_folder_is_not_copied_but_found(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PtInspectError) as caught:
        patch.chdir(tmp_path)
        check_script([".venv/bin/python", "-c", "import sys; sys.exit(9)"], checkpoint=["*.pt"])
    assert "exit code 9" in str(caught.value)


def test_a_command_in_quotes(tmp_path: Path) -> None:
    with pytest.raises(PtInspectError) as caught:
        check_script(["python train.py"], checkpoint=["*.pt"])
    assert caught.value.hint == "leave out the quotes around it"


def test_a_file_that_matches_is_missed_by_the_script(tmp_path: Path) -> None:
    error = refused(tmp_path, "", checkpoint=["*"])
    expected = "the first whole run, without train.py: checkpoint matches)"
    assert str(error).endswith(expected), error
    with pytest.raises(PtInspectError, match="is not below the current folder"):
        check(tmp_path, "", checkpoint=["."])


STARTS_A_SLEEPER = """
import os, subprocess, sys, time
process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
open(sys.argv[1] + ".new", "w").write(f"{process.pid} {os.getpid()}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def is_running(pid: int) -> bool:
    """Return True if the process exists and is not a zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGHUP])
def test_nothing_outlives_the_check(number: int | None, tmp_path: Path) -> None:
    pids, temporary, folder = tmp_path / "pids", tmp_path / "temporary", tmp_path / "folder"
    folder.mkdir()
    temporary.mkdir()
    end = "time.sleep(1000)" if number else "sys.exit(5)"
    (folder / "train.py").write_text(STARTS_A_SLEEPER + end)
    command = [sys.executable, "-m", "ptinspect", "check", "script", "--checkpoint", "*.pt", "--"]
    process = subprocess.Popen(
        [*command, sys.executable, "train.py", str(pids)], cwd=folder, stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.getcwd()}, text=True,
    )  # fmt: skip
    while not pids.exists():
        assert process.poll() is None or number is None
        time.sleep(0.02)
    if number:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-number if number else 2), errors
    assert [is_running(int(pid)) for pid in pids.read_text().split()] == [False, False]
    assert not list(temporary.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("options", [[], ["--work", "../work"]])
def test_nothing_outlives_a_check_that_is_killed(options: list[str], tmp_path: Path) -> None:
    pids, temporary, folder = tmp_path / "pids", tmp_path / "temporary", tmp_path / "folder"
    folder.mkdir()
    temporary.mkdir()
    (folder / "train.py").write_text(STARTS_A_SLEEPER + "time.sleep(1000)")
    command = [sys.executable, "-m", "ptinspect", "check", "script", "--checkpoint", "*.pt"]
    process = subprocess.Popen(
        [*command, *options, "--", sys.executable, "train.py", str(pids)], cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    while not pids.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    running = [int(pid) for pid in pids.read_text().split()]
    deadline = time.monotonic() + 20
    while any(map(is_running, running)) or list(temporary.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
