"""The layout of every view, as files that a person can read and review.

After a change that is meant, `PTINSPECT_WRITE_GOLDEN=1 pytest tests/display/test_golden.py`
writes them anew; `git diff` then shows what users will see. Facts are held against torch's truth
elsewhere: these files only hold the form.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ptinspect.display import ShowOptions
from ptinspect.display.table import tensor_table
from ptinspect.document import open as open_document
from ptinspect.text import markdown
from tests.conftest import ROOT
from tests.display.making import shown

GOLDEN = Path(__file__).parent / "golden"
WRITE = bool(os.environ.get("PTINSPECT_WRITE_GOLDEN"))

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "summary-model": ("seed/model.pth", "summary", {}),
    "summary-model-colour": ("seed/model.pth", "summary", {"colour": True, "width": 80}),
    "summary-state_dict": ("seed/model_state_dict.pt", "summary", {}),
    "summary-checkpoint": ("seed/checkpoint-6.pt", "summary", {}),
    "summary-values": ("seed/model.pth", "summary", {"values": True}),
    "summary-stats": ("modules/everything.pt", "summary", {"stats": True}),
    "summary-hooks": ("modules/hooks.pt", "summary", {}),
    "summary-tied": ("modules/deep.pt", "summary", {"fold": True, "width": 100}),
    "summary-in-dict": ("modules/in-dict.pt", "summary", {}),
    "summary-legacy": ("containers/model-legacy.pt", "summary", {}),
    "summary-optimizer": ("optimizers/groups.pt", "summary", {}),
    "summary-optimizer-folded": ("optimizers/adam.pt", "summary", {"fold": True, "width": 80}),
    "summary-scheduler": ("optimizers/scheduler-plateau.pt", "summary", {}),
    "summary-rng": ("optimizers/rng.pt", "summary", {}),
    "summary-sparse": ("tensors/sparse-all.pt", "summary", {}),
    "summary-nothing": ("containers/nothing-zip.pt", "summary", {}),
    "summary-tensor": ("tensors/scalar.pt", "summary", {}),
    "table-model": ("seed/model.pth", "table", {}),
    "table-hash": ("seed/model.pth", "table", {"hash": True}),
    "table-stats": ("tensors/dtypes-zip.pt", "table", {"stats": True}),
    "table-depth": ("modules/deep.pt", "table", {"depth": 1}),
    "table-sorted": ("modules/deep.pt", "table", {"sort": "size"}),
    "table-selected": ("modules/deep.pt", "table", {"include": ("*.weight",), "sort": "key"}),
    "table-narrow": ("modules/everything.pt", "table", {"width": 70, "fold": True}),
    "tree-model": ("modules/deep.pt", "tree", {}),
    "tree-depth": ("modules/deep.pt", "tree", {"depth": 1}),
    "tree-checkpoint": ("seed/checkpoint-6.pt", "tree", {}),
    "tree-object": ("modules/in-object.pt", "tree", {}),
    "tree-lists": ("modules/in-list.pt", "tree", {}),
    "json-checkpoint": ("seed/checkpoint-6.pt", "json", {}),
    "markdown-model": ("seed/model.pth", "markdown", {}),
    "markdown-checkpoint": ("seed/checkpoint-6.pt", "markdown", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file, format, options = CASES[name]
    text = shown(Path("fixtures", file).absolute(), format, **options)
    for folder in (str(ROOT) + os.sep, markdown(str(ROOT) + os.sep)):
        text = text.replace(folder, "")
    text = text.replace(os.sep, "/")
    golden = GOLDEN / f"{name}.txt"
    if WRITE:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, "utf-8", newline="\n")
    assert text == golden.read_text("utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


def test_the_table_is_drawn_as_tabulate_draws_it() -> None:
    import tabulate

    with open_document(ROOT / "fixtures/modules/deep.pt") as document:
        table = tensor_table(document, ShowOptions())
    tabulate.MIN_PADDING = 0
    theirs = tabulate.tabulate(table.rows, table.headers, "simple", disable_numparse=True)
    assert shown("modules/deep.pt", "table") == "".join(
        f"{line.rstrip()}\n" for line in theirs.split("\n")
    )


def test_there_is_no_option_that_nothing_uses() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "ptinspect").rglob("*.py"))
    for name in ShowOptions.__slots__:
        assert f"options.{name}" in source, name
