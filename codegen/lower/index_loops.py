"""Loops that count through the groups, or through a group's parameters.

params = group["params"]                     →   for i, p in enumerate(group["params"]):
for i in range(len(params)):                         g = p.grad
    p = params[i]
    g = params[i].grad
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from functools import partial
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import Origins, walk
from codegen.lower.blocks import group_loop_target
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    block,
    bound_names,
    call,
    code,
    dotted,
    index_of,
    is_name,
    map_bodies,
    read_names,
    replace_nodes,
    small,
    statements,
    stmt,
    string_key,
    target_names,
    with_comments,
)

_Known = Mapping[str, cst.BaseExpression]
"""Names that stand for a group's parameters, or their number."""


def index_loops_to_enumerate(body: Body, context: Context) -> Body:
    """Such loops as loops over the parameters themselves."""
    if not any(_counts(n) for n in all_statements(body)):
        return body
    bound = Counter(n for s in body for n in _bindings(s))
    used = {
        code(n.func.value)
        for s in body
        for n in walk(s)
        if isinstance(n, cst.Call) and isinstance(n.func, cst.Attribute)
    }
    steady = {name for name, times in bound.items() if times == 1} - used
    return _rewritten(body, {}, steady, context)


def _counts(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.For) and code(node.iter).startswith(
        ("range(", "enumerate(")
    )


def _bindings(node: cst.CSTNode) -> list[str]:
    found: list[str] = []
    for inner in walk(node):
        if isinstance(inner, (cst.AssignTarget, cst.AnnAssign, cst.AugAssign)):
            found += target_names(inner.target)
        elif isinstance(inner, (cst.For, cst.CompFor, cst.NamedExpr)):
            found += target_names(inner.target)
    return found


def _stands_for(value: cst.BaseExpression, known: _Known) -> cst.BaseExpression | None:
    """``group["params"]``, or its length."""
    if _is_params(value):
        return value
    counted = _counted(value, "len")
    base = None if counted is None else known.get(code(counted), counted)
    return call("len", base) if base is not None and _is_params(base) else None


def _is_params(node: cst.CSTNode) -> bool:
    """A group's parameters, or the groups."""
    if isinstance(node, cst.Subscript):
        return isinstance(node.value, cst.Name) and string_key(node) == "params"
    return dotted(node) == "self.param_groups"


def _counted(node: cst.CSTNode, function: str) -> cst.BaseExpression | None:
    """``x`` of ``function(x)``."""
    if isinstance(node, cst.Call) and is_name(node.func, function):
        return node.args[0].value if len(node.args) == 1 else None
    return None


def _rewritten(
    body: Body,
    known: _Known,
    steady: Container[str],
    context: Context,
    inside: bool = False,
) -> Body:
    """``known`` are names at the start of a block: those that it binds itself hold in
    the rest of it, for behind it the group is another one; ``inside`` the turn of a
    group another one goes by another name."""
    known = dict(known)
    result: list[Statement] = []
    for node in body:
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Name):
            meant = _stands_for(pair[1], known)
            if meant is not None and pair[0].value in steady:
                known[pair[0].value] = meant
        if isinstance(node, cst.For):
            node = _walking(node, known, context, inside)
        if small(node) is None:
            within = inside or group_loop_target(node) is not None
            inner = partial(
                _rewritten, known=known, steady=steady, context=context, inside=within
            )
            node = map_bodies(node, inner)
        result.append(node)
    return tuple(result)


def _walking(node: cst.For, known: _Known, context: Context, inside: bool) -> cst.For:
    """A loop that counts, as one over the parameters; others as they are."""
    source = cast(cst.BaseExpression, substitute(node.iter, known, context.origins))
    target: cst.BaseExpression = node.target
    items = list(statements(node.body))
    number = _counted(source, "range")
    params = _counted(number or source, "enumerate" if number is None else "len")
    if params is None or not _is_params(params):
        return node
    if number is not None and isinstance(target, cst.Name):
        index, name = target.value, None
        pair = assignment(items[0])
        if pair is not None and is_name(pair[0]) and _is_item(pair[1], index, known):
            name, bind = code(pair[0]), items.pop(0)
            items[:1] = [with_comments(s, bind) for s in items[:1]]
    elif number is None and isinstance(target, cst.Tuple) and len(target.elements) == 2:
        index, name = (code(e.value) for e in target.elements)
    else:
        return node
    name = context.fresh("param") if name is None else name
    used = bound_names(block(items)) | read_names(block(items))
    groups = dotted(params) == "self.param_groups" and not inside
    if {index, name} & bound_names(block(items)) or groups and "group" in used - {name}:
        return node
    replaced = [_with_item(s, index, name, known, context.origins) for s in items]
    if groups:
        # as where the groups are walked by themselves
        group = {name: cst.Name("group")}
        replaced = [
            cast(Statement, substitute(s, group, context.origins)) for s in replaced
        ]
        name = "group"
    new = node.with_changes(
        target=cst.Tuple([cst.Element(cst.Name(index)), cst.Element(cst.Name(name))]),
        iter=call("enumerate", params),
        body=block(replaced or [stmt("pass")]),
    )
    context.origins.inherit(new, node)
    return new


def _is_item(node: cst.CSTNode, index: str, known: _Known) -> bool:
    """``params[i]``"""
    if not isinstance(node, cst.Subscript) or not is_name(index_of(node), index):
        return False
    return _is_params(known.get(code(node.value), node.value))


def _with_item(
    node: Statement,
    index: str,
    name: str,
    known: _Known,
    origins: Origins,
) -> Statement:
    def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
        return cst.Name(name) if _is_item(inner, index, known) else None

    return cast(Statement, replace_nodes(node, replace, origins))
