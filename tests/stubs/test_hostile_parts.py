"""Hostile names where a stub writes more than classes: files, traced code, references, members."""

from __future__ import annotations

import ast
import io
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptinspect.document import open as open_document
from ptinspect.errors import PtInspectError
from ptinspect.stubs.build import StubOptions, stub_content
from ptinspect.stubs.write_package import package_files, write_package
from tests.stubs.test_hostile import NASTY, check, check_bodies, line, module, names, stub_of, text
from tests.stubs.trying import run_script

PATHS = [
    "..", "../../x", "..\\x", ".", "/etc/x", "c:\\x", "con", "CON.aux", "nul.txt", "torch",
    "torch_.nn", "__init__", "models.__init__", "os", "sys", "types", "A.b", "a.B", "a.b", "a",
    "x" * 300, "é.ﬁ", "build", "SAFE_GLOBALS", "nn", "Net", "Net_2", "_support", "_parts", "np.x",
    "model_def", "a..b", " ", "__main__", "import", "warnings.x", "collections_.abc", "_finder",
]  # fmt: skip


def files_of(data: bytes) -> dict[str, str]:
    with open_document(io.BytesIO(b"\x80\x02" + data + b".")) as document:
        return package_files(stub_content(document, StubOptions()))


def many(paths: list[str]) -> bytes:
    """A list of modules, each of a class `Net` of its own path."""
    nets = [module(path, "Net", {"at": number}, {}) for number, path in enumerate(paths)]
    return b"](" + b"".join(nets) + b"e"


def check_files(files: dict[str, str]) -> None:
    """Each lies in the folder, under a name that every file system and Python takes."""
    assert len({name.lower() for name in files}) == len(files)
    for name, source in files.items():
        parts = name.removesuffix(".py").split("/")
        for part in parts:
            assert part.isidentifier() and part.isascii() and len(part) < 70, name
            assert part.lower() not in ("con", "aux", "nul", "prn"), name
        assert all(part != "__init__" for part in parts[:-1])
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level <= len(parts)
        local = [row for row in source.split("\n") if not row.startswith(("from .", "    "))]
        plain = [row for row in local if row != ")"] if "from ." in source else local
        assert "\n".join(plain).isprintable() or all(row.isprintable() for row in plain)


@given(st.lists(st.one_of(st.sampled_from(PATHS), names), min_size=1, max_size=6))
@example(PATHS)
def test_a_package_stays_in_its_folder(paths: list[str]) -> None:
    try:
        files = files_of(many(paths))
    except PtInspectError:
        return
    check_files(files)


def test_such_a_package_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    files = files_of(many(PATHS))
    write_package(files, str(tmp_path / "model_def"))
    assert sorted(os.listdir(tmp_path)) == ["model_def"]
    script = "import sys, torch, model_def\nassert torch.zeros(1) == 0"
    run_script(tmp_path, f"{script}\nassert len(model_def.__all__) > 20\nmodel_def.build()")


def traced(name: str, code: str, imports: str) -> bytes:
    """A GraphModule."""
    stores = b"".join(text(key) + b"}" for key in ("_parameters", "_buffers", "_modules"))
    body = b"}(" + stores + text("_code") + text(code)
    body += text("_graphmodule_cls_name") + text(name) + b"u"
    call = b"c" + line("torch.fx.graph_module") + line("reduce_graph_module")
    return call + body + text(imports) + b"\x86R"


CODES = [
    "def forward(self, x):\n    return x",
    'def forward(self):\n    """a\\"""\\n"""\n    return "\u202e"',
    "def forward(self, x=__import__('os').system('true')): pass",
    "import os\nos.system('true')",
    "def forward(self):\n    return '''\nimport os\n'''",
    "async def forward(self): pass",
    "def forward(self):\n\timport os; os.system('true')",
    "def forward(self, \u0301): pass",
    "lambda: 0",
]


@given(names, st.one_of(st.sampled_from(CODES), names), names)
@example("nn", CODES[0], "import os as torch\nfrom os import system as x")
@example("__init__", CODES[1], "from torch import load as forward")
def test_traced_code_is_source_or_nothing(name: str, code: str, imports: str) -> None:
    source = stub_of(traced(name, code, imports))
    if source is not None:
        check(source)
        compile(source, "stub", "exec")


@pytest.mark.parametrize("code", CODES)
def test_what_each_code_becomes(code: str) -> None:
    source = stub_of(traced("GraphModule", code, "import torch.hub\nimport os"))
    assert source is not None
    check(source)
    head = source.partition("def forward(")[0]
    assert "import os" not in head.replace('"import os"', "").replace('"    import os', "")


def referring(key: str, name: str) -> bytes:
    """A module that holds itself, and one of its bound methods, in attributes."""
    stores = b"".join(text(store) + b"}" for store in ("_parameters", "_buffers", "_modules"))
    bound = b"c" + line("builtins") + line("getattr") + b"h\x00" + text(name) + b"\x86R"
    held = text(key) + b"](h\x00" + bound + b"e" + text("me" + key) + b"h\x00"
    return b"c" + line("__main__") + line("Net") + b")\x81q\x00}(" + stores + held + b"ub"


@given(names, names)
def test_references_are_attributes_or_nothing(key: str, name: str) -> None:
    source = stub_of(referring(key, name))
    if source is not None:
        check(source)
        check_bodies(source)


@given(st.lists(names, min_size=1, max_size=4))
@example(["mro", "name", "value", "_x_", "__class__"])
@example(NASTY[:8])
def test_members_of_enums_are_quoted(values: list[str]) -> None:
    calls = [b"c" + line("proj") + line("Color") + text(value) + b"\x85R" for value in values]
    calls += [
        b"c" + line("builtins") + line("getattr") + b"c" + line("proj") + line("Kind")
        + text(value) + b"\x86R"
        for value in values
    ]  # fmt: skip
    source = stub_of(b"](" + b"".join(calls) + b"e")
    if source is not None:
        check(source)
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
        for kind in classes:
            if kind.name in ("Color", "Kind") and "enum" in ast.unparse(kind):
                scope: dict[str, object] = {}
                exec(compile("import enum\n" + ast.unparse(kind), "stub", "exec"), scope)
