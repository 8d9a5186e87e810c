"""Items of lists that a loop mutates, by their position; few known ones, one by one.

    for buf, beta in zip(bufs, betas):        for i, (_, beta) in enumerate(zip(bufs, betas)):
        buf.mul_(beta)                    →       buf = bufs[i]
                                                  buf.mul_(beta)

    for t in (state["m"], state["v"]):        state["m"].mul_(0.9)
        t.mul_(0.9)                       →   state["v"].mul_(0.9)

What is done to a loop's variable is done to the list's item: written so, the item is
where the next rules look for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.tuples import split_tuple
from codegen.rules.r4_out_of_place.inplace import may_mutate
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assign,
    block,
    bound_names,
    code,
    dotted,
    expr,
    index_of,
    is_name,
    map_bodies,
    read_names,
    small,
    statements,
    string_key,
    target_names,
)


def items_by_position(body: Body, context: Context) -> Body:
    """Rewrite loops over lists (not over parameters) whose items are mutated."""
    whole = block(body)
    taken = bound_names(whole) | read_names(whole)
    return _Items(context, taken).block(body)


class _Items:
    def __init__(self, context: Context, taken: set[str]) -> None:
        self.origins = context.origins
        self.taken = taken

    def block(self, body: Sequence[Statement]) -> Body:
        result: list[Statement] = []
        for node in body:
            new = [node]
            if isinstance(node, cst.For):
                new = self._unrolled(node) or [self._loop(node)]
            for part in new:
                part = part if small(part) else map_bodies(part, self.block)
                self.origins.inherit(part, node)
                result.append(part)
        return tuple(result)

    # --- by position

    def _loop(self, node: cst.For) -> cst.For:
        index, source, target = _enumerated(node)
        sources, targets = _parallel(source, target)
        if len(sources) != len(targets):
            return node
        body = statements(node.body)
        by_position: dict[int, str] = {}
        for place, (item, listed) in enumerate(zip(targets, sources)):
            names = set(target_names(item))
            if names and _is_list(listed) and _mutates(body, names):
                by_position[place] = code(_container(listed))
        if not by_position:
            return node
        if _is_mapping_walk(sources[0]) and len(sources) == 1:
            return self._mapping(node, sources[0], targets[0], index)
        if any(_is_mapping_walk(s) for s in sources):
            return node
        index = index or self._fresh("i")
        binds = [
            assign([targets[place]], expr(f"{listed}[{index}]"))
            for place, listed in by_position.items()
        ]
        left = ["_" if k in by_position else code(t) for k, t in enumerate(targets)]
        if len(sources) == 1:
            head = f"for {index} in range(len({code(sources[0])})):\n    pass\n"
        else:
            lists = ", ".join(code(s) for s in sources)
            head = (
                f"for {index}, ({', '.join(left)}) in enumerate(zip({lists})):\n"
                "    pass\n"
            )
        return self._headed(node, head, binds)

    def _mapping(
        self,
        node: cst.For,
        source: cst.BaseExpression,
        target: cst.BaseExpression,
        index: str | None,
    ) -> cst.For:
        """``for k, m in moments.items():`` → ``for k in moments: m = moments[k]``."""
        container = code(_container(source))
        method = cast(cst.Attribute, cast(cst.Call, source).func).attr.value
        key, item = self._fresh("key"), target
        if method == "items":
            if not isinstance(target, cst.Tuple) or len(target.elements) != 2:
                return node
            key, item = code(target.elements[0].value), target.elements[1].value
        head = f"for {key} in {container}:\n    pass\n"
        if index is not None:
            head = f"for {index}, {key} in enumerate({container}):\n    pass\n"
        return self._headed(node, head, [assign([item], expr(f"{container}[{key}]"))])

    def _headed(self, node: cst.For, head: str, binds: Sequence[Statement]) -> cst.For:
        loop = cst.ensure_type(cst.parse_statement(head), cst.For)
        for bind in binds:
            self.origins.inherit(bind, node)
        return node.with_changes(
            target=loop.target,
            iter=loop.iter,
            body=block([*binds, *statements(node.body)]),
        )

    # --- one by one

    def _unrolled(self, node: cst.For) -> list[Statement] | None:
        """The body once for each item that stands in the loop's head."""
        if not isinstance(node.iter, (cst.Tuple, cst.List)) or node.orelse is not None:
            return None
        body = statements(node.body)
        names = set(target_names(node.target))
        leaves = (cst.Break, cst.Continue)
        if any(isinstance(small(s), leaves) for s in all_statements(body)):
            return None
        if not _mutates(body, names):
            return None
        result: list[Statement] = []
        for element in node.iter.elements:
            if isinstance(element, cst.StarredElement):
                return None
            bind = assign([cast(cst.BaseExpression, node.target)], element.value)
            result += split_tuple(bind)
            result += [self._copy(s) for s in body]
        return result

    def _copy(self, node: Statement) -> Statement:
        new = node.deep_clone()
        for copied, old in zip(walk(new), walk(node)):
            self.origins.inherit(copied, old)
        return new

    def _fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _enumerated(
    node: cst.For,
) -> tuple[str | None, cst.BaseExpression, cst.BaseExpression]:
    source, target = node.iter, cast(cst.BaseExpression, node.target)
    if isinstance(source, cst.Call) and is_name(source.func, "enumerate"):
        if isinstance(target, cst.Tuple) and len(source.args) == 1:
            index = target.elements[0].value
            if isinstance(index, cst.Name):
                return index.value, source.args[0].value, target.elements[1].value
    return None, source, target


def _parallel(
    source: cst.BaseExpression, target: cst.BaseExpression
) -> tuple[list[cst.BaseExpression], list[cst.BaseExpression]]:
    if isinstance(source, cst.Call) and is_name(source.func, "zip"):
        if isinstance(target, cst.Tuple):
            lists = [a.value for a in source.args if a.keyword is None]
            return lists, [e.value for e in target.elements]
    return [source], [target]


def _is_mapping_walk(node: cst.BaseExpression) -> bool:
    return (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Attribute)
        and node.func.attr.value in ("items", "values")
        and not node.args
    )


def _container(node: cst.BaseExpression) -> cst.BaseExpression:
    if _is_mapping_walk(node):
        return cast(cst.Attribute, cast(cst.Call, node).func).value
    return node


def _is_list(node: cst.BaseExpression) -> bool:
    """A variable or a slot; not a group's parameters, nor the groups."""
    node = _container(node)
    if string_key(node) == "params" or dotted(node) == "self.param_groups":
        return False
    if isinstance(node, cst.Subscript):
        return index_of(node) is not None and _is_path(node)
    return isinstance(node, (cst.Name, cst.Attribute)) and _is_path(node)


def _is_path(node: cst.BaseExpression) -> bool:
    if isinstance(node, (cst.Attribute, cst.Subscript)):
        return _is_path(node.value)
    return isinstance(node, cst.Name)


def _mutates(body: Sequence[Statement], names: set[str]) -> bool:
    """Whether a loop's body may change the tensors that it calls by these names."""
    head = cst.ensure_type(cst.parse_statement("def f():\n    pass\n"), cst.FunctionDef)
    return may_mutate(head.with_changes(body=block(body)), names)
