"""Functions that return, as statements that go on."""

from __future__ import annotations

from collections.abc import Callable

import libcst as cst

from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    block,
    ends,
    map_bodies,
    orelse_statements,
    rebuild_if,
    small,
    statements,
    stmt,
    with_comments,
)


def tail_returns(
    body: Body,
    finish: Callable[[cst.BaseExpression | None], list[Statement]],
    needs_value: bool,
) -> Body | None:
    """``body`` with each ``return`` in tail position replaced; None where one isn't.

    ``if c: return`` followed by more becomes ``if c: … else: more``.
    """
    result: list[Statement] = []
    for number, node in enumerate(body):
        inner = small(node)
        if isinstance(inner, cst.Return):
            new = finish(inner.value)
            result.extend(with_comments(s, node) for s in new)
            return tuple(result)
        if isinstance(node, cst.If) and _returns(node):
            rest = body[number + 1 :]
            merged = _split_if(node, rest, finish, needs_value)
            return None if merged is None else (*result, merged)
        if isinstance(node, (cst.For, cst.While)) and _returns(node):
            loop = _break_out(node, body[number + 1 :], finish, needs_value)
            return None if loop is None else (*result, loop)
        if _returns(node):
            return None
        result.append(node)
    if needs_value and not (result and ends(result[-1])):
        result.extend(finish(None))
    return tuple(result)


def _break_out(
    node: cst.For | cst.While,
    rest: Body,
    finish: Callable[[cst.BaseExpression | None], list[Statement]],
    needs_value: bool,
) -> Statement | None:
    """``for …: return x`` and more after it → ``for …: y = x; break`` with an else."""
    if node.orelse is not None or _returns_from_inner_loop(statements(node.body)):
        return None
    after = tail_returns(rest, finish, needs_value)
    if after is None:
        return None

    def leave(body: Body) -> Body:
        result: list[Statement] = []
        for part in body:
            inner = small(part)
            if isinstance(inner, cst.Return):
                result.extend(with_comments(s, part) for s in finish(inner.value))
                result.append(stmt("break"))
            elif inner is None and not isinstance(part, cst.FunctionDef):
                result.append(map_bodies(part, leave))
            else:
                result.append(part)
        return tuple(result)

    orelse = cst.Else(block(after)) if after else None
    return node.with_changes(body=block(leave(statements(node.body))), orelse=orelse)


def _returns_from_inner_loop(body: Body) -> bool:
    loops = (n for n in all_statements(body) if isinstance(n, (cst.For, cst.While)))
    return any(_returns(loop) for loop in loops)


def _split_if(
    node: cst.If,
    rest: Body,
    finish: Callable[[cst.BaseExpression | None], list[Statement]],
    needs_value: bool,
) -> cst.If | None:
    body = statements(node.body)
    orelse = orelse_statements(node)
    if not (body and ends(body[-1])):
        body = (*body, *rest)
    if not (orelse and ends(orelse[-1])):
        orelse = (*orelse, *rest)
    new_body = tail_returns(body, finish, needs_value)
    new_else = tail_returns(orelse, finish, needs_value)
    if new_body is None or new_else is None:
        return None
    return rebuild_if(node, node.test, new_body, new_else)


def _returns(node: Statement) -> bool:
    return any(isinstance(small(n), cst.Return) for n in all_statements([node]))
