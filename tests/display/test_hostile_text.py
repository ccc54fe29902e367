"""Names in a file that would act on a terminal, wherever a file can have a name."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ptinspect.display import FORMATS, ShowOptions, renderer
from ptinspect.document import Document
from tests.document.making import of_bytes
from tests.test_escape import hidden

EVIL = "E\x1b[2J\x07\u202e\u200b\u2028"


class Node:
    """Stands for a module; in the pickle it gets a name that no source could have."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Conv(Node):
    """Gets the name of a class whose strings torch prints bare."""


def evil_file() -> Document:
    own = {f"name {EVIL}": f"value {EVIL}", "hidden": Node()}
    conv = Conv(
        _parameters={}, _buffers={}, _modules={}, training=True, in_channels=1, out_channels=1,
        kernel_size=(1, 1), stride=(1, 1), padding=EVIL, dilation=(1, 1), groups=1, bias=None,
        padding_mode=EVIL, output_padding=(0, 0), transposed=False,
    )  # fmt: skip
    model = Node(
        _parameters={}, _buffers={EVIL: None}, _modules={f"child {EVIL}": conv},
        training=True, _forward_hooks={0: Node}, **own,
    )  # fmt: skip
    value = {
        EVIL: model, "list": [EVIL, {EVIL: EVIL}], ("tuple", EVIL): EVIL,
        "optimizer": {"state": {}, "param_groups": [{EVIL: EVIL, "lr": EVIL, "params": [0]}]},
        "bytes": EVIL.encode(), "class": Node,
    }  # fmt: skip
    data = pickle.dumps(value, 2)
    name = EVIL.encode()
    data = data.replace(b"c" + __name__.encode() + b"\nNode\n", b"c" + name + b"\n" + name + b"\n")
    data = data.replace(b"c" + __name__.encode() + b"\nConv\n", b"ctorch.nn.modules.conv\nConv2d\n")
    assert __name__.encode() not in data
    return of_bytes(data)


def test_the_names_are_read() -> None:
    found = evil_file()
    assert found.modules[0].module.class_path == f"{EVIL}.{EVIL}"
    assert found.kind == "checkpoint"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("on_terminal", [False, True])
def test_no_name_of_a_file_reaches_the_output_as_it_is(format: str, on_terminal: bool) -> None:
    options = ShowOptions(fold=on_terminal, width=80 if on_terminal else None)
    text = renderer(format)(evil_file(), options, None)
    assert hidden(text.replace("\n", "")) == []
    assert "\\x1b[2J" in text or "\\u001b[2J" in text or format == "table"


def test_lines_are_not_forged() -> None:
    """A key with a line break does not make a line of its own."""
    forged = of_bytes(pickle.dumps({"a\n  load   rm -rf /": "b\nc"}))
    text = renderer("summary")(forged, ShowOptions(), None)
    assert "\n  load   rm" not in text
    assert "a\\n  load   rm -rf /  'b\\nc'" in text
