"""What lies inside an object that the machine recorded: its arguments, its state, nothing lost."""

from __future__ import annotations

import functools
import pickle

import pytest

from tests.document.making import document, lines, of_bytes


class Paired:
    """A state of two parts that are no attributes."""

    def __getstate__(self) -> tuple[dict[str, int], list[int]]:
        return {"a": 1}, [7]

    def __setstate__(self, state: object) -> None: ...


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self) -> None:
        self.x, self.y = 1, "둘"


class NewArguments:
    def __new__(cls, first: int, *, b: str) -> NewArguments:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, str]]:
        return (3,), {"b": "two"}

    def __init__(self, first: int, *, b: str) -> None:
        self.a = first


def double(x: int, y: int = 2) -> int:
    return x * y


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_state_of_two_parts_that_are_no_attributes_is_told_whole(protocol: int) -> None:
    told = lines(document([Paired(), object()], protocol=protocol))
    assert told["0.0.a"] == 1
    assert told["0.1"] == [7]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_slots_are_attributes(protocol: int) -> None:
    told = lines(document([Slotted(), object()], protocol=protocol))
    assert (told["0.x"], told["0.y"]) == (1, "둘")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arguments_by_keyword_belong_to_the_class(protocol: int) -> None:
    """Protocols 2 and 3 call a partial of `__new__`, 4 has an opcode of its own."""
    found = document([NewArguments(3, b="two"), object()], protocol=protocol)
    told = lines(found)
    assert found.entries[0].type.endswith("NewArguments")
    assert (told["0.args[0]"], told["0.a"]) == (3, 3)


def test_a_partial_is_told_by_its_parts() -> None:
    told = lines(document([functools.partial(double, 1, y=3), object()]))
    assert told["0.func"] == f"{__name__}.double"
    assert (told["0.args"], told["0.keywords.y"]) == ([1], 3)
    assert "0.__dict__" not in told


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        ("OrderedDict", ({"a": 1, "b": 2},), {"a": 1, "b": 3, "c": 4}),
        ("OrderedDict", ([["a", 1], [("k", 0), 2]],), {"a": 1, "('k', 0)": 2, "b": 3, "c": 4}),
        ("Counter", ({"a": 1, "b": 2},), {"a": 1, "b": 3, "c": 4}),
        ("defaultdict", (None, {"a": 1, "b": 2}), {"a": 1, "b": 3, "c": 4}),
        ("defaultdict", (None,), {"b": 3, "c": 4}),
    ],
)
def test_a_dict_has_the_items_of_its_constructor_and_those_set_afterwards(
    module: str, arguments: tuple[object, ...], expected: dict[str, int]
) -> None:
    call = f"ccollections\n{module}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R"
    data = b"\x80\x02" + call + pickle.dumps(["b", 3, "c", 4], 2)[5:-2] + b"u."
    shown = {path: value for path, value in lines(of_bytes(data)).items() if path}
    assert shown == expected
    built = pickle.loads(data)
    assert {str(key): value for key, value in built.items()} == expected


def test_many_dicts_in_dicts_cost_little() -> None:
    data = b"\x80\x02" + b"ccollections\nCounter\n" * 50_000 + b")R" + b"\x85R" * 49_999 + b"."
    assert lines(of_bytes(data)) == {"": {"length": 0, "head": []}}
