"""Names and strings of a file cannot put code into its stub."""

from __future__ import annotations

import ast
import io
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptinspect.errors import PtInspectError
from ptinspect.stubs import stub

NASTY = [
    "a\nimport os", '"""', "'''", '"', "\\", "\\\"\"\"", "__import__('os').system('x')", "\u202ex",
    "class", "None", "__class__", "__init__", "self", "nn", "torch", "build", "SAFE_GLOBALS",
    "print", "a b", "", "0", "a.b", "é", "ﬁ", "\x00", "\ud800", "x" * 300, "{x}", "%s", "#",
    "\u2028",
]  # fmt: skip
names = st.one_of(st.sampled_from(NASTY), st.text(max_size=12), st.from_regex(r"\A[a-z_]{1,8}\Z"))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)

IMPORTED = {
    "argparse", "collections", "datetime", "enum", "functools", "importlib", "math", "numpy",
    "pathlib", "sys", "torch", "types", "warnings",
}  # fmt: skip
CALLED_AT_IMPORT = {"_register", "_Finder", "_finder.start", "type", "setattr"}


def line(text: str) -> bytes:
    """A text as GLOBAL has it."""
    return text.replace("\n", " ").encode("utf-8", "surrogatepass") + b"\n"


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + len(raw).to_bytes(4, "little") + raw


def dumped(value: Any) -> bytes:
    """The opcodes that make a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def module(path: str, name: str, attributes: dict[str, Any], children: dict[str, bytes]) -> bytes:
    """The opcodes that make an object with a module's attributes."""
    inside = b"".join(text(key) + child for key, child in children.items())
    own = b"".join(text(key) + dumped(value) for key, value in attributes.items())
    stores = text("_parameters") + b"}" + text("_buffers") + b"}"
    stores += text("_modules") + b"}(" + inside + b"u"
    return b"c" + line(path) + line(name) + b")\x81}(" + own + stores + b"ub"


def stub_of(data: bytes) -> str | None:
    """The stub of a pickle; None where it is refused."""
    try:
        return stub(io.BytesIO(b"\x80\x02" + data + b"."))
    except PtInspectError:
        return None


def check(source: str) -> None:
    """All that stands at the top is a definition, an import, a list of names, a registration."""
    source.encode("utf-8")
    assert not [char for char in source if not char.isprintable() and char != "\n"]
    for node in ast.parse(source).body:
        check_statement(node)


def check_statement(node: ast.stmt) -> None:
    if isinstance(node, ast.Import):
        assert {alias.name.split(".")[0] for alias in node.names} <= IMPORTED
    elif isinstance(node, ast.ImportFrom):
        assert (node.module or "").split(".")[0] in IMPORTED
    elif isinstance(node, ast.ClassDef):
        assert not node.decorator_list
        for inner in node.body:
            documented = isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant)
            assert documented or isinstance(inner, ast.FunctionDef | ast.Pass | ast.Assign)
    elif isinstance(node, ast.FunctionDef):
        assert not node.decorator_list
    elif isinstance(node, ast.Assign):
        for call in ast.walk(node):
            if isinstance(call, ast.Call):
                assert ast.unparse(call.func) in CALLED_AT_IMPORT
    else:
        assert isinstance(node, ast.Expr)
        value = node.value
        if isinstance(value, ast.Call):
            assert ast.unparse(value.func) in CALLED_AT_IMPORT
            assert all(isinstance(part, ast.Name | ast.Constant) for part in value.args)
        else:
            assert isinstance(value, ast.Constant)


def check_bodies(source: str) -> None:
    """Inside of functions nothing is called but torch, Python's types and the stub's own."""
    tree = ast.parse(source)
    own = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    allowed = own | {"nn", "torch", "super", "float", "complex", "bytearray", "set", "frozenset"}
    allowed |= {
        "enum",
        "vars",
        "OrderedDict",
        "NotImplementedError",
        "range",
        "self",
        "warnings",
        "np",
    }
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name in ("_Finder", "_Loader"):
            continue
        for call in ast.walk(node):
            if isinstance(call, ast.Call):
                assert ast.unparse(call.func).split(".")[0].split("(")[0] in allowed


@given(names, names, st.dictionaries(names, plain, max_size=4), names, names)
@example('"\x80\U00010756\U00018cd6\U00018cd6', "a\nimport os", {}, "a", '"\x80\U00010756' * 9)
def test_whatever_the_names_are_the_stub_holds_what_it_should(
    path: str, name: str, attributes: dict[str, Any], child: str, inner: str
) -> None:
    data = module(path, name, attributes, {child: module(path, inner, {}, {})})
    source = stub_of(data)
    if source is not None:
        check(source)
        check_bodies(source)


@pytest.mark.parametrize("name", NASTY)
def test_each_nasty_name_in_each_place(name: str) -> None:
    for data in (
        module("__main__", name, {}, {}),
        module(name, "Net", {}, {}),
        module("__main__", "Net", {name: name}, {}),
        module("__main__", "Net", {}, {name: module("__main__", "Inner", {}, {})}),
        b"c" + line("__main__") + line("Color") + text(name) + b"\x85R",
        b"c" + line("builtins") + line("getattr") + b"c" + line("__main__") + line("Net")
        + text(name) + b"\x86R",
    ):  # fmt: skip
        source = stub_of(data)
        if source is not None:
            check(source)
            check_bodies(source)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.Popen", "posix.system"])
def test_what_acts_is_in_no_stub(name: str) -> None:
    home, _, last = name.rpartition(".")
    call = b"c" + line(home) + line(last) + text("true") + b"\x85R"
    net = module("__main__", "Net", {}, {})
    source = stub_of(b"]" + call + b"a" + net + b"a")
    assert source is not None
    check(source)
    body = source.partition('"""\n\n')[2]
    assert last not in body
    assert "which is unknown or could have side effects" in source
