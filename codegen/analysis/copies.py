"""Whether a copy of a variable is still that variable wherever it is read."""

from __future__ import annotations

from collections.abc import Sequence
from operator import and_

import libcst as cst

from codegen.diagnostics import walk
from codegen.ir.cfg import Edge, Node, bound_at, control_flow, evaluated_at
from codegen.ir.solve import forward
from codegen.syntax import assignment, free_names, is_name, read_names


def is_copy_wherever_read(body: Sequence[cst.CSTNode], name: str, source: str) -> bool:
    """Whether ``name = source`` has been run since either was bound, on every way to
    each statement that reads ``name``."""

    def transfer(node: Node, edge: Edge, holds: bool) -> bool:
        statement = node.statement
        if statement is None:
            return holds
        pair = assignment(statement)
        if pair is not None and is_name(pair[0], name) and is_name(pair[1], source):
            return edge is not Edge.RAISED
        return holds and not bound_at(statement) & {name, source}

    graph = control_flow(body)
    before = forward(graph, False, transfer, and_)
    for node, holds in before.items():
        statement = node.statement
        if isinstance(statement, cst.FunctionDef):
            if {name, source} & {*free_names(statement)}:
                return False  # it reads them when it is called
        elif statement is not None:
            head = evaluated_at(statement) or cst.Pass()
            if name in read_names(head) and not holds:
                return False
            later = (
                n for n in walk(head) if isinstance(n, (cst.Lambda, cst.GeneratorExp))
            )
            if any({name, source} & read_names(n) for n in later):
                return False
    return True
