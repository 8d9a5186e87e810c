"""Expressions."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from codegen import optable
from codegen.fence.calls import is_builtin
from codegen.fence.heap import SELF, SHARED
from codegen.fence.operations import Arguments
from codegen.fence.operators import Operators
from codegen.fence.values import (
    ANYTHING,
    DIFFERENTIABLE,
    GRADIENT,
    NOTHING,
    NUMBER,
    PLAIN,
    RATIO,
    RAW,
    TENSOR,
    UNKNOWN,
    Defined,
    Method,
    Named,
    Value,
    constant,
    function,
    join,
)
from codegen.optable import Result

_PLAIN_MODULES = ("torch", "math", "ops", "cmath", "typing", "collections")


class Expressions(Operators):
    """The value of an expression, one method a kind."""

    def evaluate(self, node: ast.expr) -> Value:
        handler = _HANDLERS.get(type(node))
        if handler is None:
            self.refuse("syntax", node)
            return NOTHING
        value = handler(self, node)
        if value == NOTHING and not self.guessing:
            self.refuse("bottom", node)
        return value

    def _constant(self, node: ast.Constant) -> Value:
        return constant(node.value)

    def _name(self, node: ast.Name) -> Value:
        if self.env is not None and node.id in self.env:
            return self.env[node.id]
        frame = self.frame.parent
        if node.id in self.frame.ever:
            return NOTHING  # not bound yet
        while frame is not None:
            if node.id in frame.ever:
                return frame.ever[node.id]
            frame = frame.parent
        if is_builtin(node.id):
            return function(Named(node.id))
        self.refuse("name", node, repr(node.id))
        return NOTHING

    # --- parts

    def _attribute(self, node: ast.Attribute) -> Value:
        return self.attribute(node, self.evaluate(node.value), node.attr)

    def attribute(self, node: ast.AST, held: Value, name: str) -> Value:
        found = [imported(f"{path}.{name}") for path in paths_of(held)]
        is_module = found and not held.flags & ~(PLAIN | UNKNOWN)
        if SELF in held.objects:
            found.append(self._of_optimizer(node, name))
        elif held.objects:
            found.append(function(Method(held, name)))
        if is_module:
            return join(found)
        if held.flags & DIFFERENTIABLE:
            found.append(self._of_tensor_attribute(node, held, name))
        elif held.flags & PLAIN and not held.objects:
            found.append(join((NUMBER, function(Method(held, name)))))
        return join(found)

    def _of_optimizer(self, node: ast.AST, name: str) -> Value:
        slots = self.contents[SELF]
        if name in slots:
            return slots[name]
        if self.quiet:
            return self.read(SHARED, frozenset({name}))
        self.refuse("method", node, name)
        return ANYTHING

    def _of_tensor_attribute(self, node: ast.AST, held: Value, name: str) -> Value:
        if name == "data" and held.has_gradient:
            self.refuse("cut", node, ".data")
        if name == "grad":
            self.refuse("grad", node)
        operation = optable.attribute(name)
        if operation is None:  # a method, or a field of several tensors
            called = function(Method(held, name))
            return join((Value(held.flags & (GRADIENT | TENSOR | UNKNOWN)), called))
        if operation.result in (Result.NUMBER, Result.METADATA):
            return NUMBER if name != "dtype" else imported("torch.dtype")
        return Value(held.flags & ~(RAW | RATIO))

    def _subscript(self, node: ast.Subscript) -> Value:
        held, index = self.evaluate(node.value), self.evaluate(node.slice)
        if not index.is_plain and any(o.kind == "states" for o in held.objects):
            self.refuse("slot", node)
        if isinstance(node.slice, ast.Slice) and held.objects:
            items = self.elements(held)
            return join((self.made(node, [items]), Value(held.flags & ~RAW)))
        return self.item(node, held, index)

    def _slice(self, node: ast.Slice) -> Value:
        self.evaluate_all((node.lower, node.upper, node.step))
        return NUMBER

    def _walrus(self, node: ast.NamedExpr) -> Value:
        value = self.evaluate(node.value)
        self.set(node.target.id, value)
        return value

    # --- displays

    def _display(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        if any(isinstance(e, ast.Starred) for e in node.elts):
            return self.made(node, [*self._spread(node.elts)])
        if isinstance(node, ast.Set):
            return self.made(node, self.evaluate_all(node.elts))
        values = self.evaluate_all(node.elts)
        return self.placed(node, values)

    def _spread(self, nodes: Sequence[ast.expr]) -> Iterator[Value]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield self.elements(self.evaluate(node.value))
            else:
                yield self.evaluate(node)

    def _dict(self, node: ast.Dict) -> Value:
        result = self.made(node, kind="dict")
        for key, value in zip(node.keys, node.values):
            held = self.evaluate(value)
            if key is not None:
                self.store(node, result, self.evaluate(key), held)
                continue
            for inner in result.objects:
                self._fill(inner, "update", Arguments((held,)))
        return result

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> Value:
        before = dict(self.env or {})
        for generator in node.generators:
            items = self.elements(self.evaluate(generator.iter))
            self.bind(generator.target, items)
            for condition in generator.ifs:
                self.test(condition)
        if isinstance(node, ast.DictComp):
            result = self.made(node, kind="dict")
            key, value = self.evaluate(node.key), self.evaluate(node.value)
            self.store(node, result, key, value)
        else:
            result = self.made(node, [self.evaluate(node.elt)])
        self.env = before
        return result

    def _lambda(self, node: ast.Lambda) -> Value:
        return self.defined(node)

    def defined(self, node: ast.FunctionDef | ast.Lambda) -> Value:
        """A function, with its defaults as they are now."""
        args = node.args
        plain = [*args.posonlyargs, *args.args]
        late = plain[len(plain) - len(args.defaults) :]
        pairs = [*zip(late, args.defaults), *zip(args.kwonlyargs, args.kw_defaults)]
        defaults = []
        for parameter, default in pairs:
            if default is not None:
                value = self.fixed(self.evaluate(default))
                defaults.append((parameter.arg, value))
        return function(Defined(node, self.frame, tuple(defaults)))

    # --- text

    def _text(self, node: ast.JoinedStr) -> Value:
        parts = [p.value for p in node.values if isinstance(p, ast.FormattedValue)]
        return self.formatted(node, self.evaluate_all(parts))

    # --- calls

    def _call(self, node: ast.Call) -> Value:
        callee = self._callee(node.func)
        plain: list[Value] = []
        starred: list[Value] = []
        named: list[tuple[str, Value]] = []
        for arg in node.args:
            if isinstance(arg, ast.Starred):
                starred.append(self.elements(self.evaluate(arg.value)))
            else:
                plain.append(self.evaluate(arg))
        for keyword in node.keywords:
            value = self.evaluate(keyword.value)
            if keyword.arg is None:
                starred += [self.read(held, None) for held in value.objects]
                starred += [value] if value.flags else []
            else:
                named.append((keyword.arg, value))
        arguments = Arguments(tuple(plain), tuple(named), tuple(starred))
        handed = [v for v in arguments.all() if SELF in v.objects]
        if handed and not self.in_message and not self.quiet:
            self.refuse("whole", node)
        return self.call_any(node, callee, arguments)

    def _callee(self, node: ast.expr) -> Value:
        """What a call calls: for a tensor's attribute, the method only."""
        if not isinstance(node, ast.Attribute):
            return self.evaluate(node)
        held = self.evaluate(node.value)
        paths = paths_of(held)
        found = [imported(f"{path}.{node.attr}").without(~0) for path in paths]
        if held != NOTHING and (not paths or held.flags & ~(PLAIN | UNKNOWN)):
            found.append(function(Method(held, node.attr)))
        return join(found)

    def bind(self, target: ast.expr, value: Value) -> None:
        raise NotImplementedError


def paths_of(value: Value) -> list[str]:
    """Names of modules' that a value may be."""
    return [f.path for f in value.functions if isinstance(f, Named)]


def imported(path: str) -> Value:
    """A module, or a function, class or constant of one."""
    if path.startswith("higher.ops"):
        path = path.removeprefix("higher.")
    known = optable.function(path) is not None
    plain = known or path.partition(".")[0] in _PLAIN_MODULES
    flags = PLAIN if plain else PLAIN | UNKNOWN
    return Value(flags, functions=frozenset({Named(path)}), constants=None)


Handler = Callable[[Any, Any], Value]
_HANDLERS: dict[type[ast.expr], Handler] = {
    ast.Constant: Expressions._constant,
    ast.Name: Expressions._name,
    ast.Attribute: Expressions._attribute,
    ast.Subscript: Expressions._subscript,
    ast.Slice: Expressions._slice,
    ast.BinOp: Expressions.binary,
    ast.UnaryOp: Expressions.unary,
    ast.Compare: Expressions.compare,
    ast.BoolOp: Expressions.boolean,
    ast.IfExp: Expressions.conditional,
    ast.NamedExpr: Expressions._walrus,
    ast.List: Expressions._display,
    ast.Tuple: Expressions._display,
    ast.Set: Expressions._display,
    ast.Dict: Expressions._dict,
    ast.ListComp: Expressions._comprehension,
    ast.SetComp: Expressions._comprehension,
    ast.GeneratorExp: Expressions._comprehension,
    ast.DictComp: Expressions._comprehension,
    ast.Lambda: Expressions._lambda,
    ast.JoinedStr: Expressions._text,
    ast.Call: Expressions._call,
}
