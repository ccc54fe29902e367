from __future__ import annotations

import pytest

from ptinspect.text import count_text, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (2709, "2.7 kB"),
        (99_900, "99.9 kB"), (123_456, "123 kB"), (999_499, "999 kB"), (999_500, "1.0 MB"),
        (102_530_333, "103 MB"), (4 << 30, "4.3 GB"), (10**15, "1000 TB"),
    ],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_counts() -> None:
    assert count_text(1, "parameter") == "1 parameter"
    assert count_text(25_557_032, "element") == "25,557,032 elements"
    assert count_text(2, "entry", "entries") == "2 entries"
