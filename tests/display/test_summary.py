from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptinspect.cli import COMMANDS
from ptinspect.display import FORMATS
from tests.display.making import shown, shown_value
from tests.display.test_escape import any_text, hidden


@given(st.dictionaries(any_text, any_text, min_size=1, max_size=3), st.sampled_from(FORMATS))
def test_no_text_of_a_file_acts_on_the_terminal(value: dict[str, str], format: str) -> None:
    assert hidden(shown_value(value, format).replace("\n", "")) == []


def line(text: str, label: str) -> str:
    """What stands behind a label in the facts."""
    found = [row.strip() for row in text.split("\n") if row.strip().startswith(f"{label} ")]
    return found[0].removeprefix(label).strip() if found else ""


def test_a_hint_names_only_commands_that_exist() -> None:
    assert "ptinspect stub" not in shown("seed/model.pth")
    later = shown("seed/model.pth", hints=True)
    assert line(later, "needs").startswith("__main__.CustomModel    ptinspect stub ")
    assert line(later, "needs").endswith("fixtures/seed/model.pth > model_def.py")
    for name in ("seed/model.pth", "checkpoints/gan.pt", "modules/hooks.pt"):
        named = re.findall(r"\bptinspect (\w+)", shown(name, hints=True))
        assert set(named) <= set(COMMANDS)


def test_the_hint_can_be_pasted(tmp_path: Path) -> None:
    import shutil

    from tests.display.making import FIXTURES

    odd = tmp_path / "it's; a model.pth"
    shutil.copy(FIXTURES / "seed/model.pth", odd)
    text = line(shown(odd, hints=True), "needs")
    assert "it'\"'\"'s; a model.pth' > model_def.py" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seed/checkpoint-6.pt", "yes: weights, optimizer state, epoch 5999; without RNG state"),
        ("modules/in-dict.pt", "no, without optimizer state (there: weights, epoch 4)"),
        ("optimizers/adam.pt", "no, without weights and an epoch or step"),
    ],
)
def test_whether_training_can_go_on(name: str, expected: str) -> None:
    assert line(shown(name), "resume").startswith(expected)


def test_nothing_is_said_of_training_where_there_is_none() -> None:
    assert line(shown("seed/model.pth"), "resume") == ""
    assert line(shown("seed/model_state_dict.pt"), "resume") == ""


def test_what_a_state_dict_alone_would_take() -> None:
    """Non-persistent buffers and plain attributes are left out, tied weights count once."""
    assert line(shown("modules/everything.pt"), "state_dict").startswith("96 bytes in 5 keys")


def test_optimizer_with_groups() -> None:
    assert line(shown("optimizers/groups.pt"), "optimizer") == (
        "AdamW (inferred), lr 0.01, 0.1, 4 parameters in 2 groups, state of 4, step 2"
    )


def test_a_pickled_optimizer_is_recorded_not_inferred() -> None:
    assert line(shown("optimizers/whole-optimizer.pt"), "optimizer").startswith("Adam, lr 0.001")


def test_a_learning_rate_in_a_tensor_is_its_number() -> None:
    assert "lr 0.002" in line(shown("optimizers/adam-tensor-lr.pt"), "optimizer")


def test_hooks_and_sources_are_told() -> None:
    assert "0: forward hook __main__.shape_hook" in line(shown("modules/hooks.pt"), "hooks")
    assert line(shown("containers/model-legacy.pt"), "source") == (
        "the file contains that of __main__.Net (/home/user/model.py), 5 of torch"
    )


def test_warnings_are_told() -> None:
    text = shown_value({"best": float("nan")})
    assert line(text, "warning") == "best: is NaN"


def test_long_texts_and_numbers_are_cut() -> None:
    text = shown_value({"source": "x" * 5000, "big": 10**2000})
    assert "… (3,000 more characters)" in text
    assert "an integer of 6,644 bits" in text


def test_many_entries_are_counted_on_a_terminal() -> None:
    value = {f"key{number}": number for number in range(100)}
    assert "… and 61 more entries (--all)" in shown_value(value, fold=True)
    assert "key99" in shown_value(value)


def test_a_tensor_of_no_dimension_is_its_number() -> None:
    text = shown("seed/checkpoint-6.pt")
    assert "cost         0.250237  float32 tensor, requires grad\n" in text
    assert "(root)  " in shown("tensors/scalar.pt")


@pytest.mark.parametrize("name", ["nested-jagged", "nested-strided"])
def test_the_elements_of_a_ragged_tensor_are_counted(name: str) -> None:
    """As many as the JSON's totals have."""
    totals = json.loads(shown(f"tensors/{name}.pt", "json"))["totals"]
    assert totals["parameters"] > 0
    assert f" {totals['parameters']} elements, " in line(shown(f"tensors/{name}.pt"), "tensors")
