"""Classes from keys and shapes: what stands beside a layer tells of it."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

import ptinspect
from ptinspect.stubs import stub
from tests.conftest import FIXTURES

torch = pytest.importorskip("torch")


def source_of(folder: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    """The stub of a state_dict of these shapes; `norm` stands for the tensors of a BatchNorm."""
    state = {}
    for key, shape in shapes.items():
        if key.endswith("norm"):
            for name in ("weight", "bias", "running_mean", "running_var"):
                state[f"{key}.{name}"] = torch.zeros(shape)
            state[f"{key}.num_batches_tracked"] = torch.tensor(0)
        else:
            state[key] = torch.zeros(shape)
    torch.save(state, folder / "state.pt")
    return stub(folder / "state.pt")


@pytest.mark.parametrize(
    ("weight", "kind"),
    [
        ((4, 3), "BatchNorm1d"),
        ((4, 3, 3), "BatchNorm1d"),
        ((4, 3, 3, 3), "BatchNorm2d"),
        ((4, 3, 3, 3, 3), "BatchNorm3d"),
        ((3, 4, 2, 2, 2), "BatchNorm3d"),
    ],
)
def test_a_batch_norm_has_the_dimensions_of_the_layer_before(
    tmp_path: Path, weight: tuple[int, ...], kind: str
) -> None:
    source = source_of(tmp_path, {"layer.weight": weight, "norm": (4,), "fc.weight": (2, 9)})
    assert f"self.norm = nn.{kind}(4)" in source


def test_or_of_the_layer_after(tmp_path: Path) -> None:
    shapes = {"fc.weight": (9, 9), "norm": (4,), "conv.weight": (5, 4, 3, 3, 3)}
    assert "self.norm = nn.BatchNorm3d(4)" in source_of(tmp_path, shapes)


@pytest.mark.parametrize(
    ("shapes", "name", "kind"),
    [
        # the convolution in the same module, not the Linear before
        ({"mlp.fc.weight": (4, 4), "block.norm": (4,), "block.conv.weight": (8, 4, 1, 1)},
         "norm", "BatchNorm2d"),
        # the convolutions, not the Linear of another module that follows
        ({"features.conv.weight": (9, 9, 1, 1), "features.norm": (4,), "fc.weight": (2, 4)},
         "norm", "BatchNorm2d"),
    ],
)  # fmt: skip
def test_the_nearer_layer_tells(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], name: str, kind: str
) -> None:
    assert f"self.{name} = nn.{kind}(4)" in source_of(tmp_path, shapes)


def test_or_as_most_convolutions_have_it(tmp_path: Path) -> None:
    shapes = {"a.weight": (9, 9, 1), "b.weight": (9, 9, 1), "scale": (4, 1, 1, 1), "norm": (4,)}
    assert "self.norm = nn.BatchNorm1d(4)" in source_of(tmp_path, shapes)


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        ([(4, 3, 3, 3), (5, 4, 3, 3)], "Sequential"),
        ([(4, 3, 3, 3), (5, 3, 3, 3)], "ModuleList"),  # the second does not take what comes
        ([(4, 3), (5, 4)], "ModuleList"),  # nothing between two Linear
        ([(4,), (4,)], "ModuleList"),
    ],
)
def test_layers_in_a_row(tmp_path: Path, shapes: list[tuple[int, ...]], kind: str) -> None:
    source = source_of(tmp_path, {f"x.{at}.weight": shape for at, shape in enumerate(shapes)})
    assert f"self.x = nn.{kind}(" in source


@pytest.mark.parametrize("number", ["\u00b2", "\u0663", "1" * 5_000])
def test_a_key_with_digits_that_are_no_index_is_a_name(tmp_path: Path, number: str) -> None:
    """`"\u00b2".isdigit()` is True, and int() refuses it; int() refuses thousands of digits too."""
    keys = [f"a.{number}", f"b.{number}.weight", f"c.{number}.x"]
    namespace: dict[str, object] = {}
    exec(source_of(tmp_path, dict.fromkeys(keys, (3, 4))), namespace)
    assert list(namespace["build"]().state_dict()) == keys  # type: ignore[operator]


@pytest.mark.parametrize("name", ["_modules", "_parameters", "_forward_hooks", "training"])
def test_a_key_that_every_module_uses_itself_is_no_attribute(name: str, tmp_path: Path) -> None:
    """`self._modules = Linear(...)` would take all children from the module."""
    keys = ["a.weight", f"b.{name}.weight", f"c.{name}", f"{name}.x"]
    namespace: dict[str, object] = {}
    exec(source_of(tmp_path, dict.fromkeys(keys, (3, 4))), namespace)
    state = namespace["build"]().state_dict()  # type: ignore[operator]
    assert sorted(state) == sorted(keys)


def test_a_child_of_such_a_name_is_reached_by_it(tmp_path: Path) -> None:
    net = torch.nn.Sequential()
    net._modules["\u00b2"] = torch.nn.Linear(2, 3)
    net.__dict__["again"] = [net._modules["\u00b2"]]
    torch.save(net, tmp_path / "net.pt")
    assert 'model.again = [model._modules["\u00b2"]]' in stub(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("word_embeddings", "Embedding"), ("shared", "Embedding"), ("wte", "Embedding"),
        ("relative_attention_bias", "Embedding"), ("shared_expert_gate", "Linear"), ("q", "Linear"),
    ],
)  # fmt: skip
def test_a_weight_alone_is_told_by_its_name(tmp_path: Path, name: str, kind: str) -> None:
    assert f"self.{name} = nn.{kind}(" in source_of(tmp_path, {f"{name}.weight": (5, 4)})


@pytest.mark.parametrize(
    ("name", "kind"),
    [("layers", "ModuleList"), ("layer1", "Sequential"), ("features", "Sequential")],
)
def test_blocks_in_a_row(tmp_path: Path, name: str, kind: str) -> None:
    shapes = {f"{name}.{at}.{key}": (3, 3) for at in range(2) for key in ("a.weight", "w")}
    assert f"self.{name} = nn.{kind}(" in source_of(tmp_path, shapes)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("module", "name", "dim", "layer"),
    [
        ("nn.utils", "weight_norm", 0, "Conv1d"),
        ("nn.utils", "weight_norm", 2, "Conv1d"),
        ("nn.utils", "weight_norm", None, "Conv1d"),
        ("nn.utils.parametrizations", "weight_norm", 0, "Conv1d"),
        ("nn.utils.parametrizations", "weight_norm", 2, "Conv2d"),
        ("nn.utils", "spectral_norm", 0, "Conv2d"),
        ("nn.utils.parametrizations", "spectral_norm", 0, "Conv2d"),
    ],
)
def test_layers_whose_weight_is_normed(
    tmp_path: Path, module: str, name: str, dim: int | None, layer: str
) -> None:
    where = torch.nn.utils if module == "nn.utils" else torch.nn.utils.parametrizations
    conv = getattr(where, name)(getattr(torch.nn, layer)(5, 4, 3), dim=dim)
    shapes = {f"conv.{key}": tuple(value.shape) for key, value in conv.state_dict().items()}
    source = source_of(tmp_path, shapes)
    made: dict[str, object] = {}
    exec(source, made)  # the stub, written a line above
    built = made["build"]()  # type: ignore[operator]
    assert type(built.conv).__mro__[-4:] == type(conv).__mro__[-4:]
    built.load_state_dict(torch.load(tmp_path / "state.pt"), strict=True)
    assert f"self.conv = {module}.{name}(" in source.replace("(\n", "(")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", [True, False])
def test_quantized_layers(tmp_path: Path, bias: bool) -> None:
    quantized = pytest.importorskip("torch.ao.nn.quantized")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no engine for quantized layers here")

    class Root(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant = quantized.Quantize(0.5, 3, torch.quint8)
            self.conv = quantized.Conv2d(3, 4, (3, 3), bias=bias)
            self.depthwise = quantized.Conv2d(4, 4, (3, 3), groups=4, bias=bias)
            self.add = quantized.QFunctional()
            self.embedding = quantized.Embedding(5, 4)
            self.fc = quantized.Linear(4, 2, bias_=bias)
            self.features = torch.nn.Sequential(
                quantized.Conv2d(4, 4, (1, 1), bias=bias), quantized.Hardswish(0.5, 0)
            )
            self.last = quantized.dynamic.Linear(2, 2, bias_=bias)

    want = Root()
    want.fc.scale = 0.5
    torch.save(want.state_dict(), tmp_path / "state.pt")
    made: dict[str, object] = {}
    exec(stub(tmp_path / "state.pt"), made)
    built = made["build"]()  # type: ignore[operator]
    built.load_state_dict(torch.load(tmp_path / "state.pt"), strict=True)
    have = {name: type(child) for name, child in built.named_modules() if name}
    assert have == {name: type(child) for name, child in want.named_modules() if name}
    assert torch.equal(built.conv.weight().dequantize(), want.conv.weight().dequantize())


def test_filters_of_one_channel_are_groups_but_where_the_model_begins(tmp_path: Path) -> None:
    shapes = {"conv1.weight": (8, 1, 5, 5), "conv2.weight": (8, 1, 3, 3), "fc.weight": (2, 9)}
    source = source_of(tmp_path, shapes)
    assert "self.conv1 = nn.Conv2d(1, 8, kernel_size=(5, 5), bias=False)" in source
    assert "self.conv2 = nn.Conv2d(8, 8, kernel_size=(3, 3), groups=8, bias=False)" in source


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("prelu1", 4, "PReLU(num_parameters=4)"), ("act", 4, "PReLU(num_parameters=4)"),
        ("body", 1, "PReLU()"), ("norm", 4, "RMSNorm((4,))"),
    ],
)  # fmt: skip
def test_one_number_for_each_channel(tmp_path: Path, name: str, size: int, text: str) -> None:
    source = source_of(tmp_path, {f"{name}.weight": (size,), "fc.weight": (2, 4)})
    assert f"self.{name} = nn.{text}" in source


def test_build_says_which_state_dict_of_several_it_is_for(tmp_path: Path) -> None:
    file = tmp_path / "in.pt"
    torch.save({"net": {"a.weight": torch.ones(2)}, "other": {"b": torch.ones(3)}}, file)
    assert "A model that takes the state_dict at net, with untrained numbers." in stub(file)
    assert "takes the state_dict at other, with" in stub(file, entry="other")
    torch.save({"a.weight": torch.ones(2)}, file)
    assert "A model that takes the file's state_dict, with" in stub(file)


@pytest.mark.parametrize(
    ("name", "works"), [("others/tiny.onnx", False), ("containers/model-legacy.pt", True)]
)
def test_convert_is_advised_only_if_it_works(name: str, works: bool) -> None:
    text = stub(FIXTURES / name)
    assert "weights_only cannot load it" in text
    assert ("`ptinspect convert`" in text) is works


def test_of_several_models_convert_is_advised_for_all(tmp_path: Path) -> None:
    file = tmp_path / "in.pt"
    models = {"generator": {"a.weight": torch.ones(2)}, "critic": {"b.weight": torch.ones(3)}}
    torch.save({**models, "recent": collections.deque([1.0])}, file)
    text = stub(file)
    assert "a filled collections.deque" in text
    line = "`ptinspect convert --all-entries` writes files that weights_only can load."
    assert f"\n{line}\n" in text
    ptinspect.convert(file, to="state_dict", all_entries=True)
    for name, state_dict in models.items():
        written = torch.load(tmp_path / f"in_{name}_state_dict.pt")
        assert written.keys() == state_dict.keys()
