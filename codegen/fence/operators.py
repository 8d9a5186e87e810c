"""The value of what operators, comparisons and conditions compute."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from codegen.fence.calls import Calls
from codegen.fence.operations import Arguments, computed, may_be_root
from codegen.fence.values import (
    COUNTED,
    DIFFERENTIABLE,
    GRADIENT,
    NUMBER,
    PLAIN,
    RATIO,
    RAW,
    TENSOR,
    UNKNOWN,
    Value,
    constant,
    join,
)


class Operators(Calls):
    """The value of what operators, comparisons and conditions compute."""

    def evaluate(self, node: ast.expr) -> Value:
        raise NotImplementedError

    def evaluate_all(self, nodes: Sequence[ast.expr | None]) -> list[Value]:
        return [self.evaluate(n) for n in nodes if n is not None]

    def binary(self, node: ast.BinOp) -> Value:
        left, right = self.evaluate(node.left), self.evaluate(node.right)
        return self.arithmetic(node, node.op, left, right)

    def arithmetic(
        self, node: ast.AST, operator: ast.operator, left: Value, right: Value
    ) -> Value:
        """``left operator right``."""
        if left.objects or right.objects:
            return self._of_containers(node, left, right)
        if isinstance(operator, ast.Mod) and _is_text(left):
            return self.formatted(node, [right])
        flags = left.flags | right.flags
        if isinstance(operator, ast.FloorDiv) and not flags & (TENSOR | UNKNOWN):
            if flags & GRADIENT:
                self.refuse("lost", node, "//")
            return NUMBER
        if flags & COUNTED and flags & DIFFERENTIABLE:
            self.refuse("counted", node)
        if isinstance(operator, ast.Pow):
            unstable = left.flags & (TENSOR | UNKNOWN) and left.has_gradient
            if unstable and may_be_root(right):
                self.refuse("unstable", node, "a power below one")
        result = computed((left, right))
        divides = isinstance(operator, ast.Div) and right.flags & DIFFERENTIABLE
        if divides and result.has_gradient:
            return Value(result.flags | RATIO)
        return result

    def _of_containers(self, node: ast.AST, left: Value, right: Value) -> Value:
        both = [*left.objects, *right.objects]
        if all(held.kind == "list" for held in both):
            return self.made(node, [self.elements(v) for v in (left, right)])
        merged = self.made(node, kind="dict")
        for held in merged.objects:
            self._fill(held, "update", Arguments((left, right)))
        return merged

    def unary(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            self.test(node.operand)
            return NUMBER
        value = self.evaluate(node.operand)
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return constant(-node.operand.value)  # type: ignore[operator]
        return computed((value,))

    def test(self, node: ast.expr) -> Value:
        """The value of a condition."""
        value = self.evaluate(node)
        if value.flags & RAW:
            self.refuse("switch", node)
        return value

    def compare(self, node: ast.Compare) -> Value:
        values = self.evaluate_all((node.left, *node.comparators))
        switched = values[0].flags & RAW and len(values) == 2
        if switched and isinstance(node.comparators[0], ast.Constant):
            operator, constants = node.ops[0], values[1].constants or frozenset()
            edges: dict[type[ast.cmpop], Callable[[Any], bool]] = {
                ast.Eq: lambda c: isinstance(c, (int, float)),
                ast.NotEq: lambda c: isinstance(c, (int, float)),
                ast.Gt: lambda c: c == 0,
                ast.Lt: lambda c: c == 1,
            }
            edge = edges.get(type(operator))
            if edge is not None and all(map(edge, constants)):
                self.refuse("switch", node)
        of_tensors = any(v.flags & (TENSOR | UNKNOWN) for v in values)
        by_value = not all(isinstance(o, _NO_ARITHMETIC) for o in node.ops)
        return Value(PLAIN | (TENSOR if of_tensors and by_value else 0), constants=None)

    def boolean(self, node: ast.BoolOp) -> Value:
        *asked, last = node.values
        values = [self.evaluate(n) for n in asked]
        for part, value in zip(asked, values):
            if value.flags & RAW and not _jumps(node):
                self.refuse("switch", part)
        return join((*values, self.evaluate(last)))

    def conditional(self, node: ast.IfExp) -> Value:
        self.test(node.test)
        return join(self.evaluate_all((node.body, node.orelse)))

    def formatted(self, node: ast.AST, values: Sequence[Value]) -> Value:
        if not self.in_message and any(self.flags(v) & GRADIENT for v in values):
            self.refuse("lost", node, "text")
        return NUMBER


def _jumps(node: ast.BoolOp) -> bool:
    """Whether ``x or 0.1`` yields a number beside zero, where x is: there the value
    jumps, and has no derivative."""
    last = node.values[-1]
    other = isinstance(last, ast.Constant) and isinstance(last.value, (int, float))
    return isinstance(node.op, ast.Or) and other and bool(last.value)  # type: ignore[attr-defined]


_NO_ARITHMETIC = (ast.Is, ast.IsNot, ast.In, ast.NotIn)


def _is_text(value: Value) -> bool:
    constants = value.constants or frozenset()
    return bool(constants) and all(isinstance(c, str) for c in constants)
