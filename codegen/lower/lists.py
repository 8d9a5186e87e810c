"""Lists that only name or select parameters, walked as what they were taken from.

active = [p for p in group["params"] if p.grad is not None]
for p in active:                →    for p in group["params"]:
    …                                    if p.grad is None:
                                             continue
                                         …
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.dependence import Dependence
from codegen.lower.domains import is_loop_invariant
from codegen.lower.forms import appended, as_list, called
from codegen.lower.frame import Frame
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    assignment,
    block,
    bound_names,
    code,
    expr,
    is_name,
    map_bodies,
    method,
    negate,
    orelse_statements,
    read_names,
    small,
    statements,
    stmt,
    string_key,
    target_names,
    with_comments,
)


@dataclass(frozen=True)
class Selection:
    """``[item for item in source if conditions]``."""

    item: str
    source: cst.BaseExpression
    conditions: tuple[cst.BaseExpression, ...]

    def is_loop_invariant(
        self, dependence: Callable[[], Dependence], body: Sequence[Statement]
    ) -> bool:
        """Whether statements leave it as it is which items are selected."""
        return all(
            is_loop_invariant(test, self.item)
            or dependence().is_loop_invariant(test, body, self.item)
            for test in self.conditions
        )


def walk_selections(body: Body, context: Context) -> Body:
    """Loops over selections of parameters as loops with a ``continue``."""
    dependence = cache(lambda: Dependence(body, context))
    return _block(body, {}, _changed_lists(body), dependence, context)


def _changed_lists(body: Body) -> frozenset[str]:
    """Lists that may lose or gain items, by themselves or under another name."""
    changed: set[str] = set()
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, cst.Attribute):
            held: cst.CSTNode = node.value
        elif isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.Del)):
            held = node.target
            held = held.value if isinstance(held, cst.Subscript) else held
            if isinstance(node, cst.AssignTarget) and held is node.target:
                continue
        elif isinstance(node, cst.Assign):
            held = node.value
        else:
            continue
        if isinstance(held, cst.Name):
            changed.add(held.value)
    return frozenset(changed)


def walk_selection(
    node: cst.For,
    frame: Frame,
    fold: Callable[[cst.BaseExpression, Frame], cst.BaseExpression],
) -> cst.For:
    """The same for one loop over a selection that has no name."""
    found = _walked(node, {})
    if found is None:
        return node
    if not all(
        is_loop_invariant(fold(t, frame), found[0].item) for t in found[0].conditions
    ):
        return node
    return _walk(node, *found, frame.context)


def _block(
    body: Sequence[Statement],
    known: dict[str, Selection],
    changed: frozenset[str],
    dependence: Callable[[], Dependence],
    context: Context,
) -> Body:
    known = dict(known)
    result: list[Statement] = []
    for number, node in enumerate(body):
        if isinstance(node, cst.For):
            found = _walked(node, known)
            if found is not None and found[0].is_loop_invariant(dependence, [node]):
                result += _first_position(found[1])
                node = _walk(node, *found, context)
        # a loop binds them before it comes round to what it does first
        for name in bound_names(node):
            known.pop(name, None)
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Name):
            made = _selection(pair[1])
            rest = body[number + 1 :]
            if made is not None and pair[0].value not in changed:
                if made.is_loop_invariant(dependence, rest):
                    known[pair[0].value] = made
        if small(node) is None:
            node = map_bodies(
                node, lambda part: _block(part, known, changed, dependence, context)
            )
        result.append(node)
    return tuple(result)


def _selection(node: cst.BaseExpression) -> Selection | None:
    node = as_list(node)
    if string_key(node) == "params":
        return Selection("", node, ())
    if not isinstance(node, cst.ListComp):
        return None
    loop = node.for_in
    if loop.inner_for_in is not None or not isinstance(loop.target, cst.Name):
        return None
    if string_key(loop.iter) != "params" or code(node.elt) != loop.target.value:
        return None
    return Selection(loop.target.value, loop.iter, tuple(i.test for i in loop.ifs))


def _walk(
    node: cst.For,
    selection: Selection,
    index: str | None,
    item: cst.Name,
    context: Context,
) -> cst.For:
    rename = {selection.item: item}
    head: list[Statement] = []
    for condition in selection.conditions:
        test = cast(cst.BaseExpression, substitute(condition, rename, context.origins))
        leave = cst.SimpleStatementLine([cst.Continue()])
        head.append(cst.If(negate(test), block([leave])))
    if index is not None:
        head.append(stmt(f"{index} = {index} + 1"))
    return node.with_changes(
        target=item,
        iter=selection.source.deep_clone(),
        body=block([*head, *statements(node.body)]),
    )


def _first_position(index: str | None) -> list[Statement]:
    return [] if index is None else [stmt(f"{index} = -1")]


def _walked(
    node: cst.For, known: dict[str, Selection]
) -> tuple[Selection, str | None, cst.Name] | None:
    """A loop's selection, the variable that counts its items, and that of the items."""
    target, walked, index = node.target, node.iter, None
    if called(walked, "enumerate") and len(cast(cst.Call, walked).args) == 1:
        pair = [*target_names(target)]
        if len(pair) != 2:
            return None
        reads = read_names(block(statements(node.body)))
        index = pair[0] if pair[0] in reads else None
        if index is not None and _indexes(node, index):
            return None
        target, walked = cst.Name(pair[1]), cast(cst.Call, walked).args[0].value
    if not isinstance(target, cst.Name):
        return None
    if isinstance(walked, cst.Name) and walked.value in known:
        return known[walked.value], index, target
    if string_key(walked) == "params":
        return None
    selection = _selection(walked)
    return None if selection is None else (selection, index, target)


def _indexes(node: cst.For, index: str) -> bool:
    """Whether a position finds items in lists: those loops are lowered as such."""
    return any(
        isinstance(n, cst.Subscript) and index in set().union(*map(read_names, n.slice))
        for n in walk(node)
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
    sides = [_only_append(statements(node.body)), _only_append(orelse_statements(node))]
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


def _only_append(body: Body) -> tuple[str, cst.BaseExpression] | None:
    return appended(body[0]) if len(body) == 1 else None


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
