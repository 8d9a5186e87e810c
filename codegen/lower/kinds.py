"""What kind of thing an expression yields, as far as a step asks: a tensor, or none.

``isinstance(step_size, torch.Tensor)`` is decided where ``step_size`` is made of settings
and numbers alone, or is surely a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.diagnostics import walk
from codegen.ir.loops import Loop
from codegen.lower.called import called, computes_the_same
from codegen.lower.frame import NOT_KNOWN, Frame, Kind, Known, holds_settings, known
from codegen.lower.helpers import given_to
from codegen.optable import Result
from codegen.syntax import (
    Statement,
    all_statements,
    assignment,
    bare,
    bound_names,
    calls,
    code,
    orelse_statements,
    small,
    statements,
    string_key,
    target_names,
)
from codegen.upstream import Definition

_TENSORS = (Result.NEW, Result.VIEW, Result.MAYBE, Result.SAME)
_BY_IDENTITY = (cst.Is, cst.IsNot, cst.In, cst.NotIn)
_PLAIN_BUILTINS = frozenset({"float", "int", "len", "bool", "str", "round"})


def kind_of(node: cst.BaseExpression, frame: Frame) -> Kind | None:
    """The kind of an expression; None where it isn't known."""
    node = cast(cst.BaseExpression, bare(node))
    if isinstance(node, (cst.Integer, cst.Float)) or frame.is_setting(node):
        return Kind.PLAIN
    if isinstance(node, (cst.Name, cst.Attribute, cst.Subscript)):
        return frame.kinds.get(code(node)) or _part(node, frame)
    if isinstance(node, cst.BinaryOperation):
        return _combined((node.left, node.right), frame)
    if isinstance(node, cst.UnaryOperation):
        asked = isinstance(node.operator, cst.Not)
        return Kind.PLAIN if asked else kind_of(node.expression, frame)
    if isinstance(node, cst.Comparison):
        if all(isinstance(c.operator, _BY_IDENTITY) for c in node.comparisons):
            return Kind.PLAIN
        return _combined((node.left, *(c.comparator for c in node.comparisons)), frame)
    if isinstance(node, cst.IfExp):
        return _either(kind_of(x, frame) for x in (node.body, node.orelse))
    if isinstance(node, cst.BooleanOperation):
        return _either(kind_of(x, frame) for x in (node.left, node.right))
    return _call(node, frame) if isinstance(node, cst.Call) else None


def _part(node: cst.BaseExpression, frame: Frame) -> Kind | None:
    """Of a tensor: its gradient, another shape of it, some of its elements."""
    if isinstance(node, cst.Name) or not isinstance(
        node, (cst.Attribute, cst.Subscript)
    ):
        return None
    if kind_of(node.value, frame) is not Kind.TENSOR:
        return None
    if isinstance(node, cst.Subscript):
        return Kind.TENSOR
    if node.attr.value == "grad":
        return Kind.TENSOR_OR_NONE
    operation = optable.attribute(node.attr.value)
    tensor = operation is not None and operation.result in _TENSORS
    return Kind.TENSOR if tensor else None


def _combined(operands: Iterable[cst.BaseExpression], frame: Frame) -> Kind | None:
    """What operators make of tensors and numbers: a tensor, if there is one."""
    kinds = {kind_of(x, frame) for x in operands}
    if kinds == {Kind.PLAIN}:
        return Kind.PLAIN
    return Kind.TENSOR if kinds and kinds <= {Kind.PLAIN, Kind.TENSOR} else None


def _either(kinds: Iterable[Kind | None]) -> Kind | None:
    found = set(kinds)
    return found.pop() if len(found) == 1 else None


# --- calls ------------------------------------------------------------------


def _call(node: cst.Call, frame: Frame) -> Kind | None:
    got = _got_setting(node)
    if got is not None:
        default = node.args[1:]
        plain = all(kind_of(a.value, frame) is Kind.PLAIN for a in default)
        return Kind.PLAIN if plain and frame.is_setting(got) else None
    theirs = called(node, frame)
    if theirs is not None:
        return _returned(theirs, node, frame)
    name = frame.full_name(node.func) or ""
    module, _, function = name.rpartition(".")
    operation = optable.function(name) if name else None
    if operation is None:
        return _method(node.func, frame)
    if module == "math" or (not module and function in _PLAIN_BUILTINS):
        return Kind.PLAIN
    if module.partition(".")[0] == "torch":
        return Kind.TENSOR if operation.result in _TENSORS else None
    plain = not module and all(a.keyword is None and not a.star for a in node.args)
    if plain and operation.result in (Result.COMPUTED, Result.ONE_OF):
        return _combined((a.value for a in node.args), frame)
    return None


def _got_setting(node: cst.Call) -> cst.Subscript | None:
    """``group["k"]`` for ``group.get("k", …)``."""
    func = node.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "get" or not node.args:
        return None
    index = cst.SubscriptElement(cst.Index(node.args[0].value))
    item = cst.Subscript(func.value, [index])
    return item if holds_settings(func.value) and string_key(item) else None


def _method(func: cst.BaseExpression, frame: Frame) -> Kind | None:
    """What a method of a tensor returns."""
    if not isinstance(func, cst.Attribute):
        return None
    operation = optable.method(func.attr.value)
    if operation is None or kind_of(func.value, frame) is not Kind.TENSOR:
        return None
    if operation.result is Result.NUMBER:
        return Kind.PLAIN
    return Kind.TENSOR if operation.result in _TENSORS else None


def _returned(function: Definition, made: cst.Call, frame: Frame) -> Kind | None:
    """What a function of upstream's returns, whichever way it goes."""
    node = cast(cst.FunctionDef, function.node)
    given = given_to(node, made, function.is_method)
    if given is None or function.full_name in frame.callers:
        return None
    inner = frame.of(function)
    if not computes_the_same(node, inner):
        return None
    inner.callers = frame.callers | {function.full_name}
    inner.local = set(given) | bound_names(node.body)
    for name, value in given.items():
        share(inner, frame, value, name)
    found: list[Kind | None] = []
    if _returns(statements(node.body), inner, found):
        found.append(None)
    return _either(found)


def _returns(body: Sequence[Statement], frame: Frame, found: list[Kind | None]) -> bool:
    """Collect the kinds of what a body returns; whether it may go on."""
    for node in body:
        inner = small(node)
        if isinstance(inner, (cst.Return, cst.Raise)):
            if isinstance(inner, cst.Return):
                found.append(kind_of(inner.value, frame) if inner.value else None)
            return False
        if isinstance(node, cst.If):
            other = frame.fork()
            learn_test(node.test, True, frame)
            learn_test(node.test, False, other)
            goes_on = _returns(statements(node.body), frame, found)
            if _returns(orelse_statements(node), other, found):
                if goes_on:
                    frame.join(other)
                else:
                    frame.__dict__.update(other.__dict__)
            elif not goes_on:
                return False
        elif inner is not None:
            learn(node, frame)
        else:
            inside = [small(s) for s in all_statements([node])]
            found += [None for s in inside if isinstance(s, cst.Return)]
            for name in bound_names(node):
                frame.forget(name)
            frame.forget_paths()
    return True


# --- what statements and tests tell -----------------------------------------


def learn(node: Statement, frame: Frame) -> None:
    """Constants, settings and kinds that a simple statement makes known."""
    pair, inner = assignment(node), small(node)
    constant: Known = NOT_KNOWN
    kind, setting = _stored(inner, frame), False
    if pair is not None:
        constant, setting = known(pair[1], frame), frame.is_setting(pair[1])
    shown = _shown_tensor(inner, frame)
    for name in bound_names(node):
        frame.forget(name)
    if not only_computes(node):
        frame.forget_paths()
    if shown is not None and shown not in bound_names(node):
        frame.kinds[shown] = Kind.TENSOR
    for target in _targets(inner):
        _note(target, kind, frame)
    if pair is None:
        return
    target, value = pair
    if isinstance(target, cst.Name):
        if constant is not NOT_KNOWN:
            frame.constants[target.value] = constant
        if setting:
            frame.settings.add(target.value)
        if isinstance(bare(value), (cst.List, cst.ListComp)):
            frame.lists.add(target.value)
    elif isinstance(target, cst.Tuple) and setting:
        frame.settings |= set(target_names(target))


def _targets(node: cst.CSTNode | None) -> list[cst.BaseExpression]:
    if isinstance(node, cst.Assign):
        return [t.target for t in node.targets]
    return [node.target] if isinstance(node, (cst.AnnAssign, cst.AugAssign)) else []


def _stored(node: cst.CSTNode | None, frame: Frame) -> Kind | None:
    """The kind of what an assignment leaves in its targets."""
    if isinstance(node, cst.AugAssign):
        return _combined((node.target, node.value), frame)
    if isinstance(node, (cst.Assign, cst.AnnAssign)) and node.value is not None:
        return kind_of(node.value, frame)
    return None


def _note(target: cst.BaseExpression, kind: Kind | None, frame: Frame) -> None:
    if isinstance(target, (cst.Tuple, cst.List)):
        for element in target.elements:
            _note(element.value, None, frame)
        return
    key = string_key(target)
    if key is not None and kind is not Kind.PLAIN:
        frame.context.kept_tensors.add(key)
    if kind is not None and (key is not None or isinstance(target, cst.Name)):
        frame.kinds[code(target)] = kind


def _shown_tensor(node: cst.BaseSmallStatement | None, frame: Frame) -> str | None:
    """``x`` of ``x.lerp_(…).add_(…)``: what has these methods is a tensor."""
    value = getattr(node, "value", None)
    while isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
        method, value = value.func.attr.value, value.func.value
        if isinstance(value, cst.Name) and value.value in frame.local:
            operation = optable.method(method)
            only = optable.container_method(method) is None
            return value.value if operation is not None and only else None
    return None


def only_computes(node: cst.CSTNode) -> bool:
    """Whether code leaves attributes and items of everything as they are."""
    stores = any(
        isinstance(n, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.Del))
        and not isinstance(n.target, (cst.Name, cst.Tuple))
        for n in walk(node)
    )
    return not stores and all(optable.spelled(c) is not None for c in calls(node))


def learn_test(test: cst.BaseExpression, outcome: bool, frame: Frame) -> None:
    """What is no None where ``test`` came out like that."""
    test = cast(cst.BaseExpression, bare(test))
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        learn_test(test.expression, not outcome, frame)
    elif isinstance(test, cst.BooleanOperation):
        if isinstance(test.operator, cst.And) is outcome:
            learn_test(test.left, outcome, frame)
            learn_test(test.right, outcome, frame)
    elif isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
        (part,) = test.comparisons
        told = isinstance(part.operator, cst.IsNot if outcome else cst.Is)
        if told and code(bare(part.comparator)) == "None":
            if kind_of(test.left, frame) is Kind.TENSOR_OR_NONE:
                frame.kinds[code(bare(test.left))] = Kind.TENSOR


def learn_loop(node: cst.For, frame: Frame) -> None:
    """What the targets of a loop over a group's parameters are."""
    for item in Loop.of(node).items:
        if string_key(item.source) == "params" and isinstance(item.target, cst.Name):
            frame.kinds[item.target.value] = Kind.TENSOR


def share(inner: Frame, frame: Frame, value: cst.BaseExpression, name: str) -> None:
    """What ``frame`` knows of ``value``, ``inner`` knows of ``name``."""
    if frame.is_setting(value):
        inner.settings.add(name)
    if isinstance(value, cst.Name) and value.value in frame.lists:
        inner.lists.add(name)
    kind = kind_of(value, frame)
    if kind is not None:
        inner.kinds[name] = kind
