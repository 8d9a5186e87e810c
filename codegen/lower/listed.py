"""The lists of a block that hold an item for each of some parameters: what they are made
of, and what a walk over them binds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import libcst as cst

from codegen.diagnostics import Origins, walk
from codegen.lower.dependence import Dependence
from codegen.lower.domains import ParamDomain
from codegen.lower.filled import filled, singular
from codegen.lower.forms import as_list, called, item_of, repeated
from codegen.lower.names import fresh_name, strays
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    block,
    bound_names,
    code,
    expr,
    read_names,
    replace_nodes,
    string_key,
    target_names,
)


@dataclass(frozen=True)
class Listed:
    """A list: its domain, and the variable that holds its item in the loop."""

    domain: ParamDomain
    variable: str


class Unfit(Exception):
    """These lists are not understood; the node that shows it, and why."""

    def __init__(self, node: cst.CSTNode, message: str) -> None:
        super().__init__(message)
        self.node = node
        self.message = message


class KnownLists:
    """The lists of a block that hold an item for each of some parameters.

    Attributes:
        known: by name.
        empty: those that loops have yet to fill, by name, and where they are made.
        item: the variable for a parameter itself.
        taken: names that no new variable may get.
        found: whether there is one that isn't the group's own.
        needed: names that statements after the one at hand read.
        reading: names that the one at hand reads.
    """

    def __init__(self, body: Body, origins: Origins, dependence: Dependence) -> None:
        self.body = body
        self.origins = origins
        self.dependence = dependence
        self.known: dict[str, Listed] = {}
        self.empty: dict[str, Statement] = {}
        whole, apart = block(body), strays(body)
        self.item = _first_item(body, apart)
        self.found = bool(filled(body))
        self.needed: set[str] = set()
        self.reading: set[str] = set()
        self.taken = (bound_names(whole) | read_names(whole)) - (_walked(body) - apart)

    def source(self, node: cst.BaseExpression) -> Listed | None:
        """The list that an expression names: one's own, or a group's parameters."""
        node = as_list(node)
        if isinstance(node, cst.Name):
            return self.known.get(node.value)
        if string_key(node) == "params":
            return Listed(ParamDomain(node, ()), self.item)
        return None

    def selection(self, value: cst.BaseExpression) -> ParamDomain | None:
        if string_key(value) == "params":
            return ParamDomain(value, ())
        if not isinstance(value, cst.ListComp):
            return None
        loop = value.for_in
        if loop.inner_for_in is not None or not isinstance(loop.target, cst.Name):
            return None
        if code(value.elt) != loop.target.value:
            return None
        source = self.source(loop.iter)
        if source is None or source.variable != self.item:
            return None
        if isinstance(loop.iter, cst.Name):
            self.found = True
        rename = {loop.target.value: cst.Name(self.item)}
        tests = [self.renamed(i.test, rename) for i in loop.ifs]
        return self.domain(source.domain, tests, value)

    def domain(
        self,
        base: ParamDomain,
        tests: Sequence[cst.BaseExpression],
        node: cst.CSTNode,
    ) -> ParamDomain:
        for test in tests:
            if not self.dependence.is_loop_invariant(test, self.body, self.item):
                raise Unfit(
                    node, "which parameters are in this list may change while it lives"
                )
        known_ = {code(c) for c in base.conditions}
        new = tuple(t for t in tests if code(t) not in known_)
        return ParamDomain(base.source, (*base.conditions, *new))

    def alike(self, name: str) -> set[str]:
        """Lists that have an item for the same parameters as one, and it itself."""
        if name not in self.known:
            return {name}
        key = self.known[name].domain.key()
        return {n for n, other in self.known.items() if other.domain.key() == key}

    def renamed(
        self, node: cst.BaseExpression, names: dict[str, cst.Name]
    ) -> cst.BaseExpression:
        new = {old: name for old, name in names.items() if old != name.value}
        return cast(cst.BaseExpression, substitute(node, new, self.origins))

    def comprehended(
        self, value: cst.BaseExpression
    ) -> tuple[ParamDomain, cst.BaseExpression] | None:
        """(domain, item) of a list that has an item for each item of another."""
        value = as_list(value)
        if isinstance(value, cst.Name):
            listed = self.known.get(value.value)
            return None if listed is None else (listed.domain, self._name(listed))
        same = repeated(value)
        if same is not None:
            listed = self.source(same[1])
            return None if listed is None else (listed.domain, same[0])
        if not isinstance(value, cst.ListComp):
            return None
        loop = value.for_in
        if loop.inner_for_in is not None:
            return None
        bound = self.bound(loop.target, loop.iter, value)
        if bound is None:
            return None
        domain, names, index = bound
        element = self._indexed(value.elt, index, domain)
        tests = [self._indexed(i.test, index, domain) for i in loop.ifs]
        if any(index in read_names(part) for part in (element, *tests)):
            return None  # a position is read as a number
        tests = [self.renamed(test, names) for test in tests]
        if tests:
            domain = self.domain(domain, tests, value)
        return domain, self.renamed(element, names)

    def _name(self, listed: Listed) -> cst.Name:
        return cst.Name(listed.variable)

    def _indexed(
        self, node: cst.BaseExpression, index: str | None, domain: ParamDomain
    ) -> cst.BaseExpression:
        if index is None:
            return node

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            name = item_of(inner, index)
            return (
                self._name(self.beside_walked(name, domain, inner))
                if name in self.known
                else None
            )

        return cast(cst.BaseExpression, replace_nodes(node, replace, self.origins))

    def beside_walked(
        self, name: str, domain: ParamDomain, node: cst.CSTNode
    ) -> Listed:
        """A list that is read by the position of a walk over another one."""
        listed = self.known[name]
        if listed.domain.key() != domain.key():
            raise Unfit(node, "these lists don't hold an item for the same parameters")
        return listed

    def walks(self, node: cst.For) -> ParamDomain | None:
        if node.orelse is not None:
            return None
        bound = self.bound(node.target, node.iter, node)
        return None if bound is None else bound[0]

    def bound(
        self,
        target: cst.BaseExpression,
        source: cst.BaseExpression,
        node: cst.CSTNode,
    ) -> tuple[ParamDomain, dict[str, cst.Name], str | None] | None:
        """(domain, variable → item, index) of a walk over lists."""
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
            listed = self.source(cast(cst.Call, arg.value).args[0].value)
            index = next(target_names(target), None)
            return None if listed is None else (listed.domain, {}, index)
        sources, targets = [source], [target]
        if called(source, "zip"):
            args = cast(cst.Call, source).args
            sources = [a.value for a in args if a.keyword is None]
            if not isinstance(target, cst.Tuple):
                return None
            targets = [e.value for e in target.elements]
        found = [self.source(s) for s in sources]
        listed_ = [f for f in found if f is not None]
        if not listed_ or len(targets) != len(found):
            return None
        if len(listed_) != len(found):
            raise Unfit(node, "lists of parameters are walked beside something else")
        if len({f.domain.key() for f in listed_}) != 1:
            raise Unfit(node, "these lists don't hold an item for the same parameters")
        if not all(isinstance(t, cst.Name) for t in targets):
            return None
        names = {code(t): self._name(f) for t, f in zip(targets, listed_)}
        return listed_[0].domain, names, index

    def count_items(self, inner: cst.CSTNode, node: Statement) -> cst.CSTNode | None:
        """``len(params)``, counted."""
        if not called(inner, "len"):
            return None
        listed = self.source(cast(cst.Call, inner).args[0].value)
        return None if listed is None else self._count(listed.domain)

    def _count(self, domain: ParamDomain) -> cst.BaseExpression:
        item, source = self.item, code(domain.source)
        if not domain.conditions:
            return expr(f"len({source})")
        # a test may be any value, and counts as one
        return expr(f"sum(1 if {domain.test()} else 0 for {item} in {source})")

    def fresh(self, name: str) -> str:
        variable = singular(name)
        while variable in self.taken or variable == self.item:
            variable += "_"
        self.taken.add(variable)
        return variable

    def unused(self, name: str) -> str:
        while name in self.taken or name in self.known:
            name += "_"
        self.taken.add(name)
        return name

    def mentions(self, node: cst.CSTNode) -> bool:
        return self.holds_any(node) or any(n in self.empty for n in read_names(node))

    def holds_any(self, node: cst.CSTNode) -> bool:
        return any(n in self.known for n in read_names(node))


def _first_item(body: Body, apart: Collection[str]) -> str:
    """The name of a parameter where a group's are walked first, which is not in
    ``apart``: what has a meaning of its own."""
    item = "p"
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, (cst.For, cst.CompFor)):
            source, target = node.iter, cast(cst.BaseExpression, node.target)
            if called(source, "enumerate") and isinstance(target, cst.Tuple):
                source = cast(cst.Call, source).args[0].value
                target = target.elements[1].value
            if string_key(source) == "params" and isinstance(target, cst.Name):
                item = target.value
                break
    if item not in apart:
        return item
    return fresh_name(item, bound_names(block(body)) | read_names(block(body)))


def _walked(body: Body) -> set[str]:
    """Names that are bound as a loop's or comprehension's variable."""
    return {
        name
        for node in (n for s in body for n in walk(s))
        if isinstance(node, (cst.For, cst.CompFor))
        for part in walk(node.target)
        for name in target_names(part)
    }
