"""How steps write lists, and what they ask about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import libcst as cst

from codegen.diagnostics import walk
from codegen.syntax import (
    Statement,
    assignment,
    bound_names,
    code,
    dotted,
    index_of,
    is_name,
    method,
    orelse_statements,
    read_names,
    small,
    statements,
    target_names,
)


def called(node: cst.CSTNode, name: str) -> bool:
    return isinstance(node, cst.Call) and is_name(node.func, name) and bool(node.args)


def as_list(node: cst.BaseExpression) -> cst.BaseExpression:
    """Through ``list(…)``, ``tuple(…)``, ``filter(lambda …)`` and ``xs[:]``."""
    if isinstance(node, cst.Call) and dotted(node.func) in ("list", "tuple"):
        if len(node.args) == 1:
            return as_list(node.args[0].value)
    if isinstance(node, cst.GeneratorExp):
        return cst.ListComp(node.elt, node.for_in)
    if called(node, "filter") and len(cast(cst.Call, node).args) == 2:
        test, source = (a.value for a in cast(cst.Call, node).args)
        if isinstance(test, cst.Lambda) and len(test.params.params) == 1:
            item = test.params.params[0].name
            loop = cst.CompFor(item, source, [cst.CompIf(test.body)])
            return cst.ListComp(item, loop)
    if isinstance(node, cst.Subscript) and code(node).endswith("[:]"):
        return node.value
    return node


def repeated(
    node: cst.BaseExpression,
) -> tuple[cst.BaseExpression, cst.BaseExpression] | None:
    """(x, params) of ``[x] * len(params)``."""
    if not isinstance(node, cst.BinaryOperation):
        return None
    if not isinstance(node.operator, cst.Multiply) or not called(node.right, "len"):
        return None
    if isinstance(node.left, cst.List) and len(node.left.elements) == 1:
        length = cast(cst.Call, node.right)
        return node.left.elements[0].value, length.args[0].value
    return None


def appended(node: cst.CSTNode) -> tuple[str, cst.BaseExpression] | None:
    """(list, item) of the statement ``list.append(item)``."""
    inner = small(node)
    if not isinstance(inner, cst.Expr) or not isinstance(inner.value, cst.Call):
        return None
    func = inner.value.func
    if isinstance(func, cst.Attribute) and func.attr.value == "append":
        if isinstance(func.value, cst.Name) and len(inner.value.args) == 1:
            return func.value.value, inner.value.args[0].value
    return None


def appending(name: str, variable: str) -> Statement:
    append = method(cst.Name(name), "append", [cst.Arg(cst.Name(variable))])
    return cst.SimpleStatementLine([cst.Expr(append)])


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


def may_fail(node: Statement) -> bool:
    """Whether a statement may raise where lists are empty: it calls, or divides."""
    if isinstance(node, cst.For):
        return False
    if isinstance(node, cst.If):
        inner = (*statements(node.body), *orelse_statements(node))
        return any(map(may_fail, inner)) or may_fail(stmt_of(node.test))
    risky = (cst.Call, cst.Divide, cst.FloorDivide, cst.Modulo)
    return any(isinstance(n, risky) for n in walk(node))


def stmt_of(node: cst.BaseExpression) -> Statement:
    return cst.SimpleStatementLine([cst.Expr(node)])


def does_nothing_without(
    lists: Iterable[str], body: Sequence[Statement], live: Iterable[str]
) -> bool:
    """Whether statements are loops over ``lists``, over what is made of these, and
    variables for them that nothing ``live`` reads: nothing, where the lists are empty.
    """
    return _adds_nothing({*lists}, body, {*live})


def _adds_nothing(own: set[str], body: Sequence[Statement], live: set[str]) -> bool:
    for node in body:
        pair = assignment(node)
        if isinstance(node, cst.If):
            parts = (statements(node.body), orelse_statements(node))
            if not all(_adds_nothing(own, part, live) for part in parts):
                return False
        elif isinstance(node, cst.For):
            if node.orelse is not None or not _walked_names(node.iter) & own:
                return False
        elif pair is None or code(pair[0]) != ", ".join(target_names(pair[0])):
            return False
        elif isinstance(pair[1], cst.ListComp) and isinstance(pair[0], cst.Name):
            if _walked_names(pair[1].for_in.iter) & own:
                own.add(pair[0].value)
        if bound_names(node) & live:
            return False
    return True


def _walked_names(node: cst.BaseExpression) -> set[str]:
    """Lists that are all walked to the end of the shortest."""
    if isinstance(node, cst.Name):
        return {node.value}
    names = ("zip", "enumerate", "range", "len", "list", "tuple", "reversed")
    if isinstance(node, cst.Call) and dotted(node.func) in names:
        plain = [a.value for a in node.args if a.keyword is None and not a.star]
        counted = dotted(node.func) == "zip"
        found = map(_walked_names, plain if counted else plain[:1])
        return set().union(*found) if counted or len(plain) == 1 else set()
    return set()


def skip_test(node: Statement) -> cst.BaseExpression | None:
    """The test of ``if test: continue``."""
    if isinstance(node, cst.If) and node.orelse is None:
        body = statements(node.body)
        if len(body) == 1 and isinstance(small(body[0]), cst.Continue):
            return node.test
    return None


def is_path(node: cst.BaseExpression) -> bool:
    """``self.state[p]["k"]``, ``p.grad``: found again whenever it is asked for."""
    if isinstance(node, cst.Name):
        return True
    if isinstance(node, cst.Attribute):
        return is_path(node.value)
    if isinstance(node, cst.Subscript):
        index = index_of(node)
        plain = isinstance(index, (cst.Name, cst.SimpleString))
        return plain and is_path(node.value)
    return False


def upward_exposed_uses(body: Sequence[Statement]) -> set[str]:
    """Names that are read before these statements surely bind them."""
    bound: set[str] = set()
    free: set[str] = set()
    for node in body:
        free |= read_names(node) - bound
        pair = assignment(node)
        if pair is not None:
            bound.update(target_names(pair[0]))
        elif isinstance(node, cst.If):
            both = [
                set(_surely_bound(part))
                for part in (statements(node.body), orelse_statements(node))
            ]
            bound |= both[0] & both[1]
    return free


def _surely_bound(body: Sequence[Statement]) -> Iterable[str]:
    for node in body:
        pair = assignment(node)
        if pair is not None:
            yield from target_names(pair[0])


def item_of(node: cst.CSTNode, index: str) -> str:
    """``exp_avgs`` for ``exp_avgs[i]``."""
    if isinstance(node, cst.Subscript) and isinstance(node.value, cst.Name):
        if is_name(index_of(node), index):
            return node.value.value
    return ""
