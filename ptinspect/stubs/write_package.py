"""Write a stub as a package, with one file for each original module: `models/yolo.py`.

Importing the package defines and registers everything, like a stub that is a single file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace

from ptinspect.atomic_file import already_exists_error, atomic_folder
from ptinspect.errors import PtInspectError
from ptinspect.stubs.collect.definitions import RESERVED, Definition
from ptinspect.stubs.collect.source import Expr, Source, names_in, templates
from ptinspect.stubs.collect.values import is_identifier, prose
from ptinspect.stubs.infer.constructors import InferredClass
from ptinspect.stubs.write_module import (
    SUPPORT,
    StubContent,
    export_key,
    from_import,
    noqa_comment,
    registration_template,
    write_ending,
    write_file,
    write_imports,
    write_nested_names,
    write_part,
)

ModulePath = tuple[str, ...]
"""Folders and name of a module, below the package."""

_WINDOWS_DEVICES = frozenset({"con", "prn", "aux", "nul"})
_WRITTEN_BY_US = (b"written by ptinspect", b'"""Parts that nest', b'"""What ')
MAX_MODULE_DEPTH = 20
MAX_NAMES_PER_LINE = 20


@dataclass(slots=True)
class _Module:
    """A file of the package: the names that it defines, and those that it needs, by module."""

    path: ModulePath
    title: str
    source: Source = field(default_factory=Source)
    idents: list[str] = field(default_factory=list)
    definitions: list[Definition] = field(default_factory=list)
    needs: dict[ModulePath, list[str]] = field(default_factory=dict)
    is_package: bool = False


def package_files(content: StubContent) -> dict[str, str]:
    """Return the text of each file by its path in the package, with `/` between folders."""
    modules = _modules(content)
    homes = {ident: path for path, module in modules.items() for ident in module.idents}
    for module in modules.values():
        for name in sorted(_first_names(module.source)):
            if homes.get(name, module.path) != module.path:
                module.needs.setdefault(homes[name], []).append(name)
    reachable = {path: _reachable(path, modules) for path in modules}
    ending = write_ending(content, with_template=False)
    used = _first_names(ending) | {definition.ident for definition in content.definitions}
    root_imports: list[str] = []
    for path in sorted(modules):
        names = [ident for ident in modules[path].idents if ident in used]
        root_imports += _relative_import(None, path, names) if names else []
    files = {"__init__.py": write_file(content, ending, root_imports)}
    for path, module in modules.items():
        for end in range(1, len(path)):
            files.setdefault("/".join((*path[:end], "__init__.py")), "")
        name = "/".join((*path, "__init__")) if module.is_package else "/".join(path)
        files[f"{name}.py"] = _file_text(content, module, reachable)
    return files


def _first_names(source: Source | Expr | None) -> set[str]:
    names = names_in(source) if isinstance(source, Expr) else source.names if source else ()
    return {name.partition(".")[0] for name in names}


def _modules(content: StubContent) -> dict[ModulePath, _Module]:
    paths = _ModulePaths({definition.ident for definition in content.definitions})
    modules: dict[ModulePath, _Module] = {}
    for definition in content.leaves_first:
        path = paths.path_of(definition.module)
        title = f"Classes of {prose(definition.module)}, written by ptinspect from the file alone."
        module = modules.setdefault(path, _Module(path, title))
        module.definitions.append(definition)
        module.idents.append(definition.ident)
    for module in modules.values():
        module.source = _definitions_source(content, module)
    if content.parts:
        path = paths.own_path("_parts")
        module = modules[path] = _Module(path, "Parts that nest deep.")
        module.idents = list(content.parts)
        for name, expr in content.parts.items():
            module.source.extend(write_part(name, expr))
    names = names_in(content.root).union(*(module.source.names for module in modules.values()))
    for name, code in SUPPORT.items():
        if name in names:
            path = paths.own_path("_support")
            module = modules.setdefault(path, _Module(path, "What the classes here share."))
            module.source.extend(templates()[code])
            module.idents.append(name)
    registering = registration_template(content.definitions)
    if registering.lines:
        path = paths.own_path("_register")
        module = modules[path] = _Module(path, "What registers the classes here.", registering)
        module.idents = ["_finder", "_register"]
    for path, module in modules.items():
        module.is_package = any(other[:-1][: len(path)] == path for other in modules)
    return modules


def _definitions_source(content: StubContent, module: _Module) -> Source:
    source = Source()
    for definition in module.definitions:
        source.add("", "")
        source.extend(content.source_of(definition))
    return source


class _ModulePaths:
    """Gives each module a path of its own, with names that every file system accepts.

    A module is an attribute of its package, and must not replace one that the package has, such as
    `torch` or a class.
    """

    def __init__(self, idents: set[str]) -> None:
        self._reserved = idents | RESERVED
        self._paths: dict[str, ModulePath] = {}
        self._parts: dict[tuple[ModulePath, str], str] = {}

    def path_of(self, module: str) -> ModulePath:
        """Return the path for a module of the file."""
        if module not in self._paths:
            path: ModulePath = ()
            for part in module.split(".")[:MAX_MODULE_DEPTH]:
                path = (*path, self._part(path, part))
            while path in self._paths.values():
                path = (*path[:-1], f"{path[-1]}_")
            self._paths[module] = path
        return self._paths[module]

    def own_path(self, name: str) -> ModulePath:
        """Return the path for a module that only the package has."""
        key = f"\0{name}"
        if key not in self._paths:
            while any(path[0].lower() == name for path in self._paths.values()):
                name += "_"
            self._paths[key] = (name,)
        return self._paths[key]

    def _part(self, folder: ModulePath, part: str) -> str:
        name = part.strip("_") if part.startswith("__") else part
        if not (is_identifier(name) and name.isascii() and len(name) <= 60):
            name = re.sub(r"[^A-Za-z0-9]", "_", f"m_{name[:50]}")
        if name.lower() in _WINDOWS_DEVICES or name in self._reserved:
            name += "_"
        while self._parts.setdefault((folder, name.lower()), part) != part:
            name += "_"
        return name


def _reachable(start: ModulePath, modules: dict[ModulePath, _Module]) -> set[ModulePath]:
    """Return the modules that are imported, directly or not, when a module is."""
    reachable: set[ModulePath] = set()
    stack = [start]
    while stack:
        path = stack.pop()
        outer = [path[:end] for end in range(1, len(path)) if path[:end] in modules]
        for imported in (*modules[path].needs, *outer):
            if imported not in reachable:
                reachable.add(imported)
                stack.append(imported)
    return reachable


def _relative_import(module: _Module | None, path: ModulePath, names: list[str]) -> list[str]:
    """Return `from ..models.common import Conv`; without a module, for the package itself."""

    def key(name: str) -> tuple[int, list[tuple[int, int, str]], str]:
        # isort's order of names from one module: constants, classes, the rest, in any case.
        return export_key(name)[0], export_key(name.lower())[1], name

    depth = 0 if not module else len(module.path) - (not module.is_package)
    head = f"from {'.' * (depth + 1)}{'.'.join(path)} import"
    return from_import(head, sorted(names, key=key), MAX_NAMES_PER_LINE)


def _file_text(
    content: StubContent, module: _Module, reachable: dict[ModulePath, set[ModulePath]]
) -> str:
    """Return the text of one file. Imports that lead back to the file are at its end."""
    first: list[str] = []
    last: list[str] = []
    late_names: set[str] = set()
    for home, names in sorted(module.needs.items()):
        if module.path in reachable[home] or home[: len(module.path)] == module.path:
            late_names.update(names)
            last += _relative_import(module, home, names)
        else:
            first += _relative_import(module, home, names)
    source = module.source
    # Defaults in a signature are evaluated before the last lines of the file: those that need late
    # imports are created in constructors.
    changed: dict[str, InferredClass] = {}
    for path in (item.path for item in module.definitions if item.path in content.classes):
        inferred = content.classes[path]
        parameters = [
            item._replace(
                default_in_body=item.default_in_body
                or not late_names.isdisjoint(_first_names(item.default))
            )
            for item in inferred.parameters
        ]
        if parameters != inferred.parameters:
            changed[path] = replace(inferred, parameters=parameters)
    if changed:
        source = _definitions_source(replace(content, classes=content.classes | changed), module)
    imports = write_imports(source.names)
    lines = [f'"""{module.title}"""', *noqa_comment(module.definitions)]
    for group in (imports, first):
        lines += ["", *group] if group else []
    lines += source.lines
    lines += write_nested_names(content, module.definitions).lines
    lines += ["", "", *last] if last else []
    return "\n".join(lines).rstrip("\n") + "\n"


# The folder


def write_package(files: dict[str, str], folder: str, force: bool = False) -> None:
    """Write the folder whole or not at all."""
    check_target_folder(folder, force)
    with atomic_folder(folder) as temporary:
        for name, text in files.items():
            path = os.path.join(temporary, *name.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())


def check_target_folder(folder: str, force: bool) -> None:
    """Raise PtInspectError if a package may not be written to a folder."""
    target = os.path.realpath(folder)
    if not is_identifier(os.path.basename(target)):
        hint = "use letters, digits and _, for example model_def"
        raise PtInspectError("Python cannot import a package of that name", path=folder, hint=hint)
    if not os.path.isdir(os.path.dirname(target)):
        raise PtInspectError("the parent folder does not exist", path=folder)
    if not os.path.lexists(target):
        return
    if not force:
        raise already_exists_error(folder)
    if not os.path.isdir(target):
        raise PtInspectError("not a folder", path=folder)
    for parent, folders, names in os.walk(target):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = os.path.join(parent, name)
            head = b"?"
            if path.endswith(".py") and not os.path.islink(path):
                with open(path, "rb") as file:
                    head = file.read(1_000)
            if head and not any(text in head for text in _WRITTEN_BY_US):
                hint = "remove it, or choose another folder"
                raise PtInspectError("not written by ptinspect", path=path, hint=hint)
