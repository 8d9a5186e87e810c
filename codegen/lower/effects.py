"""What statements read, write and draw: whether their order counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import libcst as cst

from codegen.diagnostics import walk
from codegen.syntax import (
    Statement,
    assignment,
    calls,
    code,
    dotted,
    index_of,
    orelse_statements,
    read_names,
    statements,
    target_names,
)


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


def free_reads(body: Sequence[Statement]) -> set[str]:
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


def written_by(body: Sequence[Statement]) -> set[str]:
    """Names bound, and roots of what is stored into or mutated."""
    found: set[str] = set()
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign)):
            found.add(_root(node.target))
            found.update(target_names(node.target))
        elif isinstance(node, (cst.For, cst.NamedExpr)):
            found.update(target_names(node.target))
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            name = node.func.attr.value
            if name.endswith("_") or name in ("append", "update", "setdefault"):
                found.add(_root(node.func.value))
    return found - {""}


def _root(node: cst.CSTNode) -> str:
    """``group`` for ``group["k"]``; what is kept for a parameter has none."""
    if isinstance(node, cst.Subscript):
        return "" if dotted(node.value) == "self.state" else _root(node.value)
    if isinstance(node, cst.Attribute):
        return _root(node.value)
    if isinstance(node, cst.Call):
        return _root(node.func)
    return node.value if isinstance(node, cst.Name) else ""


def draws(body: Sequence[Statement]) -> bool:
    """Whether random numbers are drawn: their order counts."""
    words = ("rand", "normal", "bernoulli", "dropout", "multinomial", "uniform")
    return any(
        any(w in (dotted(c.func) or code(c.func)) for w in words)
        for s in body
        for c in calls(s)
    )
