"""Odd and hostile inputs that convert once got wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ptinspect
from ptinspect.cli import cli
from ptinspect.conversion import convert
from ptinspect.errors import PtInspectError, UnsupportedError
from tests.conftest import FIXTURES, ROOT

torch = pytest.importorskip("torch")

MODEL = FIXTURES / "seed" / "model.pth"


def saved(folder: Path, value: Any) -> Path:
    path = folder / "src.pt"
    torch.save(value, path)
    return path


def refused(source: Path, target: Path, **options: Any) -> PtInspectError:
    with pytest.raises(PtInspectError) as caught:
        convert(source, target, **options)
    assert not target.exists()
    assert not [name for name in os.listdir(target.parent) if name.endswith(".part")]
    assert ".part" not in str(caught.value)
    return caught.value


# --- keys -----------------------------------------------------------------------------------


def test_a_checkpoint_keeps_its_keys_whatever_they_are(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1).state_dict()
    value = {"model": {"w": torch.ones(1)}, "optimizer": optimizer, 1: "int", "1": "str",
             (1, 2): "pair", None: 7, 2.5: True}  # fmt: skip
    for options in ({}, {"plain": True}, {"add_prefix": "x."}):
        target = tmp_path / "o.pt"
        report = convert(saved(tmp_path, value), target, to="checkpoint", force=True, **options)  # type: ignore[arg-type]
        got = torch.load(target, weights_only=True)
        assert list(got) == list(value)
        assert (got[1], got["1"], got[1, 2], got[None]) == ("int", "str", "pair", 7)
        assert report.dropped == []


def test_a_name_that_safetensors_keeps_for_itself(tmp_path: Path) -> None:
    source = saved(tmp_path, {"__metadata__": torch.ones(1), "a": torch.ones(2)})
    error = refused(source, tmp_path / "o.safetensors")
    assert isinstance(error, UnsupportedError)
    assert "__metadata__ has a name that safetensors reserves" in error.message
    command = f"ptinspect convert {source} {tmp_path / 'o.safetensors'} --exclude='__metadata__'"
    assert error.hint == f"drop them: {command}"
    convert(source, tmp_path / "o.safetensors", rename=["^__metadata__$=metadata"])


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    source = saved(tmp_path, {"a\ud800": torch.ones(1), "b": torch.ones(1)})
    error = refused(source, tmp_path / "o.safetensors")
    assert isinstance(error, UnsupportedError)
    assert r"'a\ud800' has a name that cannot be encoded in UTF-8" in error.message
    convert(source, tmp_path / "o.pt", verify=True)


def test_names_that_are_hardly_names(tmp_path: Path) -> None:
    value = {"": torch.ones(1), ".": torch.zeros(2), "a.": torch.ones(3), "\n\x1b[": torch.ones(4)}
    for target in (tmp_path / "o.pt", tmp_path / "o.safetensors"):
        convert(saved(tmp_path, value), target, verify=True)
        with ptinspect.open(target) as document:
            assert {key: info.shape for key, info in document.tensors.items()} == {
                "": (1,), ".": (2,), "a.": (3,), "\n\x1b[": (4,),
            }  # fmt: skip


# --- bytes ----------------------------------------------------------------------------------


def test_one_number_that_stands_for_terabytes(tmp_path: Path) -> None:
    source = saved(tmp_path, {"x": torch.ones(1).expand(1 << 44)})
    for dry_run in (True, False):
        error = refused(source, tmp_path / "o.safetensors", dry_run=dry_run)
        assert "70,368,744,177,664 bytes are needed" in error.message
    for dtype in (None, "float16"):
        convert(source, tmp_path / "o.pt", dtype=dtype, verify=True, force=True)
        assert (tmp_path / "o.pt").stat().st_size < 4000
        loaded = torch.load(tmp_path / "o.pt")["x"]
        assert (loaded[-1], loaded.shape, loaded.stride()) == (1.0, (1 << 44,), (0,))


def test_views_of_every_kind_under_verify(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    value = {
        "whole": base, "steps": base[::2], "turned": base.view(3, 4).t(), "one": base[:1].expand(5),
        "window": base.unfold(0, 5, 2), "none": base[3:3], "scalar": base[7],
    }  # fmt: skip
    source = saved(tmp_path, value)
    for options in ({}, {"dtype": "bfloat16"}, {"contiguous": True}, {"device": "cuda:1"}):
        for target in (tmp_path / "o.pt", tmp_path / "o.safetensors"):
            report = convert(source, target, verify=True, force=True, **options)  # type: ignore[arg-type]
            assert report.verified
    convert(source, tmp_path / "o.pt", force=True)
    got = torch.load(tmp_path / "o.pt", weights_only=True)
    assert all(got[key].equal(each) for key, each in value.items())
    assert all(got[key].stride() == each.stride() for key, each in value.items())


def test_a_crc_that_is_not_the_one_of_the_bytes(tmp_path: Path) -> None:
    """torch looks at none: what it reads is what is written."""
    source = saved(tmp_path, {"a": torch.arange(100_000.0)})
    raw = bytearray(source.read_bytes())
    at = raw.index(torch.arange(5000.0, 5004.0).numpy().tobytes())
    raw[at] ^= 1
    source.write_bytes(bytes(raw))
    convert(source, tmp_path / "o.pt", verify=True)
    want, got = (torch.load(path, weights_only=True)["a"] for path in (source, tmp_path / "o.pt"))
    assert want.equal(got) and not want.equal(torch.arange(100_000.0))


# --- files ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="a limit of POSIX")
def test_more_shards_than_descriptors(tmp_path: Path) -> None:
    source = saved(tmp_path, {f"k{n}": torch.full((3,), float(n)) for n in range(300)})
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
    code += "from ptinspect.cli import main; main()"
    command = [sys.executable, "-c", code, "convert", source, tmp_path / "o.safetensors"]
    command += ["--max-shard-size", "12", "--verify"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("o-*-of-00300.safetensors"))) == 300
    with ptinspect.open(tmp_path / "o.safetensors.index.json") as document:
        assert len(document.tensors) == 300
    command = [sys.executable, "-c", code, "convert", tmp_path / "o.safetensors.index.json"]
    command += [tmp_path / "back.pt"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "Too many open files" in done.stderr and "ulimit -n" in done.stderr


def test_two_sources_with_one_name(tmp_path: Path) -> None:
    for name in ("a", "b", "out"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        shutil.copy(MODEL, tmp_path / name / "model.pth")
    command = ["convert", *(str(tmp_path / name / "model.pth") for name in "ab")]
    command += [str(tmp_path / "out"), "--to", "safetensors", "--force"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2
    assert "would both be written to" in result.stderr
    assert os.listdir(tmp_path / "out") == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for dry_run in (True, False):
        with pytest.raises(PtInspectError, match="the folder does not exist"):
            convert(MODEL, f"{tmp_path}/none/", to="state_dict", dry_run=dry_run)
        with pytest.raises(PtInspectError, match="cannot be written") as caught:
            convert(MODEL, tmp_path / "none" / "o.pt", dry_run=dry_run)
        assert caught.value.hint == "create the folder first"
    assert os.listdir(tmp_path) == []


def test_standard_input_is_no_way_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(shutil.copy(MODEL, tmp_path / "model.pth"))
    before = source.read_bytes()
    with source.open("rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        with pytest.raises(PtInspectError, match="the same file as the source"):
            convert("-", source, to="state_dict", force=True)
    assert source.read_bytes() == before


def test_nor_is_the_optimizers_file_overwritten(tmp_path: Path) -> None:
    optimizer = Path(shutil.copy(FIXTURES / "seed" / "checkpoint-6.pt", tmp_path / "opt.pt"))
    before = optimizer.read_bytes()
    with pytest.raises(PtInspectError, match="the same file as"):
        convert(MODEL, optimizer, to="checkpoint", optimizer=optimizer, force=True)
    assert optimizer.read_bytes() == before


def test_a_name_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    target = tmp_path / f"{'é' * 124}.pt"  # 251 bytes
    try:
        target.touch()
        target.unlink()
    except OSError:
        pytest.skip("names are shorter here")
    convert(MODEL, target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize(
    "name", ["it's", "a'; touch made; '", "$(touch made)", "a\nb", "-x", "\u202ex"]
)
def test_a_ready_command_is_one_word_per_name(tmp_path: Path, name: str) -> None:
    """The names are whoever's who made the file, and the lines are there to be pasted."""
    weights = {"w": torch.ones(2)}
    source = saved(tmp_path, {name: dict(weights), "other": dict(weights)})
    error = refused(source, tmp_path / "o.pt")
    line = (error.hint or "").split("\n")[0]
    assert len((error.hint or "").split("\n")) == 3  # one for each, and --all-entries
    words = subprocess.run(
        ["bash", "-c", line.replace("ptinspect", "printf '%s\\0'", 1)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout.split("\0")[:-1]  # fmt: skip
    assert os.listdir(tmp_path) == ["src.pt"]
    assert words[2] == str(tmp_path / "o.pt")
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output


def test_entries_that_are_listed_stay_on_their_line(tmp_path: Path) -> None:
    error = refused(saved(tmp_path, {"a\nptinspect: all is well": 1}), tmp_path / "o.pt", entry="b")
    assert (error.hint or "").count("\n") == 0


@pytest.mark.parametrize("value", [{1}, [{"a": torch.ones(1)}], {"a": (1, object())}])
def test_what_cannot_be_set_is_said(tmp_path: Path, value: object) -> None:
    error = refused(MODEL, tmp_path / "o.pt", to="checkpoint", set={"x": value})
    assert "the entry 'x' cannot be set: it contains an object of the type" in str(error)


def test_plain_python_can_be_set(tmp_path: Path) -> None:
    value = {"a": (1, [2.5, None, True]), 3: b"\x00", "big": 1 << 70}
    convert(MODEL, tmp_path / "o.pt", to="checkpoint", set={"x": value})
    assert torch.load(tmp_path / "o.pt", map_location="cpu")["x"] == value


def test_one_string_is_one_option(tmp_path: Path) -> None:
    report = convert(MODEL, tmp_path / "o.pt", include="*weight", rename="layer=l")
    assert [each["key"] for each in report.as_dict()["tensors"]] == ["l.weight"]  # type: ignore[attr-defined]
    convert(MODEL, tmp_path / "p.pt", strip_prefix="layer.", exclude="*bias")
    with ptinspect.open(tmp_path / "p.pt") as document:
        assert list(document.tensors) == ["weight"]


def checkpoint(folder: Path) -> Path:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return saved(
        folder,
        {
            "epoch": 1,
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
        },
    )


def test_what_keeps_the_rest_is_true(tmp_path: Path) -> None:
    """`--to checkpoint` keeps the entries of a checkpoint, not the items of a list."""
    made = convert(checkpoint(tmp_path), tmp_path / "o.pt")
    assert made.warnings == [
        'dropped: epoch, optimizer_state_dict (56 bytes); to="checkpoint" keeps them'
    ]
    listed = saved(tmp_path, [torch.ones(3), {"a": torch.ones(2)}])
    for goal in ("state_dict", "checkpoint"):
        made = convert(listed, tmp_path / f"{goal}.pt", to=goal)
        assert made.warnings == ['dropped: [0] (12 bytes); to="same" keeps them']


def test_the_model_is_not_set_away(tmp_path: Path) -> None:
    for source in (MODEL, checkpoint(tmp_path)):
        error = refused(source, tmp_path / "o.pt", to="checkpoint", set={"model_state_dict": 1})
        assert "would replace the model" in str(error)


def test_entries_that_are_replaced_are_told_and_not_counted(tmp_path: Path) -> None:
    source, target = checkpoint(tmp_path), tmp_path / "o.pt"
    options: Any = {"set": {"epoch": 9}, "optimizer": tmp_path / "optimizer.pt"}
    made = convert(source, target, to="checkpoint", **options)
    assert made.warnings == ["replaced by set and optimizer: epoch, optimizer_state_dict"]
    assert made.tensors == 8
    loaded = torch.load(target)
    assert list(loaded) == ["epoch", "model_state_dict", "optimizer_state_dict"]
    assert loaded["epoch"] == 9
    assert loaded["optimizer_state_dict"]["state"][0]["exp_avg"].shape == (2, 2)


def test_keys_left_out_of_a_checkpoint_are_told(tmp_path: Path) -> None:
    made = convert(checkpoint(tmp_path), tmp_path / "o.pt", to="checkpoint", include=["weight"])
    assert made.warnings == ["dropped by include and exclude: bias"]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("to", ["same", "state_dict", "checkpoint", "safetensors", "npz"])
def test_a_suffix_of_another_format_is_a_warning(to: str, suffix: str, tmp_path: Path) -> None:
    target = tmp_path / f"o.{suffix}"
    report = convert(MODEL, target, to=to)
    kind = to if to in ("safetensors", "npz") else "torch.save"
    words = f"{target} has the suffix of {suffix}, but is a file of {kind}"
    assert (words in report.warnings) == (to != suffix)
    with ptinspect.open(target) as document:
        assert document.archive.format == (kind if kind != "torch.save" else "torch-zip")


def test_metadata_of_safetensors(tmp_path: Path) -> None:
    """Every shard has it; the note on tied tensors is where the tensor is."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors")
    w = torch.ones(3)
    torch.save({"a": w, "b": w, "c": torch.ones(3, 3)}, tmp_path / "a.pt")
    metadata = {"license": "MIT", "line": "a\n=ü"}
    whole, shards = tmp_path / "o.safetensors", tmp_path / "s.safetensors"
    convert(tmp_path / "a.pt", whole, metadata=metadata, verify=True)
    files = convert(tmp_path / "a.pt", shards, metadata=metadata, max_shard_size=12).files[:-1]
    expected = {"format": "pt", **metadata, "b": "a"}
    for path, notes in zip([whole, *files], [expected] * 2 + [{**expected, "b": ""}], strict=True):
        with library.safe_open(path, "pt") as file:
            assert file.metadata() == {key: text for key, text in notes.items() if text}
    convert(tmp_path / "a.pt", whole, metadata={"format": "np"}, force=True)
    with library.safe_open(whole, "pt") as file:
        assert file.metadata() == {"format": "np", "b": "a"}
    for clash in ({"b": "x"}, {"x": "a"}):
        with pytest.raises(PtInspectError, match=r"would mean that the tensor [bx] is another"):
            convert(tmp_path / "a.pt", whole, metadata=clash, force=True)
    with pytest.raises(PtInspectError, match="takes strings"):
        convert(tmp_path / "a.pt", whole, metadata={"x": 1}, force=True)  # type: ignore[dict-item]
