"""Lists that only name or select parameters, walked as what they were taken from.

active = [p for p in group["params"] if p.grad is not None]
for p in active:                →    for p in group["params"]:
    …                                    if p.grad is None:
                                             continue
                                         …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    block,
    code,
    expr,
    is_name,
    map_bodies,
    method,
    negate,
    orelse_statements,
    small,
    statements,
    string_key,
    substitute,
    with_comments,
)


@dataclass(frozen=True)
class Selection:
    """``[item for item in source if conditions]``."""

    item: str
    source: cst.BaseExpression
    conditions: tuple[cst.BaseExpression, ...]


def walk_selections(body: Body, context: Context) -> Body:
    """Loops over selections of parameters as loops with a ``continue``."""
    return _block(body, {}, context)


def walk_selection(node: cst.For, context: Context) -> cst.For:
    """The same for one loop over a selection that has no name."""
    return _walk(node, {}, context)


def _block(
    body: Sequence[Statement], known: dict[str, Selection], context: Context
) -> Body:
    known = dict(known)
    result: list[Statement] = []
    for node in body:
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Name):
            found = _selection(pair[1])
            known.pop(pair[0].value, None)
            if found is not None:
                known[pair[0].value] = found
        if isinstance(node, cst.For):
            node = _walk(node, known, context)
        if small(node) is None:
            node = map_bodies(node, lambda part: _block(part, known, context))
        result.append(node)
    return tuple(result)


def _selection(node: cst.BaseExpression) -> Selection | None:
    if isinstance(node, cst.Call) and is_name(node.func, "list") and node.args:
        node = node.args[0].value
    if isinstance(node, cst.Call) and is_name(node.func, "filter"):
        node = _filtered(node)
    if string_key(node) == "params":
        return Selection("", node, ())
    if not isinstance(node, (cst.ListComp, cst.GeneratorExp)):
        return None
    loop = node.for_in
    if loop.inner_for_in is not None or not isinstance(loop.target, cst.Name):
        return None
    if string_key(loop.iter) != "params" or code(node.elt) != loop.target.value:
        return None
    return Selection(loop.target.value, loop.iter, tuple(i.test for i in loop.ifs))


def _filtered(node: cst.Call) -> cst.BaseExpression:
    """``filter(lambda p: test, source)`` as a comprehension."""
    if len(node.args) == 2 and isinstance(node.args[0].value, cst.Lambda):
        test = node.args[0].value
        if len(test.params.params) == 1:
            item = test.params.params[0].name
            conditions = [cst.CompIf(test.body)]
            return cst.ListComp(item, cst.CompFor(item, node.args[1].value, conditions))
    return node


def _walk(node: cst.For, known: dict[str, Selection], context: Context) -> cst.For:
    if not isinstance(node.target, cst.Name):
        return node
    if isinstance(node.iter, cst.Name) and node.iter.value in known:
        selection = known[node.iter.value]
    elif string_key(node.iter) != "params" and (found := _selection(node.iter)):
        selection = found
    else:
        return node
    rename = {selection.item: cst.Name(node.target.value)}
    skips: list[Statement] = []
    for condition in selection.conditions:
        test = cast(cst.BaseExpression, substitute(condition, rename, context.origins))
        leave = cst.SimpleStatementLine([cst.Continue()])
        skips.append(cst.If(negate(test), block([leave])))
    return node.with_changes(
        iter=selection.source.deep_clone(),
        body=block([*skips, *statements(node.body)]),
    )


def one_append(body: Body, context: Context) -> Body:
    """``if test: xs.append(a)``, ``else: xs.append(b)`` as one ``append``."""
    result: list[Statement] = []
    for node in body:
        if small(node) is None:
            node = map_bodies(node, lambda part: one_append(part, context))
        merged = _merged(node) if isinstance(node, cst.If) else None
        if merged is not None:
            context.origins.inherit(merged, node)
        result.append(merged or node)
    return tuple(result)


def _merged(node: cst.If) -> Statement | None:
    """That ``if`` as a statement; ``state.get("k")`` for an item that may not exist."""
    sides = [_appended(statements(node.body)), _appended(orelse_statements(node))]
    if sides[0] is None or sides[1] is None:
        return None
    (target, first), (other, second) = sides[0], sides[1]
    if target != other:
        return None
    value = _got(node.test, first, second) or cst.IfExp(node.test, first, second)
    line = cst.SimpleStatementLine(
        [cst.Expr(method(expr(target), "append", [cst.Arg(value)]))]
    )
    return with_comments(line, node)


def _appended(body: Body) -> tuple[str, cst.BaseExpression] | None:
    inner = small(body[0]) if len(body) == 1 else None
    made = inner.value if isinstance(inner, cst.Expr) else None
    if not isinstance(made, cst.Call) or len(made.args) != 1:
        return None
    func = made.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "append":
        return None
    return (code(func.value), made.args[0].value) if is_name(func.value) else None


def _got(
    test: cst.BaseExpression, first: cst.BaseExpression, second: cst.BaseExpression
) -> cst.BaseExpression | None:
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return None
    asked = test.comparisons[0]
    if isinstance(asked.operator, cst.In):
        first, second = second, first
    elif not isinstance(asked.operator, cst.NotIn):
        return None
    item = f"{code(asked.comparator)}[{code(test.left)}]"
    if not is_name(first, "None") or code(second) != item:
        return None
    return method(asked.comparator, "get", [cst.Arg(test.left)])


# --- asking about lists ----------------------------------------------------------


def emptiness(test: cst.BaseExpression) -> str | None:
    """``params`` for ``not params`` and ``len(params) == 0``."""
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        inner = test.expression
        if isinstance(inner, cst.Comparison):
            text = code(inner)
            if not text.endswith(("!= 0", "> 0")) or not called(inner.left, "len"):
                return None
            inner = inner.left
        if called(inner, "len"):
            inner = cast(cst.Call, inner).args[0].value
        return inner.value if isinstance(inner, cst.Name) else None
    if isinstance(test, cst.Comparison) and code(test).endswith("== 0"):
        if called(test.left, "len"):
            inner = cast(cst.Call, test.left).args[0].value
            return inner.value if isinstance(inner, cst.Name) else None
    return None


def leaves_a_mark(node: Statement) -> bool:
    """Whether a statement changes what outlives the step."""
    for inner in all_statements([node]):
        line = small(inner)
        if isinstance(line, cst.Assign):
            if any(not isinstance(t.target, cst.Name) for t in line.targets):
                return True
        if isinstance(line, cst.AugAssign) and not isinstance(line.target, cst.Name):
            return True
        if isinstance(line, cst.Expr) and isinstance(line.value, cst.Call):
            return True
    return False


def only_loops(node: Statement) -> bool:
    """Whether a statement is loops, and variables for them."""
    if isinstance(node, cst.If):
        inner = (*statements(node.body), *orelse_statements(node))
        return all(only_loops(s) for s in inner)
    return isinstance(node, cst.For) or (
        (pair := assignment(node)) is not None and isinstance(pair[0], cst.Name)
    )


def called(node: cst.CSTNode, name: str) -> bool:
    return isinstance(node, cst.Call) and is_name(node.func, name) and bool(node.args)
