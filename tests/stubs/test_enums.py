"""Members of enums: by value, by name, joined; what of them is recorded and what inferred."""

from __future__ import annotations

import enum
import pickle
import sys
import types
from pathlib import Path

import pytest

from ptinspect.stubs import stub
from tests.stubs.trying import run_script


def written(folder: Path, name: str, value: object) -> Path:
    path = folder / f"{name}.pkl"
    path.write_bytes(pickle.dumps(value, 2))
    return path


@pytest.fixture
def kinds() -> object:
    """A module with enums, gone afterwards."""
    home = types.ModuleType("proj_enum")
    sys.modules["proj_enum"] = home
    made = {
        "Color": enum.Enum("Color", {"RED": 1, "BLUE": 2}),
        "Words": enum.Enum("Words", {"X": "x-y", "CLASS": "class", "NAME": "name", "E": ""}),
        "Level": enum.IntEnum("Level", {"LOW": -3, "HIGH": 2}),
        "Perm": enum.Flag("Perm", {"R": 1, "W": 2, "X": 4}),
        "Bits": enum.IntFlag("Bits", {"R": 1, "W": 2, "X": 4}),
        "Both": enum.Enum("Both", {"LOW": "low", "HIGH": "high"}, type=str),
    }
    for name, kind in made.items():
        kind.__module__ = "proj_enum"
        setattr(home, name, kind)
    yield home
    del sys.modules["proj_enum"]


TRY = """
import enum, pickle, model_def
found = pickle.load(open("values.pkl", "rb"))
for item in found:
    assert isinstance(item, enum.Enum) and type(item)(item.value) is item, item
print([item.value for item in found])
again = pickle.loads(pickle.dumps(found))
assert all(a is b for a, b in zip(again, found))
"""


def test_values_are_looked_up_as_members(tmp_path: Path, kinds: types.ModuleType) -> None:
    values = [
        kinds.Color.RED, kinds.Color.BLUE, *kinds.Words, kinds.Level.LOW, kinds.Perm.R,
        kinds.Perm.R | kinds.Perm.X, kinds.Bits.R | kinds.Bits.W, kinds.Bits(9), kinds.Both.HIGH,
    ]  # fmt: skip
    source = stub(written(tmp_path, "values", values))
    (tmp_path / "model_def.py").write_text(source, "utf-8")
    said = run_script(tmp_path, TRY)
    assert said.strip() == "[1, 2, 'x-y', 'class', 'name', '', -3, 1, 5, 3, 9, 'high']"
    assert source.count("# inferred: the names; only the values") == 6
    assert "inferred: their names, from the values" in source
    assert "unknown: other members; whether it is an int or a str as well" in source


def dtype_by_name(first: str, second: str | None) -> bytes:
    """`Perm.R | Perm.W` as Python 3.11.0 wrote it: getattr, and operator.or_."""

    def member(name: str) -> bytes:
        return b"cbuiltins\ngetattr\n(cproj_enum\nPerm\nV" + name.encode() + b"\ntR"

    if second is None:
        return b"(" + member(first) + b"l."
    return b"(c_operator\nor_\n(" + member(first) + member(second) + b"tRl."


TRY_NAMES = """
import enum, pickle, model_def
(item,) = pickle.load(open("names.pkl", "rb"))
print(item.name if item.name else "none", isinstance(item, enum.Enum))
"""


@pytest.mark.parametrize(
    ("pickled", "name"),
    [
        (dtype_by_name("R", None), "R"),
        (dtype_by_name("I", None), "I"),  # a letter that no stub calls a thing of its own
        (dtype_by_name("R", "W"), "R|W"),
        (dtype_by_name("read", "write"), "read|write"),
    ],
)
def test_names_are_members(tmp_path: Path, pickled: bytes, name: str) -> None:
    (tmp_path / "names.pkl").write_bytes(pickled)
    source = stub(tmp_path / "names.pkl")
    (tmp_path / "model_def.py").write_text(source, "utf-8")
    joined = "|" in name and sys.version_info < (3, 11)  # which then has no name
    assert run_script(tmp_path, TRY_NAMES).split() == ["none" if joined else name, "True"]
    assert "recorded: names of members" in source and "unknown: their values" in source
    assert ("enum.Flag" in source) == ("|" in name)
