"""Source text, laid out as `ruff format` does, and code that is part of every stub.

An expression that fits on a line stays on it. Otherwise its brackets open, with one item per line
and a trailing comma. A stub runs without ptinspect: on import it makes its names findable where
pickle looks for them. `REGISTER_MAIN` suffices if all names are in `__main__`; `REGISTER_ANYWHERE`
also supplies modules that are not installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from unicodedata import east_asian_width

from ptinspect.stubs.expr.nodes import Expr, names_in

WIDTH = 88
"""Columns of a line: the default of ruff and black."""


def columns(text: str) -> int:
    """Return the width of a line. Letters of East Asian scripts take two columns."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def layout(prefix: str, expr: Expr, suffix: str = "", indent: int = 0) -> list[str]:
    """Return the lines of `prefix expr suffix`, indented by `indent` spaces."""
    start = " " * indent + prefix
    line = f"{start}{expr.text}{suffix}"
    opening, inside, closing = expr.brackets() if columns(line) > WIDTH else ("", [], "")
    if not inside:
        return [line]
    lines = [start + opening]
    for before, item, after in inside:
        lines += layout(before, item, after, indent + 4)
    return [*lines, " " * indent + closing + suffix]


def layout_assignment(target: str, expr: Expr, indent: int) -> list[str]:
    """Return the lines of `target = expr`, in parentheses where that makes a long line fit."""
    blank = " " * indent
    lines = layout(f"{target} = ", expr, "", indent)
    if columns(lines[0]) <= WIDTH:
        return lines
    inside = layout("", expr, "", indent + 4)
    if columns(inside[0]) <= WIDTH:
        return [f"{blank}{target} = (", *inside, f"{blank})"]
    return lines


class Source:
    """Lines of Python, and the dotted names that they read."""

    __slots__ = ("lines", "names")

    def __init__(self, lines: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        self.lines = list(lines)
        self.names = set(names)

    def add(self, *lines: str) -> None:
        """Append lines that read no names that matter for imports."""
        self.lines += lines

    def read(self, *names: str) -> None:
        """Record names that appended lines read."""
        self.names.update(names)

    def add_expr(self, prefix: str, expr: Expr, suffix: str = "", indent: int = 0) -> None:
        """Append `prefix expr suffix`."""
        self.lines += layout(prefix, expr, suffix, indent)
        self.names |= names_in(expr)

    def add_assignment(self, target: str, expr: Expr, indent: int) -> None:
        """Append `target = expr`."""
        self.lines += layout_assignment(target, expr, indent)
        self.names |= names_in(expr)

    def extend(self, source: Source) -> None:
        """Append other source."""
        self.lines += source.lines
        self.names |= source.names


def _template(text: str, *names: str) -> Source:
    """Return source that reads some names, after two empty lines."""
    return Source(["", *text.rstrip().split("\n")], names)


def _methods(text: str) -> Source:
    """Return methods of a class."""
    return Source(text.split("\n"))


# Methods of classes

NEW_METHOD = _methods("""\
    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)""")
TUPLE_NEW_METHODS = _methods("""\
    def __new__(cls, *args):
        return super().__new__(cls, args)

    def __getnewargs__(self):
        return tuple(self)""")
INIT_METHOD = _methods("""\
    def __init__(self, *args, **kwargs):
        super().__init__()""")
INIT_METHOD_KEEPING_ARGUMENTS = _methods("""\
    def __init__(self, *args, **kwargs):
        self.args = args""")
SETSTATE_METHOD = _methods("""\
    def __setstate__(self, state):
        # how the class restores its state is not recorded
        if isinstance(state, dict):
            vars(self).update(state)
        else:
            self.state = state""")
ITEM_METHODS = _methods("""\
    def append(self, item):
        # how the class adds items is not recorded
        vars(self).setdefault("items", []).append(item)

    def extend(self, items):
        for item in items:
            self.append(item)

    def __setitem__(self, key, value):
        vars(self).setdefault("pairs", {})[key] = value""")

# Functions and classes of the module

ASSEMBLED_FUNCTION = _template(
    '''
def _assembled(kind, attributes=(), parameters=(), buffers=(), children=()):
    """Build a module from its parts, without its constructor."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    vars(made).update(attributes)
    made._parameters.update(parameters)
    made._buffers.update(buffers)
    made._modules.update(children)
    return made
''',
    "nn",
)

RESULT_CLASS = _template('''
class _Result:
    """Result of a function that the file does not record. Keeps its arguments."""

    def __init__(self, function, *args, **kwargs):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.items, self.pairs = [], {}

    def __setstate__(self, state):
        self.state = state

    def __setitem__(self, key, value):
        self.pairs[key] = value

    def append(self, item):
        self.items.append(item)

    extend = add = append
''')

REACH_FUNCTION = _template('''
def _reach(thing, name):
    """Replacement for getattr under weights_only: reaches only what this file does."""
    for owner, names in _REACHED:
        if (thing is owner or type(thing) is owner) and name in names:
            return getattr(thing, name)
    raise AttributeError(f"this file does not reach {name!r}")
''')

REGISTER_MAIN = _template(
    '''
def _register(thing, module, name):
    """Let pickle find `thing` as `module.name`, unless that exists."""
    top, _, inner = name.rpartition(".")
    thing.__module__, thing.__qualname__, thing.__name__ = module, name, inner
    if top:
        return
    home = sys.modules.setdefault(module, sys.modules["__main__"])
    if name not in vars(home) or name in vars(home).get("__stubbed__", ()):
        setattr(home, name, thing)
        vars(home).setdefault("__stubbed__", set()).add(name)
''',
    "sys",
)

REGISTER_ANYWHERE = _template(
    '''
class _Finder:
    """Supplies modules that are not installed, and names that modules lack."""

    def __init__(self):
        self.things, self.loaders, self.asking = {}, {}, False

    def start(self):
        """Register what is missing, now and when modules are imported later."""
        for module in list(self.things):
            while module := module.rpartition(".")[0]:
                self.things.setdefault(module, {})
        for name in sorted(self.things):
            if name == "__mp_main__":
                sys.modules.setdefault(name, sys.modules["__main__"])
            if name not in sys.modules and self.is_missing(name):
                module = sys.modules[name] = types.ModuleType(name)
                module.__path__ = []
                module.__spec__ = importlib.machinery.ModuleSpec(name, self)
                parent, _, last = name.rpartition(".")
                if parent in sys.modules and not hasattr(sys.modules[parent], last):
                    setattr(sys.modules[parent], last, module)
            if name in sys.modules:
                self.fill(sys.modules[name])
        sys.meta_path.insert(0, self)

    def is_missing(self, name):
        """Return True if the package does not exist, or is only a folder."""
        try:
            spec = importlib.util.find_spec(name.partition(".")[0])
        except ValueError:  # it exists without a spec
            return "." in name
        if spec is not None and spec.submodule_search_locations is None:
            return "." in name
        return spec is None or spec.origin is None

    def fill(self, module):
        """Set names that the module lacks, or has from another stub."""
        for name, thing in self.things.get(module.__name__, {}).items():
            if name not in vars(module) or name in vars(module).get("__stubbed__", ()):
                setattr(module, name, thing)
                vars(module).setdefault("__stubbed__", set()).add(name)

    def find_spec(self, name, path=None, target=None):
        """Find the module elsewhere, to fill it; create it if it is nowhere."""
        if name not in self.things or self.asking:
            return None
        self.asking = True
        try:
            finders = [item for item in sys.meta_path if hasattr(item, "find_spec")]
            specs = (item.find_spec(name, path, target) for item in finders)
            spec = next((item for item in specs if item and item.loader), None)
        finally:
            self.asking = False
        if spec is None:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        self.loaders[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        loader = self.loaders.get(spec.name)
        return None if loader is None else loader.create_module(spec)

    def exec_module(self, module):
        loader = self.loaders.pop(module.__name__, None)
        if loader is not None:
            module.__loader__ = module.__spec__.loader = loader
            loader.exec_module(module)
        self.fill(module)


_finder = _Finder()


def _register(thing, module, name):
    """Let pickle find `thing` as `module.name`, and save it under that name."""
    top, _, inner = name.rpartition(".")
    thing.__module__, thing.__qualname__, thing.__name__ = module, name, inner
    if not top:
        _finder.things.setdefault(module, {})[name] = thing
''',
    "sys",
    "types",
    "importlib",
)
