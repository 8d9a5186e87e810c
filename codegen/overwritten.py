"""Drops stores that are surely overwritten before anything reads them.

group["params"][p_idx] = param = param.mul(…)      param = param.mul(…)
group["params"][p_idx] = param.add(…)          →   group["params"][p_idx] = param.add(…)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import libcst as cst

from codegen.diagnostics import walk
from codegen.syntax import (
    Body,
    Statement,
    block,
    code,
    map_bodies,
    orelse_statements,
    small,
    statements,
)

Dead = frozenset[str]
NONE: Dead = frozenset()


def drop_overwritten(body: Body) -> Body:
    """``body`` without stores to items that a later statement stores again."""
    return _block(body, NONE)[0]


def _block(body: Sequence[Statement], dead: Dead) -> tuple[Body, Dead]:
    """(new body, items that are overwritten before they are read, at its start)."""
    result: list[Statement] = []
    for node in reversed(body):
        new, dead = _statement(node, dead)
        result.append(new)
    return tuple(reversed(result)), dead


def _statement(node: Statement, dead: Dead) -> tuple[Statement, Dead]:
    inner = small(node)
    if isinstance(inner, (cst.Return, cst.Continue, cst.Break)):
        return node, NONE
    if isinstance(node, cst.FunctionDef):
        return node, dead - _reads(node.body)
    if isinstance(inner, cst.Assign):
        return _assign(node, inner, dead)
    if inner is not None:
        return node, dead - _reads(inner)
    if isinstance(node, cst.If):
        return _if(node, dead)
    return map_bodies(node, lambda part: _block(part, NONE)[0]), NONE


def _if(node: cst.If, dead: Dead) -> tuple[Statement, Dead]:
    body, first = _block(statements(node.body), dead)
    new = node.with_changes(body=block(body))
    if isinstance(node.orelse, cst.If):
        rest, second = _if(node.orelse, dead)
        new = new.with_changes(orelse=rest)
    elif node.orelse is not None:
        other, second = _block(orelse_statements(node), dead)
        new = new.with_changes(orelse=node.orelse.with_changes(body=block(other)))
    else:
        second = dead
    return new, (first & second) - _reads(node.test)


def _assign(node: Statement, inner: cst.Assign, dead: Dead) -> tuple[Statement, Dead]:
    stores = [t for t in inner.targets if isinstance(t.target, cst.Subscript)]
    kept = [t for t in inner.targets if t not in stores or code(t.target) not in dead]
    if not kept:
        kept = [inner.targets[0]]
    after = dead
    for target in inner.targets:
        if isinstance(target.target, cst.Subscript):
            after |= {code(target.target)}
            for part in target.target.slice:
                after -= _reads(part)
            if not isinstance(target.target.value, cst.Name):
                after -= _reads(target.target.value)
        else:
            after = _forget(after, target.target)
    new = node.with_changes(body=[inner.with_changes(targets=kept)])
    return new, after - _reads(inner.value)


def _forget(dead: Dead, target: cst.CSTNode) -> Dead:
    """Items whose text mentions a variable that is bound here are other items."""
    from codegen.syntax import target_names

    names = set(target_names(target))
    return frozenset(d for d in dead if not names & _words(d))


def _words(text: str) -> set[str]:
    """Variables in an item's text; string keys are none."""
    return set(re.findall(r"[A-Za-z_]\w*", re.sub(r"\"[^\"]*\"|'[^']*'", "", text)))


def _reads(node: cst.CSTNode) -> Dead:
    """Items that an expression may read."""
    found: set[str] = set()
    for inner in walk(node):
        if isinstance(inner, cst.Subscript):
            found.add(code(inner))
    if _uses_container(node):
        return _ALL
    return frozenset(found)


def _uses_container(node: cst.CSTNode) -> bool:
    """``state`` or ``group`` used other than to look an item up."""
    bases = {
        id(n.value) for n in walk(node) if isinstance(n, (cst.Subscript, cst.Attribute))
    }
    for inner in walk(node):
        if isinstance(inner, cst.Name) and inner.value in ("state", "self"):
            if id(inner) not in bases:
                return True
    return False


class _All(frozenset[str]):
    def __rsub__(self, other: object) -> Dead:
        return NONE


_ALL: Dead = _All()
