"""Parallel lists turned back into what they were filled from.

    for p in group["params"]:                 for param in group["params"]:
        …                                         …
        exp_avgs.append(state["exp_avg"])  →      exp_avg = state["exp_avg"]
    for i, param in enumerate(params):            …
        exp_avg = exp_avgs[i]

The first loop (the producer) fills the lists; the loops after it walk them. They
become one loop where each parameter's part touches nothing of another's (see
``dependence``); the rest is left to ``lockstep``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import Origins
from codegen.lower.choices import one_or_none
from codegen.lower.dependence import Dependence
from codegen.lower.families import Family, lasts
from codegen.lower.forms import (
    appended,
    called,
    emptiness,
    leaves_a_mark,
    may_fail,
    only_loops,
    skip_test,
    stmt_of,
)
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
    dotted,
    expr,
    index_of,
    is_constant,
    is_name,
    negate,
    orelse_statements,
    read_names,
    replace_nodes,
    same,
    small,
    statements,
    stmt,
    string_key,
    target_names,
    with_comments,
)


@dataclass
class Fill:
    """What one parallel list holds for a parameter, and where it was appended."""

    value: cst.BaseExpression
    variable: str | None = None


class _Unfit(Exception):
    """The loops of a block are not fused here."""


def lower_loops(body: Body, context: Context) -> Body:
    """Apply :func:`fuse` wherever lists are filled, and skip None gradients first."""
    return _lowered(body, body, context)


def _lowered(body: Body, step: Body, context: Context) -> Body:
    result: list[Statement] = []
    for node in body:
        if isinstance(node, (cst.For, cst.If, cst.With)) and not _is_param_loop(node):
            inner = _lowered(statements(node.body), step, context)
            node = node.with_changes(body=block(inner))
        result.append(node)
    fused = fuse(tuple(result), step, context)
    return tuple(
        _skip_none(s, context.origins) if _is_param_loop(s) else s for s in fused
    )


def _is_param_loop(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.For) and string_key(_walked(node)) == "params"


def _walked(node: cst.For) -> cst.BaseExpression:
    """``xs`` of ``for x in xs`` and of ``for i, x in enumerate(xs)``."""
    if isinstance(node.iter, cst.Call) and is_name(node.iter.func, "enumerate"):
        return node.iter.args[0].value
    return node.iter


# --- finding lists -----------------------------------------------------------


def fuse(body: Body, step: Body, context: Context) -> Body:
    """Fuse the loops of one block that communicate through parallel lists.

    Where they can't be shown to be independent, they stay as they are.
    """
    for number, node in enumerate(body):
        if not isinstance(node, cst.For) or not _is_param_loop(node):
            continue
        lists = _empty_lists(body[:number]) & _filled_by(node)
        chosen = one_or_none(body, number + 1, lists, context.origins)
        later = set().union(*(read_names(s) for s in chosen[number + 1 :]), set())
        if lists & later:
            dependence = Dependence((*step, *chosen), context)
            try:
                return _Fusion(chosen, number, lists, context, dependence).run()
            except _Unfit:
                return body
        if lists:
            return _drop_lists(body, lists)
    return body


def _empty_lists(body: Sequence[Statement]) -> set[str]:
    names: set[str] = set()
    for node in body:
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Name):
            if isinstance(pair[1], cst.List) and not pair[1].elements:
                names.add(pair[0].value)
            elif code(pair[1]) == "list()":
                names.add(pair[0].value)
    return names


def _filled_by(node: cst.For) -> set[str]:
    found = (appended(s) for s in all_statements(statements(node.body)))
    return {pair[0] for pair in found if pair is not None}


def filled(body: Body) -> set[str]:
    """Lists that loops of a block over parameters fill."""
    loops = (s for s in body if isinstance(s, cst.For) and _is_param_loop(s))
    return _empty_lists(body) & set().union(*map(_filled_by, loops), set())


def _filled_in(node: Statement) -> set[str]:
    found = map(appended, all_statements([node]))
    return {pair[0] for pair in found if pair is not None}


def _skips(node: Statement) -> bool:
    return any(isinstance(small(s), cst.Continue) for s in all_statements([node]))


def _drop_lists(body: Body, lists: set[str]) -> Body:
    """Lists that nothing reads any more."""
    kept = [s for s in body if not _initialises(s, lists)]
    return tuple(_without_appends(kept, lists))


def _initialises(node: Statement, lists: set[str]) -> bool:
    pair = assignment(node)
    return pair is not None and any(n in lists for n in target_names(pair[0]))


def _without_appends(body: Sequence[Statement], lists: set[str]) -> list[Statement]:
    result: list[Statement] = []
    for node in body:
        pair = appended(node)
        if pair is not None and pair[0] in lists:
            continue
        if isinstance(node, (cst.If, cst.For)):
            inner = _without_appends(statements(node.body), lists)
            if not inner and isinstance(node, cst.If) and node.orelse is None:
                continue
            node = node.with_changes(body=block(inner))
        result.append(node)
    return result


def _is_path(node: cst.BaseExpression) -> bool:
    """``p.grad``, ``state["step"]``, ``state.get("buf")``: the same whenever it is asked
    for in one turn of the loop."""
    if isinstance(node, cst.Attribute):
        return _is_path(node.value)
    if isinstance(node, cst.Subscript):
        return string_key(node) is not None and _is_path(node.value)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        known = all(is_constant(a.value) for a in node.args)
        return node.func.attr.value == "get" and known and _is_path(node.func.value)
    return isinstance(node, cst.Name)


# --- fusing ------------------------------------------------------------------


class _Fusion:
    """One producer and the loops after it that walk its lists."""

    def __init__(
        self,
        body: Body,
        number: int,
        lists: set[str],
        context: Context,
        dependence: Dependence,
    ) -> None:
        self.body = body
        self.dependence = dependence
        self.number = number
        self.lists = lists
        self.context = context
        self.producer = cast(cst.For, body[number])
        self.item = next(target_names(_item_target(self.producer)))
        self.joined: list[Statement] = [self.producer]
        self.fills: dict[str, Fill] = {}
        self.index: str | None = None

    def run(self) -> Body:
        produced = _skip_none(self.producer, self.context.origins)
        before = [
            s for s in self.body[: self.number] if not _initialises(s, self.lists)
        ]
        if self._collect_fills(statements(produced.body)) != self.lists:
            raise _Unfit
        moved: list[Statement] = []
        consumed: list[Statement] = []
        for node in self.body[self.number + 1 :]:
            self._place(node, moved, consumed)
        inside = self._assemble(statements(produced.body), consumed)
        loop = produced.with_changes(body=block(inside))
        if self.item != "param" and self._renamed_item is not None:
            name = {self.item: cst.Name(self._renamed_item)}
            loop = cast(cst.For, substitute(loop, name, self.context.origins))
        return (*before, *moved, loop, *self._after)

    _renamed_item: str | None = None
    _after: tuple[Statement, ...] = ()

    # --- what the lists hold

    def _collect_fills(
        self, body: Body, conditions: tuple[cst.BaseExpression, ...] = ()
    ) -> set[str]:
        """Lists that these statements append to: each of them once."""
        filled: set[str] = set()
        for number, node in enumerate(body):
            pair = appended(node)
            more: set[str] = set()
            if pair is not None and pair[0] in self.lists:
                self._note_fill(*pair, conditions)
                more = {pair[0]}
            elif isinstance(node, cst.If):
                inner = (*conditions, node.test)
                more |= self._collect_fills(statements(node.body), inner)
                more |= self._collect_fills(orelse_statements(node), inner)
            elif _filled_in(node) & self.lists:
                raise _Unfit
            if more & filled or (filled and _skips(node)):
                raise _Unfit  # the items don't line up with those of other lists
            filled |= more
            for name in more:
                self._keep_found(name, (*body[number + 1 :], *self._later()))
        return filled

    def _note_fill(
        self,
        name: str,
        value: cst.BaseExpression,
        conditions: tuple[cst.BaseExpression, ...],
    ) -> None:
        if name in self.fills and not same(self.fills[name].value, value):
            raise _Unfit
        varying = bound_names(self.producer) & set().union(
            *(read_names(c) for c in conditions), set()
        )
        if varying:
            raise _Unfit  # their items don't line up with other lists'
        self.fills[name] = Fill(value)

    def _keep_found(self, name: str, later: Sequence[Statement]) -> None:
        """An item gets a variable if what it was found by may lead elsewhere later."""
        value = self.fills[name].value
        names = read_names(value) - {self.item}
        rebound = any(
            names & bound_names(s) and not self._takes_item(s, name)
            for s in all_statements(later)
        )
        found_again = _is_path(value) and (
            self._is_written_back(name)
            or not self.dependence.replaces([stmt_of(value)], later)
        )
        if rebound or not found_again:
            self._variable_for(name, list(self._later()))

    def _later(self) -> Body:
        return self.body[self.number + 1 :]

    def _takes_item(self, node: Statement, name: str) -> bool:
        """``grad = grads[i]``, where ``grad`` is what was appended; or ``state`` looked
        up as before."""
        if small(node) is None:
            return True  # its statements are looked at one by one
        pair = assignment(node)
        if pair is None:
            return False
        if _looks_up_state(node):
            before = map(assignment, all_statements(statements(self.producer.body)))
            return all(
                same(known[1], pair[1])
                for known in before
                if known is not None and same(known[0], pair[0])
            )
        taken = pair[1]
        if not isinstance(taken, cst.Subscript) or not is_name(taken.value, name):
            return False
        return same(pair[0], self.fills[name].value)

    # --- what comes after the producer

    def _place(
        self, node: Statement, moved: list[Statement], consumed: list[Statement]
    ) -> None:
        mentioned = read_names(node) & self.lists
        if isinstance(node, cst.For) and self._walks_lists(node):
            self._join(node)
            consumed.extend(self._consume(node))
        elif isinstance(node, cst.If) and self._wraps_consumer(node):
            inner: list[Statement] = []
            if not self.dependence.is_invariant(node):
                raise _Unfit
            self._join(node)
            for part in statements(node.body):
                if not isinstance(part, cst.For):
                    raise _Unfit
                inner += self._consume(part)
            consumed.append(node.with_changes(body=block(inner)))
        elif isinstance(node, cst.If) and mentioned and self._only_guards(node):
            return
        elif isinstance(node, cst.If) and (guard := self._guard(node)) is not None:
            moved.append(guard)
        elif mentioned:
            raise _Unfit
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
        if skips or self.dependence.conflict(self.joined, [node], self.lists):
            raise _Unfit
        if not all(self.dependence.may_move(node, [s]) for s in self._after):
            raise _Unfit
        self.joined.append(node)

    def _only_guards(self, node: cst.If) -> bool:
        """A check of the functional API on its arguments, which are built right here;
        ``if not params: continue`` above loops, which do nothing then anyway."""
        inner = [small(s) for s in statements(node.body)]
        if node.orelse is not None:
            return False
        if len(inner) == 1 and isinstance(inner[0], cst.Continue):
            rest = self.body[self.body.index(node) + 1 :] if node in self.body else ()
            marks = any(map(may_fail, rest)) or any(
                leaves_a_mark(s) for s in rest if not only_loops(s)
            )
            return emptiness(node.test) in self.lists and bool(rest) and not marks
        return all(isinstance(line, cst.Raise) for line in inner)

    def _guard(self, node: cst.If) -> Statement | None:
        """``if not params: continue`` asks the parameters themselves: whether the first
        thing that is done to each is to skip it."""
        inner = [small(s) for s in statements(node.body)]
        leaves = len(inner) == 1 and isinstance(inner[0], cst.Continue)
        if not leaves or node.orelse or emptiness(node.test) not in self.lists:
            return None
        body = statements(_skip_none(self.producer, self.context.origins).body)
        skips = [*takewhile(lambda t: t is not None, map(skip_test, body))]
        tests = [t for t in skips if t is not None]
        rest = body[len(tests) :]
        filled = {pair[0] for s in rest if (pair := appended(s)) is not None}
        skips_later = any(
            isinstance(small(s), (cst.Continue, cst.Break))
            for s in all_statements(rest)
        )
        sure = all(lasts(t, self.item) for t in tests)
        if emptiness(node.test) not in filled or skips_later or not sure:
            return None
        taken = Family(_walked(self.producer), tuple(map(negate, tests)))
        guard = node.with_changes(test=taken.is_empty(self.item))
        self.context.origins.inherit(guard, node)
        return guard

    def _wraps_consumer(self, node: cst.If) -> bool:
        return node.orelse is None and any(
            isinstance(s, cst.For) and self._walks_lists(s)
            for s in statements(node.body)
        )

    def _walks_lists(self, node: cst.For) -> bool:
        return bool(read_names(node.iter) & self.lists) or (
            isinstance(node.iter, cst.Call)
            and is_name(node.iter.func, "range")
            and bool(read_names(node.iter) & self.lists)
        )

    # --- consumers

    def _consume(self, node: cst.For) -> list[Statement]:
        """The body of a loop over lists, as it reads inside the producer."""
        bound = self._targets(node)
        if bound is None:
            raise _Unfit
        index, items = bound
        body = list(statements(node.body))
        if index in bound_names(node.body):
            raise _Unfit
        prelude: list[Statement] = []
        for name, target in items:
            self._bind_target(name, target, body, prelude)
        body = [*prelude, *body]
        if index is not None:
            body = [s for old in body for s in self._index_lists(old, index, body)]
        if index is not None and any(index in read_names(s) for s in body):
            raise _Unfit
        return self._keep_lines(node, body)

    def _keep_lines(self, node: cst.For, body: list[Statement]) -> list[Statement]:
        if body and any(line.comment for line in node.leading_lines):
            lines = [*node.leading_lines, *body[0].leading_lines]
            body[0] = body[0].with_changes(leading_lines=lines)
        elif body and not body[0].leading_lines:
            body[0] = body[0].with_changes(leading_lines=[cst.EmptyLine(indent=False)])
        return body

    def _targets(
        self, node: cst.For
    ) -> tuple[str | None, list[tuple[str, cst.BaseExpression]]] | None:
        """(index variable, [(list, target)]) of a loop over lists."""
        source, target = node.iter, cast(cst.BaseExpression, node.target)
        index: str | None = None
        if isinstance(source, cst.Call) and is_name(source.func, "enumerate"):
            if not isinstance(target, cst.Tuple) or len(target.elements) != 2:
                return None
            if len(source.args) != 1:
                return None
            index = next(target_names(target.elements[0].value))
            source, target = source.args[0].value, target.elements[1].value
        if isinstance(source, cst.Call) and is_name(source.func, "range"):
            arg, *more = source.args
            counted = arg.value.args if isinstance(arg.value, cst.Call) else ()
            lists = [code(a.value) for a in counted if called(arg.value, "len")]
            if more or len(lists) != 1 or lists[0] not in self.fills:
                return None
            return next(target_names(target)), []
        if isinstance(source, cst.Name) and source.value in self.fills:
            return index, [(source.value, target)]
        if isinstance(source, cst.Call) and is_name(source.func, "zip"):
            return self._zip_targets(index, source, target)
        return None

    def _zip_targets(
        self, index: str | None, source: cst.Call, target: cst.BaseExpression
    ) -> tuple[str | None, list[tuple[str, cst.BaseExpression]]] | None:
        lists = [a.value for a in source.args if a.keyword is None]
        if not isinstance(target, cst.Tuple) or len(target.elements) != len(lists):
            return None
        names = [n.value for n in lists if isinstance(n, cst.Name)]
        if len(names) != len(lists) or not set(names) <= set(self.fills):
            return None
        return index, list(zip(names, (e.value for e in target.elements)))

    def _bind_target(
        self,
        name: str,
        target: cst.BaseExpression,
        body: list[Statement],
        prelude: list[Statement],
    ) -> None:
        """``for …, exp_avg in zip(…, exp_avgs)`` → ``exp_avg = state["exp_avg"]``."""
        fill = self.fills[name]
        value = fill.value if fill.variable is None else cst.Name(fill.variable)
        if is_name(value, self.item) and isinstance(target, cst.Name):
            self._name_item(target.value, body)
            return
        if not same(target, value):
            prelude.append(assign([target], value))

    def _name_item(self, name: str, body: list[Statement]) -> None:
        """The parameter gets the name it has where the update is computed."""
        if self._renamed_item is None and name not in bound_names(self.producer):
            self._renamed_item = name
        elif name != (self._renamed_item or self.item):
            own = {name: cst.Name(self._renamed_item or self.item)}
            body[:] = [
                cast(Statement, substitute(s, own, self.context.origins)) for s in body
            ]

    # --- items

    def _index_lists(
        self, node: Statement, index: str, body: list[Statement]
    ) -> list[Statement]:
        pair = assignment(node)
        if pair is not None and isinstance(pair[0], cst.Name):
            name = self._item_of(pair[1], index)
            if name is not None and is_name(self.fills[name].value, pair[0].value):
                return []
        self._give_variables(node, index, body)
        origins = self.context.origins
        new = replace_nodes(node, lambda n: self._store(n, index), origins)
        new = replace_nodes(new, lambda n: self._item(n, index), origins)
        return [cast(Statement, new)]

    def _item(self, node: cst.CSTNode, index: str) -> cst.CSTNode | None:
        name = self._item_of(node, index)
        if name is None:
            return None
        fill = self.fills[name]
        if fill.variable is not None:
            return cst.Name(fill.variable)
        if is_name(fill.value, self.item):
            return cst.Name(self._renamed_item or self.item)
        return fill.value.deep_clone()

    def _store(self, node: cst.CSTNode, index: str) -> cst.CSTNode | None:
        """``bufs[i] = x`` → ``state["buf"] = x``, for a list that is written back."""
        if not isinstance(node, cst.AssignTarget):
            return None
        name = self._item_of(node.target, index)
        if name is None or self.fills[name].variable is not None:
            return None
        slot = _slot_of(self.fills[name].value)
        return None if slot is None else node.with_changes(target=expr(slot))

    def _item_of(self, node: cst.CSTNode, index: str) -> str | None:
        """``exp_avgs`` for ``exp_avgs[i]``."""
        if isinstance(node, cst.Subscript) and isinstance(node.value, cst.Name):
            if is_name(index_of(node), index) and node.value.value in self.fills:
                return node.value.value
        return None

    def _give_variables(
        self, node: Statement, index: str, body: list[Statement]
    ) -> None:
        """A list whose items are replaced becomes a variable, or its state slot."""
        for inner in all_statements([node]):
            statement_ = small(inner)
            if not isinstance(statement_, cst.Assign):
                continue
            for target in statement_.targets:
                name = self._item_of(target.target, index)
                if name is not None and not self._is_written_back(name):
                    self._variable_for(name, body)

    def _variable_for(self, name: str, body: list[Statement]) -> None:
        if self.fills[name].variable is None:
            taken = bound_names(self.producer) | set().union(*map(bound_names, body))
            variable = singular(name)
            while variable in taken:
                variable += "_"
            self.fills[name].variable = variable

    def _is_written_back(self, name: str) -> bool:
        """A later loop stores the list's items where they came from."""
        key = _slot_of(self.fills[name].value)
        if key is None:
            return False
        for node in all_statements(self.body[self.number + 1 :]):
            if not isinstance(node, cst.For) or not self._walks_lists(node):
                continue
            bound = self._targets(node)
            for list_name, target in bound[1] if bound else ():
                for inner in all_statements(statements(node.body)):
                    pair = assignment(inner)
                    if pair and list_name == name and same(pair[1], target):
                        if code(pair[0]) == key:
                            return True
        return False

    # --- the fused loop

    def _assemble(self, produced: Body, consumed: list[Statement]) -> list[Statement]:
        inside = self._replace_appends(produced)
        kept = [s for s in consumed if not _is_noop_store(s)]
        return [*inside, *_drop_noop_stores(kept)]

    def _replace_appends(self, body: Sequence[Statement]) -> list[Statement]:
        result: list[Statement] = []
        for node in body:
            pair = appended(node)
            if pair is not None and pair[0] in self.lists:
                variable = self.fills[pair[0]].variable
                if variable is not None:
                    bind = assign([cst.Name(variable)], pair[1])
                    result.append(with_comments(bind, node))
                continue
            if isinstance(node, cst.If):
                result.extend(self._replace_in_if(node))
                continue
            result.append(node)
        return result

    def _replace_in_if(self, node: cst.If) -> list[Statement]:
        """A condition around nothing but ``state = self.state[p]`` goes."""
        inner = self._replace_appends(statements(node.body))
        orelse = node.orelse
        if isinstance(orelse, cst.Else):
            rest = self._replace_appends(statements(orelse.body))
            orelse = orelse.with_changes(body=block(rest)) if rest else None
        if orelse is None and all(_looks_up_state(s) for s in inner):
            return inner
        return [node.with_changes(body=block(inner), orelse=orelse)]


def _looks_up_state(node: Statement) -> bool:
    pair = assignment(node)
    if pair is None or not isinstance(pair[0], cst.Name):
        return False
    return isinstance(pair[1], cst.Subscript) and dotted(pair[1].value) == "self.state"


def _slot_of(value: cst.BaseExpression) -> str | None:
    """``state["k"]`` for ``state["k"]`` and ``state.get("k")``."""
    if string_key(value) is not None:
        return code(value)
    if isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
        if value.func.attr.value == "get" and value.args:
            return f"{code(value.func.value)}[{code(value.args[0].value)}]"
    return None


def _is_noop_store(node: Statement) -> bool:
    pair = assignment(node)
    if pair is None:
        return False
    return same(*pair) or _slot_of(pair[1]) == code(pair[0])


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
        elif pair and _looks_up_state(node) and result:
            result.insert(len(result) - 1, node)
        else:
            result.append(node)
    return result


def _is_plain_binding(node: Statement) -> bool:
    pair = assignment(node)
    return pair is not None and isinstance(pair[0], cst.Name)


def singular(name: str) -> str:
    """``exp_avg`` for ``exp_avgs`` and ``exp_avg_list``."""
    if name.endswith("_list"):
        return name[: -len("_list")]
    return name[:-1] if name.endswith("s") and len(name) > 2 else f"{name}_item"


def _item_target(node: cst.For) -> cst.BaseExpression:
    target: cst.BaseExpression = node.target
    if isinstance(node.iter, cst.Call) and isinstance(target, cst.Tuple):
        return target.elements[-1].value
    return target


# --- None gradients -----------------------------------------------------------


def _skip_none(node: Statement, origins: Origins) -> cst.For:
    """``if p.grad is not None: …`` → ``if p.grad is None: continue``, then the rest."""
    loop = cast(cst.For, node)
    item = next(iter(target_names(_item_target(loop))))
    body = statements(loop.body)
    for number, inner in enumerate(body):
        if isinstance(inner, cst.If) and inner.orelse is None:
            rest_is_plain = number == len(body) - 1
            if code(inner.test) == f"{item}.grad is not None" and rest_is_plain:
                skip = stmt(f"if {item}.grad is None:\n    continue\n")
                skip = skip.with_changes(leading_lines=inner.leading_lines)
                origins.inherit(skip, inner)
                new = (*body[:number], skip, *statements(inner.body))
                return loop.with_changes(body=block(new))
    return loop
