"""Parallel lists turned back into what they were filled from.

    for p in group["params"]:                 for param in group["params"]:
        …                                         …
        exp_avgs.append(state["exp_avg"])  →      exp_avg = state["exp_avg"]
    for i, param in enumerate(params):            …
        exp_avg = exp_avgs[i]

The first loop (the producer) fills the lists; the loops after it walk them. They
become one loop where each parameter's part touches nothing of another's (see
``dependence``); the rest is left to ``lockstep``.
"""

from __future__ import annotations

import libcst as cst

from codegen.context import Context
from codegen.lower.choices import one_or_none
from codegen.lower.dependence import Dependence
from codegen.lower.filled import (
    drop_lists,
    empty_lists,
    filled_by,
    is_param_loop,
    item_of_walk,
    skip_none,
)
from codegen.lower.fusion import Fusion
from codegen.lower.producer import Unfit
from codegen.syntax import Body, Statement, block, read_names, statements


def lower_loops(body: Body, context: Context) -> Body:
    """Apply :func:`fuse` wherever lists are filled, and skip None gradients first."""
    return _lowered(body, body, context)


def _lowered(body: Body, step: Body, context: Context) -> Body:
    result: list[Statement] = []
    for node in body:
        if isinstance(node, (cst.For, cst.If, cst.With)) and not is_param_loop(node):
            inner = _lowered(statements(node.body), step, context)
            node = node.with_changes(body=block(inner))
        result.append(node)
    fused = fuse(tuple(result), step, context)
    return tuple(
        skip_none(s, item_of_walk(s), context.origins) if is_param_loop(s) else s
        for s in fused
    )


def fuse(body: Body, step: Body, context: Context) -> Body:
    """Fuse the loops of one block that communicate through parallel lists.

    Where they can't be shown to be independent, they stay as they are.
    """
    for number, node in enumerate(body):
        if not isinstance(node, cst.For) or not is_param_loop(node):
            continue
        lists = empty_lists(body[:number]) & filled_by(node)
        chosen = one_or_none(
            body,
            number + 1,
            lists,
            lambda: Dependence((*step, *body), context),
            context.origins,
        )
        later = set().union(*(read_names(s) for s in chosen[number + 1 :]), set())
        if lists & later:
            dependence = Dependence((*step, *chosen), context)
            try:
                return Fusion(chosen, number, lists, context, dependence).run()
            except Unfit:
                return body
        if lists:
            return drop_lists(body, lists)
    return body
