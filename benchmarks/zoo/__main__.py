"""The zoo: `python -m benchmarks.zoo [all|make|try|table] FOLDER --zoo-python PYTHON [--only GLOB]
[--again]`

`all` (the default) builds each model with PYTHON, which has torchvision, timm and transformers,
tries its stubs with the Python that runs this command, which must not have them, and deletes
the files, so that the disk holds one model at a time. `make` and `try` are its halves and keep
the files. Results are appended to FOLDER/results.jsonl, so an interrupted run continues where
it stopped (with --again, it starts again). `table` writes docs/zoo.md from the results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.zoo.maker import names_of
from benchmarks.zoo.table import written
from benchmarks.zoo.trying import ROOT, Server, child, refuse_where_installed, tried


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser("benchmarks.zoo", description=__doc__)
    parser.add_argument("what", nargs="?", default="all", choices=["all", "make", "try", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--zoo-python", default=sys.executable)
    parser.add_argument("--only", action="append", default=[], metavar="GLOB")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if given.what != "table":
        if given.what != "make":
            refuse_where_installed()
        known = {} if given.again else results_of(folder)
        names = names_of(_names(folder, given.zoo_python), given.only)
        _run(given.what, folder, given.zoo_python, [name for name in names if name not in known])
    if given.what in ("all", "table"):
        (ROOT / "docs" / "zoo.md").write_text(written(folder, results_of(folder)), "utf-8")


def _run(what: str, folder: Path, python: str, names: list[str]) -> None:
    loader, maker = child(), Server([python, "-m", "benchmarks.zoo.maker"])
    for name in names:
        place = folder / name.replace("/", "-").replace(":", "-")
        result: dict[str, Any] = {"name": name}
        begin = time.perf_counter()
        if what != "try":
            place.mkdir(exist_ok=True)
            result |= maker.ask(f"{name}\t{place}")
        if what != "make":
            if not (place / "truth.json").exists() and "failed" not in result:
                continue
            if "failed" not in result:
                result |= tried(place, loader)
            _add(folder, result)
        if what == "all":
            shutil.rmtree(place)
        _say(name, result, time.perf_counter() - begin)
    loader.close()
    maker.close()


def _names(folder: Path, python: str) -> list[str]:
    """Every model's name; asked once, as the answer takes the import of three libraries."""
    file = folder / "names.json"
    if not file.exists():
        command = [python, "-m", "benchmarks.zoo.maker", "--list"]
        file.write_bytes(subprocess.run(command, stdout=-1, check=True, cwd=ROOT).stdout)
    names: list[str] = json.loads(file.read_text("utf-8"))["names"]
    return names


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The last result of each model, by name."""
    file = folder / "results.jsonl"
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return {result["name"]: result for result in map(json.loads, lines)}


def _add(folder: Path, result: dict[str, Any]) -> None:
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def _say(name: str, result: dict[str, Any], seconds: float) -> None:
    bad = [result["failed"]] if "failed" in result else []
    for kind in ("whole", "state_dict"):
        for what, said in result.get(kind, {}).items():
            if isinstance(said, str):
                bad.append(f"{kind} {what}: {said}")
    print(f"{name} ({seconds:.1f} s){''.join(chr(10) + '    ' + line for line in bad)}", flush=True)


if __name__ == "__main__":
    main()
