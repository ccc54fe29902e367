"""What lies inside an object that the machine recorded: its arguments, its state, nothing lost."""

from __future__ import annotations

import functools

import pytest

from tests.document.making import document, lines


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
