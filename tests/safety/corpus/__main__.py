"""Writes the corpora out: python -m tests.safety.corpus FOLDER makes FOLDER/malicious and
FOLDER/benign. The malicious files touch no more than a file of the name `ptinspect-marker`, if
anybody loads them."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.safety.corpus import benign, malicious


def main(folder: Path) -> None:
    """Both of them."""
    for name, module in (("malicious", malicious), ("benign", benign)):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        print(f"{len(module.write(place))} files in {place}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
