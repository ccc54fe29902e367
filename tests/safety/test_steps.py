"""Each line that scan advises does what it says, in torch itself."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import ptinspect
from ptinspect.safety.load_advice import TRUSTED_TORCH, load_advice, pasteable
from ptinspect.safety.report import text_lines
from ptinspect.safety.scan import scan
from tests.conftest import FIXTURES
from tests.safety.corpus import benign
from tests.safety.files import BAD, scanned
from tests.torch_child import torch_python

pytest.importorskip("torch")

FILES = sorted(
    file
    for file in FIXTURES.rglob("*")
    if file.is_file() and file.suffix not in (".json", ".py", ".pyc", ".md", ".txt")
)
NOT_HERE = ("mps", "xla", "windows", "3.13")
"""Devices, and a system and a Python, that only files for them are loaded with."""

RUN = """
import contextlib, io, sys, warnings, torch
warnings.simplefilter("ignore")
for line in sys.stdin.read().splitlines():
    if "add_safe_globals" in line:
        torch.serialization.clear_safe_globals()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(line, {"torch": torch})
        print("yes")
    except Exception as error:
        print("no", type(error).__name__, str(error).replace("\\n", " ")[-400:])
"""


def outcomes(lines: list[str]) -> list[str]:
    """What becomes of each line, in one process that has imported nothing else."""
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def advised(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """The line to paste, by file: of all fixtures and of the harmless corpus; not where it says
    that it runs what the file says."""
    files = [*FILES, *benign.write(tmp_path_factory.mktemp("benign"))]
    found = {}
    for file in files:
        for step in scan(file).steps:
            is_import = step.startswith("import ") and "torch.load(" in step
            line = is_import and "# runs what" not in step
            if line and not any(word in file.name for word in NOT_HERE):
                found[file] = step
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("part", "least"), [("# as it is", 250), ("add_safe_globals", 40)])
def test_each_line_does_what_it_says(advised: dict[Path, str], part: str, least: int) -> None:
    lines = {file: line for file, line in advised.items() if part in line}
    assert len(lines) >= least
    alone = {file: line for file, line in lines.items() if "torch._dynamo" in line}
    for group in (alone, {file: line for file, line in lines.items() if file not in alone}):
        answers = outcomes(list(group.values()))
        failed = [(f.name, a) for f, a in zip(group, answers, strict=True) if a != "yes"]
        assert failed == []


def test_each_line_names_the_torch_that_it_is_for(advised: dict[Path, str]) -> None:
    assert {line.partition("  # ")[2] for line in advised.values()} == {
        f"as it is, with torch {TRUSTED_TORCH} or later", f"torch {TRUSTED_TORCH} or later",
    }  # fmt: skip
    assert TRUSTED_TORCH == "2.10"  # docs/security.md: CVE-2026-24747


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("containers/prefixed.pt", "before the zip"),
        ("containers/rezip-bzip2.pt", "compressed in a way"),
    ],
)
def test_what_torch_does_not_take_is_not_advised(name: str, why: str) -> None:
    steps = scan(FIXTURES / name).steps
    assert steps[0].startswith("weights_only cannot load it: ")
    assert why in steps[0]
    assert not any("as it is" in step for step in steps)
    lines = list(text_lines([scan(FIXTURES / name)]))
    assert f"  note: {steps[0]}" in lines
    assert not any(line.startswith("  next: weights_only") for line in lines)


def pack_again(source: Path, target: Path, name_of: Callable[[str], list[str]]) -> None:
    """Write each record of a zip under the names that `name_of` returns."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            for index, other in enumerate(name_of(name)):
                new.writestr(other, b"\0\5\x16\7\0\2\0\0" if index else old.read(name))


def test_a_zip_packed_again_is_converted_before_torch_loads_it(tmp_path: Path) -> None:
    """Without its folder, and by the Finder, which adds a second folder of attributes."""
    source = FIXTURES / "seed/model_state_dict.pt"
    flat, finder = tmp_path / "flat.pth", tmp_path / "finder.pth"
    pack_again(source, flat, lambda name: [name.partition("/")[2]])
    pack_again(source, finder, lambda name: [name, f"__MACOSX/a/._{name.rpartition('/')[2]}"])
    for file in (flat, finder):
        report = scan(file)
        command = f"ptinspect convert {file} model.pt --to same"
        assert report.verdict == "clean"
        assert "folder of the first record" in report.steps[0]
        assert report.steps[-1] == command
        line = f'torch.load("model.pt", map_location="cpu")  # written by: {command}'
        assert report.load is not None and report.load.call == line
        with ptinspect.open(file) as document:
            assert load_advice(document).call == line
        ptinspect.convert(file, tmp_path / f"{file.stem}.pt", to="same")
    load = 'torch.load({!r}, map_location="cpu")["layer.bias"]'.format
    paths = [flat, finder, tmp_path / "flat.pt", tmp_path / "finder.pt"]
    answers = outcomes([load(str(path)) for path in paths])
    assert [answer.split()[0] for answer in answers] == ["no", "no", "yes", "yes"]


@pytest.mark.parametrize("layout", ["strided", "jagged"])
def test_a_nested_tensor_in_a_legacy_file_is_converted_first(layout: str, tmp_path: Path) -> None:
    """torch calls the constructor before it has read the sizes: they are whatever is in memory."""
    torch = pytest.importorskip("torch")
    value = torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=getattr(torch, layout)
    )
    path = tmp_path / "nested.pt"
    torch.save({"w": value}, path, _use_new_zipfile_serialization=False)
    assert f"ptinspect convert {path} model.pt --to same" in scan(path).steps[-1]
    ptinspect.convert(path, tmp_path / "model.pt", to="same")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)["w"]
    assert [row.tolist() for row in loaded.unbind()] == [[1.0, 1.0], [1.0, 1.0, 1.0]]


def test_a_version_with_digits_that_int_refuses_is_none(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(FIXTURES / "seed/model_state_dict.pt") as source,
        zipfile.ZipFile(tmp_path / "model.pt", "w") as target,
    ):
        for info in source.infolist():
            is_version = info.filename.endswith("/version")
            target.writestr(info, "\u00b2".encode() if is_version else source.read(info))
    with ptinspect.open(tmp_path / "model.pt") as document:
        assert document.archive.facts["version"] == "\u00b2"
        assert load_advice(document).blockers == []
    assert scan(tmp_path / "model.pt").verdict == "clean"


def test_what_torch_needs_first_is_in_the_line(tmp_path: Path) -> None:
    """A process group, the class of what a function returns, allow_pickle, the stub."""
    import numpy

    group = f'init_method="file://{tmp_path}/group", rank=0, world_size=1'
    torch = pytest.importorskip("torch")
    save = (
        "import torch, torch.distributed as dist\n"
        f"dist.init_process_group('gloo', {group})\n"
        "model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))\n"
        f"torch.save(model, '{tmp_path}/parallel.pt')"
    )
    subprocess.run([torch_python(trains=True), "-c", save], check=True)
    states = {"old": numpy.random.RandomState(0), "new": numpy.random.default_rng(0)}
    torch.save(states, tmp_path / "generators.pt")
    numpy.save(tmp_path / "objects.npy", numpy.array([{}], dtype=object))
    pack_again(
        FIXTURES / "seed/model_state_dict.pt",
        tmp_path / "no-version.pt",
        lambda name: [] if name.endswith("/version") else [name],
    )
    lines = []
    for name in ("parallel.pt", "generators.pt", "objects.npy"):
        steps = scan(tmp_path / name).steps
        lines += [step for step in steps if step.startswith("import ")]
    assert len(lines) == 3
    assert outcomes(lines) == ["yes"] * 3
    report = scan(tmp_path / "no-version.pt")
    assert report.steps[0].endswith("a zip without the record model_state_dict/version")
    assert report.steps[-1] == f"ptinspect convert {report.path} model.pt --to same"


def test_joblib_reads_compressed_pickles_and_numpy_objects_in_an_npz(tmp_path: Path) -> None:
    """Dumps of joblib with and without arrays, in each compression, and what gzip wrote."""
    import gzip

    joblib, numpy = pytest.importorskip("joblib"), pytest.importorskip("numpy")
    value = {"layers": [2, 3], "name": "x"}
    for compress in ("zlib", "gzip", "bz2", "lzma", "xz"):
        joblib.dump(value, tmp_path / f"{compress}.joblib", compress=(compress, 3))
        joblib.dump({"w": numpy.ones(2)}, tmp_path / f"{compress}-w.joblib", compress=(compress, 3))
    (tmp_path / "by-gzip.pkl").write_bytes(gzip.compress(pickle.dumps(value)))
    for file in sorted(tmp_path.iterdir()):
        (step,) = scan(file).steps
        line = f'import joblib; joblib.load("{file}")'
        assert step == f"{line}  # runs what the file says"
        with ptinspect.open(file) as document:
            advice = load_advice(document)
            assert pasteable(advice.call, document.globals) == line
            paths = [entry.path for entry in document.entries]
        assert ("name",) in paths or file.stem.endswith("-w")
    file = tmp_path / "objects.npz"
    numpy.savez(file, x=numpy.array([value], dtype=object))
    (step,) = scan(file).steps
    assert (
        step == f'import numpy; numpy.load("{file}", allow_pickle=True)  # runs what the file says'
    )
    for path in tmp_path.glob("*.joblib"):
        loaded = joblib.load(path)
        assert loaded == value or loaded["w"].tolist() == [1.0, 1.0]
    assert outcomes([step.replace("  #", '["x"]  #')]) == ["yes"]


@pytest.mark.parametrize("name", ["others/model.safetensors", "others/pytorch_model.bin"])
def test_the_line_for_shards_runs_in_a_fresh_interpreter(name: str) -> None:
    path = FIXTURES / f"{name}.index.json"
    with ptinspect.open(path) as document:
        line = pasteable(load_advice(document).call, document.globals)
        keys = list(document.tensors)
    imports, call = line.split("; ", 1)
    script = f"{imports}\nassert sorted({call}) == {sorted(keys)}"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_bytes_before_a_zip_are_counted_and_cut(tmp_path: Path) -> None:
    whole = (FIXTURES / "seed/model_state_dict.pt").read_bytes()
    file = tmp_path / "http.pth"
    file.write_bytes(b"HTTP/1.1 200 OK\r\n\r\n" + whole)
    command = f"tail -c +20 {file} > model.pt"
    assert scan(file).steps[1:] == (command,)
    with pytest.raises(ptinspect.FormatError, match=r": 19 bytes before it$") as met:
        ptinspect.open(file)
    assert met.value.hint == command
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "model.pt").read_bytes() == whole


def test_a_clean_pickle_has_one_step(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint-10"
    file.write_bytes(pickle.dumps({"lr": 0.1}, 4))
    line = f'import pickle; pickle.load(open("{file}", "rb"))  # runs what the file says'
    assert scan(file).steps == (line,)


def test_dangerous_files_get_no_line(tmp_path: Path) -> None:
    report = scanned(tmp_path, BAD)
    assert report.load is None
    assert report.steps == ("do not load it",)


def test_what_can_act_is_never_advised(advised: dict[Path, str]) -> None:
    for step in advised.values():
        for name in ("getattr", "eval", "partial", "__main__", "_load_from_bytes"):
            assert name not in step
