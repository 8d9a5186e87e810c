"""Rules that must know what kind of thing an expression yields (R7, R8)."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen.places import Analysis, Env, Kind, analyse
from codegen.rules.base import Rule
from codegen.syntax import Body, Statement, map_bodies, replace_nodes, small


class TypedRule(Rule):
    """Rewrites expressions one by one, with the places table beside."""

    def apply(self, body: Body) -> Body:
        self.places: Analysis = analyse(
            body,
            self.context.annotations,
            self.context.sources(),
            self.context.stored,
        )
        return self._block(body)

    @abc.abstractmethod
    def replace(self, node: cst.CSTNode, env: Env) -> cst.CSTNode | None:
        """The expression that takes the place of ``node``; None keeps it."""

    def condition(self, node: cst.BaseExpression, env: Env) -> cst.BaseExpression:
        """What takes the place of the condition of a branch."""
        return node

    def kind(self, node: cst.BaseExpression, env: Env) -> Kind:
        return self.places.value(node, env).kind

    def _block(self, body: Sequence[Statement]) -> Body:
        return tuple(self._statement(node) for node in body)

    def _statement(self, node: Statement) -> Statement:
        env = self.places.before.get(node, Env())
        if small(node) is not None:
            return cast(Statement, self._expression(node, env))
        return self._heads(map_bodies(node, self._block), env)

    def _heads(self, node: Statement, env: Env) -> Statement:
        for field in ("test", "iter"):
            head = getattr(node, field, None)
            if isinstance(head, cst.BaseExpression):
                new = self._expression(head, env)
                if field == "test":
                    new = self.condition(cast(cst.BaseExpression, new), env)
                node = node.with_changes(**{field: new})
        if isinstance(node, cst.If) and isinstance(node.orelse, cst.If):
            node = node.with_changes(orelse=self._heads(node.orelse, env))
        return node

    def _expression(self, node: cst.CSTNode, env: Env) -> cst.CSTNode:
        def counted(inner: cst.CSTNode) -> cst.CSTNode | None:
            new = self.replace(inner, env)
            if new is not None:
                self.fired(inner, new)
            return new

        return replace_nodes(node, counted, self.context.origins)
