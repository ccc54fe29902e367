"""What may go wrong in a child process, and files that may not be loaded: each ends in an error
that says what it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ptinspect.errors import DamagedError, PtInspectError, UnsafeError
from ptinspect.proofs.optimizer import check_optimizer
from ptinspect.proofs.processes import Workers, kill_script
from ptinspect.proofs.resume import check_resume
from ptinspect.proofs.roundtrip import check_roundtrip

torch = pytest.importorskip("torch")

from tests.conftest import ROOT  # noqa: E402
from tests.document.test_checksums import flipped  # noqa: E402
from tests.proofs.running import fails, net, run  # noqa: E402
from tests.proofs.trainings import NET, Training  # noqa: E402

# --- the child process --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os._exit(0)", "ended without an answer"),
        ("import os; os._exit(3)", "the child process failed"),
        ("import sys; sys.exit('enough')", "net.py cannot be imported: SystemExit: enough"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("import ctypes; ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("import os; os.kill(os.getpid(), 9)", "was killed (SIGKILL), as systems do when memory"),
        ("raise KeyboardInterrupt", "the child process failed: KeyboardInterrupt"),
        ("raise RecursionError('deep')", "net.py cannot be imported: RecursionError: deep"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_the_end_of_a_child_is_said_as_what_it_is(
    code: str, said: str, tmp_path: Path, workers: Workers
) -> None:
    assert said in fails(workers, net(tmp_path, code)).message
    assert run(workers, net(tmp_path)).exit_code == 0  # and the next one runs


@pytest.mark.slow
def test_garbage_on_standard_output_is_no_answer(tmp_path: Path, workers: Workers) -> None:
    noise = """
import os, sys
print('{"status": 1}')
os.write(1, b'{"status": 0}\\n\\xff\\x00')
sys.stderr.write("Traceback: no\\n")
for number in range(3, 64):
    try:
        os.write(number, b'{"status": 3}\\n')
    except OSError:
        pass
"""
    assert run(workers, net(tmp_path, noise)).exit_code == 0


@pytest.mark.slow
def test_printing_without_end_is_ended(tmp_path: Path, workers: Workers) -> None:
    error = fails(workers, net(tmp_path, "while True:\n    print('x' * 100_000)"))
    assert error.message == "the child process printed more than 64 MB and was stopped"
    assert len(str(error.hint)) < 5_000  # its last lines are cut
    coloured = net(tmp_path, "print('\\x1b[31mred'); raise KeyboardInterrupt")
    assert "\x1b" not in str(fails(workers, coloured).hint)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no groups of processes")
def test_what_a_late_child_has_started_ends_with_it(tmp_path: Path, workers: Workers) -> None:
    note = tmp_path / "pid"
    code = f"""
import subprocess, time
started = subprocess.Popen(["sleep", "600"])
open({str(note)!r}, "w").write(str(started.pid))
time.sleep(600)
"""
    given = net(tmp_path, code)
    workers.timeout, before = 2, workers.timeout
    try:
        assert "took more than 2 seconds" in fails(workers, given).message
    finally:
        workers.timeout = before
    assert gone(int(note.read_text()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no groups of processes")
def test_an_interrupted_proof_leaves_nothing_behind(tmp_path: Path) -> None:
    """The server is told to end while a job runs, as at Control-C."""
    note = tmp_path / "pid"
    code = f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    given = net(tmp_path, code)

    def interrupt(made: Any) -> None:
        pass

    import threading

    with Workers(timeout=600, watch=interrupt) as own:
        ended: list[BaseException] = []

        def prove() -> None:
            try:
                run(own, given)
            except BaseException as error:  # noqa: BLE001
                ended.append(error)

        thread = threading.Thread(target=prove)
        thread.start()
        deadline = time.monotonic() + 120
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert own._server is not None
        own._server.terminate()
        thread.join(20)
    assert isinstance(ended[0], PtInspectError)
    assert gone(int(note.read_text()))


def gone(pid: int) -> bool:
    """Whether a process ends within a moment (one that nobody waits for stays as a zombie)."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/status")
        if status.exists() and "State:\tZ" in status.read_text():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_where_processes_cannot_be_forked_each_job_is_started_afresh(tmp_path: Path) -> None:
    """As on Windows: a job that is done, and one that takes too long."""
    code = "import os, runpy; del os.fork; "
    code += "runpy.run_module('ptinspect.proofs.worker', run_name='__main__')"
    ends = {"losses": torch.ones(1, dtype=torch.float64), "dtype": "float32", "state": {}}
    torch.save(ends, tmp_path / "ends")
    job = {
        "kind": "compare", "end_states": [str(tmp_path / "ends")] * 2, "unit": None,
        "options": {"device": "cpu", "allow_tf32": False},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, Workers(timeout=120) as own:
        patch.setattr("ptinspect.proofs.processes.SERVER", ("-c", code))
        assert own.run(job)["losses"] == 0
        own.timeout = 0.1
        with pytest.raises(PtInspectError, match="took more than"):
            own.run(job)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_folder_of_a_killed_proof_is_deleted() -> None:
    code = """
import os, signal
from ptinspect.proofs.processes import Workers
workers = Workers()
path = workers.new_path(".pt")
open(path, "wb").close()
print(path, flush=True)
os.kill(0 if GROUP else os.getpid(), signal.SIGKILL)
"""
    for group in ("False", "True"):
        command = [sys.executable, "-c", code.replace("GROUP", group)]
        killed = subprocess.run(
            command, capture_output=True, text=True, check=False, start_new_session=True, cwd=ROOT
        )
        folder = Path(killed.stdout.strip()).parent
        assert killed.returncode == -9 and folder.name.startswith("ptinspect-")
        deadline = time.monotonic() + 20
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sessions")
def test_processes_are_killed_by_the_newest_trace_where_there_is_no_proc(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(1000)"]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(3)]
    old, killed, foreign = processes
    for number, process in enumerate((old, killed)):
        trace = tmp_path / f"{number}-trace"
        trace.mkdir()
        (trace / "1.jsonl").write_text(f'{{"pid": {process.pid}, "session": {process.pid}}}\n')
        os.utime(trace, (number, number))
    # Its number was taken by another process: the session is another one.
    (trace / "2.jsonl").write_text(f'{{"pid": {foreign.pid}, "session": {killed.pid}}}\n')
    (trace / "step.paused").write_text("")
    os.utime(trace, (2, 2))
    kill_script(str(tmp_path), "NO_PROCESS_HAS_THIS")
    try:
        assert killed.wait(20) == -9
        assert (old.poll(), foreign.poll()) == (None, None)
    finally:
        for process in (old, foreign):
            process.kill()
            process.wait()


# --- files that may not be loaded, or cannot be -------------------------------------------


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.slow
@pytest.mark.parametrize("trust", [False, True])
def test_a_dangerous_checkpoint_is_never_loaded(
    trust: bool, tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path)
    given = training.save({**training.parts(), "extra": Evil(tmp_path / "ran")})
    before = workers.jobs
    for proof in (check_resume, check_roundtrip):
        with pytest.raises(UnsafeError, match=r"dangerous to load: .*system") as caught:
            proof(given["path"], model=given["model"], trust=trust, workers=workers)
        assert caught.value.hint == "it was not loaded"
    assert (workers.jobs, (tmp_path / "ran").exists()) == (before, False)


class Unknown:
    """Of this module, which scan does not know."""


@pytest.mark.slow
def test_names_that_nobody_vouches_for_need_trust(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save({**training.parts(), "extra": Unknown()})
    before = workers.jobs
    error = fails(workers, dict(given))
    assert "tests.proofs.test_breaking.Unknown is not on the allowlist" in error.message
    assert "trust it with trust=True" in str(error.hint)
    assert workers.jobs == before
    assert run(workers, given, trust=True).exit_code == 0


@pytest.mark.slow
def test_what_torch_does_not_load(tmp_path: Path, workers: Workers) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    for proof in (check_resume, check_roundtrip):
        with pytest.raises(PtInspectError, match=r"torch\.load does not load safetensors"):
            proof(str(tmp_path / "a.safetensors"), workers=workers)
        with pytest.raises(PtInspectError, match="cannot come from standard input"):
            proof("-", workers=workers)
        with pytest.raises(PtInspectError, match="is not a device"):
            proof("-", device="cuda:", workers=workers)
        with pytest.raises(PtInspectError, match="needs at least one step"):
            proof("-", steps=0, workers=workers)


def test_damaged_bytes_enter_no_proof(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    source, folder = Path(given["path"]), tmp_path / "damaged"
    folder.mkdir()
    for key, record in (("optimizer.state.0.exp_avg", "data/10"), ("model.body.weight", "data/0")):
        path = str(flipped(folder, key, source))
        for proof in (check_optimizer, check_resume, check_roundtrip):
            with pytest.raises(DamagedError, match="do not match their CRC-32") as caught:
                proof(path, **{"workers": workers} if proof is not check_optimizer else {})
            assert str(caught.value).startswith(f"{path}: the bytes of checkpoint/{record} ")
            assert f"{key} may be damaged" in caught.value.message
            assert "ptinspect recover" in str(caught.value.hint)


@pytest.mark.slow
def test_an_optimizer_that_torch_does_not_have(tmp_path: Path, workers: Workers) -> None:
    for name in ("Nothing", "torch.optim.Optimizer", "lr_scheduler", "torch.nn.Linear"):
        error = fails(workers, net(tmp_path), optimizer_class=name)
        assert error.message == f"torch.optim has no {name}"


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [-1, 2.5, 10**12, float("nan"), True])
def test_odd_epochs(epoch: Any, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    assert run(workers, training.save({**training.parts(), "epoch": epoch})).exit_code == 0


SEQUENCE = """
def make_scheduler(optimizer):
    from torch.optim import lr_scheduler as lrs

    parts = [lrs.ConstantLR(optimizer, 0.1, 1), lrs.OneCycleLR(optimizer, 0.1, total_steps=3)]
    return lrs.SequentialLR(optimizer, parts, [1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("OneCycleLR", "lrs.OneCycleLR(optimizer, 0.1, total_steps=3)", "total steps is 3"),
        ("SequentialLR", SEQUENCE, "total steps is 3"),
        ("CosineAnnealingLR", "lrs.CosineAnnealingLR(optimizer, 10)", "by zero"),
        ("StepLR", "lrs.StepLR(optimizer, 10)", "by zero"),
    ],
)
def test_a_schedule_that_has_ended_is_named(
    name: str, make: str, reason: str, tmp_path: Path, workers: Workers
) -> None:
    """torch raises an error of its own in the next step, which says nothing of the file."""

    def scheduler(optimizer: Any) -> Any:
        scope = {"lrs": torch.optim.lr_scheduler, "optimizer": optimizer}
        if make is not SEQUENCE:
            return eval(make, scope)
        exec(make, scope)
        return scope["make_scheduler"](optimizer)

    more = SEQUENCE if make is SEQUENCE else ""
    training = Training(tmp_path, net=NET + more, scheduler=scheduler)
    parts = training.parts()
    parts["scheduler"] |= {"T_max": 0, "step_size": 0} if "10" in make else {}
    error = fails(workers, training.save(parts), steps=9)
    assert f"fails: {'ZeroDivision' if 'zero' in reason else 'Value'}Error: " in error.message
    assert f"the schedule of {name} cannot go on: " in error.message
    assert reason in error.message
    assert error.message.endswith("; check a file from before its end, or give fewer steps")


@pytest.mark.slow
def test_a_schedule_that_ends_within_the_steps(tmp_path: Path, workers: Workers) -> None:
    """It is sound as far as it goes: with fewer steps the resume is exact."""

    def one_cycle(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)

    training = Training(tmp_path, scheduler=one_cycle, per_step=True)
    given = training.save(training.parts())
    assert "step 15 fails: ValueError: the schedule" in fails(workers, dict(given), steps=9).message
    assert run(workers, given, steps=3).verdict == "same"
