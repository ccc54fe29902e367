"""The policy's lines: each whole, each reasoned, none of them allowing by a star."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pkgutil
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest

from ptinspect.pickling.values import Global
from ptinspect.safety.calls import judge_call, judge_import
from ptinspect.safety.policy import (
    WEIGHTS_ONLY_NAMES,
    is_plain_class,
    is_stdlib,
    load_policy,
    policy_row,
)
from ptinspect.safety.report import CLEAN, DANGEROUS, UNKNOWN
from ptinspect.safety.shapes import parse_shapes
from tests.conftest import ROOT
from tests.safety import plain_classes

LINES = [
    line.split(" | ")
    for line in (ROOT / "ptinspect/safety/policy.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


def call_verdict(module: str, attribute: str, how: str = "REDUCE") -> str:
    return judge_call(Global(module, attribute, 0), (), how).verdict


def test_every_line_has_a_verdict_names_a_reason_and_a_source() -> None:
    for line in LINES:
        assert len(line) in ((5,) if line[0] == "allowed" else (4, 5)), line
        assert all(map(str.strip, line)), line
    verdicts = {"allowed", "reference", "unknown", "acts", "dangerous", "known"}
    assert {line[0] for line in LINES} == verdicts


def test_every_shape_can_be_parsed() -> None:
    for line in LINES:
        if len(line) == 5:
            shapes = parse_shapes(line[2])
            assert shapes.calls or line[2] == "-", line


def test_what_is_allowed_is_written_out() -> None:
    kinds = ("allowed", "reference", "unknown")
    assert [line for line in LINES if line[0] in kinds and "*" in line[1]] == []


def test_no_name_has_two_verdicts() -> None:
    seen: dict[str, str] = {}
    for verdict, names, *_ in LINES:
        first, *others = names.split()
        if verdict == "known":
            continue
        spelled = [first, *others]
        if others and not any("." in other for other in others):
            spelled = [f"{first}.{other}" for other in others]
        for each in spelled:
            assert seen.setdefault(each, verdict) == verdict, each


def test_what_weights_only_takes_is_allowed_when_named() -> None:
    for each in WEIGHTS_ONLY_NAMES:
        module, _, attribute = each.rpartition(".")
        assert judge_import(Global(module, attribute, 0)).verdict == CLEAN, each


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("posix", "system"),
        ("os", "system"),
        ("nt", "system"),
        ("os.path", "os.system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("torch.serialization", "os.system"),
        ("torch", "serialization.os.system"),
        ("mine.own.module", "os.system"),
        ("pip._internal.cli.main", "main"),
        ("mine.__main__", "x"),
        ("torch.hub", "load"),
        ("pickle", "loads"),
        ("cloudpickle.cloudpickle", "_make_function"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.core", "_ufunc_reconstruct"),
        ("torch.fx.graph_module", "reduce_graph_module"),
        ("mine", "Net.__init__.__globals__"),
        ("functools", "reduce"),
        ("builtins", "map"),
    ],
)
def test_these_are_dangerous_when_called(module: str, attribute: str) -> None:
    assert call_verdict(module, attribute) == DANGEROUS


def test_a_user_s_folder_may_be_called_as_a_module_of_python_is() -> None:
    assert call_verdict("code.model", "Net") != DANGEROUS
    assert call_verdict("code", "interact") == DANGEROUS
    assert call_verdict("test", "Net") != DANGEROUS


# --- every callable there is ---------------------------------------------------------------


def standard_modules() -> list[str]:
    """Python's own modules, with those inside packages; not those that act when imported."""
    left_out = {"antigravity", "this", "idlelib", "test", "turtledemo", "lib2to3", "__main__"}
    names = [each for each in sys.stdlib_module_names if each not in left_out]
    for each in list(names):
        try:
            found = importlib.util.find_spec(each)
        except (ImportError, ValueError):
            continue
        if found and found.submodule_search_locations:
            inner = pkgutil.iter_modules(found.submodule_search_locations, each + ".")
            names += [info.name for info in inner if not info.name.endswith("__main__")]
    return sorted(names)


def callables_of(module: str) -> list[str]:
    """Read from a module that is imported, else from its source: importing all would act."""
    if module in sys.modules:
        there = sys.modules[module]
        return [each for each in dir(there) if callable(getattr(there, each, None))]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return []
    if found is None or not found.origin or not found.origin.endswith(".py"):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(Path(found.origin).read_bytes())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds)]


def may_be_clean(module: str, attribute: str) -> bool:
    row = load_policy().row(module, attribute)
    return row is not None and row.verdict in ("allowed", "module")


def test_no_other_callable_of_python_comes_out_clean_when_called() -> None:
    seen, clean, mild = 0, [], []
    for module in standard_modules():
        if not is_stdlib(module):
            continue
        for attribute in callables_of(module):
            seen += 1
            verdict = call_verdict(module, attribute)
            row = load_policy().row(module, attribute)
            if verdict == CLEAN and not may_be_clean(module, attribute):
                clean.append(f"{module}.{attribute}")
            row = policy_row(module, attribute) or row
            listed = row is not None and row.verdict in ("allowed", "unknown")
            is_plain = is_plain_class(module, attribute, creates=False)
            if verdict != DANGEROUS and not listed and not is_plain:
                mild.append(f"{module}.{attribute}")
    assert seen > 3_000
    assert clean == []
    assert mild == []


def test_classes_of_the_standard_library_that_only_set_attributes() -> None:
    ranks = plain_classes.classes(Path(sysconfig.get_paths()["stdlib"]))
    listed = 0
    for line in (ROOT / "ptinspect/safety/plain_classes.txt").read_text("utf-8").splitlines():
        module, *names = line.split()
        for each in names:
            rank = ranks.get(f"{module}:{each.lstrip('~!')}")
            listed += rank is not None
            least = {"~": 1, "!": 3}.get(each[0], 2)
            assert rank is None or rank >= least, (module, each)  # None: of another version
    assert listed > 1_000


def test_no_built_in_but_the_listed_is_clean_when_called() -> None:
    clean = {each for each in dir(builtins) if call_verdict("builtins", each) == CLEAN}
    assert all(
        each in WEIGHTS_ONLY_NAMES or load_policy().names[each].verdict == "allowed"
        for each in (f"builtins.{name}" for name in clean)
    )
    assert not clean & {"eval", "exec", "getattr", "map", "open", "type", "iter", "print"}


def test_no_other_callable_of_torch_comes_out_clean_when_called() -> None:
    torch = pytest.importorskip("torch")
    seen, clean = 0, []
    for module in sorted(each for each in sys.modules if each.split(".")[0] == "torch"):
        there = sys.modules[module]
        for attribute in dir(there):
            try:
                value = getattr(there, attribute)
            except Exception:  # noqa: BLE001
                continue
            if callable(value):
                seen += 1
                if call_verdict(module, attribute) == CLEAN and not may_be_clean(module, attribute):
                    clean.append(f"{module}.{attribute}")
    assert seen > 10_000
    assert clean == []
    assert inspect.isclass(torch.Tensor)


@pytest.mark.slow
@pytest.mark.parametrize("package", plain_classes.PACKAGES)
def test_enumerations_and_exceptions_of_packages_are_listed(package: str) -> None:
    pytest.importorskip(package)
    listed = {
        f"{line.split()[0]}:{name.lstrip('!')}"
        for line in (ROOT / "ptinspect/safety/plain_classes.txt").read_text("utf-8").splitlines()
        for name in line.split()[1:]
        if line.startswith(f"{package}.")
    }
    assert listed == set(plain_classes.package_classes(package))


def test_members_of_enumerations_and_exceptions_of_packages_are_not_dangerous() -> None:
    for module, attribute in (
        ("numpy.f2py.symbolic", "Language"),
        ("numpy.f2py.symbolic", "Op"),
        ("sympy.core.sympify", "SympifyError"),
        ("torch.distributed.rpc.backend_registry", "BackendType"),
        ("torch.distributed.fsdp._fully_shard._fsdp_param", "ShardedState"),
        ("torch.distributed.checkpoint.planner", "WriteItemType"),
        ("torch.distributed.checkpoint.api", "CheckpointException"),
        ("torch.distributed", "DistBackendError"),
        ("torch.utils.data.datapipes.iter.sharding", "SHARDING_PRIORITIES"),
    ):
        assert judge_call(Global(module, attribute, 0), (0,), "REDUCE").verdict == UNKNOWN
        assert judge_import(Global(module, attribute, 0)).verdict == UNKNOWN


def test_members_of_classes_of_torch_are_not_called_by_getattr() -> None:
    getattr_ = Global("builtins", "getattr", 0)
    state = Global("torch.distributed._shard.sharded_tensor.api", "ShardedTensor", 0)
    assert judge_call(getattr_, (state, "ProcessGroupState"), "REDUCE").verdict == UNKNOWN
    for module, owner in (("torch", "hub"), ("torch._ops", "ops"), ("torch", "package")):
        target = Global(module, owner, 0)
        assert judge_call(getattr_, (target, "load"), "REDUCE").verdict == DANGEROUS, owner


def test_constructors_of_packages_that_write_files_or_load_programs_are_dangerous() -> None:
    for path in (
        "numpy._core.memmap.memmap",
        "torch.cuda.CUDAPluggableAllocator",
        "torch._C.PyTorchFileWriter",
        "pyarrow.lib.OSFile",
        "optuna.storages._rdb.storage.RDBStorage",
        "matplotlib.backends.backend_pdf.PdfFile",
    ):
        module, _, attribute = path.rpartition(".")
        name = Global(module, attribute, 0)
        for how in ("REDUCE", "NEWOBJ"):
            assert judge_call(name, ("file", "w"), how).verdict == DANGEROUS, path
        assert judge_call(name, (), "NEWOBJ").verdict == UNKNOWN, path


def test_sympy_runs_the_texts_that_it_gets() -> None:
    source = "__import__('os').system('touch x')"
    tuple_ = Global("sympy.core.containers", "Tuple", 0)
    symbol = Global("sympy.core.symbol", "Symbol", 0)
    for how in ("REDUCE", "NEWOBJ"):
        for args in ((source,), ([[source]],), ({"a": source},)):
            assert judge_call(tuple_, args, how).verdict == DANGEROUS
        assert judge_call(tuple_, ("x", 1), how).verdict == UNKNOWN
        assert judge_call(symbol, ("f(x)",), how).verdict == UNKNOWN


def test_what_functions_of_torch_return_is_not_dangerous() -> None:
    torch = pytest.importorskip("torch")
    classes = {name for name, each in vars(torch.return_types).items() if isinstance(each, type)}
    assert {"max", "sort", "linalg_svd"} <= classes
    for each in classes:
        assert call_verdict("torch.return_types", each) == UNKNOWN, each
    for each in ("immutable_list", "immutable_dict"):
        assert call_verdict("torch.fx.immutable_collections", each) == UNKNOWN
