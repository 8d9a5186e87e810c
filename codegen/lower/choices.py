"""A list, or None: which of them a setting tells.

rectified = step_sizes if group["rectify"] else None
for i, p in enumerate(params):           →   for i, p in enumerate(params):
    if rectified is None:                        if not group["rectify"]:
        …                                            …
    else:                                        else:
        step_size = rectified[i]                     step_size = step_sizes[i]
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import libcst as cst

from codegen.diagnostics import Origins, walk
from codegen.syntax import (
    Body,
    Statement,
    assignment,
    block,
    bound_names,
    code,
    is_name,
    negate,
    parenthesize,
    read_names,
    replace_nodes,
)


def one_or_none(
    body: Body, start: int, lists: Collection[str], origins: Origins
) -> Body:
    """Rewrite the statements from ``start`` on that read a name for one of ``lists`` or
    None, by the test that decides; where its outcome may change, they stay."""
    result = list(body)
    for number in range(start, len(result)):
        found = _choice(result[number], lists)
        if found is None:
            continue
        name, chosen, test = found
        rest = result[number + 1 :]
        if _may_change(test, name, rest):
            continue
        new = [_decided(s, name, chosen, test, origins) for s in rest]
        return one_or_none((*result[:number], *new), number, lists, origins)
    return tuple(result)


def _choice(
    node: Statement, lists: Collection[str]
) -> tuple[str, str, cst.BaseExpression] | None:
    """(name, list, test) of ``name = list if test else None``."""
    pair = assignment(node)
    if pair is None or not isinstance(pair[0], cst.Name):
        return None
    value = pair[1]
    if not isinstance(value, cst.IfExp):
        return None
    body, test, orelse = value.body, value.test, value.orelse
    if is_name(body, "None"):
        body, test, orelse = orelse, negate(test), body
    if not isinstance(body, cst.Name) or body.value not in lists:
        return None
    return (pair[0].value, body.value, test) if is_name(orelse, "None") else None


def _may_change(test: cst.BaseExpression, name: str, rest: Sequence[Statement]) -> bool:
    """Whether the test may come out otherwise later, or the name be bound again."""
    if any(isinstance(n, (cst.Call, cst.NamedExpr)) for n in walk(test)):
        return True
    later = block(tuple(rest))
    if (read_names(test) | {name}) & bound_names(later):
        return True
    read = {
        code(n) for n in walk(test) if isinstance(n, (cst.Subscript, cst.Attribute))
    }
    stored = (
        n.target
        for n in walk(later)
        if isinstance(n, (cst.AssignTarget, cst.AugAssign, cst.Del))
    )
    return (
        any(
            isinstance(t, cst.Attribute)
            or isinstance(t, cst.Subscript)
            and any(r.startswith(code(t.value)) for r in read)
            for t in stored
        )
        if read
        else False
    )


def _decided(
    node: Statement, name: str, chosen: str, test: cst.BaseExpression, origins: Origins
) -> Statement:
    def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
        if isinstance(inner, cst.Comparison) and is_name(inner.left, name):
            (asked,) = inner.comparisons[:1]
            if len(inner.comparisons) == 1 and is_name(asked.comparator, "None"):
                if isinstance(asked.operator, cst.IsNot):
                    return parenthesize(test.deep_clone())
                if isinstance(asked.operator, cst.Is):
                    return negate(test.deep_clone())
        return cst.Name(chosen) if is_name(inner, name) else None

    return cast(Statement, replace_nodes(node, replace, origins))
