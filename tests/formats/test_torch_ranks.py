"""Files of several ranks: put together as torch does, or refused with the reason."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ptinspect
from tests.cli.running import run
from tests.conftest import FIXTURES
from tests.torch_child import run_python, torch_python

ODD = Path(__file__).with_name("ranks_odd_child.py")
LESSON = FIXTURES / "others/ranks"
TRUTH = json.loads((LESSON / "truth.json").read_text())
NAMES = ["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(LESSON, tmp_path / "ck")
    return tmp_path / "ck"


def change(path: Path, edit: Callable[[str, bytes], bytes]) -> None:
    """Write a zip again with other records."""
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in records.items():
            target.writestr(name, edit(name.partition("/")[2], data))


@pytest.mark.parametrize("name", ["", *NAMES])
def test_the_folder_and_each_file_are_one_document(name: str) -> None:
    import hashlib

    with ptinspect.open(LESSON / name) as document:
        assert document.archive.format == "torch-ranks"
        assert {".".join(map(str, info.path)) for info in document.tensors.values()} == set(TRUTH)
        for info in document.tensors.values():
            truth = TRUTH[".".join(map(str, info.path))]
            assert list(info.shape) == truth["shape"] and info.dtype.name == truth["dtype"]  # type: ignore[union-attr]
            assert hashlib.sha256(info.read()).hexdigest() == truth["sha256"], info.path
        (weight,) = (i for i in document.tensors.values() if i.path[-1] == "weight")
        assert weight.role == "parameter"


def test_a_file_in_the_current_folder_is_named_without_a_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    shown = json.loads(run("show", "-f", "json", NAMES[1]).stdout)
    assert shown["set"]["files"] == NAMES


@pytest.mark.parametrize("name", ["ckpt-rank{:02}-of-2.pt", "lora_rank8_rank{}_step_300.pt"])
def test_other_numbers_may_follow_the_rank(name: str, folder: Path) -> None:
    for rank in range(2):
        (folder / NAMES[rank]).rename(folder / name.format(rank))
    with ptinspect.open(folder / name.format(1)) as document:
        assert document.archive.facts["set"]["files"] == [name.format(0), name.format(1)]  # type: ignore[index]
        (rows,) = (info for info in document.tensors.values() if info.path[-1] == "rows")
        assert rows.shape == (5, 3)


def test_show_lists_the_pieces_and_convert_writes_the_whole(tmp_path: Path) -> None:
    shown = json.loads(run("show", "-f", "json", LESSON).stdout)
    assert shown["set"] == {"ranks": 2, "files": NAMES, "missing": []}
    pieces = {tensor["path"][-1]: tensor.get("pieces") for tensor in shown["tensors"]}
    assert pieces["rows"] == [
        {"file": NAMES[0], "offsets": [0, 0], "shape": [3, 3]},
        {"file": NAMES[1], "offsets": [3, 0], "shape": [2, 3]},
    ]
    result = run("convert", LESSON, tmp_path / "out.pt", "--to", "same")
    assert result.exit_code == 0, result.stderr
    assert ptinspect.diff(LESSON, tmp_path / "out.pt").same
    with ptinspect.open(tmp_path / "out.pt") as document:
        assert {entry.path[-1]: entry.value for entry in document.entries}["name"] == "가"


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_rank_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    result = run("show", folder)
    assert result.exit_code == 0 and f"files are missing: {name}" in result.stdout
    result = run("convert", folder, folder / "out.pt", "--to", "same")
    assert result.exit_code == 2 and name in result.stderr
    assert not (folder / "out.pt").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("model_world_size_2_rank_01.pt", "two files are of rank 1"),
     ("model_world_size_2_rank_2.pt", "rank 2 is beyond 2 ranks")],
)  # fmt: skip
def test_file_names_that_contradict_each_other_are_an_error(
    name: str, words: str, folder: Path
) -> None:
    shutil.copy(folder / NAMES[1], folder / name)
    result = run("show", folder)
    assert result.exit_code == 2 and words in result.stderr


def test_of_two_worlds_in_one_folder_none_is_chosen(folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        shutil.copy(folder / name, folder / name.replace("size_2", "size_3"))
    assert run("show", folder).stdout.count("model_world_size_2_rank_0.pt") > 0
    result = run("convert", folder, tmp_path / "out.pt", "--to", "same")
    assert result.exit_code == 2 and "name the file in it that is meant" in result.stderr
    with ptinspect.open(folder / NAMES[0]) as document:
        assert document.archive.format == "torch-ranks"


def test_recover_takes_the_file_of_one_rank_and_says_what_its_pieces_are(
    folder: Path, tmp_path: Path
) -> None:
    result = run("recover", folder, tmp_path / "out.pt")
    assert result.exit_code == 2 and "a folder, and recover takes one file" in result.stderr
    result = run("recover", folder / NAMES[0], tmp_path / "out.pt")
    assert result.exit_code == 1 and "lost: model.rows, model." in result.stdout
    assert (
        "a rank's piece of a tensor; `ptinspect convert` puts the files of all ranks together"
        in result.stdout
    )


def test_copies_that_differ_are_an_error(folder: Path) -> None:
    with ptinspect.open(LESSON / NAMES[1]) as document:
        (same,) = (info for info in document.tensors.values() if info.path[-1] == "same")
        value = same.read()
    change(folder / NAMES[1], lambda name, data: bytes(24) if data == value else data)
    result = run("convert", folder, folder / "out.pt", "--to", "same")
    assert result.exit_code == 2 and "'model.same' should be the same in" in result.stderr
    assert not (folder / "out.pt").exists()


def test_strides_that_do_not_fit_the_shape_are_damage(folder: Path) -> None:
    change(folder / NAMES[1], lambda _, data: data.replace(b"K\x03K\x01\x86", b"K\x03\x85"))
    result = run("show", folder)
    assert result.exit_code == 2
    assert f"{NAMES[1]}: 'model.rows' has 2 dimensions and 1 strides" in result.stderr


def test_padding_is_left_out_and_named(folder: Path) -> None:
    with ptinspect.open(LESSON) as document:
        (rows,) = (info for info in document.tensors.values() if info.path[-1] == "rows")
        values = rows.numpy()
    for name in NAMES:  # 4 rows on 2 ranks are 2 each, of which rank 0 has 3
        change(
            folder / name,
            lambda record, data: (
                data.replace(b"K\x05K\x03\x86", b"K\x04K\x03\x86") if record == "data.pkl" else data
            ),
        )
    with ptinspect.open(folder) as document:
        (rows,) = (info for info in document.tensors.values() if info.path[-1] == "rows")
        assert rows.shape == (4, 3)
        assert (rows.numpy() == values[[0, 1, 3, 4]]).all()
        messages = [warning.message for warning in document.warnings]
    assert any("1 rows of padding of 'model.rows'" in message for message in messages)
    result = run("convert", folder, folder / "out.pt", "--to", "same")
    assert result.exit_code == 0 and "1 rows of padding of 'model.rows'" in result.stderr


def test_what_only_another_file_has_is_part_of_the_whole(folder: Path) -> None:
    change(
        folder / NAMES[1], lambda name, data: data.replace(b"X\x04\0\0\0same", b"X\x04\0\0\0late")
    )
    with ptinspect.open(folder) as document:
        values = {info.path: info.read() for info in document.tensors.values()}
        assert not document.warnings
    assert values["model", "late"] == values["model", "same"]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo harm",)


def test_no_file_is_loaded_if_the_pickle_of_one_rank_is_harmful(folder: Path) -> None:
    harm = pickle.dumps({"x": Evil()}, protocol=2)
    change(folder / NAMES[1], lambda name, data: harm if name == "data.pkl" else data)
    assert json.loads(run("show", "-f", "json", folder).stdout)["load"]["call"] is None
    assert "do not load it" in run("show", folder).stdout
    assert run("scan", folder).exit_code == 1
    assert run("convert", folder, folder / "out.pt", "--to", "same").exit_code == 2
    assert not (folder / "out.pt").exists()


def test_the_call_to_load_is_that_for_the_converted_file() -> None:
    load = json.loads(run("show", "-f", "json", LESSON).stdout)["load"]
    assert load["call"].startswith('torch.load("model.pt")  # written by: ptinspect convert ')
    assert load["weights_only"] is True


BAD: list[tuple[str, bytes, bytes, str]] = [
    ("other sizes in one file", b"K\x05K\x03\x86", b"K\x06K\x03\x86", "another shape"),
    ("unknown placement", b"Replicate\n", b"Partially\n", "is placed by Partially"),
    (
        "a cut that no tensor has",
        b"X\x03\x00\x00\x00dimq",
        b"X\x03\x00\x00\x00dinq",
        "placed by Sh",
    ),
]


@pytest.mark.parametrize(("name", "old", "new", "words"), BAD, ids=[row[0] for row in BAD])
def test_placements_that_prove_nothing_are_refused(
    name: str, old: bytes, new: bytes, words: str, folder: Path
) -> None:
    def edit(record: str, data: bytes) -> bytes:
        assert record != "data.pkl" or old in data
        return data.replace(old, new) if record == "data.pkl" else data

    change(folder / NAMES[1], edit)
    result = run("show", folder)
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "world"), [("dtensor", 3), ("sharded", 2), ("fsdp", 4)])
def test_the_files_of_real_processes_are_what_torch_gathers(
    kind: str, world: int, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    script = Path(__file__).with_name("ranks_child.py")
    processes = [
        subprocess.Popen(
            [torch_python(trains=True), script, kind, str(rank), str(world), str(tmp_path)]
        )
        for rank in range(world)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * world
    expected: dict[tuple[object, ...], Any] = {}
    stack: list[tuple[tuple[object, ...], Any]] = [((), torch.load(tmp_path / "truth.pt"))]
    while stack:
        path, value = stack.pop()
        if isinstance(value, (dict, list)):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [((*path, key), item) for key, item in pairs]
        elif torch.is_tensor(value):
            expected[path] = value
    with ptinspect.open(tmp_path / f"model_world_size_{world}_rank_0.pt") as document:
        tensors = {info.path: info for info in document.tensors.values()}
        assert tensors.keys() == expected.keys()
        if kind == "dtensor":
            (others,) = (warning for warning in document.warnings if warning.kind == "rank-values")
            assert others.message.endswith("are shown: model.process")
            assert tensors["model", "frozen"].tensor.requires_grad is False
        for path, tensor in expected.items():
            assert tensors[path].shape == tuple(tensor.shape)
            assert torch.equal(tensors[path].torch(), tensor), path


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of two ranks with sparse, quantized and nested tensors, arrays and objects."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("odd")
    done = run_python(str(ODD), str(folder), "write")
    assert done.returncode == 0, done.stderr
    return folder


def test_tensors_that_are_not_strided_are_whole_and_compared(odd: Path, tmp_path: Path) -> None:
    with ptinspect.open(odd) as document:
        assert {warning.kind for warning in document.warnings} == {"shared-storage"}
        (rows,) = (info for info in document.tensors.values() if info.path == ("in", 0))
        assert rows.shape == (4, 3)
    ptinspect.convert(odd, tmp_path / "out.pt", to="same")
    done = run_python(str(ODD), str(tmp_path), "compare")
    assert done.returncode == 0, done.stderr


def last_bit(changed: str, record: str, data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if record == changed else data


def test_copies_of_other_tensors_that_differ_are_an_error(odd: Path, tmp_path: Path) -> None:
    """A byte of each storage of the second file is changed in turn."""
    with zipfile.ZipFile(odd / NAMES[1]) as archive:
        sizes = {info.filename.partition("/")[2]: info.file_size for info in archive.infolist()}
    accepted = []
    for record in sizes:
        if not record.startswith("data/") or not sizes[record]:
            continue
        shutil.copytree(odd, tmp_path, dirs_exist_ok=True)
        change(tmp_path / NAMES[1], partial(last_bit, record))
        result = run("convert", tmp_path, tmp_path / "out.pt", "--to", "same", "--force")
        if result.exit_code == 0:
            accepted.append(sizes[record])
        else:
            assert "should be the same in" in result.stderr, (record, result.stderr)
    # the pieces of DTensors, which have no copy, and the mesh, whose shape is recorded elsewhere
    assert sorted(accepted) == [8, 8, 24, 24]


def test_plain_values_in_objects_that_differ_are_named(odd: Path, tmp_path: Path) -> None:
    shutil.copytree(odd, tmp_path, dirs_exist_ok=True)
    edits = [(b"X\x03\0\0\0two", b"X\x03\0\0\0six"), (b"\0\0\0@", b"\0\0\0A")]

    def edit(record: str, data: bytes) -> bytes:
        for old, new in edits if record == "data.pkl" else ():
            assert data.count(old) == 1
            data = data.replace(old, new)
        return data

    change(tmp_path / NAMES[1], edit)
    with ptinspect.open(tmp_path) as document:
        (warning,) = (each for each in document.warnings if each.kind == "rank-values")
    assert warning.message.endswith("are shown: array, names")


def rank_files(folder: Path, *values: object) -> Path:
    torch = pytest.importorskip("torch")
    for rank, value in enumerate(values):
        torch.save(value, folder / f"model_world_size_{len(values)}_rank_{rank}.pt")
    return folder


def test_a_list_of_models_has_the_files_of_ranks_once(tmp_path: Path) -> None:
    (tmp_path / "ranks").mkdir()
    rank_files(tmp_path / "ranks", {"a": 1}, {"a": 1})
    lines = run("show", "--brief", tmp_path).stdout.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [str(tmp_path / "ranks")]


def test_every_number_that_differs_between_ranks_is_named(tmp_path: Path) -> None:
    """Small numbers are the same objects wherever they are."""
    rank_files(tmp_path, *({"epoch": r, "same": 1, "list": [1, r], "step": r} for r in (0, 1)))
    text = "ranks have other values, those of rank 0 are shown: epoch, list.1, step"
    assert text in run("show", tmp_path).stdout
    assert text in run("convert", tmp_path, tmp_path / "out.pt", "--to", "same").stderr


def test_tensors_whose_shapes_differ_between_ranks_are_named_and_not_written(
    tmp_path: Path,
) -> None:
    torch = pytest.importorskip("torch")
    same, sparse = torch.arange(3.0), torch.eye(3).to_sparse()
    rank_files(
        tmp_path,
        {"same": same, "rows": torch.ones(2), "sparse": sparse},
        {"same": same, "rows": torch.ones(3), "sparse": torch.diag(same).to_sparse()},
    )
    with ptinspect.open(tmp_path) as document:
        (warning,) = document.warnings
        (value,) = (info for info in document.tensors.values() if info.key == "same")
        assert value.numpy().tolist() == [0.0, 1.0, 2.0]
    assert warning.message.endswith("those of rank 0 are shown: rows, sparse")
    out = tmp_path / "out.safetensors"
    result = run("convert", tmp_path, out)
    assert result.exit_code == 2 and not out.exists()
    result = run("convert", tmp_path, out, "--exclude", "sparse")
    assert result.exit_code == 2 and "_rank_1.pt: 'rows' has another shape" in result.stderr
    result = run("convert", tmp_path, out, "--exclude", "sparse", "--exclude", "rows")
    assert result.exit_code == 0, result.stderr


def test_a_tensor_that_is_empty_on_the_first_rank_only_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    rank_files(tmp_path, {"rows": torch.ones(0)}, {"rows": torch.ones(3)})
    result = run("show", tmp_path)
    assert result.exit_code == 2 and "'rows' has another shape" in result.stderr


def test_the_files_of_a_folder_are_compared_even_if_the_first_has_no_pieces(
    tmp_path: Path,
) -> None:
    torch = pytest.importorskip("torch")
    rank_files(tmp_path, {"w": torch.zeros(2)}, {"w": torch.ones(2)})
    result = run("convert", tmp_path, tmp_path / "out.pt", "--to", "same")
    assert result.exit_code == 2 and "'w' should be the same in" in result.stderr


def test_values_that_are_one_object_are_named_in_every_place(tmp_path: Path) -> None:
    """pickle writes an equal text once, and refers to it."""
    torch = pytest.importorskip("torch")
    for rank, text in enumerate(("alpha", "beta")):
        value = {"w": torch.ones(2), "a": text, "b": text, "c": text[0], "d": text[0]}
        torch.save(value, tmp_path / NAMES[rank])
    with ptinspect.open(tmp_path) as document:
        (warning,) = (each for each in document.warnings if each.kind == "rank-values")
    assert warning.message.endswith(": a, b, c, d")
