"""Comprehensions whose items nobody needs, as the loops that they are.

[self.update(p) for p in params if p.grad is not None]   →   for p in params:
                                                                 if p.grad is not None:
                                                                     self.update(p)
"""

from __future__ import annotations

from collections import Counter
import libcst as cst

from codegen.diagnostics import Origins, walk
from codegen.lower.names import fresh_name
from codegen.substitution import renamed_variables
from codegen.syntax import (
    Body,
    Statement,
    block,
    comprehension_names,
    map_bodies,
    small,
    with_comments,
)


def heads(comp: cst.BaseComp) -> list[cst.CompFor]:
    """The loops of a comprehension, from the outermost."""
    found, head = [comp.for_in], comp.for_in.inner_for_in
    while head is not None:
        found.append(head)
        head = head.inner_for_in
    return found


def loops_of_discarded(body: Body, origins: Origins) -> Body:
    """Rewrite the comprehensions that are statements. Their variables get other names
    where the function knows these for something else."""
    named = Counter(n.value for s in body for n in walk(s) if isinstance(n, cst.Name))

    def rewritten(part: Body) -> Body:
        return tuple(loop(node) or map_bodies(node, rewritten) for node in part)

    def loop(node: Statement) -> Statement | None:
        inner = small(node)
        comp = inner.value if isinstance(inner, cst.Expr) else None
        if not isinstance(comp, (cst.ListComp, cst.SetComp)):
            return None
        if any(head.asynchronous is not None for head in heads(comp)):
            return None
        own = Counter(n.value for n in walk(comp) if isinstance(n, cst.Name))
        outside = {n for n in comprehension_names(comp) if named[n] > own[n]}
        if outside:
            names = {n: fresh_name(n, named) for n in sorted(outside)}
            named.update(names.values())
            renamed = renamed_variables(comp, names, origins)
            comp = cst.ensure_type(renamed, type(comp))
        done: Statement = cst.SimpleStatementLine([cst.Expr(comp.elt)])
        for head in reversed(heads(comp)):
            for test in reversed(head.ifs):
                done = cst.If(test.test, block([done]))
            done = cst.For(head.target, head.iter, block([done]))
        origins.inherit(done, node)
        return with_comments(done, node)

    return rewritten(body)
