"""`stub --check`: load the file with its stub, in a process that never saw the classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ptinspect.errors import UnsafeError, UnsupportedError, add_error_path
from ptinspect.proofs.processes import TIMEOUT, failure_error, guarded_folder, timeout_error
from ptinspect.report import Report
from ptinspect.text import join_names, python_literal

if TYPE_CHECKING:
    from ptinspect.document import Document
    from ptinspect.stubs.build import StubOptions
    from ptinspect.stubs.write_module import StubContent

# Attributes that the report names.
MAX_ZEROED = 10
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import load_with_stub; load_with_stub.main()"
)
_LABELS = {
    "import": "import of the stub", "load": "torch.load, weights_only=False",
    "weights_only": "torch.load, weights_only=True", "build": "build()", "print": "print",
    "strict": "strict load of the state_dict",
}  # fmt: skip
_LOADERS = {"pickle": "pickle.load", "safetensors": "safetensors.torch.load_file"}


@dataclass(frozen=True, slots=True)
class StubReport(Report):
    """The answer of `stub --check`.

    Attributes:
        path: the file.
        results: per step of the check None, or why it failed.
        blockers: why torch.load cannot load the file with weights_only.
        torch_failures: steps that torch itself fails at with the loaded model, and why.
        loader: the function that loads the file, if it is not torch.load.
        zeroed: attributes that are zeros in what `build()` returns, instead of the file's numbers.
    """

    path: str
    results: dict[str, str | None]
    blockers: list[str]
    torch_failures: dict[str, str] = field(default_factory=dict)
    loader: str | None = None
    zeroed: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if every step works."""
        return not any(self.results.values())

    def text(self) -> str:
        from ptinspect.text import cut, safe

        rows = [
            (self.loader if step == "load" and self.loader else _LABELS[step], error or "works")
            for step, error in self.results.items()
        ]
        rows += [
            (_LABELS[step], f"not possible: torch fails with the loaded model, {error}")
            for step, error in self.torch_failures.items()
        ]
        rows += [(_LABELS["weights_only"], f"not possible: {reason}") for reason in self.blockers]
        if self.zeroed:
            rows.append((_LABELS["build"], f"zeros for {join_names(self.zeroed, MAX_ZEROED)}"))
        verdict = "the stub fits the file" if self.ok else "the stub does not fit the file"
        lines = [f"  {label.ljust(31)}   {cut(text)}" for label, text in rows]
        return "\n".join([f"{safe(self.path)}: {verdict}", *lines]) + "\n"

    def as_dict(self) -> dict[str, object]:
        verdict = "fits" if self.ok else "differs"
        return {"schema": 1, "check": "stub", "path": self.path, "verdict": verdict, **asdict(self)}


def check_stub(
    path: str,
    *,
    entry: str | None = None,
    package: bool = False,
    recovered_source: bool = True,
    guess_forward: bool = False,
    timeout: float = TIMEOUT,
) -> StubReport:
    """Load a file with its stub, then print the model and load its state_dict strictly.

    A file that torch.save did not write is loaded with pickle.load or safetensors.

    Args:
        path: the file.
        entry: path of the object that the stub is for.
        package: check the stub that is a package.
        recovered_source: use source code that the file carries.
        guess_forward: write a forward that is a guess.
        timeout: seconds that the child process may take.

    Raises:
        UnsafeError: scan calls the file dangerous or unreadable.
        UnsupportedError: no single function loads the file, or torch is not installed.
    """
    from ptinspect.document import open as open_document
    from ptinspect.safety.scan import scan
    from ptinspect.stubs.build import StubOptions, stub_content
    from ptinspect.stubs.write_module import write_module
    from ptinspect.stubs.write_package import package_files

    if (verdict := scan(path).verdict) not in ("clean", "unknown"):
        raise UnsafeError(f"scan calls the file {verdict}", path=path, hint="it was not loaded")
    with open_document(path) as document, add_error_path(path), guarded_folder() as folder:
        file_format = document.archive.format
        _require_loader(path, file_format)
        options = StubOptions(entry, None, recovered_source, guess_forward)
        content = stub_content(document, options)
        files = {"model_def.py": write_module(content)}
        if package:
            files = {f"model_def/{name}": text for name, text in package_files(content).items()}
        files["job.json"] = json.dumps(
            {**_job(document, options, content), "path": os.path.abspath(path), "folder": folder}
        )
        answer = _run(files, folder, timeout)
    return StubReport(
        path=path,
        blockers=[] if file_format in _LOADERS else content.safe_globals.blockers,
        loader=_LOADERS.get(file_format),
        zeroed=content.zeroed,
        **answer,
    )


def _require_loader(path: str, file_format: str) -> None:
    """Raise UnsupportedError if no single function loads files of this format with a stub."""
    if file_format.startswith(("torch-zip", "torch-legacy")) or file_format in _LOADERS:
        return
    hint = None
    if file_format == "torchscript":
        hint = f"torch.jit.load({python_literal(path)}) loads it"
    reason = " (its tensors are in several files)" if file_format.endswith("-index") else ""
    raise UnsupportedError(f"no single function loads {file_format}{reason}", hint=hint)


def _job(document: Document, options: StubOptions, content: StubContent) -> dict[str, Any]:
    from ptinspect.display.tree import module_tree
    from ptinspect.document.entries import select_model
    from ptinspect.safety.load_advice import NEED_PROCESS_GROUP

    built, path = select_model(document.modules, document.contents.state_dicts, options.entry)
    root = next((info for info in document.modules if info.module is built), None)
    model_path = root.root if root is not None else path
    return {
        "model_path": None if model_path is None else list(model_path),
        "tree": "\n".join(module_tree(document, root.module)) if root is not None else None,
        "try_weights_only": not content.safe_globals.blockers,
        "recovered_source": options.recorded_source,
        "format": document.archive.format,
        "needs_process_group": any(name.path in NEED_PROCESS_GROUP for name in document.globals),
        "encoding": "latin1" if content.load_call.endswith('encoding="latin1")') else "utf-8",
    }


def _run(files: dict[str, str], folder: str, timeout: float) -> Any:
    """Run worker/load_with_stub.py in a process that ignores PYTHONPATH and this folder."""
    for name, text in files.items():
        target = os.path.join(folder, *name.split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
    job = os.path.join(folder, "job.json")
    worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker")
    command = [sys.executable, "-I", "-B", "-c", _START, worker, job]
    try:
        process = subprocess.run(
            command, capture_output=True, check=False, timeout=timeout, cwd=folder,
            encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise timeout_error(timeout) from None
    if process.returncode != 0:
        raise failure_error(process.returncode, process.stderr)
    return json.loads(process.stdout)
