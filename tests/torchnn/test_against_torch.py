# ruff: noqa: E402  (all that follows importorskip needs torch)
"""torch is the oracle: each class in each variant prints as torch prints it, and is built again
from the arguments that are read back from its pickle."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache

import pytest

torch = pytest.importorskip("torch")

from ptinspect.pickling.values import Call, Global, PersistentId, Value
from ptinspect.torchnn.attributes import MISSING, Argument, Attributes, items_of
from ptinspect.torchnn.classes import ModuleClass, candidates, lookup
from ptinspect.torchnn.printer import extra_repr
from tests.torchnn import cases, quantized_cases
from tests.torchnn.nodes import Node, known_paths, print_module, tree
from tests.torchnn.oracle import Oracle

# What torch says of its own classes (deprecated, inaccurate) is no concern of these tests.
pytestmark = pytest.mark.filterwarnings("ignore:::torch", "ignore:::tests.torchnn")

GROUPS: list[Callable[[], Iterator[torch.nn.Module]]] = [*cases.NN, *quantized_cases.AO]
GRAPH = "torch.fx.graph_module.GraphModule"
NOT_BUILT = {  # classes without an instance, and why
    "torch.ao.nn.quantized.modules.activation.MultiheadAttention": "made by converting alone",
    "torch.ao.nn.quantized.modules.conv._ConvNd": "refuses to be made",
    "torch.ao.nn.quantized.modules.conv._ConvTransposeNd": "has no packing of its own",
    "torch.ao.nn.quantized.modules.rnn.LSTM": "made by converting alone",
    "torch.ao.nn.quantized.modules.utils.WeightedQuantizedModule": "abstract",
    "torch.ao.nn.quantized.dynamic.modules.rnn.RNNCellBase": "made by its subclasses alone",
    "torch.ao.nn.intrinsic.qat.modules.conv_fused._ConvBnNd": "made by its subclasses alone",
    "torch.ao.nn.qat.modules.conv._ConvNd": "made by its subclasses alone",
    "torch.ao.nn.quantized.reference.modules.conv._ConvNd": "made by its subclasses alone",
    "torch.ao.nn.quantized.reference.modules.conv._ConvTransposeNd": "by its subclasses alone",
    "torch.ao.nn.quantized.reference.modules.rnn.RNNBase": "made by its subclasses alone",
    "torch.ao.nn.quantized.reference.modules.utils.ReferenceQuantizedModule": "a mixin",
    "torch.ao.nn.sparse.quantized.linear.Linear": "needs an engine that x86 has not",
    "torch.ao.nn.sparse.quantized.linear.LinearPackedParams": "needs an engine that x86 has not",
    "torch.ao.nn.sparse.quantized.dynamic.linear.Linear": "needs an engine that x86 has not",
    "torch.ao.quantization.fake_quantize.FakeQuantizeBase": "abstract",
    "torch.ao.quantization.observer.AffineQuantizedObserverBase": "abstract",
    "torch.ao.quantization.observer.ObserverBase": "abstract",
    "torch.ao.quantization.observer.UniformQuantizationObserverBase": "abstract",
    "torch.ao.quantization.fx.graph_module.FusedGraphModule": "pickled as a GraphModule",
    "torch.ao.quantization.fx.graph_module.ObservedGraphModule": "pickled as a GraphModule",
    "torch.ao.quantization.fx.graph_module.ObservedStandaloneGraphModule": "as a GraphModule",
    "torch.ao.quantization.fx.graph_module.QuantizedGraphModule": "pickled as a GraphModule",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "abstract",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "a group",
    "torch.fx._lazy_graph_module._LazyGraphModule": "pickled as a GraphModule",
    "torch.fx.graph_module._CodeOnlyModule": "made while a GraphModule is loaded",
    "torch.nn.modules.conv._ConvTransposeMixin": "deprecated, and refuses its own arguments",
    "torch.nn.modules.padding._CircularPadNd": "sets no padding of its own",
    "torch.nn.modules.padding._ConstantPadNd": "sets no padding of its own",
    "torch.nn.modules.padding._ReflectionPadNd": "sets no padding of its own",
    "torch.nn.modules.padding._ReplicationPadNd": "sets no padding of its own",
    "torch.nn.modules.pooling._AvgPoolNd": "sets no attributes of its own",
    "torch.nn.modules.pooling._MaxUnpoolNd": "sets no attributes of its own",
    "torch.nn.parallel.DistributedDataParallelCPU": "needs a process group",
    "torch.nn.parallel.distributed.DistributedDataParallel": "needs a process group",
    "torch.nn.utils.parametrizations._Orthogonal": "see test_whole_models: only within a model",
    "torch.nn.utils.parametrizations._SpectralNorm": "see test_whole_models",
    "torch.nn.utils.parametrizations._WeightNorm": "see test_whole_models",
    "torch.nn.utils.parametrize.ParametrizationList": "see test_whole_models",
}
ONE_VARIANT = {  # classes with arguments that one instance shows in full
    "torch.ao.nn.quantized.dynamic.modules.rnn.PackedParameter",
    "torch.ao.nn.quantized.modules.embedding_ops.EmbeddingPackedParams",
    "torch.ao.ns._numeric_suite.Shadow",
    "torch.ao.pruning.sparsifier.utils.FakeSparsity",
    "torch.ao.pruning._experimental.pruner.parametrization.FakeStructuredSparsity",
    "torch._dynamo.eval_frame.OptimizedModule",
    GRAPH,
}


@cache
def instances(group: Callable[[], Iterator[torch.nn.Module]]) -> list[torch.nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return list(group())


def path_of(module: torch.nn.Module) -> str:
    made = type(module)
    return GRAPH if "GraphModuleImpl" in made.__qualname__ else f"{made.__module__}.{made.__name__}"


def row_of(path: str) -> ModuleClass:
    row = lookup(path)
    assert row is not None
    return row


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_each_prints_as_torch_prints_it(group: Callable[[], Iterator[torch.nn.Module]]) -> None:
    for module in instances(group):
        oracle = Oracle(module)
        node = oracle.node
        want = str(module)
        if node.class_path == GRAPH:  # its class's own name is not pickled
            want = want.replace("Sequential(", "GraphModule(", 1)
        assert print_module(node, oracle.describe) == want
        assert extra_repr(node.class_path, node.attributes, oracle.describe) == module.extra_repr()


def test_every_class_is_built_with_several_arguments() -> None:
    built: dict[str, int] = {}
    for group in GROUPS:
        for module in instances(group):
            built[path_of(module)] = built.get(path_of(module), 0) + 1
    assert sorted(set(known_paths()) - set(built)) == sorted(NOT_BUILT)
    few = {path for path, count in built.items() if count < 2 and ".modules.fused." not in path}
    assert {p for p in few if any(a.source != "-" for a in row_of(p).arguments)} == ONE_VARIANT


@pytest.mark.parametrize("group", cases.NN, ids=lambda group: group.__name__)
def test_a_constructor_creates_the_tensors_and_children_of_its_row(
    group: Callable[[], Iterator[torch.nn.Module]],
) -> None:
    for module in instances(group):
        row = row_of(path_of(module))
        children = {name: type(child).__name__ for name, child in module.named_children()}
        if "Identity" in children.values():  # a coder of the user's own
            continue
        assert row.children.items() <= children.items()
        if row.has_shapes:
            tensors = [*module.named_parameters(), *module.named_buffers()]
            created = row.created_shapes(row.argument_values(Oracle(module).node.attributes))
            assert created == {name: tuple(tensor.shape) for name, tensor in tensors}, row


class Rebuilder:
    """Makes a module again from the arguments that its row reads out of its pickle."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.oracle = Oracle(module)
        self.made: dict[int, object] = {}
        self._know(self.oracle.root, module)

    def _know(self, value: Value, real: torch.nn.Module) -> None:
        self.made[id(value)] = real
        children = items_of(Node(value).attributes.get("_modules"))
        for name, child in children.items():
            if child is not None:
                self._know(child, real._modules[str(name)])

    def real(self, value: Value, argument: Argument) -> object:
        if id(value) in self.made:
            return self.made[id(value)]
        if isinstance(value, PersistentId):
            return self.oracle.tensor(value)
        if isinstance(value, Global):
            return getattr(importlib.import_module(value.module), value.name)
        if isinstance(value, tuple):
            return tuple(self.real(v, argument) for v in value)
        if isinstance(value, dict):
            named = {str(k): self.real(v, argument) for k, v in value.items()}
            as_dict = type(self.module).__name__ in ("ModuleDict", "ParameterDict", "Container")
            return named if as_dict else list(named.values())
        if isinstance(value, Call):
            return getattr(self.module, argument.source.lstrip("@"))
        return value

    def build(self) -> torch.nn.Module | None:
        """None where the pickle does not hold all that the constructor needs."""
        node = tree(self.oracle.root)
        positional: list[object] = []
        by_name: dict[str, object] = {}
        for argument, value in row_of(node.class_path).constructor(node.attributes):
            if value is MISSING:
                return None
            real = self.real(value, argument)
            if argument.kind == "*":
                positional.extend(real)
            elif argument.kind == "**":
                by_name.update(real)
            else:
                by_name[argument.name] = real
        return type(self.module)(*positional, **by_name)


STATEFUL = (  # what prints values that were observed, or parts that a pickle does not keep
    "torch.ao.quantization.observer.",
    "torch.ao.quantization.fake_quantize.",
    "torch.ao.quantization._",
    "torch.ao.quantization.fx.",
    "torch.ao.ns.",
    "torch.ao.nn.quantized.modules.functional_modules.",
    "torch.ao.nn.quantized.modules.linear.LinearPackedParams",
    "torch.ao.nn.quantized.modules.embedding_ops.EmbeddingPackedParams",
    "torch._dynamo.",
    "torch.optim.",
    "torch.distributed.",
    GRAPH,
)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_each_is_built_again_from_its_attributes(
    group: Callable[[], Iterator[torch.nn.Module]],
) -> None:
    compared = 0
    for module in instances(group):
        if path_of(module).startswith(STATEFUL) or "Tensor containing" in str(module):
            continue  # a constructor makes a Parameter of every tensor
        again = Rebuilder(module).build()
        if again is None:
            continue
        assert str(again) == str(module)
        shapes = {key: getattr(t, "shape", None) for key, t in module.state_dict().items()
                  if not torch.nn.parameter.is_lazy(t)}  # fmt: skip
        again_shapes = {key: getattr(t, "shape", None) for key, t in again.state_dict().items()
                        if not torch.nn.parameter.is_lazy(t)}  # fmt: skip
        assert again_shapes == shapes, str(module)
        compared += 1
    assert compared or group.__name__ in ("observers", "fake_quantizers", "tools")


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_defaults_are_not_given_again(group: Callable[[], Iterator[torch.nn.Module]]) -> None:
    """The first instance of each class is made with what it must be given, no more."""
    seen: set[str] = set()
    for module in instances(group):
        path = path_of(module)
        if path in seen or path in GIVEN_MORE:
            continue
        seen.add(path)
        node = Oracle(module).node
        given = {a.name for a, _ in row_of(path).constructor(node.attributes) if not a.required}
        assert given <= {"qconfig"}, path  # which qat needs, though its signature has a default


GIVEN_MORE = {  # whose first instance is given more than it must be
    "torch.ao.nn.intrinsic.modules.fused._FusedModule",
    "torch.nn.modules.transformer.Transformer",
    "torch.nn.modules.transformer.TransformerEncoderLayer",
    "torch.nn.modules.transformer.TransformerDecoderLayer",
    "torch.nn.modules.pooling.FractionalMaxPool2d",
    "torch.nn.modules.pooling.FractionalMaxPool3d",
    "torch.nn.modules.upsampling.Upsample",
    "torch.nn.modules.upsampling.UpsamplingNearest2d",
    "torch.nn.modules.upsampling.UpsamplingBilinear2d",
    "torch.nn.modules.conv._ConvNd",
    "torch.nn.modules.conv._ConvTransposeNd",
}


def without(state: dict[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in state.items() if key not in names}


@pytest.mark.parametrize("path", [p for p in known_paths() if row_of(p).fill])
def test_old_files_are_filled_as_setstate_fills_them(path: str) -> None:
    row = row_of(path)
    module = next((m for g in GROUPS for m in instances(g) if path_of(m) == path), None)
    if module is None:
        assert path in NOT_BUILT
        return
    names = tuple(row.fill)
    old = type(module).__new__(type(module))
    old.__setstate__(without(vars(module), names))
    aged = Oracle(module).node
    aged.attributes = without(dict(aged.attributes), names)
    assert extra_repr(path, aged.attributes) == old.extra_repr()
    for name in names:
        value = row.get(aged.attributes, name)
        real = getattr(old, name)
        assert value == (f"torch.nn.functional.{real.__name__}" if callable(real) else real)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_nothing_else_is_filled_in(group: Callable[[], Iterator[torch.nn.Module]]) -> None:
    """Where an attribute is gone and torch can still print, it prints what is printed here;
    where torch cannot, this leaves out what is not there."""
    for module in instances(group):
        path = path_of(module)
        node = Oracle(module)
        attributes = dict(node.node.attributes)
        row = row_of(path)
        named = [a for a in vars(module) if "{" + a in row.template]
        for name in named:
            text = extra_repr(path, without(attributes, (name,)), node.describe)
            try:
                old = type(module).__new__(type(module))
                old.__setstate__(without(vars(module), (name,)))
                want = old.extra_repr()
            except (AttributeError, KeyError):
                assert text is not None
                assert text.count(f"{name}=") < max(module.extra_repr().count(f"{name}="), 1)
            else:
                assert text == want, (path, name)


def test_marks_tell_a_foreign_class_from_its_attributes() -> None:
    marked = 0
    for group in GROUPS:
        for module in instances(group):
            path = path_of(module)
            row = row_of(path)
            if not row.marks or not path.startswith("torch.nn.modules."):
                continue
            if not fits_its_own_marks(row, Oracle(module).node.attributes):
                assert path in SPECIAL_MARKS
                continue
            found = candidates(Oracle(module).node.attributes)
            assert row in found, path
            assert found[0].template == row.template, (path, found)
            marked += 1
    assert marked > 150


SPECIAL_MARKS = {  # which ask for a value that some instances have not
    "torch.nn.modules.rnn.RNN",
    "torch.nn.modules.instancenorm.InstanceNorm1d",
    "torch.nn.modules.instancenorm.InstanceNorm2d",
    "torch.nn.modules.instancenorm.InstanceNorm3d",
}


def fits_its_own_marks(row: ModuleClass, attributes: Attributes) -> bool:
    return all(m.value is MISSING or row.get(attributes, m.name) == m.value for m in row.marks)


@pytest.mark.parametrize(
    "module",
    [torch.nn.Module(), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Sequential(torch.nn.ReLU())],
    ids=str,
)
def test_few_attributes_tell_nothing(module: torch.nn.Module) -> None:
    assert candidates(Oracle(module).node.attributes) == []
