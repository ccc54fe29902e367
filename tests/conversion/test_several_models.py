"""Files with several models: convert takes none of them unasked, except beside averages of one."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import ptinspect
from ptinspect.cli import cli
from ptinspect.errors import PtInspectError

torch = pytest.importorskip("torch")


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def weights(*names: str, size: int = 2, value: float = 1.0) -> dict[str, Any]:
    return {name: torch.full((size,), value) for name in names}


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, words), "--no-progress"])


def keys(path: Path) -> list[str]:
    with ptinspect.open(path) as document:
        return list(document.tensors)


SEVERAL = {
    "encoder and decoder": {"encoder": weights("w"), "decoder": weights("v"), "epoch": 3},
    "generator and discriminator": {"generator": weights("w"), "discriminator": weights("w")},
    "policy, value and model": {
        "policy": weights("a"), "value": weights("b"), "model": weights("c"),
    },
    "modules": {"encoder": torch.nn.Linear(2, 1), "decoder": torch.nn.Linear(1, 2)},
    "a model and a loss": {"model": weights("w"), "criterion": weights("w", size=5)},
    "an ensemble": {"model_0": weights("w"), "model_1": weights("w")},
    "an average of another model": {"model": weights("w"), "ema": weights("w", size=3)},
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_none_of_several_models_is_chosen(name: str, suffix: str, tmp_path: Path) -> None:
    source, target = save(tmp_path / "in.pt", SEVERAL[name]), tmp_path / f"out{suffix}"
    result = run(source, target, "--dtype", "float64")
    assert result.exit_code == 2 and not target.exists()
    models = [key for key in SEVERAL[name] if key != "epoch"]
    assert f"the file has {len(models)} models: choose one with --entry" in result.stderr
    commands = [line.strip() for line in result.stderr.splitlines() if "ptinspect convert" in line]
    assert len(commands) == len(models) + 1
    for model, command in zip(models, commands, strict=False):
        words = shlex.split(command)
        assert words[:4] == ["ptinspect", "convert", str(source), str(target)]
        assert words[4:] == ["--dtype=float64", "--entry", model]
        assert run(*words[2:], "--force").exit_code == 0
        part = SEVERAL[name][model]
        expected = part.state_dict() if isinstance(part, torch.nn.Module) else part
        assert sorted(keys(target)) == sorted(expected)
    assert commands[-1].endswith("--all-entries")
    assert run(*shlex.split(commands[-1])[2:]).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "in.pt", target.name, *(f"out_{model}{suffix}" for model in models),
    }  # fmt: skip
    refused = run(source, target, "--force").stderr.splitlines()
    for command in [line for line in refused if "ptinspect convert" in line]:
        assert run(*shlex.split(command)[2:]).exit_code == 0  # it replaces those files


AVERAGES = {
    "ema": {"model": weights("w", "b"), "ema": weights("w", "b", value=2.0)},
    "ema first": {"model_ema": weights("w", value=2.0), "state_dict": weights("w")},
    "shadow without buffers": {
        "model": weights("w", "running_mean"), "ema": {"decay": 0.9, "shadow": weights("w")},
    },
    "averaged model": {
        "model": weights("w"),
        "swa_model": {"n_averaged": torch.tensor(3), "module.w": torch.zeros(2)},
    },
    "modules": {"model": torch.nn.Linear(2, 1), "ema": torch.nn.Linear(2, 1)},
}  # fmt: skip


@pytest.mark.parametrize("name", AVERAGES)
def test_the_model_is_chosen_beside_its_average_and_a_warning_says_so(
    name: str, tmp_path: Path
) -> None:
    value: dict[str, Any] = AVERAGES[name]
    model = "state_dict" if "state_dict" in value else "model"
    report = ptinspect.convert(save(tmp_path / "in.pt", value), tmp_path / "out.pt")
    assert report.warnings[0].startswith(f"converted {model}, not ")
    assert "entry=PATH chooses another one" in report.warnings[0]
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    expected = value[model]
    expected = expected.state_dict() if isinstance(expected, torch.nn.Module) else expected
    assert list(loaded) == list(expected)
    assert all(loaded[key].equal(tensor) for key, tensor in expected.items())


def test_the_same_model_twice_is_one_model(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    value = {"network": model, "network_state_dict": model.state_dict()}
    report = ptinspect.convert(save(tmp_path / "in.pt", value), tmp_path / "out.pt")
    assert report.warnings[0].startswith("converted network, not network_state_dict")


def test_entry_is_repeatable(tmp_path: Path) -> None:
    value = {"encoder": weights("w"), "decoder": weights("v", value=2.0), "head": weights("h")}
    source = save(tmp_path / "in.pt", value)
    result = run(source, "--to", "safetensors", "--entry", "encoder", "--entry", "decoder",
                 "-f", "json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    files = [str(tmp_path / f"in_{name}.safetensors") for name in ("encoder", "decoder")]
    assert report["files"] == files
    assert [tensor["key"] for tensor in report["tensors"]] == ["w", "v"]
    # What is written to the other file is not dropped.
    assert report["dropped"] == ["head"]
    assert keys(Path(files[1])) == ["v"]
    report_again = ptinspect.convert(
        source, tmp_path / "o.pt", entry=["encoder", "decoder"], verify=True
    )
    assert report_again.files == [str(tmp_path / f"o_{name}.pt") for name in ("encoder", "decoder")]


def test_names_of_files_of_all_entries(tmp_path: Path) -> None:
    value = {"a.b": weights("w"), "model_state_dict": weights("w", size=3), "../x": weights("v")}
    source = save(tmp_path / "in.pt", value)
    (tmp_path / "out").mkdir()
    report = ptinspect.convert(source, tmp_path / "out", to="state_dict", all_entries=True)
    assert sorted(os.listdir(tmp_path / "out")) == [
        "in_a_b_state_dict.pt", "in_model_state_dict.pt", "in_x_state_dict.pt",
    ]  # fmt: skip
    assert report.tensors == 3
    clash = save(tmp_path / "clash.pt", {"a/b": weights("w"), "a_b": weights("v")})
    with pytest.raises(PtInspectError, match="two entries would be written to"):
        ptinspect.convert(clash, tmp_path / "out", to="state_dict", all_entries=True)


def test_all_entries_of_one_model_is_that_model(tmp_path: Path) -> None:
    source = save(tmp_path / "in.pt", weights("w"))
    assert ptinspect.convert(source, tmp_path / "o.pt", all_entries=True).files == [
        str(tmp_path / "o.pt")
    ]


def test_one_failing_entry_leaves_no_file(tmp_path: Path) -> None:
    source = save(tmp_path / "in.pt", {"a": weights("w"), "b": weights("w", value=1e6)})
    result = run(source, tmp_path / "o.pt", "--all-entries", "--dtype", "float16")
    assert result.exit_code == 1
    assert os.listdir(tmp_path) == ["in.pt"]


def test_a_module_among_hyperparameters_is_not_a_second_model(tmp_path: Path) -> None:
    value = {
        "state_dict": weights("net.weight"),
        "hyper_parameters": {"net": torch.nn.Linear(2, 2), "lr": 0.1},
    }
    report = ptinspect.convert(save(tmp_path / "in.ckpt", value), tmp_path / "out.pt")
    assert keys(tmp_path / "out.pt") == ["net.weight"]
    assert report.dropped == ["hyper_parameters"]


MEGATRON = {
    "iteration": 5,
    "args": argparse.Namespace(layers=2),
    "model": {
        "language_model": {
            "embedding": {
                "word_embeddings": weights("weight"), "position_embeddings": weights("weight"),
            },
            "encoder": weights("layers.0.weight", "layers.1.weight"),
        }
    },
}  # fmt: skip
HQQ = {
    "model.layers.0.q_proj": {
        "W_q": torch.zeros(4, dtype=torch.uint8), "meta": {**weights("scale", "zero"), "nbits": 4},
    },
    "model.norm": weights("weight"),
}  # fmt: skip


def test_nested_dicts_lose_no_siblings(tmp_path: Path) -> None:
    source = save(tmp_path / "megatron.pt", MEGATRON)
    ptinspect.convert(source, tmp_path / "o.pt")
    ptinspect.convert(source, tmp_path / "o.safetensors", verify=True)
    expected = [
        "language_model.embedding.word_embeddings.weight",
        "language_model.embedding.position_embeddings.weight",
        "language_model.encoder.layers.0.weight", "language_model.encoder.layers.1.weight",
    ]  # fmt: skip
    assert keys(tmp_path / "o.pt") == expected
    assert sorted(keys(tmp_path / "o.safetensors")) == sorted(expected)
    loaded = torch.load(tmp_path / "o.pt", weights_only=True)
    assert list(loaded["language_model"]) == ["embedding", "encoder"]
    source = save(tmp_path / "hqq.pt", HQQ)
    ptinspect.convert(source, tmp_path / "h.pt")
    assert len(keys(tmp_path / "h.pt")) == 4
    with pytest.raises(PtInspectError) as error:
        ptinspect.convert(source, tmp_path / "h.safetensors")
    command = (error.value.hint or "").split(": ", 1)[1]
    assert run(*shlex.split(command)[2:]).exit_code == 0
    assert sorted(keys(tmp_path / "h.safetensors")) == sorted(keys(tmp_path / "h.pt"))


def test_a_dict_in_a_state_dict_is_not_taken_for_the_model(tmp_path: Path) -> None:
    source = save(tmp_path / "a.pt", {**weights("a", "b", "c"), "extra": weights("mean")})
    target = tmp_path / "out.safetensors"
    assert run(source, target).exit_code == 0
    assert sorted(keys(target)) == ["a", "b", "c", "extra.mean"]
    source = save(tmp_path / "b.pt", {**weights("a", "b", "c"), "model": weights("w")})
    assert run(source, target, "--force").exit_code == 0
    assert keys(target) == ["w"]


@pytest.mark.parametrize("kind", ["list", "numbers"])
def test_a_dict_among_more_loose_tensors_is_a_question(kind: str, tmp_path: Path) -> None:
    items = [weights("w", "b"), torch.ones(1), torch.ones(2), torch.ones(3)]
    value = items if kind == "list" else dict(enumerate(items))
    source = save(tmp_path / "a.pt", value)
    target = tmp_path / "out.pt"
    result = run(source, target)
    assert result.exit_code == 2 and not target.exists()
    commands = [
        shlex.split(line) for line in result.stderr.splitlines() if "ptinspect convert" in line
    ]
    assert len(commands) == 2
    for words, number in zip(commands, (2, 5), strict=True):
        target.unlink(missing_ok=True)
        assert run(*words[2:]).exit_code == 0, words
        with ptinspect.open(target) as document:
            assert len(document.tensors) == number
    save(tmp_path / "b.pt", [weights("w", "b", "c"), torch.ones(1)])
    assert run(tmp_path / "b.pt", target, "--force").exit_code == 0  # a warning names the rest
    assert sorted(keys(target)) == ["b", "c", "w"]


def test_nested_dicts_whose_keys_collide(tmp_path: Path) -> None:
    value = {"model": {"a": {"b": torch.ones(1)}, "c": weights("d"), "a.b": torch.zeros(1)}}
    source = save(tmp_path / "in.pt", value)
    with pytest.raises(PtInspectError, match=r"two tensors would get the name 'a\.b'"):
        ptinspect.convert(source, tmp_path / "o.safetensors", entry="model")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8"])
def test_numpy_arrays_are_weights(protocol: int, dtype: str, tmp_path: Path) -> None:
    weight = np.arange(6).reshape(2, 3).astype(dtype)
    arrays = {"stem.weight": weight, "stem.bias": np.ones(2, dtype)}
    arrays["fortran"] = np.asfortranarray(weight)
    for value in (arrays, {"model": arrays, "__author__": "somebody", "matching_heuristics": True}):
        source = tmp_path / "model.pkl"
        source.write_bytes(pickle.dumps(value, protocol))
        for target in (tmp_path / "o.pt", tmp_path / "o.safetensors"):
            report = ptinspect.convert(source, target, force=True, verify=True)
            assert report.tensors == 3
            with ptinspect.open(target) as document:
                for key, array in arrays.items():
                    assert np.array_equal(document.tensors[key].numpy(), array)
                    assert document.tensors[key].shape == array.shape
        loaded = torch.load(tmp_path / "o.pt", weights_only=True)
        assert loaded["stem.weight"].tolist() == arrays["stem.weight"].tolist()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_commands_for_a_list_with_a_small_dict_write_what_their_suffix_says(
    tmp_path: Path, suffix: str
) -> None:
    items = [{"w": torch.ones(2)}, *(torch.full((2,), float(i)) for i in range(3))]
    source, target = save(tmp_path / "in.pt", items), tmp_path / f"out{suffix}"
    result = run(source, target)
    assert result.exit_code == 2 and "most tensors are not in [0]" in result.stderr
    part, everything = (shlex.split(line)[2:] for line in result.stderr.splitlines()[1:])
    assert run(*part).exit_code == 0 and keys(target) == ["w"]
    target.unlink()
    assert run(*everything).exit_code == 0
    written = target if suffix == ".pt" else next(tmp_path.glob("in_*.pt"))
    assert len(torch.load(written)) == 4
    assert target.exists() == (suffix == ".pt")


def fused_adam(model: Any) -> dict[str, Any]:
    """The state of FusedAdam of Apex after two steps: the group has the step."""
    state = {
        index: {"exp_avg": torch.ones_like(parameter), "exp_avg_sq": torch.ones_like(parameter)}
        for index, parameter in enumerate(model.parameters())
    }
    group = {"lr": 0.1, "bias_correction": True, "betas": (0.9, 0.99), "eps": 1e-8,
             "weight_decay": 0.0, "params": [*state], "step": 2}  # fmt: skip
    return {"state": state, "param_groups": [group]}


def test_a_step_in_the_group_is_that_of_the_optimizer(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    value = {"model": model.state_dict(), "optimizer": fused_adam(model), "epoch": 1}
    source = save(tmp_path / "in.pt", value)
    with ptinspect.open(source) as document:
        (optimizer,) = document.optimizers
        assert (optimizer.class_path, optimizer.step) == (None, 2)
    assert CliRunner().invoke(cli, ["check", "optimizer", str(source)]).exit_code == 0


UNIQUE = {
    "HQQ, a name without a dot": (
        {"model.q": {"W_q": torch.ones(2), "meta": {"scale": torch.ones(1)}}, "head": weights("w")},
        (), ["model.q.W_q", "model.q.meta.scale", "head.w"],
    ),
    "Megatron, with random numbers": (
        {"model": {"language_model": {"embedding": weights("w"), "encoder": weights("v")}},
         "rng_state": [{"cpu_rng_state": torch.ones(2)}]},
        (), ["language_model.embedding.w", "language_model.encoder.v"],
    ),
    "PEFT, one tensor and one dict": (
        {"base.lora_A.weight": torch.ones(2), "modules_to_save": {"cls": weights("weight")}},
        (), ["base.lora_A.weight", "modules_to_save.cls.weight"],
    ),
    "an object with a state_dict": (
        {"state": argparse.Namespace(params=weights("w"), step=3), "epoch": 1}, (), ["w"],
    ),
    "a number in the state_dict": (
        {"state_dict": {**weights("w"), "n": 5}, "epoch": 1}, ("n",), ["w"],
    ),
    "a number, and an optimizer": (
        {"model": {**weights("w"), "n": 5}, "optimizer": fused_adam(torch.nn.Linear(1, 1))},
        ("n",), ["w"],
    ),
    "an average of mmengine": (
        {"state_dict": weights("w"),
         "ema_state_dict": {"steps": torch.tensor(3), **weights("module.w", value=0.5)}}, (), ["w"],
    ),
    "Flax": ({"params": {"m": {"Dense_0": weights("kernel")}}}, (), ["m.Dense_0.kernel"]),
    "Paddle": (
        {"c.w": np.ones(2, np.float32), "StructuredToParameterName@@": {"c.w": "c"}},
        ("StructuredToParameterName@@",), ["c.w"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNIQUE)
def test_the_model_of_a_project(name: str, tmp_path: Path) -> None:
    value, exclude, expected = UNIQUE[name]
    source, target = save(tmp_path / "in.pt", value), tmp_path / "out.safetensors"
    ptinspect.convert(source, target, exclude=exclude)
    assert sorted(keys(target)) == sorted(expected)


def test_models_by_number_are_several(tmp_path: Path) -> None:
    source = save(tmp_path / "in.pt", {"ensemble": {0: weights("w"), 1: weights("v")}})
    result = run(source, tmp_path / "out.pt")
    assert result.exit_code == 2
    assert "--entry 'ensemble[0]'" in result.output and "--entry 'ensemble[1]'" in result.output


def test_what_is_next_to_the_model_is_dropped_by_name(tmp_path: Path) -> None:
    value = {"run": {"model": weights("w"), "step": 3, "extra": weights("m")["m"]}}
    many = {f"setting{index}": index for index in range(8)}
    value |= {**many, "optimizer": fused_adam(torch.nn.Linear(2, 2))}
    report = ptinspect.convert(save(tmp_path / "in.pt", value), tmp_path / "out.pt")
    assert sorted(report.dropped) == sorted(["run.step", "run.extra", *many, "optimizer"])
    (warning,) = report.warnings
    assert warning.startswith("dropped: run.extra (8 bytes), optimizer (48 bytes), run.step")
