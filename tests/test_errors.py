"""The family of errors: what a message says, and what is added on its way up."""

from __future__ import annotations

import pytest

from ptinspect import errors
from ptinspect.errors import (
    DamagedError,
    FormatError,
    LimitError,
    LossError,
    MissingFileError,
    Place,
    PtInspectError,
    UnsafeError,
    UnsupportedError,
    add_error_path,
)

FAMILY = (FormatError, DamagedError, LimitError, UnsafeError, UnsupportedError)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place(), ""),
        (Place("archive/data.pkl"), "archive/data.pkl"),
        (Place(None, 0), "byte 0"),
        (Place("archive/data.pkl", 1043), "archive/data.pkl @ 1043"),
        (Place("", 7), "byte 7"),
    ],
)
def test_a_place_reads_as_record_and_offset(place: Place, text: str) -> None:
    assert str(place) == text


def test_a_message_says_file_what_where_and_on_a_second_line_what_to_do() -> None:
    error = DamagedError("cut off", where=Place("data.pkl", 12), hint="fetch it again")
    assert error.lines() == "ptinspect: cut off, data.pkl @ 12\n  fetch it again"
    error.path = "model.pth"
    assert error.lines() == "ptinspect: model.pth: cut off, data.pkl @ 12\n  fetch it again"


def test_without_a_hint_or_a_place_there_is_one_plain_line() -> None:
    assert FormatError("an HTML page", path="m.pt").lines() == "ptinspect: m.pt: an HTML page"
    assert FormatError("an HTML page", where=Place()).lines() == "ptinspect: an HTML page"


def test_a_limit_names_itself_and_how_to_raise_it() -> None:
    error = LimitError("1,025 dimensions, 512 are allowed", limit="dims")
    assert error.limit == "dims"
    assert "Limits(dims=" in (error.hint or "")
    assert LimitError("too many", limit="dims", hint="split it").hint == "split it"


def test_about_names_the_file_in_an_error_that_lacks_one() -> None:
    with pytest.raises(DamagedError) as caught, add_error_path("model.pth"):
        raise DamagedError("cut off")
    assert caught.value.path == "model.pth"


def test_about_keeps_the_name_that_was_nearer() -> None:
    with (
        pytest.raises(DamagedError) as caught,
        add_error_path("outer.zip"),
        add_error_path("inner.pth"),
    ):
        raise DamagedError("cut off")
    assert caught.value.path == "inner.pth"


def test_about_leaves_the_errors_of_others_alone() -> None:
    with pytest.raises(KeyError), add_error_path("model.pth"):
        raise KeyError("a bug of ours shall look like one")


def test_each_kind_of_error_has_a_name_of_its_own() -> None:
    kinds = [kind.kind for kind in FAMILY]
    assert len(set(kinds)) == len(FAMILY)
    assert PtInspectError.kind not in kinds


def test_the_family_is_complete_and_has_one_root() -> None:
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)}
    assert classes == {PtInspectError, MissingFileError, LossError, *FAMILY}
    assert all(issubclass(c, PtInspectError) for c in classes)
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)  # the tree on top of the file
