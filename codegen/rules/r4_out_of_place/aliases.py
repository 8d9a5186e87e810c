"""Variables that may share memory, told by the text alone: before the heap is asked."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from codegen.inplace import VIEWS, mutates_place
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    bound_names,
    is_constant,
    is_name,
    keyword,
    read_names,
    small,
    string_key,
    target_names,
)


def may_alias_classes(body: Body) -> dict[str, frozenset[str]]:
    """Variable → those that may be, hold or belong to the same tensors, by syntax."""
    families: dict[str, set[str]] = {}
    for node in all_statements(body):
        for names in _related(node):
            merged = set(names).union(*(families.get(name, ()) for name in names))
            families.update(dict.fromkeys(merged, merged))
    return {name: frozenset(family) for name, family in families.items()}


def _related(node: Statement) -> Iterator[set[str]]:
    inner = small(node)
    if isinstance(node, cst.For):
        yield set(target_names(node.target)) | read_names(node.iter)
    elif isinstance(inner, (cst.Assign, cst.AnnAssign)) and inner.value is not None:
        made = _is_new(inner.value) or _is_setting(inner.value)
        targets = bound_names(inner) | (read_names(inner) - read_names(inner.value))
        yield targets if made else targets | read_names(inner.value)
    elif isinstance(inner, cst.Expr) and not mutates_place(inner.value):
        yield read_names(inner)


def _is_new(node: cst.BaseExpression) -> bool:
    """Whether an expression surely makes an object of its own."""
    if isinstance(node, (cst.BinaryOperation, cst.UnaryOperation, cst.Comparison)):
        return True
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return is_constant(node)
    name = node.func.attr.value
    return name not in VIEWS and not name.endswith("_") and keyword(node, "out") is None


def _is_setting(node: cst.BaseExpression) -> bool:
    key = string_key(node)
    held = isinstance(node, cst.Subscript) and is_name(node.value, "group")
    return held and key is not None and key != "params"
