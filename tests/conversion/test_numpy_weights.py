"""Weights as arrays of NumPy in a plain pickle, as detectron, detectron2, RLlib and Flax write."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import ptinspect
from ptinspect.cli import cli
from ptinspect.errors import PtInspectError

torch = pytest.importorskip("torch")

KERNEL = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
BIAS = KERNEL[0, ::2]
DENSE = {"kernel": KERNEL, "bias": BIAS}
LAYOUTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "detectron2": (
        {"model": {"a.weight": KERNEL, "n": np.array(5), "s": np.float32(2.5)}, "__author__": "x"},
        {"a.weight": KERNEL, "n": np.array(5), "s": np.float32(2.5)},
        "s: NumPy scalars, written as tensors",
    ),
    "detectron": (
        {"blobs": {"conv1_w": KERNEL, "lr": np.float64(0.02)}},
        {"conv1_w": KERNEL, "lr": np.float64(0.02)},
        "lr: NumPy scalars, written as tensors",
    ),
    "RLlib": (
        {"worker": b"", "state": {"default_policy": {"weights": {"fc.weight": KERNEL}, "t": 3}}},
        {"fc.weight": KERNEL},
        'dropped: worker, state.default_policy.t; to="checkpoint" keeps them',
    ),
    "Flax": (
        {"params": {"Dense_0": DENSE, "LayerNorm_0": {"scale": BIAS.astype(">f8")}}},
        {"Dense_0.kernel": KERNEL, "Dense_0.bias": BIAS, "LayerNorm_0.scale": BIAS.astype("f8")},
        "",
    ),
    "Flax, one layer": (
        {"params": {"Dense_0": DENSE}}, {"Dense_0.kernel": KERNEL, "Dense_0.bias": BIAS}, "",
    ),
    "Flax, without a name": (
        {"Dense_0": DENSE, "Norm_0": {"scale": -BIAS}},
        {"Dense_0.kernel": KERNEL, "Dense_0.bias": BIAS, "Norm_0.scale": -BIAS},
        "",
    ),
    "Haiku": (
        {"mlp/~/a": {"w": KERNEL}, "mlp/~/b": {"w": BIAS}},
        {"mlp/~/a.w": KERNEL, "mlp/~/b.w": BIAS},
        "",
    ),
    "Fortran order": ({"model": {"w": np.asfortranarray(KERNEL)}}, {"w": KERNEL}, ""),
}  # fmt: skip


def dump(path: Path, value: Any, protocol: int, numpy_1: bool) -> Path:
    """Write a pickle with the names of numpy 2, or with those of numpy 1."""
    data = pickle.dumps(value, protocol)
    if numpy_1:
        assert protocol == 2, "the names of later protocols have their length in front"
        data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("protocol", "numpy_1"), [(2, True), (2, False), (5, False)])
def test_every_target_has_the_numbers_of_numpy(
    layout: str, protocol: int, numpy_1: bool, tmp_path: Path
) -> None:
    value, expected, warning = LAYOUTS[layout]
    source = dump(tmp_path / "in.pkl", value, protocol, numpy_1)
    for to in ("safetensors", "npz", "state_dict"):
        target = tmp_path / f"out.{to}"
        report = ptinspect.convert(source, target, to=to, verify=True)
        assert warning in report.warnings if warning else not report.warnings
        if to == "state_dict":
            loaded = torch.load(target)  # weights_only
            arrays = {key: tensor.numpy() for key, tensor in loaded.items()}
        else:
            with ptinspect.open(target) as document:
                arrays = {key: info.numpy() for key, info in document.tensors.items()}
        assert list(arrays) == (list(expected) if to != "safetensors" else list(arrays))
        assert {k: (a.dtype.name, a.shape, a.tobytes()) for k, a in arrays.items()} == {
            k: (a.dtype.name, a.shape, np.asarray(a).tobytes()) for k, a in expected.items()
        }


def test_show_and_diff_list_them_as_tensors(tmp_path: Path) -> None:
    value, expected, _ = LAYOUTS["detectron2"]
    a = dump(tmp_path / "a.pkl", value, 2, True)
    b = dump(tmp_path / "b.pkl", value, 4, False)
    with ptinspect.open(a) as document:
        assert document.kind == "checkpoint"
        assert list(document.tensors) == [f"model.{key}" for key in expected]
        assert [entry.path for entry in document.entries] == [("__author__",)]
    assert ptinspect.diff(a, b).same
    changed = {**value, "model": {**value["model"], "a.weight": KERNEL + 1}}
    report = ptinspect.diff(a, dump(tmp_path / "c.pkl", changed, 4, False))
    assert [change["a"] for change in report.as_dict()["changed"]] == ["model.a.weight"]


def test_the_state_of_an_optimizer_fits_them(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.from_numpy(KERNEL.copy()))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    state["state"] = {0: {key: tensor.numpy() for key, tensor in state["state"][0].items()}}
    value = {"weights": {"fc.weight": KERNEL}, "_optimizer_variables": [state]}
    source = dump(tmp_path / "policy.pkl", value, 4, False)
    with ptinspect.open(source) as document:
        roles = {info.key: info.role for info in document.tensors.values()}
    assert roles["weights.fc.weight"] == "tensor"
    assert roles["_optimizer_variables.0.state.0.exp_avg"] == "optimizer"
    assert CliRunner().invoke(cli, ["check", "optimizer", str(source)]).exit_code == 0


def test_what_is_no_array_is_said_with_a_command(tmp_path: Path) -> None:
    source = dump(tmp_path / "in.pkl", {"blobs": {"w": KERNEL, "lr": 0.02}}, 4, False)
    with pytest.raises(PtInspectError, match="cannot hold 1 of 2 entries: lr is not a tensor") as e:
        ptinspect.convert(source, tmp_path / "out.safetensors")
    assert "exclude" in str(e.value.hint)
    report = ptinspect.convert(source, tmp_path / "out.safetensors", exclude="lr")
    assert (report.tensors, report.dropped) == (1, ["lr"])


def test_several_models_are_a_question(tmp_path: Path) -> None:
    value = {"actor": {"params": {"Dense_0": DENSE}}, "critic": {"params": {"Dense_0": {**DENSE}}}}
    source = dump(tmp_path / "in.pkl", value, 4, False)
    with pytest.raises(PtInspectError, match="2 models") as error:
        ptinspect.convert(source, tmp_path / "out.safetensors")
    assert "'actor.params'" in str(error.value.hint)
    assert "'critic.params'" in str(error.value.hint)


def test_parameters_and_statistics_of_flax_are_one_model(tmp_path: Path) -> None:
    model = {"params": {"Dense_0": DENSE}, "batch_stats": {"Norm_0": {"mean": -BIAS}}}
    expected = {
        "params.Dense_0.kernel": KERNEL,
        "params.Dense_0.bias": BIAS,
        "batch_stats.Norm_0.mean": -BIAS,
    }
    for value in (model, {"state": model, "epoch": 3}):
        source = dump(tmp_path / "in.pkl", value, 4, False)
        report = ptinspect.convert(source, tmp_path / "o.safetensors", force=True, verify=True)
        assert report.dropped == (["epoch"] if value is not model else [])
        with ptinspect.open(tmp_path / "o.safetensors") as document:
            arrays = {key: info.numpy() for key, info in document.tensors.items()}
        assert arrays.keys() == expected.keys()
        assert all(np.array_equal(arrays[key], expected[key]) for key in expected)


def test_the_state_of_an_optimizer_is_no_model(tmp_path: Path) -> None:
    moments = {"count": np.array(7), "mu": {"Dense_0": DENSE}, "nu": {"Dense_0": DENSE}}
    value = {"step": 7, "params": {"Dense_0": DENSE}, "opt_state": {"0": moments}}
    source = dump(tmp_path / "in.pkl", value, 4, False)
    report = ptinspect.convert(source, tmp_path / "out.safetensors")
    assert (report.tensors, report.dropped) == (2, ["step", "opt_state"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], momentum=0.9)
    torch.save({"optimizer": optimizer.state_dict(), "losses": BIAS}, tmp_path / "in.pt")
    with pytest.raises(PtInspectError, match="no model: it is a checkpoint without a model"):
        ptinspect.convert(tmp_path / "in.pt", tmp_path / "out.pt")


def test_the_only_layer_keeps_its_name_next_to_another_collection(tmp_path: Path) -> None:
    value = {"params": {"mlp/~/linear": {"w": KERNEL}}, "state": {"norm": {"average": BIAS}}}
    source = dump(tmp_path / "in.pkl", value, 4, False)
    ptinspect.convert(source, tmp_path / "o.safetensors", entry="params")
    ptinspect.convert(source, tmp_path / "all.safetensors", all_entries=True)
    for name in ("o", "all_params"):
        with ptinspect.open(tmp_path / f"{name}.safetensors") as document:
            assert list(document.tensors) == ["mlp/~/linear.w"]


FLAT = {"kernel": KERNEL, "bias": BIAS}  # the root is the state_dict


@pytest.mark.parametrize("layout", [*LAYOUTS, "flat"])
def test_all_values_are_copied_with_their_arrays(layout: str, tmp_path: Path) -> None:
    value = FLAT if layout == "flat" else LAYOUTS[layout][0]
    for source in (tmp_path / "in.pkl", tmp_path / "in.pt"):
        torch.save(value, source) if source.suffix == ".pt" else dump(source, value, 4, False)
        for verify in (False, True):
            target = tmp_path / "same.pt"
            ptinspect.convert(source, target, to="same", force=True, verify=verify)
            loaded = torch.load(target, weights_only=False)
            assert pickle.dumps(loaded, 4) == pickle.dumps(torch_copy(value), 4)
            assert ptinspect.diff(source, target).same


def torch_copy(value: Any) -> Any:
    """Return what torch.save and torch.load make of a value."""
    file = io.BytesIO()
    torch.save(value, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def test_arrays_next_to_tensors_are_values(tmp_path: Path) -> None:
    value = {"model": {"w": torch.ones(2)}, "metrics": {"loss": BIAS}}
    source = dump(tmp_path / "in.pkl", value, 4, False)
    with ptinspect.open(source) as document:
        assert list(document.tensors) == ["model.w"]
        assert [entry.type for entry in document.entries] == ["numpy.ndarray"]


def test_numbers_next_to_tensors_are_values(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "epoch": np.int64(3)}, tmp_path / "in.pt")
    with pytest.raises(PtInspectError, match="1 of 2 entries: epoch is not a tensor") as error:
        ptinspect.convert(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert "exclude='epoch'" in str(error.value.hint)


def test_each_pickle_of_a_file_has_its_own_paths(tmp_path: Path) -> None:
    """Item 1 of the first pickle is no place in the second one, whose paths begin with 1."""
    for first in ([1, {"x": 1}, [1]], {"q": 1}):
        path = tmp_path / "rows.pkl"
        second = {"w": KERNEL, "s": np.float32(2.5)}
        path.write_bytes(pickle.dumps(first) + pickle.dumps(second))
        with ptinspect.open(path) as document:
            values = {info.path: info.numpy() for info in document.tensors.values()}
        assert values.keys() == {(1, "w"), (1, "s")}
        assert np.array_equal(values[1, "w"], KERNEL) and values[1, "s"] == np.float32(2.5)
