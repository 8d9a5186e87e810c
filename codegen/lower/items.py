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

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.inplace import CONTAINER_METHODS, may_mutate
from codegen.lower.tuples import split_tuple
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
    is_constant,
    is_name,
    map_bodies,
    read_names,
    replace_nodes,
    small,
    statements,
    string_key,
    target_names,
)


def items_by_position(body: Body, context: Context) -> Body:
    """Rewrite loops over lists (not over parameters) whose items are mutated."""
    whole = block(body)
    taken = bound_names(whole) | read_names(whole)
    return _Items(context, taken, without_positions(body)).block(body)


class _Items:
    """``unlisted`` are variables whose items have no positions."""

    def __init__(
        self, context: Context, taken: set[str], unlisted: frozenset[str]
    ) -> None:
        self.origins = context.origins
        self.taken = taken
        self.unlisted = unlisted
        self.functions = context.sources()

    def block(self, body: Sequence[Statement]) -> Body:
        result: list[Statement] = []
        for node in body:
            new = [node]
            if isinstance(node, cst.For):
                new = self._unrolled(node) or self._listed(node)
            for part in new:
                part = part if small(part) else map_bodies(part, self.block)
                self.origins.inherit(part, node)
                result.append(part)
        return tuple(result)

    # --- by position

    def _listed(self, node: cst.For) -> list[Statement]:
        """A loop over a display that can't be unrolled walks a list with a name: what
        its body does to an item is done to that of the list."""
        _, source, target = _enumerated(node)
        sources, targets = _parallel(source, target)
        names: dict[cst.CSTNode, cst.CSTNode] = {}
        prelude: list[Statement] = []
        body = statements(node.body)
        if len(sources) == len(targets):
            for item, walked in zip(targets, sources):
                if not _mutates(body, set(target_names(item))):
                    continue
                held = _container(walked)
                if self._may_hold_tensors(walked):
                    elements = cast(cst.Tuple, walked).elements
                    held = cst.List([_plain(e) for e in elements])
                elif not self._is_list(walked) or not _may_differ(held, node, body):
                    continue
                name = self._fresh("items")
                prelude.append(assign([cst.Name(name)], held))
                names[_container(walked)] = cst.Name(name)
        if names:
            head = replace_nodes(node.iter, names.get, self.origins)
            node = node.with_changes(iter=head)
        return [*prelude, self._loop(node)]

    def _loop(self, node: cst.For) -> cst.For:
        index, source, target = _enumerated(node)
        sources, targets = _parallel(source, target)
        if len(sources) != len(targets):
            return node
        body = statements(node.body)
        by_position: dict[int, str] = {}
        for place, (item, listed) in enumerate(zip(targets, sources)):
            names = set(target_names(item))
            if names and self._is_list(listed) and _mutates(body, names):
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
            walked = f"{index} in range(len({code(sources[0])}))"
            if any(map(_may_change_length, body)):
                walked = f"{index}, _ in enumerate({code(sources[0])})"
            head = f"for {walked}:\n    pass\n"
        else:
            lists = ", ".join(code(s) for s in sources)
            head = (
                f"for {index}, ({', '.join(left)}) in enumerate(zip({lists})):\n"
                "    pass\n"
            )
        return self._headed(node, head, binds)

    def _is_list(self, node: cst.BaseExpression) -> bool:
        return dotted(_container(node)) not in self.unlisted and _is_list(node)

    def _may_hold_tensors(self, node: cst.BaseExpression) -> bool:
        """Whether a display may hold more than constants and functions."""
        return isinstance(node, (cst.Tuple, cst.List)) and not all(
            is_constant(e.value) or dotted(e.value) in self.functions
            for e in node.elements
        )

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
        values = [e.value for e in node.iter.elements]
        if any(isinstance(e, cst.StarredElement) for e in node.iter.elements):
            return None
        result: list[Statement] = []
        if any(_may_differ(v, node, body) for v in values[1:]):
            # all of them are evaluated before the first turn
            held = [cst.Name(self._fresh("item")) for _ in values]
            result = [assign([n], v) for n, v in zip(held, values)]
            values = [n.deep_clone() for n in held]
        for value in values:
            bind = assign([cast(cst.BaseExpression, node.target)], value)
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


def without_positions(body: Body) -> frozenset[str]:
    """Variables that may be sets, views of dicts, or iterators."""
    found: set[str] = set()
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, (cst.Assign, cst.AnnAssign, cst.NamedExpr)):
            value = node.value
            called = isinstance(value, cst.Call) and (
                dotted(value.func) in _UNORDERED or _is_view_of_dict(value)
            )
            if called or isinstance(value, (cst.Set, cst.SetComp, cst.GeneratorExp)):
                found |= bound_names(node)
    return frozenset(found)


_UNORDERED = (
    "set",
    "frozenset",
    "zip",
    "enumerate",
    "reversed",
    "iter",
    "map",
    "filter",
)


def _is_view_of_dict(node: cst.Call) -> bool:
    func, names = node.func, ("items", "values", "keys")
    return isinstance(func, cst.Attribute) and func.attr.value in names


def _may_change_length(node: cst.CSTNode) -> bool:
    """Whether a statement may change how many items some list has."""
    for inner in walk(node):
        if isinstance(inner, cst.Call):
            func = inner.func
            if isinstance(func, cst.Attribute) and func.attr.value in CONTAINER_METHODS:
                return True
            if isinstance(func, cst.Name) and optable.function(func.value) is None:
                return True
        elif isinstance(inner, (cst.Del, cst.AugAssign, cst.Slice)):
            return True
    return False


def _may_differ(
    value: cst.BaseExpression, loop: cst.For, body: Sequence[Statement]
) -> bool:
    """Whether an expression may yield another object after a turn of the loop."""
    bound = bound_names(block(body)) | set(target_names(loop.target))
    if read_names(value) & bound:
        return True
    if isinstance(value, cst.Tuple):
        return any(_may_differ(e.value, loop, body) for e in value.elements)
    if isinstance(value, cst.Name) or is_constant(value):
        return False
    stored = {code(t) for t in _stored(body)}
    changed = any(isinstance(n, (cst.Call, cst.Del)) for s in body for n in walk(s))
    slot = string_key(value) is not None and is_name(cast(cst.Subscript, value).value)
    return bool(stored) if slot else changed or bool(stored)


def _stored(body: Sequence[Statement]) -> list[cst.BaseExpression]:
    """Items that are stored to."""
    nodes = [n for s in body for n in walk(s)]
    targets = [
        n.target for n in nodes if isinstance(n, (cst.AssignTarget, cst.AugAssign))
    ]
    return [t for t in targets if not isinstance(t, cst.Name)]


def _plain(element: cst.BaseElement) -> cst.BaseElement:
    return element.with_changes(comma=cst.MaybeSentinel.DEFAULT)


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
