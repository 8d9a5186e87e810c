"""Constructors that torch has replaced, in the words that replaced them.

    constructor = grad.new
    constructor(indices, values, size)    →   torch.sparse_coo_tensor(indices, values, size)
    constructor().resize_as_(grad)        →   torch.zeros_like(grad)

The legacy constructors copy values without their gradient.
"""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import (
    Body,
    Statement,
    assignment,
    call,
    code,
    expr,
    method,
    replace_nodes,
)


def modernize(body: Body, context: Context) -> Body:
    """Replace calls of ``x.new`` wherever its arguments tell what is meant."""
    names = _constructors(body)

    def replace(node: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(node, cst.Call):
            return None
        func = node.func
        if isinstance(func, cst.Attribute) and func.attr.value == "resize_as_":
            if _constructs(func.value, names) and not _args(func.value):
                return call("torch.zeros_like", node.args[0].value)
        if _constructs(node, names) and node.args:
            return _in_todays_words(node)
        return None

    origins = context.origins
    return tuple(cast(Statement, replace_nodes(s, replace, origins)) for s in body)


def _in_todays_words(node: cst.Call) -> cst.CSTNode | None:
    """``x.new(indices, values, size)``, or ``x.new(rows, columns)``."""
    args = [a.value for a in node.args]
    if len(args) == 3 and "indices" in code(args[0]):
        return node.with_changes(func=expr("torch.sparse_coo_tensor"))
    if isinstance(node.func, cst.Attribute):
        size = cst.Tuple(
            [cst.Element(a) for a in args],
            lpar=[cst.LeftParen()],
            rpar=[cst.RightParen()],
        )
        return method(node.func.value, "new_empty", [cst.Arg(size)])
    return None


def _constructors(body: Body) -> set[str]:
    """Variables that hold some tensor's ``new``."""
    names: set[str] = set()
    for statement in body:
        for node in walk(statement):
            pair = assignment(node)
            if pair is not None and isinstance(pair[0], cst.Name) and _is_new(pair[1]):
                names.add(pair[0].value)
    return names


def _is_new(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Attribute) and node.attr.value == "new"


def _constructs(node: cst.CSTNode, names: set[str]) -> bool:
    if not isinstance(node, cst.Call):
        return False
    if isinstance(node.func, cst.Name):
        return node.func.value in names
    return _is_new(node.func)


def _args(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Call) and bool(node.args)
