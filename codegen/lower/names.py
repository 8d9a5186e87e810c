"""Names: what a person wrote must not meet what the compiler writes.

One function is made of several, each with variables and module-level names of its own,
and the rules add names. Where two things would share a name, one gets another.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import Origins, walk
from codegen.substitution import renamed_variables, substitute
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    block,
    bound_names,
    comprehension_names,
    is_name,
    map_bodies,
    map_parts,
    read_names,
    small,
    statements,
    string_key,
    sub_bodies,
    target_names,
)

BUILTINS = frozenset(n for n in dir(builtins) if n.islower())
RUNTIME = frozenset({"ops", "grouped_grads", "self", "kwargs", "Any"}) | {
    "DifferentiableOptimizer",
    "GroupedGrads",
}
"""What the module around a step and its signature bind."""
WRITTEN = RUNTIME | {"group_grads", "group_idx", "p_idx", "updated", "old"}
"""What the rules write into a step."""


def fresh_name(name: str, taken: Iterable[str]) -> str:
    """``name_``, or with more underscores where that is taken."""
    new = f"{name}_"
    while new in taken:
        new += "_"
    return new


def hidden_names(body: Body) -> set[str]:
    """Variables to rename before a function is read: those that hide a builtin, and a
    ``group`` that is none of the optimizer's."""
    names = bound_names(block(body)) & BUILTINS
    assigned = {n for s in all_statements(body) if small(s) for n in bound_names(s)}
    return names | (assigned & {"group"})


def rename_reserved(body: Body, context: Context) -> Body:
    """Variables of the user's that are called like what the rules write get others, and
    so do a comprehension's that are called like what has another meaning around it."""
    names = bound_names(block(body)) & WRITTEN
    return _scopes_apart(rename(body, names, context.origins), context.origins)


def strays(
    body: Iterable[cst.CSTNode], walked: frozenset[str] = frozenset()
) -> set[str]:
    """Names with a meaning of their own outside of loops and comprehensions that walk
    them: those that are bound otherwise, or read where no loop around binds them."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, cst.For):
            found |= read_names(node.iter) - walked
            inner = walked | set(target_names(node.target))
            found |= strays(statements(node.body), inner)
            if node.orelse is not None:
                found |= strays(statements(node.orelse.body), walked)
        elif small(node) is not None or isinstance(node, cst.FunctionDef):
            found |= bound_names(node) | (read_names(node) - walked)
        else:
            head = map_bodies(cast(Statement, node), lambda _: ())
            found |= bound_names(head) | (read_names(head) - walked)
            for part in sub_bodies(node):
                found |= strays(statements(part), walked)
    return found


def _scopes_apart(body: Body, origins: Origins) -> Body:
    """Loops are made of comprehensions, and the other way round: what a comprehension
    binds must mean nothing else where it stands."""
    named = {n.value for s in body for n in walk(s) if isinstance(n, cst.Name)}
    outside = strays(body)

    def replace(node: cst.CSTNode, walked: frozenset[str]) -> cst.CSTNode:
        if isinstance(node, cst.For):
            walked |= set(target_names(node.target))
        new = map_parts(node, lambda n: replace(n, walked))
        if isinstance(new, cst.BaseComp):
            clash = comprehension_names(new) & (outside | walked)
            names = {name: fresh_name(name, named) for name in sorted(clash)}
            named.update(names.values())
            new = renamed_variables(new, names, origins) if names else new
        if new is not node:
            origins.inherit(new, node)
        return new

    return tuple(cast(Statement, replace(s, frozenset())) for s in body)


def reserve_grad(body: Body, context: Context) -> Body:
    """``grad`` is the gradient in a loop over parameters, and nothing outside it."""
    outside = block(_without_loops(body))
    if "grad" in bound_names(outside) | read_names(outside):
        return rename(body, {"grad"}, context.origins)
    return body


def _without_loops(body: Body) -> Body:
    """Statements outside the loops over parameters."""
    return tuple(
        map_bodies(s, _without_loops)
        for s in body
        if not isinstance(s, cst.For) or not walks_group(s.iter)
    )


def walks_group(node: cst.BaseExpression) -> bool:
    """``group["params"]``, or ``enumerate`` of it."""
    if isinstance(node, cst.Call) and is_name(node.func, "enumerate"):
        node = node.args[0].value
    return string_key(node) == "params"


def rename(body: Body, names: Iterable[str], origins: Origins) -> Body:
    """Variables under other names, everywhere in ``body``."""
    whole = block(body)
    taken = bound_names(whole) | read_names(whole)
    new: dict[str, cst.BaseExpression] = {}
    for name in sorted(names):
        new[name] = cst.Name(fresh_name(name, taken))
    return tuple(cast(Statement, substitute(s, new, origins)) for s in body)
