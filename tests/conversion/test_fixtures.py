"""Every fixture converted to every target, once: what ptinspect reads in the new files, what `diff`
says of them, and, where torch is installed, what torch, safetensors and `safe_open` read."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import ptinspect
from ptinspect.conversion import convert
from ptinspect.document import Document
from ptinspect.errors import PtInspectError, UnsafeError
from tests.corpus.files import FIXTURES, REFUSED, fixtures, sampled, truth_of

NAMES = [name for name in fixtures() if name not in REFUSED]

FILES = {
    "state_dict": "state_dict.pt", "checkpoint": "checkpoint.pt",
    "safetensors": "o.safetensors", "npz": "o.npz", "same": "same.pt",
}  # fmt: skip
GOALS = tuple(FILES)
# The reasons for which a fixture cannot become a state_dict or safetensors.
SAID = (
    "the file has no model", "has 2 models", "has 3 models", "safetensors cannot hold",
    "npz cannot hold", "there are no tensors",
    "several pickles", "a buffer that is stored outside the pickle is not in the file",
    "two tensors would get the name",
)  # fmt: skip
# get_extra_state is a method of the class, which nobody has: what it gives is not in the file.
REBUILD = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
EXTRA = {"modules/extra-state.pt"}
# Its CRC-32s are wrong, which only a reading of the bytes can tell.
WRONG_CRCS = {"containers/skip-data.pt"}
OTHER_READERS = all(find_spec(name) for name in ("torch", "safetensors"))
SCHEMA = json.loads(
    files("ptinspect.conversion").joinpath("convert.schema.json").read_text("utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def facts(document: Document) -> dict[str, Any]:
    """What must survive, wherever the bytes came to lie."""
    same: dict[tuple[object, ...], int] = {}
    tensors = []
    for key, info in document.tensors.items():
        t = info.tensor
        whole = t.storage is not None and t.stride is not None and not t.quantizer
        tensors.append((
            key, info.path, info.role, info.persistent, t.dtype, t.shape, t.stride, t.device,
            t.requires_grad, t.layout, t.subclass, t.conj, t.neg,
            info.read() if whole else None, same.setdefault(t.view_key, len(same)),
        ))  # fmt: skip
    return {
        "kind": document.kind,
        "class": document.class_path,
        "tensors": tensors,
        "modules": [
            (info.root, info.name, info.module.class_path, info.module.training)
            for info in document.modules
        ],
        "entries": [(entry.path, entry.type, repr(entry.value)) for entry in document.entries],
        "optimizers": [(each.path, each.class_path) for each in document.optimizers],
    }


def attempt(source: Path, target: Path, **options: Any) -> dict[str, Any] | PtInspectError:
    """Return the report of a conversion as a dict, or the error."""
    try:
        return convert(source, target, **options).as_dict()
    except PtInspectError as error:
        return error


def bytes_by_key(document: Document) -> dict[str, tuple[object, ...]]:
    return {key: (t.dtype, t.shape, t.read()) for key, t in document.tensors.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sampled(NAMES))
def test_a_fixture_to_every_target(name: str, tmp_path: Path) -> None:
    results = {}
    for goal in GOALS:
        target = tmp_path / FILES[goal]
        dry = attempt(FIXTURES / name, target, to=goal, dry_run=True)
        assert not target.exists()
        results[goal] = attempt(FIXTURES / name, target, to=goal, verify=True)
        check_reports(name, dry, results[goal], target)
    check_same(name, results["same"], tmp_path)
    check_state_dict(name, results["state_dict"], tmp_path)
    check_safetensors(results["safetensors"], tmp_path)
    check_npz(results["npz"], results["safetensors"], tmp_path)
    reports = {goal: report for goal, report in results.items() if isinstance(report, dict)}
    check_differences(FIXTURES / name, reports, tmp_path)
    if OTHER_READERS:
        from tests.conversion.test_torch_reads import check_fixture
        from tests.document import test_safe_open

        check_fixture(name, reports, {goal: tmp_path / file for goal, file in FILES.items()})
        test_safe_open.check_fixture(name)


def check_reports(
    name: str,
    dry: dict[str, Any] | PtInspectError,
    done: dict[str, Any] | PtInspectError,
    target: Path,
) -> None:
    """A dry run says what the run then does; the report lists the tensors of the new file."""
    assert target.exists() == isinstance(done, dict)
    if isinstance(dry, PtInspectError) or isinstance(done, PtInspectError):
        assert (type(dry), str(dry)) == (type(done), str(done))
        return
    VALIDATOR.validate(dry)
    VALIDATOR.validate(done)
    differing = {"written": (False, True), "verified": (False, True)}
    assert {key: (dry.pop(key), done.pop(key)) for key in differing} == differing
    if name in WRONG_CRCS:
        crcs = "do not match their CRC-32"
        done["warnings"] = [line for line in done["warnings"] if crcs not in line]
    assert dry == done
    with ptinspect.open(target) as document:
        aliases = getattr(document.archive, "aliases", {})
        assert {each["key"]: each["dtype"] for each in done["tensors"]} == {
            key: info.dtype.name if info.dtype else None
            for key, info in document.tensors.items()
            if key not in aliases
        }


def check_same(name: str, result: dict[str, Any] | PtInspectError, folder: Path) -> None:
    """`--to same` keeps all that can be shown, unless the file is dangerous."""
    if isinstance(result, PtInspectError):
        dangerous = ptinspect.scan(FIXTURES / name).verdict == "dangerous"
        assert isinstance(result, UnsafeError) == dangerous
        unwritable = ("holds several pickles", "a buffer that is stored outside the pickle")
        assert dangerous or any(reason in str(result) for reason in unwritable)
        return
    with (
        ptinspect.open(FIXTURES / name) as source,
        ptinspect.open(folder / FILES["same"]) as document,
    ):
        want, got = facts(source), facts(document)
        if "by-hand" in name:  # views of a storage and of its root are views of one storage now
            for each in (want, got):
                each["tensors"] = [tensor[:-1] for tensor in each["tensors"]]
                each["entries"] = [entry[:2] for entry in each["entries"]]
        if want["class"] in REBUILD:  # written by today's function of torch._utils
            assert {want.pop("class"), got.pop("class")} <= REBUILD
        assert got == want
        assert document.archive.format == "torch-zip"
        assert document.archive.facts["storage_alignment"] == "64"


def check_state_dict(name: str, result: dict[str, Any] | PtInspectError, folder: Path) -> None:
    """A state_dict has the keys that torch recorded, in this order."""
    if isinstance(result, PtInspectError):
        assert any(said in str(result) for said in SAID), result
        assert result.hint
        return
    truth = truth_of(name)
    with ptinspect.open(folder / FILES["state_dict"]) as document:
        keys = truth.get("state_dict_keys", {}).get("")
        items = document.archive.root
        if truth["kind"] == "module" and keys is not None and name not in EXTRA:
            pairs = items.changes.pairs if items.changes else {}  # type: ignore[attr-defined]
            assert list(pairs) == keys


def check_safetensors(result: dict[str, Any] | PtInspectError, folder: Path) -> None:
    """safetensors hold what a state_dict holds, also when they become a state_dict again."""
    if isinstance(result, PtInspectError):
        assert any(said in str(result) for said in SAID), result
        assert result.hint
        return
    target, again = folder / FILES["safetensors"], folder / "again.pt"
    with ptinspect.open(folder / FILES["state_dict"]) as want, ptinspect.open(target) as document:
        found, order = bytes_by_key(document), list(document.tensors)
        assert found == {
            key: (t.dtype, t.shape, t.read())
            for key, t in want.tensors.items()
            if len(t.path) < 2  # not those that are attributes of another
        }
    done = attempt(target, again, to="state_dict", verify=True)
    assert isinstance(done, dict), done
    with ptinspect.open(again) as document:
        assert bytes_by_key(document) == found
        assert list(document.tensors) == order


def check_npz(
    result: dict[str, Any] | PtInspectError,
    safetensors: dict[str, Any] | PtInspectError,
    folder: Path,
) -> None:
    """numpy reads the same bytes in an npz as in safetensors, in which a single tensor has no
    name. numpy lacks some dtypes, and safetensors complex128."""
    if isinstance(result, PtInspectError):
        assert any(said in str(result) for said in SAID), result
        assert result.hint or "there are no tensors" in str(result)
        lacking = ("has the dtype", "there are no tensors")
        assert isinstance(safetensors, PtInspectError) or any(why in str(result) for why in lacking)
        return
    numpy = pytest.importorskip("numpy")
    with numpy.load(folder / FILES["npz"], allow_pickle=False) as arrays:
        read = {key: (arrays[key].shape, arrays[key].tobytes()) for key in arrays.files}
    if isinstance(safetensors, PtInspectError):
        assert "complex128" in str(safetensors)
        return
    with ptinspect.open(folder / FILES["safetensors"]) as document:
        aliases = getattr(document.archive, "aliases", {})
        tensors = {k or "arr_0": t for k, t in document.tensors.items() if k not in aliases}
        assert read == {key: (tensor.shape, tensor.read()) for key, tensor in tensors.items()}


def check_differences(source: Path, reports: dict[str, dict[str, Any]], folder: Path) -> None:
    """`diff` finds the file equal to itself and to `same`, and explains where others differ."""
    itself = ptinspect.diff(source, source)
    assert itself.same and not itself.notes
    for goal in ("same", "state_dict", "safetensors", "npz"):
        if goal not in reports:
            continue
        report = ptinspect.diff(source, folder / FILES[goal])
        mirror = ptinspect.diff(folder / FILES[goal], source)
        assert mirror.same == report.same
        assert [r.key for r in mirror.removed] == [a.key for a in report.added]
        assert {(r.b, r.a) for r in mirror.renamed} == {(r.a, r.b) for r in report.renamed}
        if goal == "same":
            assert report.same, report.text()
            continue
        for item in report.removed:  # tied tensors that safetensors writes once, or dropped ones
            packed = "_packed_params." in item.key  # torch's state_dict has another name for it
            explained = item.tied_to or reports[goal]["dropped"] or is_attribute(source, item.key)
            assert packed or explained, item
        unexplained = [
            change
            for change in report.changed
            if set(change.what) - {"device", "requires_grad", "role"}
        ]
        assert not unexplained, report.text()


def is_attribute(path: Path, key: str) -> bool:
    """Return True for a tensor that is an attribute of another one."""
    with ptinspect.open(path) as document:
        return any(key != other and key.startswith(f"{other}.") for other in document.tensors)
