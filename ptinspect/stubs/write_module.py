"""Write the whole stub: docstring, imports, classes, `build()`, `SAFE_GLOBALS`, registration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptinspect.stubs.collect.modules import ASSEMBLED
from ptinspect.stubs.collect.source import (
    NONE,
    WIDTH,
    Expr,
    Name,
    Sequence,
    Source,
    call_expr,
    layout_assignment,
    templates,
)
from ptinspect.stubs.collect.values import is_attribute, prose, text_literal
from ptinspect.stubs.infer.constructors import InferredClass
from ptinspect.stubs.write_classes import write_assignments, write_definition

if TYPE_CHECKING:
    from ptinspect.stubs.collect.definitions import Definition
    from ptinspect.stubs.collect.safe_globals import ImportTable, SafeGlobals
    from ptinspect.stubs.infer.constructors import Assignment

SUPPORT = {ASSEMBLED: "assembled_function", "_Result": "result_class"}
"""Templates of functions and classes that a stub may use, by name."""
_UNKNOWN_STATE = "; how it restores its state, which the stub keeps in `state`"
MAX_LISTED = 50
"""Attributes that the docstring lists."""


@dataclass(slots=True)
class StubContent:
    """Everything that is written to a stub.

    Attributes:
        definitions: in the file's order; `all_definitions`, by path, has also those left out.
        classes: constructors by path; leaves first.
        parts: functions for expressions that are nested deep, by name.
        root: what `build()` returns, or None if there is nothing to build.
        root_statements: what `build()` sets on the root.
        load_call: the line of Python that loads the file with SAFE_GLOBALS.
        convert_command: the command that writes the models without their classes, or "".
        alternatives: for a state_dict, in words, what its modules could be instead.
        hooks: those of the root that `build()` does not register, in words.
        unwritten, zeroed: see `ObjectGraph`.
        selected: the class that was asked for. `left_out` are the paths of all others.
    """

    file_name: str
    sha256: str
    definitions: list[Definition]
    all_definitions: dict[str, Definition]
    classes: dict[str, InferredClass]
    parts: dict[str, Expr]
    root: Expr
    root_statements: list[Assignment]
    build_description: str
    safe_globals: SafeGlobals
    imports: ImportTable
    load_call: str
    convert_command: str
    alternatives: list[str]
    unwritten: list[str]
    zeroed: list[str]
    hooks: list[str]
    guess_forward: bool
    selected: Definition | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def leaves_first(self) -> list[Definition]:
        """Definitions in an order in which each is before those that use it."""
        order = {path: place for place, path in enumerate(self.classes)}
        return sorted(self.definitions, key=lambda item: order.get(item.path, -1))

    def source_of(self, definition: Definition) -> Source:
        """Return the source of a class or function."""
        inferred = self.classes.get(definition.path) or InferredClass(definition)
        return write_definition(definition, inferred, self.guess_forward)


def write_module(content: StubContent) -> str:
    """Return the text of a stub that is a single file."""
    body = Source()
    for name, expr in content.parts.items():
        body.extend(write_part(name, expr))
    for definition in content.leaves_first:
        body.add("", "")
        body.extend(content.source_of(definition))
    body.extend(write_nested_names(content, content.definitions))
    body.extend(write_ending(content))
    support = Source()
    for name, code in SUPPORT.items():
        if name in body.names:
            support.extend(templates()[code])
    support.extend(body)
    return write_file(content, support)


def write_part(name: str, expr: Expr) -> Source:
    """Return a function for an expression that is nested deep."""
    source = Source(["", "", f"def {name}():"])
    source.add_expr("return ", expr, 4)
    return source


def write_file(
    content: StubContent, body: Source, relative_imports: list[str] | None = None
) -> str:
    """Return the text of a file: docstring, imports (relative ones last), `__all__`, body."""
    imports = write_imports(body.names, content.imports)
    if relative_imports:
        imports = [*imports, "", *relative_imports] if imports else relative_imports
    exported = {"SAFE_GLOBALS", "build", *(item.ident for item in content.definitions)}
    names: list[Expr] = list(map(text_literal, sorted(exported, key=export_key)))
    lines = [
        *_docstring(content),
        *noqa_comment(content.definitions),
        "",
        *(imports or ["# nothing to import"]),
        "",
        *layout_assignment("__all__", Sequence("[]", names), 0),
        *body.lines,
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def noqa_comment(definitions: Iterable[Definition]) -> list[str]:
    """Return the comment of a file with recorded source, which no linter has seen."""
    return ["# ruff: noqa"] if any(item.recorded.lines for item in definitions) else []


def export_key(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Return the sort key of isort: constants, classes, the rest; numbers by their value."""
    group = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return group, [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


# Body


def write_nested_names(content: StubContent, definitions: list[Definition]) -> Source:
    """Return assignments of classes and functions that are nested in others: `Outer.Inner`."""
    source = Source()
    for definition in definitions:
        owner = content.all_definitions.get(definition.outer_path)
        name = definition.qualname.rpartition(".")[2]
        if not owner or owner.kind == "enum" or not is_attribute(name):
            continue
        source.add(*([] if source.lines else ["", ""]))
        source.add(f"{owner.ident}.{name} = {definition.ident}")
        source.read(owner.ident, definition.ident)
    return source


def write_ending(content: StubContent, with_template: bool = True) -> Source:
    """Return what follows the classes: `build()`, `SAFE_GLOBALS` and registration."""
    source = Source(["", "", "def build():", f'    """{content.build_description}"""'])
    selected = content.selected
    if content.root is NONE:
        missing = f"no {selected.ident} that can be built" if selected is not None else "no module"
        error = call_expr("NotImplementedError", text_literal(f"the file holds {missing}"))
        source.add_expr("raise ", error, 4)
    elif not content.root_statements:
        source.add_expr("return ", content.root, 4)
    else:
        source.add_assignment("model", content.root, 4)
        source.extend(write_assignments(content.root_statements, 4))
        source.add("    return model")
    source.add("", "")
    source.extend(_safe_globals(content.safe_globals))
    code = registration_template(content.definitions)
    if not code.lines:
        return source
    if with_template:
        source.extend(code)
    source.add("", "")
    for item in filter(_can_be_registered, content.definitions):
        path = text_literal(item.module), text_literal(item.qualname)
        source.add_expr("", call_expr("_register", Name(item.ident), *path), 0)
    if code is templates()["register_anywhere"]:
        source.add("_finder.start()")
        source.read("_finder")
    return source


def _safe_globals(safe: SafeGlobals) -> Source:
    """Return the list, with the replacement for getattr."""
    source = Source()
    if any(text == "_reach" for text, _ in safe.pairs):
        source.add("# Names that the replacement for getattr may reach, by owner.")
        rows: list[Expr] = [
            Sequence("()", [Name(owner), Sequence("()", list(map(text_literal, names)))])
            for owner, names in safe.reached.items()
        ]
        source.add_assignment("_REACHED", Sequence("[]", rows), 0)
        source.extend(templates()["reach_function"])
        source.add("", "")
    source.add("# For torch.serialization.safe_globals, under the names in the file.")
    if not safe.pairs:
        source.add("SAFE_GLOBALS = []")
        return source
    source.add("SAFE_GLOBALS = [")
    for text, path in safe.pairs:
        source.add_expr("", Sequence("()", [Name(text), text_literal(path)]), 4, ",")
        source.read(text.removeprefix("type("))  # the class of a numpy dtype
    source.add("]")
    return source


def registration_template(definitions: list[Definition]) -> Source:
    """Return the code that registers names: the long one only if some are not of `__main__`."""
    modules = {item.module for item in definitions if _can_be_registered(item)}
    is_main = modules <= {"__main__", "__mp_main__"}
    return templates()["register_main" if is_main else "register_anywhere"] if modules else Source()


def _can_be_registered(definition: Definition) -> bool:
    """Return True if pickle looks the definition up, and Python allows its name."""
    name, module = definition.qualname.rpartition(".")[2], definition.module
    if not definition.usage.name or definition.usage.by_value or not name:
        return False
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in name + module)


# Docstring


def _docstring(content: StubContent) -> list[str]:
    name = content.file_name
    lines = [f'"""The classes of {name}, written by ptinspect from the file alone.', ""]
    lines += [f"sha256 {content.sha256}", ""]
    if not content.definitions:
        lines += ["The file needs no classes other than torch's and Python's.", ""]
    for definition in content.leaves_first:
        lines += _evidence(definition, content)
    lines += [""] if content.definitions else []
    if content.alternatives:
        words = "Everything is inferred from the keys and shapes of a state_dict:"
        lines += [*_listed(words, sorted(content.alternatives)), ""]
    lines += _loading(content)
    zeros = "Zeros in what build() returns. No state_dict contains them; torch.load restores them:"
    for words, items in {
        "Could not be written, and is None instead:": content.unwritten[:MAX_LISTED],
        zeros: content.zeroed[:MAX_LISTED],
        "Hooks that build() does not register; torch.load does:": content.hooks[:MAX_LISTED],
        "Also needed by the file, but not included here:": content.left_out,
    }.items():
        lines += ["", *_listed(words, items)] if items else []
    return [*lines, '"""']


def _listed(title: str, items: list[str]) -> list[str]:
    return [title, *(f"  - {prose(item)}" for item in items)]


def _loading(content: StubContent) -> list[str]:
    """Return how torch loads the file."""
    safe, call = content.safe_globals, content.load_call
    has_options = "map_location" in call or "encoding" in call
    if safe.blockers:
        lines = _listed("weights_only cannot load it, because it contains", safe.blockers)
        if content.convert_command:
            files = "files" if content.convert_command.endswith("--all-entries") else "a file"
            lines.append(f"`{content.convert_command}` writes {files} that weights_only can load.")
        if call.startswith("torch.load(") and "weights_only" not in call and "#" not in call:
            call = f"{call[:-1]}, weights_only=False)"
        if has_options and call.startswith(("torch.load(", "pickle.load(")):
            lines += ["Without weights_only:", f"    {call}"]
        return lines
    if safe.pairs:
        block = "    with torch.serialization.safe_globals(SAFE_GLOBALS):"
        return ["With weights_only:", block, f"        {call}"]
    if call.startswith("{"):
        return ["Its shards are loaded one by one, without SAFE_GLOBALS:", f"    {call}"]
    if has_options:
        return ["It is loaded without SAFE_GLOBALS:", f"    {call}"]
    return ["torch.load loads it without SAFE_GLOBALS."]


def _evidence(definition: Definition, content: StubContent) -> list[str]:
    """Return what is recorded, inferred and unknown about a class."""
    recorded, usage = definition.recorded, definition.usage
    if recorded.fx_name is not None:
        source = "recorded too: the source of forward, included below"
        return [
            f"{definition.ident}, traced by torch.fx",
            "  recorded: its children and the rest",
            f"  {source}" if recorded.lines else "  left out or not usable: its forward",
        ]
    if not usage.name:
        unknown = ", what its extra state means" if definition.has_extra_state else ""
        title = f"{definition.ident}, a module (inferred)"
        return [title, f"  unknown: its class, forward{unknown}"]
    name = prose(definition.path)
    if definition.kind == "module":
        return [f"{name}, a module", *_module_evidence(definition, content)]
    if definition.kind == "enum":
        lines = [f"{name}, an enum (inferred)"]
        if usage.called:
            lines += ["  recorded: values of members", "  inferred: their names, from the values"]
        if usage.attributes:
            lines += ["  recorded: names of members", "  unknown: their values"]
        return [*lines, "  unknown: other members; whether it is an int or a str as well"]
    kinds = {
        "object": "a class", "class": "a class that is used as a value",
        "function": "a function", "exception": "an exception",
        "tracer": "a subclass of torch.fx.Tracer",
    }  # fmt: skip
    kind = kinds.get(definition.kind, f"a subclass of {definition.kind}")
    unknown = f"what it does{_UNKNOWN_STATE if definition.restores_itself else ''}"
    return [f"{name}, {kind} (inferred)", f"  unknown: {unknown}"]


def _module_evidence(definition: Definition, content: StubContent) -> list[str]:
    inferred_class = content.classes.get(definition.path) or InferredClass(definition)
    base = (inferred_class.base_text or "").rpartition(".")[2]
    inferred = [f"that it extends {base}, and so its forward"] if base else []
    inferred += ["the names of its arguments"] if inferred_class.parameters else []
    if definition.recorded.lines:
        forward = "recorded too: the source of forward, included below"
    elif definition.recorded.has_forward:
        forward = "recorded, and left out here: the source of forward"
    elif base:
        forward = "unknown: whether it has a forward of its own"
    else:
        forward = "guessed: forward" if content.guess_forward else "unknown: forward"
    recorded = "its children, parameters, buffers and attributes"
    if definition.restores_itself:
        recorded, forward = "only what its own code pickles", forward + _UNKNOWN_STATE
    return [
        f"  recorded: {recorded}",
        *([f"  inferred: {'; '.join(inferred)}"] if inferred else []),
        f"  {forward}",
    ]


# Imports

_STANDARD_MODULES = frozenset(
    ("argparse", "collections", "datetime", "enum", "functools", "math", "pathlib", "sys", "types",
     "warnings")
)  # fmt: skip
_NOT_LOADED = "torch.ao."
"""Modules that `import torch` does not load."""


def write_imports(names: set[str], imports: ImportTable | None = None) -> list[str]:
    """Return import statements for dotted names, in isort's order."""
    used = {name.partition(".")[0].partition("(")[0] for name in names}
    standard = {f"import {name}" for name in _STANDARD_MODULES & used}
    if imports is not None:
        standard |= {f"import {name}" for name in imports.modules - _STANDARD_MODULES}
    if "importlib" in used:
        standard |= {"import importlib.machinery", "import importlib.util"}
    standard_lines = sorted(standard)
    if "OrderedDict" in used:
        standard_lines.append("from collections import OrderedDict")
    modules = {name.rpartition(".")[0] for name in names if name.startswith(_NOT_LOADED)}
    plain = {"np": "import numpy as np", "torch": "import torch"}
    third_party = [*map("import {}".format, modules), *(plain[n] for n in plain if n in used)]
    aliases = {"nn": "from torch import nn", "F": "from torch.nn import functional as F"}
    froms = [aliases[name] for name in aliases if name in used]
    guarded: list[str] = []
    for module, idents in sorted(imports.imported_names.items()) if imports is not None else ():
        # Private names come and go between versions of torch.
        private = {pair for pair in idents.items() if pair[0].startswith("_") or "._" in module}
        public = sorted(idents.items() - private)
        if public:
            texts = [n if n == ident else f"{n} as {ident}" for n, ident in public]
            froms.append("\n".join(from_import(f"from {module} import", texts)))
        for name, ident in sorted(private):
            text = name if name == ident else f"{name} as {ident}"
            guarded += ["", "try:", f"    from {module} import {text}"]
            guarded += ["except ImportError:", f"    {ident} = None"]
    third_party, froms = (sorted(x, key=lambda line: line.split()[1]) for x in (third_party, froms))
    third_party += froms
    separator = [""] if standard_lines and third_party else []
    lines = [*standard_lines, *separator, *third_party]
    return [*lines, *(guarded if lines else guarded[1:])]


def from_import(head: str, names: list[str], max_names: int = 1_000) -> list[str]:
    """Return `head names`, in parentheses if that is too long for a line."""
    line = f"{head} {', '.join(names)}"
    if len(line) <= WIDTH and len(names) < max_names:
        return [line]
    return [f"{head} (", *[f"    {name}," for name in names], ")"]
