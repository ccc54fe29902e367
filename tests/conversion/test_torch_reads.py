"""Converted files read by safetensors and torch: by torch.load, mapped, and by its reader in C++.
test_fixtures.py calls `check_fixture` for every fixture; the corpus is converted here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from ptinspect.conversion import ConversionReport, convert
from ptinspect.errors import PtInspectError
from tests.corpus.files import FIXTURES, REFUSED, fixtures, truth_of

torch = pytest.importorskip("torch")

from tests.conversion.test_loads import loads  # noqa: E402
from tests.corpus import torch_side  # noqa: E402
from tests.corpus.packages import file_of  # noqa: E402
from tests.corpus.test_corpus import READ_BY_TORCH, name_of  # noqa: E402

library = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = [name for name in fixtures() if name not in REFUSED]
SPARED = ("old/", "containers/")  # the same contents in other containers: not made plain
NOTHING = {
    "objects/own-state.pt": "no value of the file has a plain form",
}
FACTS = ("key", "dtype", "shape", "stride", "requires_grad", "device", "sha256", "class", "layout")
"""What torch tells of a tensor, wherever its bytes lie."""


def attempt(source: Path, target: Path, to: str) -> ConversionReport | None:
    try:
        return convert(source, target, to=to)
    except PtInspectError:
        return None


def read_in_c(path: Path) -> None:
    """By PyTorchStreamReader, record by record."""
    reader = torch._C.PyTorchFileReader(str(path))
    for name in reader.get_all_records():
        reader.get_record(name)
        if name.startswith("data/"):
            assert reader.get_record_offset(name) % 64 == 0


def loaded(path: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=True, map_location="cpu", **options)


def dense(obj: Any) -> list[tuple[tuple[Any, ...], Any]]:
    found = torch_side.tensors_in(obj)
    return [
        (path, each)
        for path, each in found
        if each.layout is torch.strided and not each.is_quantized and not each.is_meta
        and not each.is_nested and type(each) in (torch.Tensor, torch.nn.Parameter)
    ]  # fmt: skip


def bits(tensor: Any) -> bytes:
    return bytes(torch_side.raw(tensor.resolve_conj().resolve_neg()))


def must_map(path: Path) -> None:
    """What a mapped file gives is what the same file gives when it is read."""
    want, got = dense(loaded(path)), dense(loaded(path, mmap=True))
    assert [step for step, _ in got] == [step for step, _ in want]
    assert all(bits(a) == bits(b) for (_, a), (_, b) in zip(want, got, strict=True))


def aliases(told: dict[str, Any]) -> list[list[str]]:
    return sorted(sorted(map(str, group)) for group in told.get("aliases") or [])


def readable(name: str, path: Path) -> bool:
    """Whether torch loads it with weights_only and what is installed here, as it did when the truth
    was recorded."""
    if truth_of(name).get("tensors") is None:
        return False
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if not all(each.startswith(torch_side.HARMLESS) for each in named):
            return False
        torch_side.truth_of(path)
    except Exception:  # noqa: BLE001 - whatever torch raises
        return False
    return True


@pytest.mark.slow
def test_most_fixtures_are_held_so(tmp_path: Path) -> None:
    held, target = [], tmp_path / "o.pt"
    for name in NAMES[::5]:
        target.unlink(missing_ok=True)
        if attempt(FIXTURES / name, target, "same") is not None:
            held.append(readable(name, target))
    assert sum(held) > 0.4 * len(held) > 20


def check_fixture(name: str, reports: dict[str, dict[str, Any]], files: dict[str, Path]) -> None:
    """Check the outputs of a fixture, by target; those that were refused have no report."""
    for to in ("same", "state_dict", "checkpoint"):
        assert files[to].exists() == (to in reports)
        if to in reports:
            read_in_c(files[to])
    for to in ("state_dict", "checkpoint"):
        if to in reports:
            assert loads(files[to]) != warns_of_a_refusal(reports[to]), to
    if "same" in reports:
        check_same(name, files["same"])
    if "state_dict" in reports and not warns_of_a_refusal(reports["state_dict"]):
        must_map(files["state_dict"])
        if "safetensors" in reports:
            check_weights(files["state_dict"], files["safetensors"])
    if not name.startswith(SPARED):
        check_plain(name, files["same"].with_name("plain.out"))


def warns_of_a_refusal(report: dict[str, Any]) -> bool:
    return any("a bare torch.load refuses the output" in line for line in report["warnings"])


def check_same(name: str, path: Path) -> None:
    """The file is to torch what the original was when its truth was recorded."""
    if not readable(name, path):
        return
    got, want = torch_side.truth_of(path), truth_of(name)
    mine, theirs = (
        [{fact: each.get(fact) for fact in FACTS} for each in truth["tensors"]]
        for truth in (got, want)
    )
    assert mine == theirs
    assert aliases(got) == aliases(want)


def check_weights(state_dict: Path, safetensors: Path) -> None:
    """The state_dict has the same values in safetensors."""
    want = loaded(state_dict)
    items = {"": want} if isinstance(want, torch.Tensor) else want
    for key, value in library.load_file(safetensors).items():
        assert (value.dtype, value.shape) == (items[key].dtype, items[key].shape)
        assert bits(value) == bits(items[key]), key


def check_plain(name: str, path: Path) -> None:
    """Made plain, any fixture is a dict that a bare torch.load takes."""
    if name in NOTHING:
        with pytest.raises(PtInspectError, match=NOTHING[name]):
            convert(FIXTURES / name, path, to="checkpoint", plain=True)
        assert not path.exists()
        return
    report = convert(FIXTURES / name, path, to="checkpoint", plain=True)
    assert isinstance(loaded(path), dict)
    reasons = ("no plain form", "persistent", "after the first")
    lines = [line for line in report.warnings if any(reason in line for reason in reasons)]
    assert bool(report.dropped) == bool(lines)


@pytest.mark.corpus
@pytest.mark.parametrize("model", READ_BY_TORCH, ids=name_of)
def test_a_real_file_to_every_target(model: dict[str, Any], tmp_path: Path) -> None:
    source = file_of(model)
    before = torch_side.truth_of(source)
    for to in ("same", "state_dict", "checkpoint"):
        report = attempt(source, tmp_path / f"{to}.pt", to)
        if report is None:
            continue
        read_in_c(tmp_path / f"{to}.pt")
        after = torch_side.truth_of(tmp_path / f"{to}.pt")
        if to == "same":
            mine, theirs = (
                [{fact: each.get(fact) for fact in FACTS} for each in told["tensors"]]
                for told in (after, before)
            )
            assert mine == theirs
        else:
            kept = {each["sha256"] for each in after["tensors"]}
            assert kept <= {each["sha256"] for each in before["tensors"]}
            assert kept
    report = attempt(source, tmp_path / "o.safetensors", "safetensors")
    if report is not None:
        got = library.load_file(tmp_path / "o.safetensors")
        assert len(got) == len(report.as_dict()["tensors"])  # type: ignore[arg-type]
