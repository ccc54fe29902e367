"""One file for each section of docs/errors.md, and what torch says to it.

`CASES[title]` makes the file in a folder and does what a user does with it; the message that this
raises is what the section is about. torch is imported when a case runs, not before.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.abc
import importlib.machinery
import pickle
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FIXTURES = Path(__file__).parents[2] / "fixtures"


class Case(NamedTuple):
    """make: writes the file, in which folder. use: does what raises. name: of the file, as the
    page has it."""

    make: Callable[[Path], None]
    use: Callable[[Path], object]
    name: str = "model.pth"


CASES: dict[str, Case] = {}


def case(
    title: str, make: Callable[[Path], None], name: str = "model.pth"
) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Registers what is done with the file that `make` writes."""

    def keep(use: Callable[[Path], object]) -> Callable[[Path], object]:
        assert title not in CASES, title
        CASES[title] = Case(make, use, name)
        return use

    return keep


# --- how files come to be -------------------------------------------------------------------


def fixture(name: str) -> Callable[[Path], None]:
    """A file of fixtures/."""
    return written((FIXTURES / name).read_bytes())


def saved(build: Callable[[], Any], **options: Any) -> Callable[[Path], None]:
    """What torch.save makes of an object."""

    def make(file: Path) -> None:
        import torch

        torch.save(build(), file, **options)

    return make


ONNX = (FIXTURES / "others/tiny.onnx").read_bytes()


def written(data: bytes) -> Callable[[Path], None]:
    """These bytes."""

    def make(file: Path) -> None:
        file.write_bytes(data)

    return make


def cut(make: Callable[[Path], None], end: int) -> Callable[[Path], None]:
    """Without its last bytes."""

    def shorter(file: Path) -> None:
        make(file)
        file.write_bytes(file.read_bytes()[:end])

    return shorter


def edited(
    make: Callable[[Path], None], edit: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> Callable[[Path], None]:
    """A zip with other records."""

    def other(file: Path) -> None:
        make(file)
        with zipfile.ZipFile(file) as held:
            records = {name: held.read(name) for name in held.namelist()}
        with zipfile.ZipFile(file, "w") as held:
            for name, data in edit(records).items():
                held.writestr(name, data)

    return other


def net() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(OrderedDict(fc=torch.nn.Linear(4, 2)))


def state_dict() -> Any:
    return net().state_dict()


def load(file: Path, **options: Any) -> Any:
    """torch.load, with its own default of weights_only unless another is given."""
    import torch

    return torch.load(file, **options)


def trusting(file: Path) -> Any:
    """As torch before 2.6 loaded by default."""
    return load(file, weights_only=False, map_location="cpu")


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """As if these modules were not installed."""

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(
            self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
        ) -> importlib.machinery.ModuleSpec | None:
            if name in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None

    hidden = {key: sys.modules.pop(key) for key in list(sys.modules) if key in names}
    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(hidden)


def of_a_package(module: str, name: str) -> Callable[[Path], None]:
    """A full model whose class lies in a module that is gone again."""

    def make(file: Path) -> None:
        import torch

        top, held = module.split(".")[0], types.ModuleType(module)
        kind = type(name, (torch.nn.Module,), {"__module__": module})
        setattr(held, name, kind)
        model = kind()
        model.fc = torch.nn.Linear(2, 1)
        sys.modules.update({top: types.ModuleType(top), module: held})
        try:
            torch.save({"model": model, "epoch": 3}, file)
        finally:
            sys.modules.pop(module)
            sys.modules.pop(top, None)

    return make


# --- the class, and what else the file needs --------------------------------------------------

SEED = fixture("seed/model.pth")
OLD = "old/torch-1.0.0"

case("Can't get attribute 'CustomModel' on <module '__main__'>", SEED)(trusting)
case("No module named 'models'", of_a_package("models.yolo", "DetectionModel"), "yolo.pt")(trusting)
case("Weights only load failed", SEED)(load)
case("No module named 'torch.tensor'", fixture("old/torch-1.8.1-py38/kinds.legacy.pth"))(trusting)
case("cannot instantiate 'PosixPath' on your system", fixture("objects/paths-windows.pt"))(trusting)
case("'utf-8' codec can't decode byte", fixture(f"{OLD}-py27/numpy.legacy.pth"))(trusting)


@case("unsupported pickle protocol: 5", saved(lambda: state_dict(), pickle_protocol=5))
def with_python_3_7(file: Path) -> object:
    """Its unpickler knew protocols up to 4; pickle.py's is told so."""
    from unittest import mock

    module = types.ModuleType("pickle")
    module.Unpickler = pickle._Unpickler  # type: ignore[attr-defined]
    with mock.patch.object(pickle, "HIGHEST_PROTOCOL", 4):
        return load(file, weights_only=False, pickle_module=module)


@case("No module named 'numpy._core'", saved(lambda: {"mean": _numpy().ones(3)}))
def with_numpy_1(file: Path) -> object:
    _numpy()
    names = [name for name in sys.modules if name.split(".")[:2] == ["numpy", "_core"]]
    with without("numpy._core", *names):
        return trusting(file)


@case(
    "Can't get attribute '_rebuild_parameter_with_state'",
    fixture("tensors/parameter-with-state.pt"),
)
def with_an_old_torch(file: Path) -> object:
    import torch

    newer = torch._utils._rebuild_parameter_with_state
    del torch._utils._rebuild_parameter_with_state
    try:
        return trusting(file)
    finally:
        torch._utils._rebuild_parameter_with_state = newer


def _numpy() -> Any:
    import numpy

    return numpy


# --- the file is not whole ------------------------------------------------------------------

LEGACY = saved(lambda: state_dict(), _use_new_zipfile_serialization=False)
ZIP = saved(lambda: state_dict())


def broken_directory(file: Path) -> None:
    ZIP(file)
    data = bytearray(file.read_bytes())
    data[data.find(b"PK\x01\x02")] = 0
    file.write_bytes(data)


def wrong_count(file: Path) -> None:
    LEGACY(file)
    data = bytearray(file.read_bytes())
    at = data.rfind(b"\x08\0\0\0\0\0\0\0")  # fc.weight's eight elements
    data[at] = 99
    file.write_bytes(data)


case("failed finding central directory", cut(ZIP, -300))(trusting)
case("invalid header or archive is corrupted", broken_directory)(trusting)
case("unexpected EOF, expected N more bytes", cut(fixture("containers/state_dict-legacy.pt"), -10))(
    trusting
)
case("storage has wrong byte size", wrong_count)(trusting)
case("EOFError: Ran out of input", written(b""))(trusting)
case(
    "pickle data was truncated", cut(written(pickle.dumps(list(range(1000)), 4)), 100), "data.pkl"
)(trusting)
case(
    "failed locating file data/0: file not found",
    edited(ZIP, lambda records: {n: r for n, r in records.items() if not n.endswith("data/0")}),
)(trusting)
case(
    "record size does not match expected size",
    edited(
        ZIP, lambda records: {n: r[:8] if n.endswith("data/0") else r for n, r in records.items()}
    ),
)(trusting)


# --- it is another kind of file -------------------------------------------------------------

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\n"
    b"size 46830571\n"
)
PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"


def compressed(file: Path) -> None:
    ZIP(file)
    file.write_bytes(gzip.compress(file.read_bytes(), mtime=0))


def in_a_tar(file: Path) -> None:
    inner = file.with_name("model.pth")
    ZIP(inner)
    with tarfile.open(file, "w") as held:
        held.add(inner, "model.pth")
    inner.unlink()


def in_a_zip(file: Path) -> None:
    inner = file.with_name("model.pth")
    ZIP(inner)
    with zipfile.ZipFile(file, "w") as held:
        held.write(inner, "model.pth")


def script(file: Path) -> None:
    import torch

    torch.jit.save(torch.jit.trace(net(), torch.zeros(1, 4)), file)


case("Unsupported operand 118", written(POINTER))(load)
case("invalid load key, 'v'", written(POINTER))(trusting)
case("invalid load key, '<'", written(PAGE))(trusting)
case("invalid load key, '\\x1f'", compressed, "model.pth.gz")(trusting)
case("invalid load key, 'H'", written(b"\x89HDF\r\n\x1a\n" + bytes(80)), "model.h5")(trusting)
case("invalid load key, '\\x08'", written(ONNX), "model.onnx")(trusting)
case("invalid load key, '{'", written(b'{"hidden_size": 768}\n'), "config.json")(trusting)
case("unpickling stack underflow", written(b"0.123 0.456 0.789\n"), "weights.txt")(trusting)
case("could not find MARK", written(b"train loss 0.25\n"), "log.txt")(trusting)
case("Invalid magic number; corrupt file?", written(pickle.dumps({"epoch": 3}, 2)), "data.pkl")(
    trusting
)
case("filename 'storages' not found", in_a_tar, "model.tar")(trusting)
case("file in archive is not in a subdirectory", in_a_zip, "model.zip")(trusting)
case(
    "failed locating file data.pkl: file not found",
    edited(ZIP, lambda records: {"folder/notes.txt": b"nothing", "folder/version": b"3\n"}),
    "notes.zip",
)(trusting)
case("Cannot use weights_only=True with TorchScript archives", script, "script.pt")(load)


@case("failed locating file constants.pkl: file not found", ZIP)
def as_torchscript(file: Path) -> object:
    import torch

    return torch.jit.load(file)


@case("A load persistent id instruction was encountered", ZIP)
def by_pickle(file: Path) -> object:
    with zipfile.ZipFile(file) as held:
        return pickle.loads(held.read("model/data.pkl"))


# --- versions of torch ----------------------------------------------------------------------

case(
    "failed locating file data/94…: file not found",
    fixture("old/torch-1.4.0-py36/state_dict.zip.pth"),
)(trusting)
case('Expected hasRecord("version") to be true', fixture("containers/rezip-deep-root.pt"))(trusting)
case(
    "Attempted to read a PyTorch file with version 11",
    edited(
        ZIP,
        lambda records: {n: b"11\n" if n.endswith("/version") else r for n, r in records.items()},
    ),
)(trusting)
case("saved_id must be a tuple, got str", saved(lambda: state_dict(), pickle_protocol=0))(trusting)
case(
    "type object 'torch.storage.UntypedStorage' has no attribute 'dtype'",
    fixture("tensors/float8_e5m2-legacy.pt"),
)(trusting)


@case(
    "object has no attribute '_flat_weights'",
    fixture(f"{OLD}-py36/layers.pickle2.pkl"),
    "layers.pkl",
)
def of_torch_1_0(file: Path) -> object:
    with file.open("rb") as held:
        return pickle.load(held)


def before_its_time(kind: str, name: str, *args: Any) -> Callable[[Path], None]:
    """A model as a version of torch wrote it whose layers had no such attribute yet."""

    def make(file: Path) -> None:
        import torch

        layer = getattr(torch.nn, kind)(*args)
        del layer.__dict__[name]
        torch.save(torch.nn.Sequential(layer), file)

    return make


@case("'GELU' object has no attribute 'approximate'", before_its_time("GELU", "approximate"))
def run_gelu(file: Path) -> object:
    import torch

    return trusting(file)(torch.zeros(2))


@case(
    "'MultiheadAttention' object has no attribute 'batch_first'",
    before_its_time("MultiheadAttention", "batch_first", 2, 1),
)
def run_attention(file: Path) -> object:
    import torch

    return trusting(file)[0](*[torch.zeros(1, 1, 2)] * 3)


# --- devices and dtypes ---------------------------------------------------------------------


@case("Attempting to deserialize object on a CUDA device", fixture("seed/model_state_dict.pt"))
def without_a_gpu(file: Path) -> object:
    from unittest import mock

    import torch

    with mock.patch.object(torch.cuda, "is_available", lambda: False):
        return load(file)


case("don't know how to restore data location", fixture("tensors/device-npu0.pt"))(load)
case("Storage device not recognized: mps", fixture("tensors/device-mps0.pt"))(load)


@case("Attempting to deserialize object on CUDA device 3", fixture("tensors/device-cuda3.pt"))
def with_one_gpu(file: Path) -> object:
    from unittest import mock

    import torch

    with (
        mock.patch.object(torch.cuda, "is_available", lambda: True),
        mock.patch.object(torch.cuda, "device_count", lambda: 1),
        mock.patch.object(torch.cuda, "_lazy_init", lambda: None, create=True),
    ):
        return load(file)


@case(
    "mat1 and mat2 must have the same dtype, but got Float and Half",
    saved(lambda: net().half()),
)
def half_with_float(file: Path) -> object:
    import torch

    return trusting(file)(torch.zeros(1, 4))


# --- state_dicts ----------------------------------------------------------------------------


@case("'collections.OrderedDict' object has no attribute 'eval'", ZIP)
def as_a_model(file: Path) -> object:
    return load(file).eval()


@case("'dict' object has no attribute 'eval'", saved(lambda: {"epoch": 7, "model": state_dict()}))
def a_checkpoint_as_a_model(file: Path) -> object:
    return load(file).eval()


@case(
    "Missing key(s) in state_dict",
    saved(lambda: OrderedDict((f"module.{key}", value) for key, value in state_dict().items())),
)
def of_data_parallel(file: Path) -> object:
    return net().load_state_dict(load(file))


@case("Unexpected key(s) in state_dict", saved(lambda: {"epoch": 7, "state_dict": state_dict()}))
def the_whole_checkpoint(file: Path) -> object:
    return net().load_state_dict(load(file))


@case("size mismatch for fc.weight", ZIP)
def of_another_size(file: Path) -> object:
    import torch

    return torch.nn.Sequential(OrderedDict(fc=torch.nn.Linear(4, 10))).load_state_dict(load(file))


@case("Expected state_dict to be dict-like", SEED)
def a_model_as_a_state_dict(file: Path) -> object:
    import torch

    kind = type("CustomModel", (torch.nn.Module,), {"__module__": "__main__"})
    sys.modules["__main__"].CustomModel = kind  # type: ignore[attr-defined]
    try:
        return torch.nn.Linear(2, 1).load_state_dict(trusting(file))
    finally:
        del sys.modules["__main__"].CustomModel  # type: ignore[attr-defined]


@case(
    "parameter group that doesn't match the size of optimizer's group",
    saved(lambda: sgd().state_dict()),
    "optimizer.pt",
)
def of_another_model(file: Path) -> object:
    import torch

    model = torch.nn.Sequential(net(), torch.nn.Linear(2, 2))
    return torch.optim.SGD(model.parameters(), lr=0.1).load_state_dict(load(file))


def sgd() -> Any:
    import torch

    return torch.optim.SGD(net().parameters(), lr=0.1, momentum=0.9)
