"""What reports share: the version of ptinspect, ok, exit_code, text() and as_dict(), advice on
loading, and dataclasses as JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import DataclassInstance

__version__ = "0.1.0"  # a test checks that pyproject.toml and CHANGELOG.md agree with it


class Report(ABC):
    """A command's answer, for people as text and for programs as a dict.

    `bool(report)` is `report.ok`. Subclasses are dataclasses.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def ok(self) -> bool:
        """True if the answer is yes: nothing was found, lost or different."""

    @property
    def exit_code(self) -> int:
        """The exit code of the command: 0 if `ok`, else 1."""
        return 0 if self.ok else 1

    @abstractmethod
    def text(self) -> str:
        """Return the report as text that ends in a newline."""

    @property
    def summary(self) -> str:
        """The first line of the text, which sums it up."""
        return self.text().partition("\n")[0]

    @abstractmethod
    def as_dict(self) -> dict[str, object]:
        """Return the report as a dict that can be written as JSON."""

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True)
class LoadAdvice:
    """Advice on loading one file, in the reports of several commands.

    Attributes:
        weights_only: True if torch.load reads the file with its default, weights_only=True.
        needs: classes and functions that neither torch, numpy nor the standard library has.
        safe_globals: names that weights_only needs as safe globals.
        map_location: "needed" if a device other than the CPU is recorded.
        call: the line of Python that loads the file.
        blockers: what keeps weights_only from loading the file, whatever the safe globals are.
    """

    weights_only: bool
    needs: list[str]
    safe_globals: list[str]
    map_location: str | None
    call: str
    blockers: list[str]


def json_objects(items: Iterable[DataclassInstance], *omitted: str) -> list[object]:
    """Return dataclasses as JSON has them, without the `omitted` fields."""
    fields = map(asdict, items)
    return [
        json_plain({name: value for name, value in item.items() if name not in omitted})
        for item in fields
    ]


def json_plain(value: object) -> object:
    """Return a plain value as JSON has it: tuples as lists, NaN and infinities as text."""
    if isinstance(value, list | tuple):
        return [json_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: json_plain(item) for name, item in value.items()}
    if isinstance(value, float) and value - value != 0:
        return "nan" if value != value else "inf" if value > 0 else "-inf"
    return value
