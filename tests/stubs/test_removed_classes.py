"""Names that torch had, or that nobody knows it to have: cured like those of any package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ptinspect.proofs.stub_check import check_stub
from ptinspect.stubs.collect.references import is_user_defined
from ptinspect.torchnn.classes import exists_in_torch
from tests.conftest import FIXTURES, ROOT
from tests.torch_child import torch_python

pytestmark = pytest.mark.usefixtures("forked_torch")

MAKER = """
import sys, types, warnings, torch
from torch import nn

def put(thing, home):
    parts = home.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
    thing.__module__, thing.__qualname__ = home, thing.__name__
    setattr(sys.modules[home], thing.__name__, thing)

class Gone(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.k = nn.Linear(2, 3), 3
        self.register_buffer("b", torch.ones(2))

class OldLinear(nn.Linear): pass
class Missing(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(1, 2, 3)

class Recipe: pass
class Criterion:
    def __init__(self): self.weight = torch.ones(2, 2)

put(Gone, "torch.gone.deep")
put(OldLinear, "torch.nn.modules.oldlinear")
put(Missing, "torch.nn.modules.linear")
put(Recipe, "torch.optim.sgd")
put(Criterion, "torch.legacy.nn")
model = nn.Sequential(Gone(), OldLinear(3, 4), Missing())
model.recipe, model.criterion = Recipe(), Criterion()
warnings.simplefilter("ignore")
torch.save(model, sys.argv[1], _use_new_zipfile_serialization="zip" in sys.argv[1])
"""
STUBBED = """
import sys, torch, ptinspect
path = sys.argv[1]
with ptinspect.stubbed(path) as stub:
    model = torch.load(path, map_location="cpu", weights_only=False)
    assert str(model) == str(stub.build())
    stub.build().load_state_dict(model.state_dict())
left = [hasattr(torch, "gone"), hasattr(torch.nn.modules, "oldlinear")]
left += [hasattr(torch.nn.modules.linear, name) for name in ("Missing", "__stubbed__")]
left += [name in sys.modules for name in ("torch.gone", "torch.gone.deep", "torch.legacy.nn")]
assert not any(left), left
"""


def child(*command: str) -> None:
    done = subprocess.run(
        [torch_python(), *command], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=["zip", "legacy"])
def gone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("gone") / f"{request.param}.pt"
    child("-c", MAKER, str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("package", [False, True])
def test_a_submodule_of_torch_that_is_gone(gone: Path, package: bool) -> None:
    report = check_stub(str(gone), package=package)
    assert report.exit_code == 0, report.text()
    assert {"import", "load", "build", "print", "strict"} <= set(report.results)
    assert ("weights_only" in report.results) == (gone.stem == "zip")


@pytest.mark.slow
def test_stubbed_supplies_it_and_takes_it_away(gone: Path) -> None:
    child("-c", STUBBED, str(gone))


REAL = (
    "old/torch-1.8.1-py38/bygone.zip.pth",
    "old/torch-1.13.1-py38/bygone.zip.pth",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_old_files_as_a_package(name: str) -> None:
    pytest.importorskip("torch")
    report = check_stub(str(FIXTURES / name), package=True)
    bad = {key: said for key, said in report.results.items() if said and key != "print"}
    assert bad == {}  # an older torch's class prints otherwise


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.nn.backends.thnn", "THNNFunctionBackend"),
        ("torch.nn.modules.linear", "_LinearWithBias"),
        ("torch.legacy.nn", "Linear"),
        ("torch.nn._functions.thnn.auto", "Threshold"),
        ("torch.nn.modules.linear", "Linear.Inner.Gone"),
    ],
)
def test_names_that_are_gone(module: str, name: str) -> None:
    assert is_user_defined(module, name) == (name != "Linear.Inner.Gone")


@pytest.mark.parametrize(
    "path",
    [
        "torch.nn.modules.linear.Linear", "torch.nn.quantized.modules.linear.Linear",
        "torch.optim.sgd.SGD", "torch.optim.Adam", "torch.nn.utils.rnn.PackedSequence",
        "torch.nn.modules.adaptive._ASMoutput", "torch.tensor._rebuild_from_type_v2",
        "torch.nn.backends.thnn._get_thnn_function_backend", "torch.float32",
        "torch.cuda.amp.grad_scaler.GradScaler", "torch.hub.load", "torch._C.Generator",
    ],
)  # fmt: skip
def test_names_that_are_there(path: str) -> None:
    assert not is_user_defined(*path.rsplit(".", 1))


@pytest.mark.slow
def test_the_table_is_what_torch_has() -> None:
    torch = pytest.importorskip("torch")
    if not torch.__version__.startswith("2.13."):
        pytest.skip("the table is that of torch 2.13")
    from tests.stubs.torch_names import table

    path = ROOT / "ptinspect" / "torchnn" / "tables" / "torch_classes.txt"
    assert path.read_text("utf-8") == table()
    assert exists_in_torch("torch.optim.sgd", "SGD") and not exists_in_torch(
        "torch.optim.sgd", "Gone"
    )
