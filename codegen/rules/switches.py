"""Settings that are off at zero: there, too, they have a derivative.

if weight_decay != 0: …            →   if ops.is_used(weight_decay): …
if float(weight_decay) > 0: …          if ops.is_positive(weight_decay): …
decays = bool(weight_decay)            decays = ops.is_used(weight_decay)
decay = weight_decay or 0.0            decay = weight_decay if weight_decay is not None else 0.0

Where a setting is zero both branches compute the same, and only one has the derivative.
"""

from __future__ import annotations

import libcst as cst

from codegen.analysis.environment import Env
from codegen.analysis.values import Kind
from codegen.rules.typed import TypedRule
from codegen.syntax import bare, call, code, dotted, expr, parenthesize


class SwitchRule(TypedRule):
    """Asks whether a setting is used in the place of whether it is zero."""

    def _is_float_setting(self, node: cst.BaseExpression, env: Env) -> bool:
        value = self.places.value(node, env)
        if value.kind is not Kind.SCALAR_OR_TENSOR or value.place is None:
            return False
        name = value.place.obj.removeprefix("setting ")
        return name in self.context.float_settings - self.context.discontinuous_at_zero

    def switch(self, node: cst.Comparison, env: Env) -> cst.CSTNode | None:
        """``weight_decay != 0``: at zero, too, the derivative is that of the branch."""
        left = _as_number(node.left)
        if len(node.comparisons) != 1 or not self._is_float_setting(left, env):
            return None
        operator, right = node.comparisons[0].operator, node.comparisons[0].comparator
        if not isinstance(right, (cst.Integer, cst.Float)):
            return None
        zero = _is_zero(right)
        if isinstance(operator, cst.GreaterThan) and zero:
            return call("ops.is_positive", left)
        if isinstance(operator, cst.LessThan) and float(right.value) == 1:
            return call("ops.is_below_one", left)
        if isinstance(operator, (cst.Equal, cst.NotEqual)):
            off = {} if zero else {"off": right}
            used = call("ops.is_used", left, **off)
            if isinstance(operator, cst.NotEqual):
                return used
            return cst.UnaryOperation(cst.Not(), used)
        return None

    def condition(self, node: cst.BaseExpression, env: Env) -> cst.BaseExpression:
        """``if weight_decay:`` asks the same."""
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            inner = self.condition(node.expression, env)
            return (
                node
                if inner is node.expression
                else node.with_changes(expression=inner)
            )
        if isinstance(node, cst.BooleanOperation):
            left, right = self.condition(node.left, env), self.condition(
                node.right, env
            )
            if left is node.left and right is node.right:
                return node
            return node.with_changes(left=left, right=right)
        asked = _as_number(node)
        if isinstance(asked, (cst.Name, cst.Subscript)) and self._is_float_setting(
            asked, env
        ):
            new = call("ops.is_used", asked)
            self.fired(node, new)
            return new
        return node

    def asked(
        self, node: cst.BooleanOperation | cst.UnaryOperation, env: Env
    ) -> cst.BaseExpression | None:
        """What takes the place of a truth that is a value: ``not weight_decay``."""
        if isinstance(node, cst.BooleanOperation):
            return self._or_zero(node, env)
        test = self.condition(node, env)
        return None if test is node else test

    def _or_zero(self, node: cst.BooleanOperation, env: Env) -> cst.IfExp | None:
        """``weight_decay or 0.0``: one that is zero is itself, with its gradient."""
        if not isinstance(node.operator, cst.Or) or not _is_zero(node.right):
            return None
        left = node.left
        if not isinstance(left, (cst.Name, cst.Subscript)):
            return None
        if not self._is_float_setting(left, env):
            return None
        return cst.ensure_type(
            parenthesize(expr(f"{code(left)} if {code(left)} is not None else 0.0")),
            cst.IfExp,
        )


def _is_zero(node: cst.BaseExpression) -> bool:
    number = isinstance(node, (cst.Integer, cst.Float))
    return number and float(node.value) == 0  # type: ignore[attr-defined]


def _as_number(node: cst.BaseExpression) -> cst.BaseExpression:
    """What ``float(x)`` is a number of."""
    inner = bare(node)
    if isinstance(inner, cst.Call) and dotted(inner.func) in _NUMBER_OF:
        return inner.args[0].value if len(inner.args) == 1 else node
    return node


_NUMBER_OF = ("float", "ops.value", "ops.number")
