"""Conditions that come out the same each time they are asked.

if amsgrad:                       a number or a setting: until the name is bound again
if buf is None:                   identity: likewise, whatever is written into it
if xs:, if flag > 0:              a list, a tensor: nobody knows
"""

from __future__ import annotations

from collections.abc import Callable

import libcst as cst

from codegen import optable
from codegen.analysis.values import CONTAINERS, Kind, Value
from codegen.diagnostics import walk
from codegen.syntax import dotted, is_constant, is_name, keyword, string_key

Evaluate = Callable[[cst.BaseExpression], Value]

_UNCHANGING = (Kind.NUMBER, Kind.SCALAR_OR_TENSOR, Kind.NONE)
_WRITABLE = (Kind.TENSOR, *CONTAINERS)


def is_steady(node: cst.BaseExpression, value: Evaluate) -> bool:
    """Whether a condition comes out the same until a name in it is bound again, or
    ``may_change`` tells of a statement."""
    if isinstance(node, cst.Comparison):
        parts = [node.left, *(c.comparator for c in node.comparisons)]
        if all(isinstance(c.operator, (cst.Is, cst.IsNot)) for c in node.comparisons):
            return all(map(_is_place, parts))
        return all(is_steady(p, value) for p in parts)
    if isinstance(node, cst.BooleanOperation):
        return is_steady(node.left, value) and is_steady(node.right, value)
    if isinstance(node, cst.UnaryOperation):
        return is_steady(node.expression, value)
    if not _is_place(node):
        return False
    return is_constant(node) or value(node).kind in _UNCHANGING


def _is_place(node: cst.BaseExpression) -> bool:
    if isinstance(node, cst.Subscript):
        return is_name(node.value, "group") and string_key(node) is not None
    return isinstance(node, cst.Name) or is_constant(node)


def may_change(node: cst.CSTNode, value: Evaluate) -> bool:
    """Whether what is evaluated in ``node`` may write into what is taken for a number,
    or call who knows what: then nothing is known of any condition."""
    return any(isinstance(n, cst.Call) and _may_write(n, value) for n in walk(node))


def _may_write(node: cst.Call, value: Evaluate) -> bool:
    func, out = node.func, keyword(node, "out")
    operation = optable.spelled(node)
    if operation is None and isinstance(func, cst.Attribute):
        operation = optable.container_method(func.attr.value)
    if operation is None:
        return True
    if out is not None and value(out).kind not in _WRITABLE:
        return True
    if not operation.in_place:
        return False
    called = optable.function(dotted(func) or "") is not None
    receiver = func.value if isinstance(func, cst.Attribute) else None
    written = operation.bind(node.args, None if called else receiver)
    return written is None or any(
        value(w.argument).kind not in _WRITABLE for w in operation.written(written)
    )
