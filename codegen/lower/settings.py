"""Settings that are read of the constructor's defaults, read of the group."""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import (
    Body,
    Statement,
    code,
    dotted,
    replace_nodes,
    string_key,
    target_names,
)

DEFAULTS = "self.defaults"


def defaults_by_group(body: Body, context: Context) -> Body:
    """``self.defaults["k"]`` → ``group["k"]`` in a loop over the groups, where an
    override may tell each group its own, and the step doesn't. A step that changes the
    defaults is refused."""
    for node in (n for s in body for n in walk(s)):
        if _changes_defaults(node):
            context.refuse(
                "lower",
                node,
                "the constructor's defaults are changed by a step",
                "keep what changes in the groups, or in an attribute",
            )
    stored = _stored_keys(body)
    return tuple(_by_group(s, stored, context) for s in body)


def _stored_keys(body: Body) -> set[str | None]:
    """Keys under which a step stores in groups; None for one that isn't constant."""
    found: set[str | None] = set()
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign)):
            target = node.target
            if isinstance(target, cst.Subscript) and not _is_state(target.value):
                found.add(string_key(target))
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            writes = node.func.attr.value in _OF_DICTS
            if writes and not _is_state(node.func.value):  # it may be a group
                key = node.args[0].value if node.args else None
                text = (
                    key.evaluated_value if isinstance(key, cst.SimpleString) else None
                )
                found.add(None if text is None else str(text))
    return found


_OF_DICTS = ("update", "setdefault", "pop", "popitem", "clear")
"""Methods that change a dict."""


def _is_state(node: cst.BaseExpression) -> bool:
    return (dotted(node) or code(node)).startswith(("state", "self.state"))


def _changes_defaults(node: cst.CSTNode) -> bool:
    if isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.Del, cst.AnnAssign)):
        stored = (n for n in walk(node.target) if isinstance(n, cst.Subscript))
        return any(dotted(n.value) == DEFAULTS for n in stored)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        operation = optable.container_method(node.func.attr.value)
        changes = operation is not None and operation.in_place
        return changes and dotted(node.func.value) == DEFAULTS
    return False


def _by_group(node: Statement, stored: set[str | None], context: Context) -> Statement:
    if not isinstance(node, cst.For) or "group" not in target_names(node.target):
        return node

    def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(inner, cst.Subscript) or dotted(inner.value) != DEFAULTS:
            return None
        key = string_key(inner)
        if key is None:
            return None
        if {key, None} & stored:
            context.refuse(
                "lower",
                inner,
                f"the constructor's {key!r} is read, and the step changes a group's",
                f'read group["{key}"] before it is changed',
            )
        context.constructor_settings.add(key)
        return inner.with_changes(value=cst.Name("group"))

    return cast(Statement, replace_nodes(node, replace, context.origins))
