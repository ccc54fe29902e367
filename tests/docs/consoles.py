"""Examples in documents, found and checked by sybil.

A fenced block `console` holds commands behind `$ `, each followed by what it prints; a line `…`
stands for any lines. A block `python title="FILE"` is written to that file, any other `python`
block is run as a script. `python -m tests.docs.consoles README.md` writes what the commands print
today into the documents named; `python -m tests.docs.test_tutorial` into the tutorial.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner
from sybil import Document, Region
from sybil import Example as Block
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer, RawFencedCodeBlockLexer

ROOT = Path(__file__).parent.parent.parent
_CONSOLE = FencedCodeBlockLexer("console")
_TITLED = RawFencedCodeBlockLexer(re.compile(r'python title="(?P<name>[\w.]+)"\n'))
_SCRIPT = FencedCodeBlockLexer("python")


class Example(NamedTuple):
    """A command of a document (without the `$ `), and the lines that are said to follow."""

    command: str
    said: str


def examples(text: str) -> Iterator[Example]:
    """All of a document's, in order."""
    for region in _CONSOLE(Document(text, "")):
        yield from _commands(region.lexemes["source"])


def _commands(block: str) -> Iterator[Example]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, said = part.partition("\n")
        yield Example(command, said)


def run(command: str) -> str:
    """What `ptinspect …` prints, standard error behind standard output, in the current folder."""
    import shlex

    from ptinspect.cli import cli

    words = shlex.split(command)
    assert words[0] == "ptinspect", command
    result = CliRunner().invoke(cli, words[1:], prog_name="ptinspect")
    return _lines(result.stdout + result.stderr)


def _lines(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def printed(command: str) -> str:
    """The same; also of `python FILE`, and with `> FILE` followed."""
    command, _, target = command.partition(" > ")
    text = _python(*command.split()[1:]) if command.startswith("python ") else run(command)
    if not target:
        return text
    Path(target).write_text(text, "utf-8")
    return ""


def _python(*arguments: str, must: bool = False) -> str:
    """Another process, in which ptinspect is found as if it were installed."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, check=False,
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8",
            "OMP_NUM_THREADS": "1",  # the models are small, and other tests run beside it
        },
    )  # fmt: skip
    text = (done.stdout + done.stderr).decode("utf-8")
    assert not must or done.returncode == 0, text
    return _lines(text.replace(f"{os.getcwd()}{os.sep}", ""))


def agrees(said: str, now: str) -> bool:
    """Whether the text is that, `…` as a line of its own being any lines."""
    parts = re.split(r"^…\n", said, flags=re.MULTILINE)
    return re.fullmatch("(?:.*\n)*?".join(map(re.escape, parts)), now) is not None


def check_console(block: Block) -> str | None:
    """What differs from what the document says; None where nothing does."""
    for example in _commands(block.parsed):
        now = printed(example.command)
        if not agrees(example.said, now):
            return f"$ {example.command}\n{now}\nis printed, and the page says\n\n{example.said}"
    return None


def write_file(block: Block) -> None:
    """A script of the document, under its title."""
    Path(block.region.lexemes["name"]).write_text(block.parsed, "utf-8")


def run_script(block: Block) -> None:
    """A script without a title."""
    _python("-c", block.parsed, must=True)


def parser(document: Document) -> Iterator[Region]:
    """For sybil: all the blocks of a page with what is done with each."""
    for lexer, evaluator in (
        (_CONSOLE, check_console), (_TITLED, write_file), (_SCRIPT, run_script)
    ):  # fmt: skip
        for region in lexer(document):
            region.parsed, region.evaluator = region.lexemes["source"], evaluator
            yield region


def follow(page: Path) -> int:
    """All of a page in the current folder; how many blocks there were. SybilFailure, with the
    line, where a page says what is not so."""
    blocks = list(Document.parse(str(page), parser))
    for block in blocks:
        block.evaluate()
    return len(blocks)


def renewed(text: str) -> str:
    """The document with what its commands print today; what agrees stays, `…` included."""
    document = Document(text, "")
    for region in parser(document):
        document.add(region)
    made, end = [], 0
    for block in document:
        region = block.region
        if region.evaluator is not check_console:
            region.evaluator(block)
            continue
        made += [text[end : region.start], "```console\n", _renewed_block(block.parsed), "```"]
        end = region.end
    return "".join([*made, text[end:]])


def _renewed_block(block: str) -> str:
    made = ""
    for example in _commands(block):
        now = printed(example.command)
        made += f"$ {example.command}\n{example.said if agrees(example.said, now) else now}"
    return made


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(renewed(path.read_text("utf-8")), "utf-8")
