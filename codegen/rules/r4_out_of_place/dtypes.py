"""Where an in-place operation pins a dtype that its twin would promote.

    total = torch.zeros(1)              float32, whatever the parameters are
    total.add_(grad.norm())             stays float32
    total = total.add(grad.norm())      would be float64 beside float64 parameters

Tensors are taken to be of their parameter's dtype unless something says otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import libcst as cst

from codegen import optable
from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.analysis.values import Kind
from codegen.syntax import (
    Statement,
    all_statements,
    assignment,
    bare,
    code,
    dotted,
    keyword,
    small,
    string_key,
)


class Dtype(enum.Enum):
    """Whose dtype a tensor has."""

    PARAMETER = "the parameter's"
    OWN = "one of its own"
    MIXED = "that of either operand"


class Dtypes:
    """Dtypes of the variables and slots of a body, as far as its text tells."""

    def __init__(self, body: Sequence[Statement], places: Heap) -> None:
        self.places = places
        self._known: dict[str, Dtype] = {}
        pairs = [
            (target, value, places.before.get(node, Env()))
            for node in all_statements(body)
            for target, value in _bindings(node)
        ]
        for _ in range(3):  # through loops, a variable may feed an earlier one
            for target, value, env in pairs:
                self._bind(target, self.of(value, env))

    def differ(self, operands: Iterable[cst.BaseExpression], env: Env) -> bool:
        """Whether tensors among the operands may have different dtypes."""
        found = {self.of(x, env) for x in operands if self._is_tensor(x, env)}
        return len(found) > 1 or Dtype.MIXED in found

    def of(self, node: cst.BaseExpression, env: Env) -> Dtype:
        """Whose dtype an expression has."""
        node = bare(node)  # type: ignore[assignment]
        if isinstance(node, (cst.Name, cst.Subscript)):
            key = _key(node)
            if key is None and isinstance(node, cst.Subscript):
                return self.of(node.value, env)
            return self._known.get(key or "", Dtype.PARAMETER)
        if isinstance(node, cst.Attribute):
            return self.of(node.value, env)
        if isinstance(node, cst.Call):
            return self._of_call(node, env)
        if isinstance(node, (cst.BinaryOperation, cst.BooleanOperation)):
            return self._joined([node.left, node.right], env)
        if isinstance(node, cst.UnaryOperation):
            return self.of(node.expression, env)
        if isinstance(node, cst.IfExp):
            return self._joined([node.body, node.orelse], env)
        return Dtype.PARAMETER

    def _of_call(self, node: cst.Call, env: Env) -> Dtype:
        name = dotted(node.func) or ""
        told = keyword(node, "dtype")
        if told is not None:
            return self._told(told, env)
        operation = optable.function(name)
        if operation is not None and operation.own:
            return Dtype.OWN
        args = [a.value for a in node.args]
        if operation is not None and "condition" in (
            bound := operation.bind(node.args) or {}
        ):
            args = [x for name, x in bound.items() if name != "condition"]
            if not any(self._is_tensor(x, env) for x in args):
                return Dtype.OWN  # of two numbers: the default one
        if operation is not None or not isinstance(node.func, cst.Attribute):
            return self._joined(args, env)
        converting, receiver = optable.method(node.func.attr.value), node.func.value
        if converting is not None and converting.own:
            return Dtype.OWN
        if converting is not None and converting.converts and args:
            target = args[0]
            if _is_dtype(target) or self._is_tensor(target, env):
                return self._told(target, env)
            return self.of(receiver, env)
        return self._joined([receiver, *args], env)

    def _told(self, node: cst.BaseExpression, env: Env) -> Dtype:
        """The dtype of ``x``, of ``x.dtype`` or of ``torch.float32``."""
        if (dotted(node) or "").startswith("torch.") or not _is_dtype(node):
            return self.of(node, env) if self._is_tensor(node, env) else Dtype.OWN
        # what a name for a dtype holds isn't known
        return (
            self.of(node.value, env) if isinstance(node, cst.Attribute) else Dtype.OWN
        )

    def _joined(self, operands: Iterable[cst.BaseExpression], env: Env) -> Dtype:
        found = {self.of(x, env) for x in operands if self._is_tensor(x, env)}
        if not found:
            return Dtype.PARAMETER
        return found.pop() if len(found) == 1 else Dtype.MIXED

    def _is_tensor(self, node: cst.BaseExpression, env: Env) -> bool:
        return self.places.value(node, env).kind in (Kind.TENSOR, Kind.UNKNOWN)

    def _bind(self, target: cst.BaseExpression, dtype: Dtype) -> None:
        key = _key(target)
        if key is not None:
            known = self._known.get(key, dtype)
            self._known[key] = dtype if known is dtype else Dtype.MIXED


def _is_dtype(node: cst.BaseExpression) -> bool:
    name = dotted(node) or code(node)
    return name.startswith("torch.") or name.endswith(".dtype")


def _key(node: cst.CSTNode) -> str | None:
    """What a variable, or a slot by its key, is known under."""
    if isinstance(node, cst.Name):
        return node.value
    key = string_key(node)
    return None if key is None else f"[{key}]"


def _bindings(
    node: Statement,
) -> list[tuple[cst.BaseExpression, cst.BaseExpression]]:
    """(target, value) of an assignment, chained or item by item."""
    inner = small(node)
    if not isinstance(inner, cst.Assign):
        pair = assignment(node)
        return [] if pair is None else [pair]
    found: list[tuple[cst.BaseExpression, cst.BaseExpression]] = []
    for target in inner.targets:
        left, right = target.target, inner.value
        if isinstance(left, cst.Tuple) and isinstance(right, cst.Tuple):
            found += [(a.value, b.value) for a, b in zip(left.elements, right.elements)]
        elif isinstance(left, cst.BaseExpression):
            found.append((left, right))
    return found
