from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptinspect.cli import COMMANDS
from ptinspect.display import FORMATS
from tests.cli.running import run
from tests.display.making import FIXTURES, shown, shown_value
from tests.test_escape import any_text, hidden


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
    assert line(later, "needs") == "__main__.CustomModel"
    assert line(later, "ptinspect stub").endswith("fixtures/seed/model.pth > model_def.py")
    for name in ("seed/model.pth", "checkpoints/gan.pt", "modules/hooks.pt"):
        named = re.findall(r"\bptinspect (\w+)", shown(name, hints=True))
        assert set(named) <= set(COMMANDS)


def test_numpy_needs_no_stub(tmp_path: Path) -> None:
    path = tmp_path / "two-models.pt"
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
    rate = b"cnumpy.core.multiarray\nscalar\n(" + dtype + b"S'\\0\\0\\0\\0\\0\\0\\0@'\ntR"
    path.write_bytes(b"(dS'rate'\n" + rate + b"s.")
    text = shown(path, hints=True)
    assert line(text, "needs") == "" and "ptinspect stub" not in text


def test_the_hint_can_be_pasted(tmp_path: Path) -> None:
    from tests.display.making import FIXTURES

    odd = tmp_path / "it's; a model.pth"
    shutil.copy(FIXTURES / "seed/model.pth", odd)
    text = line(shown(odd, hints=True), "ptinspect stub")
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["conv", "dynamic", "dynamic-half", "lstm", "static"])
def test_keys_of_a_quantized_model_are_counted_as_torch_does(kind: str) -> None:
    torch = pytest.importorskip("torch")
    file = f"modules/quantized-{kind}.pt"
    state_dict = FIXTURES / f"modules/quantized-{kind}-state_dict.pt"
    try:
        saved = torch.load(
            state_dict if state_dict.exists() else FIXTURES / file, weights_only=False
        )
    except RuntimeError as error:
        pytest.skip(str(error))  # no engine for quantized weights
    keys = len(saved) if state_dict.exists() else len(saved.state_dict())
    assert f" in {keys} keys, the file" in line(shown(file), "state_dict")


SHARDED = """
import sys, torch, torch.distributed as dist
from torch.distributed._shard import sharded_tensor
from torch.distributed._shard.sharding_spec import ChunkShardingSpec
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
spec = ChunkShardingSpec(dim=0, placements=["rank:0/cpu"])
torch.save({"w": sharded_tensor.rand(spec, 4, 3), "b": torch.ones(3)}, sys.argv[1])
"""


def test_the_shards_of_a_sharded_tensor_are_its_bytes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "sharded.pt"
    command = [sys.executable, "-W", "ignore", "-c", SHARDED, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    assert line(shown(path), "tensors").startswith("2 tensors, 15 elements, 60 bytes, float32")
    first = json.loads(shown(path, "json"))["tensors"][0]
    assert [first["nbytes"], first["parts"]["shard0"]["shape"]] == [48, [4, 3]]
    assert first["parts"]["shard0"]["storage"]["nbytes"] == 48


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


def test_the_nodes_of_omegaconf_are_folded() -> None:
    text = shown("checkpoints/lightning.ckpt")
    entries = dict(re.findall(r"^(hyper_parameters\S*) +(.+)$", text, re.MULTILINE))
    assert entries == {
        "hyper_parameters": "pytorch_lightning.utilities.parsing.AttributeDict",
        "hyper_parameters.lr": "0.001",
        "hyper_parameters.width": "8",
        "hyper_parameters.model": "omegaconf.dictconfig.DictConfig",
        "hyper_parameters.model.depth": "2",
        "hyper_parameters.model.a.b": "1",
    }
    assert "_metadata" in shown("checkpoints/lightning.ckpt", "json")


class Detector:
    """With the attributes of a YOLO model, and those that torch gives a module."""

    def __init__(self) -> None:
        self._parameters: dict[str, object] = {}
        self._buffers: dict[str, object] = {}
        self._modules: dict[str, object] = {}
        self.training = True
        self.names = {0: "person", 1: "bicycle"}
        self.yaml: object = {"nc": 2, "backbone": [[-1, 1, "Conv", [64, 3, 2]]]}
        self.args = types.SimpleNamespace(lr0=0.01, data=None)
        self.task = "detect"


def test_plain_attributes_of_modules_are_shown() -> None:
    value = {"model": Detector(), "epoch": 3}
    text = "names: 2 items, yaml: 2 items, args: 2 items, task: detect, in model"
    assert line(shown_value(value), "attributes") == text
    modules = json.loads(shown_value(value, "json"))["modules"]
    assert [module.get("attributes") for module in modules] == [
        {
            "names": {"0": "person", "1": "bicycle"},
            "yaml": {"nc": 2, "backbone": [[-1, 1, "Conv", [64, 3, 2]]]},
            "args": {"lr0": 0.01, "data": None},
            "task": "detect",
        }
    ]


def test_attributes_that_repeat_each_other_are_bounded() -> None:
    model = Detector()
    for _ in range(40):
        model.yaml = [model.yaml, model.yaml]
    assert len(shown_value(model, "json")) < 1_000_000


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


def test_an_evil_file_says_so_in_its_first_line(tmp_path: Path) -> None:
    from tests.safety.files import BAD, torch_zip

    path = tmp_path / "evil.pt"
    path.write_bytes(torch_zip(BAD))
    assert shown(path).split("\n")[0].split("  ")[:2] == [str(path), "DANGEROUS"]
    assert "DANGEROUS" not in shown("seed/model.pth")
    assert shown(path, "markdown").split("\n")[0].endswith("evil.pt  **DANGEROUS**")
    assert "DANGEROUS" not in shown("seed/model.pth", "markdown")


def test_learning_rates_have_six_digits_and_no_group_no_rate() -> None:
    group = {"lr": 0.1 * 0.1 * 0.1, "momentum": 0.9, "params": [0]}
    text = shown_value({"state": {}, "param_groups": [group]}, "summary")
    assert "lr 0.001, " in line(text, "optimizer")
    text = shown_value({"state": {}, "param_groups": []}, "summary")
    assert "lr ," not in text


def test_tied_tensors_are_a_note() -> None:
    text = shown("modules/tied.pt")
    assert "the same bytes as " in line(text, "note")
    assert line(text, "warning") == ""


def test_placeholders_without_elements_are_warned_of(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a.weight": torch.empty(0), "b.weight": torch.empty(0)}, tmp_path / "z.pt")
    assert "2 of 2 tensors without elements, as ZeRO-3 saves them" in shown(tmp_path / "z.pt")


def test_the_metadata_of_safetensors_is_shown(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt", "training": "x" * 90}}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert line(shown(path), "metadata") == f"format: pt, training: {'x' * 60}…"
    document = json.loads(shown(path, "json"))
    assert document["metadata"] == {"format": "pt", "training": "x" * 90}


def test_an_object_is_named_by_its_class(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from collections import OrderedDict

    torch.save(OrderedDict(a=torch.ones(1), b=3), tmp_path / "o.pt")
    assert " a Call" not in shown(tmp_path / "o.pt")
    assert "tensors in an OrderedDict\n" in shown(tmp_path / "o.pt")


def test_torch_loads_safetensors_as_the_summary_says() -> None:
    torch = pytest.importorskip("torch", minversion="2.13")
    from tests.display.making import FIXTURES

    path = FIXTURES / "others/model.safetensors"
    assert f'import torch; torch.load("{path}")  # torch 2.13 or later' in shown(path)
    assert list(torch.load(path)) == ["layer.bias", "layer.weight"]


def test_torch_goes_by_the_name_of_a_safetensors_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", minversion="2.13")
    other = shutil.copy(FIXTURES / "others/model.safetensors", tmp_path / "model.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(other)
    assert "torch.load(" not in shown(other).replace("safetensors.torch.load_file", "")
    misnamed = shutil.copy(FIXTURES / "seed/checkpoint-6.pt", tmp_path / "model.safetensors")
    with pytest.raises(Exception, match="header"):
        torch.load(misnamed)
    imports, call = line(shown(misnamed), "load").split("; ")
    assert imports == "import torch"
    assert "epoch" in eval(call, {"torch": torch})


@pytest.mark.parametrize("kind", ["Linear", "AdamW", "Subset", "many"])
def test_scan_prints_the_line_that_show_promises(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(1, 1)
    activations = "ReLU ELU CELU SELU GELU Tanh SiLU Mish Softplus Softsign Sigmoid Hardtanh ReLU6"
    value = {
        "Linear": linear,
        "AdamW": torch.optim.AdamW(linear.parameters()),
        "Subset": torch.utils.data.Subset(torch.utils.data.TensorDataset(torch.ones(2)), [0]),
        "many": torch.nn.Sequential(*(getattr(torch.nn, name)() for name in activations.split())),
    }[kind]
    torch.save(value, tmp_path / "in.pt")
    is_promised = "prints the line" in run("show", tmp_path / "in.pt").stdout
    is_printed = "add_safe_globals" in run("scan", "-v", tmp_path / "in.pt").stdout
    assert is_promised == is_printed == (kind == "Linear")


def test_an_empty_key_is_not_the_root(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"": torch.ones(2), "a": torch.ones(1)}, tmp_path / "in.pt")
    torch.save(torch.ones(2), tmp_path / "root.pt")
    text = run("show", "--values", tmp_path / "in.pt").stdout
    assert '\n""   tensor' in text and '\n""\ntensor(' in text
    assert "\n(root)\ntensor([1., 1.])" in run("show", "--values", tmp_path / "root.pt").stdout


def test_a_terminal_is_not_flooded_with_what_pandas_and_modules_keep() -> None:
    pandas = pytest.importorskip("pandas")
    torch = pytest.importorskip("torch")
    frames = {f"table{n}": pandas.DataFrame({"x": [1]}) for n in range(4)}
    state = {"state": dict(vars(torch.nn.Identity())), "lr": 0.1, "table": "mine"}
    text = shown_value({**frames, **state}, "summary", fold=True)
    assert "lr " in text and "table3" in text and "state.training" not in text
    assert "_flags" not in text and "_hooks" not in text
    assert re.search(r"… and \d+ more entries \(--all\)", text)
    assert "_forward_hooks" in shown_value({**frames, **state}, "summary")
