"""Generate `ptinspect/safety/plain_classes.txt` from sources of Python, torch, numpy and sympy.

`python -m tests.safety.plain_classes FOLDER…` reads the folders of several versions of Python
(`/usr/lib/python3.11`); without any, that of the running one. Nothing is imported. Of the installed
packages, of which the policy forbids whole modules, only enumerations, exceptions and what a call
makes (`Enum("Name", …)`) are listed. A class is listed if, in every version that has it,
constructing and filling an object of it does nothing but set attributes: its methods that pickle or
the constructor call, its own and inherited ones, call only what is in `HARMLESS`. Enumerations are
listed as well. A class of which this is only true without its constructor, as NEWOBJ creates an
object, has a `~` in front; an exception has a `!`.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import sys
import sysconfig
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).parents[2] / "ptinspect" / "safety" / "plain_classes.txt"

_LEFT_OUT = """
test idlelib lib2to3 turtledemo distutils ensurepip site-packages dist-packages __phello__ tkinter
turtle antigravity this ctypes pydoc_data __pycache__ encodings _pyrepl __hello__ _sitebuiltins
_bootsubprocess
"""

_PLAIN_BASES = """
object dict list tuple set frozenset int float complex str bytes bool property Enum IntEnum Flag
IntFlag StrEnum ReprEnum NamedTuple Generic Protocol ABC OrderedDict
"""

# Functions and methods that a harmless constructor may call.
_HARMLESS = """
isinstance issubclass len super dict list set tuple str int float bool bytes repr range zip
enumerate min max sum sorted reversed abs any all frozenset id hash callable deque OrderedDict
defaultdict namedtuple append extend lower upper split join strip rstrip lstrip get items keys
values copy startswith endswith replace format encode decode add pop insert count index find
partition rpartition hasattr __setattr__ isidentifier isdigit cast TypeVar ord chr
"""

_ENUMS = ("Enum", "IntEnum", "Flag", "IntFlag", "StrEnum")
LEFT_OUT = frozenset(_LEFT_OUT.split())
HARMLESS = frozenset(_HARMLESS.split())
_CLASSES = [each for each in vars(builtins).values() if isinstance(each, type)]
ERRORS = [each for each in _CLASSES if issubclass(each, BaseException)]
PLAIN_BASES = frozenset(_PLAIN_BASES.split()) | {each.__name__ for each in ERRORS}

PACKAGES = ("numpy", "sympy", "torch")

MARKS = ("", "~", "", "!")
"""What is in front of a class, by its rank."""

CREATED = ("__new__", "__setstate__", "__hash__", "__eq__", "__setattr__")
"""Methods that are called to create an object by NEWOBJ and BUILD, and to put it into a set."""

CALLED = (*CREATED, "__init__", "__post_init__", "__len__", "__setitem__", "append", "extend",
          "update", "setdefault")  # fmt: skip
"""Methods that pickle, the constructor or a container calls."""

HOOKS = ("__del__", "__getattr__", "__getattribute__", "__class_getitem__")
"""Methods that make a class more than its constructor shows."""


class Class(NamedTuple):
    """A class of a source: its bases, as dotted texts, and its body."""

    module: str
    node: ast.ClassDef
    imports: dict[str, str]


def main(folders: list[Path]) -> None:
    """Write the file."""
    ranks: dict[str, int] = {}
    for folder in folders:
        for name, rank in classes(folder).items():
            ranks[name] = min(ranks.get(name, rank), rank)
    for package in PACKAGES:
        ranks |= package_classes(package)
    by_module: dict[str, list[str]] = {}
    for name, rank in sorted(ranks.items()):
        module, _, attribute = name.partition(":")
        if rank:
            by_module.setdefault(module, []).append(MARKS[rank] + attribute)
    lines = [f"{module} {' '.join(names)}\n" for module, names in by_module.items()]
    TARGET.write_text("".join(lines), "utf-8")


def package_classes(package: str) -> dict[str, int]:
    """Return the ranks of the enumerations and the plain exceptions of an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    found, called = _sources(Path(spec.origin).parent, package)
    ranks = _ranks(found, called)
    is_enum = {name: name in called or _is_derived(name, found, _ENUMS) for name in ranks}
    return {
        name: rank for name, rank in ranks.items() if rank == 3 or (rank == 2 and is_enum[name])
    }


def classes(folder: Path) -> dict[str, int]:
    """Return a rank for each `module:name`: 2 for a plain class, 1 if its constructor is not plain,
    3 for a plain exception."""
    return _ranks(*_sources(folder))


def _ranks(found: dict[str, Class], enums: set[str]) -> dict[str, int]:
    created: dict[str, bool] = {}
    called: dict[str, bool] = {}
    ranks = {
        name: _is_plain(name, found, CREATED, created) + _is_plain(name, found, CALLED, called)
        for name in found
    }
    ranks |= {name: 3 for name, rank in ranks.items() if rank == 2 and _is_error(name, found)}
    return {**dict.fromkeys(enums, 2), **ranks}


def _sources(folder: Path, package: str = "") -> tuple[dict[str, Class], set[str]]:
    """Return the classes in a folder by `module:name`, and the names of those made by calls."""
    found: dict[str, Class] = {}
    enums: set[str] = set()
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if LEFT_OUT & set(parts) or (package and parts[0] == "testing"):
            continue
        if any(part.startswith(("test_", "_test")) for part in parts):
            continue
        module = ".".join(part for part in (package, *parts) if part not in ("", "__init__"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tree = ast.parse(path.read_bytes())
            except SyntaxError:
                continue
        imports = _imports(tree, module, path.name == "__init__.py")
        _collect(tree.body, module, "", imports, found)
        enums |= {f"{module}:{name}" for name in _converted(tree)}
    return found, enums


def _imports(tree: ast.Module, module: str, is_package: bool) -> dict[str, str]:
    """Return where names of a module come from: `{"deque": "collections:deque"}`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + is_package]
            origin = ".".join([*base, node.module or ""]) if node.level else node.module or ""
            for alias in node.names:
                names[alias.asname or alias.name] = f"{origin.strip('.')}:{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = alias.name
    return names


def _collect(
    body: list[ast.stmt], module: str, outer: str, imports: dict[str, str], into: dict[str, Class]
) -> None:
    for node in body:
        if isinstance(node, ast.ClassDef):
            name = f"{outer}{node.name}"
            into[f"{module}:{name}"] = Class(module, node, imports)
            _collect(node.body, module, f"{name}.", imports, into)
        elif isinstance(node, ast.If | ast.Try):
            _collect([*node.body, *node.orelse], module, outer, imports, into)


def _converted(tree: ast.Module) -> list[str]:
    """Return the names of classes made by `IntEnum._convert_("Name", …)`, `Enum("Name", …)` and
    `namedtuple("Name", …)`."""
    makers = ("_convert_", "namedtuple", *_ENUMS)
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in makers
    ]
    named = ([*call.args[:1], *(each.value for each in call.keywords)][:1] for call in calls)
    return [str(name.value) for (name,) in named if isinstance(name, ast.Constant)]


def _is_plain(
    name: str, found: dict[str, Class], called: tuple[str, ...], known: dict[str, bool]
) -> bool:
    if name in known:
        return known[name]
    if name not in found:
        return name.rpartition(":")[2].rpartition(".")[2] in PLAIN_BASES
    known[name] = False  # until the bases are known: no class is its own base
    module, node, imports = found[name]
    methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
    bases = [_base(base, module, imports) for base in node.bases]
    known[name] = (
        not any(hook in methods for hook in HOOKS)
        and all(base is not None and _is_plain(base, found, called, known) for base in bases)
        and all(ast.unparse(k.value).rpartition(".")[2] in ("ABCMeta", "EnumType", "EnumMeta")
                for k in node.keywords if k.arg == "metaclass")
        and all(_is_quiet(methods[each], methods, set()) for each in called if each in methods)
    )  # fmt: skip
    return known[name]


def _is_error(name: str, found: dict[str, Class]) -> bool:
    return _is_derived(name, found, {error.__name__ for error in ERRORS})


def _is_derived(
    name: str, found: dict[str, Class], roots: Collection[str], depth: int = 16
) -> bool:
    if name not in found:
        return name.rpartition(":")[2] in roots
    module, node, imports = found[name]
    bases = [_base(base, module, imports) for base in node.bases]
    return depth > 0 and any(base and _is_derived(base, found, roots, depth - 1) for base in bases)


def _base(node: ast.expr, module: str, imports: dict[str, str]) -> str | None:
    """Return the `module:name` of a base, or None for what is computed."""
    if isinstance(node, ast.Subscript):
        node = node.value  # Generic[T]
    if isinstance(node, ast.Call):  # namedtuple("A", "b c")
        name = ast.unparse(node.func).rpartition(".")[2]
        return "collections:NamedTuple" if name == "namedtuple" else None
    text = ast.unparse(node)
    for name, origin in imports.items():
        if text == name or text.startswith(f"{name}."):
            origin = origin if ":" in origin else f"{origin}:{text[len(name) + 1 :]}"
            return origin.replace("collections.abc:", "_collections_abc:")
    return f"{module}:{text}" if text not in PLAIN_BASES else text


def _is_quiet(method: ast.FunctionDef, methods: dict[str, ast.FunctionDef], seen: set[str]) -> bool:
    """Return True if a method calls only harmless functions, and methods that do so."""
    seen.add(method.name)
    for node in ast.walk(method):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.With | ast.Delete):
            return False
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        is_super = ".__init__" in ast.unparse(node.func) or ".__new__" in ast.unparse(node.func)
        if name in HARMLESS or is_super or name.endswith(("Error", "Exception", "Warning")):
            continue
        is_own = isinstance(node.func, ast.Attribute) and name in methods
        if not is_own or (name not in seen and not _is_quiet(methods[name], methods, seen)):
            return False
    return True


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]] or [Path(sysconfig.get_paths()["stdlib"])])
