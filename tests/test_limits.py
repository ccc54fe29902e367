"""The bounds: one frozen object, each one documented where it stands."""

from __future__ import annotations

import ast
import dataclasses
from itertools import pairwise

import pytest

from ptinspect import limits
from ptinspect.limits import LIMITS, Limits
from tests.conftest import ROOT


def test_one_bound_is_raised_and_the_others_stay() -> None:
    mine = Limits(dims=1_000)
    assert mine.dims == 1_000
    assert dataclasses.replace(mine, dims=LIMITS.dims) == LIMITS


def test_the_defaults_cannot_be_changed_for_everyone() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LIMITS.dims = 1  # type: ignore[misc]


def test_every_bound_is_a_positive_number() -> None:
    assert {f.name for f in dataclasses.fields(Limits) if getattr(LIMITS, f.name) <= 0} == set()


def test_every_bound_says_what_it_bounds() -> None:
    """A string follows each field: it is what the reference quotes."""
    source = (ROOT / "ptinspect/limits.py").read_text("utf-8")
    (body,) = (n.body for n in ast.parse(source).body if isinstance(n, ast.ClassDef))
    told = {
        field.target.id
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
    }
    assert told == {field.name for field in dataclasses.fields(limits.Limits)}
