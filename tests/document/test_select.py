"""One resolver for every --entry."""

from __future__ import annotations

from pathlib import Path

import pytest

import ptinspect
from ptinspect.document import entries
from ptinspect.document.entries import (
    path_matches,
    resolve_path,
    select_path,
    value_at,
    value_finder,
)
from ptinspect.errors import PtInspectError
from tests.corpus.files import FIXTURES


@pytest.mark.parametrize(
    ("path", "entries"),
    [
        (("optimizer", "state", 0), ["optimizer.state[0]", "optimizer.state.0"]),
        (("models", 1, "ema"), ["models[1].ema", 'models[1]["ema"]']),
        (("a.b", "c"), ["a.b.c", '["a.b"].c', '["a.b"]["c"]']),
        (("layers", "0"), ["layers.0", 'layers["0"]']),
        ((), [""]),
    ],
)
def test_a_path_can_be_written_in_several_ways(
    path: tuple[str | int, ...], entries: list[str]
) -> None:
    for entry in entries:
        assert path_matches(path, entry)
        assert not path_matches(path, f"{entry}x")
        assert not path_matches((*path, "x"), entry)


def test_an_ambiguous_entry_lists_the_candidates() -> None:
    with pytest.raises(PtInspectError, match=r"'a\.b' is ambiguous") as caught:
        resolve_path({"a": {"b": [1]}, "a.b": [2]}, "a.b")
    assert '["a"]["b"]' in str(caught.value) and '["a.b"]' in str(caught.value)
    with pytest.raises(PtInspectError, match=r"'a\.b' is ambiguous"):
        select_path([("a", "b"), ("a.b",)], "a.b", "model")


def test_two_paths_to_one_object_are_not_ambiguous() -> None:
    shared = [1]
    assert resolve_path({"a": {"b": shared}, "a.b": shared}, "a.b").value is shared


def test_an_unknown_entry_lists_what_there_is() -> None:
    with pytest.raises(PtInspectError, match="there is no model at 'x'") as caught:
        select_path([("a",), ("b", 0)], "x", "model")
    assert caught.value.hint == "entry can be one of: a, b[0]"


def test_modules_are_found_under_their_own_names() -> None:
    file: Path = FIXTURES / "checkpoints" / "yolov5.pt"
    with ptinspect.open(file) as document:
        info = next(info for info in document.modules if info.name.count(".") > 1)
        entry = ".".join(map(str, info.path))
        assert resolve_path(document.archive.root, entry).value is info.module.call


def test_a_finder_walks_each_container_once(monkeypatch: pytest.MonkeyPatch) -> None:
    root = {"m": {f"k{i}": {"a": [i], 0: (i,)} for i in range(100)}, "n": 5}
    paths = [("m", f"k{i}", *rest) for i in range(100) for rest in (("a", 0), (0, 0), ("b",))]
    paths += [("n",), ("n", 0), (), ("x",)]
    expected = [value_at(root, path) for path in paths]
    walked = []
    children = entries.named_children
    monkeypatch.setattr(entries, "named_children", lambda v: walked.append(id(v)) or children(v))
    find = value_finder(root)
    assert [find(path) for path in paths] == expected
    assert expected[:3] == [0, 0, None] and expected[-4:] == [5, None, root, None]
    assert len(walked) == 1 + 1 + 100 + 200 + 1
