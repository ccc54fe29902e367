"""A kill inside the write of a checkpoint: what the script makes of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.proofs.script.running import PLAIN, check, check_forked, replaced

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("torch") is None, reason="the scripts import torch"),
]

IN_PLACE = PLAIN.replace('.pt.tmp")\n', '.pt")\n', 1).replace(
    '    os.replace(f"runs/{epoch}.pt.tmp", f"runs/{epoch}.pt")\n', ""
)
ONE_FILE = IN_PLACE.replace("runs/{epoch}.pt", "runs/last.pt")
STARTS_OVER = ONE_FILE.replace(
    "if saved:\n    checkpoint = torch.load(saved[-1])\n",
    """try:
    checkpoint = torch.load(saved[-1])
except Exception:
    saved = []
if saved:
""",
)


def test_a_file_that_appears_complete_survives(tmp_path: Path) -> None:
    report = check(tmp_path, PLAIN, kill_during_save=True)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert report.kill is not None
    assert (report.kill.save, report.kill.where, report.kill.partial) == (3, "save", [])
    assert report.steps is not None
    assert (report.steps.killed, report.steps.resumed_after) == (12, 8), report.text()
    assert "it went on from an older checkpoint; 4 steps done again" in report.notes


@pytest.mark.parametrize("source", [IN_PLACE, ONE_FILE], ids=["a file per epoch", "one file"])
def test_a_cut_file_that_the_script_loads(source: str, tmp_path: Path) -> None:
    report = check_forked(tmp_path, source, kill_during_save=True)
    assert (report.verdict, report.exit_code) == ("fails", 1), report.text()
    assert report.kill is not None
    assert report.kill.partial == ["runs/last.pt" if source is ONE_FILE else "runs/2.pt"]
    assert report.causes == ["cut-file"]
    assert "_open_zipfile_reader" in " ".join(report.output)


def test_a_script_that_starts_over_loses_its_work(tmp_path: Path) -> None:
    report = check_forked(tmp_path, STARTS_OVER, kill_during_save=True)
    assert (report.verdict, report.exit_code) == ("work-lost", 1), report.text()
    assert report.steps is not None
    assert (report.steps.killed, report.steps.resumed_after) == (12, 0)


def test_killed_inside_the_first_save_it_starts_from_the_beginning(tmp_path: Path) -> None:
    report = check_forked(tmp_path, PLAIN, kill_during_save=True, at=1)
    assert (report.verdict, report.exit_code) == ("same", 0), report.text()
    assert "it went on from the beginning; 4 steps done again" in report.notes


def test_no_step_is_done_again_if_the_kill_cuts_a_file_that_a_resume_does_not_need(
    tmp_path: Path,
) -> None:
    # The recorder does not know this name of the function, like the writers of other libraries.
    source = replaced(PLAIN, ("torch.save(", "torch.serialization.save("))
    source += '    torch.save(model.state_dict(), "runs/model.pth")\n'
    report = check_forked(tmp_path, source, kill_during_save=True, checkpoint=["runs/*.pt*"])
    assert report.verdict == "same" and report.kill is not None, report.text()
    assert report.steps is not None
    assert (report.steps.killed, report.steps.resumed_after) == (12, 12), report.text()
    assert (report.kill.partial, report.notes) == (["runs/model.pth"], [])


IN_MEMORY = """    memory = io.BytesIO()
    torch.save(state, memory)
    with open(f"runs/{epoch}.pt%s", "wb") as file:
        file.write(memory.getvalue())
"""


@pytest.mark.parametrize(
    ("source", "suffix", "expected"),
    [
        (PLAIN, ".tmp", ("same", "memory", [], [])),
        (IN_PLACE, "", ("fails", "save", ["runs/2.pt"], ["cut-file"])),
    ],
)
def test_a_file_that_is_serialized_in_memory(
    source: str, suffix: str, expected: tuple[str, str, list[str], list[str]], tmp_path: Path
) -> None:
    """The kill comes before the file gets its name, or when it is open and empty."""
    old = f'    torch.save(state, f"runs/{{epoch}}.pt{suffix}")\n'
    source = replaced(source, (old, IN_MEMORY % suffix), ("import os\n", "import io\nimport os\n"))
    report = check_forked(tmp_path, source, kill_during_save=True)
    kill = report.kill
    assert kill is not None
    assert (report.verdict, kill.where, kill.partial, report.causes) == expected, report.text()
