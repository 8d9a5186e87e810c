"""Nested functions that are called once, as the statements that they are.

def _compute_rect():                  →   rect = 2 * rho
    return 2 * rho                        p = p.mul(rect)
p = p.mul(_compute_rect())
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import Origins, walk
from codegen.purity import pure
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    is_name,
    map_bodies,
    replace_nodes,
    small,
    statements,
)


def unwrap_functions(body: Body, context: Context) -> Body:
    """A nested function without arguments that one statement calls stands there."""
    for node in all_statements(body):
        if isinstance(node, cst.FunctionDef) and (parts := _parts(node, body)):
            name = re.sub("^_*(compute_|get_|calc_)?", "", node.name.value)
            nodes = (n for s in body for n in walk(s))
            if any(is_name(n, name) for n in nodes) or name in context.taken:
                name = context.fresh(name)
            unwrapped = _unwrapped(body, node, parts, name, context.origins)
            return unwrap_functions(unwrapped, context)
    return body


def _parts(node: cst.FunctionDef, body: Body) -> Body | None:
    """What a function does, where it can stand at its one call: pure assignments to
    variables of its own, then the value."""
    nodes = [n for s in body for n in walk(s)]
    inside = statements(node.body)
    *lines, last = inside
    given = small(last)
    if node.decorators or [*walk(node.params)][1:] or not isinstance(given, cst.Return):
        return None
    own: set[str] = set()
    for line in lines:
        pair = assignment(line)
        if pair is None or not isinstance(pair[0], cst.Name) or not pure(pair[1]):
            return None
        own.add(pair[0].value)
    theirs = Counter(n.value for n in nodes if isinstance(n, cst.Name))
    ours = Counter(n.value for n in walk(node) if isinstance(n, cst.Name))
    called = [n for n in nodes if _is_call_of(n, node)]
    once = len(called) == 1 and theirs[node.name.value] == 2
    if not once or any(theirs[name] != ours[name] for name in own):
        return None
    if given.value is None or not pure(given.value) or not _at_once(called[0], body):
        return None
    return inside


def _is_call_of(node: cst.CSTNode, function: cst.FunctionDef) -> bool:
    return (
        isinstance(node, cst.Call)
        and is_name(node.func, function.name.value)
        and not node.args
    )


_LATER = (cst.IfExp, cst.BooleanOperation, cst.Lambda, cst.BaseComp)


def _at_once(call: cst.CSTNode, body: Body) -> bool:
    """Whether a call is made whenever its statement, a simple one, is reached."""
    for node in all_statements(body):
        inner = small(node)
        if inner is not None and any(n is call for n in walk(inner)):
            parts = (p for n in walk(inner) if isinstance(n, _LATER) for p in walk(n))
            return not any(p is call for p in parts)
    return False


def _unwrapped(
    body: Sequence[Statement],
    function: cst.FunctionDef,
    parts: Body,
    name: str,
    origins: Origins,
) -> Body:
    result: list[Statement] = []
    for node in body:
        if node is function:
            continue
        if small(node) is None:
            node = map_bodies(
                node, lambda part: _unwrapped(part, function, parts, name, origins)
            )
        elif any(_is_call_of(n, function) for n in walk(node)):
            *lines, last = parts
            value = cst.ensure_type(small(last), cst.Return).value
            assert value is not None
            line = cst.Assign([cst.AssignTarget(cst.Name(name))], value)
            named = last.with_changes(body=[line])
            origins.inherit(named, last)
            moved = [*lines, named]
            result += moved

            def called(inner: cst.CSTNode) -> cst.CSTNode | None:
                return cst.Name(name) if _is_call_of(inner, function) else None

            node = cast(Statement, replace_nodes(node, called, origins))
        result.append(node)
    return tuple(result)
