"""What a file is, told by its content and never by its name, and the one way to open it.

The order is torch's: a file that begins as a zip does is one, a tar with torch's members is a
tar, and all else that is not known to be something else is read as pickles. What a zip does
not need is imported when it is met: most files are zips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.errors import DamagedError
from ptinspect.limits import LIMITS, Limits

if TYPE_CHECKING:
    from ptinspect.formats.archive import Archive
    from ptinspect.formats.identity import Identity
    from ptinspect.formats.zip_directory import ZipDirectory
    from ptinspect.source.base import Source

LOCAL = b"PK\x03\x04"

HEAD = 4096
"""Bytes that are looked at before it is decided what a file is."""


def open_archive(source: Source, limits: Limits = LIMITS, *, inside: bool = False) -> Archive:
    """Opens what `source` holds. inside: it is a shard, and no index of others.

    Raises FormatError, which names what it is, for what torch.save does not write;
    DamagedError for what is cut off or inconsistent; LimitError.
    """
    head = source.read(0, min(source.size, HEAD))
    if head.startswith(LOCAL):
        return _open_zip(source, limits)
    from ptinspect.formats.first_bytes import first_bytes

    named = first_bytes(source, head, limits)
    if named is None:
        from ptinspect.formats.pickles import open_pickle

        return open_pickle(source, head, limits)
    if named.format == "safetensors":
        from ptinspect.formats.safetensors import read_safetensors

        return read_safetensors(source, limits)
    if named.format == "torch-legacy-tar":
        from ptinspect.formats.tar_members import members
        from ptinspect.formats.torch_tar import read_tar

        return read_tar(source, members(source, limits), limits)
    if named.format in ("safetensors-index", "torch-index") and not inside:
        from ptinspect.formats.index import read_index

        return read_index(source, limits)
    raise named.refused()


def identify(source: Source, limits: Limits = LIMITS) -> Identity | None:
    """What a file is, and no more of it; None if nothing is known that begins so.

    Raises DamagedError for a zip or tar whose directory cannot be read.
    """
    head = source.read(0, min(source.size, HEAD))
    if head.startswith(LOCAL):
        return _zip_kind(source, limits)[1]
    from ptinspect.formats.first_bytes import first_bytes
    from ptinspect.formats.pickles import pickle_kind

    return first_bytes(source, head, limits) or pickle_kind(source, head, limits)


def _zip_kind(source: Source, limits: Limits) -> tuple[ZipDirectory, Identity, str]:
    """The zip's directory, what it is, and the folder that torch.save's pickle is in."""
    from ptinspect.formats.zip_directory import ZipDirectory
    from ptinspect.formats.zip_end import has_end, several
    from ptinspect.formats.zip_kinds import SEVERAL, kind_of

    if not has_end(source):
        from ptinspect.formats.zip_cut import cut_zip

        raise cut_zip(source, limits)
    try:
        directory = ZipDirectory(source, limits)
    except DamagedError:
        if several(source):
            raise SEVERAL.refused() from None
        raise
    return directory, *kind_of(directory.names, directory.index)


def _open_zip(source: Source, limits: Limits) -> Archive:
    directory, kind, folder = _zip_kind(source, limits)
    if kind.format != "torch-zip":
        raise kind.refused()
    from ptinspect.formats.torch_zip import open_zip

    return open_zip(source, directory, folder, limits)
