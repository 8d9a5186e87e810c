"""Tuples taken apart."""

from __future__ import annotations

import libcst as cst

from codegen.diagnostics import walk
from codegen.syntax import (
    Statement,
    assign,
    assignment,
    code,
    is_constant,
    is_name,
    read_names,
    small,
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
    key = string_key(target)
    if key is not None:
        return any(string_key(n) == key for n in walk(value))
    return bool(read_names(target) & read_names(value))


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
