"""What displays and comprehensions make: lists, tuples and dicts with their items.

[m, v]                                      a list of which both items are known
[torch.zeros_like(p) for _ in range(3)]     three objects
[f(x) for x in xs]                          many, under one name
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Protocol

import libcst as cst

from codegen.analysis.environment import Env
from codegen.analysis.indices import COUNT
from codegen.analysis.keys import is_constant_key
from codegen.analysis.values import (
    CONTAINERS,
    GRADIENTS,
    OTHER,
    UNKNOWN,
    Kind,
    Place,
    Slot,
    Value,
    any_of,
    join_all,
    several,
)
from codegen.diagnostics import walk
from codegen.ir.loops import Loop, Walk
from codegen.syntax import code, comprehension_names, dotted


class Evaluator(Protocol):
    """What the rest of an expression may denote."""

    tuples: set[str]
    prefix: str
    sites: dict[cst.CSTNode | None, int]

    def value(self, node: cst.BaseExpression, env: Env) -> Value: ...

    def item_of(self, source: cst.BaseExpression, env: Env) -> Value: ...

    def new(self, part: str = "") -> Place: ...


class Displays:
    """Evaluates displays and comprehensions."""

    def __init__(self, expressions: Evaluator) -> None:
        self.expressions = expressions

    def value(self, node: cst.BaseExpression, env: Env) -> Value:
        if isinstance(node, (cst.List, cst.Tuple, cst.Set)):
            return self._sequence(node, env)
        if isinstance(node, (cst.ListComp, cst.GeneratorExp, cst.SetComp)):
            return self._comprehension(node, node.elt, Kind.SEQUENCE, env)
        if isinstance(node, cst.Dict):
            return self._dict(node, env)
        if isinstance(node, cst.DictComp):
            return self._comprehension(node, node.value, Kind.MAPPING, env)
        return UNKNOWN

    def _comprehension(
        self, node: cst.BaseComp, element: cst.BaseExpression, kind: Kind, env: Env
    ) -> Value:
        known = self._item_by_item(node, element, env)
        if known is not None:
            return known
        inside = env.fork()
        own = comprehension_names(node)
        for name in own:
            inside.forget_name(name)
        self.bind_comprehension(node.for_in, inside)
        made = self.expressions.new()
        item = inside.close(self.expressions.value(element, inside), own)
        env.learn_origins(inside.origins)
        if _is_made(item, self.expressions.prefix) and node.for_in.inner_for_in is None:
            env.distinct |= {made.obj}
            if isinstance(node, cst.ListComp):
                self._one_by_one(node, made.obj, item.kind, env)
        return Value(kind, frozenset({made}), _each(item, env))

    def _item_by_item(
        self, node: cst.BaseComp, element: cst.BaseExpression, env: Env
    ) -> Value | None:
        """``[f(t) for t in xs]`` and ``{k: f(t) for k, t in d.items()}`` of containers
        whose items are known; None where that can't be told."""
        turns = self._turns(node, env)
        if turns is None:
            return None
        made = self.expressions.new().obj
        items: dict[str, Value] = {}
        for key, names in turns.items():
            inside = env.fork()
            for name in comprehension_names(node):
                inside.forget_name(name)
            inside.names.update(names)
            value = self.expressions.value(element, inside)
            if not self._is_plain(value, element, env):
                return None
            sites = self._sites(element)
            items[key] = value.with_places(
                lambda p: replace(p, obj=f"{made} item {key}") if p.obj in sites else p
            )
        for key, value in items.items():
            env.slots[Slot(made, key)] = value
        mapping = isinstance(node, cst.DictComp)
        env.exact[made] = -1 if mapping else len(items)
        if not any(env.may_alias(a, b) for a, b in combinations(items.values(), 2)):
            env.distinct |= {made}
        kind = Kind.MAPPING if mapping else Kind.SEQUENCE
        return Value(kind, frozenset({Place(made)}), join_all(items.values()))

    def _turns(
        self, node: cst.BaseComp, env: Env
    ) -> dict[str, dict[str, Value]] | None:
        """What a comprehension's variables denote in each turn, by the key of the item
        that it makes."""
        loop, walked = node.for_in, node.for_in.iter
        if loop.ifs or loop.inner_for_in is not None or loop.asynchronous is not None:
            return None
        if isinstance(node, cst.ListComp) and isinstance(loop.target, cst.Name):
            if isinstance(walked, cst.Call):
                return None
            items = env.listed(self.expressions.value(walked, env))
            name = loop.target.value
            if items is None:
                return None
            return {str(n): {name: item} for n, item in enumerate(items)}
        if not isinstance(node, cst.DictComp) or not isinstance(loop.target, cst.Tuple):
            return None
        names = [e.value for e in loop.target.elements]
        if not isinstance(walked, cst.Call) or not isinstance(
            walked.func, cst.Attribute
        ):
            return None
        if walked.func.attr.value != "items" or code(names[0]) != code(node.key):
            return None
        place = self.expressions.value(walked.func.value, env).place
        shape = None if place is None else env.shape(place.obj)
        if place is None or not isinstance(shape, frozenset) or len(names) != 2:
            return None
        key, item = map(code, names)
        return {
            k: {key: OTHER, item: env.slots[Slot(place.obj, k)]} for k in sorted(shape)
        }

    def _sites(self, element: cst.BaseExpression) -> set[str]:
        """Objects that an expression makes itself."""
        sites = (self.expressions.sites.get(n) for n in walk(element))
        return {f"{self.expressions.prefix}{n}" for n in sites if n is not None}

    def _is_plain(self, value: Value, element: cst.BaseExpression, env: Env) -> bool:
        """Whether a value is something that was there, or that the element made."""
        if value.kind in CONTAINERS:
            return False
        sites = self._sites(element)
        return all(p.obj in sites or env.knows(p.obj) for p in value.places)

    def _one_by_one(self, node: cst.ListComp, made: str, kind: Kind, env: Env) -> None:
        """``[torch.zeros_like(p) for _ in range(3)]`` are three objects."""
        count = _times(node.for_in)
        if count is None:
            return
        for number in range(count):
            item = Value(kind, frozenset({self.expressions.new(f" item {number}")}))
            env.slots[Slot(made, str(number))] = item
        env.exact[made] = count

    def _sequence(self, node: cst.List | cst.Tuple | cst.Set, env: Env) -> Value:
        made = self.expressions.new().obj
        if isinstance(node, cst.Tuple):
            self.expressions.tuples.add(made)
        values = [self.expressions.value(e.value, env) for e in node.elements]
        starred = [isinstance(e, cst.StarredElement) for e in node.elements]
        items = [env.contents(v) if s else v for v, s in zip(values, starred)]
        parts = [env.listed(v) if s else [v] for v, s in zip(values, starred)]
        known = [v for part in parts for v in part or ()]
        if None not in parts and not isinstance(node, cst.Set):
            env.exact[made] = len(known)
            for number, value in enumerate(known):
                env.slots[Slot(made, str(number))] = value
        apart = not any(env.may_alias(a, b) for a, b in combinations(known, 2))
        if apart and None not in parts:
            env.distinct |= {made}
        return Value(Kind.SEQUENCE, frozenset({Place(made)}), join_all(items))

    def _dict(self, node: cst.Dict, env: Env) -> Value:
        made = self.expressions.new().obj
        items: list[Value | None] = []
        whole = True
        for element in node.elements:
            value = self.expressions.value(element.value, env)
            if not isinstance(element, cst.DictElement):
                items.append(env.contents(value))
                place = value.place
                whole = whole and place is not None and env.exact.get(place.obj) == -1
                if whole and place is not None:
                    env.copy_items(place.obj, made)
                continue
            items.append(value)
            key = code(element.key)
            whole = whole and is_constant_key(key)
            if whole:
                env.slots[Slot(made, key)] = value
                env.possibly_absent.discard(Slot(made, key))
        values = [v for v in items if v is not None]
        if all(not env.may_alias(a, b) for a, b in combinations(values, 2)):
            env.distinct |= {made}
        if whole:
            env.exact[made] = -1
        else:
            env.distinct -= {made} if items else frozenset()
            env.summarize(made)
        return Value(Kind.MAPPING, frozenset({Place(made)}), join_all(items))

    def bind_comprehension(self, node: cst.CompFor, env: Env) -> None:
        """The loops of a comprehension bind variables of its own."""
        loop = Loop.of(node)
        walk = loop.walk
        for item in loop.items:
            value = self.expressions.item_of(item.source, env)
            if walk is Walk.GROUPS and value is not GRADIENTS:
                value = UNKNOWN if item.source is not loop.items[0].source else OTHER
            self._bind_own(item.target, value, env)
        if loop.position is not None:
            self._bind_own(loop.position, COUNT, env)
        if node.inner_for_in is not None:
            self.bind_comprehension(node.inner_for_in, env)

    def _bind_own(self, target: cst.BaseExpression, value: Value, env: Env) -> None:
        if isinstance(target, cst.Name):
            env.names[target.value] = value
        elif isinstance(target, (cst.Tuple, cst.List)):
            part = env.contents(value) or UNKNOWN
            for element in target.elements:
                self._bind_own(element.value, part, env)


def _each(value: Value, env: Env) -> Value:
    """What a comprehension makes in each of its turns: many, where it makes any."""

    def each(place: Place) -> Place:
        made = not env.knows(place.obj) and place.obj not in ("param", "grad", "state")
        return replace(place, obj=several(place.obj)) if made else place

    return any_of(value.with_places(each))


def _is_made(value: Value, prefix: str) -> bool:
    """Whether an expression surely made the tensor that it yields."""
    place = value.place
    return place is not None and place.obj.startswith(prefix) and not place.views


_FEW = 8
"""Lists of more items are not told item by item."""


def _times(node: cst.CompFor) -> int | None:
    """How many items a comprehension makes; None if that isn't known, or many."""
    walked = node.iter
    if node.ifs or node.inner_for_in is not None or node.asynchronous is not None:
        return None
    if isinstance(walked, (cst.Tuple, cst.List)):
        starred = any(isinstance(e, cst.StarredElement) for e in walked.elements)
        return None if starred else len(walked.elements)
    if not isinstance(walked, cst.Call) or dotted(walked.func) != "range":
        return None
    count = code(walked.args[0].value) if len(walked.args) == 1 else ""
    return int(count) if count.isdigit() and int(count) <= _FEW else None
