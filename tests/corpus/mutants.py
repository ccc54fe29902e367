"""Damaged and malicious variants of files, the same ones for the same seed.

`mutant(data, rng)` changes a file in one of the ways of `WAYS`. A zip is also changed inside, and
its directory made anew, so that the change reaches the machine and the document.
"""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000)
HUGE = (0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF, 1 << 40)
# Names that would do something if anybody looked them up.
NAMES = (
    b"posix\nsystem\n", b"builtins\nexec\n", b"os\nremove\n", b"subprocess\nPopen\n",
    b"torch._utils\n_rebuild_tensor_v2\n", b"torch\nFloatStorage\n", b"collections\nOrderedDict\n",
    b"torch.nn.modules.linear\nLinear\n", b"builtins\ngetattr\n", b"_codecs\nencode\n",
)  # fmt: skip


def flip(data: bytearray, rng: Random) -> None:
    """One to eight bits."""
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)


def replace(data: bytearray, rng: Random) -> None:
    """One to four bytes by any other."""
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)


def number(data: bytearray, rng: Random) -> None:
    """A number where one may stand: a length, a count, an offset."""
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(INTERESTING + HUGE) & ((1 << 8 * width) - 1)
    at = rng.randrange(len(data))
    data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))


def truncate(data: bytearray, rng: Random) -> None:
    """Cut off, rather near the end than near the beginning."""
    del data[int(len(data) * max(rng.random(), rng.random())) :]


def remove(data: bytearray, rng: Random) -> None:
    """A run of bytes is missing."""
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 64)]


def repeat(data: bytearray, rng: Random) -> None:
    """A run of bytes is there again, somewhere."""
    at, to = rng.randrange(len(data)), rng.randrange(len(data))
    data[to:to] = data[at : at + rng.randint(1, 256)]


def swap(data: bytearray, rng: Random) -> None:
    """Two runs of bytes have changed places."""
    size = rng.randint(1, 64)
    a, b = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    if a + size <= b and b + size <= len(data):
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def opcodes(data: bytearray, rng: Random) -> None:
    """Some opcodes with arguments, in the middle of whatever is there."""
    at = rng.randrange(len(data))
    data[at:at] = soup(rng, rng.randint(1, 6))


def soup(rng: Random, count: int) -> bytes:
    """Opcodes of every protocol, each with an argument of its kind, often an absurd one."""
    return b"".join(_opcode(rng.choice(pickletools.opcodes), rng) for _ in range(count))


def _opcode(op: pickletools.OpcodeInfo, rng: Random) -> bytes:
    code = op.code.encode("latin1")
    if op.name in ("GLOBAL", "INST"):
        return code + rng.choice(NAMES)
    if op.arg is None:
        return code
    size = op.arg.n
    if size == pickletools.UP_TO_NEWLINE:
        return code + rng.choice((b"1\n", b"-0\n", b"'a'\n", b"nan\n", b"9" * 5000 + b"\n"))
    if size >= 0:
        return code + rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    width = {"1": 1, "4": 4, "8": 8}[op.arg.name.rstrip("u")[-1]]
    held = rng.randbytes(rng.choice((0, 1, 8, 40)))
    length = len(held) if rng.random() < 0.7 else rng.choice(HUGE) & ((1 << 8 * width) - 1)
    return code + length.to_bytes(width, "little") + held


WAYS: tuple[Callable[[bytearray, Random], None], ...] = (
    flip, replace, number, truncate, remove, repeat, swap, opcodes,
)  # fmt: skip


def mutant(data: bytes, rng: Random) -> bytes:
    """A variant of a file; two in three of a zip's are changed inside a record."""
    if data[:4] == b"PK\x03\x04" and rng.random() < 0.7:
        changed = inside(data, rng)
        if changed is not None:
            return changed
    made = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(WAYS)(made, rng)
        if not made:
            break
    return bytes(made)


def inside(data: bytes, rng: Random) -> bytes | None:
    """The zip written anew with one record changed, missing, or there twice."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as held:
            records = [(info.filename, held.read(info)) for info in held.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError):
        return None
    pickled = [at for at, (name, _) in enumerate(records) if name.endswith(".pkl")]
    at = rng.choice(pickled) if pickled and rng.random() < 0.8 else rng.randrange(len(records))
    name, body = records[at]
    changed = bytearray(body or b"\0")
    if rng.random() < 0.5:  # a byte alone, which often leaves a pickle that can be run
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    else:
        rng.choice(WAYS)(changed, rng)
    chance = rng.random()
    if chance < 0.05:
        del records[at]
    elif chance < 0.1:
        records.append((name, bytes(changed)))
    else:
        records[at] = (name, bytes(changed))
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as held:
        warnings.simplefilter("ignore")  # a record twice is meant
        for name, body in records:
            held.writestr(zipfile.ZipInfo(name), body)
    return out.getvalue()


def only_soup(rng: Random) -> bytes:
    """No file at all: a protocol, opcodes, the end."""
    return b"\x80" + bytes([rng.randint(0, 5)]) + soup(rng, rng.randint(1, 60)) + b"."


SIZES = (0, 1, 2, 3, 4, 5, 8, 16, -1, -2, 1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1)
STORAGES = "Float Long Bool ComplexFloat Untyped BFloat16 Half QUInt4x2 QInt8"


def odd_tensor(rng: Random) -> bytes:
    """A whole file with one tensor of 64 bytes, whose size, stride and offset may be anything."""
    dims = rng.randint(0, 4)
    size, stride = ([rng.choice(SIZES) for _ in range(dims)] for _ in "ab")
    kind = f"{rng.choice(STORAGES.split())}Storage"
    numel, offset = rng.choice((16, 16, 4, 0, -1, 1 << 40)), rng.choice((0, 0, 0, *SIZES))
    return tensor_file(size, stride, offset, kind, numel)


def tensor_file(
    size: list[int], stride: list[int], offset: int, kind: str = "FloatStorage", numel: int = 16
) -> bytes:
    """A zip of torch.save with the tensor `w`, over 64 bytes."""
    named = b"".join(map(_text, ("storage", "0", "cpu")))
    key = named[:12] + b"ctorch\n" + kind.encode() + b"\n" + named[12:] + _int(numel)
    call = b"ctorch._utils\n_rebuild_tensor_v2\n((" + key + b"tQ" + _int(offset)
    shape = b"(" + b"".join(map(_int, size)) + b"t(" + b"".join(map(_int, stride)) + b"t"
    body = b"\x80\x02}" + _text("w") + call + shape + b"\x89ccollections\nOrderedDict\n)RtRs."
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as held:
        held.writestr("archive/data.pkl", body)
        held.writestr("archive/byteorder", b"little")
        held.writestr("archive/data/0", bytes(range(64)))
        held.writestr("archive/version", b"3\n")
    return out.getvalue()


def _text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _int(number: int) -> bytes:
    return b"\x8a\x09" + number.to_bytes(9, "little", signed=True)
