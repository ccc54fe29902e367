"""Real files out of packages: what torch recorded of them, held against ptinspect. No torch."""

from __future__ import annotations

from typing import Any

import pytest

from ptinspect import errors
from ptinspect.document import open as open_document
from tests.corpus.digest import digest
from tests.corpus.packages import MODELS, file_of

pytestmark = pytest.mark.corpus


def name_of(model: dict[str, Any]) -> str:
    return f"{model['package']}/{model['member'].rpartition('/')[2]}"


GOOD = [model for model in MODELS if "error" not in model and "torchscript" not in model]
READ_BY_TORCH = [model for model in GOOD if model["format"] != "onnx"]
TORCHSCRIPT = [model for model in MODELS if "torchscript" in model]
BAD = [model for model in MODELS if "error" in model]


@pytest.mark.parametrize("model", GOOD, ids=name_of)
def test_a_real_file_is_what_torch_recorded(model: dict[str, Any]) -> None:
    with open_document(file_of(model)) as document:
        document.check()
        tensors = document.tensors
        said = document.archive.format, document.kind, len(tensors)
        assert said == (model["format"], model["kind"], model["tensors"])
        assert (
            digest(
                (key, info.dtype.name if info.dtype else "?", list(info.shape), info.read())
                for key, info in tensors.items()
            )
            == (model["digest"])
        )


@pytest.mark.parametrize("model", BAD, ids=name_of)
def test_a_file_of_another_kind_is_named(model: dict[str, Any]) -> None:
    file = file_of(model)
    with pytest.raises(getattr(errors, model["error"])) as caught:
        open_document(file)
    assert model["message"] in caught.value.message
    assert caught.value.path == str(file)
    assert caught.value.hint or model["message"] == "it is a text"


def test_the_corpus_is_a_corpus() -> None:
    """Enough packages, no file twice, and nothing that was never recorded."""
    assert len({model["package"] for model in MODELS}) >= 8
    assert len({model["sha256"] for model in MODELS}) == len(MODELS)
    assert all({"format", "kind", "tensors", "digest"} <= set(model) for model in GOOD)
