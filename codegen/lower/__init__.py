"""Upstream's shape into the README's: one in-place loop over the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import misuse, walk
from codegen.lower.complex import only_converts
from codegen.lower.conversions import with_copies
from codegen.lower.counted import without_counting
from codegen.lower.defaults import without_setdefault
from codegen.lower.foreach import without_foreach
from codegen.lower.gathered import gathered
from codegen.lower.items import items_by_position
from codegen.lower.legacy import modernize
from codegen.lower.lists import one_append, walk_selections
from codegen.lower.lockstep import in_lockstep
from codegen.lower.loops import lower_loops
from codegen.lower.names import free_gradient, free_written
from codegen.lower.scratch import without_turns
from codegen.lower.specialize import Specializer
from codegen.lower.states import slot_by_slot
from codegen.rules.r1_closures import refuse_closures
from codegen.syntax import (
    Body,
    Statement,
    code,
    dotted,
    replace_nodes,
    string_key,
    target_names,
)
from codegen.tidy import tidy
from codegen.upstream import Upstream

DEFAULTS = "self.defaults"


@dataclass(frozen=True)
class Lowered:
    """An in-place step of one loop over the parameters."""

    body: Body
    complex_as_real: bool


def lower(upstream: Upstream, context: Context) -> Lowered:
    """The body of ``step``: dispatch folded, layers inlined, lists gone."""
    step = upstream.method("step")
    if step is None:
        raise misuse(
            f"{upstream.target} defines no step of its own",
            "name an optimizer that overrides torch.optim.Optimizer.step",
        )
    body = tidy(Specializer(upstream, context).function(step), context.origins)
    complex_as_real = only_converts(upstream.reads.values())
    if complex_as_real:
        specializer = Specializer(upstream, context, real_views=True)
        body = tidy(specializer.function(step), context.origins)
    refuse_closures(body, context)
    context.raise_if_refused()
    body = without_setdefault(free_written(body, context.origins), context)
    body = without_turns(with_copies(body, context), context)
    body = slot_by_slot(without_counting(body, context), context)
    body = gathered(body, context)
    body = one_append(body, context)
    body = in_lockstep(without_foreach(body, context), context)
    context.raise_if_refused()
    body = lower_loops(walk_selections(body, context), context)
    body = items_by_position(modernize(body, context), context)
    # one spelling for each key: places are compared as text
    body = tuple(one_quote(s, context) for s in body)
    body = tuple(_defaults_by_group(s, context) for s in body)
    body = free_gradient(body, context.origins)
    return Lowered(tidy(body, context.origins), complex_as_real)


def _defaults_by_group(node: Statement, context: Context) -> Statement:
    """``self.defaults["k"]`` → ``group["k"]`` in a loop over the groups, where an
    override may tell each group its own."""
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


def one_quote(node: Statement, context: Context) -> Statement:
    """Strings in double quotes, as they will be laid out in the end."""
    inside = {
        part
        for string in walk(node)
        if isinstance(string, cst.FormattedString)
        for part in walk(string)
        if part is not string
    }

    def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
        if inner in inside:
            return None
        if isinstance(inner, cst.SimpleString) and inner.quote == "'":
            if '"' not in inner.raw_value and "\\" not in inner.raw_value:
                return inner.with_changes(value=f'{inner.prefix}"{inner.raw_value}"')
        if isinstance(inner, cst.FormattedString) and inner.end == "'":
            if '"' not in code(inner):
                start = inner.start.replace("'", '"')
                return inner.with_changes(start=start, end='"')
        return None

    return cast(Statement, replace_nodes(node, replace, context.origins))
