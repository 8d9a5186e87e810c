"""Calls, by what is called."""

from __future__ import annotations

import abc
import ast
import builtins
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from codegen import optable
from codegen.fence.heap import SELF
from codegen.fence.operations import Arguments, Operations, may_write
from codegen.fence.values import (
    ANYTHING,
    DIFFERENTIABLE,
    GRADIENT,
    NOTHING,
    NUMBER,
    PLAIN,
    RATIO,
    UNKNOWN,
    Defined,
    Environment,
    Frame,
    Function,
    Method,
    Named,
    Users,
    Value,
    constant,
    join,
)

FORBIDDEN = {
    **dict.fromkeys(("item", "tolist", "numpy"), "cut"),
    **dict.fromkeys(("backward", "register_hook", "zero_grad"), "backward"),
    "step": "step",
}
"""Methods that no tensor may be asked for, and the law that they break."""
_MODES = (
    "torch.no_grad",
    "torch.enable_grad",
    "torch.set_grad_enabled",
    "torch.inference_mode",
)
_NEVER = (
    "torch.autograd",
    "torch.jit",
    "torch.compile",
    "torch.distributed",
    "torch.utils.checkpoint",
    "gc",
    "inspect",
    "sys._getframe",
)
_BY_NAME = frozenset(
    "eval exec globals locals vars compile open input __import__ breakpoint delattr "
    "setattr".split()
)
_DTYPES = frozenset({"dtype", "uint8", "int8", "int16", "int32", "int64", "float16"})
_DTYPES |= {"bfloat16", "float32", "float64", "half", "float", "double", "int", "long"}


@dataclass
class Calls(Operations):
    """Finds out what is called, and what comes out of it."""

    at: ast.AST = field(default_factory=ast.Pass)
    env: Environment | None = field(default_factory=dict)
    frame: Frame = field(default_factory=lambda: Frame(ast.Pass(), None))
    context: Hashable = None
    """The call that is walked through: what is remembered is remembered by it."""
    results: dict[Hashable, Value] = field(default_factory=dict)
    walked: list[ast.AST] = field(default_factory=list)
    frames: dict[ast.AST, Frame] = field(default_factory=dict)

    @abc.abstractmethod
    def walk(self, node: ast.FunctionDef | ast.Lambda) -> Value:
        """Interprets a function's body in the present environment."""

    def call_any(self, node: ast.AST, callee: Value, arguments: Arguments) -> Value:
        """A call of whatever a value may be."""
        found = [self.call(node, f, arguments) for f in callee.functions]
        users = any(isinstance(f, Users) for f in callee.functions)
        known = callee.functions and (not callee.flags & ~PLAIN or users)
        if not known and (callee != NOTHING or not self.guessing):
            # whoever made it may have given it anything to hold
            held = Arguments((*arguments.plain, ANYTHING), arguments.named)
            found.append(self.unknown(node, ast.unparse(callee_of(node)), held))
        return join(found)

    def call(self, node: ast.AST, found: Function, arguments: Arguments) -> Value:
        if isinstance(found, Users):
            return ANYTHING
        if isinstance(found, Defined):
            return self._defined(node, found, arguments)
        if isinstance(found, Method):
            return self._method(node, found, arguments)
        return self._named(node, found.path, arguments)

    # --- functions of modules

    def _named(self, node: ast.AST, path: str, arguments: Arguments) -> Value:
        if path.startswith(_NEVER) or path in _MODES or path in _BY_NAME:
            self.refuse("mode" if path in _MODES else "outside", node, path)
            return ANYTHING
        special = _BUILTINS.get(path)
        if special is not None and not arguments.starred:
            return special(self, node, arguments)
        if path == "getattr" and len(arguments.plain) > 1:
            return self._getattr(node, arguments)
        operation = optable.function(path)
        if operation is None:
            held = optable.container_method(path.rpartition(".")[2])
            if path.count(".") > 1 and held is not None and held.in_place:
                self.refuse("fixed", node)
            return self.unknown(node, path, arguments)
        return self.operate(node, operation, arguments)

    def _getattr(self, node: ast.AST, arguments: Arguments) -> Value:
        held, names, *default = arguments.plain
        if names.flags != PLAIN or not names.constants:
            return self.unknown(node, "getattr", arguments)
        found = [self.attribute(node, held, str(n)) for n in names.constants]
        return join([*found, *default])

    @abc.abstractmethod
    def attribute(self, node: ast.AST, held: Value, name: str) -> Value:
        """``held.name``."""

    # --- methods

    def _method(self, node: ast.AST, found: Method, arguments: Arguments) -> Value:
        receiver, name = found.receiver, found.name
        if SELF in receiver.objects:
            self.refuse("method", node, name)
            return ANYTHING
        results = [
            self.container(node, held, name, arguments) for held in receiver.objects
        ]
        if receiver.flags & DIFFERENTIABLE:
            results.append(self._of_tensor(node, receiver, name, arguments))
        elif receiver.flags & PLAIN and not receiver.objects:
            results.append(self._of_plain(node, name, arguments))
        return join(results)

    def _of_tensor(
        self, node: ast.AST, receiver: Value, name: str, arguments: Arguments
    ) -> Value:
        alone = Value(receiver.flags, constants=receiver.constants)
        theirs = any(isinstance(f, Users) for f in receiver.functions)
        if name in FORBIDDEN:
            self.refuse(FORBIDDEN[name], node, f".{name}()")
            return ANYTHING
        if name == "view" and any(map(_is_dtype, arguments.all())):
            self.refuse("bits", node)
        operation = optable.method(name)
        if operation is None and receiver.flags & UNKNOWN:
            operation = optable.container_method(name)
        if operation is None:
            handed = arguments if theirs else arguments.after(alone)
            return self.unknown(node, f".{name}", handed)
        result = self.operate(node, operation, arguments.after(alone))
        return join((result, ANYTHING)) if receiver.flags & UNKNOWN else result

    def _of_plain(self, node: ast.AST, name: str, arguments: Arguments) -> Value:
        """A method of a number, a string or a size."""
        if may_write(Method(NUMBER, name)):
            self.refuse("in place", node)
        if (
            any(self.flags(v) & GRADIENT for v in arguments.all())
            and not self.in_message
        ):
            self.unknown(node, f".{name}", arguments)
        return NUMBER

    # --- functions of the module's own

    def _defined(self, node: ast.AST, found: Defined, arguments: Arguments) -> Value:
        given = _parameters(self, found, arguments)
        if given is None or getattr(found.node, "decorator_list", None):
            return self.unknown(node, ast.unparse(callee_of(node)), arguments)
        key = (found.node, found.frame, tuple(given.items()))
        if key in self.results:
            return self.results[key]
        if found.node in self.walked:
            self.refuse("recursion", node)
            return ANYTHING
        held = self.env, self.frame, self.context, self.at
        frame = self.frames.setdefault(found.node, Frame(found.node, found.frame))
        self.env, self.frame, self.context = {}, frame, key
        self.walked.append(found.node)
        for name, value in given.items():
            self.set(name, value.without(RATIO))
        result = self.walk(found.node)
        self.walked.pop()
        self.env, self.frame, self.context, self.at = held
        self.results[key] = result
        return result

    def set(self, name: str, value: Value) -> None:
        """Binds a variable."""
        if self.env is not None:
            self.env[name] = value
        before = self.frame.ever.get(name, NOTHING)
        after = join((before, value))
        if after != before:
            self.frame.ever[name] = after
            self.changed = True


def callee_of(node: ast.AST) -> ast.AST:
    return node.func if isinstance(node, ast.Call) else node


def _is_dtype(value: Value) -> bool:
    paths = (f.path for f in value.functions if isinstance(f, Named))
    return bool(value.flags & UNKNOWN) or any(
        p.rpartition(".")[2] in _DTYPES for p in paths
    )


def _parameters(
    machine: Operations, found: Defined, arguments: Arguments
) -> dict[str, Value] | None:
    """Arguments of a call by parameter; None where they don't fit."""
    args = found.node.args
    names = [a.arg for a in (*args.posonlyargs, *args.args)]
    given = dict(found.defaults)
    if arguments.starred:
        return None
    given |= dict(zip(names, arguments.plain))
    rest = arguments.plain[len(names) :]
    if rest and args.vararg is None:
        return None
    if args.vararg is not None:
        given[args.vararg.arg] = machine.placed((found.node, "rest"), rest)
    known = {*names, *(a.arg for a in args.kwonlyargs)}
    extra = [(k, v) for k, v in arguments.named if k not in known]
    if extra and args.kwarg is None:
        return None
    given |= {k: v for k, v in arguments.named if k in known}
    if args.kwarg is not None:
        held = machine.made((found.node, "named"), kind="dict")
        for key, value in extra:
            machine.store(found.node, held, constant(key), value)
        given[args.kwarg.arg] = held
    return given if known <= given.keys() else None


# --- Python's own functions of containers

Builtin = Callable[[Calls, ast.AST, Arguments], Value]


def _items(machine: Calls, node: ast.AST, arguments: Arguments) -> Value:
    """``list(xs)``, ``sorted(xs, key=f)``: another container of the same things."""
    items = [machine.elements(v) for v in arguments.plain]
    key = dict(arguments.named).get("key")
    if key is not None:
        machine.callbacks(node, Arguments((key,)), items)
    return machine.made(node, items)


def _dict(machine: Calls, node: ast.AST, arguments: Arguments) -> Value:
    result = machine.made(node, kind="dict")
    for held in result.objects:
        machine._fill(held, "update", arguments)
    return result


def _zip(machine: Calls, node: ast.AST, arguments: Arguments) -> Value:
    items = [machine.elements(v) for v in arguments.plain]
    return machine.made(node, [machine.placed((node, "item"), items)])


def _enumerate(machine: Calls, node: ast.AST, arguments: Arguments) -> Value:
    items = [NUMBER, machine.elements(arguments.plain[0])]
    return machine.made(node, [machine.placed((node, "item"), items)])


def _map(machine: Calls, node: ast.AST, arguments: Arguments) -> Value:
    callee, *rest = arguments.plain
    handed = Arguments(tuple(machine.elements(v) for v in rest))
    return machine.made(node, [machine.call_any(node, callee, handed)])


def _filter(machine: Calls, node: ast.AST, arguments: Arguments) -> Value:
    callee, items = arguments.plain
    element = machine.elements(items)
    if not callee.is_plain:
        machine.call_any(node, callee, Arguments((element,)))
    return machine.made(node, [element])


def _reduce(machine: Calls, node: ast.AST, arguments: Arguments) -> Value:
    callee, items, *first = arguments.plain
    result = join([machine.elements(items), *first])
    for _ in range(2):
        handed = Arguments((result, machine.elements(items)))
        result = join((result, machine.call_any(node, callee, handed)))
    return result


def _next(machine: Calls, node: ast.AST, arguments: Arguments) -> Value:
    first, *default = arguments.plain
    return join([machine.elements(first), *default])


_BUILTINS: dict[str, Builtin] = {
    **dict.fromkeys(("list", "tuple", "set", "frozenset", "iter"), _items),
    **dict.fromkeys(("sorted", "reversed", "collections.deque"), _items),
    **dict.fromkeys(("dict", "collections.OrderedDict"), _dict),
    "zip": _zip,
    "enumerate": _enumerate,
    "map": _map,
    "filter": _filter,
    "functools.reduce": _reduce,
    "next": _next,
}


def is_builtin(name: str) -> bool:
    return hasattr(builtins, name)
