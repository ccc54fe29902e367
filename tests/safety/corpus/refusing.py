"""Loads the files of the corpus as their readers would, and stops each before it acts.

    python -m tests.safety.corpus.refusing MODULE…   < a list of {"data", "load", "seen", "needs"}

Each file is loaded in a process of its own, made by fork. Its audit hook waits for the event that
gives the file away: that the process would act. The hook then says so and ends the process at
once, so that nothing is done. Answers with one line of JSON per file: "" where it did not act,
"missing" where a name is not on this machine, else what it was about to do.
"""

from __future__ import annotations

import base64
import faulthandler
import gc
import importlib
import io
import json
import os
import pickle
import sys
import tempfile
from contextlib import suppress
from typing import Any

MARK = "ptinspect-marker"
SECONDS = 20


def watch(out: int, seen: str) -> None:
    """Ends the process at the first event that gives it away."""
    busy = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            if event == seen or (event != "pickle.find_class" and MARK in repr(args)):
                said = f"{event} {args!r}"[:300]
                os.write(out, said.encode("utf-8", "backslashreplace"))
                os._exit(0)
        finally:
            busy = False

    sys.addaudithook(hook)


def load(data: bytes, how: str) -> object:
    """Loads as the readers of that kind of file do."""
    file = io.BytesIO(data)
    if how == "pickle":
        return pickle.load(file)
    if how == "pickles":  # one after the other, as torch's legacy reader and many scripts do
        made = []
        while file.tell() < len(data):
            made.append(pickle.load(file))
        return made
    if how == "python":
        return pickle._Unpickler(file).load()
    if how == "torch":
        torch = importlib.import_module("torch")
        with tempfile.TemporaryFile() as real:  # of one in memory it does not ask for a tar
            real.write(data)
            real.seek(0)
            return torch.load(real, weights_only=False)
    if how == "numpy":
        made = importlib.import_module("numpy").load(file, allow_pickle=True)
        return dict(made) if hasattr(made, "files") else made
    opened = importlib.import_module(how).open(file)
    return pickle.load(opened)


def missing(error: BaseException) -> bool:
    return isinstance(error, ImportError) or "Can't get attribute" in str(error)


def one(out: int, sample: dict[str, Any]) -> None:
    """In the process of its own: does not come back."""
    said = ""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    is_event = sample["seen"] and all(part.isidentifier() for part in sample["seen"].split("."))
    try:
        for name in sample["needs"]:
            importlib.import_module(name)
    except ImportError as error:
        os.write(out, b"missing " + str(error).encode())
        os._exit(0)
    if is_event or not sample["seen"]:
        watch(out, sample["seen"])
    try:
        kept = load(base64.b64decode(sample["data"]), sample["load"])
        assert kept is not watch
    except BaseException as error:  # noqa: BLE001
        said = f"missing {error}" if missing(error) else ""
        if not said:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    if sample["seen"] and not is_event and not said:
        names = {"os": os, "sys": sys, "gc": gc}
        with suppress(Exception):
            if eval(sample["seen"], names):
                said = f"true afterwards: {sample['seen']}"
    os.write(out, said.encode("utf-8", "backslashreplace"))
    os._exit(0)


def main(modules: list[str]) -> None:
    """Imports the modules first, so that each process need not."""
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        sample = json.loads(line)
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.close(ours)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            one(theirs, sample)
        os.close(theirs)
        with os.fdopen(ours, "rb") as file:
            said = file.read().decode()
        os.waitpid(child, 0)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
