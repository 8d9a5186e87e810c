"""R8: stable gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import libcst as cst

from codegen.places import Env, Kind
from codegen.rules.base import Example
from codegen.rules.typed import TypedRule
from codegen.syntax import (
    Body,
    bare,
    call,
    calls,
    code,
    dotted,
    expr,
    is_constant,
    is_name,
    keyword,
    positional,
    replace_nodes,
)

_NORMS = frozenset({"torch.norm", "torch.linalg.vector_norm", "torch.linalg.norm"})


_CLEARING = ("torch.nan_to_num", "ops.nan_to_num")


def _divide(node: cst.CSTNode) -> cst.CSTNode | None:
    """``a / b`` and ``a.div(b)`` as ``ops.div(a, b)``."""
    if isinstance(node, cst.BinaryOperation):
        if isinstance(node.operator, cst.Divide) and not is_constant(bare(node.right)):
            return call("ops.div", node.left, node.right)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        plain = positional(node)
        if node.func.attr.value in ("div", "true_divide") and len(node.args) == 1:
            if len(plain) == 1 and not is_name(node.func.value, "torch"):
                if not is_name(node.func.value, "ops"):
                    return call("ops.div", node.func.value, plain[0])
    return None


def _cleared_names(body: Body) -> Iterator[str]:
    """Variables that are handed to ``torch.nan_to_num``, by that or another name, or to
    ``torch.where``, which may not pick them."""
    for statement in body:
        for node in calls(statement):
            if dotted(node.func) in _CLEARING and node.args:
                yield code(node.args[0].value)
            if dotted(node.func) == "torch.where":
                yield from (code(a) for a in positional(node)[1:] if is_name(a))
            if isinstance(node.func, cst.Attribute):
                if node.func.attr.value == "nan_to_num":
                    yield code(node.func.value)


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
        name = dotted(node.func) or ""
        args = positional(node)
        if name.startswith("torch."):
            return self._function(node, name, args, env)
        if not isinstance(node.func, cst.Attribute) or name.startswith(
            ("ops.", "math.")
        ):
            return None
        receiver, method = node.func.value, node.func.attr.value
        if method == "nan_to_num":
            return self._divided(node)
        if method in ("sqrt", "rsqrt") and not node.args:
            return call(f"ops.{method}", receiver)
        if method == "norm" and self._is_tensor(receiver, env):
            return cst.Call(expr("ops.norm"), [cst.Arg(receiver), *node.args])
        if method == "pow" and args and self._root(args[0], env):
            if self._is_tensor(receiver, env):
                return call("ops.pow", receiver, args[0])
        return None

    def _function(
        self, node: cst.Call, name: str, args: list[cst.BaseExpression], env: Env
    ) -> cst.CSTNode | None:
        if name in ("torch.sqrt", "torch.rsqrt"):
            return node.with_changes(func=expr(f"ops.{name[6:]}"))
        if name == "torch.pow" and len(args) == 2 and self._is_tensor(args[0], env):
            if self._root(args[1], env):
                return call("ops.pow", *args)
        if name in _NORMS:
            return self._norm(node, name)
        if name == "torch.where" and len(args) == 3:
            return self._where(node)
        if name in _CLEARING:
            return self._divided(node)
        return None

    def _where(self, node: cst.Call) -> cst.CSTNode | None:
        """The branch that is not picked may divide by zero."""
        args = [a if i == 0 else self._safe(a) for i, a in enumerate(node.args)]
        new = node.with_changes(args=args)
        return None if code(new) == code(node) else new

    def _divided(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """What ``torch.nan_to_num`` clears may be a division by zero."""
        new = self._safe(node)
        return None if code(new) == code(node) else new

    def _safe(self, node: cst.CSTNodeT) -> cst.CSTNodeT:
        return cast(cst.CSTNodeT, replace_nodes(node, _divide, self.context.origins))

    def _norm(self, node: cst.Call, name: str) -> cst.CSTNode | None:
        if name == "torch.linalg.norm" and keyword(node, "ord") is not None:
            return None
        new = [
            (
                a.with_changes(keyword=cst.Name("p"))
                if a.keyword is not None and a.keyword.value == "ord"
                else a
            )
            for a in node.args
        ]
        return node.with_changes(func=expr("ops.norm"), args=new)
