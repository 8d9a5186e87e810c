"""What an expression of an emitted module may be.

A value is a set of possibilities, and joining only adds to them. UNKNOWN is a
possibility of its own, which stands for all the others: nothing is permitted of it.
"""

from __future__ import annotations

import ast
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

PLAIN = 1
"""A number, a string, None, a size, a dtype: it has no derivative and can't change."""
TENSOR = 2
"""A tensor, or a tuple of tensors that an operation returned."""
SCALAR_OR_TENSOR = 4
"""A number that may be a tensor."""
GRADIENT = 8
"""A derivative may flow through it."""
COUNTED = 16
"""A number that had a derivative: it may decide something, and enter no result."""
UNKNOWN = 32
"""Anything: a tensor, a container, a function."""
RAW = 64
"""A float setting as the group holds it."""
RATIO = 128
"""A quotient whose derivative is infinite where the divisor is zero."""

DIFFERENTIABLE = TENSOR | SCALAR_OR_TENSOR | UNKNOWN
"""What may be a tensor."""


class Object(NamedTuple):
    """A container, by the expression that made it: one for all that it makes.

    Attributes:
        kind: ``dict``, ``list`` (tuples, sets and iterators, too), or the name of one
            of the optimizer's own containers.
        fixed: it outlives the step and is nobody's state: a module's constant, or an
            argument's default.
    """

    kind: str
    site: Hashable
    fixed: bool = False


@dataclass(eq=False)
class Frame:
    """The variables of a function, and all that they ever are."""

    node: ast.AST
    parent: Frame | None
    ever: dict[str, Value] = field(default_factory=dict)


class Named(NamedTuple):
    """What a dotted name of a module means: ``torch.add``, ``higher.ops.lerp``."""

    path: str


class Method(NamedTuple):
    """``receiver.name``, before it is called."""

    receiver: Value
    name: str


class Defined(NamedTuple):
    """A function of the emitted module, with the values of its defaults."""

    node: ast.FunctionDef | ast.Lambda
    frame: Frame
    defaults: tuple[tuple[str, Value], ...]


class Users(NamedTuple):
    """A function that the user gave the optimizer; the module's docstring tells of it."""

    name: str


Function: TypeAlias = "Named | Method | Defined | Users"
Constants: TypeAlias = "frozenset[Hashable] | None"


class Value(NamedTuple):
    """Flags of above, containers, functions; ``constants`` are what a PLAIN one may be,
    None where that isn't known."""

    flags: int = 0
    objects: frozenset[Object] = frozenset()
    functions: frozenset[Function] = frozenset()
    constants: Constants = frozenset()

    def without(self, flags: int) -> Value:
        return self._replace(flags=self.flags & ~flags)

    @property
    def has_gradient(self) -> bool:
        return bool(self.flags & GRADIENT)

    @property
    def is_plain(self) -> bool:
        """Whether it surely is no tensor, container or function."""
        return self.flags & ~COUNTED == PLAIN and not self.objects | self.functions


_MOST_CONSTANTS = 12

NOTHING = Value()
NUMBER = Value(PLAIN, constants=None)
NONE = Value(PLAIN, constants=frozenset({None}))
ANYTHING = Value(PLAIN | UNKNOWN | GRADIENT, constants=None)


def constant(value: Hashable) -> Value:
    return Value(PLAIN, constants=frozenset({value}))


def tensor(gradient: int = GRADIENT) -> Value:
    return Value(TENSOR | gradient)


def of(kind: str, site: Hashable, fixed: bool = False) -> Value:
    return Value(objects=frozenset({Object(kind, site, fixed)}))


def function(found: Function) -> Value:
    return Value(functions=frozenset({found}))


def join(values: Iterable[Value]) -> Value:
    """All that any of the values may be."""
    result: Value | None = None
    for value in values:
        if result is None or result == NOTHING:
            result = value
        elif value != result:
            result = _join(result, value)
    return NOTHING if result is None else result


def _join(a: Value, b: Value) -> Value:
    constants: Constants = None
    if a.constants is not None and b.constants is not None:
        constants = a.constants | b.constants
        if len(constants) > _MOST_CONSTANTS:
            constants = None
    return Value(
        a.flags | b.flags, a.objects | b.objects, a.functions | b.functions, constants
    )


Environment: TypeAlias = "dict[str, Value]"


def joined(ways: Iterable[Environment | None]) -> Environment | None:
    """Variables where ways meet; None is a way that nobody goes."""
    result: Environment | None = None
    for way in ways:
        if way is None:
            continue
        if result is None:
            result = dict(way)
        elif way is not result:
            for name, value in way.items():
                held = result.get(name)
                if held is None:
                    result[name] = value
                elif held is not value and held != value:
                    result[name] = _join(held, value)
    return result
