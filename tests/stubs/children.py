"""Loads files with their stubs, each in a process of its own that never saw the classes.

Run as a script: `children.py JOBS`, where JOBS is a JSON list of [stub, file, root,
pickled], root a path to the model in the file (a list of keys). It imports torch once and forks
for each job; standard output has one JSON object per job.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import traceback
import warnings


def main() -> None:
    import torch

    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for stub, path, root, pickled in jobs:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            said = job(torch, stub, path, root, pickled)
            with os.fdopen(writer, "w", encoding="utf-8") as out:
                json.dump(said, out)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as source:
            text = source.read()
        os.waitpid(child, 0)
        print(text or json.dumps({"import": "the process died"}), flush=True)


def job(torch, stub, path, root, pickled):
    """What happened: an error's text, or True, for each thing that was tried."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, os.path.dirname(stub))
    said = {}
    name = os.path.basename(stub)[:-3]
    made = attempt(said, "import", lambda: __import__(name))
    if made is None:
        return said
    loaded = attempt(said, "load", lambda: loading(torch, path, pickled))

    def safely():
        with torch.serialization.safe_globals(made.SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)

    attempt(said, "weights_only", safely)
    if root is None:
        return said
    model = loaded
    for key in root if loaded is not None else ():
        model = (
            model[key]
            if not hasattr(model, str(key)) or isinstance(model, dict)
            else getattr(model, str(key))
        )
    if isinstance(model, dict):
        built = attempt(said, "build", made.build)
        if built is not None:
            attempt(said, "strict", lambda: built.load_state_dict(model, strict=True))
            said["classes"] = {n: type(m).__name__ for n, m in built.named_modules()}
        return said
    if model is not None:
        said["loaded_print"] = attempt(said, "print", lambda: str(model))
    built = attempt(said, "build", made.build)
    if built is None:
        return said
    said["built_print"] = attempt(said, "print_built", lambda: str(built))
    if model is not None and hasattr(model, "state_dict"):
        state = attempt(said, "state_dict", model.state_dict)
        if state is not None:
            attempt(said, "strict", lambda: built.load_state_dict(state, strict=True))
            attempt(said, "same", lambda: same(torch, model, built))
    if model is not None:
        attempt(said, "again", lambda: torch.save(loaded, io.BytesIO()))
    return said


def loading(torch, path, pickled):
    """By torch.load; what torch.save did not write, by pickle."""
    if pickled:
        with open(path, "rb") as file:
            return pickle.load(file)
    return torch.load(path, map_location="cpu", weights_only=False)


def same(torch, model, built):
    """Modes, dtypes, frozen parameters, tied parameters, buffers left out of the state_dict."""
    ours, theirs = dict(built.named_modules()), dict(model.named_modules())
    assert list(ours) == list(theirs), "modules differ"
    for name, module in theirs.items():
        assert ours[name].training == getattr(module, "training", True), f"{name}.training"
        torchs = type(module).__module__.startswith("torch.")
        for key, value in [] if torchs else list(vars(module).items()):
            plain = isinstance(value, (int, float, str, tuple)) and not key.startswith("_")
            if plain and type(value) in (int, float, str, bool):
                assert vars(ours[name]).get(key) == value, (
                    f"{name}.{key}: {vars(ours[name]).get(key)!r}"
                )
    for kind in ("named_parameters", "named_buffers"):
        a = dict(getattr(built, kind)(remove_duplicate=False))
        b = dict(getattr(model, kind)(remove_duplicate=False))
        assert list(a) == list(b), f"{kind} differ: {sorted(set(a) ^ set(b))[:4]}"
        for key, value in b.items():
            if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
                continue
            what = (a[key].dtype, a[key].shape, a[key].requires_grad)
            assert what == (value.dtype, value.shape, value.requires_grad), f"{key}: {what}"
        groups = [groups_of(side) for side in (a, b)]
        assert groups[0] == groups[1], "ties differ"
    return True


def groups_of(tensors):
    made = {}
    for key, value in tensors.items():
        made.setdefault(id(value), []).append(key)
    return sorted(made.values())


def attempt(said, what, call):
    """The call's result; None, and why, where it failed."""
    try:
        made = call()
    except Exception as error:  # noqa: BLE001
        said[what] = f"{type(error).__name__}: {error}"[:600]
        if os.environ.get("STUB_TRACE"):
            traceback.print_exc()
        return None
    said[what] = True
    return made


if __name__ == "__main__":
    main()
