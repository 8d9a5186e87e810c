"""What calls read, write and return: of the table's operations, of functions with a
source, and of what isn't known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import libcst as cst

from codegen import optable
from codegen.analysis.regions import ANY, ITEM, Region, unified
from codegen.context import Context
from codegen.lower.accesses import DEEP, Effects, Values
from codegen.lower.helpers import given_to
from codegen.optable import Operation, Result, Write
from codegen.syntax import all_params, bound_names, read_names, statements


class Calls(Values):
    """Evaluates calls. ``functions`` are the effects of those that have a source,
    ``defined`` those that the step defines; ``values`` are names that stand elsewhere
    than in front of a call's parentheses."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sources = context.sources()
        self.functions: dict[str, Effects] = {}
        self.returned: dict[str, Region] = {}
        self.defined: dict[str, list[cst.FunctionDef]] = {}
        self.values: set[str] = set()
        self.function: str | None = None

    @abstractmethod
    def run(self, body: Iterable[cst.CSTNode]) -> None:
        """Learn what these statements do."""

    def call(self, node: cst.Call) -> Region:
        func = node.func
        if isinstance(func, cst.Name):
            name = func.value
            nested = self.defined.get(name, []) if name not in self.values else []
            if nested:
                made = [self._own_call(name, d, self.scope, node) for d in nested]
                return unified(made)
            if name in self.sources and not self.is_local(func):
                if name not in self.functions:  # one that calls itself is in there
                    self._function(name, self.sources[name], f"{name}.")
                return self._own_call(name, self.sources[name], f"{name}.", node)
        if isinstance(func, (cst.Name, cst.Attribute)) and not self.is_local(func):
            operation = optable.function(self.context.full_name(func))
            if operation is not None:
                return self._operation(operation, node, None)
            return self.unknown([self.value(func), *map(self._given, node.args)])
        if isinstance(func, cst.Attribute):
            operation = optable.method(func.attr.value)
            if operation is not None:
                return self._operation(operation, node, func.value)
            return self.container_call(node, func)
        return self.unknown([self.value(func), *map(self._given, node.args)])

    def _given(self, arg: cst.Arg) -> Region:
        value = self.value(arg.value)
        return value.any_item() if arg.star else value

    def _operation(
        self, operation: Operation, node: cst.Call, receiver: cst.BaseExpression | None
    ) -> Region:
        """A call of an operation of the table."""
        bound = operation.bind(node.args, receiver)
        if bound is None:
            first = [] if receiver is None else [self.value(receiver)]
            return self.unknown([*first, *map(self._given, node.args)])
        values = {name: self.value(value) for name, value in bound.items()}
        if operation.name.endswith(".len"):
            self.now.reads |= {(value, ANY) for value in values.values()}
        elif operation.result is not Result.METADATA:
            for value in values.values():
                self.touch(value, self.now.reads)
        nodes = {id(bound[name]): value for name, value in values.items()}
        for written in operation.written(bound):
            region = nodes[id(written.argument)]
            if written.what is not Write.ITSELF:
                region = region.any_item()
            self.touch(region, self.now.writes)
        if operation.name.endswith(".next"):
            return self.unknown([*values.values()])
        self.now.uses_rng |= operation.uses_rng
        result = operation.returned(bound)
        if result in (Result.VIEW, Result.MAYBE, Result.SAME, Result.VIEWS):
            shown = [values.get(operation.parameters[operation.base].name, Region())]
            shown += [values["out"]] if "out" in values else []
            whole = unified(shown)
            return whole.any_item() if result is Result.VIEWS else whole
        if result in (Result.ITEMS, Result.ONE_OF):
            return unified([Region(), *values.values()]).any_item()
        return Region()

    def container_call(self, node: cst.Call, func: cst.Attribute) -> Region:
        method, base = func.attr.value, self.value(func.value)
        plain = [a.value for a in node.args if a.keyword is None and not a.star]
        if method == "append" and len(plain) == 1 == len(node.args):
            value = self.value(plain[0])
            if self.turn is None or self.scope:
                self.now.writes.add((base, DEEP))
                return unified([base.any_item(), value])
            self.now.writes.add((base, ITEM))
            unified([base.held(ITEM), value])
            return Region()
        key = plain[0] if plain else None
        if method in ("get", "setdefault") and isinstance(key, cst.SimpleString):
            text = str(key.evaluated_value)
            self.now.reads.add((base, text))
            if method == "setdefault":
                self.now.writes.add((base, text))
            return unified([base.held(text), *map(self.value, plain[1:])])
        if optable.container_method(method) and method in ("items", "values", "keys"):
            self.touch(base, self.now.reads)
            return base.any_item()
        if optable.container_method(method):
            whole = unified([base, *map(self._given, node.args)]).any_item()
            self.touch(whole, self.now.reads, ANY)
            self.touch(whole, self.now.writes, ANY)
            return whole
        return self.unknown([base, *map(self._given, node.args)])

    def _function(self, name: str, node: cst.FunctionDef, scope: str) -> None:
        """A function's effects, whoever calls it; nested ones have the step's names."""
        own = self.scope != scope
        self.functions.setdefault(name, Effects())
        self.returned.setdefault(name, Region())
        outer = self.now, self.scope, self.turn, self.positions, self.function
        self.now, self.scope = Effects(), scope
        self.turn, self.positions, self.function = frozenset(), frozenset(), name
        params = {p.name.value for p in all_params(node.params)}
        self.local |= {f"{scope}{n}" for n in params | bound_names(node.body)}
        self.run(statements(node.body))
        self.now.leaves = False
        self.functions[name].add(self.now)
        self.now, self.scope, self.turn, self.positions, self.function = outer
        if not own:
            self.defined.setdefault(name, []).append(node)
            captured = (self.name(n) for n in sorted(read_names(node.body)))
            if name in self.values:
                unified([self.name(name), *captured])

    def _own_call(
        self, name: str, source: cst.FunctionDef, scope: str, node: cst.Call
    ) -> Region:
        given = given_to(source, node)
        if given is None:
            params = [f"{scope}{p.name.value}" for p in all_params(source.params)]
            held = [self.names.setdefault(p, Region()) for p in params]
            return self.unknown([*held, *map(self._given, node.args)])
        for param, value in given.items():
            inside = self.names.setdefault(f"{scope}{param}", Region())
            unified([inside, self.value(value)])
        self.now.calls.add(name)
        return self.returned[name].found()
