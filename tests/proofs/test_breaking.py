"""What may go wrong in a child process, and data and models that are not the usual: each ends in an
answer, or in an error that says what it is."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ptinspect.errors import PtInspectError, UnsafeError
from ptinspect.proofs.resume import ResumeReport, check_resume
from ptinspect.proofs.roundtrip import check_roundtrip
from ptinspect.proofs.workers import Workers

torch = pytest.importorskip("torch")

from tests.proofs.trainings import DATA, NET, Training  # noqa: E402


def run(workers: Workers, given: dict[str, Any], **more: Any) -> ResumeReport:
    return check_resume(given.pop("path"), **given, **{"steps": 3, **more}, workers=workers)


def fails(workers: Workers, given: dict[str, Any], **more: Any) -> PtInspectError:
    with pytest.raises(PtInspectError) as caught:
        run(workers, given, **more)
    return caught.value


def net(tmp_path: Path, first: str = "", last: str = "") -> dict[str, Any]:
    """A sound checkpoint; the model's file does something else as well."""
    training = Training(tmp_path)
    return training.save(training.parts(), f"{first}\n{NET}\n{last}\n")


# --- the child process --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os._exit(0)", "ended before it had an answer"),
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
    assert run(workers, net(tmp_path)).code == 0  # and the next one runs


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
    assert run(workers, net(tmp_path, noise)).code == 0


def test_printing_without_end_is_ended(tmp_path: Path, workers: Workers) -> None:
    error = fails(workers, net(tmp_path, "while True:\n    print('x' * 100_000)"))
    assert error.message == "the child process printed more than 64 MB, and was ended"
    assert len(str(error.hint)) < 5_000  # its last lines are cut
    coloured = net(tmp_path, "print('\\x1b[31mred'); raise KeyboardInterrupt")
    assert "\x1b" not in str(fails(workers, coloured).hint)


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


def test_where_processes_cannot_be_forked_each_job_is_started_afresh(tmp_path: Path) -> None:
    """As on Windows: a job that is done, and one that takes too long."""
    code = "import os, runpy; del os.fork; "
    code += "runpy.run_module('ptinspect.proofs.child', run_name='__main__')"
    ends = {"losses": torch.ones(1, dtype=torch.float64), "type": "float32", "state": {}}
    torch.save(ends, tmp_path / "ends")
    job = {
        "kind": "compared", "ends": [str(tmp_path / "ends")] * 2, "unit": None,
        "options": {"device": "cpu", "tf32": False},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, Workers(timeout=120) as own:
        patch.setattr("ptinspect.proofs.workers.SERVER", ("-c", code))
        assert own.run(job)["losses"] == 0
        own.timeout = 0.1
        with pytest.raises(PtInspectError, match="took more than"):
            own.run(job)


# --- files that may not be loaded, or cannot be -------------------------------------------


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


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
        assert caught.value.hint == "it is not loaded"
    assert (workers.jobs, (tmp_path / "ran").exists()) == (before, False)


class Unknown:
    """Of this module, which scan does not know."""


def test_names_that_nobody_vouches_for_need_trust(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save({**training.parts(), "extra": Unknown()})
    before = workers.jobs
    error = fails(workers, dict(given))
    assert "nobody vouches for tests.proofs.test_breaking.Unknown" in error.message
    assert "--trust" in str(error.hint)
    assert workers.jobs == before
    assert run(workers, given, trust=True).code == 0


def test_what_torch_does_not_load(tmp_path: Path, workers: Workers) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    for proof in (check_resume, check_roundtrip):
        with pytest.raises(PtInspectError, match=r"torch\.load does not load safetensors"):
            proof(str(tmp_path / "a.safetensors"), workers=workers)
        with pytest.raises(PtInspectError, match="not from standard input"):
            proof("-", workers=workers)
        with pytest.raises(PtInspectError, match="is no device"):
            proof("-", device="cuda:", workers=workers)
        with pytest.raises(PtInspectError, match="at least one step"):
            proof("-", steps=0, workers=workers)


def test_an_optimizer_that_torch_does_not_have(tmp_path: Path, workers: Workers) -> None:
    for name in ("Nothing", "torch.optim.Optimizer", "lr_scheduler", "torch.nn.Linear"):
        error = fails(workers, net(tmp_path), optimizer_class=name)
        assert error.message == f"torch.optim has no {name}"


@pytest.mark.parametrize("epoch", [-1, 2.5, 10**12, float("nan"), True])
def test_odd_epochs(epoch: Any, tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    assert run(workers, training.save({**training.parts(), "epoch": epoch})).code == 0


# --- the user's files ---------------------------------------------------------------------


def test_a_model_that_cannot_be_made(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    wants = NET.replace("def __init__(self):", "def __init__(self, width):")
    error = fails(workers, training.save(training.parts(), wants))
    assert "net.py:Net cannot be called: TypeError" in error.message
    assert "a function without parameters" in str(error.hint)


def test_what_makes_no_model(tmp_path: Path, workers: Workers) -> None:
    given = net(tmp_path, last="def make():\n    return 3\n\nthing = 7")
    given["model"] = given["model"].replace(":Net", ":make")
    assert "makes no torch.nn.Module" in fails(workers, dict(given)).message
    given["model"] = given["model"].replace(":make", ":thing")
    assert "makes no torch.nn.Module" in fails(workers, dict(given)).message
    given["model"] = str(tmp_path / "net.py")
    assert "no such file" in fails(workers, dict(given)).message


BATCHES = {
    "dicts": ("return [{'x': a, 'y': b} for a, b in rows()]", "def forward(self, x, y)"),
    "tuples of three": ("return [(a, b, b) for a, b in rows()]", "def forward(self, x, y)"),
    "a dict and a target": (
        "return [({'x': a, 'y': b}, b) for a, b in rows()]", "def forward(self, x, y)",
    ),
    "lists in tuples": ("return [((a, b), b) for a, b in rows()]", "def forward(self, x, y)"),
    "a class of their own": (
        "return [Pair(a, b) for a, b in rows()]", "def forward(self, x)",
    ),
    "inputs alone": ("return [a for a, b in rows()]", "def forward(self, x)"),
    "named": ("return [Named(a, b) for a, b in rows()]", "def forward(self, x)"),
}  # fmt: skip

MORE = """
import collections

Named = collections.namedtuple("Named", "inputs target")


def rows():
    x, y = samples().tensors
    return [(x[at : at + 4], y[at : at + 4]) for at in range(0, 12, 4)]


class Pair:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, device):
        return Pair(self.x.to(device), self.y.to(device))


def batches():
    LINE
"""


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_other_forms(name: str, tmp_path: Path, workers: Workers) -> None:
    line, forward = BATCHES[name]
    training = Training(tmp_path)
    code = NET.replace("def forward(self, x)", forward)
    if "class" in name:
        code = code.replace("self.body(x)", "self.body(x.x)")
    given = training.save(training.parts(), code)
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", line))
    report = run(workers, given)
    assert report.code == 0, report.text()
    assert len(set(report.losses[0])) > 1
    alone = name in ("dicts", "a class of their own", "inputs alone")
    told = "the mean square of the outputs" if alone else "MSELoss"
    assert f"  loss       {told}\n" in report.text()


def test_the_order_of_batches_of_a_class_of_their_own_is_seen(
    tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts(), NET.replace("self.body(x)", "self.body(x.x)"))
    line = "made = [Pair(a, b) for a, b in rows()]\n    import random\n"
    line += "    return Shuffled(made)\n\n\nclass Shuffled(list):\n    def __iter__(self):\n"
    line += "        return iter([self[at] for at in torch.randperm(len(self)).tolist()])"
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", line))
    report = run(workers, given)
    assert [cause.kind for cause in report.causes] == ["rng-shuffling"], report.text()
    assert str(report.first) == "the batch, at step 1 after loading"


ENDS = {
    "once": ("HELD = iter([])\ndef batches():\n    return HELD", "an epoch without batches"),
    "a generator that is used up": (
        "HELD = (pair for pair in rows())\ndef batches():\n    return HELD",
        " has no batches, the one before had 3",
    ),
    "nothing": ("def batches():\n    return []", "an epoch without batches"),
    "no batches at all": ("def batches():\n    return 7", "cannot be called: TypeError"),
    "raising": (
        "def batches():\n    raise OSError('no disk')",
        "cannot be called: OSError: no disk",
    ),
    "with a parameter": ("def batches(folder):\n    return []", "cannot be called: TypeError"),
    "failing in the middle": (
        "def batches():\n    yield rows()[0]\n    raise ValueError('row 5')",
        "step 0 fails: ValueError: row 5",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_data_that_end_early(name: str, tmp_path: Path, workers: Workers) -> None:
    code, said = ENDS[name]
    training = Training(tmp_path)
    given = training.save(training.parts())
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", "pass") + f"\n\n{code}\n")
    assert said in fails(workers, given).message


def test_epochs_of_other_lengths(tmp_path: Path, workers: Workers) -> None:
    """A generator that gives fewer batches in some epochs."""
    code = """
COUNT = [0]


def batches(epoch):
    for at in range(3 if epoch % 2 else 2):
        yield rows()[at]
"""
    training = Training(tmp_path)
    given = training.save(training.parts())
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", "pass") + code)
    assert run(workers, given, steps=4).code == 0


def test_batches_that_cannot_be_pickled(tmp_path: Path, workers: Workers) -> None:
    """They are kept only to tell who draws from a generator."""
    line = "return [({'x': a, 'f': lambda: 1}, b) for a, b in rows()]"
    training = Training(tmp_path)
    code = NET.replace("def forward(self, x)", "def forward(self, x, f)")
    given = training.save(training.parts(), code)
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", line))
    assert run(workers, given).code == 0


def test_a_loss_of_zero_in_an_object(tmp_path: Path, workers: Workers) -> None:
    """Models of transformers give an object with `loss` and `logits`."""
    code = NET.replace("return self.head(", "return Output(self.head(").replace(
        "self.norm(self.body(x))))", "self.norm(self.body(x)))))"
    )
    code += """

class Output:
    def __init__(self, logits):
        self.logits, self.loss = logits, logits.sum() * 0
"""
    training = Training(tmp_path)
    given = training.save(training.parts(), code)
    (tmp_path / "batches.py").write_text(
        DATA + MORE.replace("LINE", "return [a for a, b in rows()]")
    )
    assert set(run(workers, given).losses[0]) == {0.0}


def test_a_loss_that_is_no_loss(tmp_path: Path, workers: Workers) -> None:
    for name in ("NoLoss", "Module", "functional"):
        assert f"torch.nn has no loss {name}" in fails(workers, net(tmp_path), loss=name).message


# --- long epochs --------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [3, 40])
def test_what_is_taken_of_a_long_epoch_is_told(
    steps: int, tmp_path: Path, workers: Workers
) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    (tmp_path / "batches.py").write_text(
        DATA + MORE.replace("LINE", "return [rows()[at % 3] for at in range(40)]")
    )
    report = run(workers, given, steps=steps)
    told = "an epoch has 40 batches: the first 32 of each are taken; --steps 40 takes all of them"
    assert (told in report.notes) is (steps == 3)
    assert (told in report.text()) is (steps == 3)
    made: Any = report.json()["training"]
    assert (made["length"], made["taken"]) == (40, 32 if steps == 3 else None)


def test_data_that_do_not_tell_their_length(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    line = "for at in range(40):\n        yield rows()[at % 3]"
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", line))
    report = run(workers, dict(given), steps=5)
    assert any("the first 5 of each are taken; --steps N takes more" in n for n in report.notes)
    made: Any = report.json()["training"]
    assert (made["length"], made["taken"]) == (None, 5)
    line = "for at in range(3):\n        yield rows()[at % 3]"
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", line))
    report = run(workers, given, steps=5)
    assert not any("are taken" in note for note in report.notes)


# --- the round trip meets the same --------------------------------------------------------


def test_a_round_trip_of_what_cannot_be_run(tmp_path: Path, workers: Workers) -> None:
    for code, said in (
        (NET.replace("return self.head(", "return self.none("), "AttributeError"),
        (NET.replace("def __init__(self):", "def __init__(self, width):"), "cannot be called"),
        (NET.replace("nn.Linear(3, 4)", "nn.Linear(3, 5)"), "body.weight"),
    ):
        training = Training(tmp_path)
        given = training.save(training.parts(), code)
        with pytest.raises(PtInspectError) as caught:
            check_roundtrip(given.pop("path"), **given, workers=workers)
        assert said in caught.value.message
        assert "child process" not in caught.value.message
