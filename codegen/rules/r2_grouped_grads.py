"""R2: grouped grads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import libcst as cst

from codegen.analysis.liveness import upward_exposed
from codegen.diagnostics import walk
from codegen.rules.base import Example, Rule
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    assign,
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
        self.group: str | None = None
        self.beside: dict[str, str] = {}
        return self._comprehensions(tuple(self._statements(body, None)))

    def _statements(
        self, body: Sequence[Statement], item: str | None, after: Collection[str] = ()
    ) -> list[Statement]:
        """``item`` is the parameter whose turn it is, ``after`` what is read later.
        Where it is a group's turn, ``group`` is that, and ``beside`` what its gradients
        are called, and those of the groups that are walked inside its turn."""
        result: list[Statement] = []
        for number, node in enumerate(body):
            live = upward_exposed(body[number + 1 :], after)
            if isinstance(node, cst.For):
                live |= upward_exposed([node], live)
                node = self._loop(node, item, live)
            elif small(node) is None:
                node = map_bodies(node, lambda part: self._statements(part, item, live))
            result.append(node)
        return result

    def _loop(self, node: cst.For, item: str | None, live: set[str]) -> cst.For:
        kind = _walks(node.iter)
        if kind == "groups" and self.group is None and item is None:
            new = self._group_loop(node, live)
        elif kind == "groups":
            new = self._inner_groups(node, item, live)
        elif kind == "params" and item is None and _group_of(node) == self.group:
            new = self._param_loop(node, live)
        elif kind == "params":
            new = self._inner_params(node, item, live)
        else:
            inner = self._statements(statements(node.body), item, live)
            return node.with_changes(body=block(inner))
        self.context.origins.inherit(new, node)
        self.fired(
            cst.For(node.target, node.iter, block(())),
            cst.For(new.target, new.iter, block(())),
        )
        return new

    def _group_loop(self, node: cst.For, live: set[str]) -> cst.For:
        index, target = _loop_names(node)
        body = self._counted("group_idx", index, node, live)
        if target != "group":
            self._refuse_read_again(node, target, live)
            new = {"group": self.context.fresh("group"), target: "group"}
            body = _rename(body, new, self)
        if "group" not in bound_names(block(body)):
            self.group, self.beside = "group", {"group": self.grads}
        inner = self._comprehensions(tuple(self._statements(body, None, live)))
        self.group, self.beside = None, {}
        names, lists = _beside(node)
        return node.with_changes(
            target=_target(f"group_idx, (group, {self.grads}{names})"),
            iter=expr(f"enumerate(zip(self.param_groups, grouped_grads{lists}))"),
            body=block(inner),
        )

    def _inner_groups(self, node: cst.For, item: str | None, live: set[str]) -> cst.For:
        """A walk over all groups inside the turn of one: its variables are names of its
        own, and what it walks is read."""
        index, target = _loop_names(node)
        body, outer = tuple(statements(node.body)), self.beside
        if target in outer:
            self._refuse_read_again(node, target, live)
            body = _rename(
                body, {target: (target := self.context.fresh("group"))}, self
            )
        grads = self.context.fresh("grads")
        if target not in bound_names(block(body)):
            self.beside = {**outer, target: grads}
        inner = self._comprehensions(tuple(self._statements(body, item, live)))
        self.beside = outer
        names, lists = _beside(node)
        walked = f"self.param_groups, grouped_grads{lists}"
        return _headed(node, index, f"{target}, {grads}{names}", walked, inner)

    def _refuse_read_again(self, node: cst.For, name: str, live: set[str]) -> None:
        if name in live:
            self.refuse(
                node.target,
                f"{name} is read behind this walk, where it is the last group",
                "walk the groups under a name of its own",
            )

    def _param_loop(self, node: cst.For, live: set[str]) -> cst.For:
        index, item = _loop_names(node)
        body = self._counted("p_idx", index, node, live)
        inner = self._statements(body, item, live)
        group = code(_source(node.iter))
        return node.with_changes(
            target=_target(f"p_idx, ({item}, grad)"),
            iter=expr(f"enumerate(zip({group}, {self.grads}))"),
            body=block(self._read_gradient(inner, item)),
        )

    def _inner_params(self, node: cst.For, item: str | None, live: set[str]) -> cst.For:
        """A walk over parameters inside the turn of one, or over another group's."""
        index, target = _loop_names(node)
        inner = self._statements(statements(node.body), item or target, live)
        if _group_of(node) not in self.beside:  # its gradients are nowhere
            return node.with_changes(body=block(inner))
        if _stores(block(inner), f"{target}.grad"):
            self.refuse(
                node,
                "a walk over parameters inside another sets their gradients",
                "set them before, in a loop of its own",
            )
        named = cst.Name(self.context.fresh("grad"))

        def replace(part: cst.CSTNode) -> cst.CSTNode | None:
            is_gradient = (
                isinstance(part, cst.Attribute) and code(part) == f"{target}.grad"
            )
            return named.deep_clone() if is_gradient else None

        origins = self.context.origins
        body = [cast(Statement, replace_nodes(s, replace, origins)) for s in inner]
        lists = f"{code(_source(node.iter))}, {self.beside[_group_of(node)]}"
        return _headed(node, index, f"{target}, {named.value}", lists, body)

    def _counted(
        self, name: str, index: str | None, node: cst.For, live: set[str]
    ) -> Body:
        """The body of a loop that counts by ``name``."""
        body = tuple(statements(node.body))
        if index is None:
            return body
        if index in bound_names(block(body)) | live:
            first = assign([cst.Name(index)], cst.Name(name))
            self.context.origins.inherit(first, node.target)
            return (first, *body)
        return _rename(body, {index: name}, self)

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
        if inner is None and group is not None and code(group) in self.beside:
            beside = self.beside[code(group)]
        elif _all_groups(outer) and same(cast(cst.CSTNode, group), outer.target):
            taken = names | read_names(node)
            beside = "grads" if "grads" not in taken else self.context.fresh("grads")
            head = _target(f"{code(outer.target)}, {beside}")
            groups = expr("zip(self.param_groups, grouped_grads)")
            outer = outer.with_changes(target=head, iter=groups)
        else:
            return None
        taken = names | read_names(node)
        grad = "grad" if "grad" not in taken else self.context.fresh("grad")
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


def _stores(node: cst.CSTNode, place: str) -> bool:
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


def _group_of(node: cst.For) -> str:
    """The group whose parameters a loop walks, as it is written."""
    return code(cst.ensure_type(_source(node.iter), cst.Subscript).value)


def _beside(node: cst.For) -> tuple[str, str]:
    """What ``for group, lr in zip(self.param_groups, lrs)`` walks beside the groups:
    more targets, and more lists."""
    source, target = node.iter, cast(cst.BaseExpression, node.target)
    if isinstance(source, cst.Call) and is_name(source.func, "enumerate"):
        source = source.args[0].value
        if isinstance(target, cst.Tuple):
            target = target.elements[1].value
    if not isinstance(source, cst.Call) or not isinstance(target, cst.Tuple):
        return "", ""
    names = [code(e.value) for e in target.elements[1:]]
    lists = [code(a.value) for a in source.args[1 : len(names) + 1]]
    return "".join(f", {n}" for n in names), "".join(f", {n}" for n in lists)


def _headed(
    node: cst.For, index: str | None, names: str, lists: str, body: Sequence[Statement]
) -> cst.For:
    """A walk over lists side by side, which counts where the original does."""
    walked = f"zip({lists})"
    counts = index is not None
    return node.with_changes(
        target=_target(f"{index}, ({names})" if counts else names),
        iter=expr(f"enumerate({walked})" if counts else walked),
        body=block(body),
    )


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
