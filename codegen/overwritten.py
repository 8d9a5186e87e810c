"""Drops stores that are surely overwritten before anything reads them.

group["params"][p_idx] = param = param.mul(…)      param = param.mul(…)
group["params"][p_idx] = param.add(…)          →   group["params"][p_idx] = param.add(…)

A backward analysis over the control-flow graph: after each statement, the items that
are stored to on every way before they may be read. A key that isn't a constant may be
any key; a container that is used as a whole, or under another name, may be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.keys import is_constant_key, variables
from codegen.context import Context
from codegen.diagnostics import children, walk
from codegen.ir.cfg import Edge, Graph, Node, control_flow
from codegen.ir.solve import backward
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    bound_names,
    code,
    dotted,
    map_bodies,
    small,
    statements,
    target_names,
)

Items = frozenset[str]
NONE: Items = frozenset()


def drop_overwritten(body: Body, context: Context) -> Body:
    """``body`` without stores to items that a later statement stores again."""
    return _DeadStores(body).block(body)


class _DeadStores:
    def __init__(self, body: Body) -> None:
        self.items = frozenset(
            code(target) for node in all_statements(body) for target in _stores(node)
        )
        self.wholes = _aliases(body, {re.split(r"\W", i)[0] for i in self.items})
        self.parts = _reached(body, self.wholes)
        graph = control_flow(body)
        self.before = backward(graph, NONE, self.items, self._transfer, Items.__and__)
        self.graph: Graph = graph

    # --- the analysis

    def _transfer(self, node: Node, edge: Edge, after: Items) -> Items:
        statement = node.statement
        if statement is None or isinstance(statement, (cst.Try, cst.Finally)):
            return after
        inner = small(statement)
        if isinstance(inner, cst.Raise) and not after:
            after = self.items  # nobody goes on with what an error leaves
        if isinstance(statement, (cst.If, cst.While)):
            return self._without_read(after, statement.test)
        if isinstance(statement, cst.For):
            bound = set(target_names(statement.target))
            return self._without_read(_forget(after, bound), statement.iter)
        if isinstance(inner, cst.Assign) and edge is not Edge.RAISED:
            return self._assigned(inner, after)
        if isinstance(inner, (cst.Assign, cst.AugAssign, cst.AnnAssign)):
            after = _forget(after, bound_names(inner))
        if isinstance(statement, (cst.With, cst.ExceptHandler)):
            return NONE
        return self._without_read(after, statement)

    def _assigned(self, node: cst.Assign, after: Items) -> Items:
        for target in node.targets:
            if isinstance(target.target, cst.Subscript):
                after |= {code(target.target)}
                for part in target.target.slice:
                    after = self._without_read(after, part)
                after = self._without_read(after, target.target.value, base=True)
            else:
                after = _forget(after, set(target_names(target.target)))
        return self._without_read(after, node.value)

    def _without_read(
        self, items: Items, node: cst.CSTNode, base: bool = False
    ) -> Items:
        """Items that evaluating ``node`` surely doesn't read."""
        if not items:
            return items
        bases: set[cst.CSTNode] = {
            n.value for n in walk(node) if isinstance(n, cst.Subscript)
        }
        bases |= {node} if base else set()
        attributes = {n.value for n in walk(node) if isinstance(n, cst.Attribute)}
        for inner in walk(node):
            if isinstance(inner, cst.Name) and inner.value in self.wholes:
                if inner not in bases | attributes:
                    return NONE
            if isinstance(inner, cst.Call) and _asks_container(inner):
                return NONE
            looked = isinstance(inner, cst.Subscript) and not (base and inner is node)
            if looked and self._reaches(cast(cst.Subscript, inner).value):
                items = frozenset(
                    i for i in items if not _may_read(cast(cst.Subscript, inner), i)
                )
        return items

    def _reaches(self, node: cst.CSTNode) -> bool:
        """Whether what is looked into may be, or come from, one of the containers."""
        names = {n.value for n in walk(node) if isinstance(n, cst.Name)}
        return bool(names & self.parts)

    # --- the rewrite

    def block(self, body: Sequence[cst.CSTNode]) -> Body:
        return tuple(self._statement(node) for node in statements(body))

    def _statement(self, node: Statement) -> Statement:
        inner = small(node)
        if isinstance(inner, cst.Assign) and node in self.graph.of:
            return self._assign(node, inner)
        if inner is not None or isinstance(node, cst.FunctionDef):
            return node
        return map_bodies(node, self.block)

    def _assign(self, node: Statement, inner: cst.Assign) -> Statement:
        ways = [self.before[t] for _, t in self.graph.of[node].successors]
        dead = frozenset.intersection(*ways) if ways else NONE
        kept = [
            t
            for t in inner.targets
            if not isinstance(t.target, cst.Subscript) or code(t.target) not in dead
        ]
        if len(kept) == len(inner.targets):
            return node
        new = inner.with_changes(targets=kept or [inner.targets[0]])
        return node.with_changes(body=[new])


def _stores(node: Statement) -> Iterator[cst.Subscript]:
    inner = small(node)
    for target in inner.targets if isinstance(inner, cst.Assign) else ():
        if isinstance(target.target, cst.Subscript):
            yield target.target


def _aliases(body: Body, names: set[str]) -> set[str]:
    """Variables that may be one of these containers, themselves included, and functions
    that read one."""
    found = {*names, "self"}
    while True:
        before = len(found)
        for node in all_statements(body):
            if isinstance(node, cst.FunctionDef):
                if any(
                    isinstance(n, cst.Name) and n.value in found for n in walk(node)
                ):
                    found.add(node.name.value)
                continue
            inner = small(node)
            if (
                isinstance(inner, (cst.Assign, cst.AnnAssign))
                and inner.value is not None
            ):
                if _hands_on(inner.value, found):
                    found |= bound_names(inner)
        if len(found) == before:
            return found


def _reached(body: Body, names: set[str]) -> set[str]:
    """Variables that may be what these containers hold, at any depth."""
    found = set(names)
    while True:
        before = len(found)
        for node in all_statements(body):
            inner = small(node)
            if isinstance(node, cst.For) and _mentions(node.iter, found):
                found |= set(target_names(node.target))
            elif isinstance(inner, (cst.Assign, cst.AnnAssign)) and inner.value:
                if _mentions(inner.value, found):
                    found |= bound_names(inner)
        if len(found) == before:
            return found


def _mentions(node: cst.CSTNode, names: set[str]) -> bool:
    """Whether an expression may yield what a variable holds: not arithmetic, nor a
    tensor's attributes."""
    if isinstance(node, (cst.BinaryOperation, cst.UnaryOperation, cst.Comparison)):
        return False
    if isinstance(node, cst.Attribute) and node.attr.value in (
        "shape",
        "dtype",
        "ndim",
    ):
        return False
    if isinstance(node, cst.Name):
        return node.value in names
    return any(_mentions(child, names) for child in children(node))


def _hands_on(node: cst.CSTNode, names: set[str]) -> bool:
    """Whether an expression may yield one of these containers as a whole."""
    looked_into = {
        n.value for n in walk(node) if isinstance(n, (cst.Subscript, cst.Attribute))
    }
    lambdas = any(isinstance(n, cst.Lambda) for n in walk(node))
    return any(
        isinstance(n, cst.Name)
        and n.value in names
        and n.value != "self"
        and (lambdas or n not in looked_into)
        for n in walk(node)
    )


def _asks_container(node: cst.Call) -> bool:
    """``state.get(…)``, ``state.values()``: an item is read under no key of its own."""
    if not isinstance(node.func, cst.Attribute):
        return False
    name = node.func.attr.value
    root = (dotted(node.func) or "").partition(".")[0]
    if root in ("torch", "ops", "math", "F"):
        return False
    return optable.container_method(name) is not None and optable.method(name) is None


def _may_read(node: cst.Subscript, item: str) -> bool:
    """Whether ``x[k]`` may be, or contain, an item that is written like ``y["m"]``."""
    text = code(node)
    base, _, key = item.rpartition("[")
    if text in (item, base) or item.startswith(f"{text}["):
        return True
    return _may_be_one(text.rpartition("[")[2][:-1], key[:-1])


def _may_be_one(a: str, b: str) -> bool:
    """Whether two keys may be equal: positions in loops are numbers."""
    if a == b:
        return True
    positions = {a, b} & {"p_idx", "group_idx"}
    if positions and {a[:1], b[:1]} & {"'", '"'}:
        return False
    return not (is_constant_key(a) and is_constant_key(b))


def _forget(items: Items, names: set[str]) -> Items:
    """Items whose text mentions a variable that is bound here are other items."""
    return frozenset(i for i in items if not names & variables(i))
