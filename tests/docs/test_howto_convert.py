"""The how-tos on converting, followed: each command prints what its page says, each script runs.
`python -m tests.docs.test_howto_convert` writes into them what their commands print today."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from ptinspect.conversion import convert
from tests.conftest import FIXTURES, ROOT
from tests.docs.consoles import examples, renewed, run
from tests.torch_child import run_python

HOWTO = ROOT / "docs" / "howto"
FILES = {
    "bin-to-safetensors": {
        "pytorch_model.bin": "containers/state_dict-legacy.pt",
        "last.ckpt": "checkpoints/lightning.ckpt",
    },
    "transformers-refuses-bin": {"pytorch_model.bin": "containers/state_dict-zip.pt"},
    "strip-the-optimizer": {"checkpoint.pt": "checkpoints/resumable.pt"},
    "remove-prefixes": {"wrapped.pt": "checkpoints/wrapped-state_dict.pt"},
    "lightning-without-lightning": {"last.ckpt": "checkpoints/lightning.ckpt"},
    "what-changed": {
        "before.pt": "checkpoints/resumable.pt",
        "after.pt": "checkpoints/resumable.pt",
    },
    "recover": {"cut.pt": "checkpoints/resumable.pt"},
    "merge-fsdp-checkpoint": {"dcp": "others/dcp"},
    "torchscript-weights": {"scripted.pt": "others/torchscript.pt"},
    "gguf": {"model.gguf": "others/tiny.gguf"},
    "cuda-file-on-cpu": {"cuda.pt": "containers/cuda-zip.pt"},
    "several-files": {
        name: f"others/{name}"
        for name in (
            "pytorch_model.bin.index.json",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.bin",
        )
    },
}


def prepare(page: str, folder: Path) -> None:
    """The files that a page speaks of."""
    for name, source in FILES[page].items():
        if name == "wrapped.pt":  # no fixture was saved from a wrapped model
            convert(FIXTURES / source, folder / name, add_prefix="module._orig_mod.")
        elif name == "dcp":
            shutil.copytree(FIXTURES / source, folder / name)
        elif name == "after.pt":  # what somebody published of it
            convert(FIXTURES / source, folder / name, dtype="float16")
        elif name == "cut.pt":
            data = (FIXTURES / source).read_bytes()
            (folder / name).write_bytes(data[: len(data) * 2 // 3])
        else:
            shutil.copy(FIXTURES / source, folder / name)


@pytest.mark.parametrize("page", FILES)
def test_the_page_does_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (HOWTO / f"{page}.md").read_text("utf-8")
    prepare(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = list(examples(text))
    assert commands
    for example in commands:
        assert run(example.command) == example.said


SCRIPTED = [page for page in FILES if "```python" in (HOWTO / f"{page}.md").read_text("utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize("page", SCRIPTED)
def test_the_scripts_of_the_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    text = (HOWTO / f"{page}.md").read_text("utf-8")
    if "safetensors" in text.partition("```python")[2]:
        pytest.importorskip("safetensors")
    prepare(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    for example in examples(text):
        run(example.command)
    scripts = re.findall(r"```python\n(.*?)```", text, re.S)
    assert scripts
    for script in scripts:
        Path("script.py").write_text(script, "utf-8")
        done = run_python("script.py", path=[ROOT])
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout or "assert" in script


def test_clean_keys_are_clean(tmp_path: Path) -> None:
    import ptinspect

    prepare("remove-prefixes", tmp_path)
    convert(tmp_path / "wrapped.pt", tmp_path / "clean.pt", strip_prefix=["auto"])
    with ptinspect.open(tmp_path / "wrapped.pt") as wrapped:
        assert all(key.startswith("module._orig_mod.") for key in wrapped.tensors)
    with ptinspect.open(tmp_path / "clean.pt") as clean:
        assert list(clean.tensors)[:2] == ["conv.weight", "conv.bias"]


if __name__ == "__main__":
    for page in FILES:
        with tempfile.TemporaryDirectory() as place:
            prepare(page, Path(place))
            os.chdir(place)
            path = HOWTO / f"{page}.md"
            path.write_text(renewed(path.read_text("utf-8")), "utf-8")
