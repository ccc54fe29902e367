"""Every part of a file is read, and what cannot be read is never clean."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from struct import pack

import pytest

from ptinspect.limits import Limits
from ptinspect.safety.report import ScanReport
from ptinspect.safety.scan import scan
from tests.conftest import FIXTURES
from tests.safety.files import (
    BAD,
    GOOD,
    OWN,
    legacy,
    npy,
    pickled,
    put,
    scanned,
    storage,
    tarred,
    tensor,
    torch_zip,
    zipped,
)
from tests.safety.making import START, args, call, new, path, plain, text, whole

OBJECTS = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", BAD)


def names(report: ScanReport) -> set[str]:
    return {found.name for found in report.all_findings()}


PLACES = {
    "alone": BAD,
    "behind another": GOOD + BAD,
    "behind ten others": GOOD * 10 + BAD,
    "protocol 0": b"cposix\nsystem\n(S'x'\ntR.",
    "broken off": START + BAD[2:-1],
    "torch zip": torch_zip(BAD),
    "another pickle of a torch zip": torch_zip(GOOD, ("archive/extra.pkl", BAD)),
    "a storage of a torch zip that nothing refers to": torch_zip(GOOD, ("archive/data/0", BAD)),
    "a record of any name": torch_zip(GOOD, ("archive/notes.txt", BAD)),
    "deflated": zipped(("a/data.pkl", BAD), method=zipfile.ZIP_DEFLATED),
    "zip by bzip2": zipped(("a/data.pkl", BAD), method=zipfile.ZIP_BZIP2),
    "zip in zip": torch_zip(GOOD, ("archive/inner", torch_zip(BAD))),
    "npz": zipped(("a.npy", OBJECTS)),
    "npy": OBJECTS,
    "npy of a structure": npy("{'descr': [('a', '<f4'), ('b', 'O')], 'shape': ()}", BAD),
    **{
        f"npy of {told}": npy(f"{{'descr': {told}, 'fortran_order': False, 'shape': (1,)}}", BAD)
        for told in (r"'\x4f'", r"'\N{LATIN CAPITAL LETTER O}'", "'i4,O'", "'3O'", "'(1,)O'",
                     "b'O'", "['aO']", "{'names': ['a'], 'formats': ['O']}", "('O', (1,))")
    },
    "npy with a remark": npy("({'descr': '|O', 'fortran_order': False, 'shape': ()}) #{", BAD),
    "npy with a long header": npy("{'descr': 'O'," + " " * 60_000 + "}", BAD),
    "legacy": legacy(BAD),
    "legacy, in front": BAD + legacy(GOOD),
    "legacy, its keys": legacy(GOOD, keys=BAD),
    "legacy, behind the storages": legacy(
        whole(tensor("0", 1)), keys=pickled(["0"]), tail=pack("<qf", 1, 1.0) + BAD
    ),
    "tar": tarred(("a", GOOD), ("b", BAD)),
    "tar of torch": tarred(("sys_info", GOOD), ("pickle", BAD), ("tensors", pickled(0)),
                           ("storages", pickled(0) + pickled([]))),
    "tar of torch, in its tensors": tarred(("sys_info", GOOD), ("pickle", GOOD), ("tensors", BAD),
                                           ("storages", pickled(0) + pickled([]))),
    "tar of torch, among its storages": tarred(("sys_info", GOOD), ("pickle", GOOD),
                                               ("tensors", pickled(0)),
                                               ("storages", pickled(0) + BAD)),
    "tar.gz": gzip.compress(tarred(("a", BAD))),
    "gzip": gzip.compress(BAD),
    "the second of two gzips": gzip.compress(GOOD) + gzip.compress(BAD),
    "bzip2": bz2.compress(BAD),
    "xz": lzma.compress(BAD),
    "lzma": lzma.compress(BAD, lzma.FORMAT_ALONE),
    "zlib": zlib.compress(BAD),
    "joblib of old": b"ZF" + hex(len(BAD)).ljust(19).encode() + zlib.compress(BAD),
    "zip behind a pickle": GOOD + torch_zip(BAD),
    "pickle in front of a zip": BAD + torch_zip(GOOD),
    "zip behind a text": b"#!/bin/sh\nexit\n" + torch_zip(BAD),
    "zip behind an image": b"\x89PNG\r\n\x1a\n" + b"\0" * 99 + torch_zip(BAD),
    "pickle that begins as an image does": b"GIF89a123" + BAD[2:],
    "zips in a row": torch_zip(GOOD) * 2 + torch_zip(BAD),
    "zip without its directory": torch_zip(BAD)[:-80],
    "bytes of a tensor in a pickle": whole(
        call(path("torch.storage._load_from_bytes"), plain(legacy(BAD)))
    ),
    "the same in protocol 2": whole(
        call(
            path("torch.storage._load_from_bytes"),
            call(path("_codecs.encode"), plain(legacy(BAD).decode("latin1")), text("latin1")),
        )
    ),
    "TorchScript": zipped(("m/constants.pkl", GOOD), ("m/data.pkl", BAD), ("m/version", b"3\n")),
    "torch.package": zipped(("m/.data/extern_modules", b""), ("m/model/model.pkl", BAD)),
    "torch.export": zipped(("m/archive_format", b"pt2"), ("m/data/x.pt", torch_zip(BAD))),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_harm_is_found_wherever_it_lies(place: str, tmp_path: Path) -> None:
    report = scanned(tmp_path, PLACES[place])
    assert report.verdict == "dangerous", report
    assert "posix.system" in names(report)


@pytest.mark.parametrize("place", PLACES)
def test_no_cut_of_it_comes_out_clean(place: str, tmp_path: Path) -> None:
    """Unless what is left is whole and harmless: pickles in a row, or bytes nobody takes."""
    data = PLACES[place]
    for left in range(len(data) - 1, max(len(data) - 400, 0), -7):
        report = scanned(tmp_path, data[:left])
        if report.verdict == "clean" and not report.skipped:
            assert data[:left] == GOOD * (left // len(GOOD))


CLEAN = {
    "pickle": GOOD,
    "pickles in a row": GOOD * 3,
    "torch zip": torch_zip(whole(tensor("0", 2)), ("archive/data/0", pack("<2f", 1, 2))),
    "legacy": legacy(whole(tensor("0", 1)), keys=pickled(["0"]), tail=pack("<qf", 1, 1.0)),
    "tar": tarred(("a.pkl", GOOD)),
    "gzip": gzip.compress(GOOD),
    "npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", b"\0\0\0\0"),
    "npz": zipped(("a.npy", npy("{'descr': '<f4', 'shape': (1,), }", b"\0\0\0\0"))),
    "npy of fields": npy(
        "{'descr': [(('O', 'a'), '<f4', (2,)), ('b', [('c', '<M8[ns]')])], 'shape': (1L,)}",
        bytes(16),
    ),
    "safetensors": pack("<Q", 2) + b"{}",
    **{  # the length of the header begins like a pickle, with 80 02 to 80 05
        f"safetensors with a header of {n} bytes": pack("<Q", n) + b"{}".ljust(n)
        for n in (0x280, 0x380, 0x480, 0x580, 0x10280)
    },
    "tensor in a pickle": whole(
        call(
            path("torch.storage._load_from_bytes"),
            plain(legacy(whole(storage("0", 1)), keys=pickled(["0"]), tail=pack("<qf", 1, 1.0))),
        )
    ),
}


@pytest.mark.parametrize("kind", CLEAN)
def test_what_is_harmless_is_clean(kind: str, tmp_path: Path) -> None:
    report = scanned(tmp_path, CLEAN[kind])
    assert (report.verdict, report.errors, report.findings) == ("clean", (), ())
    assert not report.skipped


UNREADABLE = {
    "7z": b"7z\xbc\xaf\x27\x1c" + b"\0" * 40,
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 40,
    "zstd": b"\x28\xb5\x2f\xfd" + b"\0" * 40,
    "onnx": b"\x08\x07\x12\x07pytorch:" + b"\0" * 40,
    "keras": zipped(
        ("model.weights.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 20), ("config.json", b"{}")
    ),
    "anything": b"\xf3\x01\x02\x03" * 20,
    "cut pickle": GOOD[:-3],
    "a pickle's first bytes and zeros": b"\x80\x02" + b"\0" * 40,
    "cut safetensors": pack("<Q", 0x280) + b"{" + b" " * 0x200,
    "safetensors that is a cut pickle": pack("<Q", 0x288280)[:2] + b"(\0\0\0\0\0{}" + b" " * 90,
    "cut gzip": gzip.compress(GOOD * 40)[:-12],
    "cut zip": torch_zip(GOOD)[:-60],
    "cut npy": b"\x93NUMPY\x01\x00\xff\xff{",
    "cut legacy": legacy(whole(tensor("0", 9)), keys=pickled(["0"]), tail=pack("<qf", 9, 1.0)),
    "second pickle cut": GOOD + GOOD[:-2],
    "no bytes": b"",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_never_clean(kind: str, tmp_path: Path) -> None:
    report = scanned(tmp_path, UNREADABLE[kind], "model.pt")
    assert report.verdict == "unreadable"
    assert report.errors or any(member.errors for member in report.members)


def test_an_encrypted_record_is_unreadable(tmp_path: Path) -> None:
    data = bytearray(torch_zip(GOOD))
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    data[6] |= 1
    report = scanned(tmp_path, bytes(data))
    assert report.verdict == "unreadable"
    assert "encrypted" in report.errors[0].message


def test_a_record_of_unknown_compression_is_unreadable(tmp_path: Path) -> None:
    data = bytearray(torch_zip(BAD))
    at = data.index(b"PK\x01\x02")
    data[at + 10] = data[8] = 93
    assert scanned(tmp_path, bytes(data)).verdict == "unreadable"


# --- what readers disagree about -----------------------------------------------------------


def test_a_record_listed_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(("a/data.pkl", BAD), ("a/data.pkl", GOOD))
    report = scanned(tmp_path, data)
    assert report.verdict == "dangerous"
    assert {"zip-duplicate", "posix.system"} <= names(report)


def test_a_local_header_that_says_something_else(tmp_path: Path) -> None:
    data = torch_zip(GOOD).replace(b"archive/data.pkl", b"archive/evil.pkl", 1)
    assert "zip-local" in names(scanned(tmp_path, data))


def test_a_bad_crc(tmp_path: Path) -> None:
    data = torch_zip(GOOD)
    at = data.index(b"X\x01\x00\x00\x00a")
    report = scanned(tmp_path, data[: at + 5] + b"c" + data[at + 6 :])
    assert (report.verdict, names(report)) == ("unknown", {"zip-crc"})


def test_no_crcs_are_no_finding() -> None:
    assert scan(FIXTURES / "containers" / "crc-off.pt").verdict == "clean"


def test_a_record_that_the_directory_does_not_list(tmp_path: Path) -> None:
    hidden = zipped(("a/hidden.pkl", BAD))
    hidden = hidden[: hidden.index(b"PK\x01\x02")]
    whole_zip = zipped(("a/data.pkl", GOOD), ("a/version", b"3"))
    at = whole_zip.index(b"PK\x01\x02")
    first = whole_zip.index(b"PK\x03\x04", 4)
    data = bytearray(whole_zip[:first] + hidden + whole_zip[first:])
    directory = at + len(hidden)
    second = data.index(b"PK\x01\x02", directory + 4)
    data[second + 42 : second + 46] = pack("<I", first + len(hidden))
    data[-6:-2] = pack("<I", directory)
    report = scanned(tmp_path, bytes(data))
    assert {"zip-hidden", "posix.system"} <= names(report)


@pytest.mark.parametrize("tail", [b"more", BAD])
def test_bytes_behind_a_pickle(tail: bytes, tmp_path: Path) -> None:
    assert scanned(tmp_path, GOOD + tail).verdict != "clean"


def test_two_formats_at_once(tmp_path: Path) -> None:
    report = scanned(tmp_path, GOOD + torch_zip(GOOD))
    assert report.verdict == "unknown"
    assert "two-formats" in names(report)


def test_a_storage_larger_than_its_record(tmp_path: Path) -> None:
    """CVE-2026-24747."""
    data = torch_zip(whole(tensor("0", 1_000)), ("archive/data/0", b"\0" * 8))
    report = scanned(tmp_path, data)
    assert (report.verdict, names(report)) == ("dangerous", {"storage-size"})


def test_a_missing_storage_is_unreadable(tmp_path: Path) -> None:
    assert scanned(tmp_path, torch_zip(whole(tensor("0", 1)))).verdict == "unreadable"


def test_a_tar_with_a_member_twice(tmp_path: Path) -> None:
    assert "tar-duplicate" in names(scanned(tmp_path, tarred(("a", GOOD), ("a", GOOD))))


# --- code ----------------------------------------------------------------------------------


def test_torchscript_is_reported_and_not_judged_safe(tmp_path: Path) -> None:
    data = zipped(("m/constants.pkl", GOOD), ("m/data.pkl", GOOD), ("m/code/m.py", b"def f(): 0\n"))
    report = scanned(tmp_path, data)
    assert (report.format, report.verdict) == ("torchscript", "unknown")
    assert names(report) == {"torchscript-code"}


def test_a_program_in_a_torch_export(tmp_path: Path) -> None:
    data = zipped(("m/archive_format", b"pt2"), ("m/a.so", b"\x7fELF" + b"\0" * 60))
    assert names(scanned(tmp_path, data)) == {"program"}


def test_the_source_of_a_legacy_model_is_reported() -> None:
    report = scan(FIXTURES / "old" / "torch-1.2.0-py36" / "model.legacy.pth")
    assert report.verdict == "unknown"
    assert any("source of" in note for note in report.notes)


def test_a_pointer_inside_a_zip_is_content_that_is_missing(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    assert scanned(tmp_path, pointer).verdict == "pointer"
    for held in (torch_zip(pointer), zipped(("a.pt", pointer))):
        assert scanned(tmp_path, held).verdict == "unreadable"


def test_torchscript_code_is_no_pickle(tmp_path: Path) -> None:
    """`class M(Module):` begins like a GLOBAL."""
    code = b"class M(Module):\n  __parameters__ = [" + b'"weight", ' * 20 + b"]\n"
    data = zipped(("m/constants.pkl", GOOD), ("m/data.pkl", GOOD), ("m/code/__torch__.py", code))
    report = scanned(tmp_path, data)
    assert (report.errors, names(report)) == ((), {"torchscript-code"})


def test_pieces_outside_the_folder_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    info = path("torch.distributed.checkpoint.filesystem._StorageInfo") + b")\x81}"
    for name, verdict in (("__0_0.distcp", "clean"), ("../../x.distcp", "dangerous")):
        report = scanned(tmp_path, whole(info + text("relative_path") + text(name) + b"sb"))
        assert report.verdict == verdict


def test_a_row_of_files_of_torch_save_is_clean() -> None:
    report = scan(FIXTURES / "others" / "dcp" / "__0_0.distcp")
    assert (report.verdict, report.format) == ("clean", "torch-dcp")


def test_a_gguf_file_is_read() -> None:
    file = FIXTURES / "others" / "tiny.gguf"
    assert (scan(file).verdict, scan(file).format) == ("clean", "gguf")
    assert scan(io.BytesIO(file.read_bytes()[:-1])).verdict == "unreadable"


def test_an_image_under_a_model_s_name_is_unreadable(tmp_path: Path) -> None:
    report = scanned(tmp_path, b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "model.pt")
    assert report.verdict == "unreadable"
    assert "a PNG image" in report.errors[0].message


NUMBERS = {
    "text": b"Some words, which are numbers here. " * 9,
    "zeros": bytes(4096),
    "opcodes": b"N0" * 600,
    "a damaged zip": b"PK\x03\x04" + bytes(range(200)),
    "a damaged gzip": b"\x1f\x8b\x08\0" + bytes(range(200)),
    "a harmless pickle": GOOD + bytes(8),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(400),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_may_begin_like_a_file(kind: str, tmp_path: Path) -> None:
    data = NUMBERS[kind]
    data += bytes(-len(data) % 4)
    pickle = whole(tensor("0", len(data) // 4))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        records = (("a/data.pkl", pickle), ("a/version", b"3\n"), ("a/data/0", data))
        assert scanned(tmp_path, zipped(*records, method=method)).verdict == "clean"
    assert scanned(tmp_path, whole(plain({"state": data}))).verdict == "clean"


# --- joblib --------------------------------------------------------------------------------


def joblib_dump(behind: bytes, dtype: bytes, padding: bytes = b"\x02\0\0") -> bytes:
    wrapper = path("joblib.numpy_pickle.NumpyArrayWrapper") + b")\x81}("
    for key, value in (
        ("subclass", path("numpy.ndarray")),
        ("shape", plain((3,))),
        ("order", text("C")),
        ("dtype", dtype),
        ("allow_mmap", plain(True)),
        ("numpy_array_alignment_bytes", plain(16)),
    ):
        wrapper += text(key) + value
    return START + b"]" + wrapper + b"ub" + padding + behind


def float64() -> bytes:
    made = call(path("numpy.dtype"), text("f8"), plain(False), plain(True))
    state = (3, "<", None, None, None, -1, -1, 0)
    return made + plain(state) + b"b"


def test_joblib_s_arrays_are_leapt_over(tmp_path: Path) -> None:
    after = b"a" + call(path("posix.system"), text("x")) + b"a."
    report = scanned(tmp_path, joblib_dump(b"\xff" * 24 + after, float64()))
    assert "posix.system" in names(report)
    clean = scanned(tmp_path, joblib_dump(b"\xff" * 24 + b"a.", float64()))
    assert (clean.verdict, clean.format) == ("unknown", "joblib")
    line = f'import joblib; joblib.load("{clean.path}")  # runs what the file says'
    assert clean.steps == (line,)
    assert not clean.errors


def test_joblib_s_arrays_of_objects_are_pickles(tmp_path: Path) -> None:
    made = call(path("numpy.dtype"), text("O8"), plain(False), plain(True))
    report = scanned(tmp_path, joblib_dump(BAD + b"a.", made, padding=b""))
    assert "posix.system" in names(report)


HIDDEN = b"cposix\nsystem\n(Vecho marker\ntR"
INT8 = call(path("numpy.dtype"), text("i1"), plain(False), plain(True))
INT8 += plain((3, "|", None, None, None, -1, -1, 0)) + b"b"
NO_DTYPE = new(path("argparse.Namespace")) + b"}" + text("dtype") + INT8 + b"s"
NO_DTYPE += text("hasobject") + plain(False) + b"s" + text("itemsize") + plain(1) + b"sb"


def joblib_array(shape: object, dtype: bytes, *arguments: bytes) -> bytes:
    """The wrapper of joblib, without bytes behind it."""
    made = path("joblib.numpy_pickle.NumpyArrayWrapper")
    made = call(made, *arguments) if arguments else new(made)
    state = text("shape") + plain(shape) + b"s" + text("dtype") + dtype + b"s"
    state += text("order") + text("C") + b"s" + text("subclass") + path("numpy.ndarray") + b"s"
    return made + b"}" + (b"" if arguments else state + text("allow_mmap") + b"\x89s") + b"b"


def as_text(code: bytes) -> bytes:
    """Opcodes as the text of a value: joblib, which has skipped the five bytes before, runs it."""
    return b"X" + pack("<I", len(code)) + code


ARGUMENTS = (path("numpy.ndarray"), plain((5,)), text("C"), INT8, plain(False), plain(None))
HIDDEN_BEHIND_ARRAYS = {
    "an array inside an array of objects": (
        joblib_array((1,), call(path("numpy.dtype"), text("O8"), plain(False), plain(True)))
        + START + joblib_array((len(HIDDEN) + 2,), INT8) + b"." + HIDDEN + b"..."
    ),
    "a dtype that is not of numpy": (
        joblib_array((7,), NO_DTYPE) + b"N." + as_text(HIDDEN + b".") + b"0."
    ),
    "a shape in a list": joblib_array([6], INT8) + b"0" + as_text(HIDDEN + b".") + b".",
    "attributes from the constructor": (
        joblib_array((), b"", *ARGUMENTS) + as_text(HIDDEN + b".") + b"0."
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", HIDDEN_BEHIND_ARRAYS)
def test_what_joblib_runs_behind_an_array_is_not_skipped(how: str, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    file = put(tmp_path, START + HIDDEN_BEHIND_ARRAYS[how], "a.joblib")
    code = "import joblib, sys; joblib.load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True)
    assert "marker" in done.stdout, done.stderr
    report = scan(file, allow=["joblib.*"])
    assert report.verdict in ("dangerous", "unreadable")


def test_real_joblib(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    np = pytest.importorskip("numpy")
    for compress in (0, 3, ("gzip", 3), ("xz", 1)):
        file = tmp_path / "a.joblib"
        arrays = {"w": np.ones((3, 4)), "o": np.array([{}, np.ones(2)], dtype=object)}
        if hasattr(getattr(np, "dtypes", None), "StringDType"):
            arrays["t"] = np.array(["a"], dtype=np.dtypes.StringDType())
        joblib.dump(arrays, file, compress)
        report = scan(file)
        assert report.verdict == "unknown"
        assert not report.errors
        assert names(report) == {"joblib.numpy_pickle.NumpyArrayWrapper"}


# --- bounds --------------------------------------------------------------------------------


def test_archives_are_not_followed_without_end(tmp_path: Path) -> None:
    data = BAD
    for _ in range(12):
        data = gzip.compress(data)
    report = scanned(tmp_path, data)
    assert report.verdict == "unreadable"


def test_a_bomb_is_unreadable(tmp_path: Path) -> None:
    data = gzip.compress(b"\0" * (1 << 22))
    limits = Limits(inflated_bytes=1 << 20)
    report = scan(put(tmp_path, data), limits=limits)
    assert report.verdict == "unreadable"
    assert "unpacked" in report.errors[0].message or report.members[0].errors


def test_bytes_that_many_calls_share_are_read_once(tmp_path: Path) -> None:
    data = plain(legacy(GOOD))
    once = call(path("torch.storage._load_from_bytes"), data)
    many = START + data + b"\x940" + path("torch.storage._load_from_bytes") + b"\x94h\x00\x85R0"
    many += b"0".join([b"h\x02h\x00\x85R"] * 2_000) + b"."
    report = scanned(tmp_path, many)
    assert report.verdict == "clean", report
    assert scanned(tmp_path, whole(once)).verdict == "clean"


def test_a_deep_pickle_is_judged(tmp_path: Path) -> None:
    assert scanned(tmp_path, START + b"]" * 50_000 + b"a" * 49_999 + b".").verdict == "clean"


# --- what is passed over -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("called", "data"),
    [
        ("a.py", b"import os\nprint(os.getcwd())\n"),
        ("words", b"cat\ndog\nelephant\n"),
        ("README.md", b"(Some notes)\n"),
        ("a.json", json.dumps({"a": 1}).encode()),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40),
        ("a.so", b"\x7fELF" + b"\0" * 60),
    ],
)
def test_text_and_images_are_skipped(called: str, data: bytes, tmp_path: Path) -> None:
    report = scanned(tmp_path, data, called)
    assert report.skipped, report
    assert report.verdict == "clean"


def test_a_page_under_a_model_s_name_is_unreadable(tmp_path: Path) -> None:
    report = scanned(tmp_path, b"<!DOCTYPE html><title>404</title>", "model.pth")
    assert report.verdict == "unreadable"
    assert "web page" in report.errors[0].message


def test_an_empty_file_under_a_model_s_name_is_said_to_be_empty(tmp_path: Path) -> None:
    report = scanned(tmp_path, b"", "model.pt")
    assert report.verdict == "unreadable"
    assert "empty" in str(report.errors[0])
    assert scanned(tmp_path, b"", "__init__.txt").verdict == "clean"


def test_a_pointer(tmp_path: Path) -> None:
    oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
    text_ = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 12345\n"
    report = scanned(tmp_path, text_.encode(), "model.pth")
    assert report.verdict == "pointer"
    assert oid in report.notes[0]
    assert "12,345 bytes" in report.notes[0]
    assert "git lfs pull" in report.steps[0]


def test_a_pickle_hides_behind_no_suffix(tmp_path: Path) -> None:
    for called in ("a.txt", "a.py", "a.json", "a.jpg", "LICENSE"):
        assert scanned(tmp_path, BAD, called).verdict == "dangerous"


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    assert scan(tmp_path / "none").verdict == "unreadable"
    assert scan(tmp_path).verdict == "unreadable"


def test_file_objects_are_taken() -> None:
    assert scan(io.BytesIO(BAD)).verdict == "dangerous"
    assert scan(io.BytesIO(OWN)).verdict == "unknown"


CODE_BY_VALUE = ("graph-module", "cloudpickle", "dill")


def test_no_fixture_is_dangerous_but_those_that_hold_code() -> None:
    files = [
        f
        for f in FIXTURES.glob("**/*")
        if f.is_file() and (f.with_name(f.name + ".truth.json")).exists()
    ]
    assert len(files) > 200
    bad = [file.name for file in files if scan(file).verdict == "dangerous"]
    assert [each for each in bad if not each.startswith(CODE_BY_VALUE)] == []
    assert len(bad) >= 5


def test_args_make_a_tuple() -> None:
    assert args(plain(1)) == b"(K\x01t"
