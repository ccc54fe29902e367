"""The fixtures, held against the torch that is installed, without the sidecars between."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from ptinspect.document import open as open_document  # noqa: E402
from tests.corpus import torch_side  # noqa: E402
from tests.corpus.compare import differences  # noqa: E402
from tests.corpus.files import FIXTURES, REFUSED, fixtures, truth_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of what it loads


def plain(name: str) -> bool:
    """Whether torch loads it with weights_only alone, and all of it is dense and on the CPU."""
    truth = truth_of(name)
    tensors = truth.get("tensors", [])
    return bool(
        tensors
        and name not in REFUSED
        and truth["load"]
        and truth.get("weights_only")
        and truth["format"] != "pickle"
        and all(tensor["sha256"] for tensor in tensors)
        and all(tensor["device"] == "cpu" and "class" not in tensor for tensor in tensors)
    )


PLAIN = [name for name in fixtures() if plain(name)]


@pytest.mark.parametrize("name", PLAIN)
def test_a_fixture_is_what_torch_loads(name: str) -> None:
    """The tensors bit for bit, and all else that a truth file records."""
    loaded = torch.load(FIXTURES / name, map_location="cpu", weights_only=True)
    truth = torch_side.truth_of(FIXTURES / name)
    truth["format"] = truth_of(name)["format"]
    truth["kind"] = truth_of(name)["kind"]  # the maker's, which is better than the recorder's guess
    with open_document(FIXTURES / name) as document:
        by_path = {info.path: info for info in document.tensors.values()}
        for path, want in torch_side.tensors_in(loaded):
            info = by_path[tuple(step if type(step) in (str, int) else repr(step) for step in path)]
            assert (str(info.dtype), info.shape) == (str(want.dtype), tuple(want.shape))
            assert info.stride == want.stride()
            assert info.tensor.storage_offset == want.storage_offset()
            assert info.tensor.requires_grad == want.requires_grad
            assert info.read() == torch_side.raw(want.resolve_conj().resolve_neg())
        found = differences(truth, document)
    assert not found, "\n".join([f"{len(found)} differences:", *found])


def test_most_fixtures_are_held_so() -> None:
    assert len(PLAIN) >= 150
