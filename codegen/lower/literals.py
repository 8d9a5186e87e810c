"""Literals: what they are equal to, and what operators make of them.

``not False``, ``x and True``, ``None is None``, ``a if True else b``: a test of what is
known is decided, and what is left of an expression is written without it.
"""

from __future__ import annotations

import libcst as cst

from codegen.lower.frame import Frame
from codegen.purity import pure
from codegen.syntax import Rewriter, bare, code, dotted, is_constant, is_name


def _equal_literals(left: cst.CSTNode, right: cst.CSTNode) -> bool | None:
    if not (is_constant(left) and is_constant(right)):
        return None
    singletons = {"True", "False", "None"}
    a, b = code(left), code(right)
    if a in singletons or b in singletons:
        return a == b
    if isinstance(left, cst.SimpleString) and isinstance(right, cst.SimpleString):
        return left.evaluated_value == right.evaluated_value
    return True if a == b else None


def truth(node: cst.CSTNode) -> bool | None:
    """Truth of a literal; None where it isn't known."""
    node = bare(node)
    if isinstance(node, cst.Name):
        return {"True": True, "False": False, "None": False}.get(node.value)
    if isinstance(node, cst.BooleanOperation):
        decisive = not isinstance(node.operator, cst.And)
        if truth(node.left) == decisive:
            return decisive
        if truth(node.right) == decisive and pure(node.left):
            return decisive
    return None


class OperatorFolder(Rewriter):
    """Decides operators whose operands are known, bottom up."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame.context.origins)
        self.frame = frame
        self.asked: set[cst.CSTNode] = set()

    def visit_If(self, node: cst.If) -> None:
        self.ask(node.test)

    def visit_While(self, node: cst.While) -> None:
        self.ask(node.test)

    def visit_IfExp(self, node: cst.IfExp) -> None:
        self.ask(node.test)

    def visit_CompIf(self, node: cst.CompIf) -> None:
        self.ask(node.test)

    def visit_UnaryOperation(self, node: cst.UnaryOperation) -> None:
        if isinstance(node.operator, cst.Not):
            self.ask(node.expression)

    def ask(self, node: cst.BaseExpression) -> None:
        """Of this expression nothing but its truth matters."""
        self.asked.add(node)
        if isinstance(node, cst.BooleanOperation):
            self.ask(node.left)
            self.ask(node.right)

    def leave_NamedExpr(
        self, original_node: cst.NamedExpr, updated_node: cst.NamedExpr
    ) -> cst.NamedExpr:
        return updated_node.with_changes(target=original_node.target)

    def leave_UnaryOperation(
        self, original_node: cst.UnaryOperation, updated_node: cst.UnaryOperation
    ) -> cst.BaseExpression:
        if isinstance(updated_node.operator, cst.Not):
            inside = self._absent(updated_node.expression)
            value = truth(inside)
            if value is not None:
                return cst.Name(str(not value))
            return _other_way(bare(updated_node.expression)) or updated_node
        return updated_node

    def leave_BooleanOperation(
        self, original_node: cst.BooleanOperation, updated_node: cst.BooleanOperation
    ) -> cst.BaseExpression:
        left, right = updated_node.left, updated_node.right
        conjunction = isinstance(updated_node.operator, cst.And)
        value = truth(left)
        if value is not None:
            return right if value == conjunction else left
        if isinstance(right, cst.List) and not right.elements and not conjunction:
            if dotted(left) == "self.param_groups":
                return left  # if it is empty, too
        other = truth(right)
        asked = original_node in self.asked
        if other is not None and other == conjunction and (asked or _is_bool(left)):
            return left
        if other is not None and (asked or _is_bool(left)) and pure(left):
            return right if other != conjunction else updated_node
        return updated_node

    def leave_Comparison(
        self, original_node: cst.Comparison, updated_node: cst.Comparison
    ) -> cst.BaseExpression:
        if len(updated_node.comparisons) != 1:
            return updated_node
        target = updated_node.comparisons[0]
        left, right = self._absent(updated_node.left), bare(target.comparator)
        equal = _equal_literals(left, right)
        if is_name(right, "None") and self._is_list(left):
            equal = False
        if equal is None:
            return updated_node
        if isinstance(target.operator, (cst.Is, cst.Equal)):
            return cst.Name(str(equal))
        if isinstance(target.operator, (cst.IsNot, cst.NotEqual)):
            return cst.Name(str(not equal))
        return updated_node

    def _is_list(self, node: cst.CSTNode) -> bool:
        return isinstance(node, cst.Name) and node.value in self.frame.lists

    def _absent(self, node: cst.BaseExpression) -> cst.CSTNode:
        """``closure`` is None where it is asked for; calls of it are refused (R1)."""
        if isinstance(node, cst.Name) and node.value in self.frame.absent:
            return cst.Name("None")
        return bare(node)

    def leave_IfExp(
        self, original_node: cst.IfExp, updated_node: cst.IfExp
    ) -> cst.BaseExpression:
        value = truth(updated_node.test)
        if value is None:
            return updated_node
        kept = updated_node.body if value else updated_node.orelse
        if updated_node.lpar and not getattr(kept, "lpar", ()):
            kept = kept.with_changes(lpar=updated_node.lpar, rpar=updated_node.rpar)
        return kept


def _other_way(node: cst.CSTNode) -> cst.Comparison | None:
    """``x is None`` for ``x is not None``."""
    if not isinstance(node, cst.Comparison) or len(node.comparisons) != 1:
        return None
    target = node.comparisons[0]
    turned = {cst.Is: cst.IsNot, cst.IsNot: cst.Is}.get(type(target.operator))
    if turned is None:
        return None
    return node.with_changes(comparisons=[target.with_changes(operator=turned())])


def _is_bool(node: cst.CSTNode) -> bool:
    """Whether an expression surely yields True or False: no comparison by value, which
    tensors answer element by element."""
    if isinstance(node, cst.UnaryOperation):
        return isinstance(node.operator, cst.Not)
    if isinstance(node, cst.BooleanOperation):
        return _is_bool(node.left) and _is_bool(node.right)
    if isinstance(node, cst.Comparison):
        operators = [c.operator for c in node.comparisons]
        return all(
            isinstance(o, (cst.Is, cst.IsNot, cst.In, cst.NotIn)) for o in operators
        )
    return isinstance(node, cst.Call) and is_name(node.func, "isinstance")
