"""Analyses come to an end, or say that they don't."""

from __future__ import annotations

from typing import Any

import libcst as cst
import pytest
from codegen.analysis.values import Place, View, seen_through
from codegen.context import Context
from codegen.diagnostics import CodegenError
from codegen.ir.cfg import control_flow
from codegen.ir.solve import Unsolved, forward

LOOP = cst.parse_module("while True:\n    x = [x]\n").body


def grown(graph: Any, most: int) -> Any:
    """Facts that grow with each turn of a loop, up to ``most``."""
    return forward(graph, 0, lambda node, edge, n: min(n + 1, most), max)


def test_facts_that_stop_growing_are_found() -> None:
    graph = control_flow(LOOP)
    assert max(grown(graph, 7).values()) == 7


def test_facts_that_never_do_are_refused_where_they_grow() -> None:
    with pytest.raises(Unsolved) as unsolved:
        grown(control_flow(LOOP), 1 << 40)
    assert unsolved.value.statement in (*LOOP, *LOOP[0].body.body)
    context = Context()
    with pytest.raises(CodegenError, match="R4: what loops leave in containers"):
        with context.refusing_unsolved(LOOP):
            raise unsolved.value


def test_a_view_of_an_unknown_part_is_one() -> None:
    part = seen_through(seen_through(Place("x"), View("transpose", ".T")), UNKNOWN)
    assert seen_through(part, View("reshape", "")) == part
    assert seen_through(part, UNKNOWN) == part
    assert part.views == (View("transpose", ".T"), UNKNOWN)


UNKNOWN = View("opaque", "")
