"""Parts of an expression moved in front of it, in Python's order of evaluation.

    x.sum() + f(x.mul_(b))   →   sum_1 = x.sum()
                                 x.mul_(b)
                                 … sum_1 + f(x)

What was computed before a part that changes something is still computed before it: it
gets a variable, where it is more than the name of a thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import libcst as cst

from codegen.bindings import lazy_parts, walrus_names
from codegen.context import Context
from codegen.diagnostics import children, walk
from codegen.syntax import (
    Statement,
    assign,
    code,
    is_constant,
    is_name,
    map_parts,
    read_names,
)


class Evaluation:
    """Walks an expression; ``prelude`` collects the statements in front of it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.prelude: list[Statement] = []

    # --- what subclasses decide

    def moves(self, node: cst.CSTNode) -> bool:
        """Whether this very node goes in front."""
        raise NotImplementedError

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        """Put a node in front, its own parts moved already; what stands for it?"""
        raise NotImplementedError

    def is_steady(self, node: cst.BaseExpression) -> bool:
        """Whether an expression yields the same after what is moved."""
        return is_name(node) or is_constant(node) or isinstance(node, cst.Lambda)

    def leave_lazy(self, node: cst.CSTNode) -> None:
        """What would move stands where it may run never, later or several times."""

    # --- the walk

    def visit(
        self, node: cst.BaseExpression, whole: bool = False
    ) -> cst.BaseExpression:
        """``node`` without what moves; if ``whole``, it may itself be such a part."""
        if not self._moves_inside(node):
            return node
        operands = list(_operands(node))
        for lazy in lazy_parts(node):
            if self._moves_inside(lazy):
                self.leave_lazy(lazy)
        if any(a.star for a in getattr(node, "args", ())):
            self.leave_lazy(node)
        moving = [n for n, o in enumerate(operands) if self._moves_inside(o)]
        new: dict[cst.CSTNode, cst.BaseExpression] = {}
        for number, operand in enumerate(operands):
            part = self.visit(operand)
            if moving and number < moving[-1]:
                rest = operands[number + 1 :]
                later = {n for o in rest for n in walrus_names(o)}
                if not self.is_steady(part) or later & read_names(part):
                    part = self._kept(part)
            if part is not operand:
                new[operand] = part
        updated = cast(cst.BaseExpression, _replaced(node, new))
        if updated is not node:
            self.context.origins.inherit(updated, node)
        if whole or not self.moves(updated):
            return updated
        return self.move(updated)

    def _moves_inside(self, node: cst.CSTNode) -> bool:
        return any(self.moves(inner) for inner in walk(node))

    def _kept(self, node: cst.BaseExpression) -> cst.BaseExpression:
        """The value that ``node`` has now."""
        if not isinstance(node, cst.StarredElement):
            return self._keep(node)
        items = cst.List([node.with_changes(comma=cst.MaybeSentinel.DEFAULT)])
        return node.with_changes(value=self._keep(items))

    def _keep(self, node: cst.BaseExpression) -> cst.BaseExpression:
        name = cst.Name(self.context.fresh(_called_like(node)))
        self.context.stands_for[name.value] = code(node)
        bind = assign([name], node)
        self.context.origins.inherit(bind, node)
        self.prelude.append(bind)
        return name.deep_clone()


def _operands(node: cst.CSTNode) -> Iterator[cst.BaseExpression]:
    """What is surely evaluated for ``node``, in order; of a method, its receiver."""
    if isinstance(node, cst.Call):
        if isinstance(node.func, cst.Attribute):
            yield node.func.value
        elif not isinstance(node.func, cst.Name):
            yield node.func
        yield from (arg.value for arg in node.args)
    elif isinstance(node, cst.IfExp):
        yield node.test
    elif isinstance(node, cst.BooleanOperation):
        yield node.left
    elif isinstance(node, cst.Comparison):
        yield from (node.left, node.comparisons[0].comparator)
    elif isinstance(node, cst.BaseComp):
        yield node.for_in.iter
    elif isinstance(node, cst.Attribute):
        yield node.value
    elif not isinstance(node, cst.Lambda):
        for child in children(node):
            if isinstance(child, cst.BaseExpression):
                yield child
            else:
                yield from _operands(child)


def _replaced(
    node: cst.CSTNode, new: dict[cst.CSTNode, cst.BaseExpression]
) -> cst.CSTNode:
    if not new:
        return node
    return new.get(node) or map_parts(node, lambda part: _replaced(part, new))


def _called_like(node: cst.BaseExpression) -> str:
    """A name for a value: that of the function that made it."""
    if isinstance(node, cst.Call):
        func = node.func
        name = func.attr.value if isinstance(func, cst.Attribute) else ""
        name = func.value if isinstance(func, cst.Name) else name
        return name.strip("_") or "value"
    return "value"
