"""Buffers that only take turns with a tensor.

c = torch.empty_like(x)                      →   for _ in range(steps):
for _ in range(steps):                               x.become_(torch.addmm(x, b, x))
    torch.addmm(x, b, x, out=c)
    x, c = c, x

What the buffer holds is never read, and it has the shape and the dtype of ``x``. Which of
the two one writes into makes no difference where nobody else sees the memory of ``x``:
``become_`` stands for a write that R4 refuses where somebody may.
"""

from __future__ import annotations

from collections import Counter

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.ir.cfg import bound_at
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

_NEW = frozenset({"torch.empty_like", "torch.zeros_like"})


def remove_double_buffering(body: Body, context: Context) -> Body:
    """Results that are written into a buffer, and swapped with it, written in place."""
    buffers = _buffers(body)
    return _rewritten(body, buffers, context) if buffers else body


def _buffers(body: Body) -> set[str]:
    """Names that stand for a new tensor, for ``out=``, and in swaps: nowhere else."""
    known: Counter[str] = Counter()
    like: dict[str, str] = {}
    partner: dict[str, str] = {}
    for node in all_statements(body):
        made = _made_like(node)
        if made is not None:
            known[made[0]] += 1
            like[made[0]] = made[1] if made[0] not in like else ""
        for one, other in (_swap(node), _swap(node)[::-1]) if _swap(node) else ():
            known[one] += 2
            partner[one] = other if partner.get(one, other) == other else ""
        out = _out(node)
        known.update([] if out is None else [out])
    found = Counter(n.value for s in body for n in walk(s) if isinstance(n, cst.Name))
    return {
        name
        for name, other in partner.items()
        if other and like.get(name) == other and known[name] == found[name]
        if _only_swapped_after(body, name, other)
        if not _has_another_name(body, name, other)
    }


def _made_like(node: Statement) -> tuple[str, str] | None:
    """``("c", "x")`` for ``c = torch.empty_like(x)``."""
    pair = assignment(node)
    if pair is None or not all(isinstance(x, cst.Name) for x in pair[:1]):
        return None
    target, value = cst.ensure_type(pair[0], cst.Name), pair[1]
    if not isinstance(value, cst.Call) or dotted(value.func) not in _NEW:
        return None
    args = [a.value for a in value.args if a.keyword is None]
    if len(args) != len(value.args) or len(args) != 1:
        return None
    return (target.value, args[0].value) if isinstance(args[0], cst.Name) else None


def _only_swapped_after(body: Body, buffer: str, name: str) -> bool:
    """Whether ``name`` is bound by nothing but swaps once its buffer is made."""
    made = False
    for node in all_statements(body):
        if _made_like(node) == (buffer, name):
            made = True
        elif made and not _swap(node) and name in bound_at(node):
            return False
    return made


def _has_another_name(body: Body, buffer: str, name: str) -> bool:
    """Whether a variable may be ``name`` too, before they have taken turns: later
    passes take them for one."""
    nodes = [*all_statements(body)]
    last = max(i for i, node in enumerate(nodes) if {*_swap(node)} == {buffer, name})
    inside = {
        inner
        for loop in nodes[: last + 1]
        if isinstance(loop, (cst.For, cst.While))
        if any(nodes[last] is n for n in all_statements([loop]))
        if not any(_made_like(n) == (buffer, name) for n in all_statements([loop]))
        for inner in all_statements([loop])
    }
    early = [n for i, n in enumerate(nodes) if i < last or n in inside]
    values = (
        n.value
        for s in early
        if small(s) is not None and not _swap(s)
        for n in walk(s)
        if isinstance(n, (cst.Assign, cst.AnnAssign, cst.NamedExpr))
    )
    return any(v is not None and name in _named_by(v) for v in values)


def _named_by(value: cst.BaseExpression) -> set[str]:
    """Variables that an expression may yield."""
    if isinstance(value, cst.Name):
        return {value.value}
    if isinstance(value, (cst.Tuple, cst.List)):
        return {n for e in value.elements for n in _named_by(e.value)}
    if isinstance(value, cst.IfExp):
        return _named_by(value.body) | _named_by(value.orelse)
    if isinstance(value, cst.BooleanOperation):
        return _named_by(value.left) | _named_by(value.right)
    return _named_by(value.value) if isinstance(value, cst.NamedExpr) else set()


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
    whole = method(cst.Name(name), "become_", [cst.Arg(value.with_changes(args=args))])
    new = cst.SimpleStatementLine([cst.Expr(whole)])
    context.origins.inherit(new, node)
    return with_comments(new, node)
