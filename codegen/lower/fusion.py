"""A loop that fills parallel lists and the loops that walk them, made one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.lower.dependence import Dependence
from codegen.lower.domains import ParamDomain
from codegen.lower.filled import initialises, skip_none, walked
from codegen.lower.forms import (
    appended,
    does_nothing_without,
    emptiness,
    may_fail,
    skip_test,
)
from codegen.lower.names import strays
from codegen.lower.producer import Producer, Unfit, looks_up_state, slot_of
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assign,
    assignment,
    block,
    bound_names,
    code,
    expr,
    is_name,
    negate,
    read_names,
    replace_nodes,
    same,
    small,
    statements,
)


class Fusion:
    """One producer and the loops after it that walk its lists, made one loop."""

    def __init__(
        self,
        body: Body,
        number: int,
        lists: set[str],
        context: Context,
        dependence: Dependence,
    ) -> None:
        self.producer = Producer(body, number, lists, dependence)
        self.context = context
        self.dependence = dependence
        self.joined: list[Statement] = [self.producer.loop]
        self._renamed_item: str | None = None
        self._apart = strays(body)
        self._after: tuple[Statement, ...] = ()

    def run(self) -> Body:
        produced = self._without_test()
        before = [
            s
            for s in self.producer.body[: self.producer.number]
            if not initialises(s, self.producer.lists)
        ]
        if (
            self.producer.collect_fills(statements(produced.body))
            != self.producer.lists
        ):
            raise Unfit
        moved: list[Statement] = []
        consumed: list[Statement] = []
        for node in self.producer.body[self.producer.number + 1 :]:
            self._place(node, moved, consumed)
        inside = self._assemble(statements(produced.body), consumed)
        loop = produced.with_changes(body=block(inside))
        if self.producer.item != "param" and self._renamed_item is not None:
            name = {self.producer.item: cst.Name(self._renamed_item)}
            loop = cast(cst.For, substitute(loop, name, self.context.origins))
        return (*before, *moved, loop, *self._after)

    def _without_test(self) -> cst.For:
        """The producer's loop; what it does for parameters with gradients alone, it does
        after skipping the others."""
        producer = self.producer
        return skip_none(producer.loop, producer.item, self.context.origins)

    def _place(
        self, node: Statement, moved: list[Statement], consumed: list[Statement]
    ) -> None:
        mentioned = read_names(node) & self.producer.lists
        if isinstance(node, cst.For) and self.producer.walks_lists(node):
            self._join(node)
            consumed.extend(self._consume(node))
        elif isinstance(node, cst.If) and self._wraps_consumer(node):
            inner: list[Statement] = []
            if not self.dependence.is_invariant(node):
                raise Unfit
            self._join(node)
            for part in statements(node.body):
                if not isinstance(part, cst.For):
                    raise Unfit
                inner += self._consume(part)
            consumed.append(node.with_changes(body=block(inner)))
        elif isinstance(node, cst.If) and mentioned and self._only_guards(node):
            return
        elif isinstance(node, cst.If) and (guard := self._guard(node)) is not None:
            moved.append(guard)
        elif mentioned:
            raise Unfit
        elif not self._after and self.dependence.may_move(node, self.joined):
            moved.append(node)
        else:
            self._after = (*self._after, node)

    def _join(self, node: Statement) -> None:
        """One more loop: nothing that it does waits for what stands before it."""
        skips = any(
            isinstance(small(s), cst.Continue)
            for loop in self.joined[1:]
            for s in all_statements([loop])
        )
        if skips or self.dependence.conflict(self.joined, [node], self.producer.lists):
            raise Unfit
        if not all(self.dependence.may_move(node, [s]) for s in self._after):
            raise Unfit
        self.joined.append(node)

    def _only_guards(self, node: cst.If) -> bool:
        """A check of the functional API on its arguments, which are built right here;
        ``if not params: continue`` above loops, which do nothing then anyway."""
        inner = [small(s) for s in statements(node.body)]
        if node.orelse is not None:
            return False
        if len(inner) == 1 and isinstance(inner[0], cst.Continue):
            rest = (
                self.producer.body[self.producer.body.index(node) + 1 :]
                if node in self.producer.body
                else ()
            )
            lists, live = self.producer.lists, self.dependence.carried
            nothing = does_nothing_without(lists, rest, live)
            return (
                emptiness(node.test) in lists
                and bool(rest)
                and nothing
                and not any(map(may_fail, rest))
            )
        return all(isinstance(line, cst.Raise) for line in inner)

    def _guard(self, node: cst.If) -> Statement | None:
        """``if not params: continue`` asks the parameters themselves: whether the first
        thing that is done to each is to skip it."""
        inner = [small(s) for s in statements(node.body)]
        leaves = len(inner) == 1 and isinstance(inner[0], cst.Continue)
        if not leaves or node.orelse or emptiness(node.test) not in self.producer.lists:
            return None
        body = statements(self._without_test().body)
        skips = [*takewhile(lambda t: t is not None, map(skip_test, body))]
        tests = [t for t in skips if t is not None]
        rest = body[len(tests) :]
        filled = {pair[0] for s in rest if (pair := appended(s)) is not None}
        skips_later = any(
            isinstance(small(s), (cst.Continue, cst.Break))
            for s in all_statements(rest)
        )
        later = self.producer.body[self.producer.number :]
        item, is_loop_invariant = self.producer.item, self.dependence.is_loop_invariant
        sure = all(is_loop_invariant(t, later, item) for t in tests)
        if emptiness(node.test) not in filled or skips_later or not sure:
            return None
        taken = ParamDomain(walked(self.producer.loop), tuple(map(negate, tests)))
        guard = node.with_changes(test=taken.is_empty(self.producer.item))
        self.context.origins.inherit(guard, node)
        return guard

    def _wraps_consumer(self, node: cst.If) -> bool:
        return node.orelse is None and any(
            isinstance(s, cst.For) and self.producer.walks_lists(s)
            for s in statements(node.body)
        )

    def _consume(self, node: cst.For) -> list[Statement]:
        """The body of a loop over lists, as it reads inside the producer."""
        bound = self.producer.targets(node)
        if bound is None:
            raise Unfit
        index, items = bound
        body = list(statements(node.body))
        if index in bound_names(node.body):
            raise Unfit
        prelude: list[Statement] = []
        for name, target in items:
            self._bind_target(name, target, body, prelude)
        body = [*prelude, *body]
        if index is not None:
            body = [s for old in body for s in self._index_lists(old, index, body)]
        if index is not None and any(index in read_names(s) for s in body):
            raise Unfit
        return self._keep_lines(node, body)

    def _keep_lines(self, node: cst.For, body: list[Statement]) -> list[Statement]:
        if body and any(line.comment for line in node.leading_lines):
            lines = [*node.leading_lines, *body[0].leading_lines]
            body[0] = body[0].with_changes(leading_lines=lines)
        elif body and not body[0].leading_lines:
            body[0] = body[0].with_changes(leading_lines=[cst.EmptyLine(indent=False)])
        return body

    def _bind_target(
        self,
        name: str,
        target: cst.BaseExpression,
        body: list[Statement],
        prelude: list[Statement],
    ) -> None:
        """``for …, exp_avg in zip(…, exp_avgs)`` → ``exp_avg = state["exp_avg"]``."""
        fill = self.producer.fills[name]
        value = fill.value if fill.variable is None else cst.Name(fill.variable)
        if is_name(value, self.producer.item) and isinstance(target, cst.Name):
            self._name_item(target.value, body)
            return
        if not same(target, value):
            prelude.append(assign([target], value))

    def _name_item(self, name: str, body: list[Statement]) -> None:
        """The parameter gets the name it has where the update is computed."""
        item = self._renamed_item or self.producer.item
        if name != item and (self._apart & {name, item}):
            raise Unfit
        if self._renamed_item is None and name not in bound_names(self.producer.loop):
            self._renamed_item = name
        elif name != item:
            if item in bound_names(block(body)):
                raise Unfit
            own = {name: cst.Name(item)}
            body[:] = [
                cast(Statement, substitute(s, own, self.context.origins)) for s in body
            ]

    def _index_lists(
        self, node: Statement, index: str, body: list[Statement]
    ) -> list[Statement]:
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Name):
            name = self.producer.item_of(pair[1], index)
            if name is not None and is_name(
                self.producer.fills[name].value, pair[0].value
            ):
                return []
        self._give_variables(node, index, body)
        origins = self.context.origins
        new = replace_nodes(node, lambda n: self._store(n, index), origins)
        new = replace_nodes(new, lambda n: self._item(n, index), origins)
        return [cast(Statement, new)]

    def _item(self, node: cst.CSTNode, index: str) -> cst.CSTNode | None:
        name = self.producer.item_of(node, index)
        if name is None:
            return None
        fill = self.producer.fills[name]
        if fill.variable is not None:
            return cst.Name(fill.variable)
        if is_name(fill.value, self.producer.item):
            return cst.Name(self._renamed_item or self.producer.item)
        return fill.value.deep_clone()

    def _store(self, node: cst.CSTNode, index: str) -> cst.CSTNode | None:
        """``bufs[i] = x`` → ``state["buf"] = x``, for a list that is written back."""
        if not isinstance(node, cst.AssignTarget):
            return None
        name = self.producer.item_of(node.target, index)
        if name is None or self.producer.fills[name].variable is not None:
            return None
        slot = slot_of(self.producer.fills[name].value)
        return None if slot is None else node.with_changes(target=expr(slot))

    def _give_variables(
        self, node: Statement, index: str, body: list[Statement]
    ) -> None:
        """A list whose items are replaced becomes a variable, or its state slot."""
        for inner in all_statements([node]):
            statement_ = small(inner)
            if not isinstance(statement_, cst.Assign):
                continue
            for target in statement_.targets:
                name = self.producer.item_of(target.target, index)
                if name is not None and not self.producer.is_written_back(name):
                    self.producer.variable_for(name, body)

    def _assemble(self, produced: Body, consumed: list[Statement]) -> list[Statement]:
        inside = self.producer.without_appends(produced)
        kept = [s for s in consumed if not _is_noop_store(s)]
        return [*inside, *_drop_noop_stores(kept)]


def _is_noop_store(node: Statement) -> bool:
    pair = assignment(node)
    if pair is None:
        return False
    return same(*pair) or slot_of(pair[1]) == code(pair[0])


def _drop_noop_stores(body: Sequence[Statement]) -> list[Statement]:
    """Without ``state["k"] = state["k"]`` and without what that leaves empty."""
    result: list[Statement] = []
    for node in body:
        if isinstance(node, cst.If) and node.orelse is None:
            before = _forward_single_reads(statements(node.body))
            after = _drop_noop_stores(before)
            if len(after) < len(before) and all(_is_plain_binding(s) for s in after):
                continue
        elif _is_noop_store(node):
            continue
        result.append(node)
    return result


def _forward_single_reads(body: Sequence[Statement]) -> list[Statement]:
    """``m = state.get("k")``, ``state["k"] = m`` → one statement."""
    result: list[Statement] = []
    for node in body:
        pair = assignment(node)
        last = assignment(result[-1]) if result else None
        if pair and last and isinstance(last[0], cst.Name) and same(last[0], pair[1]):
            result[-1] = assign([pair[0]], last[1])
        elif pair and looks_up_state(node) and result:
            result.insert(len(result) - 1, node)
        else:
            result.append(node)
    return result


def _is_plain_binding(node: Statement) -> bool:
    pair = assignment(node)
    return pair is not None and isinstance(pair[0], cst.Name)
