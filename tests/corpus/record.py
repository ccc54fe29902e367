"""Writes into models.json what torch finds in each file of the corpus.

    python -m tests.corpus.record            # those without a sha256 or without facts
    python -m tests.corpus.record --all

To add a file: append {"package", "version", "member", "why"} to models.json, run this, look at
what changed. Needs torch; ptinspect takes no part in it. For a file that torch.load does not
read, add "error" (the class) and "message" (a part of it) by hand, or "torchscript": true.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from tests.corpus import packages, torch_side
from tests.corpus.digest import digest


def facts(model: dict[str, Any]) -> dict[str, Any]:
    """The entry with all that is recorded of its file."""
    place = packages.folder() / f"{model['package']}-{model['version']}" / model["member"]
    if not place.exists():
        reason = packages.fetch(model["package"], model["version"])
        if reason:
            raise SystemExit(reason)
    made = {**model, "sha256": hashlib.sha256(place.read_bytes()).hexdigest()}
    if "error" not in model and "torchscript" not in model:
        truth = torch_side.truth_of(place)
        made.update(format=truth["format"], kind=truth["kind"], tensors=len(truth["tensors"]))
        made.update(digest=digest(torch_side.lines(place)))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what torch finds in the corpus.")
    parser.add_argument("--all", action="store_true")
    every = parser.parse_args().all
    models = [
        facts(model) if every or "sha256" not in model else model for model in packages.MODELS
    ]
    text = json.dumps(models, indent=1, ensure_ascii=False) + "\n"
    Path(packages.__file__).with_name("models.json").write_text(text)


if __name__ == "__main__":
    main()
