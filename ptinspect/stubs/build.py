"""Build a stub: collect the file's objects, infer its classes, write them as Python.

`stubbed(path)` supplies the classes of a file while a block runs, and removes them afterwards.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

from ptinspect.document.entries import select_model
from ptinspect.errors import DamagedError, PtInspectError, UnsupportedError, add_error_path
from ptinspect.pickling.pyobjects import dotted
from ptinspect.safety.load_advice import advise_loading, path_to_load
from ptinspect.stubs.collect.definitions import Deferred, Definition, Instance
from ptinspect.stubs.collect.object_graph import ObjectGraph, collect_objects
from ptinspect.stubs.collect.safe_globals import ImportTable, collect_safe_globals
from ptinspect.stubs.collect.source import NONE, Expr, names_in
from ptinspect.stubs.collect.values import is_identifier, prose
from ptinspect.stubs.infer.constructors import infer_constructors
from ptinspect.stubs.infer.post_init import all_post_init, infer_post_init, unregistered_hooks
from ptinspect.stubs.infer.state_dict import infer_model
from ptinspect.stubs.write_classes import write_assignments
from ptinspect.stubs.write_module import StubContent, write_module
from ptinspect.stubs.write_package import check_target_folder, package_files, write_package
from ptinspect.text import bounded_repr, join_names, python_literal, shell_word

if TYPE_CHECKING:
    from os import PathLike

    from ptinspect.document import Document
    from ptinspect.document.modules import Module
    from ptinspect.pickling.pyobjects import Path

_READ_SIZE = 1 << 20
NO_MODULE = "The file holds no module."
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class StubOptions:
    """Options of a stub, which `stub` explains. `recorded_source` is its `recovered_source`."""

    entry: str | None = None
    class_name: str | None = None
    recorded_source: bool = True
    guess_forward: bool = False


def stub(
    file: str | PathLike[str] | BinaryIO,
    *,
    entry: str | None = None,
    class_name: str | None = None,
    recovered_source: bool = True,
    guess_forward: bool = False,
) -> str:
    """Return Python source that defines the classes which a file needs.

    Args:
        file: path of the file, or a binary file object.
        entry: path of the model that `build()` creates, e.g. `model_ema`. Default: the first.
        class_name: write only this class and what it needs.
        recovered_source: use source code that the file contains.
        guess_forward: write a forward that calls the children in order. Often wrong; it warns.

    Raises:
        PtInspectError: as `ptinspect.open`; or the entry or class does not exist.
    """
    from ptinspect.document import open

    with open(file) as document:
        return stub_of(document, StubOptions(entry, class_name, recovered_source, guess_forward))


def stub_of(document: Document, options: StubOptions | None = None) -> str:
    """Return the stub of an open file."""
    with add_error_path(document.path):
        is_whole = options is None or (options.entry, options.class_name) == (None, None)
        if document.archive.format == "torchscript" and is_whole:
            from ptinspect.stubs.torchscript import torchscript_stub

            return torchscript_stub(document, _sha256(document))
        return write_module(stub_content(document, options or StubOptions()))


def untranslated(source: str) -> list[str]:
    """Return the functions of a TorchScript program that its stub could not translate."""
    return re.findall(r"raise NotImplementedError\([\"']not translated: (.*)[\"']\)", source)


def stub_package(
    file: str | PathLike[str] | BinaryIO,
    folder: str | PathLike[str],
    *,
    force: bool = False,
    entry: str | None = None,
    class_name: str | None = None,
    recovered_source: bool = True,
    guess_forward: bool = False,
) -> list[str]:
    """Write the classes which a file needs as a package, one file per original module.

    Args:
        folder: of the package. Its name must be an identifier.
        force: replace the folder if it contains only what ptinspect wrote.

    The other arguments are those of `stub`.

    Returns:
        The names of the files in the folder.

    Raises:
        PtInspectError: as `stub`; or the folder exists, or cannot be written.
    """
    from ptinspect.document import open

    target = os.fspath(folder)
    check_target_folder(target, force)
    options = StubOptions(entry, class_name, recovered_source, guess_forward)
    with open(file) as document:
        with add_error_path(document.path):
            # The files of an archive of torch.package, which are made a package by their folders.
            modules: dict[str, str] = getattr(document.archive, "modules", {})
            invalid = [
                p for p in modules if not all(map(is_identifier, p.removesuffix(".py").split("/")))
            ]
            if invalid:
                raise DamagedError(f"a module has the name {bounded_repr(invalid[0])}")
            name = prose(os.path.basename(document.path))
            title = f"# recorded in {name}, written by ptinspect\n"
            files = {path: f"{title}{text}" for path, text in modules.items()}
            files = files or package_files(stub_content(document, options))
        write_package(files, target, force)
    return sorted(files)


def stub_content(document: Document, options: StubOptions) -> StubContent:
    """Collect and infer everything that is written to a stub."""
    _refuse_programs(document)
    archive = document.archive
    built, path = select_model(document.modules, document.contents.state_dicts, options.entry)
    objects = collect_objects(document, built, options.recorded_source)
    model = infer_model(document, path, objects) if path is not None else None
    in_root = {id(module.call) for _, module in built.walk()} if built is not None else set()
    classes, deferred = infer_constructors(objects, in_root)
    deferred = [*objects.deferred, *deferred]
    root, root_statements, assigned = all_post_init(objects, classes, deferred, built)
    hooks = unregistered_hooks(built) if built is not None else []
    alternatives: list[str] = []
    if model is not None:
        root, alternatives, post_init = model
        classes[root.definition.path].post_init = post_init
    objects.unwritten |= {item.description: None for item in deferred}
    file_name = prose(os.path.basename(path_to_load(document)))
    devices = {tensor.device for tensor in document.contents.tensors}
    advice = advise_loading(file_name, archive.format, archive.facts, archive.streams, (), devices)
    imports = ImportTable(objects.names)
    safe_globals = collect_safe_globals(
        document.globals, objects.definitions, objects.calls, imports, advice.blockers
    )
    content = StubContent(
        file_name=file_name,
        sha256=_sha256(document),
        definitions=list(objects.definitions.values()),
        all_definitions=objects.definitions,
        classes=classes,
        parts=objects.parts,
        root=root,
        root_statements=root_statements,
        build_description=_build_description(document, options, built, path, root),
        safe_globals=safe_globals,
        imports=imports,
        load_call=advice.call,
        convert_command=_convert_command(document) if safe_globals.blockers else "",
        alternatives=alternatives,
        unwritten=[text for text in objects.unwritten if text not in assigned],
        zeroed=list(objects.zeroed),
        hooks=hooks,
        guess_forward=options.guess_forward,
    )
    if options.class_name is None:
        return content
    definition = _select_definition(content.definitions, options.class_name, document.path)
    return _with_one_class(content, definition, objects, deferred)


def _refuse_programs(document: Document) -> None:
    if document.archive.format == "torch-export":
        raise UnsupportedError(
            "a program of torch.export has a graph and no classes",
            hint=f"torch.export.load({python_literal(document.path)}).module() is a module",
        )
    if document.archive.format == "torchscript":
        raise UnsupportedError(
            "the code of a TorchScript program is written as one file",
            hint=f"ptinspect stub {shell_word(document.path)} -o model_def.py",
        )


def _build_description(
    document: Document, options: StubOptions, built: Module | None, path: Path | None, root: Expr
) -> str:
    """Return the docstring of `build()`."""
    if root is NONE:
        return NO_MODULE
    if built is None:
        place = f"state_dict at {prose(dotted(path))}" if path else "file's state_dict"
        what = f"A model that takes the {place}"
    elif built.call is document.archive.root:
        what = "The file's root"
    elif options.entry is not None:
        what = f"The module at {prose(options.entry)}"
    else:
        what = "The first module in the file"
    return f"{what}, with untrained numbers."


def _convert_command(document: Document) -> str:
    """Return the command that writes the file's models without their classes; "" if none does."""
    from ptinspect.conversion.convert_file import find_refusal

    if not document.modules and not document.contents.state_dicts:
        return ""
    if not os.path.exists(document.path):  # it cannot be read again
        return "ptinspect convert"
    if find_refusal(document.path, "state_dict") is None:
        return "ptinspect convert"
    every = find_refusal(document.path, "state_dict", all_entries=True) is None
    return "ptinspect convert --all-entries" if every else ""


def _sha256(document: Document) -> str:
    digest, source = sha256(), document.archive.source
    for offset in range(0, source.size, _READ_SIZE):
        digest.update(source.read(offset, min(_READ_SIZE, source.size - offset)))
    return digest.hexdigest()


# A single class


def _select_definition(definitions: list[Definition], name: str, path: str) -> Definition:
    """Return the definition with a path, qualified name, last name or identifier."""
    problem, hint, choice = f"the file needs no class {prose(name)}", "the file needs", definitions
    names = [(d.path, d.qualname, d.qualname.rpartition(".")[2], d.ident) for d in definitions]
    for spellings in zip(*names, strict=True):
        matches = [d for d, text in zip(definitions, spellings, strict=True) if text == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            problem, choice = f"{len(matches)} classes are named {prose(name)}", matches
            hint = "use --class with one of"
            break
    paths = (prose(item.path if item.usage.name else item.ident) for item in choice)
    listed = join_names(paths, MAX_LISTED) or "none"
    raise PtInspectError(problem, path=path, hint=f"{hint}: {listed}")


def _with_one_class(
    content: StubContent, definition: Definition, objects: ObjectGraph, deferred: list[Deferred]
) -> StubContent:
    """Return the content for a class and what it needs; `build()` creates its first object."""
    root, root_statements = content.root, content.root_statements
    if not isinstance(root, Instance) or root.definition is not definition:
        first = definition.instances[0] if definition.instances else None
        inferred = content.classes.get(definition.path)
        root, root_statements = first or NONE, inferred.in_build if inferred is not None else []
        module = first.module if first is not None else None
        if module is not None and inferred is not None and inferred.post_init is None:
            post_init = infer_post_init(objects, content.classes, deferred, module, "model")
            root_statements = [*post_init[0], *post_init[2]]
    names = {definition.ident, *names_in(root), *write_assignments(root_statements, 4).names}
    paths, parts = _needed(content, names)
    description = content.build_description
    if definition.instances:
        description = f"The first {definition.ident} in the file, with untrained numbers."
    elif description.startswith("A model that takes"):
        description = NO_MODULE
    left_out = [item for item in content.definitions if item.path not in paths]
    return replace(
        content,
        definitions=[item for item in content.definitions if item.path in paths],
        parts={name: expr for name, expr in content.parts.items() if name in parts},
        root=root,
        root_statements=root_statements,
        build_description=description,
        safe_globals=content.safe_globals.without({item.ident for item in left_out}),
        selected=definition,
        left_out=[item.path for item in left_out],
    )


def _needed(content: StubContent, names: set[str]) -> tuple[set[str], set[str]]:
    """Return the paths of the classes and the part functions that some names need."""
    definitions = {item.ident: item for item in content.definitions}
    paths: set[str] = set()
    seen: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop().partition(".")[0]
        if name in seen:
            continue
        seen.add(name)
        if name in content.parts:
            stack += names_in(content.parts[name])
        elif name in definitions:
            item = definitions[name]
            paths.add(item.path)
            stack += content.source_of(item).names
            outer = content.all_definitions.get(item.outer_path)
            stack += [outer.ident] if outer is not None else []
    return paths, seen & set(content.parts)


# The classes of a stub while a block runs


@contextmanager
def stubbed(
    file: str | PathLike[str], *, entry: str | None = None, recovered_source: bool = True
) -> Iterator[ModuleType]:
    """Supply the classes that `file` needs to any torch.load in a block, also with weights_only.

        with ptinspect.stubbed("model.pth") as model_def:
            model = torch.load("model.pth")

    Args:
        entry: path of the model that `build()` creates. Default: the first.
        recovered_source: use source code that the file contains.

    Yields:
        The stub as a module.

    Raises:
        PtInspectError: as `ptinspect.open`.
        ImportError: torch is not installed.
    """
    source = stub(file, entry=entry, recovered_source=recovered_source)
    module = ModuleType("ptinspect_stub")
    before = _ModuleState()
    try:
        exec(compile(source, "<stub>", "exec"), vars(module))  # noqa: S102 - our own source
        serialization = getattr(sys.modules.get("torch"), "serialization", None)
        if not serialization:
            yield module
        else:
            # `safe_globals` removes all its entries in the end, so entries that were there before
            # must not be among them.
            existing = serialization.get_safe_globals()
            new = [pair for pair in module.SAFE_GLOBALS if pair not in existing]
            with serialization.safe_globals(new):
                yield module
    finally:
        before.restore()


class _ModuleState:
    """What a stub changes in the running program: finders, modules, and names in modules."""

    def __init__(self) -> None:
        self.finders = list(sys.meta_path)
        self.modules = dict(sys.modules)
        self.namespaces = {
            name: dict(vars(module))
            for name, module in self.modules.items()
            if "__stubbed__" in getattr(module, "__dict__", {}) or name == "__main__"
        }

    def restore(self) -> None:
        """Remove what a stub has added since. Other imported modules remain."""
        sys.meta_path[:] = [f for f in sys.meta_path if f in self.finders or not _is_from_stub(f)]
        for name, module in list(sys.modules.items()):
            namespace = getattr(module, "__dict__", None)
            spec = getattr(module, "__spec__", None)
            loaders = getattr(module, "__loader__", None), getattr(spec, "loader", None)
            if name not in self.modules and any(map(_is_from_stub, loaders)):
                del sys.modules[name]
                package, _, last = name.rpartition(".")
                outer = getattr(sys.modules.get(package), "__dict__", {})
                if outer.get(last) is module:
                    del outer[last]
            elif isinstance(namespace, dict) and isinstance(namespace.get("__stubbed__"), set):
                # Restore names that a stub has set in a module that exists without it.
                names, before = namespace["__stubbed__"], self.namespaces.get(name, {})
                earlier = before.get("__stubbed__", ())
                for ident in list(names) if isinstance(earlier, Collection) else ():
                    if ident in before:
                        namespace[ident] = before[ident]
                    elif ident not in earlier:
                        namespace.pop(ident, None)
                        names.discard(ident)
                if not names and isinstance(earlier, Collection):
                    del namespace["__stubbed__"]


def _is_from_stub(thing: object) -> bool:
    return type(thing).__name__ == "_Finder" and type(thing).__module__ == "ptinspect_stub"
