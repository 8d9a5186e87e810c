"""Statements on whole lists, as they read in the turn of one parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from codegen.lower.domains import ParamDomain
from codegen.lower.filled import skip_none
from codegen.lower.forms import appended, as_list, item_of, skip_test
from codegen.lower.listed import KnownLists, Listed, Unfit
from codegen.lower.names import fresh_name, rename
from codegen.lower.segments import Segments, plain
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assign,
    assignment,
    block,
    bound_names,
    is_name,
    negate,
    orelse_statements,
    own_statements,
    read_names,
    rebuild_if,
    replace_nodes,
    small,
    statements,
    stmt,
    target_names,
    with_comments,
)


class PerParameter:
    """Statements on whole lists, as they read in the turn of one parameter."""

    def __init__(self, lists: KnownLists, segments: Segments) -> None:
        self.lists = lists
        self.segments = segments
        self.origins = lists.origins
        self.dependence = segments.dependence

    def mapped(self, node: Statement) -> bool:
        """Whether a statement does the same for each item of its lists."""
        if isinstance(node, cst.For):
            if any(
                isinstance(small(s), cst.Break)
                for s in own_statements(statements(node.body))
            ):
                return False
            return self.lists.walks(node) is not None
        if isinstance(node, cst.If):
            if self.lists.holds_any(node.test) or not self.dependence.is_invariant(
                node
            ):
                return False
            inner = [(self.mapped(s), self._is_local(s)) for s in self._in_turn(node)]
            whole = all(mapped or local for mapped, local in inner)
            return whole and any(mapped for mapped, _ in inner)
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name):
            return False
        return self.lists.comprehended(pair[1]) is not None

    def _in_turn(self, node: cst.If) -> Iterator[Statement]:
        """The statements of both branches, while lists that they make are known."""
        lists = dict(self.lists.known)
        for branch in (statements(node.body), orelse_statements(node)):
            for inner in branch:
                yield inner
                pair = assignment(inner)
                found = self.lists.comprehended(pair[1]) if pair is not None else None
                if found is not None and pair and isinstance(pair[0], cst.Name):
                    self.lists.known[pair[0].value] = Listed(found[0], self.lists.item)
            self.lists.known = dict(lists)

    def _is_local(self, node: Statement) -> bool:
        """A number for the branch at hand, which nothing reads afterwards."""
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name):
            return False
        name = pair[0].value
        return not self.lists.mentions(node) and name not in self.lists.needed

    def domain_of(self, node: Statement) -> ParamDomain:
        if isinstance(node, cst.For):
            return cast(ParamDomain, self.lists.walks(node))
        if isinstance(node, cst.If):
            domains = [self.domain_of(s) for s in self._in_turn(node) if self.mapped(s)]
            if len({f.key() for f in domains}) != 1:
                raise Unfit(node, "its lists are of different parameters")
            return domains[0]
        pair = assignment(node)
        assert pair is not None
        found = self.lists.comprehended(pair[1])
        assert found is not None
        return found[0]

    def items(self, node: Statement) -> list[Statement]:
        """A statement on lists, as it reads for one parameter."""
        if isinstance(node, cst.For):
            return self._loop_body(node)
        if isinstance(node, cst.If):
            body = self._branch(statements(node.body))
            rest = self._branch(orelse_statements(node))
            return [rebuild_if(node, node.test, body, rest)]
        pair = assignment(node)
        assert pair is not None
        if not self.mapped(node):
            return [node]
        domain, value = cast(
            "tuple[ParamDomain, cst.BaseExpression]", self._found(pair[1])
        )
        return self._bind(cast(cst.Name, pair[0]).value, domain, value, node)

    def _found(
        self, value: cst.BaseExpression
    ) -> tuple[ParamDomain, cst.BaseExpression] | None:
        if isinstance(as_list(value), cst.ListComp):
            self.lists.found = True
        return self.lists.comprehended(value)

    def _branch(self, body: Sequence[Statement]) -> Body:
        return tuple(s for node in body for s in self.items(node))

    def _bind(
        self, name: str, domain: ParamDomain, value: cst.BaseExpression, node: Statement
    ) -> list[Statement]:
        """``grads = [p.grad …]`` → ``grad = p.grad``."""
        known_ = self.lists.known.get(name)
        own = known_ is not None and known_.variable != self.lists.item
        variable = (
            known_.variable if known_ is not None and own else self.lists.fresh(name)
        )
        self.lists.known[name] = Listed(domain, variable)
        self.segments.kept.discard(name)
        if is_name(value, variable):
            return []
        bind = with_comments(assign([cst.Name(variable)], value), node)
        self.origins.inherit(bind, node)
        return [bind]

    def name_items(self, node: cst.If) -> None:
        """A list of parameters that a branch replaces gets a variable before."""
        for inner in all_statements([node]):
            pair = assignment(inner)
            if pair is None or not isinstance(pair[0], cst.Name):
                continue
            listed = self.lists.known.get(pair[0].value)
            if listed is not None and listed.variable == self.lists.item:
                value = cst.Name(self.lists.item)
                bind = self._bind(pair[0].value, listed.domain, value, inner)
                self.segments.join(listed.domain, [plain(b) for b in bind], inner)

    def _loop_body(self, node: cst.For) -> list[Statement]:
        bound = self.lists.bound(node.target, node.iter, node)
        assert bound is not None
        domain, names, index = bound
        if index in bound_names(node.body):
            raise Unfit(node, f"the position {index!r} is bound in the loop")
        body = statements(
            skip_none(node, next(target_names(node.target), ""), self.origins).body
        )
        body = self._apart(body, names, node)
        prelude: list[Statement] = []
        rebound = set().union(*(bound_names(s) for s in body), set())
        for target, name in list(names.items()):
            if target in rebound and name.value in self._variables_needed():
                fresh = self.lists.fresh(f"{target}_s")
                prelude.append(assign([cst.Name(fresh)], name))
                names[target] = cst.Name(fresh)
        rename = {old: new for old, new in names.items() if old != new.value}
        inner: list[Statement] = []
        for old in body:
            new = cast(Statement, substitute(old, rename, self.origins))
            new = cast(
                Statement,
                replace_nodes(
                    new, lambda n: self.lists.count_items(n, node), self.origins
                ),
            )
            inner.append(self._stored(new, index, domain))
        inner = self._fill(self._counted(inner, index, node), domain)
        if inner and not prelude:
            inner[0] = _comments_of(node, inner[0])
        return [*prelude, *inner]

    def _apart(self, body: Body, names: dict[str, cst.Name], node: cst.For) -> Body:
        """A loop's body in which nothing else is called like the variables of items."""
        new = {name.value for target, name in names.items() if name.value != target}
        bound = bound_names(block(body)) & new
        bound_here = bound | {t for t in names if names[t].value != t}
        for name in sorted(self.lists.needed & bound_here):
            raise Unfit(node, f"{name!r} is read behind the loop that binds it")
        return rename(body, bound, self.origins)

    def _variables_needed(self) -> set[str]:
        return {
            listed.variable
            for name, listed in self.lists.known.items()
            if name in self.lists.needed or listed.variable == self.lists.item
        }

    def _stored(
        self, node: Statement, index: str | None, domain: ParamDomain
    ) -> Statement:
        """``grads[i]`` is the variable, where it is read and where it is stored."""
        if index is None:
            return node

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            if isinstance(inner, cst.AssignTarget):
                name = item_of(inner.target, index)
                if name in self.lists.known:
                    listed = self.lists.beside_walked(name, domain, inner)
                    return inner.with_changes(target=self.lists._name(listed))
            name = item_of(inner, index)
            if name not in self.lists.known:
                return None
            return self.lists._name(self.lists.beside_walked(name, domain, inner))

        for inner in all_statements([node]):
            pair = assignment(inner)
            name = item_of(pair[0], index) if pair is not None else None
            if (
                name in self.lists.known
                and self.lists.known[name].variable == self.lists.item
            ):
                raise Unfit(inner, "a list of parameters is written to")
        new = cast(Statement, replace_nodes(node, replace, self.origins))
        return new

    def _counted(
        self, body: list[Statement], index: str | None, loop: cst.For
    ) -> list[Statement]:
        """A position that is used as a number is counted."""
        if index is None or not any(index in read_names(s) for s in body):
            return body
        if index in self.lists.needed or not isinstance(loop.target, cst.Tuple):
            raise Unfit(loop, f"the position {index!r} is used other than as an index")
        name = fresh_name(index, self.lists.taken)
        self.lists.taken.add(name)
        self.segments.out.append(stmt(f"{name} = -1"))
        body = [
            cast(Statement, substitute(s, {index: cst.Name(name)}, self.origins))
            for s in body
        ]
        return [stmt(f"{name} = {name} + 1"), *body]

    def _fill(self, body: Sequence[Statement], domain: ParamDomain) -> list[Statement]:
        """``grads.append(p.grad)`` → ``grad = p.grad``."""
        result: list[Statement] = []
        tests: list[cst.BaseExpression] = []
        for node in body:
            pair = appended(node)
            if pair is not None and (
                pair[0] in self.lists.empty or pair[0] in self.lists.known
            ):
                result += self._note(node, pair, domain, tests)
            elif isinstance(node, cst.If):
                result.append(self._fill_if(node, domain, tests))
                test = skip_test(node)
                tests += [] if test is None else [negate(test)]
            else:
                if self._fills(node):
                    raise Unfit(node, "a list is filled in an inner loop")
                result.append(node)
        return result

    def _fill_if(
        self, node: cst.If, domain: ParamDomain, tests: Sequence[cst.BaseExpression]
    ) -> Statement:
        if not self._fills(node):
            return node
        inside = self.lists.domain(domain, (*tests, node.test), node)
        body = self._fill(statements(node.body), inside)
        other = self.lists.domain(domain, (*tests, negate(node.test)), node)
        rest = self._fill(orelse_statements(node), other)
        return rebuild_if(node, node.test, tuple(body), tuple(rest))

    def _fills(self, node: Statement) -> bool:
        """Whether a list of the block's is appended to in here."""
        pairs = (appended(s) for s in all_statements([node]))
        return any(p is not None and p[0] in self.lists.empty for p in pairs)

    def _note(
        self,
        node: Statement,
        pair: tuple[str, cst.BaseExpression],
        domain: ParamDomain,
        tests: Sequence[cst.BaseExpression],
    ) -> list[Statement]:
        name, value = pair
        here = self.lists.domain(domain, tests, node)
        self.lists.empty.pop(name, None)
        self.lists.found = True
        listed = self.lists.known.get(name)
        if listed is not None:
            raise Unfit(node, f"list {name!r} is filled in two different ways")
        if is_name(value, self.lists.item) and listed is None:
            self.lists.known[name] = Listed(here, self.lists.item)
            return []
        return self._bind(name, here, value, node)


def _comments_of(loop: cst.For, first: Statement) -> Statement:
    if any(line.comment for line in loop.leading_lines):
        lines = [*loop.leading_lines, *first.leading_lines]
        return first.with_changes(leading_lines=lines)
    return first
