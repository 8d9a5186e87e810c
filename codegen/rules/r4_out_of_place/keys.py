"""Keys that do something, each evaluated once.

    state["m"][nxt()] += g               →   nxt_1 = nxt()
                                             state["m"][nxt_1] += g

What is written into is written again as what the new value is stored in, and a view is
asked for whenever it is needed: an index that draws, or takes an item, gets a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import children, walk
from codegen.evaluation import Evaluation
from codegen.inplace import VIEWS, is_place
from codegen.purity import pure, pure_functions
from codegen.syntax import Statement, calls, is_constant, is_name, small, with_comments


def keys_first(node: Statement, context: Context) -> list[Statement]:
    """A simple statement after those that bind what its keys yield."""
    inner = small(node)
    functions = pure_functions(context.sources())
    if inner is None or not any(True for _ in acting_keys(inner, functions)):
        return [node]
    keys = _Keys(context, inner, functions)
    value = getattr(inner, "value", None)
    if isinstance(inner, cst.AugAssign):
        target = keys.visit(inner.target)
        new: cst.BaseSmallStatement = inner.with_changes(target=target)
    elif isinstance(inner, cst.Assign):
        new = inner.with_changes(value=keys.visit(inner.value))
        stored = cst.Tuple([cst.Element(t.target) for t in inner.targets])
        if any(True for _ in acting_keys(stored, functions)):
            new = keys.assigned(cst.ensure_type(new, cst.Assign))
    elif isinstance(value, cst.BaseExpression):
        new = inner.with_changes(value=keys.visit(value))
    else:
        return [node]
    if not keys.prelude:
        return [node]
    last = cst.SimpleStatementLine([new])
    context.origins.inherit(last, node)
    lines = [*keys.prelude, last]
    return [with_comments(lines[0], node), *lines[1:]]


def acting_keys(
    node: cst.CSTNode, functions: frozenset[str]
) -> Iterator[cst.BaseExpression]:
    """Parts of indices, and arguments of views, that do more than yield a value."""
    for inner in walk(node):
        found: Sequence[cst.CSTNode] = ()
        if isinstance(inner, cst.Subscript):
            found = inner.slice
        elif isinstance(inner, cst.Call) and _is_view(inner):
            found = inner.args if _has_receiver(inner) else inner.args[1:]
        for part in found:
            if not pure(part, functions):
                yield from (n for n in _parts(part) if not pure(n, functions))


def _is_view(node: cst.Call) -> bool:
    operation = optable.spelled(node)
    return operation is not None and operation.name.rpartition(".")[2] in VIEWS


def _has_receiver(node: cst.Call) -> bool:
    operation = optable.spelled(node)
    return operation is not None and operation.name.startswith("method.")


def _parts(node: cst.CSTNode) -> Iterator[cst.BaseExpression]:
    """The expressions of an index: bounds and positions, each on its own."""
    if isinstance(node, cst.BaseExpression) and not isinstance(node, cst.Tuple):
        yield node
        return
    for child in children(node):
        yield from _parts(child)


class _Keys(Evaluation):
    def __init__(
        self, context: Context, node: cst.CSTNode, functions: frozenset[str]
    ) -> None:
        super().__init__(context)
        self.functions = functions
        self.found = set(acting_keys(node, functions))
        acting = (c for k in self.found for c in calls(k) if not pure(c, functions))
        self.only_draw = all(_draws(c) for c in acting)

    def moves(self, node: cst.CSTNode) -> bool:
        return node in self.found

    def is_steady(self, node: cst.BaseExpression) -> bool:
        if self.only_draw and is_place(node) and pure(node, self.functions):
            return True
        return super().is_steady(node)

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        return self._keep(node)

    def assigned(self, node: cst.Assign) -> cst.Assign:
        """What is stored is computed before the key that it is stored under."""
        value = node.value
        if not (is_name(value) or is_constant(value)):
            value = self._keep(value)
        targets = [
            t.with_changes(target=self.visit(cast(cst.BaseExpression, t.target)))
            for t in node.targets
        ]
        return node.with_changes(targets=targets, value=value)


def _draws(node: cst.Call) -> bool:
    operation = optable.spelled(node)
    return operation is not None and operation.uses_rng
