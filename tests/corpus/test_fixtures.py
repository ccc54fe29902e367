"""Every fixture, in every field, is what torch recorded beside it. No torch is needed."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from ptinspect import errors
from ptinspect.document import open as open_document
from ptinspect.formats.detect import open_archive
from ptinspect.source.local import open_source
from tests.corpus.compare import differences
from tests.corpus.files import FIXTURES, REFUSED, fixtures, truth_of
from tests.formats.identify import identify


@pytest.mark.parametrize("name", fixtures())
def test_a_fixture_is_what_torch_found_in_it(name: str) -> None:
    truth = truth_of(name)
    digest = hashlib.sha256((FIXTURES / name).read_bytes()).hexdigest()
    assert truth["sha256"] == digest, "the truth is of another file"
    if name in REFUSED:
        check_refusal(name)
        return
    check_container(name, truth["format"])
    with open_document(FIXTURES / name) as document:
        found = differences(truth, document)
    assert not found, "\n".join([f"{len(found)} differences:", *found])


def check_container(name: str, format: str) -> None:
    """The container is recognised, and its storages are there to the last byte."""
    with open_source(FIXTURES / name) as source:
        identified = identify(source)
        archive = open_archive(source)
        assert identified is not None
        assert (archive.format, identified.format) == (format, format)
        for span in archive.storages.values():
            assert len(archive.read(span)) == span.length
            if span.offset is not None:
                assert archive.read(span) == source.read(span.offset, span.length)


def check_refusal(name: str) -> None:
    """What torch refuses is refused with the reason."""
    kind, reason = REFUSED[name]
    assert truth_of(name)["load"] is False
    with open_source(FIXTURES / name) as source, pytest.raises(getattr(errors, kind)):
        open_archive(source)
    with pytest.raises(getattr(errors, kind)) as caught:
        open_document(FIXTURES / name)
    assert reason in str(caught.value)
    assert str(FIXTURES / name) in str(caught.value)


def test_there_is_something_of_everything() -> None:
    """The fixtures cover what the comparison is for; an empty folder must not read as success."""
    truths = [truth_of(name) for name in fixtures()]
    formats = Counter(truth["format"] for truth in truths)
    kinds = Counter(truth["kind"] for truth in truths)
    tensors = [tensor for truth in truths for tensor in truth.get("tensors", [])]
    assert len(truths) >= 400
    assert set(formats) == {"torch-zip", "torch-legacy", "torch-legacy-tar", "pickle"}
    assert set(kinds) == {
        "module", "state_dict", "checkpoint", "optimizer", "tensor", "tensors", "other",
    }  # fmt: skip
    assert {tensor["role"] for tensor in tensors} == {"parameter", "buffer", "optimizer", "tensor"}
    assert len({tensor["dtype"] for tensor in tensors}) >= 25
    assert len({truth["torch"] for truth in truths}) >= 6
