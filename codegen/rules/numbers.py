"""Where a number of Python's and the tensor that stands for it part ways.

    try: c = math.exp(x)          raises, where ``ops.exp`` gives inf
    except OverflowError: …
    abs((-x) ** 0.5)              of a complex number, where a tensor gives NaN
    torch.normal(mean, std)       draws, and hands no gradient on

What can tell the difference is refused.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator

import libcst as cst

from codegen import optable
from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.context import Context
from codegen.diagnostics import children, walk
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    bound_names,
    dotted,
    is_name,
    read_names,
    small,
    statements,
)

_OF_OPERATORS = frozenset(
    "ArithmeticError BaseException Exception OverflowError ZeroDivisionError".split()
)
"""What Python's operators raise, and what is caught with it."""
_OF_MATH = _OF_OPERATORS | {"ValueError"}
"""What the functions of ``math`` raise besides, of what is not in their domain."""

_RAISING = (cst.Power, cst.FloorDivide, cst.Modulo)
"""Operators of which a tensor's raises nothing; a division is picked elsewhere."""

Asked = Callable[[cst.BaseExpression, Env], bool]


def refuse_differences(
    body: Body, context: Context, places: Heap, has_derivative: Asked
) -> None:
    """Refuse what comes out otherwise for a tensor than for a number.

    ``has_derivative`` tells whether an expression may be a tensor that has one."""
    complex_names = _complex_names(body)
    for node in all_statements(body):
        env = places.before.get(node, Env())
        for inner in _own_nodes(node):
            if isinstance(inner, cst.Call) and _loses_gradient(
                inner, env, has_derivative
            ):
                context.refuse(
                    "R7",
                    inner,
                    f"what {dotted(inner.func)} draws has no derivative by its arguments",
                    "write mean + std * torch.randn_like(mean)",
                )
            if _tells_complex(inner, complex_names):
                context.refuse(
                    "R7",
                    inner,
                    "a root of a negative number is complex, and that of a tensor is NaN",
                    "take the root of abs(x), or of a value that is never negative",
                )
        if isinstance(node, cst.Try):
            _refuse_raising(node, context, places, has_derivative)


def _own_nodes(node: Statement) -> Iterator[cst.CSTNode]:
    """A simple statement's nodes, or those of a compound one's head."""
    if small(node) is not None:
        yield from walk(node)
        return
    for field in ("test", "iter", "items"):
        head = getattr(node, field, ())
        for part in head if isinstance(head, (list, tuple)) else [head]:
            yield from walk(part)


def _catches(handler: cst.ExceptHandler, raised: frozenset[str]) -> bool:
    """Whether a handler may take one of these exceptions."""
    if handler.type is None:
        return True
    caught = read_names(handler.type)
    return bool(caught & raised or caught - _BUILTIN - {"torch"})


_BUILTIN = frozenset(vars(builtins))


def _refuse_raising(
    node: cst.Try, context: Context, places: Heap, has_derivative: Asked
) -> None:
    for inner in all_statements(statements(node.body)):
        env = places.before.get(inner, Env())
        for part in _own_nodes(inner):
            operands, raised = _operands(part)
            if not any(_catches(h, raised) for h in node.handlers):
                continue
            if any(has_derivative(o, env) for o in operands):
                context.refuse(
                    "R7",
                    part,
                    "of a number this may raise what is caught here, of a tensor it "
                    "gives inf or NaN",
                    "ask whether the number is in range, and compute afterwards",
                )


def _operands(
    node: cst.CSTNode,
) -> tuple[list[cst.BaseExpression], frozenset[str]]:
    """What is computed with, where Python's numbers may raise and tensors don't, and
    what they raise."""
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, _RAISING):
        divisor = None if isinstance(node.operator, cst.Power) else node.right
        if isinstance(divisor, cst.Integer) and divisor.evaluated_value != 0:
            return [], _OF_OPERATORS
        return [node.left, node.right], _OF_OPERATORS
    if isinstance(node, cst.Call):
        operation = optable.function(dotted(node.func) or "")
        if operation is not None and operation.name.startswith("math."):
            args = [] if operation.decides else [a.value for a in node.args]
            return args, _OF_MATH
        if is_name(node.func, "pow"):
            return [a.value for a in node.args], _OF_MATH
    return [], frozenset()


# --- draws -----------------------------------------------------------------------


def _loses_gradient(node: cst.Call, env: Env, has_derivative: Asked) -> bool:
    """Whether a call draws around a value whose gradient it drops."""
    operation = optable.spelled(node)
    if operation is None or not (operation.uses_rng and operation.cuts):
        return False
    bound = operation.bind(node.args)
    if bound is None:
        return any(has_derivative(a.value, env) for a in node.args)
    return any(
        has_derivative(argument, env) for _, argument in operation.numbers(bound)
    )


# --- complex numbers -------------------------------------------------------------


def _complex_names(body: Body) -> set[str]:
    """Variables that may be a root of a number."""
    found: set[str] = set()
    while True:
        before = len(found)
        for node in all_statements(body):
            inner = small(node)
            value = getattr(inner, "value", None)
            if isinstance(inner, (cst.Assign, cst.AnnAssign)) and value is not None:
                if _may_be_complex(value, found):
                    found |= bound_names(inner)
        if len(found) == before:
            return found


def _may_be_complex(node: cst.CSTNode, names: set[str]) -> bool:
    """Whether arithmetic may yield a root, of what may be less than zero."""
    if isinstance(node, cst.Name):
        return node.value in names
    if isinstance(node, cst.BinaryOperation):
        if isinstance(node.operator, cst.Power) and _is_fraction(node.right):
            return True
        return any(_may_be_complex(n, names) for n in (node.left, node.right))
    if isinstance(node, (cst.UnaryOperation, cst.IfExp)):
        return any(_may_be_complex(n, names) for n in children(node))
    return False


def _is_fraction(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.UnaryOperation):
        return _is_fraction(node.expression)
    if isinstance(node, cst.Float):
        return not float(node.value).is_integer()
    return isinstance(node, cst.BinaryOperation) and isinstance(
        node.operator, cst.Divide
    )


def _tells_complex(node: cst.CSTNode, names: set[str]) -> bool:
    """``abs(z)``, ``z.real``: what is another number of a complex one."""
    if isinstance(node, cst.Call) and is_name(node.func, "abs") and node.args:
        return _may_be_complex(node.args[0].value, names)
    if isinstance(node, cst.Attribute):
        word = node.attr.value in ("real", "imag", "conjugate")
        return word and _may_be_complex(node.value, names)
    return False
