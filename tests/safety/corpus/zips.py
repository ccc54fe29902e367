"""The payload in zips: as torch writes them, and as two readers see them differently."""

from __future__ import annotations

import io
import struct
import zipfile

from tests.safety.corpus.building import (
    TEXT_PAYLOAD,
    central,
    good_and,
    patched,
    tensors,
    torch_records,
    zipped,
)
from tests.safety.corpus.sample import (
    GOOD,
    PAYLOAD,
    PAYLOAD_2,
    calling,
    dict_of,
    named,
    raw,
)


def torch_zips() -> dict[str, bytes]:
    """By torch's own format, as it is written."""
    code = ("archive/code/__torch__.py", b"class M(Module):\n  pass\n")
    return {
        "plain.pt": zipped(torch_records()),
        "plain.pth": zipped(torch_records(root="model/")),
        "plain.bin": zipped(torch_records(root="pytorch_model/")),
        "protocol-4.ckpt": zipped(torch_records(PAYLOAD)),
        "protocol-0.pt": zipped(torch_records(TEXT_PAYLOAD)),
        "deflated.pt": zipped(torch_records(), zipfile.ZIP_DEFLATED),
        "no-folder.pt": zipped(torch_records(root="")),
        "deep-folder.pt": zipped(torch_records(root="a/b/c/")),
        "comment.pt": zipped(torch_records(), comment=b"a comment"),
        "no-suffix": zipped(torch_records()),
        "in-state.pt": zipped(torch_records(b"\x80\x02}X\x01\0\0\0wc" + PAYLOAD_2[3:-1] + b"s.")),
        "extra-pickle.pt": good_and(("archive/extra.pkl", PAYLOAD_2)),
        "extra-without-suffix.pt": good_and(("archive/notes", PAYLOAD_2)),
        "as-a-storage.pt": good_and(("archive/data/1", PAYLOAD_2)),
        "as-the-storage.pt": zipped([("archive/data.pkl", tensors()),
                                     ("archive/data/0", PAYLOAD_2), ("archive/version", b"3\n")]),
        "storage-said-too-long.pt": zipped(torch_records(tensors((1 << 20, 1)))),
        "storage-said-twice.pt": zipped(torch_records(tensors((1, 1), (9, 9)))),
        "tensor-beyond-storage.pt": zipped(torch_records(tensors((1, 1 << 20)))),
        "torch-parameter-state.pt": zipped(torch_records(_parameter_state())),
        "as-version.pt": zipped([*torch_records(tensors())[:3], ("archive/version", PAYLOAD_2)]),
        "outside-the-folder.pt": good_and(("payload.pkl", PAYLOAD_2)),
        "in-another-folder.pt": good_and(("other/data.pkl", PAYLOAD_2)),
        "many-pickles.pt": good_and(*((f"archive/{i}.pkl", GOOD) for i in range(50)),
                                    ("archive/last.pkl", PAYLOAD_2)),
        "script-constants.pt": zipped([("m/data.pkl", GOOD), ("m/constants.pkl", PAYLOAD_2),
                                       ("m/version", b"3\n"), code]),
        "script-attributes.pt": zipped([("m/data.pkl", PAYLOAD_2), ("m/constants.pkl", GOOD),
                                        ("m/version", b"3\n"), code]),
        "script-extra.pt": zipped([("m/data.pkl", GOOD), ("m/constants.pkl", GOOD),
                                   ("m/extra/info.pkl", PAYLOAD_2), ("m/version", b"3\n"), code]),
        "package.pt": zipped([("p/.data/extern_modules", b"os\n"), ("p/.data/version", b"6\n"),
                              ("p/model/model.pkl", PAYLOAD_2)]),
        "export.pt2": zipped([("m/archive_format", b"pt2"), ("m/version", b"3\n"),
                              ("m/data/weights/model.pt", zipped(torch_records()))]),
        "export-constants.pt2": zipped([("m/archive_format", b"pt2"), ("m/version", b"3\n"),
                                        ("m/data/constants/c.pt", PAYLOAD_2)]),
        "export-old.pt2": zipped([("serialized_state_dict.pt", zipped(torch_records())),
                                  ("serialized_exported_program.json", b"{}"), ("version", b"5")]),
        "checkpoint.distcp": zipped(torch_records()) + zipped(torch_records(tensors())),
        ".metadata": PAYLOAD_2,
    }  # fmt: skip


def _parameter_state() -> bytes:
    """A method of a parameter is replaced by a call that is allowed, and called by BUILD."""
    made = tensors()
    tensor = made[made.index(b"w") + 1 : -2]
    hooks = calling("collections.OrderedDict")
    state = dict_of(__setstate__=named("torch.storage._load_from_bytes"))
    parameter = calling("torch._utils._rebuild_parameter_with_state", tensor, True, hooks, state)
    return b"\x80\x04" + parameter + raw(PAYLOAD_2) + b"b."


def hostile_zips() -> dict[str, bytes]:
    """By what two readers of a zip see differently."""
    bad = zipped(torch_records())
    first = central(bad)
    body = 30 + len("archive/data.pkl")
    twice_evil = zipped([*torch_records(tensors()), ("archive/data.pkl", PAYLOAD_2)])
    evil_first = zipped([*torch_records(), ("archive/data.pkl", tensors())])
    cut = bad[: first + 20]
    deflated = zipped(torch_records(), zipfile.ZIP_DEFLATED)
    at = central(deflated)
    hidden = _hidden_entry()
    return {
        "twice-evil-last.pt": twice_evil,
        "twice-evil-first.pt": evil_first,
        "twice-other-case.pt": good_and(("archive/DATA.PKL", PAYLOAD_2)),
        "twice-with-a-dot.pt": good_and(("archive/./data.pkl", PAYLOAD_2)),
        "local-name-differs.pt": patched(bad, (30, b"archive/nada.pkl")),
        "central-name-differs.pt": patched(bad, (first + 46, b"archive/nada.pkl")),
        "local-flag-encrypted.pt": patched(bad, (6, b"\x01\0")),
        "central-flag-encrypted.pt": patched(bad, (first + 8, b"\x01\0")),
        "both-flags-encrypted.pt": patched(bad, (6, b"\x01\0"), (first + 8, b"\x01\0")),
        "flag-patched-data.pt": patched(bad, (6, b"\x20\0"), (first + 8, b"\x20\0")),
        "flag-masked.pt": patched(bad, (6, b"\0\x20"), (first + 8, b"\0\x20")),
        "bad-crc.pt": patched(bad, (14, b"\x11\x11\x11\x11"), (first + 16, b"\x11\x11\x11\x11")),
        "bad-local-crc.pt": patched(bad, (14, b"\x11\x11\x11\x11")),
        "no-crc.pt": patched(bad, (14, bytes(4)), (first + 16, bytes(4))),
        "size-zero-local.pt": patched(bad, (18, bytes(8))),
        "size-short-central.pt": patched(bad, (first + 20, b"\x05\0\0\0\x05\0\0\0")),
        "method-unknown.pt": patched(bad, (8, b"\x63\0"), (first + 10, b"\x63\0")),
        "method-differs.pt": patched(bad, (8, b"\x08\0")),
        "deflate-called-stored.pt": patched(deflated, (at + 10, b"\0\0")),
        "version-needed.pt": patched(bad, (4, b"\xff\0"), (first + 6, b"\xff\0")),
        "name-with-nul.pt": good_and(("archive/data.pklx", PAYLOAD_2)).replace(
            b"archive/data.pklx", b"archive/data.pkl\0"),
        "name-backslash.pt": good_and(("archive\\evil.pkl", PAYLOAD_2)),
        "name-absolute.pt": good_and(("/archive/evil.pkl", PAYLOAD_2)),
        "name-traversal.pt": good_and(("../../evil.pkl", PAYLOAD_2)),
        "name-empty.pt": good_and(("", PAYLOAD_2)),
        "entry-outside.pt": hidden,
        "entry-before.pt": _before(),
        "entry-overlaps.pt": _overlap(),
        "no-directory.pt": bad[:first],
        "cut-directory.pt": cut,
        "cut-in-the-pickle.pt": bad[: body + 60],
        "no-end.pt": bad[:-22],
        "two-ends.pt": bad + zipped(torch_records(tensors())),
        "two-ends-evil-last.pt": zipped(torch_records(tensors())) + bad,
        "zip64.pt": _zip64(),
        "bzip2.pt": zipped(torch_records(), zipfile.ZIP_BZIP2),
        "lzma.pt": zipped(torch_records(), zipfile.ZIP_LZMA),
        "descriptor.pt": _streamed(),
    }  # fmt: skip


def _hidden_entry() -> bytes:
    """A record between the others that the directory does not name."""
    secret = zipped([("archive/secret.pkl", PAYLOAD_2)])
    secret = secret[: central(secret)]
    good = good_and()
    at = central(good)
    end = good.rindex(b"PK\x05\x06")
    made = bytearray(good[:at] + secret + good[at:])
    struct.pack_into("<I", made, end + len(secret) + 16, at + len(secret))
    return bytes(made)


def _before() -> bytes:
    """A record in front of the first that the directory names, offsets adjusted."""
    secret = zipped([("archive/data.pkl", PAYLOAD_2)])
    secret = secret[: central(secret)]
    good = bytearray(good_and())
    at = central(bytes(good))
    while good[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<HHH", good, at + 28)
        (offset,) = struct.unpack_from("<I", good, at + 42)
        struct.pack_into("<I", good, at + 42, offset + len(secret))
        at += 46 + name + extra + comment
    (start,) = struct.unpack_from("<I", good, at + 16)
    struct.pack_into("<I", good, at + 16, start + len(secret))
    return secret + bytes(good)


def _overlap() -> bytes:
    """Two names for the same bytes: one as numbers, one as the pickle."""
    bad = zipped([*torch_records(), ("archive/data/1", b"")])
    (offset,) = struct.unpack_from("<I", bad, central(bad) + 42)
    return patched(bad, (central(bad, 5) + 42, struct.pack("<I", offset)))


def _zip64() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, data in torch_records():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            with made.open(info, "w", force_zip64=True) as record:
                record.write(data)
    return file.getvalue()


class _Pipe(io.RawIOBase):
    """Cannot seek: zipfile then puts sizes and CRC behind each record."""

    def __init__(self) -> None:
        self.made = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.made += memoryview(data)  # type: ignore[arg-type]
        return memoryview(data).nbytes  # type: ignore[arg-type]


def _streamed() -> bytes:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w") as made:
        for name, data in torch_records():
            made.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return bytes(pipe.made)
