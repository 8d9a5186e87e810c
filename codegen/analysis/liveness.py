"""Which variables may still be read after each statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import libcst as cst

from codegen.ir.cfg import Edge, Node, control_flow
from codegen.ir.solve import backward
from codegen.syntax import (
    all_statements,
    bound_names,
    free_names,
    read_names,
    small,
    statements,
    surely_bound,
    target_names,
)

Names = frozenset[str]
NONE: Names = frozenset()


@dataclass
class Liveness:
    """``after[statement]``: names whose value may be read later; ``at_head[loop]``:
    when a loop comes to its head.

    Nested functions capture by reference: reading such a function's name counts
    as reading what it captures.
    """

    after: dict[cst.CSTNode, Names] = field(default_factory=dict)
    at_head: dict[cst.CSTNode, Names] = field(default_factory=dict)
    captured: dict[str, Names] = field(default_factory=dict)

    def reads(self, node: cst.CSTNode | None) -> Names:
        """Upward-exposed uses of an expression or a simple statement."""
        if node is None:
            return NONE
        names = set(read_names(node))
        for name in list(names):
            names |= self.captured.get(name, NONE)
        return frozenset(names)

    def replace(
        self,
        node: cst.CSTNode,
        new: Sequence[cst.CSTNode],
        inside: Iterable[str] = (),
    ) -> None:
        """Statements take another one's place; ``inside`` is read by what is left."""
        if node not in self.after:
            return
        after = self.after[node] | frozenset(inside)
        for part in reversed(new):
            self.after[part] = after
            after = after | self.reads(part)

    def solve(self, body: Sequence[cst.CSTNode], live_out: Names) -> Names:
        """Fill the tables for ``body``; names live before it."""
        graph = control_flow(body)
        before = backward(graph, live_out, NONE, self._transfer, frozenset.union)
        for statement, follow in graph.follow.items():
            self.after[statement] = before.get(follow, NONE)
            if isinstance(statement, (cst.For, cst.While)):
                self.at_head[statement] = before.get(graph.of[statement], NONE)
            if isinstance(statement, cst.FunctionDef):
                self.solve(statements(statement.body), NONE)
        return before.get(graph.entry, NONE)

    def _transfer(self, node: Node, edge: Edge, after: Names) -> Names:
        statement = node.statement
        if statement is None or isinstance(statement, (cst.Try, cst.Finally)):
            return after
        if isinstance(statement, (cst.If, cst.While)):
            return after | self.reads(statement.test)
        if isinstance(statement, cst.For):
            killed = frozenset(target_names(statement.target))
            stored = self.reads(cst.AssignTarget(statement.target))
            body = after - killed | stored if edge is Edge.ITEM else after
            return body | self.reads(statement.iter)
        if isinstance(statement, cst.With):
            bound = {n for i in statement.items for n in bound_names(i)}
            return after - bound | self._all_reads(i.item for i in statement.items)
        if isinstance(statement, cst.ExceptHandler):
            bound = bound_names(statement.name) if statement.name else set()
            return after - bound | self.reads(statement.type)
        if isinstance(statement, cst.FunctionDef):
            return after - {statement.name.value} | self.reads(statement.params)
        if edge is Edge.RAISED:
            # it may be left before it has bound anything
            return after | self.reads(statement)
        return after - killed_by(statement) | self.reads(statement)

    def _all_reads(self, nodes: Iterable[cst.CSTNode]) -> Names:
        return frozenset().union(*(self.reads(node) for node in nodes))


def killed_by(node: cst.CSTNode) -> Names:
    """Names that a simple statement surely overwrites."""
    inner = small(node)
    if inner is None or isinstance(inner, cst.AugAssign):
        return NONE
    return frozenset(surely_bound(inner))


def liveness(body: Sequence[cst.CSTNode], live_out: Iterable[str] = ()) -> Liveness:
    """Liveness of the names of a function body."""
    result = Liveness()
    _collect_captured(body, result.captured)
    result.solve(body, frozenset(live_out))
    return result


def upward_exposed(
    body: Sequence[cst.CSTNode], live_out: Iterable[str] = ()
) -> set[str]:
    """Names that statements read before they bind them, or leave for ``live_out``."""
    result = Liveness()
    _collect_captured(body, result.captured)
    return set(result.solve(body, frozenset(live_out)))


def _collect_captured(body: Iterable[cst.CSTNode], found: dict[str, Names]) -> None:
    for node in all_statements(body):
        if isinstance(node, cst.FunctionDef):
            found[node.name.value] = frozenset(free_names(node))
            _collect_captured(statements(node.body), found)
        inner = small(node)
        if isinstance(inner, cst.Assign) and isinstance(inner.value, cst.Lambda):
            for target in inner.targets:
                for name in target_names(target.target):
                    found[name] = frozenset(read_names(inner.value))
