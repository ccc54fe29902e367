"""Data and models that are not the usual: each ends in an answer, or in an error that says what it
is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptinspect.errors import PtInspectError
from ptinspect.proofs.processes import Workers
from ptinspect.proofs.roundtrip import check_roundtrip

torch = pytest.importorskip("torch")

from tests.proofs.running import fails, net, run  # noqa: E402
from tests.proofs.trainings import DATA, NET, Training  # noqa: E402

pytestmark = pytest.mark.slow

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
    assert "returns no torch.nn.Module" in fails(workers, dict(given)).message
    given["model"] = given["model"].replace(":make", ":thing")
    assert "returns no torch.nn.Module" in fails(workers, dict(given)).message
    given["model"] = str(tmp_path / "net.py")
    assert "net.py: which name in it?" in fails(workers, dict(given)).message


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
    assert report.exit_code == 0, report.text()
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
    assert run(workers, given, steps=4).exit_code == 0


def test_batches_that_cannot_be_pickled(tmp_path: Path, workers: Workers) -> None:
    """They are kept only to tell who draws from a generator."""
    line = "return [({'x': a, 'f': lambda: 1}, b) for a, b in rows()]"
    training = Training(tmp_path)
    code = NET.replace("def forward(self, x)", "def forward(self, x, f)")
    given = training.save(training.parts(), code)
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", line))
    assert run(workers, given).exit_code == 0


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
    told = "an epoch has 40 batches: the first 32 of each are used; --steps 40 uses all of them"
    assert (told in report.notes) is (steps == 3)
    assert (told in report.text()) is (steps == 3)
    made: Any = report.as_dict()["training"]
    assert (made["length"], made["batches_used"]) == (40, 32 if steps == 3 else None)


def test_data_that_do_not_tell_their_length(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    given = training.save(training.parts())
    line = "for at in range(40):\n        yield rows()[at % 3]"
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", line))
    report = run(workers, dict(given), steps=5)
    assert any("the first 5 of each are used; --steps N uses more" in n for n in report.notes)
    made: Any = report.as_dict()["training"]
    assert (made["length"], made["batches_used"]) == (None, 5)
    line = "for at in range(3):\n        yield rows()[at % 3]"
    (tmp_path / "batches.py").write_text(DATA + MORE.replace("LINE", line))
    report = run(workers, given, steps=5)
    assert not any("are used" in note for note in report.notes)


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


def test_an_optimizer_that_the_file_is_not_of(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    error = fails(workers, training.save(training.parts()), optimizer_class="SGD")
    assert error.message == "the state in the file is not of SGD: no momentum"
    assert error.hint == "it looks like the state of torch.optim.Adam"


def test_weights_that_are_elsewhere(tmp_path: Path, workers: Workers) -> None:
    training = Training(tmp_path)
    error = fails(workers, training.save(training.parts()), entry="net")
    assert (error.message, error.hint) == (
        "there is no model at 'net'", "entry can be one of: model",
    )  # fmt: skip
