"""One mutation a statement, before any is rewritten.

    torch.maximum(u.mul_(b), g.abs(), out=u)   →   u.mul_(b)
                                                   torch.maximum(u, g.abs(), out=u)

A mutation inside an expression moves to a statement of its own in front; what it
stood for is its receiver. Mutations of temporaries (``(a / b).add_(eps)``) stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.rules.r4_out_of_place.inplace import (
    VIEWS,
    chain_root,
    inplace_function,
    inplace_method,
)
from codegen.syntax import (
    Body,
    Rewriter,
    Statement,
    block,
    dotted,
    keyword,
    map_bodies,
    orelse_statements,
    small,
    statements,
    with_comments,
)


def is_place(node: cst.BaseExpression) -> bool:
    """Whether an expression names something that exists: a variable, an item, a view."""
    if isinstance(node, cst.Name):
        return True
    if isinstance(node, (cst.Attribute, cst.Subscript)):
        return is_place(node.value)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        if dotted(node.func) in ("torch.view_as_real", "torch.view_as_complex"):
            return is_place(node.args[0].value)
        return node.func.attr.value in VIEWS and is_place(node.func.value)
    return False


def mutates_place(node: cst.CSTNode) -> bool:
    """``x.mul_(…)``, ``torch.add(…, out=x)``, ``torch.relu_(x)`` on a place."""
    if not isinstance(node, cst.Call):
        return False
    if inplace_method(node) is not None:
        return is_place(chain_root(node))
    out = keyword(node, "out")
    if out is not None:
        return is_place(out)
    return inplace_function(node) is not None


def hoist(body: Sequence[Statement], context: Context) -> Body:
    """``body`` with every mutation of a place a statement, or the right-hand side of
    one."""
    result: list[Statement] = []
    for node in body:
        result.extend(_statement(node, context))
    return tuple(result)


def _statement(node: Statement, context: Context) -> list[Statement]:
    if isinstance(node, cst.If):
        return _if(node, context)
    if isinstance(node, cst.While) and _mutates_inside(node.test):
        context.refuse(
            "R4",
            node.test,
            "the condition of a loop mutates a tensor",
            "compute the condition in a statement of its own",
        )
    if isinstance(node, cst.For):
        prelude, iterated = _extract(node.iter, context)
        node = node.with_changes(iter=iterated)
        return [*prelude, _inside(node, context)]
    if isinstance(node, (cst.While, cst.With, cst.Try, cst.FunctionDef)):
        return [_inside(node, context)]
    return _simple(node, context)


def _inside(node: Statement, context: Context) -> Statement:
    return map_bodies(node, lambda part: hoist(part, context))


def _if(node: cst.If, context: Context) -> list[Statement]:
    prelude, test = _extract(node.test, context)
    body = hoist(statements(node.body), context)
    new = node.with_changes(test=test, body=block(body))
    if isinstance(node.orelse, cst.If):
        rest = _if(node.orelse, context)
        if len(rest) == 1:
            new = new.with_changes(orelse=rest[0])
        else:
            new = new.with_changes(orelse=cst.Else(block(rest)))
    elif node.orelse is not None:
        inner = hoist(orelse_statements(node), context)
        new = new.with_changes(orelse=node.orelse.with_changes(body=block(inner)))
    return [*prelude, new]


def _simple(node: Statement, context: Context) -> list[Statement]:
    inner = small(node)
    if isinstance(inner, (cst.Assign, cst.AnnAssign)) and inner.value is not None:
        branches = _as_branches(node, inner)
        if branches is not None:
            return list(hoist([branches], context))
    if inner is None or not _mutates_inside(inner):
        return [node]
    if isinstance(inner, cst.Expr):
        prelude, value = _extract_top(inner.value, context)
        new: cst.BaseSmallStatement = inner.with_changes(value=value)
    elif isinstance(inner, cst.Assign) and _plain_targets(inner):
        prelude, value = _extract_top(inner.value, context)
        new = inner.with_changes(value=value)
    elif isinstance(inner, (cst.AugAssign, cst.AnnAssign, cst.Return, cst.Assign)):
        assert inner.value is not None
        prelude, value = _extract(inner.value, context)
        new = inner.with_changes(value=value)
    else:
        return [node]
    last = cst.SimpleStatementLine([new])
    if not prelude:
        return [with_comments(last, node)]
    prelude[0] = prelude[0].with_changes(leading_lines=node.leading_lines)
    return [*prelude, last]


def _plain_targets(node: cst.Assign) -> bool:
    return all(isinstance(t.target, cst.Name) for t in node.targets)


def _as_branches(node: Statement, inner: cst.Assign | cst.AnnAssign) -> cst.If | None:
    """``y = x.mul_(a) if c else z`` → an ``if`` statement: only one side happens."""
    value = inner.value
    if not isinstance(value, cst.IfExp):
        return None
    if not (_mutates_inside(value.body) or _mutates_inside(value.orelse)):
        return None

    def side(expression: cst.BaseExpression) -> cst.IndentedBlock:
        line = cst.SimpleStatementLine([inner.with_changes(value=expression)])
        return block([line])

    return cst.If(
        value.test,
        side(value.body),
        cst.Else(side(value.orelse)),
        leading_lines=node.leading_lines,
    )


def _mutates_inside(node: cst.CSTNode) -> bool:
    return any(mutates_place(inner) for inner in walk(node))


def _extract_top(
    node: cst.BaseExpression, context: Context
) -> tuple[list[Statement], cst.BaseExpression]:
    """Like :func:`_extract`, but a mutation that is the whole expression stays."""
    if not mutates_place(node):
        return _extract(node, context)
    assert isinstance(node, cst.Call)
    return _extract_children(node, context)


def _extract(
    node: cst.BaseExpression, context: Context
) -> tuple[list[Statement], cst.BaseExpression]:
    if not _mutates_inside(node):
        return [], node
    extractor = _Extractor(context)
    return extractor.prelude, cast(cst.BaseExpression, _visit(node, extractor))


def _visit(node: cst.CSTNode, extractor: _Extractor) -> cst.CSTNode:
    new = node.visit(extractor)
    assert isinstance(new, cst.CSTNode)
    return new


def _extract_children(
    node: cst.Call, context: Context
) -> tuple[list[Statement], cst.BaseExpression]:
    """Hoist from the arguments (and receivers' arguments) of a top-level mutation."""
    extractor = _Extractor(context)
    if inplace_method(node) is not None and isinstance(node.func, cst.Attribute):
        receiver = node.func.value
        if mutates_place(receiver):
            assert isinstance(receiver, cst.Call)
            prelude, inner = _extract_children(receiver, context)
            extractor.prelude.extend(prelude)
        else:
            inner = cast(cst.BaseExpression, _visit(receiver, extractor))
        node = node.with_changes(func=node.func.with_changes(value=inner))
    args = [arg.with_changes(value=_visit(arg.value, extractor)) for arg in node.args]
    return extractor.prelude, node.with_changes(args=args)


class _Extractor(Rewriter):
    """Moves mutations to ``prelude``, in the order of evaluation."""

    def __init__(self, context: Context) -> None:
        super().__init__(context.origins)
        self.context = context
        self.prelude: list[Statement] = []
        self.conditional = 0

    def visit_IfExp(self, node: cst.IfExp) -> bool:
        return self._guard(node)

    def visit_BooleanOperation(self, node: cst.BooleanOperation) -> bool:
        return self._guard(node)

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return self._guard(node)

    def visit_ListComp(self, node: cst.ListComp) -> bool:
        return self._guard(node)

    def visit_GeneratorExp(self, node: cst.GeneratorExp) -> bool:
        return self._guard(node)

    def _guard(self, node: cst.CSTNode) -> bool:
        """Inside these a mutation may happen never, later or several times."""
        for inner in walk(node):
            if mutates_place(inner):
                self.context.refuse(
                    "R4",
                    inner,
                    "a tensor is mutated inside a conditional or repeated expression",
                    "write it as a statement, in an if or a for",
                )
                return False
        return False

    def leave_Call(
        self, original_node: cst.Call, updated_node: cst.Call
    ) -> cst.BaseExpression:
        if not mutates_place(updated_node):
            return updated_node
        line = cst.SimpleStatementLine([cst.Expr(updated_node)])
        self.origins.inherit(line, original_node)
        self.prelude.append(line)
        out = keyword(updated_node, "out")
        if out is not None:
            return out.deep_clone()
        if inplace_function(updated_node) is not None:
            return updated_node.args[0].value.deep_clone()
        return chain_root(updated_node).deep_clone()
