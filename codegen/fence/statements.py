"""Statements, in the order of control."""

from __future__ import annotations

import ast
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from codegen.fence.expressions import Expressions, imported
from codegen.fence.heap import ANY, SHARED, is_mapping
from codegen.fence.values import (
    DIFFERENTIABLE,
    NONE,
    NOTHING,
    Environment,
    Users,
    Value,
    constant,
    join,
    joined,
)

_HARMLESS = ("warnings.catch_warnings", "contextlib.nullcontext", "contextlib.suppress")


@dataclass
class Flow:
    """Environments that leave a loop, or a function, early."""

    breaks: list[Environment | None] = field(default_factory=list)
    continues: list[Environment | None] = field(default_factory=list)


@dataclass
class Interpreter(Expressions):
    """Walks every statement once; whoever drives it does so until nothing changes.

    What reaches a loop's head is kept from one walk to the next, so that the last walk
    has seen every way into each loop.
    """

    heads: dict[Hashable, Environment] = field(default_factory=dict)
    flows: list[Flow] = field(default_factory=list)
    returned: list[Value] = field(default_factory=list)
    top: bool = False
    """In the update itself, which returns nothing."""

    def run(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            if self.env is None:
                return
            self.at = statement
            handler = _HANDLERS.get(type(statement))
            if handler is None:
                self.refuse("syntax", statement)
            else:
                handler(self, statement)

    def walk(self, node: ast.FunctionDef | ast.Lambda) -> Value:
        if isinstance(node, ast.Lambda):
            return self.evaluate(node.body)
        held = self.returned, self.flows, self.top
        self.returned, self.flows, self.top = [], [], False
        self.run(node.body)
        result = join([*self.returned, NONE] if self.env is not None else self.returned)
        self.returned, self.flows, self.top = held
        return result

    # --- binding

    def bind(self, target: ast.expr, value: Value) -> None:
        """``target = value``."""
        if isinstance(target, ast.Name):
            self.set(target.id, value)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, self.made(target, [self.elements(value)]))
        elif isinstance(target, (ast.Tuple, ast.List)):
            starred = any(isinstance(e, ast.Starred) for e in target.elts)
            for position, element in enumerate(target.elts):
                if starred:
                    inner = isinstance(element, ast.Starred)
                    self.bind(element, value if inner else self.elements(value))
                else:
                    item = self.item(target, value, constant(position))
                    self.bind(element, item)
        elif isinstance(target, ast.Subscript):
            self._store_item(target, value)
        elif isinstance(target, ast.Attribute):
            self._store_attribute(target, value)

    def _store_item(self, target: ast.Subscript, value: Value) -> None:
        held, index = self.evaluate(target.value), self.evaluate(target.slice)
        if held.flags & DIFFERENTIABLE:
            self.refuse("item", target)
        if isinstance(target.slice, ast.Slice):
            value = self.elements(value)
        self.store(target, held, index, value)

    def _store_attribute(self, target: ast.Attribute, value: Value) -> None:
        held = self.evaluate(target.value)
        if self.quiet and any(o.kind == "self" for o in held.objects):
            self.put(SHARED, target.attr, value)
            return
        law = {"data": "data", "grad": "grad"}.get(target.attr, "changes")
        self.refuse(law, target, f".{target.attr} =")

    # --- simple statements

    def _expression(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            callee = self._callee(node.value.func)
            if any(isinstance(f, Users) for f in callee.functions):
                self.refuse("effect", node)
        self.evaluate(node.value)

    def _assign(self, node: ast.Assign) -> None:
        value = self.evaluate(node.value)
        for target in node.targets:
            self.bind(target, value)

    def _annotated(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.bind(node.target, self.evaluate(node.value))

    def _augmented(self, node: ast.AugAssign) -> None:
        value = self.evaluate(node.value)
        read: Any = node.target
        before = self.evaluate(read)
        if before.flags & DIFFERENTIABLE:
            self.refuse("in place", node)
        for held in before.objects:
            if self.may_write(node, held):
                self.put(held, ANY, self.elements(value))
        if not before.objects:
            self.bind(node.target, self.arithmetic(node, node.op, before, value))

    def _delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name) and self.env is not None:
                self.env.pop(target.id, None)
            elif isinstance(target, ast.Subscript):
                held = self.evaluate(target.value)
                if held.flags & DIFFERENTIABLE:
                    self.refuse("item", target)
                for inner in held.objects:
                    if self.may_write(node, inner) and not is_mapping(inner):
                        self.put(inner, ANY, self.elements(held))  # positions shift
            else:
                self._store_attribute(target, NOTHING)  # type: ignore[arg-type]

    def _return(self, node: ast.Return) -> None:
        value = NONE if node.value is None else self.evaluate(node.value)
        if self.top and node.value is not None:
            self.refuse("loss", node)
        self.returned.append(value)
        self.env = None

    def _raise(self, node: ast.Raise) -> None:
        held, self.in_message = self.in_message, True
        self.evaluate_all((node.exc, node.cause))
        self.in_message, self.env = held, None

    def _assert(self, node: ast.Assert) -> None:
        self.test(node.test)
        held, self.in_message = self.in_message, True
        self.evaluate_all((node.msg,))
        self.in_message = held

    def _function(self, node: ast.FunctionDef) -> None:
        self.set(node.name, self.defined(node))

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        home = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for name in node.names:
            whole = name.asname or home
            path = name.name if whole else name.name.partition(".")[0]
            self.set(name.asname or path, imported(f"{home}{path}"))

    def _break(self, node: ast.Break) -> None:
        self.flows[-1].breaks.append(self.env)
        self.env = None

    def _continue(self, node: ast.Continue) -> None:
        self.flows[-1].continues.append(self.env)
        self.env = None

    def _pass(self, node: ast.stmt) -> None:
        """Nothing happens."""

    # --- branches and loops

    def _if(self, node: ast.If) -> None:
        self.test(node.test)
        before = dict(self.env or {})
        self.run(node.body)
        after, self.env = self.env, before
        self.run(node.orelse)
        self.env = joined((after, self.env))

    def _for(self, node: ast.For) -> None:
        items = self.elements(self.evaluate(node.iter))
        self._loop(node, lambda: self.bind(node.target, items))

    def _while(self, node: ast.While) -> None:
        self._loop(node, lambda: self.test(node.test))

    def _loop(self, node: ast.For | ast.While, begin: Callable[[], object]) -> None:
        key = (node, self.context)
        self._reach(key)
        self.env = dict(self.heads[key])
        begin()
        never = self.env if isinstance(node, ast.While) else self.heads[key]
        after = dict(never or {})
        flow = Flow()
        self.flows.append(flow)
        self.run(node.body)
        self.flows.pop()
        self.env = joined((self.env, *flow.continues))
        self._reach(key)
        self.env = after
        self.run(node.orelse)
        self.env = joined((self.env, *flow.breaks))

    def _reach(self, key: Hashable) -> None:
        """Another way into a loop."""
        head = self.heads.get(key)
        found = joined((head, self.env))
        if found is not None and found != head:
            self.heads[key] = found
            self.changed = True

    def _try(self, node: ast.Try) -> None:
        before = dict(self.env or {})
        self.run(node.body)
        after = self.env
        ways = []
        # whatever part of the body ran
        between = joined((before, after, self.frame.ever))
        for handler in node.handlers:
            self.env = dict(between or {})
            if handler.name:
                self.set(handler.name, constant("an exception"))
            self.run(handler.body)
            ways.append(self.env)
        self.env = after
        self.run(node.orelse)
        self.env = joined((self.env, *ways))
        if node.finalbody:
            self.env = joined((self.env, between))
            self.run(node.finalbody)

    def _with(self, node: ast.With) -> None:
        for item in node.items:
            called = item.context_expr
            name = ast.unparse(called.func) if isinstance(called, ast.Call) else ""
            value = self.evaluate(called)
            if name not in _HARMLESS:
                self.refuse("mode" if "grad" in name else "block", node, name)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value)
        self.run(node.body)


_HANDLERS: dict[type[ast.stmt], Callable[[Any, Any], None]] = {
    ast.Expr: Interpreter._expression,
    ast.Assign: Interpreter._assign,
    ast.AnnAssign: Interpreter._annotated,
    ast.AugAssign: Interpreter._augmented,
    ast.Delete: Interpreter._delete,
    ast.Return: Interpreter._return,
    ast.Raise: Interpreter._raise,
    ast.Assert: Interpreter._assert,
    ast.FunctionDef: Interpreter._function,
    ast.Import: Interpreter._import,
    ast.ImportFrom: Interpreter._import,
    ast.Break: Interpreter._break,
    ast.Continue: Interpreter._continue,
    ast.Pass: Interpreter._pass,
    ast.If: Interpreter._if,
    ast.For: Interpreter._for,
    ast.While: Interpreter._while,
    ast.Try: Interpreter._try,
    ast.With: Interpreter._with,
}
