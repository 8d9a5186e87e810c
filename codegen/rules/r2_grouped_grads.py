"""R2: grouped grads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen.diagnostics import walk
from codegen.rules.base import Example, Rule
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    block,
    bound_names,
    code,
    comprehension_names,
    dotted,
    expr,
    is_name,
    map_bodies,
    read_names,
    replace_nodes,
    same,
    small,
    statements,
    string_key,
    target_names,
)


class GroupedGrads(Rule):
    """The loop over ``self.param_groups`` and ``group["params"]`` with ``p.grad``
    becomes a loop over ``zip(self.param_groups, grouped_grads)``, then over
    ``enumerate(zip(group["params"], grads))``; a ``None`` gradient is skipped.
    """

    name = "R2"
    title = "Grouped grads"
    EXAMPLES = (
        Example(
            """
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    grad = p.grad
                    p.add_(grad, alpha=-group["lr"])
            """,
            """
            for group_idx, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
                for p_idx, (p, grad) in enumerate(zip(group["params"], grads)):
                    if grad is None:
                        continue
                    p.add_(grad, alpha=-group["lr"])
            """,
        ),
        Example(
            """
            for group in self.param_groups:
                total = sum(p.grad.sum() for p in group["params"])
            """,
            """
            for group_idx, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
                total = sum(grad.sum() for p, grad in zip(group["params"], grads))
            """,
        ),
        Example("for beta in betas:\n    total = total + beta"),
    )

    def apply(self, body: Body) -> Body:
        self.grads = (
            "grads" if "grads" not in bound_names(block(body)) else "group_grads"
        )
        return self._comprehensions(tuple(self._statements(body, None)))

    def _statements(
        self, body: Sequence[Statement], item: str | None
    ) -> list[Statement]:
        result: list[Statement] = []
        for node in body:
            if isinstance(node, cst.For):
                node = self._loop(node, item)
            elif small(node) is None:
                node = self._nested(node, item)
            result.append(node)
        return result

    def _nested(self, node: Statement, item: str | None) -> Statement:
        return map_bodies(node, lambda part: self._statements(part, item))

    def _loop(self, node: cst.For, item: str | None) -> cst.For:
        kind = _walks(node.iter)
        if kind is not None and item is not None:
            new = self._inner_loop(node, kind)
        elif kind == "groups":
            new = self._group_loop(node)
        elif kind == "params":
            new = self._param_loop(node)
        else:
            inner = self._statements(statements(node.body), item)
            return node.with_changes(body=block(inner))
        self.context.origins.inherit(new, node)
        self.fired(
            cst.For(node.target, node.iter, block(())),
            cst.For(new.target, new.iter, block(())),
        )
        return new

    def _group_loop(self, node: cst.For) -> cst.For:
        index, target = _loop_names(node)
        body = tuple(statements(node.body))
        body = _rename(body, {index: "group_idx"} if index else {}, self)
        inner = self._statements(body, None)
        beside = _walked_beside(node)
        lists = "".join(f", {code(source)}" for source, _ in beside)
        names = "".join(f", {code(name)}" for _, name in beside)
        return node.with_changes(
            target=_target(f"group_idx, ({target}, {self.grads}{names})"),
            iter=expr(f"enumerate(zip(self.param_groups, grouped_grads{lists}))"),
            body=block(inner),
        )

    def _inner_loop(self, node: cst.For, kind: str) -> cst.For:
        """A walk inside a walk over parameters: its variables are names of its own, and
        what it walks is read."""
        index, item = _loop_names(node)
        if index is not None and index in read_names(node.body):
            self.refuse(
                node,
                "a walk over parameters inside another counts them",
                "compute what needs all of them before, in a loop of its own",
            )
        if kind == "groups":
            grads = self.context.fresh("grads")
            outer, self.grads = self.grads, grads
            inner = self._statements(statements(node.body), item)
            self.grads = outer
            return node.with_changes(
                target=_target(f"{item}, {grads}"),
                iter=expr("zip(self.param_groups, grouped_grads)"),
                body=block(inner),
            )
        grad = self.context.fresh("grad")
        named = cst.Name(grad)
        inner = self._statements(statements(node.body), item)

        def replace(part: cst.CSTNode) -> cst.CSTNode | None:
            is_gradient = (
                isinstance(part, cst.Attribute) and code(part) == f"{item}.grad"
            )
            return named.deep_clone() if is_gradient else None

        origins = self.context.origins
        body = [cast(Statement, replace_nodes(s, replace, origins)) for s in inner]
        return node.with_changes(
            target=_target(f"{item}, {grad}"),
            iter=expr(f"zip({code(_source(node.iter))}, {self.grads})"),
            body=block(body),
        )

    def _param_loop(self, node: cst.For) -> cst.For:
        index, item = _loop_names(node)
        body = tuple(statements(node.body))
        body = _rename(body, {index: "p_idx"} if index else {}, self)
        inner = self._statements(body, item)
        group = code(_source(node.iter))
        return node.with_changes(
            target=_target(f"p_idx, ({item}, grad)"),
            iter=expr(f"enumerate(zip({group}, {self.grads}))"),
            body=block(self._read_gradient(inner, item)),
        )

    # --- gradients

    def _read_gradient(self, body: list[Statement], item: str) -> list[Statement]:
        """``p.grad`` is ``grad``, until a variable of that name hides it."""
        result: list[Statement] = []
        hidden = False
        for node in body:
            binds = "grad" in bound_names(node) or _stores(node, f"{item}.grad")
            inside = hidden or (binds and small(node) is None)
            name = f"{self.grads}[p_idx]" if inside else "grad"
            new = self._replace_gradient(node, item, name)
            hidden = hidden or binds
            pair = small(new)
            if isinstance(pair, cst.Assign) and len(pair.targets) == 1:
                if is_name(pair.targets[0].target, "grad") and is_name(
                    pair.value, "grad"
                ):
                    hidden = False
                    continue
            result.append(new)
        return result

    def _replace_gradient(self, node: Statement, item: str, name: str) -> Statement:
        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            if (
                isinstance(inner, cst.AssignTarget)
                and code(inner.target) == f"{item}.grad"
            ):
                target = expr(f"{self.grads}[p_idx]")
                return inner.with_changes(target=target)
            if isinstance(inner, cst.Attribute) and code(inner) == f"{item}.grad":
                return expr(name)
            return None

        def stores_first(inner: cst.CSTNode) -> cst.CSTNode | None:
            return replace(inner) if isinstance(inner, cst.AssignTarget) else None

        origins = self.context.origins
        new = replace_nodes(node, stores_first, origins)
        return cast(Statement, replace_nodes(new, replace, origins))

    # --- comprehensions

    def _comprehensions(self, body: Body) -> Body:
        """``p.grad … for p in group["params"]`` walks the gradients beside them."""

        def replace(node: cst.CSTNode) -> cst.CSTNode | None:
            if isinstance(node, (cst.ListComp, cst.GeneratorExp, cst.SetComp)):
                return self._comprehension(node)
            return None

        return self.rewrite(body, replace)

    def _comprehension(self, node: cst.BaseSimpleComp) -> cst.CSTNode | None:
        outer, inner = node.for_in, node.for_in.inner_for_in
        loop = outer if inner is None else inner
        group = loop.iter.value if isinstance(loop.iter, cst.Subscript) else None
        if string_key(loop.iter) != "params" or not isinstance(loop.target, cst.Name):
            return None
        item = loop.target.value
        if f"{item}.grad" not in code(node):
            return None
        names = comprehension_names(node)
        if inner is None and is_name(group, "group"):
            beside = self.grads
        elif _all_groups(outer) and same(cast(cst.CSTNode, group), outer.target):
            beside = "grads" if "grads" not in names else "group_grads"
            head = _target(f"{code(outer.target)}, {beside}")
            groups = expr("zip(self.param_groups, grouped_grads)")
            outer = outer.with_changes(target=head, iter=groups)
        else:
            return None
        grad = "grad" if "grad" not in names | read_names(node) else "grad_"
        walked = expr(f"zip({code(loop.iter)}, {beside})")
        loop = loop.with_changes(target=_target(f"{item}, {grad}"), iter=walked)
        new = outer.with_changes(inner_for_in=loop) if inner is not None else loop

        def replace(part: cst.CSTNode) -> cst.CSTNode | None:
            named = isinstance(part, cst.Attribute) and code(part) == f"{item}.grad"
            return cst.Name(grad) if named else None

        found = replace_nodes(
            node.with_changes(for_in=new), replace, self.context.origins
        )
        return found


def _stores(node: Statement, place: str) -> bool:
    return any(
        isinstance(n, cst.AssignTarget) and code(n.target) == place for n in walk(node)
    )


def _all_groups(loop: cst.CompFor) -> bool:
    return dotted(loop.iter) == "self.param_groups"


def _walks(node: cst.BaseExpression) -> str | None:
    source = _source(node)
    if dotted(source) == "self.param_groups":
        return "groups"
    return "params" if string_key(source) == "params" else None


def _source(node: cst.BaseExpression) -> cst.BaseExpression:
    if isinstance(node, cst.Call) and is_name(node.func, "enumerate"):
        node = node.args[0].value
    if isinstance(node, cst.Call) and is_name(node.func, "zip") and node.args:
        if dotted(node.args[0].value) == "self.param_groups":
            return node.args[0].value
    return node


def _walked_beside(
    node: cst.For,
) -> list[tuple[cst.BaseExpression, cst.BaseExpression]]:
    """(list, target) pairs of ``for group, lr in zip(self.param_groups, lrs)``."""
    source, target = node.iter, cast(cst.BaseExpression, node.target)
    if isinstance(source, cst.Call) and is_name(source.func, "enumerate"):
        source = source.args[0].value
        if isinstance(target, cst.Tuple):
            target = target.elements[1].value
    if not isinstance(source, cst.Call) or not isinstance(target, cst.Tuple):
        return []
    lists = [a.value for a in source.args if a.keyword is None]
    return [(s, e.value) for s, e in zip(lists[1:], target.elements[1:])]


def _loop_names(node: cst.For) -> tuple[str | None, str]:
    target = cast(cst.BaseExpression, node.target)
    index: str | None = None
    if isinstance(node.iter, cst.Call) and is_name(node.iter.func, "enumerate"):
        if isinstance(target, cst.Tuple):
            index = next(target_names(target.elements[0].value), None)
            target = target.elements[1].value
    return index, next(target_names(target))


def _rename(body: Body, names: dict[str, str], rule: Rule) -> Body:
    new = {old: cst.Name(name) for old, name in names.items() if old != name}
    return tuple(
        cast(Statement, substitute(s, new, rule.context.origins)) for s in body
    )


def _target(text: str) -> cst.BaseAssignTargetExpression:
    loop = cst.ensure_type(cst.parse_statement(f"for {text} in x: pass"), cst.For)
    return loop.target
