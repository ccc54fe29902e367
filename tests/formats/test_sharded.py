"""The index of a model in several files, and each way in which it and its shards disagree."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

import ptinspect
from ptinspect.errors import DamagedError, FormatError, LimitError, PtInspectError, UnsupportedError
from ptinspect.limits import Limits
from tests.cli.running import run
from tests.conftest import FIXTURES
from tests.formats.making import Stored, make_zip, torch_legacy, torch_zip
from tests.formats.shards import index_text, model, safetensors

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return model(tmp_path, {"b": b"bb", "a": b"a"}, {"c": b"ccc"})


def refused(path: Path) -> PtInspectError:
    with pytest.raises(PtInspectError) as caught:
        ptinspect.open(path)
    return caught.value


def warnings(path: Path) -> dict[str, str]:
    with ptinspect.open(path) as document:
        return {warned.kind: warned.message for warned in document.warnings}


def test_what_it_is(index: Path) -> None:
    with ptinspect.open(index) as document:
        assert (document.kind, document.archive.format) == ("state_dict", "safetensors-index")
        read = {key: info.read() for key, info in document.tensors.items()}
        assert read == {"b": b"bb", "a": b"a", "c": b"ccc"}
        assert list(read) == ["b", "a", "c"]  # the order of the shards
        sizes = [path.stat().st_size for path in index.parent.iterdir()]
        assert document.size == sum(sizes)
        assert document.totals.nbytes == document.totals.storage_nbytes == 6
        assert not document.warnings
        document.check()


def test_each_tensor_says_where_it_lies(index: Path) -> None:
    with ptinspect.open(index) as document:
        storage = document.tensors["c"].tensor.storage
        assert storage is not None and storage.file_offset is not None
        raw = (index.parent / SECOND).read_bytes()
        assert raw[storage.file_offset :] == b"ccc"
        assert storage.archive.source.path == str(index.parent / SECOND)


def test_the_map_may_stand_behind_much_metadata(index: Path) -> None:
    made = json.loads(index.read_text("utf-8"))
    made["metadata"]["note"] = "x" * 10_000
    index.write_text(json.dumps(made, sort_keys=True), "utf-8")
    with ptinspect.open(index) as document:
        assert list(document.tensors) == ["b", "a", "c"]


def test_json_that_only_speaks_of_a_map_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"about": "the \\"weight_map\\"", "k": "weight_map"}')
    assert isinstance(refused(tmp_path / "a.json"), FormatError)
    (tmp_path / "b.json").write_text('{"about": {"weight_map": {}}}')
    assert isinstance(refused(tmp_path / "b.json"), FormatError)


def test_descriptors_are_given_back(index: Path) -> None:
    listed = Path("/proc/self/fd")
    if not listed.exists():
        pytest.skip("no /proc")
    before = len(os.listdir(listed))
    ptinspect.open(index).close()
    (index.parent / SECOND).write_bytes(safetensors({"d": b""}))
    refused(index)
    assert len(os.listdir(listed)) == before


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../m.safetensors", "/etc/passwd", "a/b.safetensors", "..\\m", "C:m", "c:\\m", "..", ".", "",
     "a\0b", "\u202etxt", "m:stream"],
)  # fmt: skip
def test_names_that_are_not_beside_it(index: Path, name: str) -> None:
    index.write_text(index_text({"a": FIRST, "evil": name}), "utf-8")
    error = refused(index)
    assert isinstance(error, DamagedError)
    assert "'evil'" in error.message and "do not trust this one" in str(error.hint)
    assert error.path == str(index) and error.where is not None and error.where.offset is not None
    assert index.read_bytes()[error.where.offset :].startswith(b'"evil"')


@pytest.mark.parametrize("name", [1, None, ["a"], {"a": "b"}, True])
def test_names_that_are_no_text(index: Path, name: object) -> None:
    index.write_text(index_text({"a": name}), "utf-8")
    assert "not text" in refused(index).message


def test_a_name_that_no_file_can_have(index: Path) -> None:
    index.write_text('{"weight_map": {"a": "\\ud800.safetensors"}}')
    assert isinstance(refused(index), PtInspectError)
    index.write_text(index_text({"a": "x" * 10_000 + ".safetensors"}))
    assert "missing" in refused(index).message


def test_a_shard_may_be_a_link(index: Path, tmp_path: Path) -> None:
    """The cache of Hugging Face holds nothing but links."""
    cache = tmp_path / "blobs"
    cache.mkdir()
    try:
        for name in (FIRST, SECOND):
            shutil.move(tmp_path / name, cache / name)
            (tmp_path / name).symlink_to(cache / name)
    except OSError:
        pytest.skip("no links here")
    with ptinspect.open(index) as document:
        assert document.tensors["c"].read() == b"ccc"


# --- shards that are missing, or something else ---------------------------------------------


def test_missing_shards_are_named_at_once(index: Path) -> None:
    (index.parent / SECOND).unlink()
    error = refused(index)
    assert error.message == f"1 of its 2 shards is missing: {SECOND}"
    assert "download the missing files" in str(error.hint)
    (index.parent / FIRST).unlink()
    assert refused(index).message == f"2 of its 2 shards are missing: {FIRST}, {SECOND}"


def test_a_pointer_says_what_to_do(index: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 4911\n"
    (index.parent / SECOND).write_text(pointer)
    error = refused(index)
    assert error.path == str(index.parent / SECOND)
    assert "a Git LFS pointer to a file of 4,911 bytes" in error.message
    assert "git lfs pull" in str(error.hint)


def test_an_index_is_no_shard(index: Path) -> None:
    index.write_text(index_text({"a": index.name}), "utf-8")
    assert isinstance(refused(index), FormatError)
    other = index.with_name("other.json")
    other.write_text(index_text({"a": index.name}), "utf-8")
    assert refused(other).path == str(index)


def test_a_cut_shard_is_named(index: Path) -> None:
    path = index.parent / SECOND
    path.write_bytes(path.read_bytes()[:-1])
    error = refused(index)
    assert isinstance(error, DamagedError) and error.path == str(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_waited_for(index: Path) -> None:
    (index.parent / SECOND).unlink()
    os.mkfifo(index.parent / SECOND)
    assert "pipe" in refused(index).message


@pytest.mark.parametrize("name", ["old/torch-0.1-by-hand/model.tar.pth", "seed/model.pth"])
def test_what_never_is_a_shard(index: Path, name: str) -> None:
    shutil.copy(FIXTURES / name, index.parent / SECOND)
    assert isinstance(refused(index), UnsupportedError)


# --- index and shards disagree --------------------------------------------------------------


def test_a_tensor_that_is_not_in_its_shard(index: Path) -> None:
    index.write_text(index_text({"b": FIRST, "a": SECOND, "c": SECOND}), "utf-8")
    error = refused(index)
    assert isinstance(error, DamagedError)
    assert f"'a' is not in {SECOND}" in error.message
    assert error.message.endswith(f"it is in {FIRST}")
    index.write_text(index_text({"b": FIRST, "z": SECOND, "y": FIRST}), "utf-8")
    assert "'y' is not in" in refused(index).message
    assert "(1 more are missing)" in refused(index).message


def test_a_tensor_that_is_not_listed_is_read_and_told(index: Path) -> None:
    """Loaders load a shard whole (`load_sharded_checkpoint` of transformers)."""
    index.write_text(index_text({"b": FIRST, "c": SECOND}), "utf-8")
    with ptinspect.open(index) as document:
        assert document.tensors["a"].read() == b"a"
    assert "not in the weight_map" in warnings(index)["index-unlisted"]


def test_of_two_the_one_that_the_index_names_counts(index: Path) -> None:
    (index.parent / SECOND).write_bytes(safetensors({"c": b"ccc", "a": b"other"}))
    assert f"a in {SECOND}" in warnings(index)["index-twice"]
    with ptinspect.open(index) as document:
        assert document.tensors["a"].read() == b"a"


def test_what_only_the_metadata_names_is_in_no_index(index: Path) -> None:
    (index.parent / SECOND).write_bytes(safetensors({"c": b"ccc"}, {"tied": "c"}))
    with ptinspect.open(index) as document:
        assert document.tensors["tied"].read() == b"ccc"
    assert "index-unlisted" not in warnings(index)


@pytest.mark.parametrize(("total", "said"), [(7, True), (6, False), (6.0, False), ("x", False)])
def test_the_total_is_held_against_the_shards(tmp_path: Path, total: object, said: bool) -> None:
    found = warnings(model(tmp_path, {"b": b"bb", "a": b"a"}, {"c": b"ccc"}, total=total))
    assert ("index-size" in found) is said
    if said:
        assert (
            found["index-size"] == "the index announces 7 bytes of tensors, but the shards have 6"
        )


# --- the JSON -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"weight_map": {"a": "x", "a": "y"}}', "'a' occurs twice"),
        ('{"weight_map": {"a": "x"}, "weight_map": {"a": "y"}}', "'weight_map' occurs twice"),
        ('{"weight_map": {"a": "x"', "not valid JSON"),
        ('{"weight_map": {"a": "x"}} and more', "not valid JSON"),
        ('{"weight_map": {}}', "names no shard"),
        ('{"weight_map": ["a"]}', "names no shard"),
        ('{"weight_map": {"a": "x"}, "metadata": ' + "[" * 100_000 + "}", "not valid JSON"),
        ('{"weight_map": {"a": "x"}, "n": ' + "9" * 10_000 + "}", ""),
    ],
)
def test_json_that_is_not_taken(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert what in refused(path).message


def test_the_bounds(index: Path) -> None:
    for limits in (Limits(shards=1), Limits(index_bytes=20)):
        with pytest.raises(LimitError):
            ptinspect.open(index, limits=limits)
    with ptinspect.open(index, limits=Limits(shards=2)) as document:
        assert len(document.tensors) == 3


def test_standard_input_has_no_folder(index: Path) -> None:
    import io

    with pytest.raises(PtInspectError, match="pass its path"):
        ptinspect.open(io.BytesIO(index.read_bytes()))
    with index.open("rb") as file, ptinspect.open(file) as document:
        assert len(document.tensors) == 3


# --- shards of torch.save -------------------------------------------------------------------


def test_a_pickle_that_is_no_state_dict_is_no_shard(tmp_path: Path) -> None:
    stored = Stored("0", b"\0\0\x80?\0\0\0@")  # in a list
    (tmp_path / "a.bin").write_bytes(make_zip(torch_zip([stored])))
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(index_text({"x": "a.bin"}))
    error = refused(index)
    assert isinstance(error, UnsupportedError)
    assert "does not contain a state_dict" in error.message
    (tmp_path / "a.bin").write_bytes(torch_legacy([stored]))
    assert "does not contain a state_dict" in refused(index).message


def test_a_damaged_shard_is_named_before_its_index(tmp_path: Path) -> None:
    """Also where all shards name their records alike, and the damage is met while reading."""
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for number, name in enumerate(names):
        lesson = ((FIXTURES / "others") / name).read_bytes()
        with (
            zipfile.ZipFile(io.BytesIO(lesson)) as old,
            zipfile.ZipFile(
                tmp_path / name, "w", zipfile.ZIP_DEFLATED if number else zipfile.ZIP_STORED
            ) as new,
        ):
            for record in old.namelist():
                new.writestr(f"archive/{record.partition('/')[2]}", old.read(record))
            info = new.getinfo("archive/data/0")
        data = bytearray((tmp_path / name).read_bytes())
        start = info.header_offset + 30 + len(info.filename)
        data[start : start + info.compress_size] = b"\xff" * info.compress_size
        (tmp_path / name).write_bytes(data)
    index = tmp_path / "pytorch_model.bin.index.json"
    shutil.copy((FIXTURES / "others") / index.name, index)
    result = run("show", "--check", index)
    assert result.exit_code != 0
    text = f"ptinspect: {tmp_path / names[1]}: its compressed bytes are damaged"
    assert text in run("convert", index, tmp_path / "out.pt").stderr
    shutil.copy((FIXTURES / "others") / names[1], tmp_path)
    text = f"the bytes of archive/data/0 of {names[0]} do not match their CRC-32"
    assert text in run("show", "--check", index).stdout
    assert text in run("convert", index, tmp_path / "out.pt").stderr
    (tmp_path / names[0]).write_bytes(data[:200])
    result = run("show", index)
    assert result.stderr.startswith(f"ptinspect: {tmp_path / names[0]}: ")
    assert f"(a file of {index.name})" in result.stderr
