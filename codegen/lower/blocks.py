"""Small questions about the statements of a step."""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.lower import facts
from codegen.syntax import Statement, dotted, is_name, small, statements

NESTED = "a function inside: "
WHOLE = frozenset({"self.param_groups", "self.state", "self.defaults"})
"""What belongs to the optimizer as a whole: a function handed one is seen through."""


def without_docstring(body: cst.BaseSuite) -> list[Statement]:
    items = list(statements(body))
    if items and isinstance(small(items[0]), cst.Expr):
        if isinstance(cast(cst.Expr, small(items[0])).value, cst.BaseString):
            return items[1:]
    return items


def keep_comment(old: Statement, new: list[Statement]) -> list[Statement]:
    """Put the comment above a folded statement on what replaces it."""
    kept = [
        line
        for line in old.leading_lines
        if line.comment is None or not facts.DISPATCH_COMMENT.search(line.comment.value)
    ]
    if not new or not any(line.comment for line in kept):
        if new and old.leading_lines and not new[0].leading_lines:
            blank = [line for line in old.leading_lines if line.comment is None][:1]
            new[0] = new[0].with_changes(leading_lines=blank)
        return new
    first = new[0]
    new[0] = first.with_changes(leading_lines=[*kept, *first.leading_lines])
    return new


def group_loop_target(node: cst.CSTNode) -> str | None:
    """``group`` for ``for group in self.param_groups:`` (also under ``enumerate``,
    and in a ``zip`` with something else)."""
    if not isinstance(node, cst.For):
        return None
    source, target = node.iter, cast(cst.BaseExpression, node.target)
    if isinstance(source, cst.Call) and is_name(source.func, "enumerate"):
        source = source.args[0].value
        if isinstance(target, cst.Tuple) and len(target.elements) == 2:
            target = target.elements[1].value
    if isinstance(source, cst.Call) and is_name(source.func, "zip") and source.args:
        source = source.args[0].value
        if isinstance(target, cst.Tuple):
            target = target.elements[0].value
    if dotted(source) == "self.param_groups" and isinstance(target, cst.Name):
        return target.value
    return None
