"""Settings that are read of the constructor's defaults, read of the group."""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.syntax import (
    Body,
    Statement,
    dotted,
    replace_nodes,
    string_key,
    target_names,
)

DEFAULTS = "self.defaults"


def defaults_by_group(body: Body, context: Context) -> Body:
    """``self.defaults["k"]`` → ``group["k"]`` in a loop over the groups, where an
    override may tell each group its own."""
    return tuple(_by_group(s, context) for s in body)


def _by_group(node: Statement, context: Context) -> Statement:
    if not isinstance(node, cst.For) or "group" not in target_names(node.target):
        return node

    def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(inner, cst.Subscript) or dotted(inner.value) != DEFAULTS:
            return None
        key = string_key(inner)
        if key is None:
            return None
        context.constructor_settings.add(key)
        return inner.with_changes(value=cst.Name("group"))

    return cast(Statement, replace_nodes(node, replace, context.origins))
