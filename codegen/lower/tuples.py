"""Tuples taken apart."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import (
    Statement,
    assign,
    assignment,
    block,
    code,
    dotted,
    is_constant,
    is_name,
    read_names,
    small,
    statements,
    string_key,
    target_names,
    with_comments,
)


def flatten_tuple(node: cst.CSTNode) -> cst.CSTNode | None:
    """``(a, *(b, c))`` → ``(a, b, c)``."""
    if not isinstance(node, cst.Tuple):
        return None
    starred = [e for e in node.elements if isinstance(e, cst.StarredElement)]
    if not any(isinstance(e.value, cst.Tuple) for e in starred):
        return None
    elements: list[cst.BaseElement] = []
    for element in node.elements:
        if isinstance(element, cst.StarredElement) and isinstance(
            element.value, cst.Tuple
        ):
            elements.extend(element.value.elements)
        else:
            elements.append(element)
    plain = [e.with_changes(comma=cst.MaybeSentinel.DEFAULT) for e in elements]
    return node.with_changes(elements=plain)


def split_tuple(node: Statement) -> list[Statement]:
    """``a, b = x, y`` → ``a = x``, ``b = y``, where the order doesn't matter; likewise
    ``a = b = 0``, where it is one number by two names."""
    inner = small(node)
    if isinstance(inner, cst.Assign) and len(inner.targets) > 1:
        several = [t.target for t in inner.targets]
        if is_constant(inner.value) and all(isinstance(n, cst.Name) for n in several):
            lines = [assign([n], inner.value.deep_clone()) for n in several]
            return [with_comments(lines[0], node), *lines[1:]]
    pair = assignment(node)
    if pair is None or not isinstance(pair[0], cst.Tuple):
        return [node]
    target, value = pair
    if not isinstance(value, cst.Tuple) or not isinstance(target, cst.Tuple):
        return [node]
    target, value = _unstarred(target, value)
    targets = [e.value for e in target.elements]
    values = [e.value for e in value.elements]
    names = set(target_names(target))
    starred = any(
        isinstance(e, cst.StarredElement) for e in (*target.elements, *value.elements)
    )
    independent = all(
        is_name(v) and is_name(t) and code(v) == code(t) or not names & read_names(v)
        for t, v in zip(targets, values)
    )
    if starred or len(targets) != len(values) or not independent:
        return [node]
    if any(_may_read(v, t) for i, t in enumerate(targets) for v in values[i + 1 :]):
        return [node]
    parts: list[Statement] = [
        assign([t], v) for t, v in zip(targets, values) if code(t) != code(v)
    ]
    if parts:
        parts[0] = with_comments(parts[0], node)
    return parts


def _may_read(value: cst.BaseExpression, target: cst.BaseExpression) -> bool:
    """Whether ``value`` may read what was stored in ``target``, an item or attribute."""
    if isinstance(target, cst.Name):
        return False
    if isinstance(target, (cst.Tuple, cst.List)):
        return any(_may_read(value, e.value) for e in target.elements)
    key = string_key(target)
    if key is None:
        # of a tensor, or of whatever has another name as well
        return not (is_constant(value) or is_name(value))
    return any(_reads_slot(n, key) for n in walk(value))


def _reads_slot(node: cst.CSTNode, key: str) -> bool:
    """Whether evaluating ``node`` itself may look into a dict under a key: operations
    on tensors and numbers don't."""
    if isinstance(node, cst.Call):
        if dotted(node.func) in _BUILTIN:
            return not all(isinstance(a.value, _NUMBERS) for a in node.args)
        return optable.spelled(node) is None
    if isinstance(node, cst.Subscript):
        return string_key(node) in (key, None)
    if isinstance(node, (cst.IfExp, cst.BooleanOperation, cst.BaseComp)):
        return True  # a dict may be asked whether it is empty, or be walked
    if isinstance(node, cst.UnaryOperation):
        return isinstance(node.operator, cst.Not)
    if isinstance(node, cst.Comparison):
        return any(
            isinstance(c.operator, (cst.In, cst.NotIn)) for c in node.comparisons
        )
    return isinstance(node, (cst.FormattedString, cst.Lambda, cst.Await, cst.Yield))


_BUILTIN = frozenset(dir(builtins))
_NUMBERS = (cst.Integer, cst.Float)


def _unstarred(target: cst.Tuple, value: cst.Tuple) -> tuple[cst.Tuple, cst.Tuple]:
    """``a, b, c = x, *pair`` as ``a, (b, c) = x, pair``."""
    starred = [
        i for i, e in enumerate(value.elements) if isinstance(e, cst.StarredElement)
    ]
    several = len(target.elements) - len(value.elements) + 1
    plain = not any(isinstance(e, cst.StarredElement) for e in target.elements)
    if len(starred) != 1 or several < 1 or not plain:
        return target, value
    at = starred[0]
    inner = [e.with_changes(comma=cst.MaybeSentinel.DEFAULT) for e in target.elements]
    part = cst.Element(cst.Tuple(inner[at : at + several]))
    targets = [*inner[:at], part, *inner[at + several :]]
    values = [
        cst.Element(e.value) if i == at else e for i, e in enumerate(value.elements)
    ]
    return target.with_changes(elements=targets), value.with_changes(elements=values)


def one_by_one(node: Statement, context: Context) -> list[Statement]:
    """``x[0], p.data = y, z`` → ``one, two = y, z``, ``x[0] = one``, ``p.data = two``;
    ``for x[0] in xs:`` → ``for item in xs: x[0] = item``. What stores into a tensor, or
    to a parameter's memory, is a statement of its own."""
    if isinstance(node, cst.For) and _stores_apart([node.target]):
        item = cst.Name(context.fresh("item"))
        store = assign([cast(cst.BaseExpression, node.target)], item.deep_clone())
        context.origins.inherit(store, node.target)
        body = block([store, *statements(node.body)])
        return [node.with_changes(target=item, body=body)]
    inner = small(node)
    if not isinstance(inner, cst.Assign):
        return [node]
    targets = [cast(cst.BaseExpression, t.target) for t in inner.targets]
    single = len(targets) == 1 and not isinstance(targets[0], (cst.Tuple, cst.List))
    if single or not _stores_apart(targets):
        return [node]
    stores: list[Statement] = []
    if len(targets) == 1:
        first = assign([_named(targets[0], stores, context)], inner.value)
    else:
        value = cst.Name(context.fresh("value"))
        first = assign([value], inner.value)
        stores = [assign([t], value.deep_clone()) for t in targets]
    for new in (first, *stores):
        context.origins.inherit(new, node)
    return [with_comments(first, node), *stores]


def _named(
    target: cst.BaseExpression, stores: list[Statement], context: Context
) -> cst.BaseExpression:
    """A target with a variable for each part; ``stores`` gets what goes on from there."""
    if isinstance(target, cst.StarredElement):
        return target.with_changes(value=_named(target.value, stores, context))
    if isinstance(target, (cst.Tuple, cst.List)):
        elements = [
            e.with_changes(value=_named(e.value, stores, context))
            for e in target.elements
        ]
        return target.with_changes(elements=elements)
    name = cst.Name(context.fresh("value"))
    stores.append(assign([target], name))
    return name.deep_clone()


def _stores_apart(targets: Sequence[cst.CSTNode]) -> bool:
    """Whether targets may be parts of tensors, or a parameter's memory: not slots under
    a string, which only dicts have."""
    for target in targets:
        if isinstance(target, (cst.Tuple, cst.List)):
            if _stores_apart([e.value for e in target.elements]):
                return True
        elif isinstance(target, cst.StarredElement):
            if _stores_apart([target.value]):
                return True
        elif isinstance(target, cst.Attribute):
            return dotted(target) is None or target.attr.value == "data"
        elif isinstance(target, cst.Subscript) and string_key(target) is None:
            if dotted(target.value) != "self.state":
                return True
    return False
