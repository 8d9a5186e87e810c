"""Which statements depend on each other: whether loops over parameters may become one.

    for p in params: A(p)               for p in params:
    for p in params: B(p)         →         A(p)
                                            B(p)

moves ``B`` of one parameter before ``A`` of the next ones. That is right if neither
writes what the other, for another parameter, reads or writes. Memory is told apart by
region (see ``analysis.regions``); a region is one turn's own if nothing that is there
before a turn leads to it but the parameter, and lists by that parameter's position.
What isn't known, calls above all, reads and writes all that it can reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import libcst as cst

from codegen.analysis.liveness import liveness, upward_exposed
from codegen.analysis.regions import ANY, ITEM, Region
from codegen.context import Context
from codegen.lower.accesses import DEEP, ELEMENTS, Access, Effects
from codegen.lower.blocks import group_loop_target
from codegen.lower.domains import asks_no_values, is_loop_invariant
from codegen.lower.effects import Memory
from codegen.syntax import (
    Statement,
    bound_names,
    orelse_statements,
    read_names,
    statements,
    target_names,
)


class Dependence:
    """Whether the statements of a step may change places."""

    def __init__(self, body: Sequence[Statement], context: Context) -> None:
        self.memory = Memory(body, context)
        self._body = body

    @cached_property
    def carried(self) -> frozenset[str]:
        """Names that are read once the turn of a group is over."""
        heads = liveness(self._body).at_head.items()
        turns = (n for loop, n in heads if group_loop_target(loop) is not None)
        return frozenset().union(*turns)

    def conflict(
        self,
        before: Sequence[Statement],
        after: Sequence[Statement],
        lists: Iterable[str] = (),
        live: Iterable[str] = (),
    ) -> bool:
        """Whether loops ``before`` must be over when loops ``after`` begin.

        ``lists`` have an item for each parameter; what is named so is not shared.
        ``live`` is read later. A statement that stands in both has several lists: of
        its parts for each parameter, the names that it binds say nothing.
        """
        one, two = self._all(before), self._all(after)
        if one.leaves or two.leaves or (one.uses_rng and two.uses_rng):
            return True
        if (one.lists | two.lists) - {*lists}:
            return True
        mine = _names([s for s in before if not any(s is t for t in after)])
        theirs = _names(after)
        if (mine[0] & theirs[1] | theirs[0] & mine[1]) - {*lists}:
            return True
        if mine[0] & theirs[0] & {*live} - {*lists}:
            return True
        public = self._public()
        return any(
            region in public and not (key == other == ITEM)
            for first, second in ((one, two), (two, one))
            for region, key, other in self._shared(
                first.writes, second.writes | second.reads
            )
        )

    def may_move(self, node: Statement, over: Sequence[Statement]) -> bool:
        """Whether a statement may stand before others instead of after them."""
        one, two = self._all([node]), self._all(over)
        if one.leaves or two.leaves or (one.uses_rng and two.uses_rng):
            return False
        reads = set().union(*map(read_names, over), set())
        bound = set().union(*map(bound_names, over), set())
        if bound_names(node) & (reads | bound) or read_names(node) & bound:
            return False
        return not (self._overlap(one, two) or self._overlap(two, one))

    def is_invariant(self, node: cst.If) -> bool:
        """Whether a test comes out the same however often it is asked in between what
        the branches do."""
        inside = (*statements(node.body), *orelse_statements(node))
        return self.is_steady(node.test, inside)

    def is_steady(
        self, test: cst.BaseExpression, body: Sequence[Statement], item: str = ""
    ) -> bool:
        """Whether a test comes out the same before and after statements, its variable
        ``item`` the same."""
        asked = self._all([cst.SimpleStatementLine([cst.Expr(test)])])
        names = read_names(test) & set().union(*map(bound_names, body), set())
        steady = not (asked.writes or asked.uses_rng or names - {item})
        return steady and not self._overlap(self._all(body), asked)

    def is_loop_invariant(
        self, test: cst.BaseExpression, body: Sequence[Statement], item: str
    ) -> bool:
        """Whether a test of a parameter comes out the same before and after statements."""
        if not asks_no_values(test, item):
            return False
        return is_loop_invariant(test, item) or self.is_steady(test, body, item)

    def changes(self, node: Statement, name: str) -> bool:
        """Whether a statement may change which items the list of that name has."""
        held = self.memory.name(name)
        return any(r is held for r, _ in self._accesses(self._all([node]).writes))

    def replaces(self, found: Sequence[Statement], body: Sequence[Statement]) -> bool:
        """Whether statements may store another object where these ones find theirs."""
        reads = self.memory.reads_of(found)
        return any(True for _ in self._shared(self._all(body).writes, reads))

    def _overlap(self, one: Effects, two: Effects) -> bool:
        """Whether ``one`` writes what ``two`` reads or writes."""
        return any(True for _ in self._shared(one.writes, two.writes | two.reads))

    def _shared(
        self, some: Iterable[Access], others: Iterable[Access]
    ) -> Iterator[tuple[Region, str, str]]:
        """(region, key, other key) of accesses that may be to one place."""
        places = set(self._accesses(others))
        for region, key in set(self._accesses(some)):
            for where, other in places:
                if where is region and _meet(key, other):
                    yield region, key, other

    def _all(self, body: Iterable[Statement]) -> Effects:
        whole = Effects()
        for node in body:
            if node not in self.memory.effects:
                self.memory.learn(node)
            whole.add(self.memory.effects[node])
        pending, seen = [*whole.calls], set[str]()
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                whole.add(self.memory.functions[name])
                pending += self.memory.functions[name].calls
        return whole

    def _accesses(self, accesses: Iterable[Access]) -> Iterator[Access]:
        for region, key in accesses:
            if key is not DEEP:
                yield region.found(), key
                continue
            for inner in _items([region]):
                yield inner, ELEMENTS

    def _public(self) -> set[Region]:
        """Regions that more than one turn may reach."""
        found: set[Region] = set()
        pending = [r.found() for r in self.memory.outer]
        for region in _items(self.memory.all_items):
            pending += region.items()
        while pending:
            region = pending.pop().found()
            if region not in found:
                found.add(region)
                pending += region.shown()
        return found


def _items(regions: Iterable[Region]) -> Iterator[Region]:
    """These regions, and what lies in them but for attributes."""
    found: set[Region] = set()
    pending = [r.found() for r in regions]
    while pending:
        region = pending.pop()
        if region not in found:
            found.add(region)
            yield region
            pending += region.parts()


def _meet(one: str, other: str) -> bool:
    """Whether two keys may be of the same part of a region."""
    if ELEMENTS in (one, other):
        return not (one.startswith(".") or other.startswith("."))
    return one == other or ANY in (one, other)


def _names(body: Sequence[Statement]) -> tuple[set[str], set[str]]:
    """(bound, read before) of statements; of loops, what a turn reads before."""
    bound: set[str] = set()
    read: set[str] = set()
    for node in body:
        if isinstance(node, cst.For):
            own = {*target_names(node.target)}
            bound |= bound_names(node)
            read |= upward_exposed(statements(node.body)) - own
        else:
            bound |= bound_names(node)
            read |= upward_exposed([node])
    return bound, read
