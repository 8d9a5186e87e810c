"""Complex parameters as pairs of reals, outside the update instead of inside it.

Optimizers treat a complex number as two independent reals. Where upstream says so
(``if torch.is_complex(param): param = torch.view_as_real(param)``), the base class
hands the update real views in the first place, and the update asks no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.fold import truth
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    code,
    dotted,
    orelse_statements,
    rebuild_if,
    replace_nodes,
    same,
    small,
    statements,
)


def fold_complex(body: Body, context: Context) -> tuple[Body, bool]:
    """(body without questions about complex numbers, whether it had real views)."""
    names = _flag_names(body)
    conditions = list(_conditions(body, names))
    if not any(_is_real_view(s) for s in all_statements(body)):
        return body, False
    if not all(_only_converts(node) for node in conditions):
        return body, False
    answered = [
        cast(
            Statement,
            replace_nodes(s, lambda n: _answer(n, names), context.origins),
        )
        for s in body
        if not _binds_flag(s, names)
    ]
    return _fold_branches(tuple(answered), names), True


def _asks(node: cst.CSTNode, names: set[str]) -> bool:
    """``torch.is_complex(x)``, ``x.is_complex()``, ``x.dtype.is_complex``."""
    if isinstance(node, cst.Name):
        return node.value in names
    if isinstance(node, cst.Call):
        name = dotted(node.func) or ""
        return name == "torch.is_complex" or name.endswith(".is_complex")
    return isinstance(node, cst.Attribute) and (dotted(node) or "").endswith(
        ".dtype.is_complex"
    )


def _flag_names(body: Body) -> set[str]:
    return {
        pair[0].value
        for node in all_statements(body)
        if (pair := assignment(node)) is not None
        and isinstance(pair[0], cst.Name)
        and _asks(pair[1], set())
    }


def _binds_flag(node: Statement, names: set[str]) -> bool:
    pair = assignment(node)
    return pair is not None and code(pair[0]) in names


def _conditions(body: Body, names: set[str]) -> Iterator[cst.If | cst.IfExp]:
    for statement in body:
        for node in walk(statement):
            if isinstance(node, (cst.If, cst.IfExp)):
                if any(_asks(n, names) for n in walk(node.test)):
                    yield node


def _is_real_view(node: Statement) -> bool:
    pair = assignment(node)
    if pair is None or not isinstance(pair[1], cst.Call):
        return False
    call = pair[1]
    views = ("torch.view_as_real", "torch.view_as_complex")
    return dotted(call.func) in views and same(call.args[0].value, pair[0])


def _only_converts(node: cst.If | cst.IfExp) -> bool:
    if isinstance(node, cst.IfExp):
        return _fills_alike(node.body) or isinstance(node.test, cst.Call)
    return all(
        isinstance(s, cst.If) or _is_real_view(s) or _fills_alike(s)
        for s in all_statements(statements(node.body))
    )


def _fills_alike(node: cst.CSTNode) -> bool:
    """``complex(v, v)``: both parts get the value that a real one would get."""
    for inner in walk(node):
        if isinstance(inner, cst.Call) and dotted(inner.func) == "complex":
            return len(inner.args) == 2 and same(*(a.value for a in inner.args))
    return False


def _answer(node: cst.CSTNode, names: set[str]) -> cst.CSTNode | None:
    if isinstance(node, cst.IfExp) and truth(node.test) is False:
        return node.orelse
    return cst.Name("False") if _asks(node, names) else None


def _fold_branches(body: Body, names: set[str]) -> Body:
    result: list[Statement] = []
    for node in body:
        if _binds_flag(node, names) or small(node) is not None:
            if not (assignment(node) and code(assignment(node)[0]) in names):  # type: ignore[index]
                result.append(node)
        elif isinstance(node, cst.If):
            result.extend(_fold_if(node, names))
        elif isinstance(node, (cst.For, cst.While, cst.With)):
            inner = _fold_branches(statements(node.body), names)
            result.append(node.with_changes(body=cst.IndentedBlock(inner)))
        else:
            result.append(node)
    return tuple(result)


def _fold_if(node: cst.If, names: set[str]) -> Body:
    orelse = _fold_branches(orelse_statements(node), names)
    if truth(node.test) is False:
        return orelse
    if isinstance(node.test, cst.BooleanOperation) and any(
        truth(t) is False for t in (node.test.left, node.test.right)
    ):
        if isinstance(node.test.operator, cst.And):
            return orelse
    body = _fold_branches(statements(node.body), names)
    if not body and not orelse:
        return ()
    return (rebuild_if(node, node.test, body, orelse),)
