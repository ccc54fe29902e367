"""Modules that pickles hold: what plain attributes repeat, the order, the training flag.

The modules are written by hand, as torch.nn.Module's `__dict__` is pickled; no torch.
"""

from __future__ import annotations

from ptinspect.document import Document
from tests.document.making import document


class Module:
    """Has the attributes by which a module is known."""

    def __init__(self, **children: Module) -> None:
        self.training = True
        self._parameters: dict[str, object] = {}
        self._buffers: dict[str, object] = {}
        self._modules: dict[str, Module] = dict(children)


def tree(found: Document) -> list[tuple[str, str]]:
    """Root and name of each module."""
    return [(".".join(map(str, info.root)), info.name) for info in found.modules]


def test_a_list_of_children_in_an_attribute_tells_them_once() -> None:
    net = Module(a=Module(), b=Module(inner=Module()))
    net.layers = [net._modules["a"], net._modules["b"]._modules["inner"]]  # type: ignore[attr-defined]
    assert tree(document(net)) == [("", ""), ("", "a"), ("", "b"), ("", "b.inner")]


def test_a_parent_in_an_attribute_is_no_second_root() -> None:
    child = Module()
    net = Module(child=child)
    child.parents = [net]  # type: ignore[attr-defined]
    child.friend = Module()  # type: ignore[attr-defined]
    assert tree(document({"net": net})) == [("net", ""), ("net", "child"), ("net.child.friend", "")]


def test_a_hidden_module_comes_after_the_tree_that_hides_it() -> None:
    net = Module(child=Module())
    net.hidden = [Module(deep=Module())]  # type: ignore[attr-defined]
    assert tree(document(net)) == [
        ("", ""), ("", "child"), ("hidden.0", ""), ("hidden.0", "deep"),
    ]  # fmt: skip


def test_the_same_child_twice_stands_under_both_names() -> None:
    child = Module()
    assert tree(document(Module(a=child, b=child))) == [("", ""), ("", "a"), ("", "b")]


def test_the_training_flag_is_what_the_file_says() -> None:
    net, old = Module(), Module()
    net.training = False
    del old.training
    assert [m.module.training for m in document(Module(net=net, old=old)).modules] == [
        True, False, None,
    ]  # fmt: skip
