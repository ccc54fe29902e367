"""Every fixture: the same as itself, and as what `convert` makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import ptinspect
from tests.corpus.files import FIXTURES, REFUSED, fixtures, sampled


@pytest.mark.parametrize("name", sampled([n for n in fixtures() if n not in REFUSED]))
def test_a_file_is_the_same_as_itself_and_as_its_conversions(name: str, tmp_path: Path) -> None:
    path = FIXTURES / name
    report = ptinspect.diff(path, path)
    assert report.same and not report.notes, "itself"
    for target in ("same", "state_dict", "safetensors"):
        suffix = ".safetensors" if target == "safetensors" else ".pt"
        converted = tmp_path / f"{target}{suffix}"
        try:
            conversion = ptinspect.convert(path, converted, to=target)
        except ptinspect.PtInspectError:
            continue  # tests/conversion checks what is refused, and why
        report = ptinspect.diff(path, converted)
        mirror = ptinspect.diff(converted, path)
        assert mirror.same == report.same
        assert [r.key for r in mirror.removed] == [a.key for a in report.added]
        assert {(r.b, r.a) for r in mirror.renamed} == {(r.a, r.b) for r in report.renamed}
        if target == "same":
            assert report.same, report.text()
            continue
        for item in report.removed:  # tied tensors that safetensors writes once, or dropped ones
            packed = "_packed_params." in item.key  # torch's state_dict has another name for it
            explained = item.tied_to or conversion.dropped or _is_attribute(path, item.key)
            assert packed or explained, item
        unexplained = [
            change
            for change in report.changed
            if set(change.what) - {"device", "requires_grad", "role"}
        ]
        assert not unexplained, report.text()


def _is_attribute(path: Path, key: str) -> bool:
    """Return True for a tensor that is an attribute of another one."""
    with ptinspect.open(path) as document:
        return any(key != other and key.startswith(f"{other}.") for other in document.tensors)
