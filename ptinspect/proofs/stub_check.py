"""`stub --check`: the file is loaded with its stub, in a process that never saw the classes."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from ptinspect.errors import PtInspectError, UnsafeError, UnsupportedError, add_error_path

TIMEOUT = 600.0
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import load_with_stub; load_with_stub.main()"
)
_SAID = {
    "import": "import of the stub", "load": "torch.load, weights_only=False",
    "weights_only": "torch.load, weights_only=True", "build": "build()", "print": "print",
    "strict": "strict load of the state_dict",
}  # fmt: skip


_WAYS = {"pickle": "pickle.load", "safetensors": "safetensors.torch.load_file"}


class StubReport(NamedTuple):
    """tried: each thing, and None or why it failed. refused: what keeps weights_only from it.
    unable: what torch itself fails in with what it loads, and why. way: what loads it."""

    path: str
    tried: dict[str, str | None]
    refused: list[str]
    unable: dict[str, str] | None = None
    way: str | None = None

    @property
    def code(self) -> int:
        """0: all of it works. 1: something differs."""
        return 1 if any(self.tried.values()) else 0

    def text(self) -> str:
        """For people, ending in a newline."""
        from ptinspect.display.text.escape import cut, safe

        verdict = "the stub does not fit the file" if self.code else "the stub fits the file"
        lines = [f"{safe(self.path)}: {verdict}"]
        for what, failed in self.tried.items():
            name = self.way if what == "load" and self.way else _SAID[what]
            lines.append(f"  {name.ljust(31)}   {cut(failed) if failed else 'works'}")
        for what, why in (self.unable or {}).items():
            said = f"not possible: torch fails on what it loads, {why}"
            lines.append(f"  {_SAID[what].ljust(31)}   {cut(said)}")
        for why in self.refused:
            said = f"not possible: {why}"
            lines.append(f"  {_SAID['weights_only'].ljust(31)}   {cut(said)}")
        return "\n".join(lines) + "\n"


def check_stub(
    path: str,
    *,
    entry: str | None = None,
    package: bool = False,
    recovered_source: bool = True,
    guess_forward: bool = False,
    timeout: float = TIMEOUT,
) -> StubReport:
    """Tries the stub (as a package, if asked). UnsafeError for what scan calls dangerous;
    UnsupportedError for what needs no stub to be loaded, and where torch is missing.

    What torch.save did not write is loaded by what loads it: pickle.load, safetensors."""
    import tempfile

    from ptinspect.display.module_nodes import module_tree
    from ptinspect.document import open as open_document
    from ptinspect.safety.scan import scan
    from ptinspect.stubs.build import Options, Work
    from ptinspect.stubs.infer.state_dict import path_of_state_dict
    from ptinspect.stubs.write.module import stub_source
    from ptinspect.stubs.write.package import package_files

    report = scan(path)
    if report.verdict not in ("clean", "unknown"):
        raise UnsafeError(f"scan calls it {report.verdict}", path=path, hint="it is not loaded")
    options = Options(entry, None, recovered_source, guess_forward)
    with (
        open_document(path) as document,
        add_error_path(path),
        tempfile.TemporaryDirectory() as folder,
    ):
        form = document.archive.format
        if not form.startswith(("torch-zip", "torch-legacy")) and form not in _WAYS:
            several = " (the tensors lie in several files)" if form.endswith("-index") else ""
            raise UnsupportedError(f"no one function loads a {form}{several}: nothing to check")
        work = Work(document, options)
        files = {"model_def.py": stub_source(work)}
        if package:
            files = {f"model_def/{name}": text for name, text in package_files(work).items()}
        root = next((i for i in document.modules if i.module.call is work.root_call), None)
        place = root.root if root is not None else path_of_state_dict(document, entry)
        tree = "\n".join(module_tree(document, root.module)) if root is not None else None
        job = {"path": os.path.abspath(path), "model_path": None if place is None else list(place),
               "tree": tree, "refused": bool(work.safe.why), "folder": folder,
               "whole": recovered_source, "form": form}  # fmt: skip
        for name, text in {**files, "job.json": json.dumps(job)}.items():
            at = os.path.join(folder, *name.split("/"))
            os.makedirs(os.path.dirname(at), exist_ok=True)
            with open(at, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
        said = _run(os.path.join(folder, "job.json"), folder, timeout)
        why = [] if form in _WAYS else work.safe.why
        return StubReport(path, said["tried"], why, said["unable"], _WAYS.get(form))


def _run(job: str, folder: str, timeout: float) -> dict[str, dict[str, Any]]:
    """In a child process that takes nothing from this one's folder or PYTHONPATH."""
    import subprocess
    import sys

    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker")
    command = [sys.executable, "-I", "-B", "-c", _START, here, job]
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=timeout, cwd=folder,
            encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PtInspectError(f"the child process took more than {timeout:g} seconds") from None
    if done.returncode != 0:
        for package in ("torch", "safetensors"):
            if f"No module named '{package}'" in done.stderr:
                hint = f"pip install {package}"
                raise UnsupportedError(f"{package} is not installed", hint=hint)
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PtInspectError(f"the child process failed: {last}")
    made: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return made
