"""Kinds of files that users reported: each loads with its stub, or the stub says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.errors import PtInspectError
from ptinspect.proofs.stub_check import check_stub
from ptinspect.proofs.worker.load_with_stub import load_strictly
from ptinspect.stubs import stub
from tests.cli.running import MODEL, STATE_DICT, run
from tests.conftest import FIXTURES
from tests.corpus.files import REFUSED, fixtures
from tests.stubs.trying import attempt, failures, outcomes
from tests.torch_child import run_python

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("forked_torch")

MAKER = Path(__file__).parent / "reported_models.py"
CHECKED = ("bound_method", "bound_method_of_torch", "not_copied", "data_parallel")
"""Files that `stub --check` loads, and a plain process or torch.load_state_dict does not."""
REFUSED_BY_WEIGHTS_ONLY = {"compiled", "logger", "tracer"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    done = run_python(str(MAKER), str(folder))
    assert done.returncode == 0, done.stderr
    return {name: folder / f"{name}.pt" for name in done.stdout.split()}


@pytest.mark.slow
def test_each_loads_with_its_stub(saved: dict[str, Path], tmp_path: Path) -> None:
    tries = [attempt(name, file) for name, file in saved.items() if name not in CHECKED]
    results = outcomes(tries, tmp_path)
    failed = {item.name: failures(item, results[item.name]) for item in tries}
    assert {name: errors for name, errors in failed.items() if errors} == {}
    assert {item.name for item in tries if item.refused} == REFUSED_BY_WEIGHTS_ONLY


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_check_passes_where_loading_works(saved: dict[str, Path], name: str) -> None:
    report = check_stub(str(saved[name]))
    assert report.ok and bool(report.blockers) is (name == "data_parallel"), report.text()
    assert "strict" in report.results


@pytest.mark.slow
def test_check_repeats_what_is_zeros(saved: dict[str, Path]) -> None:
    report = check_stub(str(saved["unwritten_numbers"]))
    assert report.ok and report.as_dict()["zeroed"] == ["Net.table"]
    assert "build()                           zeros for Net.table" in report.text()


def test_an_attribute_set_from_outside_is_no_argument(saved: dict[str, Path]) -> None:
    source = stub(saved["set_from_outside"])
    assert "def __init__(self, in_channels):" in source and "has_" not in source
    lines = ["layers[1].f = -1", "layers[1].i = 1", "layers[2].f = [-1, 0]", "layers[2].i = None"]
    assert all(f"        self.{line}\n" in source for line in lines)


def test_training_modes_are_set_by_build(saved: dict[str, Path]) -> None:
    source = stub(saved["evaluated"])
    assert "self.eval()" not in source
    assert "    model = Stack()\n    model.eval()\n    return model\n" in source


def test_one_reason_for_what_torch_compile_adds(saved: dict[str, Path]) -> None:
    source = stub(saved["compiled"])
    assert source.count("a module of torch.compile: loading it would compile it again") == 1
    assert "Could not be written" not in source and "convert_frame" not in source


def test_a_logger_is_refused_with_the_reason(saved: dict[str, Path]) -> None:
    source = stub(saved["logger"])
    assert "logging.getLogger, which would hand over a logger that the whole program" in source


def test_the_first_layer_named_tok_is_an_embedding(saved: dict[str, Path]) -> None:
    source = stub(saved["tied_tokens"])
    assert "self.tok = nn.Embedding(50, 8)" in source and "self.head = nn.Linear(" in source


def test_registration_is_short_and_a_package_has_it_apart(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    source = stub(saved["evaluated"])
    machinery = source[source.index("class _Finder:") : source.index('_register(Stack, "')]
    assert machinery.count("\n") < 85
    names = ptinspect.stub_package(saved["evaluated"], tmp_path / "package")
    assert names == ["__init__.py", "_register.py", "reported/__init__.py", "reported/parts.py"]
    init = (tmp_path / "package" / "__init__.py").read_text("utf-8")
    assert "class _Finder" not in init
    assert "from ._register import _finder, _register\n" in init
    again = ptinspect.stub_package(saved["evaluated"], tmp_path / "package", force=True)
    assert again == names


# Advice in the docstring


def test_a_file_of_another_device_is_loaded_to_the_cpu() -> None:
    assert 'torch.load("model.pth", map_location="cpu")\n' in stub(MODEL)
    assert 'torch.load("model_state_dict.pt", map_location="cpu")\n' in stub(STATE_DICT)
    assert "torch.load loads it without" not in stub(STATE_DICT)


def test_an_index_is_loaded_shard_by_shard(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "a.bin")
    torch.save({"fc.bias": torch.ones(2)}, tmp_path / "b.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"fc.weight": "a.bin", "fc.bias": "b.bin"}}))
    source = stub(index)
    assert "torch.load loads it without SAFE_GLOBALS" not in source
    call = next(line for line in source.splitlines() if "for f in" in line)
    script = f"import json, torch\nprint(sorted({call.strip()}))"
    done = run_python("-c", script, cwd=tmp_path)
    assert done.stdout.strip() == "['fc.bias', 'fc.weight']", done.stderr


def test_convert_is_advised_only_where_it_works(tmp_path: Path) -> None:
    advised = 0
    for name in fixtures():
        if name in REFUSED or "`ptinspect convert` writes" not in stub(FIXTURES / name):
            continue
        advised += 1
        try:
            ptinspect.convert(FIXTURES / name, tmp_path / "out.pt", force=True)
        except PtInspectError as error:  # a choice among models has a command for each
            assert "--entry" in (error.hint or ""), f"{name}: {error}"
    assert advised > 50


# What the command says


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    result = run("stub", MODEL, "-o", tmp_path / "model_def.py")
    lines = (tmp_path / "model_def.py").read_text("utf-8").count("\n")
    path = tmp_path / "model_def.py"
    assert result.stderr == f"{path}: wrote {lines} lines; import it before torch.load\n"
    for name in ("seed/model_state_dict.pt", "others/torchscript.pt"):  # torch.load needs no class
        result = run("stub", FIXTURES / name, "-o", path, "--force")
        assert result.stderr.endswith(" lines; build() returns the model\n")
    result = run("stub", MODEL, "--package", tmp_path / "models")
    assert result.stderr == f"{tmp_path / 'models'}: wrote __init__.py, _register.py, main.py\n"
    assert run("stub", MODEL, "-o", "-").stderr == ""


# The check itself


@pytest.mark.slow
def test_check_finds_a_module_in_the_argument_of_an_unknown_function(tmp_path: Path) -> None:
    """StyleGAN's networks are what a function of their repository returns."""
    program = """
import sys, types, torch
persistence = sys.modules["persistence"] = types.ModuleType("persistence")
exec("def rebuild(meta): return meta", vars(persistence))
class Network(torch.nn.Linear):
    def __reduce__(self):
        return persistence.rebuild, ({"state": dict(vars(self))},)
model = torch.nn.Sequential(Network(2, 1))
meta = {"state": {"layers": model}}
class Root:
    def __reduce__(self):
        return persistence.rebuild, (meta,)
torch.save({"G": Root()}, sys.argv[1])
"""
    file = tmp_path / "network.pt"
    done = run_python("-c", program, str(file))
    assert done.returncode == 0, done.stderr
    report = check_stub(str(file))
    assert report.ok and report.results["print"] is None, report.text()


def test_strict_loading_looks_at_each_key_once_per_level() -> None:
    class Counting(torch.nn.Linear):
        keys = 0

        def _load_from_state_dict(self, state: dict[str, Any], *args: Any) -> None:
            Counting.keys += len(state)
            super()._load_from_state_dict(state, *args)

    model = torch.nn.Sequential(*[Counting(1, 1) for _ in range(500)])
    load_strictly(model, model.state_dict())
    assert Counting.keys == 1000
    state = model.state_dict()
    state["0.weight"] = torch.ones(3, 3)
    state["0.other"] = state.pop("1.bias")
    with pytest.raises(RuntimeError) as caught:
        load_strictly(model, state)
    for part in ("size mismatch for 0.weight", "missing key 1.bias", "unexpected key 0.other"):
        assert part in str(caught.value)
