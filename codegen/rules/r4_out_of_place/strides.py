"""Strides: what is written into keeps its own, a new tensor has those of its operands.

    torch.mul(g.T, 2, out=m)        →   m = ops.laid_out(m, torch.mul(g.T, 2))
    if m.is_contiguous(): …             if m.is_contiguous(): …

That matters to who asks for strides, for a view that not all strides allow, and for
what is a view or a copy as the strides are (``reshape``), where one of them is written
into. Nobody else pays for it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import libcst as cst

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.optable import Operation, Result
from codegen.syntax import call, dotted


class Asked(enum.IntEnum):
    """What depends on the strides of tensors that a step has written into."""

    NOTHING = 0
    VIEWS = 1
    """Which views there are: of a dense tensor, the order of its strides decides."""
    MAYBE_VIEWS = 2
    """The same, and what is a view of something else, if that is written into."""
    STRIDES = 3


def asked(nodes: Iterable[cst.CSTNode], context: Context) -> Asked:
    """What a step, or a function that it calls, asks for."""
    found = Asked.NOTHING
    for node in (n for root in nodes for n in walk(root)):
        if isinstance(node, (cst.Name, cst.Attribute)):
            for operation in _meant(node, context):
                if operation.layout:
                    found = max(found, _ASKED.get(operation.result, Asked.STRIDES))
    return found


_ASKED = {Result.VIEW: Asked.VIEWS, Result.MAYBE: Asked.MAYBE_VIEWS}


def _meant(node: cst.Name | cst.Attribute, context: Context) -> Iterable[Operation]:
    found = [optable.function(context.full_name(node))]
    if isinstance(node, cst.Attribute):
        found.append(optable.method(node.attr.value))
    return [f for f in found if f is not None]


def refuse_memory(node: cst.Call, context: Context) -> None:
    """Refuse a question that no new tensor can answer as the old one would."""
    if not isinstance(node.func, (cst.Name, cst.Attribute)):
        return
    for operation in _meant(node.func, context):
        if operation.memory:
            context.refuse(
                "R4",
                node,
                "where a tensor lies in memory is another question in a differentiable "
                "step, which makes new ones",
                "take parts with indices, `narrow` or `diagonal`, and compare values",
            )
            return


def _keeps(operation: Operation | None) -> bool:
    """Whether what is computed of a dense tensor first has its strides."""
    return operation is not None and operation.elementwise and not operation.contiguous


def laid_out(
    root: cst.BaseExpression,
    new: cst.BaseExpression,
    links: Sequence[cst.Call],
    exact: bool,
) -> cst.BaseExpression:
    """``new``, what ``links`` leave in ``root``, with the strides of that.

    What is computed element by element has those of a dense ``root`` anyway: enough
    where they need not be ``exact``.
    """
    if isinstance(new, cst.Call) and dotted(new.func) == "ops.copy":
        return new
    each = [_keeps(optable.spelled(c)) for c in links]
    out = any(a.keyword and a.keyword.value == "out" for c in links for a in c.args)
    if not exact and not out and all(each):
        return new
    return call("ops.laid_out", root, new)
