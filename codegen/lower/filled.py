"""Lists that loops over parameters fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import libcst as cst

from codegen.diagnostics import Origins
from codegen.lower.forms import appended
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    block,
    code,
    is_name,
    small,
    statements,
    stmt,
    string_key,
    target_names,
)


def is_param_loop(node: cst.CSTNode) -> TypeGuard[cst.For]:
    return isinstance(node, cst.For) and string_key(walked(node)) == "params"


def walked(node: cst.For) -> cst.BaseExpression:
    """``xs`` of ``for x in xs`` and of ``for i, x in enumerate(xs)``."""
    if isinstance(node.iter, cst.Call) and is_name(node.iter.func, "enumerate"):
        return node.iter.args[0].value
    return node.iter


def item_of_walk(node: cst.For) -> str:
    """The variable of a loop over parameters, beside their position or not."""
    target: cst.BaseExpression = node.target
    if isinstance(node.iter, cst.Call) and isinstance(target, cst.Tuple):
        target = target.elements[-1].value
    return next(target_names(target))


def empty_lists(body: Sequence[Statement]) -> set[str]:
    names: set[str] = set()
    for node in body:
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Name):
            if isinstance(pair[1], cst.List) and not pair[1].elements:
                names.add(pair[0].value)
            elif code(pair[1]) == "list()":
                names.add(pair[0].value)
    return names


def filled_by(node: cst.For) -> set[str]:
    found = (appended(s) for s in all_statements(statements(node.body)))
    return {pair[0] for pair in found if pair is not None}


def filled(body: Body) -> set[str]:
    """Lists that loops of a block over parameters fill."""
    loops = (s for s in body if isinstance(s, cst.For) and is_param_loop(s))
    return empty_lists(body) & set().union(*map(filled_by, loops), set())


def filled_in(node: Statement) -> set[str]:
    found = map(appended, all_statements([node]))
    return {pair[0] for pair in found if pair is not None}


def skips(node: Statement) -> bool:
    return any(isinstance(small(s), cst.Continue) for s in all_statements([node]))


def initialises(node: Statement, lists: set[str]) -> bool:
    pair = assignment(node)
    return pair is not None and any(n in lists for n in target_names(pair[0]))


def drop_lists(body: Body, lists: set[str]) -> Body:
    """Lists that nothing reads any more."""
    kept = [s for s in body if not initialises(s, lists)]
    return tuple(_without_appends(kept, lists))


def _without_appends(body: Sequence[Statement], lists: set[str]) -> list[Statement]:
    result: list[Statement] = []
    for node in body:
        pair = appended(node)
        if pair is not None and pair[0] in lists:
            continue
        if isinstance(node, (cst.If, cst.For)):
            inner = _without_appends(statements(node.body), lists)
            if not inner and isinstance(node, cst.If) and node.orelse is None:
                continue
            node = node.with_changes(body=block(inner))
        result.append(node)
    return result


def singular(name: str) -> str:
    """``exp_avg`` for ``exp_avgs`` and ``exp_avg_list``."""
    if name.endswith("_list"):
        return name[: -len("_list")]
    return name[:-1] if name.endswith("s") and len(name) > 2 else f"{name}_item"


def skip_none(loop: cst.For, item: str, origins: Origins) -> cst.For:
    """``if p.grad is not None: …``, at the end of a loop over ``p``, ``item`` →
    ``if p.grad is None: continue``, then the rest."""
    *before, last = statements(loop.body)
    if not isinstance(last, cst.If) or last.orelse is not None:
        return loop
    if code(last.test) != f"{item}.grad is not None":
        return loop
    skip = stmt(f"if {item}.grad is None:\n    continue\n")
    skip = skip.with_changes(leading_lines=last.leading_lines)
    origins.inherit(skip, last)
    return loop.with_changes(body=block([*before, skip, *statements(last.body)]))
