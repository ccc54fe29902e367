"""Files damaged at many points: no wrong tensor is saved, and every whole one is accounted for."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

import ptinspect  # noqa: E402
from ptinspect.errors import PtInspectError  # noqa: E402
from ptinspect.formats.zip_directory import DESCRIBED, STORED  # noqa: E402
from ptinspect.formats.zip_records import DESCRIPTOR, LOCAL, LOCAL_HEADER  # noqa: E402
from ptinspect.recovery import RecoveryReport, recover  # noqa: E402
from ptinspect.recovery.zip_file import local_candidates  # noqa: E402
from ptinspect.source.base import MemorySource  # noqa: E402
from tests.conftest import FIXTURES  # noqa: E402
from tests.tiers import rounds  # noqa: E402

SCHEMA = json.loads(files("ptinspect.recovery").joinpath("recover.schema.json").read_text("utf-8"))

State = dict[tuple[Any, ...], Any]


def checkpoint() -> dict[str, Any]:
    """A checkpoint with 36 tensors: a model, an Adam state and plain values."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(4)])
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 16)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "epoch": 3, "note": "체크포인트",
    }  # fmt: skip


def flat(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from flat(item, (*path, index))


def write_zip(path: Path) -> State:
    torch.save(checkpoint(), path)
    return dict(flat(checkpoint()))


def write_zip_without_crcs(path: Path) -> State:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        return write_zip(path)
    finally:
        torch.serialization.set_crc32_options(before)


def write_legacy(path: Path) -> State:
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=False)
    return dict(flat(checkpoint()))


def write_safetensors(path: Path) -> State:
    tensors = checkpoint()["model"]
    save_file(tensors, path)
    return {(key,): tensor for key, tensor in tensors.items()}


WRITERS: dict[str, Callable[[Path], State]] = {
    "zip": write_zip,
    "zip without CRCs": write_zip_without_crcs,
    "legacy": write_legacy,
    "safetensors": write_safetensors,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, State]]:
    folder = tmp_path_factory.mktemp("originals")
    result = {}
    for name, write in WRITERS.items():
        path = folder / name.replace(" ", "-")
        truth = write(path)
        result[name] = path.read_bytes(), truth
    return result


def load(path: Path) -> State:
    """What a bare torch.load, or safetensors, reads."""
    value = load_file(path) if path.suffix == ".safetensors" else torch.load(path)
    return dict(flat(value))


def recovered(data: bytes, folder: Path, suffix: str = ".pt") -> tuple[RecoveryReport, State]:
    """Recover damaged bytes; check the report against its schema and against the file."""
    source, target = folder / "damaged", folder / f"saved{suffix}"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    report = recover(source, target)
    jsonschema.validate(json.loads(json.dumps(report.as_dict())), SCHEMA)
    assert source.read_bytes() == data
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        {"damaged", target.name} if report.target else {"damaged"}
    )
    if report.target is None:
        assert report.exit_code == 2 and not report.ok
        return report, {}
    saved = load(target)
    listed = {tuple(t.path) for t in report.tensors if t.status != "lost"}
    assert saved.keys() == listed
    assert report.exit_code == int(bool(report.totals["lost"] or report.dropped))
    return report, saved


@pytest.mark.parametrize("container", WRITERS)
def test_an_undamaged_file_is_saved_whole(
    container: str, originals: dict[str, tuple[bytes, State]], tmp_path: Path
) -> None:
    data, truth = originals[container]
    report, saved = recovered(data, tmp_path)
    assert report.exit_code == 0 and report.ok and not report.damage
    assert saved.keys() == truth.keys()
    assert all(torch.equal(saved[path], truth[path]) for path in truth)
    status = "proved" if container == "zip" else "plausible"
    assert report.totals[status] == len(truth)
    if container != "safetensors":
        value = torch.load(tmp_path / "saved.pt")
        assert (value["epoch"], value["note"]) == (3, "체크포인트")
        parameters = [torch.zeros(16) for _ in range(8)]
        torch.optim.Adam(parameters).load_state_dict(value["optimizer"])


def damages(data: bytes, kind: str, count: int) -> Iterator[bytes]:
    random.seed(f"{kind} {len(data)}")
    for _ in range(count):
        at = random.randrange(len(data))
        if kind == "cut":
            yield data[:at]
        elif kind == "zeroed":
            length = min(random.choice((1, 16, 300, 4000)), len(data) - at)
            yield data[:at] + bytes(length) + data[at + length :]
        elif kind == "overwritten":
            length = min(random.choice((16, 300)), len(data) - at)
            yield data[:at] + random.randbytes(length) + data[at + length :]
        elif kind == "flipped":
            yield data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        elif kind == "inserted":
            yield data[:at] + b"\r" * random.randrange(1, 9) + data[at:]
        elif kind == "missing":
            yield data[:at] + data[at + random.randrange(1, 11) :]


KINDS = ("cut", "zeroed", "overwritten", "flipped", "inserted", "missing")


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_wrong_is_proved(
    kind: str, originals: dict[str, tuple[bytes, State]], tmp_path: Path
) -> None:
    """In a zip with CRCs: all that is saved is right, and what is wrong has a reason."""
    data, truth = originals["zip"]
    for damaged in damages(data, kind, rounds(40)):
        report, saved = recovered(damaged, tmp_path)
        for tensor in report.tensors:
            path = tuple(tensor.path)
            assert (tensor.reason == "") == (tensor.status == "proved")
            if tensor.status != "lost":
                assert torch.equal(saved[path], truth[path]), (tensor, report.damage)
        if report.target and damaged != data:
            whole = all(tensor.status == "proved" for tensor in report.tensors)
            assert report.damage or whole


@pytest.mark.fuzz
@pytest.mark.parametrize("container", WRITERS)
def test_every_whole_tensor_of_a_cut_file_is_saved(
    container: str, originals: dict[str, tuple[bytes, State]], tmp_path: Path
) -> None:
    """Where a tensor's bytes end is known from the undamaged file."""
    data, truth = originals[container]
    ends = {
        path: data.find(tensor.contiguous().numpy().tobytes()) + tensor.nbytes
        for path, tensor in truth.items()
        if tensor.numel() > 8  # the bytes of small ones may occur anywhere
    }
    step = len(data) // rounds(100)
    for cut in range(0, len(data), step):
        report, saved = recovered(data[:cut], tmp_path)
        for path, end in ends.items():
            if end <= cut and report.target:
                assert torch.equal(saved[path], truth[path]), (cut, path)
            elif end > cut:
                assert path not in saved
        if report.target is None and not report.tensors:
            assert report.damage[0].message.startswith("nothing can be saved: ")


@pytest.mark.fuzz
@pytest.mark.parametrize("container", ["zip without CRCs", "legacy", "safetensors"])
@pytest.mark.parametrize("kind", ["inserted", "missing"])
def test_shifted_bytes_are_not_plausible_behind_a_broken_frame(
    container: str, kind: str, originals: dict[str, tuple[bytes, State]], tmp_path: Path
) -> None:
    """Without checksums: at most the tensor that the damage itself touches may be wrong.

    (Fewer bytes are inserted or missing than the smallest storage has.)
    """
    data, truth = originals[container]
    for damaged in damages(data, kind, rounds(40)):
        report, saved = recovered(damaged, tmp_path)
        wrong = [
            path for path, tensor in saved.items()
            if path in truth and not torch.equal(tensor, truth[path])
        ]  # fmt: skip
        if container == "safetensors":
            assert not wrong or report.damage  # offsets alone cannot show where it shifted
        else:
            assert len(wrong) <= 1, (wrong, report.damage)


@pytest.mark.parametrize("name", ["checkpoint", "model", "tensors"])
def test_a_cut_tar(name: str, tmp_path: Path) -> None:
    """The tar of torch 0.1: what is saved is right, and what was whole is saved."""
    original = FIXTURES / f"old/torch-0.1-by-hand/{name}.tar.pth"
    data = original.read_bytes()
    with ptinspect.open(original) as document:
        truth = {info.path: info.read() for info in document.tensors.values()}
    source, target = tmp_path / "cut", tmp_path / "saved.pt"
    saved_counts = set()
    for cut in [*range(512, len(data), len(data) // rounds(100)), len(data)]:
        source.write_bytes(data[:cut])
        target.unlink(missing_ok=True)
        report = recover(source, target)
        whole = {path for path, raw in truth.items() if data.rfind(raw, 0, cut) >= 0}
        listed = {tuple(t.path) for t in report.tensors if t.status != "lost"}
        assert all(t.status != "proved" for t in report.tensors)
        saved_counts.add(len(listed))
        if report.target is None:
            assert report.exit_code == 2 and not listed
            continue
        assert whole <= listed | {tuple(t.path) for t in report.tensors if t.reason}
        with ptinspect.open(target) as document:
            got = {info.read() for info in document.tensors.values()}
        assert got == {truth[path] for path in listed}
    assert report.exit_code == 0 and listed == truth.keys() and not report.damage
    assert len(saved_counts) > 1


def test_headers_without_an_end_take_linear_time() -> None:
    header = LOCAL_HEADER.pack(LOCAL, DESCRIBED, STORED, 0, 0, 0, 1, 0) + b"x"
    descriptor = DESCRIPTOR + bytes(12)
    data = header * 60_000 + descriptor * 60_000
    start = time.process_time()
    found = list(local_candidates(MemorySource(data, "x")))
    assert time.process_time() - start < 10
    assert len(found) == 60_000 and found[-1].packed == 0


def test_records_that_share_their_bytes_take_linear_time(tmp_path: Path) -> None:
    """Many entries of the directory for one record, each with another length."""
    path = tmp_path / "many.pt"
    torch.save({"w": torch.zeros(1 << 18), "b": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        infos, directory = archive.infolist(), archive.start_dir
    content = path.read_bytes()
    record = next(info for info in infos if info.filename.endswith("data/0"))
    name, entries = record.filename.encode(), [content[directory : content.rindex(b"PK\5\6")]]
    for number in range(1, 20_000):
        size = record.file_size - number
        sizes = (1, size, size, len(name), 0, 0, 0, 0, 0, record.header_offset)
        entries.append(struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 6, *sizes) + name)
    listed = b"".join(entries)
    count = len(infos) + len(entries) - 1
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(listed), directory, 0)
    path.write_bytes(content[:directory] + listed + end)
    start = time.process_time()
    report = recover(path, tmp_path / "saved.pt")
    assert time.process_time() - start < 15
    assert report.totals["proved"] == 2


def test_proved_only(originals: dict[str, tuple[bytes, State]], tmp_path: Path) -> None:
    data, _ = originals["zip without CRCs"]
    (tmp_path / "a.pt").write_bytes(data)
    report = recover(tmp_path / "a.pt", tmp_path / "b.pt", proved_only=True)
    assert report.target is None and report.exit_code == 2
    assert not (tmp_path / "b.pt").exists()
    (tmp_path / "a.pt").write_bytes(originals["zip"][0])
    assert recover(tmp_path / "a.pt", tmp_path / "b.pt", proved_only=True).exit_code == 0


def test_a_full_model_is_saved_as_its_state_dict(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    torch.save(model, tmp_path / "model.pth")
    report = recover(tmp_path / "model.pth", tmp_path / "saved.pt")
    assert report.ok
    fresh = torch.nn.Linear(2, 1)
    fresh.load_state_dict(torch.load(tmp_path / "saved.pt"))
    assert torch.equal(fresh.weight, model.weight)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_tensor_that_the_state_dict_lacks_is_reported_as_lost(
    suffix: str, tmp_path: Path
) -> None:
    model = torch.nn.Linear(2, 3)
    model.statistics = torch.ones(4)
    model.tied = model.weight.detach()
    torch.save(model, tmp_path / "in.pt")
    report = recover(tmp_path / "in.pt", tmp_path / f"out{suffix}")
    assert [tensor.key for tensor in report.tensors if tensor.status == "lost"] == ["statistics"]
    assert report.exit_code == 1
    assert "saved 3 of 4 tensors (3 proved)" in report.text()
    assert "lost: statistics: not in the output" in report.text()


def test_tied_weights_and_views_are_kept(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    torch.save({"a": base, "tied": base, "column": base[:, 2]}, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[: -len(data) // 3])
    assert recover(tmp_path / "a.pt", tmp_path / "b.pt").totals["lost"] == 0
    saved = torch.load(tmp_path / "b.pt")
    assert saved["a"].data_ptr() == saved["tied"].data_ptr()
    assert torch.equal(saved["column"], base[:, 2])


def test_a_re_zipped_file(tmp_path: Path) -> None:
    """Compressed by another program, and cut in its directory."""
    torch.save(checkpoint(), tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    data = (tmp_path / "z.pt").read_bytes()
    (tmp_path / "z.pt").write_bytes(data[:-200])
    report = recover(tmp_path / "z.pt", tmp_path / "b.pt")
    truth = dict(flat(checkpoint()))
    saved = load(tmp_path / "b.pt")
    assert report.totals == {"proved": len(truth), "plausible": 0, "lost": 0}
    assert all(torch.equal(saved[path], truth[path]) for path in truth)


def holding_a_file() -> tuple[dict[str, Any], bytes]:
    """A state_dict in which one tensor is another file of torch.save with the same keys."""
    torch.manual_seed(0)
    value = {"w": torch.randn(40), "b": torch.randn(8)}
    inner = io.BytesIO()
    torch.save({key: tensor + 1 for key, tensor in value.items()}, inner)
    value["file"] = torch.frombuffer(bytearray(inner.getvalue()), dtype=torch.uint8)
    outer = io.BytesIO()
    torch.save(value, outer)
    return value, outer.getvalue()


@pytest.mark.parametrize("cut", [0, 300])
@pytest.mark.parametrize("damage", ["data.pkl", "w", "header of w"])
def test_a_zip_inside_the_file_proves_nothing(damage: str, cut: int, tmp_path: Path) -> None:
    """The header of the record that holds the inner zip is lost too, so that its records show."""
    value, whole = holding_a_file()
    data = bytearray(whole)

    def zero_header(begin: int) -> None:
        header = data.rindex(b"PK\x03\x04", 0, begin)
        data[header : header + 4] = bytes(4)

    begin = data.index(value["w"].numpy().tobytes())
    zero_header(data.index(value["file"].numpy().tobytes()))
    if damage == "w":
        data[begin] ^= 1
    else:
        zero_header(begin if damage == "header of w" else 30)
    report, saved = recovered(bytes(data[: len(data) - cut]), tmp_path)
    for tensor in report.tensors:
        if tensor.status == "proved":
            assert torch.equal(saved[tuple(tensor.path)], value[tensor.key]), report.text()
    if not cut and damage != "w":
        assert report.totals["proved"] == 3


def test_a_record_whose_name_changed_is_not_another_one(tmp_path: Path) -> None:
    """A CRC covers the bytes of a record, not its name."""
    value = {"w": torch.randn(4), "v": torch.randn(4)}
    torch.save(value, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").unlink()
    listed = data.rindex(b"data/1")
    report, saved = recovered(data[: listed + 5] + b"0" + data[listed + 6 :], tmp_path)
    for tensor in report.tensors:
        if tensor.status != "lost":
            assert torch.equal(saved[tuple(tensor.path)], value[tensor.key]), report.text()
    assert "proved" not in {t.status for t in report.tensors if t.key == "v"}


def test_an_unknown_compression_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as source,
        zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_BZIP2) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    report = recover(tmp_path / "z.pt", tmp_path / "b.pt")
    assert report.exit_code == 2
    assert "data.pkl, which describes the tensors, has unknown compression 12" in report.text()


@pytest.mark.parametrize("offsets", ["[]", "[0]", "[0, 1e999]", "{}", "null", "[8, 0]"])
def test_a_damaged_safetensors_header_is_no_crash(offsets: str, tmp_path: Path) -> None:
    header = f'{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": {offsets}}}}}'.encode()
    report, _ = recovered(len(header).to_bytes(8, "little") + header + bytes(8), tmp_path)
    assert report.damage[0].message.startswith("nothing can be saved: the header is damaged: ")


def test_safetensors_to_safetensors(
    originals: dict[str, tuple[bytes, State]], tmp_path: Path
) -> None:
    data, truth = originals["safetensors"]
    report, saved = recovered(data[: len(data) * 2 // 3], tmp_path, ".safetensors")
    assert report.exit_code == 1 and 0 < report.totals["plausible"] < len(truth)
    assert all(torch.equal(saved[path], truth[path]) for path in saved)


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    if content:
        with pytest.raises(PtInspectError, match="nothing can be recovered"):
            recover(tmp_path / "a", tmp_path / "b.pt")
    else:
        assert recover(tmp_path / "a", tmp_path / "b.pt").exit_code == 2
    assert not (tmp_path / "b.pt").exists()


def test_an_existing_target_is_kept_without_force(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_text("mine")
    with pytest.raises(PtInspectError):
        recover(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (tmp_path / "b.pt").read_text() == "mine"
    assert recover(tmp_path / "a.pt", tmp_path / "b.pt", force=True).ok


@pytest.mark.parametrize("kind", ["checkpoint", "module"])
def test_what_is_left_of_a_nested_model_as_safetensors(kind: str, tmp_path: Path) -> None:
    """The keys of the model, without those of the tensors that are lost."""
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(4)))
    source, cut = tmp_path / "in.pt", tmp_path / "cut.pt"
    value = model if kind == "module" else {"model": model.state_dict(), "epoch": 3}
    torch.save(value, source)
    data = source.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    report = recover(str(cut), str(tmp_path / "out.safetensors"))
    assert report.exit_code == 1 and 0 < report.as_dict()["totals"]["lost"] < 8
    saved = load_file(tmp_path / "out.safetensors")
    assert 0 < len(saved) < 8
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in saved.items())
