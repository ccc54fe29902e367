"""`ptinspect show`: each option, several files, folders, standard input."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest

import ptinspect
from tests.cli.running import CHECKPOINT, MODEL, STATE_DICT, cut_file, forbid_listing, process, run
from tests.conftest import FIXTURES

DEEP = FIXTURES / "modules/deep.pt"


def keys(text: str) -> list[str]:
    """The first column of a table."""
    lines = text.split("\n")
    rule = next(at for at, line in enumerate(lines) if line.startswith("---"))
    return [line.split(" ")[0] for line in lines[rule + 1 :] if line]


@pytest.mark.parametrize("format", ["summary", "table", "tree", "json", "jsonl", "markdown"])
def test_formats(format: str) -> None:
    result = run("show", "--format", format, MODEL)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Linear" in result.stdout or format == "table"
    assert result.stdout.endswith("\n")


def test_include_and_exclude() -> None:
    only = ["--include", "layers.0.*", "--include", "heads.*", "--exclude", "*.bias"]
    result = run("show", "-f", "table", DEEP, *only)
    assert keys(result.stdout) == [
        "layers.0.norm.weight", "layers.0.up.weight", "layers.0.down.weight", "heads.a.weight",
        "heads.b.weight",
    ]  # fmt: skip
    made = json.loads(run("show", "-f", "json", DEEP, *only).stdout)
    assert [tensor["key"] for tensor in made["tensors"]] == keys(result.stdout)
    assert made["totals"]["tensors"] == 35  # of the whole file


def test_a_glob_that_matches_nothing() -> None:
    said = {
        kind: run("show", "-f", kind, DEEP, "--include", "nothing") for kind in ("table", "summary")
    }
    assert all(result.exit_code == 0 for result in said.values())
    assert re.fullmatch(r"no key of \d+ tensors passes .*\n", said["table"].stdout)
    assert said["summary"].stdout.endswith(said["table"].stdout)


def test_sort() -> None:
    assert keys(run("show", "-f", "table", DEEP).stdout)[0] == "embed.weight"
    by_key = keys(run("show", "-f", "table", DEEP, "--sort", "key").stdout)
    assert by_key[:2] == ["embed.weight", "heads.a.bias"]
    by_size = keys(run("show", "-f", "table", DEEP, "--sort", "size").stdout)
    assert by_size[0] == "layers.0.up.weight"


def test_keys_are_sorted_by_their_numbers(tmp_path: Path) -> None:
    from ptinspect.display.table import natural_sort_key

    names = ["a.10", "a.9", "a", "a.b", "a.9.c"]
    assert sorted(names, key=natural_sort_key) == ["a", "a.9", "a.9.c", "a.10", "a.b"]


def test_depth() -> None:
    assert keys(run("show", "-f", "table", DEEP, "--depth", "1").stdout) == [
        "embed.*", "layers.*", "heads.*",
    ]  # fmt: skip
    assert run("show", "-f", "tree", MODEL, "--depth", "0").stdout == "CustomModel(…)\n"


def test_values() -> None:
    text = run("show", STATE_DICT, "--values").stdout
    assert "layer.weight\ntensor([[ 3.1076, -1.7026]], device='cuda:0')\n" in text
    assert "layer.bias\ntensor([0.0293], device='cuda:0')\n" in text
    whole = run("show", MODEL, "--values").stdout
    assert "layer.bias\nParameter containing:\ntensor([0.0293], device='cuda:0', req" in whole


def test_stats() -> None:
    text = run("show", "-f", "table", MODEL, "--stats").stdout
    assert text.split("\n")[0].split() == [
        "key", "role", "dtype", "shape", "device", "min", "max", "mean", "std", "zeros", "nan",
        "inf",
    ]  # fmt: skip
    assert text.split("\n")[2].split()[-7:] == [
        "-1.703", "3.108", "0.7025", "3.401", "0", "0", "0",
    ]  # fmt: skip


def test_hash(tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    result = run("show", MODEL, "--hash")
    assert f"  sha256       {digest}\n" in result.stdout
    assert result.exit_code == 0
    right = tmp_path / f"model-{digest[:8]}.pth"
    shutil.copy(MODEL, right)
    result = run("show", right, "--hash")
    assert f"{digest}, as the name says ({digest[:8]})" in result.stdout
    assert result.exit_code == 0
    wrong = right.rename(tmp_path / "model-ffffffff.pth")
    result = run("show", wrong, "--hash", "-f", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["file"]["name_hash_matches"] is False


def test_missing_bytes_are_an_error_not_a_number(tmp_path: Path) -> None:
    """What must be read to answer and is not there: exit 2, nothing that looks like an answer."""
    source = (FIXTURES / "containers/state_dict-legacy.pt").read_bytes()
    path = tmp_path / "short.pt"
    path.write_bytes(source[:-3])
    for option in ("--values", "--stats", "--hash"):
        result = run("show", path, option)
        assert (result.exit_code, result.stdout) == (2, "")


# --- several files, folders, standard input -----------------------------------------------


def test_several_files_are_each_answered(tmp_path: Path) -> None:
    cut = cut_file(tmp_path)
    result = run("show", "-f", "tree", MODEL, cut, CHECKPOINT)
    assert result.exit_code == 2
    assert result.stdout.startswith("CustomModel(")
    assert "\n\ndict of 6\n" in result.stdout
    assert result.stderr.startswith(f"ptinspect: {cut}: ")


def test_json_is_a_list_exactly_when_several_are_asked_for(tmp_path: Path) -> None:
    assert isinstance(json.loads(run("show", "-f", "json", MODEL).stdout), dict)
    assert isinstance(json.loads(run("show", "-f", "json", MODEL, MODEL).stdout), list)
    (tmp_path / "folder").mkdir()
    shutil.copy(MODEL, tmp_path / "folder")
    made = json.loads(run("show", "-f", "json", tmp_path / "folder").stdout)
    assert [one["content"]["kind"] for one in made] == ["module"]


def test_json_errors_stand_in_their_place(tmp_path: Path) -> None:
    cut = cut_file(tmp_path)
    result = run("show", "-f", "json", MODEL, cut, STATE_DICT)
    first, second, third = json.loads(result.stdout)
    assert (first["content"]["kind"], third["content"]["kind"]) == ("module", "state_dict")
    assert second["file"] == {"path": str(cut)}
    assert second["error"]["kind"] == "damaged"
    assert result.exit_code == 2
    alone = json.loads(run("show", "-f", "json", cut).stdout)
    assert alone == second


def test_json_lines_are_the_objects_of_json(tmp_path: Path) -> None:
    strange = tmp_path / "a.pt"
    strange.write_bytes(pickle.dumps({"line\nfeed": "a\r\u2028\n", "n": [1.5, {"x": "\n"}]}))
    for paths in ([MODEL], [strange], [strange, cut_file(tmp_path), CHECKPOINT]):
        lines = run("show", "-f", "jsonl", *paths).stdout
        assert lines.endswith("\n")
        objects = json.loads(run("show", "-f", "json", *paths).stdout)
        expected = objects if len(paths) > 1 else [objects]
        assert [json.loads(line) for line in lines.split("\n")[:-1]] == expected


def test_brief_is_a_line_per_file(tmp_path: Path) -> None:
    evil, empty = tmp_path / "evil.pkl", tmp_path / "empty.pkl"
    evil.write_bytes(b"cos\nsystem\n(S'x'\ntR.")
    empty.write_bytes(pickle.dumps({}))
    result = run("show", "--brief", MODEL, CHECKPOINT, evil, empty, cut_file(tmp_path))
    first, second, *others = result.stdout.splitlines()
    assert first == (
        f"{MODEL}  2.7 kB, torch-zip, full model of class __main__.CustomModel,"
        " 2 parameters, 3 elements, 12 bytes, float32, cuda:0"
    )
    assert second.startswith(f"{CHECKPOINT}  2.6 kB, torch-zip, checkpoint, 3 tensors, 4 elements")
    assert others == [
        f"{evil}  20 bytes, pickle, no tensors, an object of class os.system  DANGEROUS",
        f"{empty}  5 bytes, pickle, no tensors, a dict",
    ]
    assert result.exit_code == 2
    assert "the zip is truncated" in result.stderr


def make_folder(root: Path) -> Path:
    folder = root / "models"
    (folder / "deep" / "er").mkdir(parents=True)
    shutil.copy(MODEL, folder / "b.weights")
    shutil.copy(STATE_DICT, folder / "deep" / "er" / "no_suffix")
    (folder / "a.pkl").write_bytes(pickle.dumps({"x": 1}))
    (folder / "README.md").write_text("# hello")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (folder / "empty").write_bytes(b"")
    return folder


def test_a_folder_is_walked_by_content(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    result = run("show", "-f", "json", folder)
    found = [Path(one["file"]["path"]).name for one in json.loads(result.stdout)]
    assert found == ["a.pkl", "b.weights", "no_suffix"]
    assert result.exit_code == 0
    assert result.stderr == f"ptinspect: {folder}: 3 shown, 3 other files skipped\n"


def test_a_damaged_file_in_a_folder_is_an_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    cut_file(folder)
    result = run("show", folder)
    assert result.exit_code == 2
    assert f"ptinspect: {folder / 'cut.pth'}: " in result.stderr
    assert str(folder / "b.weights") in result.stdout


def test_a_web_page_called_model_is_not_passed_over(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "model.pth").write_text("<!DOCTYPE html><title>404</title>")
    result = run("show", folder)
    assert result.exit_code == 2
    assert f"ptinspect: {folder / 'model.pth'}: it is a web page" in result.stderr


def test_a_folder_without_models(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    result = run("show", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the folder has no file that ptinspect reads" in result.stderr
    assert run("show", "-f", "json", tmp_path).stdout == "[]\n"


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    try:
        (folder / "loop").symlink_to(folder, target_is_directory=True)
        (folder / "gone").symlink_to(tmp_path / "nowhere")
        (folder / "linked.pt").symlink_to(MODEL)
    except OSError:
        pytest.skip("this file system has no links")
    found = json.loads(run("show", "-f", "json", folder).stdout)
    assert len(found) == 4


def test_what_is_not_shown_is_counted(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / ".git").mkdir()
    (folder / "link").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    assert run("show", "-f", "tree", folder).stderr == (
        f"ptinspect: {folder}: 3 shown, 1 broken link, 1 link to a folder, 3 other files, "
        "1 version control folder skipped\n"
    )


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path)
    forbid_listing(monkeypatch, folder / "deep")
    result = run("show", folder)
    assert result.exit_code == 2
    assert f"ptinspect: {folder / 'deep'}: the folder cannot be listed: Permission denied" in (
        result.stderr
    )


def test_a_file_given_itself_must_be_readable(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# hello")
    result = run("show", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "it is a text" in result.stderr


def test_standard_input() -> None:
    result = run("show", "-f", "json", "-", stdin=MODEL.read_bytes())
    made = json.loads(result.stdout)
    assert made["file"]["path"] == "-"
    assert made["content"]["class"] == "__main__.CustomModel"
    done = process("show", "-f", "tree", "-", stdin=MODEL.read_bytes())
    assert done.stdout.startswith(b"CustomModel(")


def test_a_name_of_any_kind(tmp_path: Path) -> None:
    for name in ("이름 with space.pt", "a\tb.pt", "-f.pt"):
        path = tmp_path / name
        try:
            shutil.copy(MODEL, path)
        except OSError:
            continue
        result = run("show", path)
        assert result.exit_code == 0
        assert "\t" not in result.stdout


def test_memory_of_a_folder_is_that_of_one_file(tmp_path: Path) -> None:
    """The documents of earlier files are let go."""
    import gc

    from ptinspect.document import Document

    for number in range(4):
        shutil.copy(MODEL, tmp_path / f"{number}.pth")
    before = sum(type(one) is Document for one in gc.get_objects())
    gc.disable()
    try:
        run("show", tmp_path)
        after = sum(type(one) is Document for one in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before + 1


def test_safetensors_are_shown_with_the_call_that_reads_them(tmp_path: Path) -> None:
    header = json.dumps(
        {"a.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {}}
    ).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    text = run("show", path, "--values").stdout
    assert f'load      import safetensors.torch; safetensors.torch.load_file("{path}")' in text
    assert "a.weight\ntensor([0., 0.])\n" in text
    made = json.loads(run("show", "-f", "json", path).stdout)
    assert (made["file"]["format"], made["file"]["pickle_protocol"]) == ("safetensors", None)


def test_textconv_is_the_same_for_the_same_contents(tmp_path: Path) -> None:
    """git calls it with a temporary path; a change of weights alone must show."""
    copy = tmp_path / "git-blob-1234.pt"
    copy.write_bytes(MODEL.read_bytes())
    first, second = run("show", "--textconv", MODEL), run("show", "--textconv", copy)
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout
    assert str(MODEL) not in first.stdout and "torch.load" not in first.stdout
    with ptinspect.open(MODEL) as document:
        tensor = document.tensors["layer.weight"].tensor
        assert tensor.storage is not None and tensor.storage.file_offset is not None
        offset = tensor.storage.file_offset
    data = bytearray(MODEL.read_bytes())
    data[offset] ^= 1
    copy.write_bytes(data)
    changed = run("show", "--textconv", copy).stdout
    assert changed != first.stdout
    assert [a == b for a, b in zip(changed.split(), first.stdout.split(), strict=True)].count(
        False
    ) == 1
