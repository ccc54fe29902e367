"""Pairs of files with known differences, written by torch and safetensors."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from ptinspect.comparison import diff  # noqa: E402
from ptinspect.display.summary_facts import optimizer_text  # noqa: E402
from ptinspect.document import open as open_document  # noqa: E402
from ptinspect.errors import PtInspectError  # noqa: E402

SCHEMA = json.loads(files("ptinspect.comparison").joinpath("diff.schema.json").read_text("utf-8"))

State = dict[str, Any]


def state() -> State:
    """Return a state_dict of two blocks and a head."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "blocks.0.weight": (8, 8), "blocks.0.bias": (8,),
        "blocks.1.weight": (8, 8), "blocks.1.bias": (8,),
        "head.weight": (3, 8), "steps": (),
    }  # fmt: skip
    tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return {**tensors, "steps": torch.tensor(7)}


def save_zip(value: Any, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_protocol4(value: Any, path: Path) -> None:
    torch.save(value, path, pickle_protocol=4)


def save_ordered(value: Any, path: Path) -> None:
    torch.save(OrderedDict(value), path)


def save_safetensors(value: Any, path: Path) -> None:
    save_file({key: tensor.contiguous() for key, tensor in value.items()}, path)


CONTAINERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": save_zip, "legacy": save_legacy, "protocol4": save_protocol4,
    "ordered": save_ordered, "safetensors": save_safetensors,
}  # fmt: skip


def compare(a: Any, b: Any, folder: Path, **options: Any) -> dict[str, Any]:
    """Return the JSON of `diff` of two values, each as (value, container) or for torch.save.

    Also compares the other way round, which must mirror it, and checks the schema.
    """
    paths = []
    for name, side in (("a", a), ("b", b)):
        value, container = side if isinstance(side, tuple) else (side, "zip")
        paths.append(folder / f"{name}.{container}")
        CONTAINERS[container](value, paths[-1])
    report = diff(*paths, **options)
    result = json.loads(json.dumps(report.as_dict()))
    jsonschema.validate(result, SCHEMA)
    assert report.ok is report.same is result["same"] is bool(report)
    assert report.exit_code == int(not report.same)
    assert report.text().splitlines()[3].startswith("same" if report.same else "different")
    mirror = diff(paths[1], paths[0], **options).as_dict()
    assert mirror["same"] == result["same"]
    assert [item["key"] for item in mirror["added"]] == [item["key"] for item in result["removed"]]
    assert [item["key"] for item in mirror["removed"]] == [item["key"] for item in result["added"]]
    there = {(item["a"], item["b"]) for item in result["renamed"]}
    assert {(item["b"], item["a"]) for item in mirror["renamed"]} == there
    there = {(item["a"], item["b"]) for item in result["changed"]}
    assert {(item["b"], item["a"]) for item in mirror["changed"]} == there
    return result


def totals(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result["totals"].values())


@pytest.mark.parametrize("left", CONTAINERS)
@pytest.mark.parametrize("right", CONTAINERS)
def test_every_container_against_every_other(left: str, right: str, tmp_path: Path) -> None:
    same = compare((state(), left), (state(), right), tmp_path)
    assert same["same"] and totals(same) == (6, 0, 0, 0, 0)
    assert ("format" in {note["kind"] for note in same["notes"]}) == (
        {left, right} > {"safetensors"} or (left == "legacy") != (right == "legacy")
    )
    other = state()
    other["head.weight"][1, 2] += 0.5
    changed = compare((state(), left), (other, right), tmp_path)
    assert totals(changed) == (5, 1, 0, 0, 0)
    (change,) = changed["changed"]
    assert (change["a"], change["what"]) == ("head.weight", ["values"])
    assert change["values"]["changed"] == 1 and change["values"]["elements"] == 24
    assert math.isclose(change["values"]["max_abs"], 0.5, rel_tol=1e-6)


def expected_values(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """The figures by their definitions, over whole arrays."""
    a, b = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    with np.errstate(all="ignore"):
        changed = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        fine = np.isfinite(a) & np.isfinite(b)
        gap = np.abs(a - b)[fine]
        rel = (np.abs(a - b)[fine] / np.abs(a[fine]))[a[fine] != 0]
        norms = np.linalg.norm(a[fine]) * np.linalg.norm(b[fine])
    return {
        "elements": a.size, "changed": int(changed.sum()),
        "max_abs": gap.max() if gap.size else 0.0, "mean_abs": gap.mean() if gap.size else 0.0,
        "max_rel": rel.max() if rel.size else 0.0, "mean_rel": rel.mean() if rel.size else 0.0,
        "cosine": float(a[fine] @ b[fine]) / norms if norms else None,
        "nan_a": int(np.isnan(a).sum()), "nan_b": int(np.isnan(b).sum()),
    }  # fmt: skip


def numbers(kind: str) -> tuple[Any, Any]:
    """Two tensors of 200,000 elements (several blocks) of a kind."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200_000, generator=generator)
    y = x + 0.01 * torch.randn(200_000, generator=generator)
    if kind == "nan and inf":
        x[5], y[7], x[9], y[9], x[11] = math.nan, math.nan, math.nan, math.nan, math.inf
        x[13] = y[13] = math.inf
        y[15] = -math.inf
    if kind == "some zeros":
        x[:1000] = 0.0
    if kind == "all zero":
        x = torch.zeros(200_000)
    if kind == "view":
        return x.view(400, 500).t(), y.view(400, 500).t()
    if kind == "bool":
        return x > 0, y > 0
    if kind in ("int64", "uint8"):
        dtype = getattr(torch, kind)
        return (x * 3).abs().to(dtype), (x * 3 + 1).abs().to(dtype)
    if hasattr(torch, kind):
        return x.to(getattr(torch, kind)), y.to(getattr(torch, kind))
    return x, y


@pytest.mark.parametrize(
    "kind",
    ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool",
     "nan and inf", "some zeros", "all zero", "view"],
)  # fmt: skip
def test_the_figures_are_those_of_their_definitions(kind: str, tmp_path: Path) -> None:
    x, y = numbers(kind)
    result = compare({"w": x}, {"w": y}, tmp_path)
    expected = expected_values(x.double().numpy(), y.double().numpy())
    (change,) = result["changed"]
    assert change["what"] == ["values"]
    assert change["values"].keys() == expected.keys()
    for name, value in change["values"].items():
        if expected[name] is None:
            assert value is None, name
        else:
            assert value == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name


def test_large_integers_are_compared_exactly(tmp_path: Path) -> None:
    x = torch.tensor([2**62, 2**62 + 1])
    result = compare({"w": x}, {"w": x + torch.tensor([0, 1])}, tmp_path)
    assert result["changed"][0]["values"]["changed"] == 1


def test_signed_zeros_and_nans_are_equal(tmp_path: Path) -> None:
    x = torch.tensor([0.0, math.nan, 1.0])
    y = torch.tensor([-0.0, -math.nan, 1.0])
    assert compare({"w": x}, {"w": y}, tmp_path)["same"]


def test_complex_numbers(tmp_path: Path) -> None:
    x = torch.tensor([1 + 1j, 2.0 + 0j])
    y = torch.tensor([1 + 1j, 2.0 + 3j])
    values = compare({"w": x}, {"w": y}, tmp_path)["changed"][0]["values"]
    assert (values["changed"], values["max_abs"], values["mean_abs"]) == (1, 3.0, 1.5)


@pytest.mark.parametrize(("tolerance", "changed"), [(0.0, 3), (0.011, 1), (0.5, 0)])
def test_the_tolerance_is_absolute_and_relative(
    tolerance: float, changed: int, tmp_path: Path
) -> None:
    x = torch.tensor([0.0, 1.0, 100.0, 5.0])
    y = torch.tensor([0.01, 1.02, 105.0, 5.0])
    result = compare({"w": x}, {"w": y}, tmp_path, tolerance=tolerance)
    assert result["tolerance"] == tolerance
    assert [c["values"]["changed"] for c in result["changed"]] == ([changed] if changed else [])


def renamed(old: str, new: str) -> State:
    return {key.replace(old, new, 1): tensor for key, tensor in state().items()}


@pytest.mark.parametrize(
    ("b", "patterns", "count"),
    [
        ({f"module.{k}": v for k, v in state().items()}, [("{}", "module.{}", 6)], 6),
        ({f"_orig_mod.module.{k}": v for k, v in state().items()},
         [("{}", "_orig_mod.module.{}", 6)], 6),
        (renamed("blocks.", "encoder.layers."), [("blocks.{}", "encoder.layers.{}", 4)], 4),
        (renamed("bias", "beta"), [("{}.bias", "{}.beta", 2)], 2),
        (renamed("head.weight", "classifier.weight"), [], 1),
    ],
)  # fmt: skip
def test_renames_are_found_and_explained(
    b: State, patterns: list[Any], count: int, tmp_path: Path
) -> None:
    result = compare(state(), b, tmp_path)
    assert totals(result) == (6 - count, 0, 0, 0, count)
    assert {item["evidence"] for item in result["renamed"]} == {"bytes"}
    assert [(p["a"], p["b"], p["count"]) for p in result["patterns"]] == patterns


@pytest.mark.parametrize(
    ("old", "new", "pattern"),
    [
        ("attn", "mixer", ("{}.attn.{}", "{}.mixer.{}", 16)),
        ("attn.q", "attn.fn.q", ("{}.q.{}", "{}.fn.q.{}", 8)),
        ("attn.q", "attn.to.the.q", ("{}.q.{}", "{}.to.the.q.{}", 8)),
        (
            "model.layers",
            "model.decoder.layers",
            ("model.{}", "model.decoder.{}", 16),
        ),
    ],
)
def test_a_part_renamed_in_the_middle_of_keys_is_one_pattern(
    old: str, new: str, pattern: tuple[str, str, int], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = [f"model.layers.{n}.attn.{m}.{k}" for n in range(4) for m in "qk" for k in ("w", "b")]
    a = {key: torch.randn(8, 8, generator=generator) for key in ["model.embed", *keys]}
    b = {key.replace(old, new): tensor for key, tensor in a.items()}
    result = compare(a, b, tmp_path)
    assert [(p["a"], p["b"], p["count"]) for p in result["patterns"]] == [pattern]
    mirrored = compare(b, a, tmp_path)["patterns"]
    assert [(p["b"], p["a"], p["count"]) for p in mirrored] == [pattern]


def test_a_renamed_and_trained_tensor_is_found_by_its_numbers(tmp_path: Path) -> None:
    other = {f"net.{key}": tensor + 0.01 for key, tensor in state().items() if key != "steps"}
    a = {key: tensor for key, tensor in state().items() if key != "steps"}
    result = compare(a, other, tmp_path)
    assert [(r["a"], r["b"], r["evidence"]) for r in result["renamed"]] == [
        (key, f"net.{key}", "numbers") for key in a
    ]
    assert [(c["a"], c["b"]) for c in result["changed"]] == [(key, f"net.{key}") for key in a]


def test_a_renamed_and_cast_tensor_is_found(tmp_path: Path) -> None:
    a = {key: tensor for key, tensor in state().items() if key != "steps"}
    result = compare(a, {f"module.{k}": v.to(torch.bfloat16) for k, v in a.items()}, tmp_path)
    assert totals(result) == (0, 5, 0, 0, 5)
    assert all(change["what"] == ["dtype", "values"] for change in result["changed"])


def test_equal_tensors_are_paired_by_their_names(tmp_path: Path) -> None:
    ones = {f"layers.{n}.norm.weight": torch.ones(8) for n in range(12)}
    result = compare(ones, {f"module.{key}": tensor for key, tensor in ones.items()}, tmp_path)
    assert [(r["a"], r["b"]) for r in result["renamed"]] == [(k, f"module.{k}") for k in ones]
    assert result["patterns"] == [{"a": "{}", "b": "module.{}", "count": 12}]


def test_unrelated_tensors_are_not_renamed(tmp_path: Path) -> None:
    a = {"x": torch.arange(64.0)}
    result = compare(a, {"y": torch.arange(64.0).flip(0) * -3}, tmp_path)
    assert totals(result) == (0, 0, 1, 1, 0)
    assert result["removed"][0] == {
        "key": "x", "path": ["x"], "dtype": "float32", "shape": [64], "tied_to": None
    }  # fmt: skip


def test_shapes_dtypes_and_devices(tmp_path: Path) -> None:
    other = state()
    other["head.weight"] = torch.zeros(5, 8)
    other["blocks.0.bias"] = other["blocks.0.bias"].double()
    other["steps"] = other["steps"].to(torch.int32)
    other["blocks.1.bias"] = torch.empty(8, device="meta")
    result = compare(state(), other, tmp_path)
    changes = {change["a"]: change for change in result["changed"]}
    assert changes["head.weight"]["what"] == ["shape"]
    assert changes["head.weight"]["shape"] == [[3, 8], [5, 8]]
    assert changes["head.weight"]["values"] is None
    assert changes["blocks.0.bias"]["what"] == ["dtype"]
    assert changes["blocks.0.bias"]["values"]["changed"] == 0
    assert changes["steps"]["dtype"] == ["int64", "int32"]
    assert changes["blocks.1.bias"]["what"] == ["device", "values"]
    assert totals(result) == (2, 4, 0, 0, 0)


def test_a_size_mismatch_is_said_in_torchs_words(tmp_path: Path) -> None:
    for name, width in (("a", 8), ("b", 6)):
        model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU())
        torch.save(model.state_dict(), tmp_path / name)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(torch.load(tmp_path / "b"))
    text = diff(tmp_path / "a", tmp_path / "b").text()
    for line in str(caught.value).splitlines()[1:]:
        assert line.strip() in text


def test_missing_and_unexpected_keys_are_said_in_torchs_words(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8))
    torch.save(model.state_dict(), tmp_path / "a")
    wrong = {"0.weight": torch.ones(8, 4), "extra": torch.ones(9)}
    torch.save(wrong, tmp_path / "b")
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(wrong)
    text = diff(tmp_path / "a", tmp_path / "b").text()
    for line in str(caught.value).splitlines()[1:]:
        assert line.strip().rstrip(". ") in text


class Net(torch.nn.Module):
    """A model with a buffer that its state_dict leaves out."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.body = torch.nn.Linear(4, 4)
        self.drop = torch.nn.Dropout(dropout)
        self.register_buffer("cache", torch.ones(3), persistent=False)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr("__main__.Net", Net, raising=False)
    monkeypatch.setattr(Net, "__module__", "__main__")

    def build(dropout: float = 0.1) -> Any:
        torch.manual_seed(0)
        return Net(dropout)

    return build


def test_a_model_is_the_same_as_its_state_dict(net: Callable[..., Any], tmp_path: Path) -> None:
    result = compare(net(), net().state_dict(), tmp_path)
    assert result["same"]
    assert {note["kind"] for note in result["notes"]} == {"kind"}


def test_module_configurations(net: Callable[..., Any], tmp_path: Path) -> None:
    result = compare(net(), net(0.2), tmp_path)
    assert result["modules"] == [
        {"root": [], "name": "drop", "change": "changed",
         "a": "Dropout(p=0.1, inplace=False)", "b": "Dropout(p=0.2, inplace=False)"}
    ]  # fmt: skip
    wider = net()
    wider.head = torch.nn.Linear(4, 2)
    result = compare(net(), wider, tmp_path)
    assert [(m["name"], m["change"]) for m in result["modules"]] == [("head", "added")]


def test_attributes_of_modules(net: Callable[..., Any], tmp_path: Path) -> None:
    """What is in no state_dict and print(model) does not show."""

    def model(steps: int, temperature: float, layers: int, rate: float, window: list[int]) -> Any:
        model = net()
        model.steps, model.window, model.drop.seen = steps, window, steps
        model.config = {"layers": layers, "optimizer": {"lr": rate, "betas": (0.9, 0.99)}}
        model.body.temperature, model.blocks = temperature, [model.body, model.drop]
        model.body.config = model.config  # shared: named once
        model.handle = model.body.register_forward_hook(print)  # has another number in each model
        return model

    first = (3, 0.5, 2, 0.1, [1, 2])
    assert compare(model(*first), model(*first), tmp_path)["same"]
    for second, expected in (
        ((4, 0.5, 2, 0.1, [1, 2]), [(["steps"], 3, 4), (["drop", "seen"], 3, 4)]),
        ((3, 0.7, 2, 0.1, [1, 2]), [(["body", "temperature"], 0.5, 0.7)]),
        ((3, 0.5, 2, 0.2, [1, 2]), [(["config", "optimizer", "lr"], 0.1, 0.2)]),
        ((3, 0.5, 2.0, 0.1, [1, 2]), [(["config", "layers"], 2, 2.0)]),
        ((3, 0.5, 2, 0.1, [1, 3]), [(["window"], [1, 2], [1, 3])]),
    ):  # fmt: skip
        result = compare(model(*first), model(*second), tmp_path)
        assert [(e["path"], e["a"], e["b"]) for e in result["entries"]] == expected
        assert not result["same"]
        assert not result["modules"]
    models = [model(*first) for _ in range(2)]
    models[1].extra = models[1].blocks  # a module's own members are compared as such
    del models[1].steps
    changes = [(e["path"], e["change"]) for e in compare(*models, tmp_path)["entries"]]
    assert changes == [(["steps"], "removed"), (["extra"], "added")]
    assert compare(models[1], models[1].state_dict(), tmp_path)["same"]
    models[1].optimizer = torch.optim.Adam(models[1].parameters())  # as agents have one
    assert compare(models[1], models[1].state_dict(), tmp_path)["same"]
    optimizers = compare(models[0], models[1], tmp_path)["optimizers"]
    assert [(o["path"], o["change"]) for o in optimizers] == [(["optimizer"], "added")]


def test_settings_that_are_tensors(tmp_path: Path) -> None:
    """Their numbers are compared and shown; a list is equal to a tuple."""

    def adam(*betas: float) -> Any:
        group = {"params": [0], "lr": torch.tensor(0.1), "eps": 1e-8, "amsgrad": False}
        return {"state": {}, "param_groups": [{**group, "betas": tuple(map(torch.tensor, betas))}]}

    assert not compare(adam(0.5, 0.75), adam(0.25, 0.75), tmp_path)["same"]
    (optimizer,) = diff(tmp_path / "a.zip", tmp_path / "b.zip").optimizers
    assert optimizer.details == ("betas (0.5, 0.75) -> (0.25, 0.75)",)
    plain, listed = adam(), adam()
    plain["param_groups"][0]["betas"], listed["param_groups"][0]["betas"] = (0.5, 0.9), [0.5, 0.9]
    assert compare(plain, listed, tmp_path)["same"]
    torch.save(adam(0.5, 0.75), tmp_path / "adam.pt")
    with open_document(tmp_path / "adam.pt") as document:
        text = optimizer_text(document, document.optimizers[0])
    assert "lr 0.1, betas (0.5, 0.75), 1 parameter" in text


def test_training_and_evaluation_mode(net: Callable[..., Any], tmp_path: Path) -> None:
    """It changes what a model returns. Named once for a module and those in it."""
    for change, expected in (
        (lambda model: model.eval(), [(["training"], True, False)]),
        (lambda model: model.drop.eval(), [(["drop", "training"], True, False)]),
        (lambda model: model.eval().drop.train(), [(["training"], True, False)]),
    ):  # fmt: skip
        model = net()
        change(model)
        result = compare(net(), model, tmp_path)
        assert [(e["path"], e["a"], e["b"]) for e in result["entries"]] == expected
        assert not result["same"]
        assert compare(model, net().state_dict(), tmp_path)["same"]


def test_requires_grad_and_roles(net: Callable[..., Any], tmp_path: Path) -> None:
    frozen = net()
    frozen.body.weight.requires_grad_(False)
    result = compare(net(), frozen, tmp_path)
    assert [(c["a"], c["what"]) for c in result["changed"]] == [("body.weight", ["requires_grad"])]
    swapped = net()
    bias = swapped.body.bias.detach()
    del swapped.body.bias
    swapped.body.register_buffer("bias", bias)
    (change,) = [c for c in compare(net(), swapped, tmp_path)["changed"] if c["a"] == "body.bias"]
    assert (change["what"], change["role"]) == (["role"], ["parameter", "buffer"])


def test_a_parameter_is_not_a_plain_tensor(net: Callable[..., Any], tmp_path: Path) -> None:
    """What torch.load returns differs in class and gradient; a module and its state_dict do not."""
    weights = state()
    for requires_grad, what in ((True, ["requires_grad", "role"]), (False, ["role"])):
        parameter = torch.nn.Parameter(weights["head.weight"], requires_grad=requires_grad)
        result = compare(weights, {**weights, "head.weight": parameter}, tmp_path)
        assert [(c["a"], c["what"]) for c in result["changed"]] == [("head.weight", what)]
        assert not result["same"]
    (change,) = compare(parameter, parameter.detach(), tmp_path)["changed"]
    assert (change["what"], change["role"]) == (["role"], ["parameter", "tensor"])
    assert change["requires_grad"] == [False, False]
    kept = net().state_dict(keep_vars=True)
    changed = compare(kept, net().state_dict(), tmp_path)["changed"]
    assert [c["a"] for c in changed] == [name for name, _ in net().named_parameters()]
    assert compare(net(), net().state_dict(), tmp_path)["same"]
    assert compare(net(), kept, tmp_path)["same"]


def checkpoint(**options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.pop("lr", 0.1))
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **options}


def test_optimizers(tmp_path: Path) -> None:
    assert compare(checkpoint(), checkpoint(), tmp_path)["same"]
    (change,) = compare(checkpoint(), checkpoint(lr=0.2), tmp_path)["optimizers"]
    assert change["what"] == ["param_groups"]
    other = checkpoint()
    other["optimizer"]["state"][0]["exp_avg"] += 1
    result = compare(checkpoint(), other, tmp_path)
    assert result["optimizers"] == [{"path": ["optimizer"], "change": "changed", "what": ["state"]}]
    assert [c["a"] for c in result["changed"]] == ["optimizer.state.0.exp_avg"]
    other = checkpoint()
    other["optimizer"]["param_groups"][0].pop("decoupled_weight_decay", None)
    other["optimizer"]["param_groups"][0]["momentum_decay"] = 0.004
    del other["optimizer"]["param_groups"][0]["amsgrad"]
    (change,) = compare(checkpoint(), other, tmp_path)["optimizers"]
    assert change["what"] == ["class", "param_groups"]
    dropped = checkpoint()
    del dropped["optimizer"]
    (change,) = compare(checkpoint(), dropped, tmp_path)["optimizers"]
    assert (change["change"], change["what"]) == ("removed", [])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.update(slow=torch.ones(2)), "other"),
        (lambda state: state.update(scaler={"scale": 2.0}), "other"),
        (lambda state: state["state"].update(count=7), "state"),
        (lambda state: state["state"].update({0: {"step": 7}}), "state"),
        (lambda state: state["state"].update({1: {"step": 5}, 2: {"step": 3}}), "state"),
    ],
)
def test_what_no_optimizer_of_torch_has_is_compared(
    change: Callable[[Any], None], what: str, tmp_path: Path
) -> None:
    a: dict[str, Any] = {
        "state": {0: {"step": 5}, 1: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}],
        "slow": torch.zeros(2), "scaler": {"scale": 1.0},
    }  # fmt: skip
    b = copy.deepcopy(a)
    assert compare({"opt": a}, {"opt": b}, tmp_path)["same"]
    change(b)
    result = compare({"opt": a}, {"opt": b}, tmp_path)
    assert [item["what"] for item in result["optimizers"]] == [[what]]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.complex64(1), np.complex64(1 + 1j)),
        (np.datetime64(1, "D"), np.datetime64(2, "D")),
        (np.longdouble(1), np.longdouble(2)),
        ({np.int64(1): 1, np.int64(2): 5}, {np.int64(1): 2, np.int64(2): 5}),
    ],
)
def test_numpy_scalars_are_compared(a: Any, b: Any, tmp_path: Path) -> None:
    assert compare({**state(), "x": a}, {**state(), "x": a}, tmp_path)["same"]
    result = compare({**state(), "x": a}, {**state(), "x": b}, tmp_path)
    assert [entry["change"] for entry in result["entries"]] == ["changed"]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"epoch": 1}, {"epoch": 2}, [("epoch", "changed", 1, 2)]),
        ({"epoch": 1}, {"epoch": 1.0}, [("epoch", "changed", "int 1", "float 1.0")]),
        ({"note": "가"}, {}, [("note", "removed", "가", None)]),
        ({}, {"best": math.inf}, [("best", "added", None, "inf")]),
        ({"x": math.nan}, {"x": math.nan}, []),
        ({"x": {"b": 1, "a": 2}}, {"x": {"a": 2, "b": 1}}, []),
        ({"s": {3, 1}}, {"s": {1, 3}}, []),
        ({"l": [1, 2]}, {"l": [1, 3]}, [("l", "changed", [1, 2], [1, 3])]),
    ],
)
def test_entries(a: Any, b: Any, expected: list[Any], tmp_path: Path) -> None:
    result = compare({**state(), **a}, {**state(), **b}, tmp_path)
    found = [(e["path"][0], e["change"], e["a"], e["b"]) for e in result["entries"]]
    assert found == expected


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (list(range(100)), [*range(99), -1]),
        (b"x" * 100, b"x" * 99 + b"y"),
        (np.arange(100), np.arange(100) + (np.arange(100) == 99)),
        ({"deep": [1, {"er": list(range(50))}]}, {"deep": [1, {"er": [*range(49), 0]}]}),
    ],
)
def test_what_an_entry_does_not_show_is_compared_too(a: Any, b: Any, tmp_path: Path) -> None:
    result = compare({"w": torch.ones(2), "x": a}, {"w": torch.ones(2), "x": b}, tmp_path)
    assert [e["change"] for e in result["entries"]] == ["changed"]
    same = compare(
        {"w": torch.ones(2), "x": a}, {"w": torch.ones(2), "x": copy.deepcopy(a)}, tmp_path
    )
    assert same["same"]


@pytest.mark.parametrize("first", [{"a": 1}, [1, list(range(100))]], ids=["dict", "list"])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"x": v}], ids=["itself", "inside"])
def test_later_pickles_are_compared_whole_too(first: Any, wrap: Any, tmp_path: Path) -> None:
    values = list(range(100)), list(range(100)), [*range(99), -1]
    paths = [tmp_path / name for name in ("a.pkl", "b.pkl", "c.pkl")]
    for path, value in zip(paths, values, strict=True):
        path.write_bytes(pickle.dumps(first) + pickle.dumps(wrap(value)))
    assert diff(*paths[:2]).same
    entries = diff(paths[0], paths[2]).as_dict()["entries"]
    expected = (1, "x") if wrap(0) else (1,)
    assert [(e["path"], e["change"]) for e in entries] == [(list(expected), "changed")]


@pytest.mark.parametrize(("a", "b"), [({}, 5), ({}, [1]), (5, {})])
def test_an_empty_mapping_is_not_another_value(a: Any, b: Any, tmp_path: Path) -> None:
    result = compare(a, b, tmp_path)
    assert [(e["path"], e["change"]) for e in result["entries"]] == [([], "changed")]


def test_an_array_is_the_same_in_every_pickle_protocol(tmp_path: Path) -> None:
    value = {"w": torch.ones(2), "x": np.arange(100)}
    assert compare(value, (value, "protocol4"), tmp_path)["same"]


class Rebuilt:
    """What a function rebuilds from its arguments, as StyleGAN's networks do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ([("weight", torch.ones(2))],)


def test_a_tensor_in_an_argument_is_the_same_in_a_plain_pickle(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G": Rebuilt()}))
    torch.save({"G": Rebuilt()}, tmp_path / "b.pt")
    assert diff(tmp_path / "a.pkl", tmp_path / "b.pt").same


def test_tied_weights_and_a_dropped_one(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    tied = {"embed.weight": weight, "head.weight": weight}
    copied = {"embed.weight": weight, "head.weight": weight.clone()}
    result = compare(tied, copied, tmp_path)
    assert result["same"] and [note["kind"] for note in result["notes"]] == ["sharing"]
    result = compare(tied, ({"embed.weight": weight}, "safetensors"), tmp_path)
    assert [(r["key"], r["tied_to"]) for r in result["removed"]] == [
        ("head.weight", "embed.weight")
    ]


def test_a_conjugated_view_is_not_the_tied_tensor(tmp_path: Path) -> None:
    x = torch.randn(4, dtype=torch.complex64)
    result = compare({"x": x, "y": x.conj()}, {"x": x, "y": x}, tmp_path)
    assert [change["a"] for change in result["changed"]] == ["y"]


def test_order_and_strides_are_notes(tmp_path: Path) -> None:
    other = dict(reversed(state().items()))
    other["blocks.0.weight"] = other["blocks.0.weight"].t().contiguous().t()
    result = compare(state(), other, tmp_path)
    assert result["same"] and [note["kind"] for note in result["notes"]] == ["order"]


def test_include_and_exclude(tmp_path: Path) -> None:
    other = {key: tensor + 1 for key, tensor in state().items()}
    result = compare(state(), other, tmp_path, include=["blocks.*"], exclude=["*.bias"])
    assert [c["a"] for c in result["changed"]] == ["blocks.0.weight", "blocks.1.weight"]
    assert totals(result) == (0, 2, 0, 0, 0)


@pytest.mark.parametrize("options", [{"include": ["block.*"]}, {"exclude": ["*"]}])
def test_globs_that_leave_nothing_are_an_error(options: Any, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a")
    with pytest.raises(PtInspectError, match=r"^include and exclude drop all 12 keys"):
        diff(tmp_path / "a", tmp_path / "a", **options)


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
def test_sparse_tensors(layout: str, tmp_path: Path) -> None:
    dense = torch.eye(4)
    other = dense.clone()
    other[1, 1] = 3
    a = dense.to_sparse(layout=getattr(torch, layout))
    b = other.to_sparse(layout=getattr(torch, layout))
    assert compare({"w": a}, {"w": a}, tmp_path)["same"]
    (change,) = compare({"w": a}, {"w": b}, tmp_path)["changed"]
    assert change["what"] == ["values"] and change["values"] is None


def test_quantized_tensors(tmp_path: Path) -> None:
    x = torch.quantize_per_tensor(torch.arange(4.0), 0.5, 0, torch.qint8)
    y = torch.quantize_per_tensor(torch.arange(4.0) + 1, 0.5, 0, torch.qint8)
    z = torch.quantize_per_tensor(torch.arange(4.0) * 2, 1.0, 0, torch.qint8)
    assert compare({"w": x}, {"w": x}, tmp_path)["same"]
    assert not compare({"w": x}, {"w": y}, tmp_path)["same"]
    assert not compare({"w": x}, {"w": z}, tmp_path)["same"], "equal codes, another scale"


def test_scales_of_quantized_channels_are_compared(tmp_path: Path) -> None:
    codes = torch.arange(40.0).reshape(4, 10)
    one, two = (
        torch.quantize_per_channel(codes * scale, torch.full((4,), scale), torch.zeros(4), 0,
                                   torch.qint8)
        for scale in (1.0, 2.0)
    )  # fmt: skip
    assert torch.equal(one.int_repr(), two.int_repr())
    assert compare({"w": one}, {"w": one}, tmp_path)["same"]
    assert compare({"w": one}, {"w": two}, tmp_path)["changed"][0]["what"] == ["values"]
    renamed = compare({"w": one}, {"v": two}, tmp_path)
    assert totals(renamed) == (0, 0, 1, 1, 0), "equal codes are not the same tensor"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (list(range(100)), list(range(1, 101))),
        (b"x" * 100, b"y" * 100),
        (np.arange(100), np.arange(100) + 1),
        (torch.ones(2).untyped_storage(), torch.zeros(2).untyped_storage()),
    ],
)
def test_a_file_that_is_one_long_value(a: Any, b: Any, tmp_path: Path) -> None:
    assert compare(a, a, tmp_path)["same"]
    assert [e["path"] for e in compare(a, b, tmp_path)["entries"]] == [[]]
    assert compare({}, ({}, "safetensors"), tmp_path)["same"], "empty containers do not count"


def test_keys_with_braces(tmp_path: Path) -> None:
    a = {f"a.{{}}.{n}.{{0..3}}": torch.randn(8) for n in range(4)}
    result = compare(a, {f"m.{key}": tensor + 1 for key, tensor in a.items()}, tmp_path)
    assert totals(result) == (0, 0, 4, 4, 0)
    result = compare(a, {f"m.{key}": tensor for key, tensor in a.items()}, tmp_path)
    assert result["patterns"] == [{"a": "{}", "b": "m.{}", "count": 4}]
    result = compare(a, {f"m.{key}": tensor + (key[5] == "1") * 9 for key, tensor in a.items()},
                     tmp_path)  # fmt: skip
    assert "names" in {item["evidence"] for item in result["renamed"]}


@pytest.mark.parametrize("kind", ["equal", "other", "trained", "removed"])
def test_many_renamed_or_removed_keys_take_linear_time(kind: str, tmp_path: Path) -> None:
    """6,000 keys: with work for each pair of keys this takes minutes."""
    keys = [f"layers.{n // 2}.{'qk'[n % 2]}.weight" for n in range(6000)]
    a = np.ones(6000) if kind == "equal" else np.arange(6000.0)
    b = a * 1.0001234 if kind == "trained" else a
    shape = (2, 3) if kind == "other" else (2, 2)
    tensors = {f"module.{key}": torch.full(shape, b[n]) for n, key in enumerate(keys)}
    save_file({key: torch.full((2, 2), a[n]) for n, key in enumerate(keys)}, tmp_path / "a")
    save_file({"x": torch.ones(3)} if kind == "removed" else tensors, tmp_path / "b")
    start = time.process_time()
    report = diff(tmp_path / "a", tmp_path / "b")
    report.text()
    assert time.process_time() - start < 20
    pairs = {(item.a, item.b) for item in report.renamed}
    paired = kind in ("equal", "trained")
    assert pairs == ({(key, f"module.{key}") for key in keys} if paired else set())


@pytest.mark.parametrize("size", [1 << 18, (1 << 18) + 1, 1_000_003])
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_the_last_element_of_a_large_tensor(size: int, container: str, tmp_path: Path) -> None:
    big = {"small": torch.ones(3), "big": torch.arange(size, dtype=torch.float32)}
    assert compare((big, container), (big, "zip"), tmp_path)["same"]
    other = {**big, "big": big["big"].clone()}
    other["big"][-1] += 64
    result = compare((big, container), (other, "zip"), tmp_path)
    assert totals(result) == (1, 1, 0, 0, 0)
    assert (result["changed"][0]["values"]["changed"], result["changed"][0]["a"]) == (1, "big")


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs a read into a buffer")
def test_equal_bytes_are_compared_in_reused_memory(tmp_path: Path) -> None:
    torch.save({"big": torch.ones(1 << 24)}, tmp_path / "a")
    torch.save({"big": torch.ones(1 << 24)}, tmp_path / "b")
    code = (
        "import resource, sys; from ptinspect.comparison import diff; diff(*sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")]
    faults = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert faults < 1 << 25  # a quarter of what is read


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a")
    torch.save({key: tensor + 1 for key, tensor in state().items()}, tmp_path / "b")
    seen: list[tuple[int, int]] = []
    diff(tmp_path / "a", tmp_path / "b", progress=lambda *now: seen.append(now))
    assert seen[-1][0] == seen[-1][1] > 0


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance: float, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a")
    with pytest.raises(ValueError, match="tolerance"):
        diff(tmp_path / "a", tmp_path / "a", tolerance=tolerance)


def test_equal_zeros_are_paired_by_the_longest_common_name(tmp_path: Path) -> None:
    """The average has the same zeros, under a key with as many parts as the new one."""
    zeros = torch.zeros(4)
    checkpoint = {
        "model": {"module._orig_mod.0.1.bias": zeros},
        "ema": {"_orig_mod.0.1.bias": zeros.clone()},
    }
    torch.save(checkpoint, tmp_path / "a.pt")
    torch.save(checkpoint["model"], tmp_path / "b.pt")
    for a, b in (("a.pt", "b.pt"), ("b.pt", "a.pt")):
        report = diff(tmp_path / a, tmp_path / b)
        names = {(item["a"], item["b"]) for item in report.as_dict()["renamed"]}
        pair = ("model.module._orig_mod.0.1.bias", "module._orig_mod.0.1.bias")
        assert names == {pair if a == "a.pt" else pair[::-1]}
