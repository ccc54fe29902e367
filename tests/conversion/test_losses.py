"""What a conversion loses is said, and numbers are lost only when that was asked for."""

from __future__ import annotations

import json
import shlex
import zipfile
from math import inf
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ptinspect
from ptinspect.cli import cli
from ptinspect.conversion import convert
from ptinspect.errors import LossError
from tests.conftest import FIXTURES

torch = pytest.importorskip("torch")


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, words), "--no-progress"])


# --- --dtype


VALUES = {"large": torch.tensor([1e6, -3e6, 2.0, inf]), "small": torch.tensor([1e-9, 0.0, 1.0]),
          "fine": torch.ones(3)}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("strided", [False, True])
def test_overflow_is_refused_unless_allowed(suffix: str, strided: bool, tmp_path: Path) -> None:
    value = VALUES
    if strided:
        value = {key: torch.stack([t, t])[:, ::1].t()[:, 0] for key, t in VALUES.items()}
    source, target = save(tmp_path / "in.pt", value), tmp_path / f"out{suffix}"
    result = run(source, target, "--dtype", "float16")
    assert (result.exit_code, target.exists()) == (1, False)
    message = "2 numbers exceeded the range of float16: large (2, the largest is 3e+06)"
    assert message in result.stderr
    command = result.stderr.splitlines()[-1].strip()
    result = run(*shlex.split(command)[2:], "-f", "json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    small = "1 number too small for float16 became 0: small (1)"
    assert report["warnings"][:2] == [message, small]
    assert sorted(report["lost_values"], key=lambda item: item["tensors"]) == [
        {"tensors": ["large"], "overflowed": 2, "largest": 3e6, "underflowed": 0},
        {"tensors": ["small"], "overflowed": 0, "largest": None, "underflowed": 1},
    ]
    with ptinspect.open(target) as document:
        for key, tensor in value.items():
            assert document.tensors[key].torch().equal(tensor.to(torch.float16))


@pytest.mark.parametrize(
    ("dtype", "largest_kept", "smallest_lost"),
    [
        ("float16", 65504.0, 65520.0),
        ("bfloat16", 3.3e38, 3.4e38),
        ("float8_e4m3fn", 464.0, 465.0),
        ("float8_e5m2", 57344.0, 61440.0),
        ("float8_e4m3fnuz", 240.0, 248.0),
    ],
)
def test_where_overflow_begins(
    dtype: str, largest_kept: float, smallest_lost: float, tmp_path: Path
) -> None:
    save(tmp_path / "kept.pt", {"w": torch.tensor([largest_kept, -largest_kept, inf])[:2]})
    report = ptinspect.convert(tmp_path / "kept.pt", tmp_path / "a.pt", dtype=dtype)
    assert report.lost_values == []
    save(tmp_path / "lost.pt", {"w": torch.tensor([smallest_lost, -smallest_lost, 1.0])})
    with pytest.raises(LossError, match=f"2 numbers exceeded the range of {dtype}"):
        ptinspect.convert(tmp_path / "lost.pt", tmp_path / "b.pt", dtype=dtype)


def test_underflow_alone_is_a_warning(tmp_path: Path) -> None:
    source = save(tmp_path / "in.pt", {"w": torch.tensor([1e-9, -1e-30, 1.0])})
    report = ptinspect.convert(source, tmp_path / "o.pt", dtype="float16")
    assert report.warnings == ["2 numbers too small for float16 became 0: w (2)"]
    assert report.ok and report.lost_values[0].underflowed == 2


# --- checksums


def damage(path: Path, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(content) + 5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("numel", [16, 100_000, 3_000_000])
@pytest.mark.parametrize("options", [{}, {"dtype": "float64"}, {"to": "same"}])
def test_the_crc_is_that_of_the_bytes(numel: int, options: dict[str, Any], tmp_path: Path) -> None:
    tensor = torch.arange(float(numel))
    source = save(tmp_path / "in.pt", {"w": tensor, "v": torch.ones(2)})
    damage(source, tensor.numpy().tobytes()[:64])
    report = ptinspect.convert(source, tmp_path / "o.pt", **options)
    expected = "the bytes of in/data/0 do not match their CRC-32: w may be damaged"
    assert expected in report.warnings
    with zipfile.ZipFile(tmp_path / "o.pt") as archive:
        assert archive.testzip() is None
    # Without the damage there is no warning.
    save(source, {"w": tensor})
    assert ptinspect.convert(source, tmp_path / "o.pt", force=True, **options).warnings == []


@pytest.mark.parametrize("numel", [16, 100_000])
def test_safetensors_of_a_damaged_record_are_a_warning(numel: int, tmp_path: Path) -> None:
    tensor = torch.arange(float(numel))
    source = save(tmp_path / "in.pt", {"w": tensor})
    damage(source, tensor.numpy().tobytes()[:64])
    report = ptinspect.convert(source, tmp_path / "o.safetensors")
    assert report.warnings == ["the bytes of in/data/0 do not match their CRC-32: w may be damaged"]


@pytest.mark.parametrize("view", ["strided", "part"])
def test_a_cast_view_of_a_damaged_record_is_a_warning(view: str, tmp_path: Path) -> None:
    """Also where the damage is in elements that the view leaves out."""
    tensor = torch.arange(60_000.0).reshape(200, 300)
    source = save(tmp_path / "in.pt", {"w": tensor.t() if view == "strided" else tensor[100:]})
    damage(source, tensor.numpy().tobytes()[:64])
    for target in ("o.safetensors", "o.pt"):
        report = ptinspect.convert(source, tmp_path / target, dtype="float64")
        assert report.warnings == [
            "the bytes of in/data/0 do not match their CRC-32: w may be damaged"
        ]


@pytest.mark.parametrize("target", ["o.safetensors", "o.pt"])
@pytest.mark.parametrize(
    ("name", "record", "key"),
    [
        ("torchscript.pt", "torchscript/data/0", "layer.weight"),
        ("torchscript-1.2.pt", "torchscript-1.2/tensors/0", "weight"),
        ("export.pt2", "export/data/weights/weight_0", "layer.weight"),
        ("package.pt", "package/.data/0.storage", "layer.weight"),
        ("arrays.npz", "weight.npy", "weight"),
    ],
)
def test_damaged_records_of_other_zips_are_a_warning(
    name: str, record: str, key: str, target: str, tmp_path: Path
) -> None:
    """In an npz the record has a header, and its CRC-32 covers more than the array."""
    data = bytearray((FIXTURES / "others" / name).read_bytes())
    with zipfile.ZipFile(FIXTURES / "others" / name) as archive:
        content = archive.read(record)
    data[data.index(content) + len(content) - 1] ^= 1
    source = tmp_path / name
    source.write_bytes(data)
    report = ptinspect.convert(source, tmp_path / target)
    expected = f"the bytes of {record} do not match their CRC-32: {key} may be damaged"
    assert expected in report.warnings


# --- what is dropped


def test_several_pickles_are_not_dropped_in_silence(tmp_path: Path) -> None:
    report = ptinspect.convert(FIXTURES / "pickles" / "several.pkl", tmp_path / "o.pt")
    assert report.dropped == ["[1]", "[2]"]
    assert "dropped: [1], [2] (the file holds 2 more pickles after the first)" in report.warnings


def test_attributes_of_tensors_are_dropped_with_a_warning(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    model.weight.tensor_model_parallel = True  # type: ignore[assignment]
    source = save(tmp_path / "model.pt", model)
    for target in (tmp_path / "o.pt", tmp_path / "o.safetensors"):
        report = ptinspect.convert(source, target)
        expected = "dropped: weight.tensor_model_parallel (attributes set on tensors;"
        assert any(warning.startswith(expected) for warning in report.warnings)
        assert "weight.tensor_model_parallel" in report.dropped
    source = save(tmp_path / "dict.pt", {"w": model.weight, "b": torch.ones(1)})
    report = ptinspect.convert(source, tmp_path / "p.safetensors")
    assert report.dropped == ["w.tensor_model_parallel"]
    report = ptinspect.convert(source, tmp_path / "p.pt")  # a state_dict keeps its values
    assert report.dropped == []
    loaded = torch.load(tmp_path / "p.pt", weights_only=False)
    assert loaded["w"].tensor_model_parallel is True


def test_placeholders_of_zero_3_are_a_warning(tmp_path: Path) -> None:
    source = save(tmp_path / "in.pt", {"a": torch.ones(0), "b": torch.ones(0), "c": torch.ones(3)})
    for target in (tmp_path / "o.pt", tmp_path / "o.safetensors"):
        (warning,) = ptinspect.convert(source, target).warnings
        assert warning.startswith("2 of 3 tensors have no elements: placeholders, as DeepSpeed")
    source = save(tmp_path / "in.pt", {"a": torch.ones(0, 4), "b": torch.ones(3)})
    assert ptinspect.convert(source, tmp_path / "p.pt").warnings == []


# --- advice


def test_tied_keys_say_what_to_do(tmp_path: Path) -> None:
    import safetensors.torch

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(2, 3, bias=False)
            self.tok = torch.nn.Embedding(3, 2)
            self.head.weight = self.tok.weight

    model = Tied()
    source, target = save(tmp_path / "in.pt", model.state_dict()), tmp_path / "o.safetensors"
    (warning,) = ptinspect.convert(source, target).warnings
    assert warning == (
        "written once, with a note in the metadata: tok.weight is head.weight; a strict"
        " load_state_dict misses this key: use safetensors.torch.load_model, or write them all with"
        ' shared="duplicate"'
    )
    with pytest.raises(RuntimeError, match="tok"):
        Tied().load_state_dict(safetensors.torch.load_file(target))
    other = Tied()
    safetensors.torch.load_model(other, target)
    assert other.tok.weight.equal(model.tok.weight)
    ptinspect.convert(source, target, shared="duplicate", force=True)
    Tied().load_state_dict(safetensors.torch.load_file(target))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_prefix_of_all_keys_is_said(prefix: str, tmp_path: Path) -> None:
    value = {f"{prefix}a": torch.ones(1), f"{prefix}b": torch.ones(2)}
    source = save(tmp_path / "in.pt", value)
    advice = f'all keys begin with {prefix!r}: strip_prefix="auto" removes it'
    assert ptinspect.convert(source, tmp_path / "o.pt").warnings == [advice]
    report = ptinspect.convert(source, tmp_path / "p.pt", strip_prefix=["auto"])
    assert report.warnings == []
    save(source, {**value, "other": torch.ones(1)})
    assert ptinspect.convert(source, tmp_path / "q.pt").warnings == []


# --- losses of a checkpoint -----------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
def test_later_pickles_of_a_checkpoint_are_named(tmp_path: Path, plain: bool) -> None:
    report = convert(
        FIXTURES / "pickles/several.pkl", tmp_path / "o.pt", to="checkpoint", plain=plain
    )
    assert report.as_dict()["dropped"] == ["[1]", "[2]"]
    assert report.warnings[0] == (
        "dropped: [1], [2] (the file holds 2 more pickles after the first)"
    )


@pytest.mark.parametrize("to", ["checkpoint", "state_dict", "safetensors", "same"])
def test_placeholders_in_a_checkpoint_are_named(tmp_path: Path, to: str) -> None:
    layers = {f"l{number}.weight": torch.empty(0) for number in range(4)}
    state = {number: {"exp_avg": torch.ones(3)} for number in range(4)}
    groups = [{"params": [0, 1, 2, 3], "lr": 0.1}]
    torch.save(
        {"model": layers, "optimizer": {"state": state, "param_groups": groups}},
        tmp_path / "zero3.pt",
    )
    report = convert(tmp_path / "zero3.pt", tmp_path / "o", to=to)
    expected = "4 of 4 tensors have no elements: placeholders, as DeepSpeed ZeRO-3 leaves them"
    assert [text for text in report.warnings if text.startswith(expected)]


def test_plain_names_the_class_and_the_attributes_of_tensors(tmp_path: Path) -> None:
    report = convert(
        FIXTURES / "tensors/subclass-attributes.pt", tmp_path / "o.pt", to="checkpoint", plain=True
    )
    assert report.dropped == [
        "the class __main__.MyTensor of model_state_dict.w",
        "model_state_dict.w.origin",
        "model_state_dict.w.mask",
    ]
    assert report.warnings == [f"dropped: {', '.join(report.dropped)} (no plain form)"]
    assert list(torch.load(tmp_path / "o.pt")["model_state_dict"]["w"].shape) == [4]


def test_plain_keeps_a_parameter_whose_attributes_are_dropped(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    weight.initializer = torch.nn.Linear(1, 1)
    torch.save({"model_state_dict": {"w": weight}, "epoch": 1}, tmp_path / "a.pt")
    report = convert(tmp_path / "a.pt", tmp_path / "o.pt", to="checkpoint", plain=True)
    assert report.dropped == ["model_state_dict.w.initializer"]
    assert "dropped: model_state_dict.w.initializer (no plain form)" in report.warnings
    written = torch.load(tmp_path / "o.pt")["model_state_dict"]["w"]
    assert type(written) is torch.nn.Parameter
    assert not written.requires_grad
    assert torch.equal(written, torch.ones(3))


@pytest.mark.parametrize(
    ("dtype", "is_unknown"), [("float16", True), ("float64", False), ("bfloat16", True)]
)
def test_a_dry_run_says_that_it_reads_no_numbers(
    tmp_path: Path, dtype: str, is_unknown: bool
) -> None:
    torch.save({"w": torch.tensor([1e6])}, tmp_path / "a.pt")
    report = convert(tmp_path / "a.pt", tmp_path / "o.pt", dtype=dtype, dry_run=True)
    text = f"a dry run does not read the numbers: it is not known whether {dtype} can hold them all"
    assert report.warnings == [text] * is_unknown


def test_warnings_name_the_arguments_of_python(tmp_path: Path) -> None:
    torch.save({"model": {"module.w": torch.ones(2)}, "epoch": 1}, tmp_path / "a.pt")
    report = convert(tmp_path / "a.pt", tmp_path / "o.pt")
    assert report.warnings == [
        'dropped: epoch; to="checkpoint" keeps them',
        "all keys begin with 'module.': strip_prefix=\"auto\" removes it",
    ]
    shown = run(tmp_path / "a.pt", tmp_path / "p.pt").stderr
    assert "--to checkpoint keeps them" in shown
    assert "--strip-prefix auto removes it" in shown
