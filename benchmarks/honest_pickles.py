"""Pickle real objects of many packages, and scan them. `python -m benchmarks.honest_pickles [DIR]`

No honest pickle may be dangerous. `honest_pickles.txt` lists the objects as expressions: a line
`== name` begins a package, a line that begins with `import` or `from` is run, every other line is
evaluated. A list or a generator holds several objects, each pickled by itself. What a package
cannot make or pickle here is counted as skipped. Packages need not be installed in this
environment: `pip install --target DIR …` and PYTHONPATH=DIR. With DIR, the files are written there.
"""

from __future__ import annotations

import enum
import inspect
import io
import pickle
import subprocess
import sys
import tempfile
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ptinspect.safety.scan import scan

PROTOCOLS = (0, 2, 4, 5)
LIST = Path(__file__).with_suffix(".txt")


def enums(module: types.ModuleType) -> list[object]:
    """Return a member of each enumeration of a module."""
    classes = [each for each in vars(module).values() if inspect.isclass(each)]
    return [next(iter(each)) for each in classes if issubclass(each, enum.Enum) and len(each)]


def defaults(module: types.ModuleType) -> Iterator[object]:
    """Yield an object of each class of a module that needs no arguments."""
    for each in list(vars(module).values()):
        if inspect.isclass(each) and each.__module__.startswith(module.__name__.split(".")[0]):
            try:
                yield each()
            except Exception:  # noqa: BLE001
                continue


def exceptions(module: types.ModuleType) -> Iterator[object]:
    """Yield an exception of each class of a module that takes a message."""
    for each in list(vars(module).values()):
        if inspect.isclass(each) and issubclass(each, Exception):
            try:
                yield each("a message")
            except Exception:  # noqa: BLE001
                continue


def packages() -> dict[str, list[str]]:
    """Return the lines of each package."""
    found: dict[str, list[str]] = {}
    for line in LIST.read_text("utf-8").splitlines():
        if line.startswith("== "):
            lines = found.setdefault(line[3:], [])
        elif line:
            lines.append(line)
    return found


def objects(lines: list[str]) -> Iterator[object]:
    """Yield the objects that the lines make."""
    names: dict[str, object] = {"enums": enums, "defaults": defaults, "exceptions": exceptions}
    for line in lines:
        try:
            if line.startswith(("import ", "def ", "class ", "X = ", "x = ")):
                exec(line, names)  # the lines are ours
                continue
            value = eval(line, names)
            yield from value if isinstance(value, list | Iterator) else [value]
        except Exception as error:  # noqa: BLE001
            print(f"skipped: {line[:60]}: {type(error).__name__} {error}"[:160])


def pickles(value: object) -> dict[bytes, str]:
    """Return the different pickles of an object, by how each was made."""
    made: dict[bytes, str] = {}
    for protocol in PROTOCOLS:
        try:
            made.setdefault(pickle.dumps(value, protocol), f"{protocol}.pkl")
        except Exception:  # noqa: BLE001
            continue
    if type(value).__module__.split(".")[0] in ("torch", "collections"):
        import torch

        file = io.BytesIO()
        with suppress(Exception):
            torch.save(value, file)
            made[file.getvalue()] = "torch.pt"
    return made


def make(package: str, folder: Path) -> None:
    """Write the pickles of one package."""
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(10_000)
    for number, value in enumerate(objects(packages()[package])):
        for data, kind in pickles(value).items():
            (folder / f"{package}-{number:03}-{kind}").write_bytes(data)


def main(folder: Path) -> bool:
    """Write and scan all of them. Return True if none is dangerous or unreadable."""
    for package in packages():  # each in a process of its own: some packages end it
        command = [sys.executable, "-m", "benchmarks.honest_pickles", str(folder), package]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        print(done.stdout, *done.stderr.splitlines()[-1:] if done.returncode else "", end="")
    files = sorted(folder.iterdir())
    verdicts: Counter[str] = Counter()
    for path in files:
        report = scan(path)
        verdicts[report.verdict] += 1
        if report.verdict in ("dangerous", "unreadable"):
            found = [each for each in report.all_findings() if each.verdict == "dangerous"]
            why = "; ".join(f"{each.chain}: {each.reason}" for each in found[:2])
            print(f"{report.verdict}: {path.name}: {why or report.errors}"[:400])
    made = {path.name.rpartition("-")[0].rpartition("-")[0] for path in files}
    print(f"{len(files)} pickles of {len(made)} packages: {dict(verdicts)}")
    return not verdicts["dangerous"] and not verdicts["unreadable"]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        make(sys.argv[2], Path(sys.argv[1]))
        sys.exit()
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        target.mkdir(parents=True, exist_ok=True)
        sys.exit(not main(target))
