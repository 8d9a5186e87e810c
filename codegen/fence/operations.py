"""Calls of the table's operations, and of the containers' methods."""

from __future__ import annotations

import abc
import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codegen import optable
from codegen.fence.heap import ANY, KEYS, Heap, is_mapping
from codegen.fence.values import (
    COUNTED,
    DIFFERENTIABLE,
    GRADIENT,
    NONE,
    NOTHING,
    NUMBER,
    PLAIN,
    RATIO,
    RAW,
    SCALAR_OR_TENSOR,
    TENSOR,
    UNKNOWN,
    Defined,
    Function,
    Method,
    Named,
    Object,
    Value,
    constant,
    join,
    tensor,
)
from codegen.optable import Operation, Parameter, Result, Write


@dataclass(frozen=True)
class Arguments:
    """What a call is handed. ``starred``: how many, or under which names, isn't known."""

    plain: tuple[Value, ...]
    named: tuple[tuple[str, Value], ...] = ()
    starred: tuple[Value, ...] = ()

    def all(self) -> Iterator[Value]:
        yield from self.plain
        yield from (value for _, value in self.named)
        yield from self.starred

    def get(self, position: int, name: str) -> Value | None:
        if position < len(self.plain):
            return self.plain[position]
        return dict(self.named).get(name)

    def after(self, receiver: Value) -> Arguments:
        return Arguments((receiver, *self.plain), self.named, self.starred)


Bound = dict[str, Value]
_COPIES = frozenset({"copy.copy", "copy.deepcopy", "ops.deepcopy"})
_ASKING = frozenset(
    "builtins.bool operator.truth operator.not_ operator.eq operator.ne operator.gt "
    "operator.lt".split()
)
"""Functions that tell a setting of zero from others."""
_NUMBER_OF = frozenset({"builtins.float", "ops.value", "ops.number"})
_CUTS = frozenset({"detach", "detach_", "data", "Parameter", "requires_grad_", "item"})


@dataclass
class Operations(Heap):
    """Applies what :mod:`codegen.optable` says of an operation."""

    in_message: bool = False
    """Inside a ``raise`` or an ``assert``, whose text has no derivative."""

    @abc.abstractmethod
    def call(self, node: ast.AST, found: Function, arguments: Arguments) -> Value:
        """The value of a call of a known function."""

    # --- operations of the table

    def operate(
        self, node: ast.AST, operation: Operation, arguments: Arguments
    ) -> Value:
        """The value of a call of an operation; refuses what breaks a law."""
        bound = _bind(operation, arguments)
        self._check_written(node, operation, bound, arguments)
        name = operation.name.rpartition(".")[2]
        cuts = name in _CUTS or (operation.uses_rng and operation.cuts)
        if cuts and any(v.has_gradient for v in arguments.all()):
            self.refuse("cut", node, f".{name}()")
        self._check_numbers(node, operation, bound, arguments)
        if operation.name in _ASKING and any(v.flags & RAW for v in arguments.all()):
            self.refuse("switch", node)
        if bound is not None:
            self._check_stable(node, operation, bound)
        self.callbacks(node, arguments, map(self.elements, arguments.all()))
        return self._result(node, operation, arguments, bound)

    def callbacks(
        self, node: ast.AST, arguments: Arguments, items: Iterable[Value]
    ) -> None:
        """Functions among the arguments may be called with what the others hold."""
        found = {f for v in arguments.all() for f in v.functions}
        item = join(items) if found else NOTHING
        for inner in found:
            if isinstance(inner, Defined):
                count = len(inner.node.args.args)
                self.call(node, inner, Arguments((item,) * count))
            elif may_write(inner):
                self.refuse("in place", node)

    def _check_written(
        self,
        node: ast.AST,
        operation: Operation,
        bound: Bound | None,
        arguments: Arguments,
    ) -> None:
        if bound is None:
            may = any(
                p.inplace or p.writes.value != "nothing" for p in operation.parameters
            )
            written = [*arguments.all()] if may else []
        else:
            written = [*_written(operation, bound)]
        for value in written:
            if self.flags(value) & DIFFERENTIABLE:
                self.refuse("in place", node)
                return

    def _check_numbers(
        self,
        node: ast.AST,
        operation: Operation,
        bound: Bound | None,
        arguments: Arguments,
    ) -> None:
        one_of = operation.result is Result.ONE_OF
        if bound is None:
            numbers = any(p.number for p in operation.parameters) and not one_of
            handed = [
                v
                for v in arguments.all()
                if self.flags(v) & (SCALAR_OR_TENSOR | UNKNOWN)
            ]
            lost: list[tuple[Parameter | None, Value]] = [
                (None, v) for v in handed if numbers
            ]
        else:
            plain = (p for p in operation.parameters if p.number)
            lost = [(p, bound[p.name]) for p in plain if p.name in bound]
        for parameter, value in () if one_of or self.in_message else lost:
            if self.flags(value) & GRADIENT:
                name = parameter.name if parameter else "an argument"
                self.refuse("number", node, f"{name!r} of {operation.name}")
        decides = operation.decides or operation.result is Result.NUMBER
        if not decides and any(self.flags(v) & COUNTED for v in arguments.all()):
            self.refuse("counted", node)

    def _check_stable(self, node: ast.AST, operation: Operation, bound: Bound) -> None:
        """Roots, norms and quotients whose derivative is infinite at zero."""
        if operation.picks and not operation.name.startswith("ops.div"):
            handed = [v for k, v in bound.items() if k != "condition"]
            if any(v.flags & RATIO for v in handed):
                self.refuse("unstable", node, "a quotient that may not be picked")
        if operation.stable in (None, "ops.div") or operation.name.startswith("ops."):
            return
        first = next(iter(bound.values()), NOTHING)
        if not first.flags & (TENSOR | UNKNOWN) or not first.has_gradient:
            return
        if operation.stable == "ops.pow" and not may_be_root(bound.get("exponent")):
            return
        self.refuse(
            "unstable", node, f"{operation.name.rpartition('.')[2]} of a tensor"
        )

    def _result(
        self,
        node: ast.AST,
        operation: Operation,
        arguments: Arguments,
        bound: Bound | None,
    ) -> Value:
        kind, values = operation.result, [*arguments.all()]
        if operation.name in _COPIES:
            return values[0].without(RATIO) if values else NOTHING
        raw = values[0].flags & RAW if operation.name in _NUMBER_OF and values else 0
        if operation.name == "ops.number":
            counted = COUNTED if values[0].has_gradient else 0
            return Value(PLAIN | counted | raw, constants=None)
        if kind is Result.NOTHING:
            return NONE
        if kind in (Result.NUMBER, Result.METADATA):
            return NUMBER
        if kind is Result.COMPUTED:
            inner = [self.elements(v) if v.objects else v for v in values]
            lists = [self.elements(v) for v in inner if v.objects]  # sum(lists, [])
            return join((computed(inner), *([self.made(node, lists)] if lists else [])))
        flags = 0
        for value in values:
            flags |= self.flags(value)
        gradient = 0 if operation.mask or operation.cuts else flags & GRADIENT
        if kind is Result.SCALAR_OR_TENSOR:
            is_plain = not flags & DIFFERENTIABLE
            return NUMBER if is_plain else Value(SCALAR_OR_TENSOR | gradient | raw)
        if kind is Result.ITEMS:
            items = [self.elements(v) for v in values]
            if not operation.name.startswith("ops."):  # zip(*xs), product(xs, ys)
                items.append(self.made((node, "items"), items))
            return self.made(node, [*items, tensor(gradient)])
        if kind is Result.ONE_OF:
            return join([*values, *map(self.elements, values)]).without(RAW | RATIO)
        ratio = (
            RATIO
            if operation.stable == "ops.div"
            and gradient
            and bound
            and (next(reversed(bound.values())).flags & DIFFERENTIABLE)
            and not operation.name.startswith("ops.")
            else 0
        )
        return tensor(gradient | ratio)

    # --- containers

    def container(
        self, node: ast.AST, held: Object, name: str, arguments: Arguments
    ) -> Value:
        """``held.name(…)``."""
        me = Value(objects=frozenset({held}))
        operation = optable.container_method(name)
        if operation is None:
            return self.unknown(node, f".{name}", arguments.after(me))
        if operation.in_place and not self.may_write(node, held):
            return NOTHING
        key = arguments.get(0, "key") or NUMBER
        if name in ("get", "pop", "setdefault"):
            default = arguments.get(1, "default")
            if name == "setdefault":
                self.store(node, me, key, default or NONE)
            found = self.item(node, me, key if is_mapping(held) else NUMBER)
            return join((found, NONE if default is None else default))
        if name in ("popitem", "items"):
            pair = self.placed(
                (node, "pair"), (self.elements(me), self.read(held, None))
            )
            return pair if name == "popitem" else self.made(node, [pair])
        if name in ("values", "popleft"):
            found = self.read(held, None)
            return self.made(node, [found]) if name == "values" else found
        if name in ("keys", "copy", "union", "intersection", "difference"):
            return (
                me
                if name == "copy"
                else self.made(node, [self.elements(v) for v in (me, *arguments.all())])
            )
        if operation.in_place:
            self._fill(held, name, arguments)
            self.callbacks(node, arguments, [self.read(held, None)])
            return NONE
        return NUMBER

    def _fill(self, held: Object, name: str, arguments: Arguments) -> None:
        """What a method that changes a container puts into it."""
        if is_mapping(held):
            for value in (*arguments.plain, *arguments.starred):
                self._update(held, value)
            for key, value in arguments.named:
                self.put(held, KEYS, constant(key))
                self.put(held, key, value)
            return
        if name in ("extend", "extendleft", "update"):
            values = [self.elements(v) for v in arguments.all()]
        elif name in ("append", "appendleft", "add", "insert"):
            values = [*arguments.plain[-1:]]
        else:
            values = []
        if name not in ("append", "extend"):  # positions shift
            values += [v for k, v in self.contents.get(held, {}).items() if k != ANY]
        self.put(held, ANY, join(values))

    def _update(self, held: Object, value: Value) -> None:
        for other in value.objects:
            if is_mapping(other):
                for key, inner in [*self.contents.get(other, {}).items()]:
                    self.put(held, key, inner)
            else:
                pairs = self.elements(value)
                self.put(held, KEYS, self.elements(pairs))
                self.put(held, ANY, self.elements(pairs))
        if value.flags & UNKNOWN:
            self.put(held, ANY, value)

    # --- what nobody knows

    def unknown(self, node: ast.AST, what: str, arguments: Arguments) -> Value:
        """Default deny: nobody knows what becomes of a tensor in there."""
        flags = 0
        for value in arguments.all():
            flags |= self.flags(value) | (UNKNOWN if value.functions else 0)
        if flags & (DIFFERENTIABLE | GRADIENT) or any(
            v.objects for v in arguments.all()
        ):
            self.refuse("unknown", node, what)
        elif what.endswith("_") and not what.endswith("__"):
            self.refuse("changes", node, what)
        return Value(PLAIN | UNKNOWN, constants=None)


def computed(values: Sequence[Value]) -> Value:
    """What arithmetic makes of numbers and tensors."""
    flags = 0
    for value in values:
        flags |= value.flags
    kept = flags & (GRADIENT | COUNTED | UNKNOWN)
    if flags & TENSOR:
        return Value(TENSOR | kept)
    if flags & (SCALAR_OR_TENSOR | UNKNOWN):
        return Value(SCALAR_OR_TENSOR | kept)
    return Value(PLAIN | kept, constants=None)


def may_write(found: Function) -> bool:
    """Whether a function writes into what it is handed, by the table."""
    operation = None
    if isinstance(found, Named):
        operation = optable.function(found.path)
    elif isinstance(found, Method):
        operation = optable.method(found.name)
    return operation is not None and operation.in_place


def may_be_root(exponent: Value | None) -> bool:
    """Whether a power's exponent may lie between zero and one, or is below zero."""
    if exponent is None or exponent.flags != PLAIN or not exponent.constants:
        return True
    return not all(
        isinstance(c, (int, float)) and (c >= 1 or c == 0) for c in exponent.constants
    )


def _bind(operation: Operation, arguments: Arguments) -> Bound | None:
    """Arguments by the name of their parameter; None where that can't be told."""
    if arguments.starred:
        return None
    bound: Bound = {}
    left = [*arguments.plain]
    for parameter in operation.parameters:
        if parameter.keyword_only or not left:
            break
        if parameter.variadic:
            bound[parameter.name], left = join(left), []
        else:
            bound[parameter.name] = left.pop(0)
    if left:
        return None
    for name, value in arguments.named:
        found = operation.parameter(name)
        if found is None and name not in optable.OPTIONS and name != "out":
            return None
        bound[found.name if found else name] = value
    return bound


def _written(operation: Operation, bound: Bound) -> Iterator[Value]:
    """The arguments that a call may write into, ``out=`` and ``inplace=`` included."""
    out = bound.get("out", NONE)
    if out != NONE:
        yield out
    for parameter in operation.parameters:
        value = bound.get(parameter.name)
        if value is None:
            continue
        if parameter.writes is not Write.NOTHING:
            yield value
        if parameter.inplace and value.constants != frozenset({False}):
            yield next(iter(bound.values()))
