"""What torch printed (truth.json, made by make_truth.py), printed again without torch."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from ptinspect.pickling.machine import run
from ptinspect.pickling.values import PersistentId, Value
from ptinspect.torchnn.classes import candidates, lookup
from tests.torchnn.nodes import Node, print_module, tree

TRUTH: dict[str, Any] = json.loads(
    Path(__file__).with_name("truth.json").read_text(encoding="utf-8")
)


class Facts:
    """`TensorFacts` as they were recorded."""

    def __init__(self, recorded: dict[str, Any]) -> None:
        self.dtype: str = recorded["dtype"]
        self.shape: list[int] = recorded["shape"]
        self.device: str = recorded.get("device", "cpu")
        self.layout: str = recorded.get("layout", "strided")
        self.parameter: bool = recorded["parameter"]
        self.qscheme: str | None = recorded.get("qscheme")
        self.recorded = recorded

    def item(self) -> object | None:
        return self.recorded.get("item")

    def text(self) -> str | None:
        return self.recorded.get("text")


class Group:
    """Modules of one group, with what is known of their tensors."""

    def __init__(self, recorded: dict[str, Any]) -> None:
        self.texts: list[str] = recorded["texts"]
        self.tensors: list[dict[str, Any]] = [recorded["facts"][i] for i in recorded["tensors"]]
        root = run(zlib.decompress(base64.b64decode(recorded["pickle"]))).root
        assert isinstance(root, list)
        self.nodes: list[Node] = [tree(value) for value in root]

    def describe(self, value: Value) -> Facts | None:
        if not isinstance(value, PersistentId) or not isinstance(value.value, tuple):
            return None
        return Facts(self.tensors[value.value[1]])


@pytest.mark.parametrize("recorded", TRUTH["groups"], ids=lambda recorded: recorded["group"])
def test_prints_what_torch_printed(recorded: dict[str, Any]) -> None:
    group = Group(recorded)
    assert [print_module(node, group.describe) for node in group.nodes] == group.texts


def test_the_truth_holds_most_classes() -> None:
    nodes = [node for recorded in TRUTH["groups"] for node in Group(recorded).nodes]
    assert len({node.class_path for node in nodes}) > 250


def linear(**changes: object) -> dict[Value, Value]:
    parameters = {"weight": PersistentId(("tensor", 0), 0), "bias": None}
    return {"in_features": 3, "out_features": 4, "_parameters": parameters, **changes}


def test_arguments_that_differ_from_their_defaults() -> None:
    row = lookup("torch.nn.modules.linear.Linear")
    assert row is not None
    given = [(argument.name, value) for argument, value in row.constructor(linear())]
    assert given == [("in_features", 3), ("out_features", 4), ("bias", False)]


def test_the_class_that_a_foreign_class_extends() -> None:
    assert [row.name for row in candidates(linear(own="setting"))] == ["Linear"]
    assert candidates(linear(_parameters={})) == []


def test_what_no_file_records_is_told_apart() -> None:
    row = lookup("torch.nn.modules.linear.Linear")
    assert row is not None
    known = {a.name: row.read(a, linear()) for a in row.arguments}
    assert repr(known["device"]) == "MISSING"
    assert known["bias"] is False


def norm(track: bool) -> dict[Value, Value]:
    held = {"running_mean": None, "running_var": None, "num_batches_tracked": None}
    own = {"num_features": 4, "eps": 1e-5, "momentum": 0.1, "affine": False}
    parameters = {"weight": None, "bias": None}
    return {**own, "track_running_stats": track, "_parameters": parameters, "_buffers": held}


def test_the_more_is_asked_of_a_class_the_earlier_it_stands() -> None:
    assert candidates(norm(True))[0].name == "BatchNorm2d"
    assert candidates(norm(False))[0].name == "InstanceNorm2d"
    assert "BatchNorm2d" in [row.name for row in candidates(norm(False))]
