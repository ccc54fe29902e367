"""The plainest payload in every container that somebody loads, honest and dishonest ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable

from tests.safety.corpus.building import (
    GIF,
    MAGIC,
    ONE,
    PNG,
    TEXT_PAYLOAD,
    central,
    good_and,
    joblib,
    legacy,
    npy,
    patched,
    tarred,
    torch_records,
    torch_tar,
    zipped,
)
from tests.safety.corpus.names import PAPER
from tests.safety.corpus.sample import (
    GOOD,
    OWN,
    PAYLOAD,
    PAYLOAD_2,
    Sample,
    calling,
    stream,
)
from tests.safety.corpus.zips import hostile_zips, torch_zips


def packed() -> dict[str, tuple[bytes, str]]:
    """Compressed as a whole: (file, how it is loaded)."""
    alone = lzma.compress(PAYLOAD, lzma.FORMAT_ALONE)
    return {
        "gzip.pkl.gz": (gzip.compress(PAYLOAD, mtime=0), "gzip"),
        "bzip2.pkl.bz2": (bz2.compress(PAYLOAD), "bz2"),
        "xz.pkl.xz": (lzma.compress(PAYLOAD), "lzma"),
        "lzma.pkl.lzma": (alone, "lzma"),
        "zlib.pkl.z": (zlib.compress(PAYLOAD), ""),
        "zlib-fast.joblib": (zlib.compress(PAYLOAD, 1), ""),
        "zlib-best.joblib": (zlib.compress(PAYLOAD, 9), ""),
        "joblib-old.pkl.z": (_zfile(PAYLOAD), ""),
        "gzip-wrong-suffix.pkl": (gzip.compress(PAYLOAD, mtime=0), "gzip"),
        "gzip-in-gzip.gz": (gzip.compress(gzip.compress(PAYLOAD, mtime=0), mtime=0), ""),
        "xz-in-bzip2-in-gzip.gz": (
            gzip.compress(bz2.compress(lzma.compress(PAYLOAD)), mtime=0), ""),
        "gzip-two-members.gz": (
            gzip.compress(GOOD[:-1] + b"0", mtime=0) + gzip.compress(PAYLOAD[2:], mtime=0), "gzip"),
        "gzip-cut.gz": (gzip.compress(PAYLOAD + bytes(90_000), 0, mtime=0)[:-9000], "gzip"),
        "gzip-bad-crc.gz": (
            patched(good := gzip.compress(PAYLOAD + bytes(200_000), mtime=0),
                    (len(good) - 8, b"\0\0\0\0")), "gzip"),
        "gzip-of-torch.pt.gz": (gzip.compress(zipped(torch_records()), mtime=0), ""),
        "gzip-of-legacy.pth.gz": (gzip.compress(legacy(3), mtime=0), ""),
        "gzip-with-name.gz": (
            b"\x1f\x8b\x08\x08\0\0\0\0\0\xffreadme.txt\0" + gzip.compress(PAYLOAD, mtime=0)[10:],
            "gzip"),
        "tar-gz.tgz": (tarred([("model/a.pkl", PAYLOAD)], "w:gz"), ""),
        "tar-bz2.tbz": (tarred([("model/a.pkl", PAYLOAD)], "w:bz2"), ""),
        "tar-xz.txz": (tarred([("model/a.pt", zipped(torch_records()))], "w:xz"), ""),
    }  # fmt: skip


def _zfile(data: bytes) -> bytes:
    """joblib before 0.10."""
    length = hex(len(data))[2:]
    return b"ZF0x" + length.ljust(17).encode() + zlib.compress(data)


def legacies() -> dict[str, bytes]:
    """By torch's older formats."""
    places = ("magic", "protocol", "system-info", "object", "keys")
    made = {f"legacy-{place}.pth": legacy(i) for i, place in enumerate(places)}
    return made | {
        "legacy-behind.pth": legacy(9, PAYLOAD_2),
        "legacy-all.pth": PAYLOAD_2 * 5,
        "legacy-computed-magic.pth": stream(calling("builtins.eval", "0x1950a86a20f9469cfc6c"))
        + legacy(3)[len(MAGIC) :],
        "legacy-cut.pth": legacy(3)[:-3],
        "tar-pickle.pth": torch_tar(pickle=PAYLOAD_2),
        "tar-system-info.pth": torch_tar(sys_info=PAYLOAD_2),
        "tar-storages.pth": torch_tar(storages=PAYLOAD_2),
        "tar-storages-second.pth": torch_tar(storages=pickle.dumps(1, 2) + PAYLOAD_2),
        "tar-tensors.pth": torch_tar(tensors=PAYLOAD_2),
        "tar-tensors-second.pth": torch_tar(tensors=pickle.dumps(1, 2) + PAYLOAD_2),
        "tar-extra.pth": torch_tar(extra=PAYLOAD_2),
    }


def tars_and_nests() -> dict[str, bytes]:
    """A file in a file."""
    inner = zipped([("a.pkl", PAYLOAD)])
    return {
        "tar.tar": tarred([("readme", b"hello"), ("model.pkl", PAYLOAD)]),
        "tar-wrong-suffix.pt": tarred([("weights", PAYLOAD)]),
        "tar-twice.tar": tarred([("m.pkl", GOOD), ("m.pkl", PAYLOAD)]),
        "tar-cut.tar": tarred([("m.pkl", PAYLOAD)])[:700],
        "tar-of-torch.tar": tarred([("m/model.pt", zipped(torch_records()))]),
        "tar-of-tar.tar": tarred([("a.tar", tarred([("b.pkl", PAYLOAD)]))]),
        "tar-of-gzip.tar": tarred([("a.gz", gzip.compress(PAYLOAD, mtime=0))]),
        "tar-behind-the-end.tar": tarred([("a", b"hello")]) + tarred([("m.pkl", PAYLOAD)]),
        "nemo.nemo": tarred([("model_config.yaml", b"a: 1\n"),
                             ("model_weights.ckpt", zipped(torch_records()))]),
        "mar.mar": zipped([("MAR-INF/MANIFEST.json", b"{}"),
                           ("model.pt", zipped(torch_records()))]),
        "zip.zip": zipped([("a.pkl", PAYLOAD)]),
        "zip-odd-name.zip": zipped([("config.p", PAYLOAD)]),
        "zip-no-name.zip": zipped([("weights", PAYLOAD)]),
        "zip-protocol-0.zip": zipped([("notes.txt", TEXT_PAYLOAD)]),
        "zip-in-zip.zip": zipped([("a.zip", inner)]),
        "zip-in-zip-in-zip.zip": zipped([("b.zip", zipped([("a.zip", inner)]))]),
        "zip-of-gzip.zip": zipped([("a.pkl.gz", gzip.compress(PAYLOAD, mtime=0))]),
        "zip-of-legacy.zip": zipped([("a.pth", legacy(3))]),
        "zip-of-npy.zip": zipped([("a/b.npy", npy(PAYLOAD))]),
        "torch-in-torch.pt": good_and(("archive/inner.pt", zipped(torch_records()))),
        "whole-folder.zip": zipped([("repo/README.md", b"# hi"), ("repo/config.json", b"{}"),
                                    ("repo/pytorch_model.bin", zipped(torch_records()))]),
        "skops.skops": zipped([("schema.json", b"{}"), ("1.pkl", PAYLOAD)]),
        "keras.keras": zipped([("config.json", b"{}"), ("metadata.json", b"{}"),
                               ("custom.pkl", PAYLOAD)]),
    }  # fmt: skip


OBJECTS = (
    r"'\x4f'", r"'\117'", r"'|\x4f'", r"'\u004f'", r"'ob\x6aect'", r"'\N{LATIN CAPITAL LETTER O}'",
    r"[('a', '\x4f')]", "'i4,O'", "'O,i4'", "'O8,O8'", "'3O'", "'(1,)O'", "[('a', ('O', (1,)))]",
)  # fmt: skip
"""What numpy takes for a type of objects: it reads the header as Python, and has a notation of
its own for records."""


def arrays() -> dict[str, tuple[bytes, str]]:
    """numpy's and joblib's."""
    f8 = calling("numpy.dtype", "f8", False, True)
    objects = calling("numpy.dtype", "O8", False, True)
    eight = bytes(8)
    behind = PAYLOAD[2:-1]
    return {
        "array.npy": (npy(PAYLOAD), "numpy"),
        "array-2.npy": (npy(PAYLOAD, version=2), "numpy"),
        "array-3.npy": (npy(PAYLOAD, version=3), "numpy"),
        "array-structured.npy": (npy(PAYLOAD, "[('a', '<f8'), ('b', '|O')]"), "numpy"),
        "array-nested.npy": (npy(PAYLOAD, "[('a', [('b', 'O')])]"), "numpy"),
        **{f"array-escaped-{i}.npy": (npy(PAYLOAD, told), "numpy")
           for i, told in enumerate(OBJECTS)},
        "array-wrong-suffix.txt": (npy(PAYLOAD), "numpy"),
        "array-is-a-pickle.npy": (PAYLOAD, "numpy"),
        "arrays.npz": (zipped([("a.npy", npy(bytes(8), "'<f8'")), ("b.npy", npy(PAYLOAD))]),
                       "numpy"),
        "arrays-deflated.npz": (zipped([("b.npy", npy(PAYLOAD))], zipfile.ZIP_DEFLATED), "numpy"),
        "arrays-no-suffix.npz": (zipped([("b", npy(PAYLOAD))]), ""),
        "arrays-pickle.npz": (zipped([("a.npy", PAYLOAD)]), ""),
        "plain.joblib": (PAYLOAD, "pickle"),
        "behind-an-array.joblib": (joblib(eight * 3, behind, f8, (3,)), ""),
        "behind-a-hostile-array.joblib": (joblib(b"..N0....", behind, f8, (1,)), ""),
        "behind-no-array.joblib": (joblib(b"", behind, f8, (0,)), ""),
        "object-array.joblib": (joblib(PAYLOAD, b"", objects, (1,)), ""),
        "object-array-then.joblib": (joblib(GOOD, behind, objects, (1,)), ""),
        "gzip.joblib": (gzip.compress(joblib(eight, behind, f8, (1,)), mtime=0), ""),
        "xz.joblib": (lzma.compress(joblib(eight, behind, f8, (1,))), ""),
        "cut.joblib": (joblib(eight, behind, f8, (1,))[:-1], ""),
    }  # fmt: skip


def disguised() -> dict[str, tuple[bytes, str]]:
    """Behind a wrong suffix; in front of, inside of or behind something else."""
    bad = zipped(torch_records())
    suffixes = (
        "txt",
        "md",
        "json",
        "png",
        "py",
        "onnx",
        "safetensors",
        "h5",
        "gguf",
        "pb",
        "npz",
        "log",
    )
    made = {f"pickle.{suffix}": (PAYLOAD, "pickle") for suffix in suffixes}
    made |= {f"torch.{suffix}": (bad, "") for suffix in ("pkl", "npy", "safetensors", "jpg")}
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  '
    safe = struct.pack("<Q", len(header)) + header + ONE
    return made | {
        "pickle-no-suffix": (PAYLOAD, "pickle"),
        "weights.params": (PAYLOAD, "pickle"),
        "pickle-as-torch.bin": (PAYLOAD_2, "pickle"),
        "pickle-as-torch.pt": (PAYLOAD_2, "pickle"),
        "text-protocol-0.txt": (TEXT_PAYLOAD, "pickle"),
        "pickle-then-zip.pt": (PAYLOAD_2 + good_and(), "pickle"),
        "pickle-then-zip-shifted.pt": (_shifted(PAYLOAD_2, good_and()), "pickle"),
        "good-pickle-then-zip.pt": (GOOD + bad, ""),
        "png-then-zip.png": (PNG + bad, ""),
        "gif-and-pickle.gif": (b"GIF89a\x01\0\x010" + TEXT_PAYLOAD, "pickle"),
        "bmp-and-pickle.bmp": (b"BM\x10\0\0" + bytes(4173) + b"0" + TEXT_PAYLOAD, "pickle"),
        "gguf-and-pickle.gguf": (b"GGUF\x03\0\0\0\x010" + TEXT_PAYLOAD, "pickle"),
        "readme-and-pickle.md": (b"Version 1.0 of this model\n0" + TEXT_PAYLOAD, "pickle"),
        "tar-and-pickle.tar": (tarred([("V x\n0" + TEXT_PAYLOAD.decode(), b"hello")]), "pickle"),
        "gif-then-zip.gif": (GIF + bad, ""),
        "text-then-zip.md": (b"# A model\n\nRead me first.\n" + bad, ""),
        "safetensors-then-zip.safetensors": (safe + bad, ""),
        "safetensors-then-pickle.safetensors": (safe + PAYLOAD, ""),
        "zip-then-pickle.pt": (good_and() + PAYLOAD_2, ""),
        "lfs-then-pickle.pt": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64
            + b"\nsize 12\n" + PAYLOAD, ""),
        "zip-and-tar.pt": (_zip_and_tar(), ""),
        "tar-and-zip.pt": (tarred([("a", b"hello")]) + bad, ""),
        "gzip-then-zip.gz": (gzip.compress(b"hello", mtime=0) + bad, ""),
        "npy-then-zip.npy": (npy(bytes(8), "'<f8'") + bad, ""),
        "pdf-then-zip.pdf": (b"%PDF-1.4\n%%EOF\n" + bad, ""),
        "elf-then-zip": (b"\x7fELF\x02\x01\x01" + bytes(57) + bad, ""),
        "seven-zip.pth": (b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(64), ""),
    }  # fmt: skip


def _shifted(front: bytes, behind: bytes) -> bytes:
    """Data in front of a zip whose offsets count it."""
    made = bytearray(behind)
    at = central(behind)
    while made[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<HHH", made, at + 28)
        (offset,) = struct.unpack_from("<I", made, at + 42)
        struct.pack_into("<I", made, at + 42, offset + len(front))
        at += 46 + name + extra + comment
    (start,) = struct.unpack_from("<I", made, at + 16)
    struct.pack_into("<I", made, at + 16, start + len(front))
    return front + bytes(made)


def _zip_and_tar() -> bytes:
    """Its first bytes are those of a zip, and it is a tar that holds the payload."""
    name = b"PK\x03\x04model"
    made = bytearray(tarred([("x" * len(name), PAYLOAD_2)]))
    made[: len(name)] = name
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made[:512])
    return bytes(made)


SOURCES = {
    "pickle-as-torch.bin": "CVE-2025-10155", "pickle-as-torch.pt": "CVE-2025-10155",
    "bad-crc.pt": "CVE-2025-10156", "bad-local-crc.pt": "CVE-2025-10156",
    "zip-odd-name.zip": "CVE-2025-1889", "weights.params": "CVE-2025-1889",
    "extra-without-suffix.pt": "CVE-2025-1889",
    "local-name-differs.pt": "CVE-2025-1944", "local-flag-encrypted.pt": "CVE-2025-1945",
    "central-flag-encrypted.pt": "CVE-2025-1945", "both-flags-encrypted.pt": "CVE-2025-1945",
    "flag-patched-data.pt": "CVE-2025-1945", "flag-masked.pt": "CVE-2025-1945",
    "tar-storages.pth": "CVE-2025-32434", "tar-tensors.pth": "CVE-2025-32434",
    "tar-pickle.pth": "CVE-2025-32434", "seven-zip.pth": "nullifAI",
    "legacy-computed-magic.pth": "picklescan/scanner.py",
    "array.npy": PAPER, "arrays.npz": PAPER, "plain.joblib": PAPER, "gzip.pkl.gz": PAPER,
    "bzip2.pkl.bz2": PAPER, "xz.pkl.xz": PAPER, "lzma.pkl.lzma": PAPER, "zlib.pkl.z": PAPER,
    "script-constants.pt": PAPER, "tar.tar": PAPER, "behind-an-array.joblib": PAPER,
    "package.pt": PAPER, ".metadata": PAPER,
    "storage-said-too-long.pt": "CVE-2026-24747", "storage-said-twice.pt": "CVE-2026-24747",
    "tensor-beyond-storage.pt": "CVE-2026-24747",
    "cut.joblib": "https://github.com/protectai/modelscan/pull/356",
}  # fmt: skip

LEAST = {
    "seven-zip.pth": "unreadable",  # it says that it is 7z, and that nobody looked inside
    "method-unknown.pt": "unreadable",
    # Nobody can read them, not even who would be harmed by them.
    "both-flags-encrypted.pt": "unreadable",
    "central-flag-encrypted.pt": "unreadable",
    "flag-masked.pt": "unreadable",
    "lfs-then-pickle.pt": "unreadable",
    "safetensors-then-pickle.safetensors": "unreadable",
    # Memory is reached, not code (CVE-2026-24747); of torch 2.13 an error.
    "storage-said-too-long.pt": "unreadable",
    "tensor-beyond-storage.pt": "unreadable",
    "storage-said-twice.pt": "unknown",
    # No reader is known that would get at the payload; yet no honest file is like that.
    "zip-then-pickle.pt": "unknown",
    "tar-behind-the-end.tar": "unknown",
    "as-the-storage.pt": "unknown",
}

LOADED = {
    "plain.pt": "torch", "plain.pth": "torch", "protocol-4.ckpt": "torch", "deflated.pt": "torch",
    "comment.pt": "torch", "in-state.pt": "torch",
    "bad-crc.pt": "torch", "no-crc.pt": "torch",
    "local-name-differs.pt": "torch", "version-needed.pt": "torch",
    "twice-evil-last.pt": "torch", "bad-local-crc.pt": "torch", "zip64.pt": "torch",
    "local-flag-encrypted.pt": "torch", "legacy-object.pth": "torch", "legacy-magic.pth": "torch",
    "legacy-protocol.pth": "torch", "legacy-system-info.pth": "torch", "legacy-all.pth": "torch",
    "legacy-keys.pth": "torch", "legacy-computed-magic.pth": "torch", "legacy-cut.pth": "torch",
    "tar-pickle.pth": "torch", "tar-storages.pth": "torch", "tar-tensors.pth": "torch",
    "pickle-as-torch.bin": "torch", "pickle-as-torch.pt": "torch", "descriptor.pt": "torch",
    "pickle-then-zip.pt": "torch",
    "torch-parameter-state.pt": "torch",
    "gzip-cut.gz": "gzip", "gzip-bad-crc.gz": "gzip",
    ".metadata": "pickle",
}  # fmt: skip


def samples() -> list[Sample]:
    """All of them."""
    made = []
    groups: tuple[Callable[[], dict[str, tuple[bytes, str]]], ...] = (packed, arrays, disguised)
    for group in groups:
        made += [_sample(name, data, how) for name, (data, how) in group().items()]
    for plain in (torch_zips, hostile_zips, legacies, tars_and_nests):
        made += [_sample(name, data, LOADED.get(name, "")) for name, data in plain().items()]
    return made


def _sample(name: str, data: bytes, how: str) -> Sample:
    how = LOADED.get(name, how)
    needs = {"torch": ("torch",), "numpy": ("numpy",)}.get(how, ())
    return Sample(name, data, SOURCES.get(name, OWN), LEAST.get(name, "dangerous"), how, "", needs)
