"""Python source for the classes that a file needs and that are not at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.stubs.build import Options, Work
from ptinspect.stubs.write.module import stub_source

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from ptinspect.document import Document


def stub_of(document: Document, options: Options | None = None) -> str:
    """The stub of an opened file."""
    from ptinspect.errors import add_error_path

    with add_error_path(document.path):
        return stub_source(Work(document, options or Options()))


def stub(
    file: str | PathLike[str] | BinaryIO,
    *,
    entry: str | None = None,
    class_name: str | None = None,
    recovered_source: bool = True,
    guess_forward: bool = False,
) -> str:
    """Python source that defines the classes which `file` needs. Raises as `ptinspect.open`."""
    from ptinspect.document import open

    options = Options(entry, class_name, recovered_source, guess_forward)
    with open(file) as document:
        return stub_of(document, options)


def stub_package(
    file: str | PathLike[str] | BinaryIO,
    folder: str | PathLike[str],
    *,
    force: bool = False,
    entry: str | None = None,
    class_name: str | None = None,
    recovered_source: bool = True,
    guess_forward: bool = False,
) -> None:
    """Writes the classes which `file` needs as a package, one file per original module. Raises
    as `ptinspect.open`; PtInspectError where the folder exists (without `force`)."""
    import os

    from ptinspect.document import open
    from ptinspect.errors import add_error_path
    from ptinspect.stubs.write.package import package_files, ready, write_package

    ready(os.fspath(folder), force)
    options = Options(entry, class_name, recovered_source, guess_forward)
    with open(file) as document:
        with add_error_path(document.path):
            files = package_files(Work(document, options))
        write_package(files, os.fspath(folder), force)


__all__ = ["Options", "stub", "stub_of", "stub_package"]
