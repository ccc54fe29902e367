"""Run command lines of ptinspect in one process, whose server of child processes has torch already.

    python -m benchmarks.gpu.session TIMEOUT

Each line of standard input is a JSON list: the arguments, and whether the check crosses from the
CPU to the CPU. Each line of standard output is the answer: exit code, output and errors.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any

from ptinspect.cli import cli
from ptinspect.proofs import processes, resume


def main() -> None:
    """Answer until standard input ends."""
    channel = os.fdopen(os.dup(1), "w")
    should_cross = resume.should_cross
    with processes.Workers(float(sys.argv[1])) as server:
        shared: Any = lambda *_: contextlib.nullcontext(server)  # noqa: E731
        processes.Workers = shared  # type: ignore[misc]
        for line in sys.stdin:
            arguments, crosses = json.loads(line)
            resume.should_cross = (lambda device: True) if crosses else should_cross
            output = server.new_path(".answer")
            errors, code = io.StringIO(), 0
            with contextlib.redirect_stderr(errors):
                try:
                    cli.main([*arguments, "-o", output], prog_name="ptinspect")
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 2
            text = ""
            with contextlib.suppress(OSError), open(output, encoding="utf-8") as file:
                text = file.read()
            channel.write(json.dumps([code, text, errors.getvalue()]) + "\n")
            channel.flush()


if __name__ == "__main__":
    main()
