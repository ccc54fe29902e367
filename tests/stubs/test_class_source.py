"""Source that legacy files hold: printed where defining it does nothing, and left out on demand."""

from __future__ import annotations

import pytest

from ptinspect.stubs import StubOptions, stub
from ptinspect.stubs.collect.definitions import class_source
from tests.conftest import FIXTURES
from tests.stubs.trying import attempt

OLD = FIXTURES / "old" / "torch-1.1.0-py36" / "model.legacy.pth"


def test_forward_is_printed_under_a_notice() -> None:
    source = stub(OLD)
    assert "# Source from the file itself: read it before you call it." in source
    assert "    def forward(self, " in source
    assert "recorded too: the source of forward" in source


def test_it_is_left_out_on_demand() -> None:
    source = attempt("old", OLD, StubOptions(recorded_source=False)).source
    assert "Source from the file itself" not in source
    assert "  recorded, and left out here: the source of forward\n" in source
    assert "raise NotImplementedError(" in source
    assert "does not record" not in source.partition("def build")[0]
    assert "unknown: forward" not in source


def test_methods_are_kept_and_annotations_are_not() -> None:
    text = """
class Net(nn.Module):
    def __init__(self):
        self.a = 1

    def forward(self, x: os.system("true"), scale=-1.5) -> Tensor:
        # a comment
        return self.helper(x) * scale

    def helper(self, x):
        return F.relu(x)
"""
    assert class_source(text).lines == [
        "def forward(self, x, scale=-1.5):",
        "    return self.helper(x) * scale",
        "",
        "def helper(self, x):",
        "    return F.relu(x)",
    ]


@pytest.mark.parametrize(
    "member",
    [
        "def forward(self, x=os.system('true')): pass",
        "@os.system\n    def forward(self): pass",
        "def __setstate__(self, state): os.system('true')",
        "def __init_subclass__(cls): os.system('true')",
        "def state_dict(self): os.system('true')",
        "os.system('true')",
        "x = os.system('true')",
        "def forward(self): print '2.7'",
        "def forward(self): '\\u202e'",
    ],
)
def test_what_would_run_unasked_is_not(member: str) -> None:
    assert "true" not in "".join(class_source(f"class Net(nn.Module):\n    {member}\n").lines)


@pytest.mark.parametrize("text", ["", "import os", "class A: pass\nclass B: pass", "(" * 9_000])
def test_what_is_no_class_gives_nothing(text: str) -> None:
    assert class_source(text).lines == []
