"""Tables of TorchScript's operators, builtins and types, with their Python."""

from __future__ import annotations

import ast
from functools import cache

MAX_DEPTH = 120
"""Nodes inside each other in one function."""

MODULE_NAMES = frozenset(
    ("torch", "nn", "aten", "operator", "warnings", "enum", "typing", "types", "CONSTANTS")
)
"""Names that a stub uses itself."""

# Operators whose arguments torch.ops does not take (lists that change, any type), by name and
# number of arguments. `_0` is the first argument. The order of evaluation stays.
OPERATORS = {
    "add/2": "_0 + _1", "sub/2": "_0 - _1", "mul/2": "_0 * _1", "div/2": "_0 / _1",
    "matmul/2": "_0 @ _1", "neg/1": "-_0", "add_/2": "operator.iadd(_0, _1)",
    "mul_/2": "operator.imul(_0, _1)", "eq/2": "_0 == _1", "ne/2": "_0 != _1",
    "lt/2": "_0 < _1", "le/2": "_0 <= _1", "gt/2": "_0 > _1", "ge/2": "_0 >= _1",
    "__and__/2": "_0 & _1", "__or__/2": "_0 | _1", "__xor__/2": "_0 ^ _1",
    "__lshift__/2": "_0 << _1", "__rshift__/2": "_0 >> _1", "__iand__/2": "operator.iand(_0, _1)",
    "__ior__/2": "operator.ior(_0, _1)", "__ixor__/2": "operator.ixor(_0, _1)",
    "__ilshift__/2": "operator.ilshift(_0, _1)", "__irshift__/2": "operator.irshift(_0, _1)",
    "__not__/1": "not _0",
    "__is__/2": "_0 is _1", "__isnot__/2": "_0 is not _1", "__getitem__/2": "_0[_1]",
    "__contains__/2": "operator.contains(_0, _1)", "_set_item/3": "operator.setitem(_0, _1, _2)",
    "Delete/2": "operator.delitem(_0, _1)", "len/1": "len(_0)", "append/2": "_0.append(_1)",
    "insert/3": "_0.insert(_1, _2)", "extend/2": "_0.extend(_1)", "pop/1": "_0.pop()",
    "pop/2": "_0.pop(_1)", "pop/3": "_0.pop(_1, _2)", "popitem/1": "_0.popitem()",
    "reverse/1": "_0.reverse()", "remove/2": "_0.remove(_1)", "clear/1": "_0.clear()",
    "copy/1": "_0.copy()", "keys/1": "list(_0)", "values/1": "_values(_0)",
    "items/1": "list(_0.items())", "get/2": "_0.get(_1)", "get/3": "_0.get(_1, _2)",
    "setdefault/3": "_0.setdefault(_1, _2)", "update/2": "_0.update(_1)", "list/1": "list(_0)",
    "dict/0": "dict()", "dict/1": "dict(_0)", "select/2": "_0[_1]", "sorted/1": "sorted(_0)",
    "sort/1": "_sort(_0)", "sort/2": "_sort(_0, _1)", "sort/3": "aten.sort(_0, _1, _2)",
    "slice/1": "_slice(_0)", "slice/2": "_slice(_0, _1)", "slice/3": "_slice(_0, _1, _2)",
    "slice/4": "_slice(_0, _1, _2, _3)", "slice/5": "aten.slice(_0, _1, _2, _3, _4)",
    "pow/2": "_number(aten.pow, _0, _1)", "log/2": "_number(aten.log, _0, _1)",
    "Complex/2": "_number(aten.Complex, _0, _1)", "_unwrap_optional/1": "_0", "wait/1": "_0",
    "str/1": "_text(_0)", "device/1": "torch.device(_0)",
    "percentFormat/2": "_0 % _1", "warn/1": "warnings.warn(_0)",
    "warn/2": "warnings.warn(_0, stacklevel=_1)", "is_scripting/0": "True",
    "__range_length/3": "len(range(_0, _1, _2))",
    "__derive_index/3": "(lambda index, start, step: start + index * step)(_0, _1, _2)",
    "_get_tracing_state/0": "False", "dequantize/1": "aten.dequantize(_0)",
}  # fmt: skip

PRIM_OPERATORS = {
    "unchecked_unwrap_optional/1": "_0", "min/1": "min(_0)", "min/2": "min(_0, _1)",
    "max/1": "max(_0)", "max/2": "max(_0, _1)", "abs/1": "abs(_0)",
    "rangelist/1": "list(range(_0))", "EnumName/1": "_0.name", "EnumValue/1": "_0.value",
    "StringIndex/2": "_0[_1]", "TupleIndex/2": "_0[_1]",
}  # fmt: skip

BUILTINS = {
    "annotate/2": "_1", "unchecked_cast/2": "_1", "int/1": "int(_0)", "float/1": "float(_0)",
    "bool/1": "bool(_0)", "str/1": "_text(_0)", "range/1": "range(_0)", "len/1": "len(_0)",
    "range/2": "range(_0, _1)", "range/3": "range(_0, _1, _2)", "sorted/1": "sorted(_0)",
    "list/1": "list(_0)", "dict/1": "dict(_0)", "hex/1": "hex(_0)", "oct/1": "oct(_0)",
    "chr/1": "chr(_0)", "ord/1": "ord(_0)", "bin/1": "bin(_0)", "abs/1": "abs(_0)",
}  # fmt: skip

PRIM_SAME = frozenset(
    (  # noqa: SIM905
        "NumToTensor data device dtype grad index is_cpu is_cuda is_hpu is_ipu is_leaf is_maia"
        " is_meta is_mkldnn is_mps is_mtia is_nested is_quantized is_sparse is_sparse_csr"
        " is_vulkan is_xla is_xpu itemsize layout name names nbytes requires_grad shape type"
        " BroadcastSizes"
    ).split()
)
"""Operators of torch.ops.prim that do the same there."""

REFUSED = frozenset(("from_file", "save", "load", "hash", "has_torch_function"))
"""Operators that use files, or that Python answers differently."""

NUMBERS = {"inf": 'float("inf")', "nan": 'float("nan")', "infj": 'complex("infj")'}

EXCEPTIONS = frozenset(
    (  # noqa: SIM905
        "ArithmeticError AssertionError AttributeError Exception IndexError KeyError"
        " LookupError NotImplementedError OverflowError RuntimeError StopIteration TypeError"
        " ValueError ZeroDivisionError"
    ).split()
)

DUNDER_METHODS = frozenset(
    (  # noqa: SIM905
        "__init__ __enter__ __exit__ __len__ __contains__ __getitem__ __setitem__ __delitem__"
        " __call__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __str__ __hash__ __neg__ __add__"
        " __sub__ __mul__ __truediv__ __floordiv__ __mod__ __pow__ __and__ __or__ __xor__"
        " __bool__ __int__ __float__ __getstate__ __setstate__ __iadd__ __isub__ __imul__"
    ).split()
)

TYPES = {
    "Tensor": "torch.Tensor", "int": "int", "float": "float", "bool": "bool", "str": "str",
    "complex": "complex", "NoneType": "None", "Device": "torch.device", "List": "list",
    "Dict": "dict", "Tuple": "tuple",
}  # fmt: skip

HELPERS = (
    "_unset", "_own", "_slice", "_sort", "_values", "_number", "_text", "_format", "_dtype",
    "_old_div",
)  # fmt: skip
"""Functions that a stub contains if it calls them."""

USED_BUILTINS = EXCEPTIONS | set(
    (  # noqa: SIM905
        "abs bin bool chr dict float getattr hex int isinstance len list max min oct ord print"
        " range sorted str slice complex"
    ).split()
)


class Filler(ast.NodeTransformer):
    """Puts arguments in the place of `_0`, `_1`, …"""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)


@cache
def parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
