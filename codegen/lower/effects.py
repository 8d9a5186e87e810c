"""What the statements of a step read and write, by regions of memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.liveness import upward_exposed
from codegen.analysis.regions import ITEM, Region, unified
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.ir.loops import Loop
from codegen.lower.accesses import PLAIN, Access, Effects, heads
from codegen.lower.forms import as_list, called
from codegen.lower.region_calls import Calls
from codegen.syntax import (
    Statement,
    bound_names,
    dotted,
    own_statements,
    read_names,
    small,
    statements,
    string_key,
    sub_bodies,
    target_names,
)


class Memory(Calls):
    """``effects`` of each statement that was learnt."""

    def __init__(self, body: Iterable[Statement], context: Context) -> None:
        super().__init__(context)
        self.effects: dict[cst.CSTNode, Effects] = {}
        for node in body:
            self._know(node)
            self.learn(node)

    def _know(self, node: cst.CSTNode) -> None:
        """Variables: what else has a name is a module, a function, or shared by all."""
        self.local |= {f"{self.scope}{name}" for name in bound_names(node)}
        parts = [*walk(node)]
        targets = (
            n.target for n in parts if isinstance(n, (cst.AssignTarget, cst.AugAssign))
        )
        stored = {t.attr.value for t in targets if isinstance(t, cst.Attribute)}
        self.attributes |= stored - {"grad", "data"}
        plain = {id(n.func) for n in parts if isinstance(n, cst.Call)}
        plain |= {id(n.name) for n in parts if isinstance(n, cst.FunctionDef)}
        self.values |= {
            n.value for n in parts if isinstance(n, cst.Name) and id(n) not in plain
        }

    def learn(self, node: cst.CSTNode) -> None:
        outer, self.now = self.now, Effects()
        self._run(node)
        found, self.now = self.now, outer
        self.effects[node] = found
        self.now.add(found)

    def reads_of(self, lines: Sequence[Statement]) -> set[Access]:
        """The slots that are looked up, in the turn of a parameter, to find something."""
        outer, self.now = self.now, Effects()
        turn, self.turn = self.turn, frozenset().union(*map(read_names, lines))
        for line in lines:
            self._know(line)
            self.learn(line)
        found, self.now, self.turn = self.now, outer, turn
        return found.reads

    def run(self, body: Iterable[cst.CSTNode]) -> None:
        for node in body:
            self.learn(node)

    def _run(self, node: cst.CSTNode) -> None:
        inner = small(node)
        if isinstance(node, cst.For):
            self._loop(node)
        elif isinstance(node, cst.FunctionDef):
            self._function(node.name.value, node, self.scope)
        elif isinstance(inner, cst.Assign):
            value = self.value(inner.value)
            for target in inner.targets:
                self.bind(target.target, value, inner.value)
        elif isinstance(inner, cst.AnnAssign):
            if inner.value is not None:
                self.bind(inner.target, self.value(inner.value), inner.value)
        elif isinstance(inner, cst.AugAssign):
            written = self.added([self.use(inner.target), self.use(inner.value)])
            self.touch(written, self.now.writes)
            self.bind(inner.target, written, None)
        elif isinstance(inner, cst.Del):
            several = isinstance(inner.target, (cst.Tuple, cst.List))
            for part in heads(inner.target, set()) if several else [inner.target]:
                if not isinstance(part, cst.Name):
                    self.store(part).any_item()
        elif isinstance(inner, cst.Return):
            self.now.leaves = self.function is None
            if inner.value is not None:
                value = self.use(inner.value)
                unified([self.returned.get(self.function or "", value), value])
        elif isinstance(inner, cst.Expr):
            call = inner.value
            method = call.func if isinstance(call, cst.Call) else None
            if isinstance(method, cst.Attribute) and optable.container_method(
                method.attr.value
            ):
                # of a tensor, nothing would become of what these yield
                self.container_call(cast(cst.Call, call), method)
            else:
                self.value(inner.value)
        else:
            self._compound(node)

    def _compound(self, node: cst.CSTNode) -> None:
        """A head, whose expressions are read, and blocks."""
        bodies = sub_bodies(node)
        if isinstance(node, (cst.Match, cst.ClassDef)):
            names = sorted(read_names(node) | bound_names(node))
            self.unknown([self.name(name) for name in names])
            return
        inside = {n for body in bodies for n in walk(body)}
        for part in walk(node):
            if part in inside:
                continue
            if isinstance(part, cst.AsName):
                self.bind(cast(cst.BaseExpression, part.name), self.unknown([]), None)
        for expression in heads(node, inside):
            self.use(expression)
        for body in bodies:
            self.run(statements(body))

    # --- loops

    def _loop(self, node: cst.For) -> None:
        """Bind what is walked; a walk over lists is a turn for each of their items."""
        body = statements(node.body)
        if not self._begin(node, body):
            self.run(body)
        else:
            self.run(body)
            if any(isinstance(small(s), cst.Break) for s in own_statements(body)):
                self.now.leaves = True
            self.turn, self.positions = None, frozenset()
        if node.orelse is not None:
            self.run(statements(node.orelse.body))

    def _begin(self, node: cst.For | cst.CompFor, body: Sequence[cst.CSTNode]) -> bool:
        """Whether a turn begins: the outermost walk over lists, or their positions."""
        loop = Loop.of(node)
        targets = {n for t in loop.targets() for n in target_names(t)}
        self.local |= {f"{self.scope}{name}" for name in targets}
        sources = [as_list(item.source) for item in loop.items]
        groups = dotted(sources[0]) == "self.param_groups"
        counted = called(sources[0], "range") and _is_length(sources[0])
        listed = any(_is_listed(s) for s in sources) and not groups
        if self.turn is not None or self.scope or not (counted or listed):
            for item, source in zip(loop.items, sources):
                value = self.group if groups else self.use(source).any_item()
                self.bind(item.target, value, None)
            return False
        values = [self.value(source) for source in sources]
        self.turn = frozenset(targets)
        position = loop.items[0].target if counted else loop.position
        bound = set().union(*map(bound_names, body), set())
        if position is not None and (counted or _from_zero(node.iter)):
            self.positions = frozenset(target_names(position)) - bound
        if counted:
            self.note_list(cast(cst.Call, _only(sources[0])).args[0].value)
        for item, source, value in zip(loop.items, sources, values):
            self.note_list(source)
            own = value.held(ITEM) if _is_listed(source) else value.any_item()
            self.bind(item.target, own, None)
        free = upward_exposed(body) - targets
        self.outer += [self.name(n) for n in sorted(free) if n not in PLAIN]
        return True

    def comprehension(self, node: cst.BaseSimpleComp | cst.DictComp) -> Region:
        made, loop = Region(), node.for_in
        parts = [node.key, node.value] if isinstance(node, cst.DictComp) else [node.elt]
        turns = False
        while True:
            tests = [i.test for i in loop.ifs]
            lines = [cst.SimpleStatementLine([cst.Expr(e)]) for e in (*tests, *parts)]
            turns |= self._begin(loop, lines)
            for test in tests:
                self.use(test)
            if loop.inner_for_in is None:
                break
            loop = loop.inner_for_in
        values = [self.value(part) for part in parts]
        if turns:
            self.turn, self.positions = None, frozenset()
        if turns and not isinstance(node, cst.DictComp):
            unified([made.held(ITEM), *values])
            return made
        return unified([made.any_item(), *values])


def _is_listed(node: cst.BaseExpression) -> bool:
    """Whether this may be a list with an item for each parameter."""
    if isinstance(node, (cst.Name, cst.ListComp)):
        return True
    return isinstance(node, (cst.Attribute, cst.Subscript)) and (
        string_key(node) is not None or dotted(node) is not None
    )


def _is_length(node: cst.BaseExpression) -> bool:
    return called(_only(node), "len")


def _only(node: cst.BaseExpression) -> cst.BaseExpression:
    """``x`` of ``f(x)``."""
    args = cast(cst.Call, node).args
    return args[0].value if len(args) == 1 else node


def _from_zero(node: cst.BaseExpression) -> bool:
    """Whether ``enumerate`` counts as a list does."""
    return isinstance(node, cst.Call) and len(node.args) == 1
