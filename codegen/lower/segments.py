"""Loops over parameters that are put together of statements on lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.dependence import Dependence
from codegen.lower.domains import ParamDomain
from codegen.lower.forms import is_path, skip_test, upward_exposed_uses
from codegen.lower.listed import KnownLists, Listed, Unfit
from codegen.syntax import (
    Statement,
    assign,
    assignment,
    block,
    bound_names,
    code,
    expr,
    negate,
    own_statements,
    read_names,
    small,
    stmt,
    string_key,
)


@dataclass
class Segment:
    """A loop that is being put together."""

    domain: ParamDomain
    body: list[Statement] = field(default_factory=list)
    made_from: list[Statement] = field(default_factory=list)
    closed: bool = False


class Segments:
    """Loops over parameters that are put together one after the other; ``out`` are the
    statements so far.

    Attributes:
        segment: the loop at hand.
        definitions: variables, and the statements by which a later loop can look up
            what they hold; none where it can't.
        kept: lists of which a later loop finds the items by position, in ``stores``.
    """

    def __init__(
        self, lists: KnownLists, context: Context, dependence: Dependence
    ) -> None:
        self.lists = lists
        self.context = context
        self.origins = context.origins
        self.dependence = dependence
        self.out: list[Statement] = []
        self.segment: Segment | None = None
        self.definitions: dict[str, list[Statement]] = {}
        self.kept: set[str] = set()
        self.stores: dict[str, str] = {}

    def join(self, domain: ParamDomain, new: list[Statement], node: Statement) -> None:
        segment = self.segment
        if segment is not None and (
            segment.closed
            or segment.domain.key() != domain.key()
            or self.conflict(segment.made_from, node)
        ):
            self.flush()
        if self.segment is None:
            self.segment = Segment(domain)
            self._look_up_again(upward_exposed_uses(new) | self.needed_items())
        else:
            self._look_up_again(upward_exposed_uses(new))
        leading, new = self._leading(new, domain)
        self.segment.body.extend(new)
        self.segment.made_from.append(node)
        self._forget_replaced(node)
        self._define(new)
        self.segment.closed = any(
            isinstance(small(s), cst.Continue) for s in own_statements(new)
        )

    def _leading(
        self, new: list[Statement], domain: ParamDomain
    ) -> tuple[list[Statement], list[Statement]]:
        """Skips that say what the domain's conditions say."""
        tests = {code(negate(c)) for c in domain.conditions}
        for number, node in enumerate(new):
            test = skip_test(node)
            if test is None or code(test) not in tests:
                return new[:number], new[number:]
        return new, []

    def conflict(self, old: Sequence[Statement], node: Statement) -> bool:
        """Whether one loop's statements need another's to be over."""
        lists = {*self.lists.known, *self.lists.empty}
        return self.dependence.conflict(old, [node], lists, self.lists.needed)

    def _define(self, new: Sequence[Statement]) -> None:
        """Remember what can be looked up again: ``state = self.state[p]``."""
        for node in new:
            self._forget(node)
            for name in bound_names(node):
                pair = assignment(node)
                again = (
                    pair is not None
                    and isinstance(pair[0], cst.Name)
                    and is_path(pair[1])
                    and all(
                        n in self.definitions or n in ("self", self.lists.item)
                        for n in read_names(pair[1])
                    )
                    and name not in self.definitions
                )
                known_already = self.definitions.get(name)
                if known_already and code(known_already[-1]) == code(plain(node)):
                    continue
                if not again:
                    self.definitions[name] = []
                    continue
                assert pair is not None
                needs = [
                    s
                    for n in sorted(read_names(pair[1]))
                    for s in self.definitions.get(n, ())
                ]
                known_ = all(
                    self.definitions.get(n) or n in ("self", self.lists.item)
                    for n in read_names(pair[1])
                )
                self.definitions[name] = [*needs, node] if known_ else []

    def _forget_replaced(self, node: Statement) -> None:
        """What was found before may be another object once ``node`` has run."""
        for name, found in self.definitions.items():
            if found and self.dependence.replaces(found, [node]):
                self.definitions[name] = []

    def _forget(self, node: Statement) -> None:
        """What is stored anew is no more what a list took from there."""
        for target in (n for n in walk(node) if isinstance(n, cst.AssignTarget)):
            stored = target.target
            key = string_key(stored)
            if key is None and not isinstance(stored, cst.Attribute):
                continue
            end = f".{stored.attr.value}" if isinstance(stored, cst.Attribute) else ""
            for name, known_ in self.definitions.items():
                pair = assignment(known_[-1]) if known_ else None
                if pair is None:
                    continue
                if key is not None and string_key(pair[1]) == key:
                    self.definitions[name] = []
                elif end and code(pair[1]).endswith(end):
                    self.definitions[name] = []

    def _look_up_again(self, read: set[str]) -> None:
        """The items that a loop reads are looked up, but for those that it has made."""
        assert self.segment is not None
        seen = {n for s in self.segment.body for n in bound_names(s)}
        for name, listed in self.lists.known.items():
            variable = listed.variable
            if variable == self.lists.item or variable not in read or variable in seen:
                continue
            seen.add(variable)
            if name in self.kept:
                kept = expr(f"{self.stores[name]}[p_idx]")
                self.segment.body.append(assign([cst.Name(variable)], kept))
            else:
                known = set(map(code, self.segment.body))
                found = map(plain, self.definitions.get(variable, ()))
                self.segment.body += [s for s in found if code(s) not in known]

    def needed_items(self) -> set[str]:
        return {
            v.variable for k, v in self.lists.known.items() if k in self.lists.needed
        }

    def flush(self) -> None:
        """End the loop at hand."""
        segment, self.segment = self.segment, None
        if segment is None or not segment.body:
            return
        body = list(segment.body)
        for name, listed in self.lists.known.items():
            needed = name in self.lists.needed or name in self.lists.reading
            if needed and self._must_keep(listed, segment):
                self._keep(name, listed, body)
        self._emit(segment, body)

    def _must_keep(self, listed: Listed, segment: Segment) -> bool:
        if listed.variable == self.lists.item or self.definitions.get(listed.variable):
            return False
        return any(listed.variable in bound_names(s) for s in segment.body)

    def _keep(self, name: str, listed: Listed, body: list[Statement]) -> None:
        """What a later loop reads, by the position of its parameter."""
        bound = (n for n, s in enumerate(body) if listed.variable in bound_names(s))
        after = body[next(bound, 0) :]
        if any(isinstance(small(s), cst.Continue) for s in own_statements(after)):
            raise Unfit(body[0], f"list {name!r} is needed after a loop that skips")
        target = expr(f"{self.open_store(name)}[p_idx]")
        body.append(assign([target], cst.Name(listed.variable)))

    def open_store(self, name: str) -> str:
        """The dict by position for a list: not the list itself, if that is filled."""
        if name not in self.stores:
            filled = name in self.context.whole_lists
            self.stores[name] = self.lists.unused(name) if filled else name
            self.out.append(assign([cst.Name(self.stores[name])], expr("{}")))
        self.kept.add(name)
        return self.stores[name]

    def _emit(self, segment: Segment, body: list[Statement]) -> None:
        skips: list[Statement] = []
        for condition in segment.domain.conditions:
            leave = cst.SimpleStatementLine([cst.Continue()])
            skips.append(cst.If(negate(condition), block([leave])))
        source = code(segment.domain.source)
        head = f"for {self.lists.item} in {source}:\n    pass\n"
        if any("p_idx" in read_names(s) for s in body):
            head = f"for p_idx, {self.lists.item} in enumerate({source}):\n    pass\n"
        loop = cst.ensure_type(stmt(head), cst.For)
        loop = loop.with_changes(body=block([*skips, *body]))
        for part in walk(loop.iter):
            self.origins.inherit(part, segment.domain.source)
        self.origins.inherit(loop, segment.body[0])
        for skip in skips:
            for part in walk(skip):
                self.origins.inherit(part, segment.domain.source)
        self.out.append(loop)


def plain(node: Statement) -> Statement:
    """Without the comments above."""
    return node.with_changes(leading_lines=[])
