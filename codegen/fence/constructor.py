"""What an optimizer's constructor leaves in the state, the groups and its attributes."""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass, field

import libcst as cst

from codegen.fence.expressions import imported
from codegen.fence.heap import (
    ANY,
    DEFAULTS,
    GROUP,
    SELF,
    SHARED,
    STATE,
    Heap,
    optimizer,
)
from codegen.fence.operations import Arguments
from codegen.fence.statements import Interpreter
from codegen.fence.values import (
    NONE,
    NOTHING,
    NUMBER,
    PLAIN,
    TENSOR,
    UNKNOWN,
    Defined,
    Frame,
    Function,
    Method,
    Users,
    Value,
)
from codegen.upstream import Definition, External, SourceModule, Upstream


@dataclass
class _Constructor(Interpreter):
    """Follows upstream's own ``__init__``, where nothing has a gradient yet."""

    upstream: Upstream | None = None
    quiet: bool = True
    guessing: bool = False
    owners: list[Definition] = field(default_factory=list)
    functions: dict[Definition, ast.FunctionDef] = field(default_factory=dict)

    def _name(self, node: ast.Name) -> Value:
        found = super()._name(node)
        if found != NOTHING or not self.owners or self.upstream is None:
            return found
        module = self.owners[-1].module
        meant = self.upstream.library.resolve(module, node.id)
        if isinstance(meant, External):
            return imported(meant.full_name)
        if isinstance(meant, SourceModule):
            return imported(meant.name)
        if meant is not None and isinstance(meant.node, cst.BaseExpression):
            text = cst.Module([]).code_for_node(meant.node)
            return self.evaluate(ast.parse(text, mode="eval").body)
        return _UNKNOWN

    def item(self, node: ast.AST, value: Value, index: Value) -> Value:
        """State is kept by parameter there, and what all share by a string."""
        if any(o.kind == "states" for o in value.objects):
            if index.flags & TENSOR:
                return super().item(node, super().item(node, value, NUMBER), NUMBER)
        return super().item(node, value, index)

    def store(self, node: ast.AST, target: Value, index: Value, value: Value) -> None:
        if any(o.kind == "states" for o in target.objects):
            if index.flags & TENSOR:
                self._fill(STATE, "update", Arguments((value,)))
            else:
                super().store(node, Value(objects=frozenset({SHARED})), index, value)
        else:
            super().store(node, target, index, value)

    def call_any(self, node: ast.AST, callee: Value, arguments: Arguments) -> Value:
        for found in callee.functions:
            if isinstance(found, Method) and found.name == "__init__":
                self._base(arguments)
                return NONE
        result = super().call_any(node, callee, arguments)
        return result if result != _UNKNOWN else _of_users(ast.unparse(node))

    def call(self, node: ast.AST, found: Function, arguments: Arguments) -> Value:
        if isinstance(found, Method) and SELF in found.receiver.objects:
            assert self.upstream is not None
            method = self.upstream.method(found.name)
            if method is None or method in self.owners:
                return _UNKNOWN
            return self.method(method, arguments)
        return super().call(node, found, arguments)

    def _base(self, arguments: Arguments) -> None:
        """``super().__init__(params, defaults)``, or a base by its name."""
        assert self.upstream is not None
        plain = [v for v in arguments.plain if SELF not in v.objects]
        arguments = Arguments(tuple(plain), arguments.named, arguments.starred)
        owner = owner_of(self.upstream, self.owners[-1])
        init = self.upstream.method("__init__", after=owner)
        if init is not None:
            self.method(init, arguments)
            return
        defaults = arguments.get(1, "defaults") or NOTHING
        for held in defaults.objects:
            for key, value in [*self.contents.get(held, {}).items()]:
                own = frozenset(f for f in value.functions if not isinstance(f, Users))
                self.put(GROUP, key, value._replace(functions=own))

    def method(self, found: Definition, arguments: Arguments) -> Value:
        """Walks a method of upstream's."""
        if found not in self.functions:
            text = cst.Module([]).code_for_node(found.node)
            (tree,) = ast.parse(textwrap.dedent(text)).body
            assert isinstance(tree, ast.FunctionDef)
            tree.decorator_list = []
            self.functions[found] = tree
        node = self.functions[found]
        named = dict(zip([a.arg for a in node.args.args[1:]], arguments.plain))
        named |= dict(arguments.named)
        for name, value in _defaults(node.args):
            named.setdefault(name, value)
        args = node.args
        for argument in [*args.args, *args.kwonlyargs]:
            named.setdefault(argument.arg, _of_users(argument.arg))
        named[args.args[0].arg] = Value(objects=frozenset({SELF}))
        for extra in (args.vararg, args.kwarg):
            if extra is not None:
                named[extra.arg] = _of_users(extra.arg)
        plain = Defined(node, Frame(node, None), tuple(named.items()))
        node.args.vararg = node.args.kwarg = None
        self.owners.append(found)
        result = super().call(node, plain, Arguments(()))
        self.owners.pop()
        return result


_UNKNOWN = Value(PLAIN | UNKNOWN, constants=None)


def _of_users(name: str) -> Value:
    return _UNKNOWN._replace(functions=frozenset({Users(name)}))


def _defaults(args: ast.arguments) -> list[tuple[str, Value]]:
    """Arguments that are there are of the kind of their defaults."""
    late = args.args[len(args.args) - len(args.defaults) :]
    pairs = [*zip(late, args.defaults), *zip(args.kwonlyargs, args.kw_defaults)]
    found = []
    for argument, default in pairs:
        plain = isinstance(default, (ast.Constant, ast.UnaryOp)) and not (
            isinstance(default, ast.Constant) and default.value is None
        )
        found.append((argument.arg, NUMBER if plain else _of_users(argument.arg)))
    return found


def owner_of(upstream: Upstream, method: Definition) -> Definition:
    name = method.name.partition(".")[0]
    return next(c for c in upstream.lineage if c.name == name)


def before(upstream: Upstream) -> Heap:
    """The optimizer's containers as the constructor leaves them."""
    machine = _Constructor(upstream=upstream)
    optimizer(machine, frozenset(), frozenset())
    init = upstream.method("__init__")
    if init is not None:
        for _ in range(20):
            machine.changed = False
            machine.results.clear()
            machine.env = {}
            machine.method(init, Arguments(()))
            if not machine.changed:
                break
    # of a key that isn't known, nothing is known in a group anyway
    machine.contents[GROUP].pop(ANY, None)
    machine.contents[DEFAULTS] = {**machine.contents[GROUP]}
    return machine
