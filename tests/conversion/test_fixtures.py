"""Every fixture to every target that it can go to, read again by ptinspect, whose reading of them
torch's recorded truth holds. No torch is needed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ptinspect
from ptinspect.conversion import convert
from ptinspect.document import Document
from ptinspect.errors import PtInspectError, UnsafeError
from tests.corpus.files import FIXTURES, REFUSED, fixtures, sampled, truth_of

NAMES = [name for name in fixtures() if name not in REFUSED]

# By kind of refusal: what a state_dict or safetensors cannot hold, and who says so.
SAID = (
    "the file has no model", "has 2 models", "has 3 models", "safetensors cannot hold",
    "several pickles in a row",
)  # fmt: skip


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
            info.read() if whole else None, same.setdefault(t.same(), len(same)),
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


def attempt(source: Path, target: Path, goal: str) -> PtInspectError | None:
    try:
        convert(source, target, to=goal, verify=True, force=True)
    except PtInspectError as error:
        return error
    return None


@pytest.mark.parametrize("name", sampled(NAMES))
def test_same_is_the_same(name: str, tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    error = attempt(FIXTURES / name, target, "same")
    if error is not None:
        dangerous = ptinspect.scan(FIXTURES / name).verdict == "dangerous"
        assert isinstance(error, UnsafeError) == dangerous
        assert dangerous or "several pickles in a row" in str(error)
        assert not target.exists()
        return
    with ptinspect.open(FIXTURES / name) as source, ptinspect.open(target) as made:
        want, got = facts(source), facts(made)
        if "by-hand" in name:  # views of a storage and of its root: what is one, one sees now
            for each in (want, got):
                each["tensors"] = [told[:-1] for told in each["tensors"]]
                each["entries"] = [entry[:2] for entry in each["entries"]]
        assert got == want
        assert made.archive.format == "torch-zip"
        assert made.archive.facts["storage_alignment"] == "64"


@pytest.mark.parametrize("name", sampled(NAMES))
def test_a_state_dict_has_the_keys_that_torch_gave(name: str, tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    error = attempt(FIXTURES / name, target, "state_dict")
    if error is not None:
        assert any(said in str(error) for said in SAID), error
        assert error.hint
        return
    truth = truth_of(name)
    with ptinspect.open(target) as made:
        keys = truth.get("state_dict_keys", {}).get("")
        items = made.archive.root
        if truth["kind"] == "module" and keys is not None and name not in EXTRA:
            pairs = items.changes.pairs if items.changes else {}  # type: ignore[attr-defined]
            assert list(pairs) == keys


EXTRA = {"modules/extra-state.pt"}
"""get_extra_state is a method of the class, which nobody has: what it gives is not in the file."""


@pytest.mark.parametrize("name", sampled(NAMES))
def test_safetensors_hold_what_a_state_dict_holds(name: str, tmp_path: Path) -> None:
    plain, target = tmp_path / "out.pt", tmp_path / "out.safetensors"
    error = attempt(FIXTURES / name, target, "safetensors")
    if error is not None:
        assert any(said in str(error) for said in SAID), error
        assert error.hint
        return
    assert attempt(FIXTURES / name, plain, "state_dict") is None
    with ptinspect.open(plain) as want, ptinspect.open(target) as made:
        wanted = {
            key: (t.dtype, t.shape, t.read())
            for key, t in want.tensors.items()
            if len(t.path) < 2  # not those that are attributes of another
        }
        found = {key: (t.dtype, t.shape, t.read()) for key, t in made.tensors.items()}
        assert found == wanted
    again = tmp_path / "again.pt"
    assert attempt(target, again, "state_dict") is None
    with ptinspect.open(again) as back, ptinspect.open(target) as made:
        assert {k: (t.dtype, t.shape, t.read()) for k, t in back.tensors.items()} == found
        assert list(back.tensors) == list(made.tensors)
