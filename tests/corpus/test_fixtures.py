"""Every fixture, in every field, is what torch recorded beside it. No torch is needed."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from ptinspect import errors
from ptinspect.document import open as open_document
from tests.corpus.compare import differences
from tests.corpus.files import FIXTURES, REFUSED, fixtures, truth_of

READ = [name for name in fixtures() if name not in REFUSED]


@pytest.mark.parametrize("name", READ)
def test_a_fixture_is_what_torch_found_in_it(name: str) -> None:
    with open_document(FIXTURES / name) as document:
        found = differences(truth_of(name), document)
    assert not found, "\n".join([f"{len(found)} differences:", *found])


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_too_is_refused_with_the_reason(name: str) -> None:
    kind, reason = REFUSED[name]
    assert truth_of(name)["load"] is False
    with pytest.raises(getattr(errors, kind)) as caught:
        open_document(FIXTURES / name)
    assert reason in str(caught.value)
    assert str(FIXTURES / name) in str(caught.value)


@pytest.mark.parametrize("name", fixtures())
def test_the_truth_is_of_this_file(name: str) -> None:
    digest = hashlib.sha256((FIXTURES / name).read_bytes()).hexdigest()
    assert truth_of(name)["sha256"] == digest


def test_there_is_something_of_everything() -> None:
    """The fixtures cover what the comparison is for; an empty folder must not read as success."""
    truths = [truth_of(name) for name in fixtures()]
    formats = Counter(truth["format"] for truth in truths)
    kinds = Counter(truth["kind"] for truth in truths)
    tensors = [tensor for truth in truths for tensor in truth.get("tensors", [])]
    assert len(truths) >= 400
    assert {"torch-zip", "torch-legacy", "pickle"} <= set(formats)
    assert set(kinds) == {
        "module", "state_dict", "checkpoint", "optimizer", "tensor", "tensors", "other",
    }  # fmt: skip
    assert {tensor["role"] for tensor in tensors} == {"parameter", "buffer", "optimizer", "tensor"}
    assert len({tensor["dtype"] for tensor in tensors}) >= 25
    assert len({truth["torch"] for truth in truths}) >= 6
