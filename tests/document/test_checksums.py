"""One flipped bit in a storage: every command that reads its bytes says so."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import ptinspect
from ptinspect.document.warnings import (
    all_checksum_warnings,
    checksum_warnings,
    require_checksums,
)
from ptinspect.errors import DamagedError, add_error_path
from tests.cli.running import MODEL, run
from tests.conftest import FIXTURES


def flipped(folder: Path, key: str = "layer.weight", source: Path = MODEL) -> Path:
    """Return a copy of a file with one bit of a tensor flipped."""
    with ptinspect.open(source) as document:
        storage = document.tensors[key].tensor.storage
        assert storage is not None and storage.file_offset is not None
        offset = storage.file_offset
    data = bytearray(source.read_bytes())
    data[offset + 1] ^= 4
    path = folder / source.name
    path.write_bytes(data)
    return path


def test_an_undamaged_file_has_no_warning() -> None:
    with ptinspect.open(MODEL) as document:
        checked, warnings = all_checksum_warnings(document.archive, document.tensors.values())
        assert checked == len(document.archive.directory) and warnings == []
        assert checksum_warnings(document.tensors.values()) == []
    result = run("show", "--check", MODEL)
    assert result.exit_code == 0 and "all match their CRC-32" in result.stdout


@pytest.mark.parametrize("option", ["--hash", "--stats", "--values", "--check"])
@pytest.mark.parametrize("output_format", ["summary", "json", "table"])
def test_show_names_record_and_tensor(option: str, output_format: str, tmp_path: Path) -> None:
    path = flipped(tmp_path)
    result = run("show", option, "-f", output_format, path)
    assert result.exit_code == (1 if option == "--check" else 0)
    message = "the bytes of model/data/0 do not match their CRC-32: layer.weight may be damaged"
    assert message in (result.stderr if output_format == "table" else result.stdout)
    if output_format == "json":
        (warning,) = [w for w in json.loads(result.stdout)["warnings"] if w["kind"] == "checksum"]
        assert warning["path"] == ["layer", "weight"]


def test_other_tensors_are_not_accused(tmp_path: Path) -> None:
    path = flipped(tmp_path)
    result = run("show", "--hash", "--include", "layer.bias", path)
    assert result.exit_code == 0 and "CRC-32" not in result.stdout


@pytest.mark.parametrize("name", ["containers/crc-off.pt", "containers/model-legacy.pt"])
def test_a_file_without_checksums_says_so(name: str) -> None:
    result = run("show", "--check", FIXTURES / name)
    assert result.exit_code == 0 and "the file records none" in result.stdout


def test_every_format_says_what_was_checked() -> None:
    file = json.loads(run("show", "--check", "-f", "json", MODEL).stdout)["file"]
    with ptinspect.open(MODEL) as document:
        assert file["checked_records"] == len(document.archive.directory)
    for output_format in ("table", "tree"):
        result = run("show", "--check", "-f", output_format, MODEL)
        words = f"{file['checked_records']} records, all match their CRC-32\n"
        assert result.stderr == f"ptinspect: {MODEL}: checksums: {words}"
    result = run("show", "--check", "-f", "table", FIXTURES / "containers/crc-off.pt")
    assert result.stderr.endswith(": checksums: the file records none\n")


def test_diff_notes_which_side_is_damaged(tmp_path: Path) -> None:
    path = flipped(tmp_path)
    report = ptinspect.diff(MODEL, path)
    assert [change.a for change in report.changed] == ["layer.weight"]
    (note,) = [note for note in report.notes if note.kind == "checksum"]
    assert note.message.startswith("B: the bytes of model/data/0 do not match their CRC-32")


@pytest.mark.parametrize("option", ["--hash", "--check"])
def test_pieces_of_a_distributed_checkpoint_are_checked(option: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FIXTURES / "others/dcp", tmp_path / "dcp"))
    with ptinspect.open(folder) as document:
        info = document.tensors["model.layer.weight"]
        storage = info.tensor.storage
        assert storage is not None
        checked, warnings = all_checksum_warnings(document.archive, [info])
        assert checked > 0 and warnings == []
        element = next(storage.chunks(0, storage.nbytes))
    pieces = folder / "__0_0.distcp"
    data = bytearray(pieces.read_bytes())
    data[data.index(element) + 1] ^= 4
    pieces.write_bytes(data)
    with (
        ptinspect.open(folder) as document,
        pytest.raises(DamagedError) as caught,
        add_error_path(document.path),
    ):
        require_checksums(document.archive, document.tensors.values())
    assert caught.value.hint == "download or copy the file again"  # recover takes no folder
    result = run("show", option, folder)
    assert result.exit_code == (1 if option == "--check" else 0)
    assert re.search(
        r"the bytes of archive/data/0 \(in the zip at [\d,]+ of __0_0\.distcp\) do not match their"
        r" CRC-32: model.layer.weight may be damaged",
        result.stdout,
    )
    for target in ("safetensors", "state_dict"):
        report = run("convert", folder, tmp_path / target, "--to", target, "-f", "json")
        words = [line for line in json.loads(report.stdout)["warnings"] if "CRC-32" in line]
        assert len(words) == 1 and words[0].endswith(": layer.weight may be damaged")
