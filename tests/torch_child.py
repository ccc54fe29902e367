"""Python processes in which torch is already imported.

`run_python` runs a script like `subprocess.run([sys.executable, ...])` does, but in a fork of one
server per test process, because importing torch takes seconds and a fork takes milliseconds. Where
processes cannot be forked, each script is started on its own.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any


def run_python(
    *arguments: str, cwd: Path | None = None, path: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script, given by its path or as `-c CODE`, with its arguments, and capture its output.

    `path` takes the place of PYTHONPATH. Warnings are ignored.
    """
    folders = [str(folder) for folder in path]
    if not hasattr(os, "fork"):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        command = [sys.executable, "-W", "ignore", *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=False, cwd=cwd, env=env
        )
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        job = {
            "arguments": arguments,
            "cwd": str(cwd or os.getcwd()),
            "path": folders,
            "outputs": outputs,
        }
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        texts = [Path(output).read_text("utf-8") for output in outputs]
    return subprocess.CompletedProcess([sys.executable, *arguments], code, *texts)


@cache
def _server() -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**env, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    atexit.register(server.kill)
    return server


def _serve() -> None:
    """Answer each job on standard input with the exit code of its process."""
    with suppress(ModuleNotFoundError):  # tests that need it are skipped
        import torch  # noqa: F401

    del sys.path[0]  # the folder of this file, which is of no concern to the scripts
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_run(json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(job: dict[str, Any]) -> int:
    """Run one script as `__main__` and return its exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, output in enumerate(job["outputs"], start=1):
        opened = os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, number)
    os.chdir(job["cwd"])
    warnings.simplefilter("ignore")
    sys.path[:0] = job["path"]
    script, *rest = job["arguments"]
    if script == "-c":
        code, sys.argv = rest[0], ["-c", *rest[1:]]
        sys.path.insert(0, "")
    else:
        code, sys.argv = Path(script).read_text("utf-8"), [script, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    main = types.ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(compile(code, script, "exec"), vars(main))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter ends on whatever is not caught
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    _serve()
