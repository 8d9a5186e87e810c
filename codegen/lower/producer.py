"""A loop over parameters that fills parallel lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import libcst as cst

from codegen.lower.dependence import Dependence
from codegen.lower.filled import filled_in, item_of_walk, singular, skips
from codegen.lower.forms import appended, called, item_of, stmt_of
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
    is_constant,
    is_name,
    orelse_statements,
    read_names,
    same,
    small,
    statements,
    string_key,
    target_names,
    with_comments,
)


@dataclass
class Fill:
    """What one parallel list holds for a parameter, and where it was appended."""

    value: cst.BaseExpression
    variable: str | None = None


class Unfit(Exception):
    """The loops of a block are not fused here."""


class Producer:
    """A loop that fills parallel lists, and what each of them holds for a parameter."""

    def __init__(
        self, body: Body, number: int, lists: set[str], dependence: Dependence
    ) -> None:
        self.body = body
        self.number = number
        self.lists = lists
        self.dependence = dependence
        self.loop = cast(cst.For, body[number])
        self.item = item_of_walk(self.loop)
        self.taken = bound_names(block(body)) | read_names(block(body))
        self.fills: dict[str, Fill] = {}

    def collect_fills(
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
                more |= self.collect_fills(statements(node.body), inner)
                more |= self.collect_fills(orelse_statements(node), inner)
            elif filled_in(node) & self.lists:
                raise Unfit
            if more & filled or (filled and skips(node)):
                raise Unfit  # the items don't line up with those of other lists
            filled |= more
            for name in more:
                self._keep_found(name, (*body[number + 1 :], *self.later()))
        return filled

    def _note_fill(
        self,
        name: str,
        value: cst.BaseExpression,
        conditions: tuple[cst.BaseExpression, ...],
    ) -> None:
        if name in self.fills and not same(self.fills[name].value, value):
            raise Unfit
        varying = bound_names(self.loop) & set().union(
            *(read_names(c) for c in conditions), set()
        )
        if varying:
            raise Unfit  # their items don't line up with other lists'
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
            self.is_written_back(name)
            or not self.dependence.replaces([stmt_of(value)], later)
        )
        if rebound or not found_again:
            self.variable_for(name, list(self.later()))

    def later(self) -> Body:
        return self.body[self.number + 1 :]

    def _takes_item(self, node: Statement, name: str) -> bool:
        """``grad = grads[i]``, where ``grad`` is what was appended; or ``state`` looked
        up as before."""
        if small(node) is None:
            return True  # its statements are looked at one by one
        pair = assignment(node)
        if pair is None:
            return False
        if looks_up_state(node):
            before = map(assignment, all_statements(statements(self.loop.body)))
            return all(
                same(known[1], pair[1])
                for known in before
                if known is not None and same(known[0], pair[0])
            )
        taken = pair[1]
        if not isinstance(taken, cst.Subscript) or not is_name(taken.value, name):
            return False
        return same(pair[0], self.fills[name].value)

    def walks_lists(self, node: cst.For) -> bool:
        return bool(read_names(node.iter) & self.lists) or (
            isinstance(node.iter, cst.Call)
            and is_name(node.iter.func, "range")
            and bool(read_names(node.iter) & self.lists)
        )

    def targets(
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

    def item_of(self, node: cst.CSTNode, index: str) -> str | None:
        """``exp_avgs`` for ``exp_avgs[i]``."""
        name = item_of(node, index)
        return name if name in self.fills else None

    def variable_for(self, name: str, body: list[Statement]) -> None:
        if self.fills[name].variable is None:
            taken = self.taken | set().union(*map(bound_names, body))
            variable = singular(name)
            while variable in taken:
                variable += "_"
            self.fills[name].variable = variable

    def is_written_back(self, name: str) -> bool:
        """A later loop stores the list's items where they came from."""
        key = slot_of(self.fills[name].value)
        if key is None:
            return False
        for node in all_statements(self.body[self.number + 1 :]):
            if not isinstance(node, cst.For) or not self.walks_lists(node):
                continue
            bound = self.targets(node)
            for list_name, target in bound[1] if bound else ():
                for inner in all_statements(statements(node.body)):
                    pair = assignment(inner)
                    if pair and list_name == name and same(pair[1], target):
                        if code(pair[0]) == key:
                            return True
        return False

    def without_appends(self, body: Sequence[Statement]) -> list[Statement]:
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
        inner = self.without_appends(statements(node.body))
        orelse = node.orelse
        if isinstance(orelse, cst.Else):
            rest = self.without_appends(statements(orelse.body))
            orelse = orelse.with_changes(body=block(rest)) if rest else None
        if orelse is None and all(looks_up_state(s) for s in inner):
            return inner
        return [node.with_changes(body=block(inner), orelse=orelse)]


def looks_up_state(node: Statement) -> bool:
    pair = assignment(node)
    if pair is None or not isinstance(pair[0], cst.Name):
        return False
    return isinstance(pair[1], cst.Subscript) and dotted(pair[1].value) == "self.state"


def slot_of(value: cst.BaseExpression) -> str | None:
    """``state["k"]`` for ``state["k"]`` and ``state.get("k")``."""
    if string_key(value) is not None:
        return code(value)
    if isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
        if value.func.attr.value == "get" and value.args:
            return f"{code(value.func.value)}[{code(value.args[0].value)}]"
    return None


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
