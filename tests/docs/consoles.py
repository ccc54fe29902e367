"""Examples in documents: a fenced block `console` holds commands behind `$ `, each followed by
what it prints. Run this file to write what the commands print today into the documents named."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Example(NamedTuple):
    """A command of a document (without the `$ `), and the lines that are said to follow."""

    command: str
    said: str


def examples(text: str) -> Iterator[Example]:
    """All of a document's, in order."""
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, said = part.partition("\n")
            yield Example(command, said)


def run(command: str) -> str:
    """What `ptinspect …` prints, standard error behind standard output; to be run at the root."""
    import shlex

    from ptinspect.cli import cli

    words = shlex.split(command)
    assert words[0] == "ptinspect", command
    result = CliRunner().invoke(cli, words[1:], prog_name="ptinspect")
    lines = (result.stdout + result.stderr).splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def renewed(text: str) -> str:
    """The document with what its commands print today."""

    def block(match: re.Match[str]) -> str:
        made = "".join(f"$ {e.command}\n{run(e.command)}" for e in examples(match[0]))
        return f"```console\n{made}```"

    return _BLOCK.sub(block, text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(renewed(path.read_text("utf-8")), "utf-8")
