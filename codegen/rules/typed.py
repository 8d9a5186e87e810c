"""Rules that must know what kind of thing an expression yields (R7, R8)."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap, analyse
from codegen.analysis.values import Kind
from codegen.optable import Operation
from codegen.rules.base import Rule
from codegen.rules.callables import Callables
from codegen.syntax import Body, Statement, dotted, map_bodies, replace_nodes, small
from codegen.upstream import Definition, External, SourceModule


@dataclass(frozen=True)
class Called:
    """A call of an operation of the table.

    ``args`` has the receiver of a method first; ``bound`` are they by parameter, None
    if that can't be told.
    """

    operation: Operation
    args: tuple[cst.Arg, ...]
    bound: Mapping[str, cst.BaseExpression] | None


class TypedRule(Rule):
    """Rewrites expressions one by one, with the places table beside."""

    def apply(self, body: Body) -> Body:
        self.places: Heap = analyse(
            body,
            self.context.annotations,
            self.context.sources(),
            self.context.stored,
            self.context.shared_before,
            self.context.operations(),
        )
        self.callables = Callables(body)
        self.prepare(body)
        return self._block(body)

    def prepare(self, body: Body) -> None:
        """What a rule finds out before it looks at expressions."""

    @abc.abstractmethod
    def replace(self, node: cst.CSTNode, env: Env) -> cst.CSTNode | None:
        """The expression that takes the place of ``node``; None keeps it."""

    def condition(self, node: cst.BaseExpression, env: Env) -> cst.BaseExpression:
        """What takes the place of the condition of a branch."""
        return node

    def kind(self, node: cst.BaseExpression, env: Env) -> Kind:
        return self.places.value(node, env).kind

    # --- what is called

    def called(self, node: cst.Call, env: Env) -> Called | None:
        """The operation that a call is of; None if it is none of the table's, or may
        be of several."""
        found = self.callees(node.func, node.args, env)
        if found is None or len(found) != 1 or found[0] is None:
            return None
        return found[0]

    def callees(
        self, func: cst.BaseExpression, args: Sequence[cst.Arg], env: Env
    ) -> list[Called | None] | None:
        """The operations that a call may be of, with None for a function whose body is
        translated itself; None if one of them is not known."""
        if isinstance(func, cst.Name) and func.value in self.callables:
            return self._held(func.value, args, env)
        if self.is_translated(func, env):
            return [None]
        called = self._operation(func, args, env)
        return None if called is None else [called]

    def _held(
        self, name: str, args: Sequence[cst.Arg], env: Env
    ) -> list[Called | None] | None:
        """Those of the functions that a variable may hold."""
        leaves = self.callables.of(name)
        if leaves is None:
            return None
        found: list[Called | None] = []
        for leaf in leaves:
            if isinstance(leaf, (cst.FunctionDef, cst.Lambda)):
                found.append(None)
                continue
            if not isinstance(leaf, (cst.Name, cst.Attribute)):
                return None
            callees = self.callees(leaf, args, env)
            if callees is None:
                return None
            found += callees
        return found

    def _operation(
        self, func: cst.BaseExpression, args: Sequence[cst.Arg], env: Env
    ) -> Called | None:
        name = self.full_name(func, env)
        receiver: cst.BaseExpression | None = None
        if name is not None:
            operation = optable.function(name)
        elif isinstance(func, cst.Attribute):
            receiver = func.value
            operation = self._method(func, env)
        else:
            return None
        if operation is None:
            return None
        first = [] if receiver is None else [cst.Arg(receiver)]
        return Called(operation, (*first, *args), operation.bind(args, receiver))

    def _method(self, func: cst.Attribute, env: Env) -> Operation | None:
        name, kind = func.attr.value, self.kind(func.value, env)
        if kind in (Kind.MAPPING, Kind.SEQUENCE):
            return optable.container_method(name)
        if kind is Kind.OTHER:
            return None
        found = optable.method(name)
        if found is None and kind is Kind.UNKNOWN:
            return optable.container_method(name)
        return found

    def full_name(self, func: cst.BaseExpression, env: Env) -> str | None:
        """``torch.nn.functional.relu`` for ``F.relu``; None for what a variable holds,
        and for the code's own functions."""
        name = dotted(func)
        if name is None:
            return None
        head, dot, rest = name.partition(".")
        if head in env.names or head == "self":
            return None
        found = self.context.globals.get(head)
        if isinstance(found, External):
            return f"{found.full_name}{dot}{rest}"
        if isinstance(found, SourceModule):
            return f"{found.name}{dot}{rest}"
        if isinstance(found, Definition) or (dot and head not in optable.MODULES):
            return None
        return name

    def is_translated(self, func: cst.BaseExpression, env: Env) -> bool:
        """Whether a function's own body is seen by the rules. A parameter's is: who
        calls with a function is asked which."""
        name = dotted(func)
        if name is None:
            return isinstance(func, cst.Lambda)
        if name in self.context.annotations:
            return True
        return name not in env.names and name in self.context.sources()

    # --- statements

    def _block(self, body: Sequence[Statement]) -> Body:
        return tuple(self._statement(node) for node in body)

    def _statement(self, node: Statement) -> Statement:
        env = self.places.before.get(node, Env())
        inner = small(node)
        if isinstance(inner, cst.Raise):
            return node  # what a message says has no derivative
        if inner is not None:
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


def is_users_function(func: cst.BaseExpression) -> bool:
    """``self.shared["reduce"]``: a function that the user gave, with R3's note on it."""
    return isinstance(func, cst.Subscript) and dotted(func.value) == "self.shared"
