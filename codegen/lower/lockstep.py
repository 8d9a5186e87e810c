"""Lists over the parameters, walked in lockstep: one loop, one variable for each list.

    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]           for p in group["params"]:
    bufs = [self.state[p]["buf"] for p in params]  if p.grad is None:
    for buf, grad in zip(bufs, grads):     →           continue
        buf.mul_(0.9).add_(grad)                   grad = p.grad
    for p, buf in zip(params, bufs):               buf = self.state[p]["buf"]
        p.add_(buf, alpha=-lr)                     buf.mul_(0.9).add_(grad)
                                                   p.add_(buf, alpha=-lr)

Loops become one as long as nothing that one of them computes for all parameters is
read by the next. Where it is (a norm over all gradients), a loop ends: lists that are
read as a whole are filled, and what a later loop needs is looked up again, or kept
by the position of its parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.analysis.liveness import upward_exposed
from codegen.lower.dependence import Dependence
from codegen.lower.families import Family, lasts
from codegen.lower.forms import (
    appended,
    appending,
    as_list,
    called,
    emptiness,
    free_reads,
    is_path,
    leaves_a_mark,
    may_fail,
    only_loops,
    repeated,
    skip_test,
)
from codegen.lower.loops import filled, singular
from codegen.lower.names import unlike
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
    is_name,
    map_bodies,
    negate,
    orelse_statements,
    own_statements,
    rebuild_if,
    read_names,
    replace_nodes,
    small,
    statements,
    stmt,
    string_key,
    target_names,
    with_comments,
)

_HINT = (
    "walk the parameters in one loop, or in loops that share nothing but lists with "
    "one item a parameter"
)


@dataclass(frozen=True)
class Listed:
    """A list: its family, and the variable that holds its item in the loop."""

    family: Family
    variable: str


@dataclass
class Segment:
    """A loop that is being put together."""

    family: Family
    body: list[Statement] = field(default_factory=list)
    made_from: list[Statement] = field(default_factory=list)
    closed: bool = False


class _Unfit(Exception):
    """These lists are not understood; the node that shows it, and why."""

    def __init__(self, node: cst.CSTNode, message: str) -> None:
        super().__init__(message)
        self.node = node
        self.message = message


def in_lockstep(body: Body, context: Context) -> Body:
    """Rewrite each block that builds lists over a group's parameters."""
    return _in_lockstep(body, body, context)


def _in_lockstep(body: Body, step: Body, context: Context) -> Body:
    result: list[Statement] = []
    for node in body:
        if small(node) is None and not _is_walk(node):
            node = map_bodies(node, lambda part: _in_lockstep(part, step, context))
        result.append(node)
    plain = _unwrapped(result)
    if not any(map(_builds_list, all_statements(plain))) and not filled(plain):
        return tuple(result)
    dependence = Dependence((*step, *result), context)
    lockstep = Lockstep(plain, context, dependence)
    try:
        new = lockstep.run()
    except _Unfit as unfit:
        context.refuse("R2", unfit.node, unfit.message, _HINT)
        return tuple(result)
    return new if lockstep.found else tuple(result)


def _is_walk(node: Statement) -> bool:
    return isinstance(node, cst.For) and not any(
        string_key(n) == "params" or dotted(n) == "self.param_groups"
        for n in walk(node)
    )


def _builds_list(node: cst.CSTNode) -> bool:
    if small(node) is None:
        return False
    return any(isinstance(n, (cst.ListComp, cst.GeneratorExp)) for n in walk(node))


def _unwrapped(body: Iterable[Statement]) -> Body:
    """Without ``with torch.no_grad():``, which changes no values."""
    result: list[Statement] = []
    for node in body:
        modes = isinstance(node, cst.With) and all(
            code(i.item).startswith(("torch.no_grad", "torch.inference_mode"))
            for i in node.items
        )
        inside = _unwrapped(statements(cast(cst.With, node).body)) if modes else ()
        result.extend(inside if modes else (node,))
    return tuple(result)


class Lockstep:
    """The statements of one block, taken into loops over the parameters."""

    def __init__(self, body: Body, context: Context, dependence: Dependence) -> None:
        self.body = body
        self.context = context
        self.dependence = dependence
        self.origins = context.origins
        self.found = bool(filled(body))
        self.lists: dict[str, Listed] = {}
        self.empty: dict[str, Statement] = {}
        self.item = _first_item(body)
        self.out: list[Statement] = []
        self.segment: Segment | None = None
        self.definitions: dict[str, list[Statement]] = {}
        self.kept: set[str] = set()
        self.stores: dict[str, str] = {}
        whole = block(body)
        self.taken = (bound_names(whole) | read_names(whole)) - _only_walked(body)

    def run(self) -> Body:
        for number, node in enumerate(self.body):
            self.needed = upward_exposed(self.body[number + 1 :])
            self.reading = read_names(node)
            self._statement(node)
        self.needed = self.reading = set()
        self._flush()
        return tuple(self.out)

    # --- one statement

    def _statement(self, node: Statement) -> None:
        if self._begins(node) or self._is_guard(node):
            return
        if isinstance(node, cst.If) and self._asks_for_any(node):
            self._each(statements(node.body), self.needed)
            return
        if self._mapped(node):
            if isinstance(node, cst.If):
                self._name_items(node)
            family = self._family_of(node)
            new = self._fill_read(self._items(node), node)
            self._join(family, new, node)
        elif self._mentions(node) or self._reads_items(node):
            self._whole(node)
        else:
            self._beside(node)

    def _fill_read(self, new: list[Statement], node: Statement) -> list[Statement]:
        """Lists that the turn of one parameter reads as a whole are filled before."""
        read = set().union(*map(read_names, new), set()) & {*self.lists, *self.empty}
        filled: dict[str, cst.Name] = {}
        for name in sorted(read):
            found = self._list(cst.Name(name), node)
            if not isinstance(found, cst.Name):
                raise _Unfit(node, "a list of parameters is used as a whole")
            filled[name] = found
        if filled:
            self._flush()
            self._forget_changed(node)
        return [cast(Statement, substitute(s, filled, self.origins)) for s in new]

    def _forget_changed(self, node: Statement) -> None:
        """A list that is changed as a whole has no item for each parameter any more."""
        items = self.needed_items()
        for variable, found in self.definitions.items():
            if variable in items and found and self.dependence.replaces(found, [node]):
                raise _Unfit(
                    node, "what lists were made of is replaced outside of loops"
                )
        for name in [n for n in self.lists if self.dependence.changes(node, n)]:
            del self.lists[name]

    def _asks_for_any(self, node: cst.If) -> bool:
        """``if params:`` around loops, which do nothing without parameters anyway."""
        name = emptiness(negate(node.test))
        if name not in self.lists or node.orelse is not None:
            return False
        return not any(
            leaves_a_mark(s) for s in statements(node.body) if not only_loops(s)
        )

    def _each(self, body: Body, after: set[str]) -> None:
        """Statements that stand inside another one, in its place."""
        for number, inner in enumerate(body):
            self.needed = upward_exposed(body[number + 1 :], after)
            self.reading = read_names(inner)
            self._statement(inner)

    def _begins(self, node: Statement) -> bool:
        """``params = [p for p in group["params"] if …]`` and ``grads = []``."""
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name):
            return False
        name, value = pair[0].value, as_list(pair[1])
        if code(value) in ("[]", "list()") and self._is_filled(name):
            self.empty[name] = node
            self.lists.pop(name, None)
            return True
        family = self._selection(value)
        if family is None:
            return False
        self.lists[name] = Listed(family, self.item)
        return True

    def _is_filled(self, name: str) -> bool:
        """Whether the block's loops append to a list."""
        return any(
            pair[0] == name
            for s in all_statements(self.body)
            if (pair := appended(s)) is not None
        )

    def _selection(self, value: cst.BaseExpression) -> Family | None:
        if string_key(value) == "params":
            return Family(value, ())
        if not isinstance(value, cst.ListComp):
            return None
        loop = value.for_in
        if loop.inner_for_in is not None or not isinstance(loop.target, cst.Name):
            return None
        if code(value.elt) != loop.target.value:
            return None
        source = self._source(loop.iter)
        if source is None or source.variable != self.item:
            return None
        if isinstance(loop.iter, cst.Name):
            self.found = True
        rename = {loop.target.value: cst.Name(self.item)}
        tests = [self._renamed(i.test, rename) for i in loop.ifs]
        return self._family(source.family, tests, value)

    def _family(
        self,
        base: Family,
        tests: Sequence[cst.BaseExpression],
        node: cst.CSTNode,
    ) -> Family:
        for test in tests:
            if not lasts(test, self.item):
                raise _Unfit(
                    node, "which parameters are in this list may change while it lives"
                )
        known_ = {code(c) for c in base.conditions}
        new = tuple(t for t in tests if code(t) not in known_)
        return Family(base.source, (*base.conditions, *new))

    def _source(self, node: cst.BaseExpression) -> Listed | None:
        """The list that an expression names: one's own, or a group's parameters."""
        node = as_list(node)
        if isinstance(node, cst.Name):
            return self.lists.get(node.value)
        if string_key(node) == "params":
            return Listed(Family(node, ()), self.item)
        return None

    def _renamed(
        self, node: cst.BaseExpression, names: dict[str, cst.Name]
    ) -> cst.BaseExpression:
        new = {old: name for old, name in names.items() if old != name.value}
        return cast(cst.BaseExpression, substitute(node, new, self.origins))

    def _is_guard(self, node: Statement) -> bool:
        """``if not params: continue``: without parameters, no loop does anything."""
        if not isinstance(node, cst.If) or node.orelse is not None:
            return False
        body = statements(node.body)
        inner = small(body[0]) if len(body) == 1 else None
        if isinstance(inner, cst.Raise):
            return self._mentions(node)
        if not isinstance(inner, (cst.Continue, cst.Return)):
            return False
        name = emptiness(node.test)
        if name not in self.lists and name not in self.empty:
            return False
        whole = any(node is s for s in self.body)
        rest = self.body[self.body.index(node) + 1 :] if whole else self.body
        # leaving the step leaves out other groups, too
        leaves = isinstance(inner, cst.Return)
        if (
            leaves
            or any(map(may_fail, rest))
            or any(leaves_a_mark(s) for s in rest if not only_loops(s))
        ):
            listed = self.lists.get(name)
            if listed is None:
                return False
            self._flush()
            self.out.append(node.with_changes(test=listed.family.is_empty(self.item)))
            self.origins.inherit(self.out[-1], node)
        return True

    # --- what is done for each parameter by itself

    def _mapped(self, node: Statement) -> bool:
        """Whether a statement does the same for each item of its lists."""
        if isinstance(node, cst.For):
            if any(
                isinstance(small(s), cst.Break)
                for s in own_statements(statements(node.body))
            ):
                return False
            return self._walks(node) is not None
        if isinstance(node, cst.If):
            if self._mentions_in(node.test) or not self.dependence.is_invariant(node):
                return False
            inner = [(self._mapped(s), self._is_local(s)) for s in self._in_turn(node)]
            whole = all(mapped or local for mapped, local in inner)
            return whole and any(mapped for mapped, _ in inner)
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name):
            return False
        return self._comprehended(pair[1]) is not None

    def _in_turn(self, node: cst.If) -> Iterator[Statement]:
        """The statements of both branches, while lists that they make are known."""
        lists = dict(self.lists)
        for branch in (statements(node.body), orelse_statements(node)):
            for inner in branch:
                yield inner
                pair = assignment(inner)
                found = self._comprehended(pair[1]) if pair is not None else None
                if found is not None and pair and isinstance(pair[0], cst.Name):
                    self.lists[pair[0].value] = Listed(found[0], self.item)
            self.lists = dict(lists)

    def _is_local(self, node: Statement) -> bool:
        """A number for the branch at hand, which nothing reads afterwards."""
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name):
            return False
        name = pair[0].value
        return not self._mentions(node) and name not in self.needed

    def _comprehended(
        self, value: cst.BaseExpression
    ) -> tuple[Family, cst.BaseExpression] | None:
        """(family, item) of a list that has an item for each item of another."""
        value = as_list(value)
        if isinstance(value, cst.Name):
            listed = self.lists.get(value.value)
            return None if listed is None else (listed.family, self._name(listed))
        same = repeated(value)
        if same is not None:
            listed = self._source(same[1])
            return None if listed is None else (listed.family, same[0])
        if not isinstance(value, cst.ListComp):
            return None
        loop = value.for_in
        if loop.inner_for_in is not None:
            return None
        bound = self._bound(loop.target, loop.iter, value)
        if bound is None:
            return None
        family, names, index = bound
        element = self._indexed(value.elt, index, family)
        tests = [
            self._renamed(self._indexed(i.test, index, family), names) for i in loop.ifs
        ]
        if tests:
            family = self._family(family, tests, value)
        return family, self._renamed(element, names)

    def _name(self, listed: Listed) -> cst.Name:
        return cst.Name(listed.variable)

    def _indexed(
        self, node: cst.BaseExpression, index: str | None, family: Family
    ) -> cst.BaseExpression:
        if index is None:
            return node

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            name = _item_of(inner, index)
            return (
                self._name(self._beside_walked(name, family, inner))
                if name in self.lists
                else None
            )

        return cast(cst.BaseExpression, replace_nodes(node, replace, self.origins))

    def _beside_walked(self, name: str, family: Family, node: cst.CSTNode) -> Listed:
        """A list that is read by the position of a walk over another one."""
        listed = self.lists[name]
        if listed.family.key() != family.key():
            raise _Unfit(node, "these lists don't hold an item for the same parameters")
        return listed

    def _walks(self, node: cst.For) -> Family | None:
        if node.orelse is not None:
            return None
        bound = self._bound(node.target, node.iter, node)
        return None if bound is None else bound[0]

    def _bound(
        self,
        target: cst.BaseExpression,
        source: cst.BaseExpression,
        node: cst.CSTNode,
    ) -> tuple[Family, dict[str, cst.Name], str | None] | None:
        """(family, variable → item, index) of a walk over lists."""
        index: str | None = None
        if called(source, "enumerate") and isinstance(target, cst.Tuple):
            if len(cast(cst.Call, source).args) != 1:
                return None
            index = next(target_names(target.elements[0].value), None)
            source = cast(cst.Call, source).args[0].value
            target = target.elements[1].value
        if called(source, "range"):
            arg, *more = cast(cst.Call, source).args
            if more or not called(arg.value, "len"):
                return None
            listed = self._source(cast(cst.Call, arg.value).args[0].value)
            index = next(target_names(target), None)
            return None if listed is None else (listed.family, {}, index)
        sources, targets = [source], [target]
        if called(source, "zip"):
            args = cast(cst.Call, source).args
            sources = [a.value for a in args if a.keyword is None]
            if not isinstance(target, cst.Tuple):
                return None
            targets = [e.value for e in target.elements]
        found = [self._source(s) for s in sources]
        listed_ = [f for f in found if f is not None]
        if not listed_ or len(targets) != len(found):
            return None
        if len(listed_) != len(found):
            raise _Unfit(node, "lists of parameters are walked beside something else")
        if len({f.family.key() for f in listed_}) != 1:
            raise _Unfit(node, "these lists don't hold an item for the same parameters")
        if not all(isinstance(t, cst.Name) for t in targets):
            return None
        names = {code(t): self._name(f) for t, f in zip(targets, listed_)}
        return listed_[0].family, names, index

    # --- statements for one parameter

    def _family_of(self, node: Statement) -> Family:
        if isinstance(node, cst.For):
            return cast(Family, self._walks(node))
        if isinstance(node, cst.If):
            families = [
                self._family_of(s) for s in self._in_turn(node) if self._mapped(s)
            ]
            if len({f.key() for f in families}) != 1:
                raise _Unfit(node, "its lists are of different parameters")
            return families[0]
        pair = assignment(node)
        assert pair is not None
        found = self._comprehended(pair[1])
        assert found is not None
        return found[0]

    def _items(self, node: Statement) -> list[Statement]:
        """A statement on lists, as it reads for one parameter."""
        if isinstance(node, cst.For):
            return self._loop_body(node)
        if isinstance(node, cst.If):
            body = self._branch(statements(node.body))
            rest = self._branch(orelse_statements(node))
            return [rebuild_if(node, node.test, body, rest)]
        pair = assignment(node)
        assert pair is not None
        if not self._mapped(node):
            return [node]
        family, value = cast("tuple[Family, cst.BaseExpression]", self._found(pair[1]))
        return self._bind(cast(cst.Name, pair[0]).value, family, value, node)

    def _found(
        self, value: cst.BaseExpression
    ) -> tuple[Family, cst.BaseExpression] | None:
        if isinstance(as_list(value), cst.ListComp):
            self.found = True
        return self._comprehended(value)

    def _branch(self, body: Sequence[Statement]) -> Body:
        return tuple(s for node in body for s in self._items(node))

    def _bind(
        self, name: str, family: Family, value: cst.BaseExpression, node: Statement
    ) -> list[Statement]:
        """``grads = [p.grad …]`` → ``grad = p.grad``."""
        known_ = self.lists.get(name)
        own = known_ is not None and known_.variable != self.item
        variable = known_.variable if known_ is not None and own else self._fresh(name)
        self.lists[name] = Listed(family, variable)
        self.kept.discard(name)
        if is_name(value, variable):
            return []
        bind = with_comments(assign([cst.Name(variable)], value), node)
        self.origins.inherit(bind, node)
        return [bind]

    def _fresh(self, name: str) -> str:
        variable = singular(name)
        while variable in self.taken or variable == self.item:
            variable += "_"
        self.taken.add(variable)
        return variable

    def _name_items(self, node: cst.If) -> None:
        """A list of parameters that a branch replaces gets a variable before."""
        for inner in all_statements([node]):
            pair = assignment(inner)
            if pair is None or not isinstance(pair[0], cst.Name):
                continue
            listed = self.lists.get(pair[0].value)
            if listed is not None and listed.variable == self.item:
                value = cst.Name(self.item)
                bind = self._bind(pair[0].value, listed.family, value, inner)
                self._join(listed.family, [_plain(b) for b in bind], inner)

    def _loop_body(self, node: cst.For) -> list[Statement]:
        bound = self._bound(node.target, node.iter, node)
        assert bound is not None
        family, names, index = bound
        if index in bound_names(node.body):
            raise _Unfit(node, f"the position {index!r} is bound in the loop")
        body = statements(_skip_none(node, self.item_of(node)).body)
        prelude: list[Statement] = []
        rebound = set().union(*(bound_names(s) for s in body), set())
        for target, name in list(names.items()):
            if target in rebound and name.value in self._variables_needed():
                fresh = self._fresh(f"{target}_s")
                prelude.append(assign([cst.Name(fresh)], name))
                names[target] = cst.Name(fresh)
        rename = {old: new for old, new in names.items() if old != new.value}
        inner: list[Statement] = []
        for old in body:
            new = cast(Statement, substitute(old, rename, self.origins))
            new = cast(
                Statement,
                replace_nodes(new, lambda n: self._count_items(n, node), self.origins),
            )
            inner.append(self._stored(new, index, family))
        inner = self._fill(self._counted(inner, index, node), family)
        if inner and not prelude:
            inner[0] = _comments_of(node, inner[0])
        return [*prelude, *inner]

    def item_of(self, node: cst.For) -> str:
        return next(target_names(node.target), "")

    def _variables_needed(self) -> set[str]:
        return {
            listed.variable
            for name, listed in self.lists.items()
            if name in self.needed or listed.variable == self.item
        }

    def _stored(self, node: Statement, index: str | None, family: Family) -> Statement:
        """``grads[i]`` is the variable, where it is read and where it is stored."""
        if index is None:
            return node

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            if isinstance(inner, cst.AssignTarget):
                name = _item_of(inner.target, index)
                if name in self.lists:
                    listed = self._beside_walked(name, family, inner)
                    return inner.with_changes(target=self._name(listed))
            name = _item_of(inner, index)
            if name not in self.lists:
                return None
            return self._name(self._beside_walked(name, family, inner))

        for inner in all_statements([node]):
            pair = assignment(inner)
            name = _item_of(pair[0], index) if pair is not None else None
            if name in self.lists and self.lists[name].variable == self.item:
                raise _Unfit(inner, "a list of parameters is written to")
        new = cast(Statement, replace_nodes(node, replace, self.origins))
        return new

    def _counted(
        self, body: list[Statement], index: str | None, loop: cst.For
    ) -> list[Statement]:
        """A position that is used as a number is counted."""
        if index is None or not any(index in read_names(s) for s in body):
            return body
        if index in self.needed or not isinstance(loop.target, cst.Tuple):
            raise _Unfit(loop, f"the position {index!r} is used other than as an index")
        name = unlike(index, self.taken)
        self.taken.add(name)
        self.out.append(stmt(f"{name} = -1"))
        body = [
            cast(Statement, substitute(s, {index: cst.Name(name)}, self.origins))
            for s in body
        ]
        return [stmt(f"{name} = {name} + 1"), *body]

    def _fill(self, body: Sequence[Statement], family: Family) -> list[Statement]:
        """``grads.append(p.grad)`` → ``grad = p.grad``."""
        result: list[Statement] = []
        tests: list[cst.BaseExpression] = []
        for node in body:
            pair = appended(node)
            if pair is not None and (pair[0] in self.empty or pair[0] in self.lists):
                result += self._note(node, pair, family, tests)
            elif isinstance(node, cst.If):
                result.append(self._fill_if(node, family, tests))
                test = skip_test(node)
                tests += [] if test is None else [negate(test)]
            else:
                if self._fills(node):
                    raise _Unfit(node, "a list is filled in an inner loop")
                result.append(node)
        return result

    def _fill_if(
        self, node: cst.If, family: Family, tests: Sequence[cst.BaseExpression]
    ) -> Statement:
        if not self._fills(node):
            return node
        inside = self._family(family, (*tests, node.test), node)
        body = self._fill(statements(node.body), inside)
        other = self._family(family, (*tests, negate(node.test)), node)
        rest = self._fill(orelse_statements(node), other)
        return rebuild_if(node, node.test, tuple(body), tuple(rest))

    def _fills(self, node: Statement) -> bool:
        """Whether a list of the block's is appended to in here."""
        pairs = (appended(s) for s in all_statements([node]))
        return any(p is not None and p[0] in self.empty for p in pairs)

    def _note(
        self,
        node: Statement,
        pair: tuple[str, cst.BaseExpression],
        family: Family,
        tests: Sequence[cst.BaseExpression],
    ) -> list[Statement]:
        name, value = pair
        here = self._family(family, tests, node)
        self.empty.pop(name, None)
        self.found = True
        listed = self.lists.get(name)
        if listed is not None:
            raise _Unfit(node, f"list {name!r} is filled in two different ways")
        if is_name(value, self.item) and listed is None:
            self.lists[name] = Listed(here, self.item)
            return []
        return self._bind(name, here, value, node)

    # --- putting loops together

    def _join(self, family: Family, new: list[Statement], node: Statement) -> None:
        segment = self.segment
        if segment is not None and (
            segment.closed
            or segment.family.key() != family.key()
            or self._conflict(segment.made_from, node)
        ):
            self._flush()
        if self.segment is None:
            self.segment = Segment(family)
            self._look_up_again(new)
        leading, new = self._leading(new, family)
        self.segment.body.extend(new)
        self.segment.made_from.append(node)
        self._forget_replaced(node)
        self._define(new)
        self.segment.closed = any(
            isinstance(small(s), cst.Continue) for s in own_statements(new)
        )

    def _leading(
        self, new: list[Statement], family: Family
    ) -> tuple[list[Statement], list[Statement]]:
        """Skips that say what the family's conditions say."""
        tests = {code(negate(c)) for c in family.conditions}
        for number, node in enumerate(new):
            test = skip_test(node)
            if test is None or code(test) not in tests:
                return new[:number], new[number:]
        return new, []

    def _conflict(self, old: Sequence[Statement], node: Statement) -> bool:
        """Whether one loop's statements need another's to be over."""
        lists = {*self.lists, *self.empty}
        return self.dependence.conflict(old, [node], lists, self.needed)

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
                        n in self.definitions or n in ("self", self.item)
                        for n in read_names(pair[1])
                    )
                    and name not in self.definitions
                )
                known_already = self.definitions.get(name)
                if known_already and code(known_already[-1]) == code(_plain(node)):
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
                    self.definitions.get(n) or n in ("self", self.item)
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

    def _look_up_again(self, new: Sequence[Statement]) -> None:
        """A new loop begins: the items that it reads are looked up."""
        assert self.segment is not None
        read = free_reads(new) | self.needed_items()
        seen: set[str] = set()
        for name, listed in self.lists.items():
            variable = listed.variable
            if variable == self.item or variable not in read or variable in seen:
                continue
            seen.add(variable)
            if name in self.kept:
                kept = expr(f"{self.stores[name]}[p_idx]")
                self.segment.body.append(assign([cst.Name(variable)], kept))
            else:
                known = set(map(code, self.segment.body))
                found = map(_plain, self.definitions.get(variable, ()))
                self.segment.body += [s for s in found if code(s) not in known]

    def needed_items(self) -> set[str]:
        return {v.variable for k, v in self.lists.items() if k in self.needed}

    def _flush(self) -> None:
        """End the loop at hand."""
        segment, self.segment = self.segment, None
        if segment is None or not segment.body:
            return
        body = list(segment.body)
        for name, listed in self.lists.items():
            needed = name in self.needed or name in self.reading
            if needed and self._must_keep(listed, segment):
                self._keep(name, listed, body)
        self._emit(segment, body)

    def _must_keep(self, listed: Listed, segment: Segment) -> bool:
        if listed.variable == self.item or self.definitions.get(listed.variable):
            return False
        return any(listed.variable in bound_names(s) for s in segment.body)

    def _keep(self, name: str, listed: Listed, body: list[Statement]) -> None:
        """What a later loop reads, by the position of its parameter."""
        bound = (n for n, s in enumerate(body) if listed.variable in bound_names(s))
        after = body[next(bound, 0) :]
        if any(isinstance(small(s), cst.Continue) for s in own_statements(after)):
            raise _Unfit(body[0], f"list {name!r} is needed after a loop that skips")
        target = expr(f"{self._open_store(name)}[p_idx]")
        body.append(assign([target], cst.Name(listed.variable)))

    def _open_store(self, name: str) -> str:
        """The dict by position for a list: not the list itself, if that is filled."""
        if name not in self.stores:
            filled = name in self.context.whole_lists
            self.stores[name] = self._unused(name) if filled else name
            self.out.append(assign([cst.Name(self.stores[name])], expr("{}")))
        self.kept.add(name)
        return self.stores[name]

    def _emit(self, segment: Segment, body: list[Statement]) -> None:
        skips: list[Statement] = []
        for condition in segment.family.conditions:
            leave = cst.SimpleStatementLine([cst.Continue()])
            skips.append(cst.If(negate(condition), block([leave])))
        source = code(segment.family.source)
        head = f"for {self.item} in {source}:\n    pass\n"
        if any("p_idx" in read_names(s) for s in body):
            head = f"for p_idx, {self.item} in enumerate({source}):\n    pass\n"
        loop = cst.ensure_type(stmt(head), cst.For)
        loop = loop.with_changes(body=block([*skips, *body]))
        for part in walk(loop.iter):
            self.origins.inherit(part, segment.family.source)
        self.origins.inherit(loop, segment.body[0])
        for skip in skips:
            for part in walk(skip):
                self.origins.inherit(part, segment.family.source)
        self.out.append(loop)

    # --- what is done with lists as a whole

    def _whole(self, node: Statement) -> None:
        """``torch.stack(norms).norm()``: the loop ends, with the list filled."""
        if isinstance(node, cst.If) and node.orelse is None:
            self._inside(node)
            return
        line = small(node)
        known = isinstance(line, (cst.Assign, cst.AugAssign, cst.Expr, cst.AnnAssign))
        if not known or read_names(node) & self.empty.keys():
            raise _Unfit(node, "a list of parameters is used as a whole")
        assert isinstance(line, (cst.Assign, cst.AugAssign, cst.Expr, cst.AnnAssign))
        self.found = self.found or _builds_list(node)
        value = cast(cst.BaseExpression, line.value)
        for replace in (self._count_items, self._part, self._list):
            value = cast(
                cst.BaseExpression,
                replace_nodes(value, lambda n: replace(n, node), self.origins),
            )
        new = cast(cst.SimpleStatementLine, node)
        new = new.with_changes(body=[line.with_changes(value=value)])
        self.origins.inherit(new, node)
        self._flush()
        if self._reads_items(new):
            raise _Unfit(node, "one parameter's own is read outside of the loops")
        self._forget_changed(node)
        for name in bound_names(new):
            self.lists.pop(name, None)
        self.out.append(new)

    def _count_items(self, inner: cst.CSTNode, node: Statement) -> cst.CSTNode | None:
        """``len(params)``, counted."""
        if not called(inner, "len"):
            return None
        listed = self._source(cast(cst.Call, inner).args[0].value)
        return None if listed is None else self._count(listed.family)

    def _part(self, inner: cst.CSTNode, node: Statement) -> cst.CSTNode | None:
        """``[g.norm() for g in grads]`` becomes a list that the loop fills."""
        if not isinstance(inner, (cst.ListComp, cst.GeneratorExp)):
            return None
        found = self._comprehended(cst.ListComp(inner.elt, inner.for_in))
        if found is None:
            return None
        part = self._unused("part")
        bind = assign([cst.Name(part)], found[1])
        self.origins.inherit(bind, node)
        return self._filling(self._unused("parts"), part, found[0], [bind], node)

    def _list(self, inner: cst.CSTNode, node: Statement) -> cst.CSTNode | None:
        """A list that is read as a whole is filled."""
        if not isinstance(inner, cst.Name) or inner.value not in self.lists:
            return None
        listed = self.lists[inner.value]
        if listed.variable == self.item:
            raise _Unfit(node, "a list of parameters is used as a whole")
        if self.segment and self._conflict(self.segment.made_from, node):
            self._flush()
        name = inner.value
        if self.stores.get(name) == name:
            name = self._unused(name)
        return self._filling(name, listed.variable, listed.family, [], node)

    def _filling(
        self,
        name: str,
        variable: str,
        family: Family,
        before: list[Statement],
        node: Statement,
    ) -> cst.Name:
        new = [*before, appending(name, variable)]
        self.origins.inherit(new[-1], node)
        self._join(family, new, node)
        self.context.whole_lists.add(name)
        self.out.append(assign([cst.Name(name)], expr("[]")))
        return cst.Name(name)

    def _unused(self, name: str) -> str:
        while name in self.taken or name in self.lists:
            name += "_"
        self.taken.add(name)
        return name

    def _inside(self, node: cst.If) -> None:
        """A branch with loops of its own: what it replaces is kept by position."""
        if self._mentions_in(node.test):
            raise _Unfit(node, "a list of parameters is used as a whole")
        after = self.needed
        self.needed = after | read_names(node)
        replaced = [n for n in sorted(bound_names(node)) if n in self.lists]
        for name in replaced:
            listed = self.lists[name]
            self._name_items(node)
            listed = self.lists[name]
            kept = expr(f"{self._open_store(name)}[p_idx]")
            store = assign([kept], cst.Name(listed.variable))
            self.kept.discard(name)
            self._join(listed.family, [store], node)
            self.kept.add(name)
        self._flush()
        outside, self.out = self.out, []
        self._each(statements(node.body), after | set(replaced))
        self.needed = after | set(replaced)
        self._flush()
        inside, self.out = self.out, outside
        self.out.append(node.with_changes(body=block(inside)))
        self.origins.inherit(self.out[-1], node)
        self.needed = after

    def _count(self, family: Family) -> cst.BaseExpression:
        item, source = self.item, code(family.source)
        if not family.conditions:
            return expr(f"len({source})")
        # a test may be any value, and counts as one
        return expr(f"sum(1 if {family.test()} else 0 for {item} in {source})")

    # --- the rest

    def _mentions(self, node: cst.CSTNode) -> bool:
        return self._mentions_in(node) or any(n in self.empty for n in read_names(node))

    def _mentions_in(self, node: cst.CSTNode) -> bool:
        return any(n in self.lists for n in read_names(node))

    def _reads_items(self, node: Statement) -> bool:
        own = {v.variable for v in self.lists.values()} - {self.item}
        return bool(free_reads([node]) & own)

    def _beside(self, node: Statement) -> None:
        """A statement that knows nothing of lists goes before the loop, if it may."""
        segment = self.segment
        if segment is not None:
            if not self.dependence.may_move(node, segment.made_from):
                self._flush()
        self._forget_changed(node)
        for name in bound_names(node):
            self.lists.pop(name, None)
        self.out.append(node)


# --- helpers -----------------------------------------------------------------


def _first_item(body: Body) -> str:
    """The name of a parameter where a group's are walked first."""
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, (cst.For, cst.CompFor)):
            source, target = node.iter, cast(cst.BaseExpression, node.target)
            if called(source, "enumerate") and isinstance(target, cst.Tuple):
                source = cast(cst.Call, source).args[0].value
                target = target.elements[1].value
            if string_key(source) == "params" and isinstance(target, cst.Name):
                return target.value
    return "p"


def _only_walked(body: Body) -> set[str]:
    """Names that are bound as a loop's or comprehension's variable, and nowhere else."""
    walked: set[str] = set()
    bound: set[str] = set()
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, (cst.For, cst.CompFor)):
            walked.update(target_names(node.target))
            for part in walk(node.target):
                walked.update(target_names(part))
        elif isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign)):
            bound.update(target_names(node.target))
    return walked - bound


def _item_of(node: cst.CSTNode, index: str) -> str:
    """``exp_avgs`` for ``exp_avgs[i]``."""
    if isinstance(node, cst.Subscript) and isinstance(node.value, cst.Name):
        if is_name(index_of(node), index):
            return node.value.value
    return ""


def _skip_none(node: cst.For, item: str) -> cst.For:
    """``if p.grad is not None: …`` around all → ``if p.grad is None: continue``."""
    body = statements(node.body)
    first, *more = body
    if more or not isinstance(first, cst.If) or first.orelse is not None:
        return node
    if code(first.test) != f"{item}.grad is not None":
        return node
    skip = cst.If(negate(first.test), block([stmt("continue")]))
    return node.with_changes(body=block([skip, *statements(first.body)]))


def _plain(node: Statement) -> Statement:
    return node.with_changes(leading_lines=[])


def _comments_of(loop: cst.For, first: Statement) -> Statement:
    if any(line.comment for line in loop.leading_lines):
        lines = [*loop.leading_lines, *first.leading_lines]
        return first.with_changes(leading_lines=lines)
    return first
