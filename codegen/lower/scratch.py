"""Buffers that only take turns with a tensor.

c = torch.empty_like(x)                      →   for _ in range(steps):
for _ in range(steps):                               x.copy_(torch.addmm(x, b, x))
    torch.addmm(x, b, x, out=c)
    x, c = c, x

What the buffer holds is never read: where one writes makes no difference but to whoever
else sees that memory, and a write into ``x`` itself concerns all of these.
"""

from __future__ import annotations

from collections import Counter

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    code,
    dotted,
    keyword,
    map_bodies,
    method,
    small,
    with_comments,
)

_NEW = frozenset(f"torch.{name}" for name in ("empty_like", "zeros_like", "empty"))


def without_turns(body: Body, context: Context) -> Body:
    """Results that are written into a buffer, and swapped with it, written in place."""
    buffers = _buffers(body)
    return _rewritten(body, buffers, context) if buffers else body


def _buffers(body: Body) -> set[str]:
    """Names that stand for a new tensor, for ``out=``, and in swaps: nowhere else."""
    known: Counter[str] = Counter()
    swapped: set[str] = set()
    for node in all_statements(body):
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Name):
            value = pair[1]
            if isinstance(value, cst.Call) and dotted(value.func) in _NEW:
                known[pair[0].value] += 1
        known.update(2 * _swap(node))
        swapped.update(_swap(node))
        out = _out(node)
        known.update([] if out is None else [out])
    found = Counter(n.value for s in body for n in walk(s) if isinstance(n, cst.Name))
    return {name for name in swapped if known[name] == found[name]}


def _swap(node: cst.CSTNode) -> tuple[str, ...]:
    """Both names of ``x, c = c, x``."""
    pair = assignment(node)
    if pair is None or not all(isinstance(side, cst.Tuple) for side in pair):
        return ()
    left, right = ([code(e.value) for e in side.elements] for side in pair)  # type: ignore[attr-defined]
    names = all(n.isidentifier() for n in left)
    return tuple(left) if names and len(left) == 2 and left == right[::-1] else ()


def _out(node: cst.CSTNode) -> str | None:
    """``c`` of a statement ``f(…, out=c)``."""
    inner = small(node)
    if isinstance(inner, cst.Expr) and isinstance(inner.value, cst.Call):
        out = keyword(inner.value, "out")
        return out.value if isinstance(out, cst.Name) else None
    return None


def _rewritten(body: Body, buffers: set[str], context: Context) -> Body:
    result: list[Statement] = []
    for node in body:
        swap = _swap(node)
        last = _out(result[-1]) if result else None
        if last in buffers and last in swap:
            (name,) = {*swap} - {last}
            result[-1] = _written_into(name, result[-1], context)
        elif small(node) is not None:
            result.append(node)
        else:
            result.append(map_bodies(node, lambda b: _rewritten(b, buffers, context)))
    return tuple(result)


def _written_into(name: str, node: Statement, context: Context) -> Statement:
    value = small(node).value  # type: ignore[union-attr]
    args = [a for a in value.args if a.keyword is None or a.keyword.value != "out"]
    args[-1] = args[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    whole = method(cst.Name(name), "copy_", [cst.Arg(value.with_changes(args=args))])
    new = cst.SimpleStatementLine([cst.Expr(whole)])
    context.origins.inherit(new, node)
    return with_comments(new, node)
