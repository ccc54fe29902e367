"""A stub as a package: one file per original module, `models/yolo.py`.

The package itself, imported by its name, defines and registers all, as a stub in one file does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ptinspect.atomic_file import already_exists_error, atomic_folder
from ptinspect.errors import PtInspectError
from ptinspect.stubs.expr.identifiers import RESERVED, plain, prose
from ptinspect.stubs.expr.nodes import laid_out
from ptinspect.stubs.write.module import (
    ASSEMBLED,
    RESULT,
    ending,
    export_key,
    framed,
    imports_of,
    nested_lines,
)
from ptinspect.stubs.write.select_class import lines_of, names_in

if TYPE_CHECKING:
    from ptinspect.stubs.build import Work
    from ptinspect.stubs.collect.classes import Plan

_WINDOWS = frozenset({"con", "prn", "aux", "nul"})


class _Module:
    """A file: where it lies (folders and name), its lines, and what it defines."""

    def __init__(self, path: tuple[str, ...], title: str) -> None:
        self.path = path
        self.title = title
        self.lines: list[str] = []
        self.idents: list[str] = []
        self.plans: list[Plan] = []
        self.needs: dict[tuple[str, ...], list[str]] = {}
        self.package = False
        self.noqa = False


def package_files(work: Work) -> dict[str, str]:
    """Text by path within the package, `/` between folders."""
    modules = _modules(work)
    homes = {ident: path for path, module in modules.items() for ident in module.idents}
    for module in modules.values():
        for name in names_in(module.lines):
            if name in homes and homes[name] != module.path:
                module.needs.setdefault(homes[name], []).append(name)
    reach = _reached(modules)
    files = {"__init__.py": framed(work, ending(work, False), _root_imports(work, modules, homes))}
    for path, module in modules.items():
        for end in range(1, len(path)):
            files.setdefault("/".join((*path[:end], "__init__.py")), "")
        name = "/".join((*path, "__init__")) if module.package else "/".join(path)
        files[f"{name}.py"] = _text(work, module, modules, reach)
    return files


def _modules(work: Work) -> dict[tuple[str, ...], _Module]:
    paths = _Paths({plan.ident for plan in work.plans})
    made: dict[tuple[str, ...], _Module] = {}
    for plan in work.in_order:
        path = paths.of(plan.module)
        title = f"Classes of {prose(plan.module)}, written by ptinspect from the file alone."
        module = made.setdefault(path, _Module(path, title))
        module.lines += ["", "", *lines_of(work, plan)]
        module.plans.append(plan)
        module.idents.append(plan.ident)
        module.noqa = module.noqa or bool(plan.recovered or (plan.traced and plan.traced.lines))
    parts = [line for name, expr in work.parts
             for line in ("", "", f"def {name}():", *laid_out("return ", expr, "", 4))]  # fmt: skip
    if parts:
        home = made[paths.own("_parts")] = _Module(paths.own("_parts"), "Parts that nest deep.")
        home.lines, home.idents = parts, [name for name, _ in work.parts]
    written = "\n".join(line for module in made.values() for line in module.lines)
    written += work.root.text
    for name, text in (("_assembled", ASSEMBLED), ("_Result", RESULT)):
        if f"{name}(" in written:
            path = paths.own("_support")
            home = made.setdefault(path, _Module(path, "What the classes here share."))
            home.lines += ["", *text.rstrip().split("\n")]
            home.idents.append(name)
    for path in made:
        made[path].package = any(other[: len(path)] == path and other != path for other in made)
    return made


class _Paths:
    """Files for modules: a file system's names, none twice, whatever a module is called. A module
    is an attribute of its package, and must not be one that the package has: `torch`, a class."""

    def __init__(self, idents: set[str]) -> None:
        self._idents = idents | RESERVED
        self._known: dict[str, tuple[str, ...]] = {}
        self._taken: dict[tuple[tuple[str, ...], str], str] = {}

    def of(self, module: str) -> tuple[str, ...]:
        """Folders and name."""
        if module not in self._known:
            path: tuple[str, ...] = ()
            for part in module.split(".")[:20]:
                path = (*path, self._part(path, part))
            while path in self._known.values():
                path = (*path[:-1], f"{path[-1]}_")
            self._known[module] = path
        return self._known[module]

    def own(self, name: str) -> tuple[str, ...]:
        """A module of the package's own, under a name that none of the file's has."""
        key = f"\0{name}"
        if key not in self._known:
            while any(path[0].lower() == name for path in self._known.values()):
                name += "_"
            self._known[key] = (name,)
        return self._known[key]

    def _part(self, folder: tuple[str, ...], part: str) -> str:
        name = part.strip("_") if part.startswith("__") else part
        if not (plain(name) and name.isascii() and len(name) <= 60):
            name = "".join(char if char.isascii() and char.isalnum() else "_" for char in name)
            name = f"m_{name[:50]}"
        if name.lower() in _WINDOWS or name in self._idents:
            name += "_"
        while self._taken.setdefault((folder, name.lower()), part) != part:
            name += "_"
        return name


def _reached(
    modules: dict[tuple[str, ...], _Module],
) -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """Which modules are imported, in the end, when one is; its packages before it."""
    made = {}
    for start in modules:
        seen: set[tuple[str, ...]] = set()
        todo = list(_imported(start, modules))
        while todo:
            path = todo.pop()
            if path not in seen:
                seen.add(path)
                todo += _imported(path, modules)
        made[start] = seen
    return made


def _imported(
    path: tuple[str, ...], modules: dict[tuple[str, ...], _Module]
) -> list[tuple[str, ...]]:
    outer = [path[:end] for end in range(1, len(path)) if path[:end] in modules]
    return [*modules[path].needs, *outer]


def _from(module: _Module | None, path: tuple[str, ...], names: list[str]) -> list[str]:
    """`from ..models.common import Conv`."""
    depth = 0 if module is None else len(module.path) - (not module.package)
    head = f"from {'.' * (depth + 1)}{'.'.join(path)} import "
    names = sorted(names, key=_import_key)
    line = head + ", ".join(names)
    if len(line) <= 88 and len(names) < 20:
        return [line]
    return [f"{head}(", *[f"    {name}," for name in names], ")"]


def _import_key(name: str) -> tuple[int, list[tuple[int, int, str]], str]:
    """isort's order of what one module gives: constants, classes, the rest; whatever the case."""
    group, _ = export_key(name)
    return group, export_key(name.lower())[1], name


def _root_imports(
    work: Work, modules: dict[tuple[str, ...], _Module], homes: dict[str, tuple[str, ...]]
) -> list[str]:
    used = {*names_in(ending(work, False)), *(plan.ident for plan in work.plans)}
    lines: list[str] = []
    for path in sorted(modules):
        names = [ident for ident in modules[path].idents if ident in used and homes[ident] == path]
        lines += _from(None, path, names) if names else []
    return lines


def _text(
    work: Work,
    module: _Module,
    modules: dict[tuple[str, ...], _Module],
    reach: dict[tuple[str, ...], set[tuple[str, ...]]],
) -> str:
    """One file. What needs this module in turn is imported at its end."""
    first: list[str] = []
    last: list[str] = []
    for path, names in sorted(module.needs.items()):
        if module.path in reach[path] or path[: len(module.path)] == module.path:
            _late(work, module, names)
            last += _from(module, path, names)
        else:
            first += _from(module, path, names)
    imports = imports_of(work, "\n".join(module.lines), False)
    imports = [] if imports[0].startswith("#") else imports
    head = [f'"""{module.title}"""', *(["# ruff: noqa"] if module.noqa else [])]
    for group in (imports, first):
        head += ["", *group] if group else []
    body = module.lines if module.lines[:2] == ["", ""] else ["", *module.lines]
    body = [*body, *nested_lines(work, module.plans)]
    lines = [*head, *body, *(["", "", *last] if last else [])]
    return "\n".join(lines).rstrip("\n") + "\n"


def _late(work: Work, module: _Module, names: list[str]) -> None:
    """Defaults of arguments are there before a module's last lines are read: those that need
    what is imported there are made when the constructor is called."""
    solved = [work.solved[plan.path] for plan in module.plans if plan.path in work.solved]
    changed = False
    for one in solved:
        for at, argument in enumerate(one.arguments):
            default = argument.default
            if default is None or argument.late or not {*names_in([default.text])} & {*names}:
                continue
            one.arguments[at] = argument._replace(late=True)
            changed = True
    if changed:
        module.lines = [line for plan in module.plans for line in ("", "", *lines_of(work, plan))]


# --- the folder


def write_package(files: dict[str, str], folder: str, force: bool = False) -> None:
    """The folder appears whole or not at all. PtInspectError where it exists; with `force` it
    is replaced, if nothing is in it but what ptinspect wrote."""
    ready(folder, force)
    with atomic_folder(folder) as temporary:
        for name, text in files.items():
            path = os.path.join(temporary, *name.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())


def ready(folder: str, force: bool) -> None:
    """Whether a package may be written there."""
    target = os.path.realpath(folder)
    name = os.path.basename(target)
    if not plain(name):
        hint = "letters, digits and _: such as model_def"
        raise PtInspectError("Python cannot import a package of that name", path=folder, hint=hint)
    if not os.path.isdir(os.path.dirname(target)):
        raise PtInspectError("the folder that it would lie in does not exist", path=folder)
    if not os.path.lexists(target):
        return
    if not force:
        raise already_exists_error(folder)
    if not os.path.isdir(target):
        raise PtInspectError("it is no folder", path=folder)
    for place, folders, names in os.walk(target):
        folders[:] = [one for one in folders if one != "__pycache__"]
        for one in names:
            path = os.path.join(place, one)
            if not _ours(path):
                hint = "take it away, or name another folder"
                raise PtInspectError("ptinspect did not write it", path=path, hint=hint)


def _ours(path: str) -> bool:
    if not path.endswith(".py") or os.path.islink(path):
        return False
    with open(path, "rb") as file:
        head = file.read(1_000)
    known = (b"written by ptinspect", b'"""Parts that nest', b'"""What the classes here share')
    return not head or any(text in head for text in known)
