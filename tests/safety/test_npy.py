"""numpy's .npy: what stands behind an array, and where in the file harm lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.safety.files import BAD, GOOD, npy, scanned
from tests.safety.making import call, path, plain, text, whole

OBJECTS = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", BAD)
NUMBERS = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }", b"\0" * 16)
FIELDS = npy(
    "{'descr': [('a', '<f4', (2, 3)), (('t', 'b'), '|S5'), ('c', [('d', '<U2')])],"
    " 'fortran_order': False, 'shape': (2, 2), }",
    b"\0" * 4 * (24 + 5 + 8),
)


@pytest.mark.parametrize("front", [NUMBERS, FIELDS, npy("{'descr': '|O', 'shape': (1,)}", GOOD)])
def test_numpy_s_arrays_in_a_row_are_all_read(front: bytes, tmp_path: Path) -> None:
    """numpy.save into an open file, and numpy.load from it, as often as one likes."""
    assert scanned(tmp_path, front + FIELDS + NUMBERS).verdict == "clean"
    assert scanned(tmp_path, front + OBJECTS).verdict == "dangerous"
    assert scanned(tmp_path, front + NUMBERS * 50 + OBJECTS).verdict == "dangerous"


def test_what_follows_an_array_of_numbers(tmp_path: Path) -> None:
    assert scanned(tmp_path, NUMBERS + BAD).verdict == "dangerous"
    assert scanned(tmp_path, NUMBERS + b"\xff\xfe").verdict != "clean"
    for array in (NUMBERS, FIELDS):
        assert scanned(tmp_path, array).verdict == "clean"
        assert scanned(tmp_path, array[:-1]).verdict == "unreadable"


def test_a_finding_says_where_in_the_file_it_lies(tmp_path: Path) -> None:
    data = NUMBERS + OBJECTS
    (found,) = scanned(tmp_path, data).all_findings()
    assert found.offset == data.index(b"R.", len(NUMBERS))


def test_an_array_of_any_size_is_cut_off(tmp_path: Path) -> None:
    shape = "99999999999999999, " * 3000
    data = npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}", b"\0" * 16)
    report = scanned(tmp_path, data)
    assert report.verdict == "unreadable"
    assert "cut off" in str(report.errors[0])


@pytest.mark.parametrize(
    ("cls", "verdict"), [("numpy.ndarray", "clean"), ("os.system", "dangerous")]
)
def test_an_array_as_numpy_wrote_it_before_1_0(cls: str, verdict: str, tmp_path: Path) -> None:
    made = call(path("numpy.core._internal._reconstruct"), path(cls), plain((0,)), text("b"))
    data = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", whole(made))
    assert scanned(tmp_path, data).verdict == verdict
