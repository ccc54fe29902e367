"""The lesson's scenes that `show` is for, as its reader would type them (rows S1, S3, S4, S6, S8
of the story; the other rows belong to other commands)."""

from __future__ import annotations

import json

import pytest

from tests.cli.running import CHECKPOINT, MODEL, STATE_DICT, run
from tests.conftest import FIXTURES

SAVED = FIXTURES / "seed/model.pt"


def test_s1_what_a_full_model_is_and_how_it_is_loaded() -> None:
    text = run("show", SAVED).stdout
    assert "full model of class __main__.CustomModel" in text
    assert "(layer): Linear(in_features=2, out_features=1, bias=True)" in text
    assert "layer.weight  parameter  float32  (1, 2)  cpu" in text
    assert (
        f'load         import model_def, torch; torch.load("{SAVED}", weights_only=False)' in text
    )
    assert "needs        __main__.CustomModel" in text


def test_s3_what_print_model_prints() -> None:
    """The lesson's `print(model)`, with the attribute's name, without torch and the class."""
    assert run("show", "--format", "tree", SAVED).stdout == (
        "CustomModel(\n  (layer): Linear(in_features=2, out_features=1, bias=True)\n)\n"
    )


def test_s4_a_state_dict_from_a_gpu_on_a_machine_without_one() -> None:
    text = run("show", STATE_DICT, "--values").stdout
    assert "state_dict\n" in text.split("\n")[0] + "\n"
    assert "layer.weight  tensor  float32  (1, 2)  cuda:0" in text
    assert "layer.bias    tensor  float32  (1,)    cuda:0" in text
    # as the lesson prints them, but for a blank that torch puts before positive numbers
    assert "tensor([[ 3.1076, -1.7026]], device='cuda:0')" in text
    assert "tensor([0.0293], device='cuda:0')" in text


def test_s6_every_entry_of_a_checkpoint() -> None:
    text = run("show", CHECKPOINT).stdout
    assert "model        'CustomModel'\n" in text
    assert "epoch        5999\n" in text
    assert "description  'CustomModel 체크포인트-6'\n" in text
    assert "cost         0.250237  float32 tensor, requires grad\n" in text
    assert "SGD (inferred), lr 0.0001, 2 parameters, no state, in optimizer_state_dict\n" in text
    assert "model_state_dict.layer.weight  tensor  float32  (1, 2)  cpu\n" in text
    assert "resume      yes: weights, optimizer state, epoch 5999; without RNG state" in text
    made = json.loads(run("show", "-f", "json", CHECKPOINT).stdout)
    assert made["optimizers"][0]["param_groups"][0]["lr"] == 0.0001
    assert made["entries"][2]["value"] == "CustomModel 체크포인트-6"


@pytest.mark.parametrize("path", [MODEL, STATE_DICT])
def test_s8_where_it_was_and_how_it_comes_to_the_cpu(path: object) -> None:
    text = run("show", path).stdout
    assert "float32, cuda:0\n" in text
    assert 'map_location="cpu")\n' in text
    assert json.loads(run("show", "-f", "json", path).stdout)["load"]["map_location"] == "needed"


def test_s8_nothing_is_needed_where_all_was_on_the_cpu() -> None:
    assert "map_location" not in run("show", SAVED).stdout
