"""The walk: every path, cycles, shared objects and the bounds that it meets."""

from __future__ import annotations

import pickle

import pytest

from ptinspect.document import dotted
from ptinspect.errors import LimitError
from ptinspect.limits import Limits
from ptinspect.pickling.pyobjects import bracketed
from tests.document.making import document, lines, of_bytes


def nested(depth: int) -> list[object]:
    """A list in a list, `depth` deep, made without recursion."""
    made: list[object] = []
    for _ in range(depth - 1):
        made = [made]
    return made


def test_an_entry_stands_under_every_path_to_it() -> None:
    shared = {"lr": 0.1}
    assert lines(document({"a": shared, "b": [shared, {}]})) == {
        "a.lr": 0.1,
        "b.0.lr": 0.1,
        "b.1": {"length": 0, "head": []},
    }


def test_a_cycle_is_followed_once() -> None:
    loop: dict[str, object] = {"x": 1}
    loop["self"] = loop
    found = document(loop)
    assert lines(found) == {"x": 1, "self": "the root"}
    assert [entry.type for entry in found.entries] == ["int", "cycle"]


def test_a_bomb_of_shared_lists_stays_small() -> None:
    """[a, a] nested sixty deep has 2**60 paths to its one leaf."""
    bomb: object = [{"leaf": 1}]
    for _ in range(60):
        bomb = [bomb, bomb]
    found = document(bomb)
    assert 0 < len(found.entries) < 50_000
    (warning,) = (w for w in found.warnings if w.kind == "shared-object")
    assert "shown once" in warning.message


def test_nesting_beyond_the_bound_is_an_error_that_names_it() -> None:
    data = b"(" + b"]" * 0 + b"]" * 1 + b"t."  # one list: fine
    assert of_bytes(data).kind == "other"
    deep = b"]" * 2_000 + b"a" * 1_999 + b"."
    with pytest.raises(LimitError) as met:
        _ = of_bytes(deep).entries
    assert met.value.limit == "path_depth"
    assert len(of_bytes(deep, limits=Limits(path_depth=3_000)).entries) == 1


def test_the_walk_visits_no_more_than_it_may() -> None:
    with pytest.raises(LimitError) as met:
        _ = document([[number] for number in range(50)], limits=Limits(graph_items=40)).entries
    assert met.value.limit == "graph_items"


def test_what_is_shared_is_visited_again_within_its_bound() -> None:
    leaf = {"x": 1}
    value = [leaf] * 100
    assert len(document(value).entries) == 100
    few = document(value, limits=Limits(view_items=10))
    assert len(few.entries) < 20
    assert any(warning.kind == "shared-object" for warning in few.warnings)


def test_paths_as_options_take_them() -> None:
    assert dotted(("optimizer", "state", 0)) == "optimizer.state[0]"
    assert dotted(("a.b", 1)) == '["a.b"][1]'
    assert bracketed(("a", "b.c", 0)) == '["a"]["b.c"][0]'


def test_a_thousand_lists_deep_is_read_and_let_go() -> None:
    found = document(nested(400))
    assert found.entries[0].path == (0,) * 399


def test_the_pickles_after_the_first_have_their_own_paths() -> None:
    """A simple one is an entry of its own type, not the tuple that the walk once put around it."""
    found = of_bytes(b"".join(pickle.dumps(item, 2) for item in ("magic", 5, {"a": 1}, [1, 2])))
    assert [tuple(entry) for entry in found.entries] == [
        ((), "str", "magic"),
        ((1,), "int", 5),
        ((2, "a"), "int", 1),
        ((3,), "list", [1, 2]),
    ]
