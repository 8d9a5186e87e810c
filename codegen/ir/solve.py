"""Dataflow equations over a control-flow graph, solved by a worklist to the fixpoint.

A client gives the transfer function of a node and the join of two facts. Facts must
only grow under ``join``, and finitely often: where they don't, no fact is true.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import TypeVar

import libcst as cst

from codegen.ir.cfg import Edge, Graph, Node

Fact = TypeVar("Fact")

MOST_VISITS = 200
"""How often a fact may grow: where that has an end it does so some twenty times."""


class Unsolved(Exception):
    """Facts before a statement grow with every round."""

    def __init__(self, statement: cst.CSTNode | None) -> None:
        super().__init__("an analysis comes to no end")
        self.statement = statement


def forward(
    graph: Graph,
    entry: Fact,
    transfer: Callable[[Node, Edge, Fact], Fact | None],
    join: Callable[[Fact, Fact], Fact],
) -> dict[Node, Fact]:
    """The fact before each node that can be reached.

    Raises:
        Unsolved: one of them grows without an end.

    ``transfer(node, edge, before)`` is what holds when the node is left by ``edge``, None
    where it surely isn't.
    """
    before: dict[Node, Fact] = {graph.entry: entry}
    position = {node: number for number, node in enumerate(graph.nodes)}
    pending = {graph.entry}
    visits: Counter[Node] = Counter()
    while pending:
        node = min(pending, key=position.__getitem__)
        pending.remove(node)
        visits[node] += 1
        if visits[node] > MOST_VISITS:
            raise Unsolved(node.statement)
        for edge, target in node.successors:
            fact = transfer(node, edge, before[node])
            if fact is None:
                continue
            if target in before:
                joined = join(before[target], fact)
                if joined == before[target]:
                    continue
                fact = joined
            before[target] = fact
            pending.add(target)
    return before


def backward(
    graph: Graph,
    leave: Fact,
    bottom: Fact,
    transfer: Callable[[Node, Edge, Fact], Fact],
    join: Callable[[Fact, Fact], Fact],
) -> dict[Node, Fact]:
    """The fact before each node, found from what holds after it.

    ``transfer(node, edge, after)`` is what must hold before ``node`` where it is left
    by ``edge`` for something before which ``after`` holds; ``bottom`` is what holds
    before a loop that nothing leads out of.
    """
    before = dict.fromkeys(graph.nodes, bottom)
    before[graph.exit] = leave
    pending = deque(reversed(graph.nodes))
    while pending:
        target = pending.popleft()
        for edge, node in target.predecessors:
            joined = join(before[node], transfer(node, edge, before[target]))
            if joined != before[node]:
                before[node] = joined
                if node not in pending:
                    pending.append(node)
    return before
