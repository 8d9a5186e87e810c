"""What an optimizer's constructor puts into its state, before any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import libcst as cst

from codegen.diagnostics import walk
from codegen.places import Env, Kind, analyse, join_kind
from codegen.syntax import assignment, dotted, string_key
from codegen.upstream import Upstream


def stored_kinds(upstream: Upstream) -> dict[str, Kind]:
    """Key of the state → what sort of thing the constructor stores there.

    A step that finds its state filled has no line that tells tensors from numbers.
    """
    kinds: dict[str, Kind] = {}
    values = analyse(())
    for key, value in _stores(upstream):
        kind = values.value(value, Env()).kind
        kinds[key] = join_kind(kinds.get(key, Kind.NONE), kind)
    return kinds


def _stores(upstream: Upstream) -> Iterator[tuple[str, cst.BaseExpression]]:
    """``state["k"] = value`` and ``self.state[p]["k"] = value`` in ``__init__``."""
    init = upstream.method("__init__")
    if init is None:
        return
    pairs = [pair for node in walk(init.node) if (pair := assignment(node)) is not None]
    names = {
        target.value
        for target, value in pairs
        if isinstance(target, cst.Name) and _is_state(value)
    }
    for target, value in pairs:
        key = string_key(target)
        if key is None:
            continue
        container = cast(cst.Subscript, target).value
        if _is_state(container) or dotted(container) in names:
            yield key, value


def _is_state(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Subscript) and dotted(node.value) == "self.state"
