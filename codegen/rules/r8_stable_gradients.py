"""R8: stable gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.environment import Env
from codegen.analysis.values import Kind
from codegen.diagnostics import walk
from codegen.rules.base import Example
from codegen.rules.typed import TypedRule
from codegen.syntax import (
    Body,
    bare,
    call,
    calls,
    code,
    expr,
    is_constant,
    is_name,
    positional,
    replace_nodes,
)


def _divide(node: cst.CSTNode) -> cst.CSTNode | None:
    """``a / b`` and ``a.div(b)`` as ``ops.div(a, b)``."""
    if isinstance(node, cst.BinaryOperation):
        if isinstance(node.operator, cst.Divide) and not is_constant(bare(node.right)):
            return call("ops.div", node.left, node.right)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        operation, plain = optable.spelled(node), positional(node)
        if operation is not None and operation.stable == "ops.div":
            if (
                operation.name.startswith("method.")
                and len(node.args) == len(plain) == 1
            ):
                return call("ops.div", node.func.value, plain[0])
    return None


def _cleared_names(body: Body) -> Iterator[str]:
    """Variables that are handed to ``torch.nan_to_num`` or ``torch.where``, which may
    not pick them."""
    for statement in body:
        for node in calls(statement):
            operation = optable.spelled(node)
            if operation is None or not operation.picks:
                continue
            method = operation.name.startswith("method.")
            receiver = cast(cst.Attribute, node.func).value if method else None
            bound = operation.bind(node.args, receiver) or {}
            yield from (code(a) for k, a in bound.items() if k != "condition")


_UNSTABLE = {
    name.rpartition(".")[2]
    for name, operation in optable.TABLE.items()
    if operation.stable not in (None, "ops.div") or operation.picks
}
"""What operations are called whose results may be unstable; a division's are where they
need not be picked."""


def _mentions(statement: cst.CSTNode, names: set[str]) -> bool:
    """Whether a statement has a power, or one of these names in it."""
    return any(
        isinstance(node, cst.Power)
        or (isinstance(node, cst.Name) and node.value in names)
        for node in walk(statement)
    )


class StableGradients(TypedRule):
    """A square root, a norm or a division that is not picked must not put NaN or inf
    into a meta-gradient where something is exactly zero.

    The derivative of ``sqrt`` is infinite at zero, and the chain rule multiplies it
    by zero. ``ops.sqrt`` has the same value and derivative zero there, which is what
    the whole update's derivative tends to.
    """

    name = "R8"
    title = "Stable gradients"
    EXAMPLES = (
        Example(
            "v = torch.zeros_like(p)\ndenom = v.sqrt().add(eps)",
            "v = torch.zeros_like(p)\ndenom = ops.sqrt(v).add(eps)",
        ),
        Example(
            "g = torch.zeros_like(p)\nn = g.norm(2)",
            "g = torch.zeros_like(p)\nn = ops.norm(g, 2)",
        ),
        Example(
            "v = torch.zeros_like(p)\ndenom = v**0.25",
            "v = torch.zeros_like(p)\ndenom = ops.pow(v, 0.25)",
        ),
        Example("v = torch.zeros_like(p)\ndenom = v**2"),
        Example(
            "n = p.sum()\nratio = torch.where(n > 0, lr / n, 1.0)",
            "n = p.sum()\nratio = torch.where(n > 0, ops.div(lr, n), 1.0)",
            "what `torch.where` does not pick is differentiated all the same",
        ),
        Example(
            "n = p.sum()\nratio = torch.nan_to_num(lr / n)",
            "n = p.sum()\nratio = torch.nan_to_num(ops.div(lr, n))",
            "and so is what is no number at first",
        ),
        Example(
            "n = p.sum()\nratio = lr / n\nratio = torch.where(n > 0, ratio, 1.0)",
            "n = p.sum()\nratio = ops.div(lr, n)\nratio = torch.where(n > 0, ratio, 1.0)",
            "also where it was computed before",
        ),
    )

    def apply(self, body: Body) -> Body:
        aliases = self.context.operations()
        own = {n for n, f in aliases.items() if f.rpartition(".")[2] in _UNSTABLE}
        if not any(_mentions(statement, _UNSTABLE | own) for statement in body):
            return body
        self._cleared = set(_cleared_names(body))
        return super().apply(body)

    def replace(self, node: cst.CSTNode, env: Env) -> cst.CSTNode | None:
        if isinstance(node, cst.Assign) and len(node.targets) == 1:
            if code(node.targets[0].target) in self._cleared:
                return self._divided(node)
        if isinstance(node, cst.BinaryOperation):
            return self._power(node, env)
        if isinstance(node, cst.Call):
            return self._call(node, env)
        return None

    def _is_tensor(self, node: cst.BaseExpression, env: Env) -> bool:
        return self.kind(node, env) in (Kind.TENSOR, Kind.UNKNOWN)

    def _power(self, node: cst.BinaryOperation, env: Env) -> cst.CSTNode | None:
        if not isinstance(node.operator, cst.Power):
            return None
        if not self._is_tensor(node.left, env) or not self._root(node.right, env):
            return None
        new = call("ops.pow", node.left, node.right)
        return new.with_changes(lpar=node.lpar, rpar=node.rpar)

    def _root(self, exponent: cst.BaseExpression, env: Env) -> bool:
        """Whether an exponent may be below one."""
        exponent = bare(exponent)  # type: ignore[assignment]
        if isinstance(exponent, cst.Integer):
            return False
        if isinstance(exponent, cst.Float):
            return float(exponent.value) < 1
        return not is_constant(exponent) or not isinstance(exponent, cst.Name)

    def _call(self, node: cst.Call, env: Env) -> cst.CSTNode | None:
        called = self.called(node, env)
        if called is None:
            return None
        operation, bound = called.operation, called.bound or {}
        if operation.picks:
            return self._picking(node, bound.get("condition"))
        stable, args = operation.stable, called.args
        if stable in ("ops.sqrt", "ops.rsqrt") and len(args) == 1:
            return cst.Call(expr(stable), args)
        if stable == "ops.pow" and len(bound) == 2 and "exponent" in bound:
            base, exponent = bound.values()
            if self._root(exponent, env) and self._is_tensor(base, env):
                return call("ops.pow", base, exponent)
        if stable == "ops.norm" and self._is_tensor(args[0].value, env):
            return self._norm(operation, args)
        return None

    def _picking(
        self, node: cst.Call, condition: cst.BaseExpression | None
    ) -> cst.CSTNode | None:
        """What is not picked may be a division by zero."""
        if condition is None:
            return self._divided(node)
        args = [a if a.value is condition else self._safe(a) for a in node.args]
        new = node.with_changes(args=args)
        return None if code(new) == code(node) else new

    def _divided(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """What ``torch.nan_to_num`` clears may be a division by zero."""
        new = self._safe(node)
        return None if code(new) == code(node) else new

    def _safe(self, node: cst.CSTNodeT) -> cst.CSTNodeT:
        return cast(cst.CSTNodeT, replace_nodes(node, _divide, self.context.origins))

    def _norm(
        self, operation: optable.Operation, args: Sequence[cst.Arg]
    ) -> cst.CSTNode | None:
        by_name = any(is_name(a.keyword, "ord") for a in args)
        if operation.name == "linalg.norm" and by_name:
            return None
        new = [
            a.with_changes(keyword=cst.Name("p")) if is_name(a.keyword, "ord") else a
            for a in args
        ]
        return cst.Call(expr("ops.norm"), new)
