"""Which slots may hold one tensor, or parts of one, when a step ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from codegen.analysis.environment import Env
from codegen.analysis.keys import is_constant_key
from codegen.analysis.store import EARLIER_GROUP, Shape
from codegen.analysis.values import (
    ANOTHERS,
    ANY_PARAMETER,
    CONTAINERS,
    MAY_HOLD_TENSORS,
    OF_ANOTHER,
    OF_GROUP,
    REPEATS,
    REST,
    Slot,
    Value,
    of_any,
)

Sharing = dict[str, frozenset[str]]
"""Objects that slots hold when a step begins, and those that each may be one with."""


class SharedSlots:
    """Collects, over the ends of all turns, what slots may share, which of them a view
    of it, and which items the containers in them have."""

    def __init__(self) -> None:
        self.found: Sharing = {}
        self.viewed: set[str] = set()
        self.shapes: dict[str, Shape] = {}
        self.names: dict[Slot, set[str]] = {}

    def note(self, env: Env) -> None:
        """Slots that may hold one tensor, or parts of one, when a turn ends."""
        kept = [
            (s, v)
            for s, v in env.slots.items()
            if v.kind in MAY_HOLD_TENSORS and v.places and env.is_kept(s.container)
            if s.key == REST or is_constant_key(s.key)
        ]
        self.names = {slot: _names_of(slot, env) for slot, _ in kept}
        for slot, value in kept:
            for name in self.names[slot]:
                self._measure(name, value, env)
            if value.kind in CONTAINERS and not all(
                map(env.has_no_twins, value.objects)
            ):
                self._share(slot, REPEATS)
            items = env.contents(value) if value.kind in CONTAINERS else None
            for name in self.names[slot]:
                if ANY_PARAMETER.obj in env.identities(value):
                    self._pair("param", name)
                if items and ANY_PARAMETER.obj in env.identities(items):
                    self._pair("param", f"{name}[{REST}]")
        for (one, a), (two, b) in combinations(kept, 2):
            self._compare(one, a, two, b, env)

    def shapes_but(self, stored: Iterable[Slot]) -> dict[str, Shape]:
        """Shapes that every step would leave, of containers that no constructor made."""
        made = {_named(s.container, s.key) for s in stored}
        return {n: k for n, k in self.shapes.items() if k is not None and n not in made}

    def agrees(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Those of ``shapes`` that a step which begins with them ends with."""
        return {n: k for n, k in shapes.items() if self.shapes.get(n, k) == k}

    def _measure(self, name: str, value: Value, env: Env) -> None:
        """Which items the container in a slot has: None once that differs."""
        made = {o for o in value.objects if env.shapes is not None or o[0] == "#"}
        found = {env.shape(obj) for obj in made}
        if name in self.shapes:
            found.add(self.shapes[name])
        if found:
            self.shapes[name] = found.pop() if len(found) == 1 else None

    def _compare(self, one: Slot, a: Value, two: Slot, b: Value, env: Env) -> None:
        outside = [
            s.container.endswith((OF_ANOTHER, OF_GROUP, EARLIER_GROUP))
            for s in (one, two)
        ]
        if all(outside):
            return
        if any(outside):
            if env.may_alias(a, b):
                own = two if outside[0] else one
                self._share(own, ANOTHERS.obj)
            return
        if {one.container, two.container} & {"shared"}:
            # it may hold what belongs to any parameter
            a, b = a.with_places(of_any), b.with_places(of_any)
        if env.may_alias(a, b):
            self._share(one, *self.names[two])
            self._share(two, *self.names[one])
            for slot, value in ((one, a), (two, b)):
                if any(place.views for place in value.places):
                    self.viewed |= self.names[slot]

    def _share(self, slot: Slot, *others: str) -> None:
        for name in self.names[slot]:
            self._add(name, *others)

    def _pair(self, one: str, two: str) -> None:
        self._add(one, two)
        self._add(two, one)

    def _add(self, name: str, *others: str) -> None:
        self.found[name] = self.found.get(name, frozenset()) | {*others}


def _named(container: str, key: str) -> str:
    return "param" if container == "param" else f"{container}[{key}]"


_DEEPEST = 4
"""Containers in containers beyond this have no names of their own."""


def _names_of(slot: Slot, env: Env, depth: int = _DEEPEST) -> set[str]:
    """How the object that a slot holds is called when a step begins: by its container,
    or by where that is found."""
    made = slot.container.startswith("#")
    names = set() if made else {_named(slot.container, slot.key)}
    for holder, value in env.slots.items() if depth else ():
        if slot.container in value.objects and holder != slot:
            if holder.key == REST or is_constant_key(holder.key):
                above = _names_of(holder, env, depth - 1)
                names |= {_named(name, slot.key) for name in above}
    return names


def merged(a: Sharing, b: Sharing) -> Sharing:
    return {k: a.get(k, frozenset()) | b.get(k, frozenset()) for k in {**a, **b}}
