"""Numbers for people."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes: `12 bytes`, `2.7 kB`, `1.5 GB` (powers of 1000, as disks and downloads have it)."""
    if count < 1000:
        return f"{count} byte" + "s" * (count != 1)
    value, unit = count / 1000, "kB"
    for unit_above in ("MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, unit_above
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 parameter`, `2 parameters`, `25,557,032 elements`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
