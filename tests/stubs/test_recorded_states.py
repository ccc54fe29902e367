"""What the state of a module says about its class, and what a state_dict says about its modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptinspect.proofs.stub_check import check_stub
from ptinspect.stubs import stub
from tests.stubs.trying import attempt, failures, outcomes, run_script

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("forked_torch")

MAKER = """
import sys, types, torch
from torch import nn
home = sys.modules["proj"] = types.ModuleType("proj")

def put(thing):
    thing.__module__, thing.__qualname__ = "proj", thing.__name__
    setattr(home, thing.__name__, thing)
    return thing

def parameters(*sizes):
    return [nn.Parameter(torch.ones(size)) for size in sizes]

@put
class Net(nn.Module):
    def __init__(self, /, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

@put
class Prompts(nn.ParameterList): pass
@put
class Varying(nn.ParameterList): pass
@put
class Tagged(nn.ParameterList):
    def __init__(self, values):
        super().__init__(values)
        self.dim, self.lin = 7, nn.Linear(2, 2)
@put
class Scales(nn.ParameterDict): pass
@put
class Sized(nn.Module):
    def __init__(self):
        super().__init__()
        self._size, self._keys = 3, {"u": None}
        self.weight = nn.Parameter(torch.ones(2))
@put
class Custom(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.lin = nn.Linear(size, 2)
    def __getstate__(self): return self.lin.in_features, self.state_dict()
    def __setstate__(self, state):
        Custom.__init__(self, state[0])
        self.load_state_dict(state[1])
@put
def before(*arguments): return None
@put
def full(*arguments): return None
@put
def loading(*arguments): return None

unsorted = nn.ParameterDict()
unsorted["z"], unsorted["a"] = parameters(1, 2)
containers = Net(
    prompts=Prompts(parameters(2, 2, 2)), short=Varying(parameters(1)), no=Sized(),
    long=Varying(parameters(2, 3)), tagged=Tagged(parameters(4, 4)), scales=Scales(unsorted),
    unsorted=unsorted, other=Scales({"b": nn.Parameter(torch.ones(2))}),
)
custom = Net(child=Custom(), lin=nn.Linear(2, 2))
normed = nn.utils.weight_norm(nn.Conv1d(2, 2, 1))
hooked = Net(lin=nn.Linear(2, 2), conv=normed, lazy=nn.LazyLinear(2))
hooked.lin.register_full_backward_hook(full)
hooked.register_forward_pre_hook(before)
hooked._register_load_state_dict_pre_hook(loading, with_module=True)
alone = Custom()
extra = {"fc.weight": torch.ones(2, 2), "fc._extra_state": None}
for name in ("containers", "custom", "hooked", "alone", "extra"):
    torch.save(globals()[name], f"{name}.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    run_script(folder, MAKER)
    return folder


def test_a_subclass_of_a_parameter_container_extends_it(folder: Path) -> None:
    source = stub(folder / "containers.pt")
    for name in ("Prompts", "Varying", "Tagged"):
        assert f"class {name}(nn.ParameterList):" in source
    assert "class Scales(nn.ParameterDict):" in source
    assert "class Sized(nn.Module):" in source
    assert "super().__init__([nn.Parameter(torch.zeros(2)) for _ in range(3)])" in source
    assert "self.dim = 7" in source


@pytest.mark.slow
def test_models_with_such_states_are_loaded_and_built(folder: Path, tmp_path: Path) -> None:
    tries = [attempt(name, folder / f"{name}.pt") for name in ("containers", "hooked", "custom")]
    said = outcomes(tries, tmp_path)
    found = {one.name: failures(one, said[one.name]) for one in tries}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_hooks_that_build_does_not_register_are_listed(folder: Path) -> None:
    source = stub(folder / "hooked.pt")
    listed = source.partition("Hooks that build() does not register; torch.load does:\n")[2]
    assert listed.splitlines()[:4] == [
        "  - proj.before, forward_pre_hooks of the model",
        "  - proj.loading, load_state_dict_pre_hooks of the model",
        "  - proj.full, backward_hooks of lin",
        '"""',
    ]
    assert "the file does not record loading: this hook does nothing" in source
    assert "Hooks" not in stub(folder / "containers.pt")


def test_a_child_that_pickles_itself_is_a_module(folder: Path) -> None:
    source = stub(folder / "custom.pt")
    assert "class Custom(nn.Module):\n    def __setstate__(self, state):" in source
    assert "recorded: only what its own code pickles" in source
    assert "how it restores its state, which the stub keeps in `state`" in source


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alone", "extra", "hooked"])
def test_check_follows_them(folder: Path, name: str) -> None:
    report = check_stub(str(folder / f"{name}.pt"))
    assert report.exit_code == 0, report.text()
    assert "strict" in report.results


def built_from(state: dict[str, object], file: Path) -> torch.nn.Module:
    """The model of a state_dict's stub, with the state_dict in it."""
    torch.save(state, file)
    made: dict[str, object] = {}
    exec(stub(file), made)  # the stub, written a line above
    built: torch.nn.Module = made["build"]()  # type: ignore[operator]
    built.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return built


def test_a_state_dict_with_extra_states_is_taken(tmp_path: Path) -> None:
    state = {
        "_extra_state": {"step": 3, "scale": torch.ones(2)},
        "layers.0.qkv.weight": torch.ones(3, 2),
        "layers.0.qkv._extra_state": torch.arange(4, dtype=torch.uint8),
        "layers.1.qkv.weight": torch.ones(3, 2),
        "attention._extra_state": None,
        "head.weight": torch.ones(2, 2),
    }
    after = built_from(state, tmp_path / "in.pt").state_dict()
    assert after.keys() == state.keys()
    assert after["_extra_state"]["step"] == 3
    assert torch.equal(after["layers.0.qkv._extra_state"], state["layers.0.qkv._extra_state"])


def test_each_tensor_keeps_its_dtype(tmp_path: Path) -> None:
    state = {
        "embedding.weight": torch.ones(5, 4, dtype=torch.bfloat16),
        "q.weight": torch.ones(4, 4, dtype=torch.int8),
        "q.scales": torch.ones(4, dtype=torch.float16),
        "norm.weight": torch.ones(4),
        "norm.bias": torch.ones(4),
        **{f"layers.{i}.weight": torch.ones(4, 4, dtype=torch.bfloat16) for i in range(3)},
        "head.weight": torch.ones(4, 4, dtype=torch.float64),
        "int8.weight": torch.ones(4, 4, dtype=torch.int8),
        "float8.weight": torch.ones(4, 4).to(torch.float8_e5m2),
    }
    built = built_from(state, tmp_path / "in.pt")
    assert {key: value.dtype for key, value in built.state_dict().items()} == {
        key: value.dtype for key, value in state.items()
    }
    assert isinstance(built.get_submodule("norm"), torch.nn.LayerNorm)
    assert stub(tmp_path / "in.pt").count("dtype=torch.bfloat16") == 2


def test_a_key_that_is_a_tensor_and_a_prefix_too(tmp_path: Path) -> None:
    state = {
        "fc.weight": torch.ones(8, 1, dtype=torch.uint8),
        "fc.weight.absmax": torch.ones(2),
        "fc.weight.nested.map": torch.ones(2),
        "scale": torch.ones(3),
        "scale.ema": torch.ones(3),
    }
    after = built_from(state, tmp_path / "in.pt").state_dict()
    assert after.keys() == state.keys()
    assert all(after[key].dtype == value.dtype for key, value in state.items())
