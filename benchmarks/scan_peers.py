"""Compare `scan` with picklescan, modelscan, fickling, hayward and modelaudit-picklescan.

    python -m benchmarks.scan_peers [--environment DIR] [--into docs/security.md]

The files are both corpora of tests/safety/corpus, the fixtures, and the downloaded files of the
PyPI corpus. pip installs the other tools into a separate environment outside the repository.
Each tool reads all files in one process, through its Python API. A file that ends the process
or takes a minute counts as not read, and the tool continues with the next. The times are sums
over the files, without the start of the tools. The verdict of a tool becomes one of four words:

    dangerous  a verdict that makes a gate fail: picklescan an unsafe global, modelscan CRITICAL or
               HIGH, fickling LIKELY_UNSAFE or worse, hayward critical or high, modelaudit malicious
    doubtful   a milder finding, or "unknown"
    not read   an error, a refusal, a file that was skipped
    clean      none of these
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PEERS = {
    "picklescan": ("picklescan",),
    "modelscan": ("modelscan",),
    "fickling": ("fickling", "typing_extensions"),  # which 0.1.12 imports and does not ask for
    "hayward": ("hayward",),
    "modelaudit-picklescan": ("modelaudit-picklescan",),
}
"""The requirements for pip."""

WORDS = ("dangerous", "doubtful", "not read", "clean")
PATIENCE = 60.0
MARKS = "<!-- scan-peers: begin -->\n", "<!-- scan-peers: end -->\n"

ASK = {
    "ptinspect": """
import ptinspect
def ask(path):
    verdict = ptinspect.scan(path).verdict
    return {"unknown": "doubtful", "unreadable": "not read"}.get(verdict, verdict)
""",
    "picklescan": """
from picklescan.scanner import scan_file_path
def ask(path):
    found = scan_file_path(path)
    if found.issues_count:
        return "dangerous"
    if found.scan_err:
        return "not read"
    return "doubtful" if found.suspicious_count else "clean"
""",
    "modelscan": """
from modelscan.modelscan import ModelScan
def ask(path):
    scan = ModelScan()
    scan.scan(path)
    levels = {issue.severity.name for issue in scan.issues.all_issues}
    if levels & {"CRITICAL", "HIGH"}:
        return "dangerous"
    if levels:
        return "doubtful"
    return "not read" if scan.errors or not scan.scanned else "clean"
""",
    "fickling": """
from fickling.analysis import Severity
from fickling.loader import scan_file, scan_zip_archive
import os, zipfile
def ask(path):
    if zipfile.is_zipfile(path):
        found = list(scan_zip_archive(path, graceful=True, json_output_path=os.devnull).values())
    else:
        found = [scan_file(path, graceful=True, json_output_path=os.devnull)]
    read = [each for each in found if not each.errors]
    worst = max((each.severity for each in read), default=Severity.LIKELY_SAFE)
    if worst >= Severity.LIKELY_UNSAFE:
        return "dangerous"
    if len(read) < len(found) or not found:
        return "not read"
    return "clean" if worst == Severity.LIKELY_SAFE else "doubtful"
""",
    "hayward": """
from pathlib import Path
from hayward.scanner import ModelFileScanner
def ask(path):
    levels = {found.severity.value for found in ModelFileScanner().scan_file(Path(path))}
    if levels & {"critical", "high"}:
        return "dangerous"
    return "doubtful" if levels else "clean"
""",
    # Without its call graph it is twenty times as fast, and answers nearly the same.
    "modelaudit-picklescan": """
from modelaudit_picklescan import scan_file
def ask(path):
    report = scan_file(path, enrich_call_graph=False)
    word = {"malicious": "dangerous", "suspicious": "doubtful", "clean": "clean"}
    return word.get(report.verdict.value, "not read")
""",
}
"""Code that calls each tool for a file."""

LOOP = """
import contextlib, io, json, logging, sys, time, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
answers = sys.stdout
sys.stdout = sys.stderr = io.StringIO()
for line in sys.stdin:
    begun = time.perf_counter()
    try:
        said = ask(json.loads(line))
    except Exception as error:
        said = f"not read: {type(error).__name__}"
    print(json.dumps([said, time.perf_counter() - begun]), file=answers, flush=True)
    sys.stdout.truncate(0)
"""


class Tool(NamedTuple):
    """A tool, its version, and the Python that has it."""

    name: str
    version: str
    python: str


class Answers(NamedTuple):
    """words: of each file; seconds: for all of them."""

    words: dict[Path, str]
    seconds: float


class Asked:
    """A process of the tool; begun anew where it ended."""

    def __init__(self, tool: Tool, folder: Path) -> None:
        self.tool, self.folder = tool, folder
        self.process: subprocess.Popen[str] | None = None

    def ask(self, path: Path) -> tuple[str, float]:
        """(word, seconds)"""
        process = self.process or self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        begun = time.perf_counter()
        try:
            process.stdin.write(json.dumps(str(path)) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            line = process.stdout.readline() if ready else ""
        except BrokenPipeError:
            line = ""
        if line:
            said, seconds = json.loads(line)
            return said, seconds
        self.end()
        return "not read: crashed", time.perf_counter() - begun

    def _begin(self) -> subprocess.Popen[str]:
        code = ASK[self.tool.name] + LOOP
        self.process = subprocess.Popen(
            [self.tool.python, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT) if self.tool.name == "ptinspect" else ""},
        )
        return self.process

    def end(self) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def answers(tool: Tool, paths: Sequence[Path], folder: Path) -> Answers:
    """Return the verdicts of a tool."""
    asked = Asked(tool, folder)
    asked.ask(paths[0])  # its imports are no part of the time
    words, seconds = {}, 0.0
    for path in paths:
        word, took = asked.ask(path)
        words[path] = word
        seconds += took
    asked.end()
    return Answers(words, seconds)


def installed(environment: Path) -> Iterator[Tool | str]:
    """The peers, or why one is not there."""
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    for name, packages in PEERS.items():
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "install", "-q", *packages], capture_output=True, text=True)
        shown = subprocess.run([*pip, "show", name], capture_output=True, text=True)
        version = re.search(r"^Version: (.*)$", shown.stdout, re.M)
        if version:
            yield Tool(name, version[1], str(python))
        else:
            said = done.stderr.strip().splitlines()
            yield f"{name} could not be installed: {said[-1] if said else 'pip said nothing'}"


def harmless(folder: Path) -> list[Path]:
    """The benign corpus, the fixtures that hold no code of their own, and fetched packages."""
    from tests.cli.test_convert_advice import ALLOWED
    from tests.corpus.files import FIXTURES, fixtures
    from tests.corpus.packages import MODELS
    from tests.corpus.packages import folder as cache
    from tests.safety.corpus import benign

    places = [(FIXTURES / name, ALLOWED.get(name)) for name in fixtures()]
    fetched = [
        cache() / f"{model['package']}-{model['version']}" / model["member"]
        for model in MODELS
        if "error" not in model
    ]
    return [
        *benign.write(folder),
        *(path for path, most in places if most is None),
        *(path for path in fetched if path.exists()),
    ]


def table(title: str, good: tuple[str, ...], rows: dict[Tool, Answers]) -> str:
    """A table; `good` are the words that are right."""
    total = len(next(iter(rows.values())).words)
    lines = [
        f"{title}: {total} files",
        "",
        "| tool | right | dangerous | doubtful | not read | clean | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for tool, said in rows.items():
        count = Counter(word.partition(":")[0] for word in said.words.values())
        right = sum(count[word] for word in good) / total
        cells = [f"{tool.name} {tool.version}", f"{100 * right:.1f} %"]
        cells += [str(count[word]) for word in WORDS] + [f"{said.seconds:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def detail(rows: dict[Tool, Answers], bad: str) -> Iterator[str]:
    """Every file about which a tool is wrong, for who wants to look."""
    for tool, said in rows.items():
        wrong = [path.name for path, word in said.words.items() if word == bad]
        yield f"{tool.name}: {bad}: {', '.join(wrong)}"


def write_into(page: Path, text: str) -> None:
    """Between the two marks of the page."""
    old = page.read_text("utf-8")
    begin, end = (old.index(mark) for mark in MARKS)
    page.write_text(old[: begin + len(MARKS[0])] + text + old[end:], "utf-8")


def default_environment() -> Path:
    """Return the environment of the other tools."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ptinspect" / "peers"


def main(arguments: Sequence[str] | None = None) -> None:
    """See above."""
    from ptinspect import __version__
    from tests.safety.corpus import malicious
    from tests.safety.corpus.sample import MARK

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", type=Path, default=default_environment())
    parser.add_argument("--into", type=Path, help="a page with the two marks")
    parser.add_argument("--detail", action="store_true", help="name the files that are wrong")
    options = parser.parse_args(arguments)

    tools: list[Tool] = [Tool("ptinspect", __version__, sys.executable)]
    absent: list[str] = []
    for found in installed(options.environment.absolute()):
        if isinstance(found, Tool):
            tools.append(found)
        else:
            absent.append(found)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("malicious", "benign", "work")]
        for folder in folders:
            folder.mkdir()
        bad, good = malicious.write(folders[0]), harmless(folders[1])
        harm: dict[Tool, Answers] = {}
        peace: dict[Tool, Answers] = {}
        for tool in tools:
            harm[tool] = answers(tool, bad, folders[2])
            peace[tool] = answers(tool, good, folders[2])
        assert not list(Path(scratch).rglob(MARK)), "a payload was run"
    text = table("Harmful", ("dangerous", "doubtful"), harm) + "\n"
    text += table("Harmless", ("clean", "doubtful"), peace)
    text += "".join(f"\n{line}\n" for line in absent)
    sys.stdout.write(text)
    if options.detail:
        sys.stdout.write("\n".join([*detail(harm, "clean"), *detail(peace, "dangerous"), ""]))
    if options.into:
        write_into(options.into, text)


if __name__ == "__main__":
    main()
