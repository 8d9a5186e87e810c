"""R5: no .data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.diagnostics import walk
from codegen.inplace import chain_root
from codegen.ir.loops import Loop, Walk
from codegen.optable import Result
from codegen.rules.base import Example, Rule
from codegen.syntax import (
    Body,
    Statement,
    block,
    call,
    code,
    dotted,
    expr,
    is_constant,
    is_name,
    parenthesize,
    statements,
    target_names,
)

_GRAD_MODES = ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode")


class NoData(Rule):
    """No ``.data`` (nor ``.detach()``, ``no_grad``, ``.item()`` on values that carry
    gradient), except for shapes and dtypes.

    ``.item()`` becomes ``ops.value``: a number where no gradient can flow, else the
    tensor itself.
    """

    name = "R5"
    title = "No .data"
    EXAMPLES = (
        Example("d_p = p.grad.data", "d_p = p.grad"),
        Example("buf = torch.clone(d_p).detach()", "buf = torch.clone(d_p)"),
        Example("norm = p.norm().item()", "norm = ops.value(p.norm())"),
        Example(
            """
            with torch.no_grad():
                p.add_(grad)
            """,
            "p.add_(grad)",
        ),
        Example("values = grad._values()", "values = grad.values()"),
        Example("p.data = p.data - x", "p.data = p - x"),
        Example("size = p.shape"),
        Example(
            "d = p.data\nsame = d is p",
            "d = p[...]\nsame = d is p",
            "who asks what is one tensor gets another",
        ),
    )

    def apply(self, body: Body) -> Body:
        body = tuple(self._unwrap(body))
        nodes = [n for s in body for n in walk(s)]
        # whoever shares a parameter's memory keeps it when the parameter gets another
        self._stored = {
            n.target
            for n in nodes
            if isinstance(n, cst.AssignTarget) and _is_data(n.target)
        }
        self._swaps = bool(self._stored)
        functions = self.context.sources().values()
        asked = any(
            map(_asks_identity, (*nodes, *(n for f in functions for n in walk(f))))
        )
        self._unasked = {part for n in nodes for part in _without_identity(n)}
        self.context.emits_identity_tests |= asked
        self._computed = {part for n in nodes for part in _computed_with(n)}
        loops = [Loop.of(n) for n in nodes if isinstance(n, cst.For)]
        walks = [loop for loop in loops if loop.walk is Walk.PARAMETERS]
        self._params = {dotted(loop.items[0].target) for loop in walks}
        self._rebound = {
            name
            for n in nodes
            if isinstance(n, (cst.AssignTarget, cst.NamedExpr, cst.For))
            and not (isinstance(n, cst.For) and Loop.of(n).walk is Walk.PARAMETERS)
            for name in target_names(n.target)
        }
        return self.rewrite(body, self._replace)

    def _replace(self, node: cst.CSTNode) -> cst.CSTNode | None:
        if _is_data(node) and not (self._swaps and self._is_kept(node)):
            return self._bare(node, cast(cst.Attribute, node).value)
        if not isinstance(node, cst.Call):
            return None
        if isinstance(node.func, cst.Attribute):
            return self._method(node, node.func)
        return cst.Name("True") if self._is_sure(node) else None

    def _is_sure(self, node: cst.Call) -> bool:
        """``isinstance(p, nn.Parameter)``, of what a loop over parameters hands out."""
        if not is_name(node.func, "isinstance") or len(node.args) != 2:
            return False
        asked, kind = (a.value for a in node.args)
        name = self.context.full_name(kind)
        own = dotted(asked) in self._params - self._rebound
        return own and name in ("torch.nn.Parameter", "torch.nn.parameter.Parameter")

    def _is_kept(self, node: cst.CSTNode) -> bool:
        """Whether it is given memory, or is a parameter's own and may be held."""
        assert isinstance(node, cst.Attribute)
        if node in self._stored:
            return True
        own = not self._params or dotted(node.value) in self._params
        return own and node not in self._computed

    def _bare(
        self, node: cst.CSTNode, tensor: cst.BaseExpression
    ) -> cst.BaseExpression:
        """The tensor itself, or another one of its memory, where it matters which."""
        tensor = parenthesize(tensor)
        if not self.context.emits_identity_tests or node in self._unasked:
            return tensor
        return expr(f"{code(tensor)}[...]")

    def _method(self, node: cst.Call, func: cst.Attribute) -> cst.CSTNode | None:
        method, receiver = func.attr.value, func.value
        if method in ("detach", "detach_", "requires_grad_") and len(node.args) <= 1:
            if dotted(receiver) == "torch" and node.args:
                receiver = node.args[0].value
            receiver = parenthesize(receiver)
            own = dotted(receiver) in self._params
            memory = self._swaps and own and method == "detach"
            if memory:
                return cst.Attribute(receiver, cst.Name("data"))
            return self._bare(node, receiver) if method == "detach" else receiver
        if method == "item" and not node.args:
            return call("ops.value", receiver)
        if method in ("_values", "_indices") and not node.args:
            return node.with_changes(func=func.with_changes(attr=cst.Name(method[1:])))
        if method in ("numpy", "tolist"):
            self.refuse(
                node,
                f".{method}() leaves torch: what is computed from it has no gradient",
                "compute with tensors",
            )
        return None

    def _unwrap(self, body: Sequence[Statement]) -> list[Statement]:
        """``with torch.no_grad():`` goes; what it holds stays."""
        result: list[Statement] = []
        for node in body:
            if isinstance(node, cst.With) and all(
                _is_grad_mode(i.item) for i in node.items
            ):
                self.fired(node.items[0])
                inner = self._unwrap(statements(node.body))
                if inner:
                    lines = [*node.leading_lines, *inner[0].leading_lines]
                    inner[0] = inner[0].with_changes(leading_lines=lines)
                result.extend(inner)
                continue
            result.append(self._inside(node))
        return result

    def _inside(self, node: Statement) -> Statement:
        if isinstance(node, (cst.For, cst.While, cst.If, cst.With)):
            node = node.with_changes(body=block(self._unwrap(statements(node.body))))
            orelse = getattr(node, "orelse", None)
            if isinstance(orelse, cst.If):
                node = node.with_changes(orelse=self._inside(orelse))
            elif orelse is not None:
                inner = block(self._unwrap(statements(orelse.body)))
                node = node.with_changes(orelse=orelse.with_changes(body=inner))
        return node


def _is_data(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Attribute) and node.attr.value == "data"


def _computed_with(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Operands of what makes a new value, or writes: nothing keeps them."""
    if isinstance(node, cst.BinaryOperation):
        yield from (node.left, node.right)
    elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        operation = optable.method(node.func.attr.value)
        if operation is not None and (
            operation.in_place or operation.result is Result.NEW
        ):
            yield node.func.value


def _asks_identity(node: cst.CSTNode) -> bool:
    """``x is y``, of what may be tensors."""
    if not isinstance(node, cst.Comparison):
        return False
    sides = [node.left, *(c.comparator for c in node.comparisons)]
    return any(
        isinstance(c.operator, _IDENTITY) and not any(map(_is_no_tensor, pair))
        for c, pair in zip(node.comparisons, zip(sides, sides[1:]))
    )


_IDENTITY = (cst.Is, cst.IsNot)


def _is_no_tensor(node: cst.BaseExpression) -> bool:
    if is_constant(node) or (dotted(node) or "").startswith("torch."):
        return True
    if isinstance(node, cst.Attribute):
        return optable.is_metadata(node.attr.value)
    return isinstance(node, cst.Call) and is_name(node.func, "type")


def _without_identity(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Operands of what gives the same of a tensor and of another one of its memory."""
    if isinstance(node, (cst.BinaryOperation, cst.UnaryOperation, cst.Subscript)):
        yield from node.children
    elif isinstance(node, cst.AssignTarget):
        yield node.target
    elif isinstance(node, cst.Attribute) and optable.is_metadata(node.attr.value):
        yield node.value
    elif isinstance(node, cst.Expr):
        yield chain_root(node.value)
        yield from _arguments(node.value)
    elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        operation = optable.spelled(node)
        if operation is not None and operation.result in _OTHERS:
            yield node.func.value
            yield from _arguments(node)


_OTHERS = (Result.NEW, Result.VIEW, Result.VIEWS, Result.SEVERAL, Result.NUMBER)


def _arguments(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Those of a chain of calls whose value nobody keeps, or which is a new tensor."""
    while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        operation = optable.spelled(node)
        if operation is None:
            return
        yield from (a.value for a in node.args)
        node = node.func.value


def _is_grad_mode(node: cst.BaseExpression) -> bool:
    if not isinstance(node, cst.Call):
        return False
    name = dotted(node.func) or ""
    return name.startswith("torch.") and name.rpartition(".")[2] in _GRAD_MODES
