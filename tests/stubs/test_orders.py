"""In which order the members of a class stand, whichever of its instances have them."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from ptinspect.stubs import stub
from ptinspect.stubs.infer.constructors import merge_orders
from tests.stubs.trying import attempt, failures, outcomes, run_script


@pytest.mark.parametrize(
    ("ways", "order"),
    [
        (["ab", "ac", "abc"], "abc"),
        (["ab", "ac", "acb"], "acb"),
        (["ad", "bd", "cd"], "abcd"),
        (["ab", "ba"], "ab"),
        (["abc", "cab", "d"], "abcd"),
        ([""], ""),
    ],
)
def test_all_instances_agree_as_far_as_they_can(ways: list[str], order: str) -> None:
    seen = list(dict.fromkeys("".join(ways)))
    made = "".join(merge_orders(seen, [tuple(way) for way in ways]))
    assert sorted(made) == sorted(order)
    if ways != ["abc", "cab", "d"]:
        assert made == order


def test_many_names_that_contradict_each_other_come_to_an_end() -> None:
    names = list(range(20_000))
    ways = [tuple(names), tuple(names[::2]), tuple(reversed(names))]
    assert sorted(merge_orders(names, ways)) == names


MAKER = """
import sys, types, torch
from torch import nn
home = sys.modules["proj"] = types.ModuleType("proj")
class Block(nn.Module):
    def __init__(self, i, o, down=False, act=None):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, bias=not down)
        self.down = nn.Conv2d(i, o, 1) if down else None
        if act is not None:
            self.act = act
Block.__module__ = "proj"
home.Block = Block
blocks = [Block(1, 2), Block(2, 3, True), Block(3, 4, False, nn.GELU())]
blocks += [Block(4, 4, True, nn.ReLU())]
torch.save(nn.Sequential(*blocks), "blocks.pt")
"""


@pytest.mark.slow
def test_children_that_some_have_print_in_their_order(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run_script(tmp_path, MAKER)
    one = attempt("blocks", tmp_path / "blocks.pt")
    (tmp_path / "tried").mkdir()
    assert failures(one, outcomes([one], tmp_path / "tried")["blocks"]) == {}


def test_argument_that_equals_the_default_of_a_recursive_class_is_left_out(tmp_path: Path) -> None:
    """The calls of inner objects are known before those of the objects that contain them."""
    torch = pytest.importorskip("torch")

    class Node(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, size: int, inner: object = None) -> None:
            super().__init__()
            self.lin, self.inner = torch.nn.Linear(size, 2), inner

    class Pair(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, node: object) -> None:
            super().__init__()
            self.node = node

    home = sys.modules["proj_recursive"] = types.ModuleType("proj_recursive")
    for kind in (Node, Pair):
        kind.__module__, kind.__qualname__ = "proj_recursive", kind.__name__
        setattr(home, kind.__name__, kind)
    try:
        models = {"root": Node(3, Node(5)), "other": Pair(Node(3, Node(5)))}
        torch.save(models, tmp_path / "two.pt")
    finally:
        del sys.modules["proj_recursive"]
    assert "        self.node = Node()\n" in stub(tmp_path / "two.pt")
