"""Every fixture in every view. None fails or acts on a terminal; the JSON and the tree say what
torch recorded."""

from __future__ import annotations

from typing import Any

import pytest

from ptinspect.display import FORMATS
from ptinspect.document import open as open_document
from tests.corpus.files import FIXTURES, sampled, truth_of
from tests.display.making import READ, shown, view_of
from tests.display.test_json import valid
from tests.test_escape import hidden

TENSOR = ("path", "key", "role", "persistent", "dtype", "shape", "device", "requires_grad",
          "layout", "stride", "storage_offset")  # fmt: skip
# repr(model), which the truth records, has no code; print(model) of a traced module has it.
TRACED = ("modules/graph-module.pt",)
PRINTED = [name for name in READ if truth_of(name).get("prints", {}).get("") is not None]


def test_there_are_modules_to_compare() -> None:
    assert len(PRINTED) > 60


@pytest.mark.parametrize("name", sampled(READ))
def test_a_fixture_in_every_view(name: str) -> None:
    everything = {"values": True, "stats": True, "hash": True}
    with open_document(FIXTURES / name) as document:
        views = {
            format: view_of(document, format, values=True, stats=True, fold=True, width=80, depth=3)
            for format in FORMATS
        }
        tree = view_of(document, "tree")
        json_text = view_of(document, "json")
        json_with_hashes = view_of(document, "json", **everything)
    views["tree without options"] = tree
    for format, text in views.items():
        assert text.endswith("\n"), format
        assert hidden(text.replace("\n", "")) == [], format
    if name in PRINTED:
        check_tree(name, tree)
    check_json(name, valid(json_text))
    check_hashes(name, valid(json_with_hashes))
    assert shown(name, "json") == json_text, "the same file gives another text"


def check_tree(name: str, text: str) -> None:
    """A module is what `print` prints."""
    printed = truth_of(name)["prints"][""]
    if name in TRACED:
        assert text.startswith(printed)
    else:
        assert text == f"{printed}\n"


def check_json(name: str, shown: dict[str, Any]) -> None:
    """The JSON says what torch recorded."""
    truth = truth_of(name)
    assert shown["content"]["kind"] == truth["kind"]
    assert shown["file"]["format"] == truth["format"]
    tensors = {str(tensor["path"]): tensor for tensor in shown["tensors"]}
    for expected in truth.get("tensors", []):
        tensor = tensors[str(expected["path"])]
        facts = [key for key in TENSOR if key in expected]
        assert {key: tensor[key] for key in facts} == {key: expected[key] for key in facts}
    modules = {(str(m["root"]), m["name"]): m for m in shown["modules"]}
    for expected in truth.get("modules", []):
        module = modules[str(expected["root"]), expected["name"]]
        recorded = {key: value for key, value in expected.items() if value is not None}
        assert {key: module[key] for key in recorded} == recorded
    if "optimizers" in truth:
        own = ("evidence", "fit")  # which no truth of torch has
        optimizers = [{k: v for k, v in o.items() if k not in own} for o in shown["optimizers"]]
        assert optimizers == truth["optimizers"]


def check_hashes(name: str, shown: dict[str, Any]) -> None:
    """The hashes are those that torch recorded."""
    tensors = {str(tensor["path"]): tensor for tensor in shown["tensors"]}
    for expected in truth_of(name).get("tensors", []):
        if expected.get("sha256") is not None:
            assert tensors[str(expected["path"])]["sha256"] == expected["sha256"]
