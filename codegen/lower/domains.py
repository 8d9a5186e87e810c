"""Lists that hold an item for each of the same parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from codegen.diagnostics import children
from codegen.syntax import calls, code, dotted, expr, is_name, parenthesize, read_names


@dataclass(frozen=True)
class ParamDomain:
    """The parameters that lists have one item for: where from, which are left out."""

    source: cst.BaseExpression
    conditions: tuple[cst.BaseExpression, ...]

    def key(self) -> tuple[str, ...]:
        return (code(self.source), *map(code, self.conditions))

    def test(self) -> str:
        """All conditions as one."""
        return " and ".join(map(_conjunct, self.conditions))

    def is_empty(self, item: str) -> cst.BaseExpression:
        """A test for whether there are none of these parameters, which it calls ``item``."""
        test = self.test() or "True"
        return expr(f"not any({test} for {item} in {code(self.source)})")


def _conjunct(test: cst.BaseExpression) -> str:
    """A test as it stands beside ``and``."""
    binds = isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.Or)
    loose = binds or isinstance(test, (cst.IfExp, cst.Lambda, cst.NamedExpr))
    return code(parenthesize(test) if loose else test)


_LASTING = {"dim", "numel", "size", "is_floating_point", "is_complex", "len", "id"}
_LASTING |= {"isinstance", "hasattr", "getattr", "torch.is_complex"}
_BUILTIN = {"torch", "len", "id", "isinstance", "getattr", "hasattr", "any", "all"}
_BUILTIN |= {"True", "False", "None"}
_TENSORS = {"grad", "data", "T", "mT", "H", "mH", "real", "imag"}


def is_loop_invariant(test: cst.BaseExpression, item: str) -> bool:
    """Whether a test asks nothing but what a parameter is, all through a step."""
    if read_names(test) - {item, *_BUILTIN}:
        return False
    for node in calls(test):
        name = dotted(node.func) or ""
        if name.rpartition(".")[2] not in _LASTING and name not in ("any", "all"):
            return False
    return asks_no_values(test, item)


def asks_no_values(node: cst.CSTNode, item: str) -> bool:
    """Whether an expression depends on what a tensor is, and not on its values."""
    if _is_tensor(node, item):
        return False
    held: list[cst.CSTNode] = []
    if isinstance(node, cst.Comparison):
        if all(isinstance(c.operator, (cst.Is, cst.IsNot)) for c in node.comparisons):
            held = [node.left, *(c.comparator for c in node.comparisons)]
    elif isinstance(node, cst.Attribute):
        held = [node.value]
    elif isinstance(node, cst.Call):
        if (dotted(node.func) or "").rpartition(".")[2] in _LASTING:
            held = [a.value for a in node.args]
    own = [n for n in held if _is_tensor(n, item)]
    parts = [c for c in _expressions(node) if not any(c is n for n in own)]
    return all(asks_no_values(part, item) for part in parts)


def _is_tensor(node: cst.CSTNode, item: str) -> bool:
    if isinstance(node, cst.Attribute):
        return node.attr.value in _TENSORS and _is_tensor(node.value, item)
    if isinstance(node, cst.Subscript):
        return _is_tensor(node.value, item)
    return is_name(node, item)


def _expressions(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The parts of a node, through what is no expression itself."""
    for part in children(node):
        if isinstance(part, cst.BaseExpression):
            yield part
        else:
            yield from _expressions(part)
