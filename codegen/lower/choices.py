"""A list, or None: which of them a setting tells.

rectified = step_sizes if group["rectify"] else None
for i, p in enumerate(params):           →   for i, p in enumerate(params):
    if rectified is None:                        if not group["rectify"]:
        …                                            …
    else:                                        else:
        step_size = rectified[i]                     step_size = step_sizes[i]
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import cast

import libcst as cst

from codegen.diagnostics import Origins
from codegen.lower.dependence import Dependence
from codegen.syntax import (
    Body,
    Statement,
    assignment,
    block,
    bound_names,
    is_name,
    negate,
    parenthesize,
    replace_nodes,
)


def one_or_none(
    body: Body,
    start: int,
    lists: Collection[str],
    dependence: Callable[[], Dependence],
    origins: Origins,
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
        again = name in bound_names(block(rest))
        if again or not dependence().is_steady(test, rest):
            continue
        new = [_decided(s, name, chosen, test, origins) for s in rest]
        new_body = (*result[:number], *new)
        return one_or_none(new_body, number, lists, dependence, origins)
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
