"""A parameter's first state, written out slot by slot.

if p not in self.state:                            →   if p not in self.state:
    self.state[p] = state = {"step": 0, "m": m}            state = self.state[p]
                                                           self.state[p]["step"] = 0
                                                           self.state[p]["m"] = m
"""

from __future__ import annotations

import re

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assign,
    assignment,
    block,
    code,
    dict_entries,
    dotted,
    expr,
    index_of,
    map_bodies,
    small,
    statements,
    stmt,
    string_key,
    with_comments,
)

_OWN = r"self\.state\[\w+\]"


def slot_by_slot(body: Body, context: Context, fills: bool = False) -> Body:
    """State that is given to a parameter which has none, as slots of what is there.

    Refuses to give it to one that may have some: who else knows that would keep the old.
    Where the body ``fills`` it, there is none to begin with.
    """
    names = {
        code(pair[0])
        for node in all_statements(body)
        if (pair := assignment(node)) is not None
        and isinstance(pair[0], cst.Name)
        and re.fullmatch(_OWN, code(pair[1]))
    }
    known = "|".join([_OWN, *map(re.escape, names)])
    empty = re.compile(rf"not ({known})|len\(({known})\) == 0|\w+ not in self\.state")
    return _written_out(body, context, empty, fills, fills)


def _written_out(
    body: Body,
    context: Context,
    empty: re.Pattern[str],
    is_empty: bool,
    fills: bool = False,
) -> Body:
    def inside(part: Body, starts: bool = fills) -> Body:
        return _written_out(part, context, empty, starts, fills)

    result: list[Statement] = []
    for node in body:
        if isinstance(node, cst.If):
            first = bool(empty.fullmatch(code(node.test)))
            inner = inside(statements(node.body), first or is_empty)
            rest = map_bodies(node.with_changes(body=block(())), inside)
            result.append(rest.with_changes(body=block(inner or (stmt("pass"),))))
        elif small(node) is None:
            result.append(map_bodies(node, inside))
        else:
            result += _slots(node, context, is_empty)
            is_empty = is_empty and not _stores_slot(node)
    return tuple(result)


def _slots(node: Statement, context: Context, is_empty: bool) -> list[Statement]:
    inner = small(node)
    if not isinstance(inner, cst.Assign):
        return [node]
    targets = [t.target for t in inner.targets]
    own = [t for t in targets if _is_own(t)]
    others = [t for t in targets if not _is_own(t)]
    if not own:
        return [node]
    entries = display_entries(inner.value)
    plain = len(own) == 1 and all(isinstance(t, cst.Name) for t in others)
    if entries is None or not is_empty or not plain:
        context.refuse(
            "R3",
            node,
            "a parameter's state is replaced as a whole",
            'store into it, slot by slot: self.state[p]["k"] = …',
        )
        return [node]
    lines: list[Statement] = [assign(others, own[0])] if others else []
    for key, value in entries.items():
        lines.append(assign([expr(f"{code(own[0])}[{key!r}]")], value))
    for line in lines:
        context.origins.inherit(line, node)
    return [with_comments(lines[0], node), *lines[1:]] if lines else []


def _is_own(target: cst.CSTNode) -> bool:
    return (
        isinstance(target, cst.Subscript)
        and dotted(target.value) == "self.state"
        and isinstance(index_of(target), cst.Name)
    )


def display_entries(node: cst.BaseExpression) -> dict[str, cst.BaseExpression] | None:
    """Of ``{"k": v}`` or ``dict(k=v)``."""
    if isinstance(node, cst.Call) and dotted(node.func) == "dict":
        if all(a.keyword is not None and not a.star for a in node.args):
            return {a.keyword.value: a.value for a in node.args if a.keyword}
        return None
    return dict_entries(node)


def _stores_slot(node: Statement) -> bool:
    inner = small(node)
    return isinstance(inner, cst.Assign) and any(
        isinstance(n, cst.Subscript) and string_key(n) is not None
        for t in inner.targets
        for n in walk(t.target)
    )
