"""Load a file with its stub, in a process that has neither ptinspect nor the classes.

This module is imported by its path, by a command line that leaves `__main__` empty, and imports
nothing of ptinspect. It writes one JSON object to standard output: for each step None, or why it
failed.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import Any

Results = dict[str, str | None]


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a package prints must not end up in the answer
    warnings.simplefilter("ignore")
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    for name in ("sys", "load_with_stub"):  # a class in the file may have the same name
        vars(sys.modules["__main__"]).pop(name, None)
    sys.path[0] = job["folder"]
    results: Results = {}
    torch_failures: Results = {}
    check(job, results, torch_failures)
    failures = {step: error for step, error in torch_failures.items() if error}
    json.dump({"results": results, "torch_failures": failures}, channel)
    channel.close()


def check(job: dict[str, Any], results: Results, torch_failures: Results) -> None:
    """Load the file in each way, build the model, print it and load its state_dict strictly."""
    import torch

    stub = attempt(results, "import", lambda: importlib.import_module("model_def"))
    if stub is None:
        return
    if job["needs_process_group"]:
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    model_path = job["model_path"]
    loaded = attempt(results, "load", lambda: value_at(load_file(job), model_path))
    if job["try_weights_only"] and job["format"] not in ("pickle", "safetensors"):
        with torch.serialization.safe_globals(stub.SAFE_GLOBALS):
            safe = attempt(
                results, "weights_only", lambda: value_at(load_file(job, True), model_path)
            )
        loaded = safe if loaded is None else loaded
    if model_path is None or loaded is None:
        return
    built = attempt(results, "build", stub.build)
    if built is None:
        return
    if not isinstance(loaded, torch.nn.Module):
        attempt(results, "strict", lambda: load_strictly(built, loaded))
        return
    # str of a GraphModule shows its source too, which only a stub with the source has.
    show = str if job["recovered_source"] else repr
    text = attempt(torch_failures, "print", lambda: show(loaded))
    tree = job["tree"] if job["recovered_source"] else None
    attempt(results, "print", lambda: check_same_text(show(built), text, tree))
    state = attempt(torch_failures, "strict", loaded.state_dict)
    if state is not None:
        attempt(results, "strict", lambda: load_strictly(built, state))


def load_strictly(model: Any, state: Any) -> None:
    """Load a state_dict as `load_state_dict` does with strict=True, but in linear time.

    torch filters all keys once per module. Values that torch does not copy into a dense tensor
    (sparse, nested, meta, of a subclass, no tensor) are compared by their shapes. Quantized
    modules, which store packed weights and dtypes, take all values below their names.

    Raises:
        RuntimeError: keys or shapes differ.
    """
    import torch

    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []
    metadata = getattr(state, "_metadata", None) or {}
    not_copied: dict[str, Any] = {}
    for key, value in state.items():
        is_taken = torch.nn.parameter.is_lazy(value) or isinstance(value, torch.ScriptObject)
        if is_taken or key.endswith("_extra_state"):  # torch takes them as they are
            continue
        plain = type(value) in (torch.Tensor, torch.nn.Parameter)
        if not plain or value.layout != torch.strided or value.is_meta or value.is_nested:
            not_copied[key] = value
    own = dict(model.named_parameters(remove_duplicate=False)) if not_copied else {}
    own |= dict(model.named_buffers(remove_duplicate=False)) if not_copied else {}
    for key, value in not_copied.items():
        if not isinstance(value, torch.Tensor):
            continue
        if key not in own:
            unexpected.append(key)
        elif not value.is_nested and own[key].shape != value.shape:
            errors.append(f"size mismatch for {key}")
    stack: list[tuple[str, Any, dict[str, Any]]] = [("", model, dict(state))]
    while stack:
        prefix, module, values = stack.pop()
        taken = values
        if not type(module).__module__.startswith("torch.ao."):
            taken = {key: value for key, value in values.items() if key not in not_copied}
        module._load_from_state_dict(
            taken, prefix, metadata.get(prefix[:-1], {}), True, missing, unexpected, errors
        )
        below: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            name, dot, _ = key[len(prefix) :].partition(".")
            if dot:
                below.setdefault(name, {})[key] = value
        for name, child in module._modules.items():
            if child is not None:
                stack.append((f"{prefix}{name}.", child, below.get(name, {})))
    absent = [key for key in missing if key not in not_copied]
    errors += [f"missing key {key}" for key in absent] + [
        f"unexpected key {key}" for key in unexpected
    ]
    if errors:
        raise RuntimeError("; ".join(errors))


def load_file(job: dict[str, Any], weights_only: bool = False) -> Any:
    import torch

    if job["format"] == "pickle":
        with open(job["path"], "rb") as file:
            return pickle.load(file, encoding=job["encoding"])  # scan did not call it dangerous
    if job["format"] == "safetensors":
        from safetensors.torch import load_file as load_safetensors

        return load_safetensors(job["path"])
    return torch.load(
        job["path"], map_location="cpu", weights_only=weights_only, encoding=job["encoding"]
    )


def value_at(value: Any, path: list[Any] | None) -> Any:
    """Return the value at a path of keys and attributes; True instead of None."""
    for key in path or ():
        call = isinstance(key, str) and key.startswith("args[") and key[5:-1].isdigit()
        if call and hasattr(value, "__self__"):  # torch.save(model.state_dict)
            value = value.__self__
            continue
        if call and hasattr(value, "args"):  # what a stub's function returns
            value = value.args[int(key[5:-1])]
            continue
        if not isinstance(value, dict | list | tuple) and not hasattr(value, str(key)):
            value = value.state  # what the stub's __setstate__ has kept
        is_container = isinstance(value, dict | list | tuple)
        value = value[key] if is_container else getattr(value, str(key))
    return True if value is None else value


def check_same_text(built: str, *texts: str | None) -> bool:
    """Return True, or raise ValueError with the first line that differs."""
    for text in texts:
        if text is None or text == built:
            continue
        file_lines, stub_lines = text.splitlines(), built.splitlines()
        pairs = zip(file_lines, stub_lines, strict=False)
        index = next(
            (number for number, (in_file, in_stub) in enumerate(pairs) if in_file != in_stub),
            min(len(file_lines), len(stub_lines)),
        )
        in_file, in_stub = (
            (lines[index : index + 1] or ["nothing"])[0].strip()
            for lines in (file_lines, stub_lines)
        )
        raise ValueError(f"line {index + 1}: {in_file} in the file, {in_stub} in the stub")
    return True


def attempt(results: Results, step: str, call: Callable[[], Any]) -> Any:
    """Return the call's result, or None after recording why it failed."""
    results[step] = None
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - any failure is the answer
        results[step] = f"{type(error).__name__}: {error}"[:600]
        return None
