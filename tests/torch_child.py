"""Python processes in which torch is already imported.

Importing torch takes seconds, a fork takes milliseconds: one server per test process imports torch
and forks for each script. `torch_python` returns the path of a program that is called like Python
and has a script run there. `run_python` runs a script with it, like `subprocess.run`.

A script cannot tell: it imports torch as usual, and the hooks of its own see that import. Only the
code of torch's modules has run before. Its process leads a session of its own. Scripts that train
have servers that have made an optimizer as well, which imports as much again. Other scripts do not:
they could not tell which modules they forgot to import.
"""

from __future__ import annotations

import atexit
import copy
import importlib.abc
import importlib.util
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
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

PYTHON = sys.executable  # tests replace it by a program of torch_python
CLIENT = Path(__file__).with_name("torch_client.py")
# Options of Python without a value that mean nothing here.
IGNORED = {"-u", "-S", "-E", "-s"}


def run_python(
    *arguments: str, cwd: Path | None = None, path: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script, given by its path or as `-c CODE`, with its arguments, and capture its output.

    `path` takes the place of PYTHONPATH. Warnings are ignored.
    """
    folders = os.pathsep.join(str(folder) for folder in path)
    env = {**os.environ, "PYTHONPATH": folders, "PYTHONIOENCODING": "utf-8"}
    command = [torch_python(), "-W", "ignore", *arguments]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, cwd=cwd, env=env
    )


@cache
def torch_python(trains: bool = False) -> str:
    """Return the path of a Python with torch, or of this one where nothing can be forked so.

    `trains`: for scripts that make an optimizer.
    """
    if not hasattr(os, "pidfd_open"):  # only Linux has it
        return PYTHON
    folder = tempfile.mkdtemp(prefix="torch-")
    path = os.path.join(folder, "python")
    client = f"'{PYTHON}' -I -S '{CLIENT}' '{folder}/socket'"
    Path(path).write_text(f'#!/bin/sh\nexec {client} "$@"\n', "utf-8")
    os.chmod(path, 0o700)
    left_out = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    env = {key: value for key, value in os.environ.items() if key not in left_out}
    env.update(OMP_NUM_THREADS="1", PYTHONHASHSEED="0", PYTHONIOENCODING="utf-8")
    server = subprocess.Popen(
        [PYTHON, __file__, folder, *["trains"] * trains],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
    )  # fmt: skip
    assert server.stdout is not None
    server.stdout.readline()  # it can be connected to, and has yet to import torch
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return path


# --- The server ---


def serve(folder: str, trains: bool) -> None:
    """Run the scripts of all clients until standard input ends, which the test process holds."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(folder, "socket"))
    listener.listen(16)
    print("ready", flush=True)
    with suppress(ModuleNotFoundError):  # tests that need it are skipped
        import torch

        if trains:
            torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    del sys.path[0]  # the folder of this file, which is of no concern to the scripts
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the supervisors
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            supervise(connection, os.path.join(folder, "python"))
            os._exit(0)
        connection.close()


def supervise(connection: socket.socket, executable: str) -> None:
    """Run the script of a client in a fork, pass the client's signals on, answer its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    job = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    child = os.fork()
    if not child:
        connection.close()
        os._exit(run(job, descriptors, executable))
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    while ended not in select.select([ended, connection], [], [])[0]:
        number = connection.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)  # nothing: the client was killed
        if not number:
            break
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def run(job: dict[str, Any], descriptors: list[int], executable: str) -> int:
    """Become the client's process: run its script as `__main__`, and return the exit code."""
    os.setsid()
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.executable = executable
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    tempfile.tempdir = None
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    hide_torch()
    try:
        run_main(job["arguments"])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter ends on whatever is not caught
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return status & 255


def run_main(arguments: list[str]) -> None:
    """Do what Python does with its command line."""
    first, isolated = "", False
    while arguments[0] not in ("-c", "-m") and arguments[0].startswith("-"):
        option, *arguments = arguments
        if option == "-W":
            warnings.simplefilter(arguments.pop(0))
        elif option == "-I":
            isolated = True
        elif option == "-B":
            sys.dont_write_bytecode = True
        else:
            assert option in IGNORED, option
    folders = [] if isolated else os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = filter(None, folders)
    if any(folders):
        sys.modules.pop("sitecustomize", None)
        with suppress(ModuleNotFoundError):
            import sitecustomize  # noqa: F401
    script, *rest = arguments
    if script == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    if script == "-c":
        code, sys.argv = rest[0], ["-c", *rest[1:]]
    else:
        code, sys.argv = Path(script).read_text("utf-8"), [script, *rest]
        first = os.path.dirname(os.path.abspath(script))
    if not isolated:
        sys.path.insert(0, first)
    main = types.ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    exec(compile(code, script, "exec"), vars(main))


class ImportedTorch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives torch and its submodules back at the script's first import of any."""

    def __init__(self, modules: dict[str, types.ModuleType]) -> None:
        self.modules = modules
        self.spec = modules["torch"].__spec__

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = copy.copy(self.spec)
        assert spec is not None
        spec.loader = self
        return spec

    def create_module(self, spec: Any) -> types.ModuleType:
        return self.modules["torch"]

    def exec_module(self, module: types.ModuleType) -> None:
        sys.modules.update(self.modules)
        module.__spec__ = self.spec


def hide_torch() -> None:
    modules = {
        name: module for name, module in sys.modules.items() if name.split(".")[0] == "torch"
    }
    for name in modules:
        del sys.modules[name]
    if modules:
        sys.meta_path.insert(0, ImportedTorch(modules))


if __name__ == "__main__":
    serve(sys.argv[1], trains=sys.argv[2:] == ["trains"])
