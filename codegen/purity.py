"""What evaluating an expression does, but for its value: what is dropped, or asked for
twice, must do nothing.

An expression is pure if it surely mutates nothing, draws no random number, takes nothing
out of an iterator and calls nobody unknown. ``effects`` are what is left of one whose
value nobody needs:

    z = (m.add_(g), g)[1].shape   →   m.add_(g)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.diagnostics import children, walk
from codegen.inplace import mutated, root_name
from codegen.ir.cfg import bound_at
from codegen.syntax import (
    Statement,
    all_params,
    all_statements,
    assign,
    assignment,
    bare,
    block,
    calls,
    dotted,
    is_constant,
    is_name,
    lazy_parts,
    negate,
    small,
    statements,
    target_names,
)

_FUNCTIONS = frozenset("bytearray bytes filter map ops.is_used ops.number".split())
"""Pure functions that the table doesn't have."""

_TEXT = frozenset(
    "capitalize endswith format join lower lstrip replace rstrip startswith strip title "
    "upper zfill".split()
)
"""Methods of strings."""

_ACTS = frozenset({"builtins.next", "torch.set_grad_enabled"})
"""Functions that change what is no argument of theirs, or how far an iterator is."""

_CALLING = frozenset({"filter", "map", "functools.reduce", "reduce"})
"""Functions whose first argument is one, which they call."""


def pure(node: cst.CSTNode, functions: Collection[str] = ()) -> bool:
    """Whether evaluating an expression has no effect but its value."""
    if any(isinstance(n, (cst.Await, cst.Yield, cst.NamedExpr)) for n in walk(node)):
        return False
    return all(_is_pure_call(c, functions) for c in calls(node))


def _is_pure_call(node: cst.Call, functions: Collection[str]) -> bool:
    """Whether a call does nothing but what its arguments do."""
    name = dotted(node.func) or ""
    if name in functions:
        return True
    if not all(_is_pure_function(f, functions) for f in _called_by(node, name)):
        return False
    if name in _FUNCTIONS:
        return True
    if isinstance(node.func, cst.Attribute) and _is_own_object(node.func.value):
        return False  # a method of the optimizer's
    operation = optable.function(name)
    if operation is None and isinstance(node.func, cst.Attribute):
        method = node.func.attr.value
        held = optable.container_method(method)
        # a set's ``add`` reads like a tensor's, which changes nothing
        if held is not None and held.in_place and method != "add":
            return False
        operation = optable.method(method) or held
        if operation is None:
            return method in _TEXT
    if operation is None or _acts(operation):
        return False
    receiver = None
    if operation.name.startswith(("method.", "container.")):
        receiver = cst.ensure_type(node.func, cst.Attribute).value
    bound = operation.bind(node.args, receiver)
    if bound is not None:
        return not any(True for _ in operation.written(bound))
    given = any(a.keyword and a.keyword.value == "out" for a in node.args)
    switched = any(p.inplace for p in operation.parameters)
    return not (operation.in_place or given or switched)


def _is_own_object(node: cst.BaseExpression) -> bool:
    called = isinstance(node, cst.Call) and is_name(node.func, "super")
    return called or is_name(node, "self")


def _acts(operation: optable.Operation) -> bool:
    """Whether an operation does something to other things than its arguments."""
    nothing = operation.result is optable.Result.NOTHING and not operation.in_place
    return operation.uses_rng or nothing or operation.name in _ACTS


def _called_by(node: cst.Call, name: str) -> Iterator[cst.BaseExpression]:
    """Functions that a call is handed to call them."""
    if name in _CALLING and node.args:
        yield node.args[0].value
    yield from (a.value for a in node.args if a.keyword and a.keyword.value == "key")


def _is_pure_function(node: cst.BaseExpression, functions: Collection[str]) -> bool:
    """Whether what is handed over as a function has no effect when it is called."""
    if isinstance(node, cst.Lambda) or is_name(node, "None"):
        return True  # the calls in its body are asked about with the others
    name = dotted(node) or ""
    operation = optable.function(name)
    if operation is not None:
        return not (operation.in_place or _acts(operation))
    return name in functions


def iterators(body: Sequence[Statement]) -> frozenset[str]:
    """Variables that may be iterators: who walks one leaves it further on."""
    found: set[str] = set()
    for node in all_statements(body):
        pair = assignment(node)
        if pair is not None and _is_iterator(pair[1]) and not is_unpacked(pair[0]):
            found |= set(target_names(pair[0]))
    return frozenset(found)


def _is_iterator(value: cst.BaseExpression) -> bool:
    called = isinstance(value, cst.Call) and dotted(value.func) in _ITERATORS
    return called or isinstance(value, cst.GeneratorExp)


def is_unpacked(target: cst.BaseExpression) -> bool:
    """Whether what ``target`` is given is read to its end at once."""
    return isinstance(target, (cst.Tuple, cst.List))


_ITERATORS = frozenset("iter zip map filter enumerate reversed".split())


def pure_functions(sources: Mapping[str, cst.FunctionDef]) -> frozenset[str]:
    """Those of a step's helpers whose calls may go or come twice: they draw nothing, call
    nobody unknown, and change tensors of their own at most."""
    found = frozenset(n for n, node in sources.items() if _changes_its_own(node))
    while True:
        kept = frozenset(n for n in found if _does_nothing(sources[n], found))
        if kept == found:
            return found
        found = kept


def _changes_its_own(node: cst.FunctionDef) -> bool:
    """Whether a function has itself made all that it changes: variables that it binds to
    results of arithmetic and of operations that share no memory with their arguments.
    """
    given = {param.name.value for param in all_params(node.params)}
    values: dict[str, list[cst.BaseExpression]] = {}
    for statement in all_statements(statements(node.body)):
        pair = assignment(statement)
        if pair is not None and isinstance(pair[0], cst.Name):
            values.setdefault(pair[0].value, []).append(pair[1])
        elif not isinstance(small(statement), cst.AugAssign):
            given |= bound_at(statement)
    for changed in mutated(node.body):
        name = root_name(changed)
        if name is None or name in given or name not in values:
            return False
        whole = isinstance(changed, cst.Name)
        if not all(_is_new(v, whole) for v in values[name]):
            return False
    return True


_NEW = (optable.Result.NEW, optable.Result.NUMBER, optable.Result.COMPUTED)


def _is_new(value: cst.BaseExpression, whole: bool) -> bool:
    """Whether an expression makes a tensor or a number; what adds lists makes one, too,
    ``whole`` but for its items."""
    value = cast(cst.BaseExpression, bare(value))
    if isinstance(value, (cst.BinaryOperation, cst.UnaryOperation)):
        return whole
    if not isinstance(value, cst.Call):
        return is_constant(value)
    operation = optable.spelled(value)
    return operation is not None and operation.result in _NEW


def _does_nothing(node: cst.FunctionDef, functions: Collection[str]) -> bool:
    if any(isinstance(n, (cst.Global, cst.Nonlocal, cst.Yield)) for n in walk(node)):
        return False
    return all(_is_pure_call(c, functions) or _is_own(c) for c in calls(node.body))


def _is_own(node: cst.Call) -> bool:
    """Whether a call draws nothing, and changes what it is handed at most."""
    operation = optable.spelled(node)
    if operation is None and isinstance(node.func, cst.Attribute):
        operation = optable.container_method(node.func.attr.value)
    return operation is not None and not operation.uses_rng and operation.in_place


# --- what is left ----------------------------------------------------------------


def effects(
    node: cst.BaseExpression, functions: Collection[str] = ()
) -> list[Statement]:
    """Statements that do what evaluating an expression does, but for its value."""
    if pure(node, functions) or isinstance(node, cst.Lambda):
        return []
    inner = bare(node)
    if isinstance(inner, cst.IfExp):
        return _either(inner.test, inner.body, inner.orelse, functions)
    if isinstance(inner, cst.BooleanOperation):
        test = inner.left
        if isinstance(inner.operator, cst.Or):
            test = negate(test)
        return _either(test, inner.right, None, functions)
    if isinstance(inner, cst.NamedExpr):
        return [assign([inner.target], inner.value)]
    whole = isinstance(inner, (cst.Await, cst.Yield, cst.BaseComp))
    if isinstance(inner, cst.Call):
        whole = not _is_pure_call(inner, functions)
    if whole or any(not pure(lazy, functions) for lazy in lazy_parts(inner)):
        whole_line = cst.Expr(cast(cst.BaseExpression, inner))
        return [cst.SimpleStatementLine([whole_line])]
    return _of_parts(inner, functions)


def _of_parts(node: cst.CSTNode, functions: Collection[str]) -> list[Statement]:
    found: list[Statement] = []
    for child in children(node):
        if isinstance(child, cst.BaseExpression):
            found += effects(child, functions)
        else:
            found += _of_parts(child, functions)
    return found


def _either(
    test: cst.BaseExpression,
    body: cst.BaseExpression,
    orelse: cst.BaseExpression | None,
    functions: Collection[str],
) -> list[Statement]:
    done = effects(body, functions)
    rest = [] if orelse is None else effects(orelse, functions)
    if not done and not rest:
        return effects(test, functions)
    other = cst.Else(block(rest)) if rest else None
    return [cst.If(cast(cst.BaseExpression, bare(test)), block(done), other)]
