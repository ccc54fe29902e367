"""What the file puts in the place of a method that an allowed function, or an opcode, calls."""

from __future__ import annotations

import pytest

from tests.safety.making import args, call, new, path, plain, text, whole, worst

OWN = path("mine.f")
BAG = new(path("argparse.Namespace"))
TENSOR = call(path("torch._utils._rebuild_from_type_v2"), OWN, plain(None), b")", plain({}))


def bag(method: str) -> bytes:
    return BAG + b"}" + text(method) + OWN + b"sb"


LENT = {
    "detach": call(path("torch._utils._rebuild_parameter"), bag("detach"), text("x"), b"}"),
    "a module's": call(
        path("torch.nn.Parameter"),
        new(path("torch.nn.modules.linear.Linear")) + b"}" + text("detach") + OWN + b"sb",
    ),
    "in slots": call(
        path("torch.nn.Parameter"), BAG + b"N}" + text("detach") + OWN + b"s\x86b", plain(1)
    ),
    "to": call(path("torch._utils._rebuild_device_tensor_from_cpu_tensor"), bag("to")),
    "a tensor's own": call(
        path("torch.nn.parameter.Parameter"), TENSOR + b"}" + text("detach") + OWN + b"sb"
    ),
    "keys": call(path("collections.OrderedDict"), bag("keys")),
    "no tensor": call(
        path("torch._tensor._rebuild_from_type_v2"),
        path("types.SimpleNamespace"),
        text("x"),
        args(b"}" + text("as_subclass") + OWN + b"s"),
        b"}",
    ),
}


PARTIAL = (
    call(path("functools.partial"), path("argparse.Namespace"))
    + args(path("argparse.Namespace"), b")", b"}" + text("append") + OWN + b"s", b"N")
    + b"b"
)
LENT["a partial's attribute, appended to"] = PARTIAL + b")R" + text("x") + b"a"
LENT["a partial's attribute, called by BUILD"] = PARTIAL + b")R" + text("x") + b"b"
LENT["the state's"] = new(path("torch.nn.modules.linear.Linear")) + bag("keys") + b"b"


@pytest.mark.parametrize("what", LENT)
def test_an_allowed_function_that_would_call_what_the_file_put_there(what: str) -> None:
    assert worst(whole(LENT[what])) == "dangerous"


def test_attributes_of_these_names_are_no_harm_by_themselves() -> None:
    named = BAG + b"}" + text("to") + call(path("pathlib.PurePosixPath"), text("x")) + b"sb"
    assert worst(whole(named)) == "clean"
    data = call(path("torch.nn.Parameter"), BAG + plain({"to": "cpu"}) + b"b")
    assert worst(whole(data)) == "unknown"  # a namespace is no tensor


@pytest.mark.parametrize("name", ["six.exec_", "six.moves.reload_module", "numexpr.evaluate"])
def test_packages_that_lie_beside_torch_are_known(name: str) -> None:
    assert worst(whole(call(path(name), text("x")))) == "dangerous"
