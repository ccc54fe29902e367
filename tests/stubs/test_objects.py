"""What pickle asks for besides modules, and what state_dict() calls of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stubs.trying import attempt, failures, outcomes, run_script

pytestmark = pytest.mark.slow

MAKER = """
import collections, dataclasses, sys, types, typing, torch
from torch import nn
home = sys.modules["proj"] = types.ModuleType("proj")

def put(thing):
    thing.__module__, thing.__qualname__ = "proj", thing.__name__
    setattr(home, thing.__name__, thing)
    return thing

@put
class Net(nn.Module):
    def __init__(self, /, **attributes):
        super().__init__()
        self.lin = nn.Linear(2, 2)
        for name, value in attributes.items():
            setattr(self, name, value)

@put
class Pair(tuple): pass
@put
class Frozen(frozenset): pass
@put
class Raw(bytes): pass
@put
class One(typing.NamedTuple):
    only: int
@put
@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int = 1
    y: str = "y"
@put
class Base:
    __slots__ = ("a",)
@put
class Below(Base): pass
@put
class Filled:
    def __init__(self): self.got = []
    def append(self, item): self.got.append(item)
    def extend(self, items): self.got.extend(items)
    def __setitem__(self, key, value): self.got.append((key, value))
    def __reduce__(self): return (Filled, (), None, iter([1, 2]), iter([("k", 3)]))
@put
class False_:
    def __getstate__(self): return False
    def __setstate__(self, state): pass
@put
def hook(*arguments): return None
@put
class Hook:
    def __call__(self, *arguments): return None

below = Below()
below.a, below.b = 1, [2]
tuples = Net(a=Pair((1, 2)), b=Pair(), c=Frozen([1, 2]), d=Raw(b"xx"), e=One(5))
objects = Net(a=Filled(), b=Point(), c=below, d=False_(), e=[Filled(), Filled()])
hooked = Net()
hooked._register_state_dict_hook(hook)
hooked.lin._register_state_dict_hook(Hook())
hooked.lin.register_forward_hook(hook)
for name in ("tuples", "objects", "hooked"):
    for protocol in (2, 4):
        torch.save(globals()[name], f"{name}{protocol}.pt", pickle_protocol=protocol)
        print(f"{name}{protocol}")
"""


def test_objects_of_every_kind(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    names = run_script(tmp_path, MAKER).split()
    tries = [attempt(name, tmp_path / f"{name}.pt") for name in names]
    (tmp_path / "tried").mkdir()
    said = outcomes(tries, tmp_path / "tried")
    found = {one.name: failures(one, said[one.name]) for one in tries}
    assert len(found) == 6
    assert {name: bad for name, bad in found.items() if bad} == {}
    hooked = next(one.source for one in tries if one.name == "hooked2")
    assert hooked.count("this hook does nothing") == 2
