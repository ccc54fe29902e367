"""The printer on trees that no torch prints: shared, endless, deep, hostile. Without torch."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest

from ptinspect.errors import LimitError
from ptinspect.limits import Limits
from ptinspect.pickling.values import Value
from tests.torchnn.nodes import print_module

SEQUENTIAL = "torch.nn.modules.container.Sequential"
MODULE_LIST = "torch.nn.modules.container.ModuleList"


class Node:
    """A module of a class, with settings and children by name."""

    def __init__(
        self,
        class_path: str,
        children: Iterable[tuple[str, Node | None]] = (),
        **attributes: Value,
    ) -> None:
        self.class_path = class_path
        self.name = class_path.rpartition(".")[2]
        self.children = list(children)
        self.attributes: dict[Value, Value] = dict(attributes)


def relu() -> Node:
    return Node("torch.nn.modules.activation.ReLU", inplace=False)


def of(class_path: str, *children: Node | None) -> Node:
    return Node(class_path, [(str(i), child) for i, child in enumerate(children)])


def test_a_foreign_class_prints_as_a_module() -> None:
    model = Node("models.yolo.Detect", [("act", relu()), ("none", None)], inplace=True)
    assert print_module(model) == "Detect(\n  (act): ReLU()\n  (none): None\n)"


def test_a_foreign_class_prints_as_the_torch_class_that_it_extends() -> None:
    model = Node("torch.nn.modules.dropout.Dropout", p=0.5, inplace=False)
    model.name = "DropPath"
    assert print_module(model) == "DropPath(p=0.5, inplace=False)"


def test_a_quantized_class_has_a_name_of_its_own() -> None:
    model = Node("torch.nn.quantized.modules.activation.ReLU6", inplace=False)
    assert print_module(model) == "QuantizedReLU6()"


def test_only_a_module_list_folds() -> None:
    three = [relu(), relu(), relu()]
    folded = print_module(of(MODULE_LIST, *three))
    assert folded == "ModuleList(\n  (0-2): 3 x ReLU()\n)"
    assert print_module(of(SEQUENTIAL, *three)).count("ReLU()") == 3


def test_a_module_that_holds_itself_is_named_by_its_place() -> None:
    model = of(SEQUENTIAL, relu())
    inner = Node("a.Inner", [("back", model)])
    model.children.append(("inner", inner))
    inner.children.append(("me", inner))
    assert print_module(model) == (
        "Sequential(\n"
        "  (0): ReLU()\n"
        "  (inner): Inner(\n"
        "    (back): <Sequential, as at the root>\n"
        "    (me): <Inner, as at inner>\n"
        "  )\n"
        ")"
    )


def test_a_module_list_that_holds_itself_ends() -> None:
    model = of(MODULE_LIST, relu())
    model.children += [("1", model), ("2", model)]
    assert print_module(model) == (
        "ModuleList(\n  (0): ReLU()\n  (1-2): 2 x <ModuleList, as at the root>\n)"
    )


def test_a_shared_module_stands_in_each_place() -> None:
    layer = of(SEQUENTIAL, relu())
    text = print_module(of(SEQUENTIAL, layer, layer))
    part = "Sequential(\n    (0): ReLU()\n  )"
    assert text == f"Sequential(\n  (0): {part}\n  (1): {part}\n)"


def doubled(times: int) -> Node:
    """`[a, a]` nested: small in the file, 2^times modules when each is printed."""
    model = relu()
    for _ in range(times):
        model = of(SEQUENTIAL, model, model)
    return model


def test_what_is_shared_too_often_is_named_by_its_first_place() -> None:
    text = print_module(doubled(40), limits=Limits(view_items=100))
    lines = text.split("\n")
    assert len(lines) < 400
    first = "0." * 38 + "0"
    assert "<ReLU, as at 0.0." in text
    assert f"<Sequential, as at {first[:-2]}>" in text or f"as at {first}>" in text
    assert lines[-2] == "  (1): <Sequential, as at 0>"


def test_the_bound_on_what_is_shared_is_reached_in_time() -> None:
    start = time.perf_counter()
    text = print_module(doubled(60))
    assert time.perf_counter() - start < 20
    assert text.count("\n") < 1_000_000


def test_equal_text_is_folded_however_it_is_shared() -> None:
    model = doubled(30)
    text = print_module(of(MODULE_LIST, model, doubled(30), model), limits=Limits(view_items=10))
    assert "(0-2): 3 x Sequential(" in text


@pytest.mark.slow
def test_deep_nesting_ends_where_torch_could_not_follow() -> None:
    model = relu()
    for _ in range(100_000):
        model = of(SEQUENTIAL, model)
    text = print_module(model)
    assert "<Sequential, 1001 levels deep>" in text
    assert len(text.split("\n")) == 2 * 1_001 + 1


def test_a_long_text_meets_a_limit() -> None:
    model = of(SEQUENTIAL, *[relu() for _ in range(200)])
    with pytest.raises(LimitError) as caught:
        print_module(model, limits=Limits(string_bytes=1_000))
    assert caught.value.limit == "string_bytes"


def test_names_of_the_file_are_escaped_where_asked() -> None:
    hostile = "x): Linear()\n  (fake\x1b[2J"
    model = Node("a.B", [(hostile, Node(f"evil.{hostile}", [("y", relu())]))])
    text = print_module(model, escape=lambda s: s.encode("unicode_escape").decode())
    assert "\x1b" not in text
    assert [line.strip()[:4] for line in text.split("\n")] == ["B(", "(x):", "(y):", ")", ")"]


def test_strings_in_settings_are_escaped_where_asked() -> None:
    model = Node(
        "torch.nn.modules.conv.Conv2d",
        padding_mode="a\n  (fake): Linear()",
        stride=(1, 1),
        padding=(0, 0),
    )
    text = print_module(model, escape=lambda s: s.encode("unicode_escape").decode())
    assert text == "Conv2d(stride=(1, 1), padding_mode=a\\n  (fake): Linear())"


def test_a_long_name_is_cut() -> None:
    text = print_module(Node("a." + "b" * 5_000))
    assert text == "b" * 2_000 + "…()"


def test_a_graph_module_prints_its_code_only_as_root() -> None:
    path = "torch.fx.graph_module.GraphModule"
    graph = Node(path, [("0", relu())], _code="\ndef forward(self):\n", _graphmodule_cls_name="Net")
    tree = "Net(\n  (0): ReLU()\n)"
    assert print_module(graph).startswith(f"{tree}\n\ndef forward(self):\n\n# To see more")
    assert print_module(of(SEQUENTIAL, graph)).count("def forward") == 0


@pytest.mark.slow
def test_large_models_print_in_linear_time() -> None:
    def seconds(count: int) -> float:
        layers = [of(SEQUENTIAL, relu(), relu()) for _ in range(count)]
        model = of(MODULE_LIST, *layers[: count // 2], of(SEQUENTIAL, *layers[count // 2 :]))
        start = time.process_time()
        print_module(model)
        return time.process_time() - start

    small = min(seconds(1_000) for _ in range(5))
    large = min(seconds(16_000) for _ in range(2))
    assert large < 80 * max(small, 0.005)  # 16 times is linear, 256 times quadratic
