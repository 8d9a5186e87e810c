"""Which calls mutate, and the out-of-place twin of each: a table, not a guess."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from codegen import optable
from codegen.diagnostics import walk
from codegen.optable import Result
from codegen.syntax import (
    Statement,
    all_statements,
    dotted,
    keyword,
    small,
    statements,
    target_names,
)

_SHARED = (Result.VIEW, Result.MAYBE, Result.VIEWS, Result.SAME)
_METHODS = {
    key.partition(".")[2]: operation
    for key, operation in optable.TABLE.items()
    if key.startswith("method.")
}
VIEWS = frozenset(
    n for n, o in _METHODS.items() if o.result in _SHARED and not o.in_place
) | {"get"}
"""Methods whose result may share memory with their receiver."""

CONTAINER_METHODS = frozenset(
    key.partition(".")[2]
    for key, operation in optable.TABLE.items()
    if key.startswith("container.") and operation.in_place
) - {"add"}
"""A set's ``add`` is left out: it reads like a tensor's, which changes nothing."""

_TAKING = frozenset(
    key.partition(".")[2]
    for key, operation in optable.TABLE.items()
    if key.startswith("container.") and operation.in_place
    if operation.result is Result.ONE_OF
)
"""Those that change a container and yield an item: ``pop``, ``setdefault``."""


def takes_item(node: cst.CSTNode) -> bool:
    """``bufs.pop(0)``: what is read after it may lie elsewhere than before."""
    return (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Attribute)
        and node.func.attr.value in _TAKING
    )


def inplace_method(node: cst.CSTNode) -> str | None:
    """``"mul_"`` for ``x.mul_(…)``; None for calls that don't mutate their receiver."""
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return None
    name = node.func.attr.value
    if optable.function(dotted(node.func) or "") is not None:
        return None
    operation = optable.method(name)
    if operation is not None:
        return name if operation.in_place else None
    # one that is not known, but says so
    spelled = name.endswith("_") and not name.startswith("_") and name[-2] != "_"
    return name if spelled and not _of_module(node.func.value) else None


def _of_module(node: cst.BaseExpression) -> bool:
    return (dotted(node) or "").partition(".")[0] in optable.MODULES


def inplace_function(node: cst.CSTNode) -> str | None:
    """``"torch._foreach_mul_"`` and ``"torch.relu_"``: functions that mutate their
    first argument."""
    if not isinstance(node, cst.Call):
        return None
    name = dotted(node.func) or ""
    if name.startswith("torch.Tensor."):
        return None  # an unbound method, which R7 refuses
    if name.startswith("torch.") and name.endswith("_") and not name.endswith("__"):
        return name
    return None


def chain_root(node: cst.BaseExpression) -> cst.BaseExpression:
    """``x`` of ``x.mul_(a).add_(b)``."""
    while inplace_method(node) is not None:
        assert isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute)
        node = node.func.value
    return node


def chain_links(node: cst.BaseExpression) -> list[cst.Call]:
    """The calls of an in-place chain, first to last."""
    links: list[cst.Call] = []
    while inplace_method(node) is not None:
        assert isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute)
        links.append(node)
        node = node.func.value
    return links[::-1]


def root_name(node: cst.CSTNode) -> str | None:
    """The variable at the bottom of ``x.data[0].view(-1).T``."""
    while True:
        if isinstance(node, cst.Name):
            return node.value
        if isinstance(node, (cst.Attribute, cst.Subscript)):
            node = node.value
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            node = node.func.value
        else:
            return None


def mutated_roots(node: cst.CSTNode) -> Iterator[str]:
    """Names through which ``node`` may change an object."""
    for found in mutated(node):
        name = root_name(found)
        if name is not None:
            yield name


def mutated(node: cst.CSTNode) -> Iterator[cst.BaseExpression]:
    """What ``node`` may change: in-place calls, item and attribute stores, ``out=``,
    augmented assignment, container methods."""
    for inner in walk(node):
        if isinstance(inner, cst.Call):
            yield from _mutated_by_call(inner)
        elif isinstance(inner, cst.AugAssign):
            yield inner.target
        elif isinstance(inner, cst.AssignTarget):
            if isinstance(inner.target, (cst.Subscript, cst.Attribute)):
                yield inner.target.value


def _mutated_by_call(node: cst.Call) -> Iterator[cst.BaseExpression]:
    out = keyword(node, "out")
    if out is not None:
        yield out
    if inplace_method(node) is not None and isinstance(node.func, cst.Attribute):
        yield chain_root(node)
    elif inplace_function(node) is not None and node.args:
        yield node.args[0].value
    elif isinstance(node.func, cst.Attribute):
        if node.func.attr.value in CONTAINER_METHODS:
            yield node.func.value


def may_mutate(function: cst.FunctionDef, params: set[str]) -> bool:
    """Whether a function may change an argument: it mutates a parameter, or a
    variable that may be (a view of) one."""
    aliases = set(params)
    body = list(all_statements(statements(function.body)))
    pairs = [pair for node in body for pair in _bindings(node)]
    for _ in range(len(body)):
        before = len(aliases)
        for names, source in pairs:
            if source & aliases:
                aliases |= names
        if len(aliases) == before:
            break
    numbers = _numeric_params(function)
    return any(name in aliases - numbers for name in mutated_roots(function.body))


def _bindings(node: Statement) -> Iterator[tuple[set[str], set[str]]]:
    """(names bound, names whose objects they may share) of a statement."""
    inner = small(node)
    if isinstance(inner, (cst.Assign, cst.AnnAssign)) and inner.value is not None:
        root = root_name(inner.value)
        if root is not None and not _fresh(inner.value):
            targets = (
                [t.target for t in inner.targets]
                if isinstance(inner, cst.Assign)
                else [inner.target]
            )
            yield {n for t in targets for n in target_names(t)}, {root}
    if isinstance(node, cst.For):
        yield set(target_names(node.target)), _walked_roots(node.iter)


def _walked_roots(node: cst.BaseExpression) -> set[str]:
    """Variables whose items a loop over ``node`` hands out."""
    if isinstance(node, cst.Call):
        walked = {n for a in node.args for n in _walked_roots(a.value)}
        if isinstance(node.func, cst.Attribute):
            walked |= _walked_roots(node.func.value)
        return walked
    root = root_name(node)
    return set() if root is None else {root}


def _fresh(node: cst.CSTNode) -> bool:
    """Whether an expression makes a new object, judged by its outermost call."""
    if isinstance(node, cst.Call):
        if isinstance(node.func, cst.Attribute):
            operation = optable.function(dotted(node.func) or "")
            operation = operation or optable.method(node.func.attr.value)
            return operation is None or operation.result not in _SHARED
        return True
    return not isinstance(node, (cst.Name, cst.Attribute, cst.Subscript))


def _numeric_params(function: cst.FunctionDef) -> set[str]:
    """Parameters annotated as numbers: ``x += 1`` only rebinds those."""
    numbers: set[str] = set()
    for param in (*function.params.params, *function.params.kwonly_params):
        if param.annotation is not None:
            if dotted(param.annotation.annotation) in ("float", "int", "bool", "str"):
                numbers.add(param.name.value)
    return numbers


def is_place(node: cst.BaseExpression) -> bool:
    """Whether an expression names something that exists: a variable, an item, a view."""
    if isinstance(node, cst.Name):
        return True
    if isinstance(node, (cst.Attribute, cst.Subscript)):
        return is_place(node.value)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        if dotted(node.func) in ("torch.view_as_real", "torch.view_as_complex"):
            return is_place(node.args[0].value)
        return node.func.attr.value in VIEWS and is_place(node.func.value)
    return False


def mutates_place(node: cst.CSTNode) -> bool:
    """``x.mul_(…)``, ``torch.add(…, out=x)``, ``torch.relu_(x)`` on a place."""
    if not isinstance(node, cst.Call):
        return False
    if inplace_method(node) is not None:
        return is_place(chain_root(node))
    out = keyword(node, "out")
    if out is not None:
        return is_place(out)
    return inplace_function(node) is not None
