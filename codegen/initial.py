"""Which slots may hold one tensor when the first step begins.

    b = torch.zeros_like(p)                  state["m"] may be state["v"]
    self.state[p]["m"] = b
    self.state[p]["v"] = b
    group["t"] = t                           group["t"] may be another group's

A constructor, and each method that one calls, is read as a step would be: the heap tells
what its slots share when it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.heap import Heap, analyse
from codegen.analysis.sharing import Sharing, merged
from codegen.analysis.values import VIEWED, Place
from codegen.constructor import constructors
from codegen.context import Context
from codegen.ir.loops import Loop
from codegen.layout import double_quotes
from codegen.lower.blocks import group_loop_target
from codegen.lower.defaults import without_setdefault
from codegen.lower.frame import Frame
from codegen.lower.reading import Reader
from codegen.lower.states import slot_by_slot
from codegen.rules.r3_indexed_state import IndexedState
from codegen.rules.r5_no_data import NoData
from codegen.syntax import (
    Body,
    Statement,
    all_params,
    assign,
    block,
    calls,
    code,
    dotted,
    map_bodies,
    small,
    statements,
    target_names,
)
from codegen.upstream import Definition, Upstream


def shared_values(upstream: Upstream, context: Context) -> Sharing:
    """Slots that may hold one tensor, or a parameter's memory, after the constructor."""
    bodies = [_body(method, upstream, context) for method in _fillers(upstream)]
    found: Sharing = {}
    while True:
        more = found
        for annotations, body in bodies:
            with context.refusing_unsolved(body):
                heap = analyse(body, annotations, shared=more)
            views = {name: frozenset({VIEWED}) for name in heap.shared.viewed}
            more = merged(more, merged(heap.shared.found, views))
            if not found:
                _refuse_handed(heap, context)
        if more == found:
            return found
        found = more


def _fillers(upstream: Upstream) -> Iterator[Definition]:
    """The constructors of a class's lineage, and methods of its own that they call."""
    pending = [*constructors(upstream)]
    seen: set[str] = set()
    while pending:
        method = pending.pop()
        if method.full_name in seen:
            continue
        seen.add(method.full_name)
        yield method
        for made in calls(method.node):
            name = dotted(made.func) or ""
            if name.startswith("self.") and name.count(".") == 1:
                found = upstream.method(name.partition(".")[2])
                pending += [found] if found is not None else []


def _refuse_handed(heap: Heap, context: Context) -> None:
    """What fills a state somewhere else can't be seen."""
    for node, env in heap.before.items():
        inner = small(node)
        for made in calls(inner) if inner is not None else ():
            if optable.spelled(made) is not None:
                continue
            for arg in made.args:
                if Place("state") in heap.value(arg.value, env.fork()).places:
                    context.refuse(
                        "R3",
                        arg.value,
                        "the constructor hands a parameter's state to another function",
                        'fill it where it is found: self.state[p]["k"] = …',
                    )


def _body(
    method: Definition, upstream: Upstream, context: Context
) -> tuple[dict[str, str], Body]:
    """The annotations of a function's arguments, and its body as that of a step."""
    node = cast(cst.FunctionDef, method.node)
    scratch = Context(context.origins, upstream=upstream)
    frame = Frame(method.module, scratch, method)
    body = Reader(upstream, scratch).read_body(node, frame, frozenset())
    body = slot_by_slot(without_setdefault(body, scratch), scratch, fills=True)
    body = IndexedState(scratch).apply(_counted(double_quotes(body, scratch)))
    context.diagnostics += scratch.diagnostics
    body = NoData(scratch).apply(body)
    return {p.name.value: _annotation(p) for p in all_params(node.params)}, body


def _annotation(param: cst.Param) -> str:
    if param.annotation is not None:
        return code(param.annotation.annotation)
    return "float" if isinstance(param.default, (cst.Integer, cst.Float)) else ""


def _counted(body: Sequence[Statement]) -> Body:
    """Walks over groups, and over parameters whose state is filled, as rule R2 heads
    them."""
    return tuple(map(_headed, body))


def _headed(node: Statement) -> Statement:
    node = map_bodies(node, _counted)
    if not isinstance(node, cst.For):
        return node
    group, names = group_loop_target(node), [*target_names(node.target)]
    if group is not None:
        number = "group_idx"
        head = f"for {number}, ({group}, grads) in enumerate(zip(self.param_groups, grouped_grads)): pass"
    elif any(f"self.state[{name}]" in code(node.body) for name in names):
        number = "p_idx"
        head = f'for {number}, ({names[-1]}, grad) in enumerate(zip(group["params"], grads)): pass'
    else:
        return node
    new = cst.ensure_type(cst.parse_statement(head), cst.For)
    inside = statements(node.body)
    position = Loop.of(node).position
    if isinstance(position, cst.Name):
        inside = (assign([position], cst.Name(number)), *inside)
    return node.with_changes(target=new.target, iter=new.iter, body=block(inside))
