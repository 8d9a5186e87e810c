"""The control-flow graph of a function body.

    for x in xs:            head ──item──▶ test ──true──▶ break ──┐
        if c:                │  ▲           │                     │
            break            │  └───────────┴─false               │
    y                       done ─────────────────────▶ y ◀───────┘

One node for each simple statement and for the head of each compound one. An edge's
label tells which way it was left. Built from the last statement to the first, so that
what follows a statement is known when its node is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import libcst as cst

from codegen.syntax import (
    bound_names,
    dotted,
    orelse_statements,
    small,
    statements,
    target_names,
)


class Edge(Enum):
    """How a node was left."""

    NEXT = "next"
    TRUE = "true"
    FALSE = "false"
    ITEM = "a loop binds its next item"
    DONE = "a loop has no more items"
    RAISED = "an exception"


@dataclass(eq=False)
class Node:
    """A simple statement, or the head of a compound one; None for entry and exit."""

    statement: cst.CSTNode | None
    successors: list[tuple[Edge, Node]] = field(default_factory=list)
    predecessors: list[tuple[Edge, Node]] = field(default_factory=list)

    def to(self, target: Node, edge: Edge = Edge.NEXT) -> None:
        if (edge, target) not in self.successors:
            self.successors.append((edge, target))


@dataclass(eq=False)
class Graph:
    """``nodes`` in the order of the source; ``follow[s]`` is where control goes on
    after the whole of a statement."""

    entry: Node
    exit: Node
    nodes: list[Node]
    of: dict[cst.CSTNode, Node]
    follow: dict[cst.CSTNode, Node]


@dataclass(frozen=True)
class _Targets:
    """Where statements that leave their block go; ``handlers`` take exceptions."""

    leave: Node
    proceed: Node | None = None
    stop: Node | None = None
    handlers: tuple[Node, ...] = ()


def control_flow(body: Sequence[cst.CSTNode]) -> Graph:
    """The graph of a function's body; nested functions are nodes without an inside."""
    return _Builder().graph(body)


def evaluated_at(statement: cst.CSTNode) -> cst.CSTNode | None:
    """What is evaluated at a node of the graph, of an ``if`` or a loop."""
    if isinstance(statement, (cst.If, cst.While)):
        return statement.test
    if isinstance(statement, cst.For):
        return statement.iter
    return statement if small(statement) is not None else None


def bound_at(statement: cst.CSTNode) -> set[str]:
    """Names that a statement may bind, and not those that statements inside of it do."""
    if isinstance(statement, cst.FunctionDef):
        return {statement.name.value}
    found = bound_names(evaluated_at(statement) or cst.Pass())
    if isinstance(statement, cst.For):
        found |= {*target_names(statement.target)}
    if isinstance(statement, cst.With):
        found = found.union(*(bound_names(item) for item in statement.items))
    if isinstance(statement, cst.Try):
        found = found.union(*(bound_at(handler) for handler in statement.handlers))
    if isinstance(statement, cst.ExceptHandler) and statement.name is not None:
        found |= bound_names(statement.name)
    return found


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.of: dict[cst.CSTNode, Node] = {}
        self.follow: dict[cst.CSTNode, Node] = {}

    def graph(self, body: Sequence[cst.CSTNode]) -> Graph:
        leave = Node(None)
        first = self._block(body, leave, _Targets(leave))
        entry = Node(None, [(Edge.NEXT, first)])
        nodes = [entry, *reversed(self.nodes), leave]
        for node in nodes:
            for edge, target in node.successors:
                target.predecessors.append((edge, node))
        return Graph(entry, leave, nodes, self.of, self.follow)

    def _node(self, statement: cst.CSTNode, targets: _Targets) -> Node:
        node = Node(statement)
        self.of[statement] = node
        for handler in targets.handlers:
            node.to(handler, Edge.RAISED)
        return node

    def _block(
        self, body: Sequence[cst.CSTNode], follow: Node, targets: _Targets
    ) -> Node:
        """The first node of a block that goes on to ``follow``."""
        for statement in reversed(body):
            self.follow[statement] = follow
            follow = self._statement(statement, follow, targets)
        return follow

    def _statement(self, node: cst.CSTNode, follow: Node, targets: _Targets) -> Node:
        if isinstance(node, cst.If):
            return self._if(node, follow, targets)
        if isinstance(node, (cst.For, cst.While)):
            return self._loop(node, follow, targets)
        if isinstance(node, cst.Try):
            return self._try(node, follow, targets)
        head = self._node(node, targets)
        if isinstance(node, cst.With):
            inside = targets
            if _may_swallow(node):
                inside = replace(targets, handlers=(*targets.handlers, follow))
            follow = self._block(statements(node.body), follow, inside)
        self.nodes.append(head)
        head.to(self._next(node, follow, targets))
        return head

    def _next(self, node: cst.CSTNode, follow: Node, targets: _Targets) -> Node:
        inner = small(node)
        if isinstance(inner, cst.Continue) and targets.proceed is not None:
            return targets.proceed
        if isinstance(inner, cst.Break) and targets.stop is not None:
            return targets.stop
        if isinstance(inner, (cst.Return, cst.Raise)):
            return targets.leave
        return follow

    def _if(self, node: cst.If, follow: Node, targets: _Targets) -> Node:
        head = self._node(node, targets)
        orelse = orelse_statements(node)
        head.to(self._block(orelse, follow, targets), Edge.FALSE)
        head.to(self._block(statements(node.body), follow, targets), Edge.TRUE)
        self.nodes.append(head)
        return head

    def _loop(self, node: cst.For | cst.While, follow: Node, targets: _Targets) -> Node:
        head = self._node(node, targets)
        inside = replace(targets, proceed=head, stop=follow)
        after = follow
        if node.orelse is not None:
            after = self._block(statements(node.orelse.body), follow, targets)
        first = self._block(statements(node.body), head, inside)
        ways = (Edge.ITEM, Edge.DONE)
        if isinstance(node, cst.While):
            ways = (Edge.TRUE, Edge.FALSE)
        head.to(first, ways[0])
        head.to(after, ways[1])
        self.nodes.append(head)
        return head

    def _try(self, node: cst.Try, follow: Node, targets: _Targets) -> Node:
        if node.finalbody is not None:
            follow, targets = self._finally(node.finalbody, follow, targets)
        after = follow
        if node.orelse is not None:
            after = self._block(statements(node.orelse.body), follow, targets)
        handlers = []
        for handler in node.handlers:
            head = self._node(handler, targets)
            head.to(self._block(statements(handler.body), follow, targets))
            self.nodes.append(head)
            handlers.append(head)
        inside = replace(targets, handlers=(*targets.handlers, *handlers))
        head = self._node(node, targets)
        head.to(self._block(statements(node.body), after, inside))
        self.nodes.append(head)
        return head

    def _finally(
        self, final: cst.Finally, follow: Node, targets: _Targets
    ) -> tuple[Node, _Targets]:
        """Every way out of the statement leads through ``final``, which then goes on
        to any of the places that were asked for."""
        end = Node(final)
        ways = (follow, targets.leave, targets.proceed, targets.stop, *targets.handlers)
        for way in ways:
            if way is not None:
                end.to(way)
        self.nodes.append(end)
        first = self._block(statements(final.body), end, targets)
        through = _Targets(
            leave=first,
            proceed=targets.proceed and first,
            stop=targets.stop and first,
            handlers=(first,),
        )
        return first, through


def _may_swallow(node: cst.With) -> bool:
    """Whether a context manager may end an exception; torch's own don't."""
    heads = (
        i.item.func if isinstance(i.item, cst.Call) else i.item for i in node.items
    )
    return not all((dotted(head) or "").startswith("torch.") for head in heads)
