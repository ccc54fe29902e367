from __future__ import annotations

from ptinspect.display.tree import cut_levels
from tests.display.making import shown, shown_value


def test_structure() -> None:
    value = {"a": [1, {"b": None}], "c": (1, 2), "d": {}, 5: "다섯"}
    assert shown_value(value, "tree") == (
        "dict of 4\n"
        "├── a: list of 2\n"
        "│   ├── [0]: 1\n"
        "│   └── [1]: dict of 1\n"
        "│       └── b: None\n"
        "├── c: (1, 2)\n"
        "├── d: dict of 0\n"
        "└── [5]: '다섯'\n"
    )


def test_depth() -> None:
    value = {"a": {"b": {"c": 1}}, "d": 2}
    assert shown_value(value, "tree", depth=0) == "dict of 2\n"
    assert shown_value(value, "tree", depth=1) == "dict of 2\n├── a: dict of 1 …\n└── d: 2\n"
    assert "b: dict of 1 …" in shown_value(value, "tree", depth=2)


def test_a_cycle_ends() -> None:
    value: dict[str, object] = {"name": "x"}
    value["self"] = value
    assert "self: same as the root, which contains it" in shown_value(value, "tree")


def test_a_bomb_of_shared_lists_stays_small() -> None:
    """[a, a] nested forty deep: 2**40 paths, one line each would never end."""
    value: list[object] = [{"leaf": 1}]
    for _ in range(40):
        value = [value, value]
    text = shown_value(value, "tree")
    assert text.count("\n") < 50_000
    assert ": same as [0]" in text


def test_nesting_needs_no_recursion() -> None:
    value: list[object] = [{}]
    for _ in range(400):
        value = [value, {}]
    assert shown_value(value, "tree").count("list of 2") == 400


def test_levels_of_a_printed_model() -> None:
    lines = [
        "A(",
        "  (b): B(",
        "    (c): C()",
        "    (d): D(",
        "      x",
        "    )",
        "  )",
        "  (e): E()",
        ")",
    ]
    assert list(cut_levels(lines, 1)) == ["A(", "  (b): B(…)", "  (e): E()", ")"]
    assert list(cut_levels(lines, 0)) == ["A(…)"]
    assert list(cut_levels(lines, 9)) == lines


def test_only_selected_tensors_are_in_the_tree() -> None:
    text = shown("seed/checkpoint-6.pt", "tree", exclude=("*.bias",))
    assert "layer.weight" in text
    assert "layer.bias" not in text
    assert "epoch: 5999" in text
