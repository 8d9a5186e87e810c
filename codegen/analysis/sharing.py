"""Which slots may hold one tensor, or parts of one, when a step ends."""

from __future__ import annotations

from itertools import combinations

from codegen.analysis.environment import Env, is_constant_key
from codegen.analysis.values import (
    ANOTHERS,
    CONTAINERS,
    MAY_HOLD_TENSORS,
    OF_ANOTHER,
    REPEATS,
    REST,
    Place,
    Slot,
    Value,
    of_any,
)

Sharing = dict[str, frozenset[str]]
"""Objects that slots hold when a step begins, and those that each may be one with."""


class SharedSlots:
    """Collects, over the ends of all turns, what slots may share."""

    def __init__(self) -> None:
        self.found: Sharing = {}

    def note(self, env: Env) -> None:
        """Slots that may hold one tensor, or parts of one, when a turn ends."""
        kept = [
            (s, v)
            for s, v in env.slots.items()
            if v.kind in MAY_HOLD_TENSORS and v.places and _is_kept(s, env)
            if s.key == REST or is_constant_key(s.key)
        ]
        for slot, value in kept:
            if value.kind in CONTAINERS and not all(
                map(env.has_no_twins, value.objects())
            ):
                self._share(_name_of(slot), REPEATS)
        for (one, a), (two, b) in combinations(kept, 2):
            self._compare(one, a, two, b, env)

    def _compare(self, one: Slot, a: Value, two: Slot, b: Value, env: Env) -> None:
        outside = [s.container.endswith(OF_ANOTHER) for s in (one, two)]
        if all(outside):
            return
        if any(outside):
            if env.may_alias(a, b):
                own = two if outside[0] else one
                self._share(_name_of(own), ANOTHERS.obj)
            return
        if {one.container, two.container} & {"shared"}:
            # it may hold what belongs to any parameter
            a, b = a.with_places(of_any), b.with_places(of_any)
        if env.may_alias(a, b):
            self._share(_name_of(one), _name_of(two))
            self._share(_name_of(two), _name_of(one))

    def _share(self, one: str, two: str) -> None:
        self.found[one] = self.found.get(one, frozenset()) | {two}


def _name_of(slot: Slot) -> str:
    """The object that a slot holds when a step begins."""
    return "param" if slot.container == "param" else f"{slot.container}[{slot.key}]"


def _is_kept(slot: Slot, env: Env) -> bool:
    """Whether a slot outlives the step: in the state or in what is shared, at any depth."""
    pending, seen = [slot.container], set[str]()
    while pending:
        obj = pending.pop()
        if of_any(Place(obj)).obj in ("state", "shared", "param"):
            return True
        if obj not in seen:
            seen.add(obj)
            pending += [s.container for s, v in env.slots.items() if obj in v.objects()]
    return False


def merged(a: Sharing, b: Sharing) -> Sharing:
    return {k: a.get(k, frozenset()) | b.get(k, frozenset()) for k in {**a, **b}}
