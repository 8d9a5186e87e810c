"""What names and slots denote, and what can be asked about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from codegen.analysis.keys import is_constant_key
from codegen.analysis.values import (
    ANY_GRADIENT,
    ANY_PARAMETER,
    ANYTHING,
    CONTAINERS,
    OTHER,
    REST,
    Kind,
    Place,
    Slot,
    Value,
    View,
    join,
    join_all,
    of_another,
    of_another_group,
    of_any,
)

Shape = int | frozenset[str] | None


@dataclass
class Store:
    """The values of names and slots, and what is known of the objects among them.

    ``texts`` are ways to write objects. ``possibly_absent`` are slots that exist on some way here
    and not on another, ``unbound`` names that are bound on some way alone. ``exact`` are containers of which every item has a slot, with
    their length (-1 for a dict), ``distinct`` those whose items are different objects,
    but for what was stored under constant keys. ``origins`` are what an object that was
    found in a container may be, beside itself, ``found`` the slot where; ``sharing`` is
    what slots may share when the step begins.
    """

    names: dict[str, Value] = field(default_factory=dict)
    slots: dict[Slot, Value] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    possibly_absent: set[Slot] = field(default_factory=set)
    unbound: set[str] = field(default_factory=set)
    exact: dict[str, int] = field(default_factory=dict)
    distinct: frozenset[str] = frozenset()
    origins: dict[str, frozenset[str]] = field(default_factory=dict)
    found: dict[str, Slot] = field(default_factory=dict)
    sharing: Mapping[str, frozenset[str]] = field(default_factory=dict)

    # --- contents of containers --------------------------------------------

    def slots_of(self, obj: str) -> Iterator[tuple[Slot, Value]]:
        return ((s, v) for s, v in self.slots.items() if s.container == obj)

    def contents(self, value: Value) -> Value | None:
        """A summary of what a container may hold; None if nothing is known to be in."""
        found = None
        tracked = [p.obj for p in value.places]
        if not tracked or not all(obj in self.exact for obj in tracked):
            found = value.item
        held = (i for obj in tracked for i in self.slots_of(obj))
        return join_all([found, *(self._held(slot, v) for slot, v in held)])

    def _held(self, slot: Slot, value: Value) -> Value | None:
        """What a slot contributes: that of an iterator, what is walked holds now."""
        if not slot.key.startswith(WALKED):
            return value
        inside = self.contents(value)
        if slot.key.endswith(PAIRS):
            return Value(Kind.SEQUENCE, item=join(inside, OTHER))
        return inside

    def walk(self, made: str, walked: Iterable[Value], pairs: bool) -> None:
        """``made`` hands out what is in these containers when it is asked."""
        for number, value in enumerate(walked):
            if value.kind in CONTAINERS:
                key = f"{WALKED}{number}{PAIRS if pairs else ''}"
                self.slots[Slot(made, key)] = value

    def may_have(self, slot: Slot) -> bool:
        """Whether a container may have an item that no slot is known for."""
        return slot.container not in self.exact

    def copy_items(self, obj: str, made: str, chosen: slice = slice(None)) -> None:
        """``made`` is a list of the same items as ``obj``, or of some of them; or a dict
        of the same."""
        length = self.exact.get(obj, -1)
        if length >= 0:
            items = [self.slots[Slot(obj, str(n))] for n in range(length)][chosen]
            for number, item in enumerate(items):
                self.slots[Slot(made, str(number))] = item
            self.exact[made] = len(items)
        elif chosen == slice(None):
            for slot, item in [*self.slots_of(obj)]:
                if slot.key.startswith(WALKED):
                    continue  # what it holds now is copied
                new = Slot(made, slot.key)
                self.slots[new] = item
                self.possibly_absent |= {new} if slot in self.possibly_absent else set()
            if obj in self.exact:
                self.exact[made] = length
        if obj in self.distinct:
            self.distinct |= {made}

    def listed(self, value: Value) -> list[Value] | None:
        """The items of a list of known length, in order."""
        place = value.place
        length = -1 if place is None else self.exact.get(place.obj, -1)
        if place is None or length < 0:
            return None
        return [self.slots[Slot(place.obj, str(number))] for number in range(length)]

    def shape(self, obj: str) -> Shape:
        """How many items a list has, or under which keys a dict has some; None where
        that isn't known."""
        length = self.exact.get(obj)
        if length != -1:
            return length
        slots = {s for s, _ in self.slots_of(obj) if is_constant_key(s.key)}
        return (
            None
            if slots & self.possibly_absent
            else frozenset(slot.key for slot in slots)
        )

    def has_no_twins(self, obj: str) -> bool:
        """Whether no two items of a container are one object."""
        known = [v for s, v in self.slots_of(obj) if is_constant_key(s.key)]
        return obj in self.distinct and not any(
            self.may_alias(a, b) for a, b in combinations(known, 2)
        )

    def is_kept(self, container: str) -> bool:
        """Whether a container outlives the step: it is, or lies in, the state, a group or
        what is shared, at any depth."""
        pending, seen = [container], set[str]()
        while pending:
            obj = pending.pop()
            if of_any(Place(obj)).obj in KEPT:
                return True
            if obj not in seen:
                seen.add(obj)
                holders = self.slots.items()
                pending += [s.container for s, v in holders if obj in v.objects]
        return False

    def knows(self, obj: str) -> bool:
        """Whether anything here refers to an object."""
        return any(obj in v.objects for v in self.names.values()) or any(
            s.container == obj or obj in v.objects for s, v in self.slots.items()
        )

    def keep_reachable(self) -> None:
        """Forget what no name leads to."""
        objects: set[str] = set()
        pending = [o for v in self.names.values() for o in all_objects(v)]
        while pending:
            obj = pending.pop()
            if obj not in objects:
                objects.add(obj)
                pending += [o for _, v in self.slots_of(obj) for o in all_objects(v)]
        self.slots = {s: v for s, v in self.slots.items() if s.container in objects}
        self.exact = {o: n for o, n in self.exact.items() if o in objects}
        self.possibly_absent = {
            s for s in self.possibly_absent if s.container in objects
        }

    # --- may-alias ---------------------------------------------------------

    def may_alias(self, a: Value, b: Value) -> bool:
        """Whether two values may be, or show, the same object."""
        return any(self._may_be_one(one, two) for one in a.objects for two in b.objects)

    def _may_be_one(self, a: str, b: str) -> bool:
        if a != b and self._are_siblings(a, b):
            return False
        one, two = self._origins_of([a]), self._origins_of([b])
        if one & two or ANYTHING.obj in one | two:
            return True
        return any(
            (some.obj in one and bool(two & each))
            or (some.obj in two and bool(one & each))
            for some, each in _SOME_OF
        )

    def _are_siblings(self, a: str, b: str) -> bool:
        """Whether they were found under different keys of a container whose items are
        all different."""
        one, two = self.found.get(a), self.found.get(b)
        if one is None or two is None or one.container != two.container:
            return False
        keys = (one.key, two.key)
        return one.container in self.distinct and all(map(is_constant_key, keys))

    def identities(self, value: Value) -> set[str]:
        """The objects that a value may be, and those that they were found among."""
        return self._origins_of(place.obj for place in value.places)

    def _origins_of(self, objects: Iterable[str]) -> set[str]:
        found: set[str] = set()
        pending = list(objects)
        while pending:
            obj = pending.pop()
            if obj not in found:
                found.add(obj)
                pending.extend(self.origins.get(obj, ()))
        return found

    def learn_origins(self, origins: Mapping[str, frozenset[str]]) -> None:
        for obj, others in origins.items():
            self.origins[obj] = self.origins.get(obj, NO_OBJECTS) | others

    # --- text --------------------------------------------------------------

    def slot_text(self, slot: Slot) -> str | None:
        """How to write a slot here: through a name of its container, if there is one."""
        if slot.key == REST:
            return None
        base = self.texts.get(slot.container)
        if slot.key.startswith("."):
            return None if base is None else f"{base}{slot.key}"
        for name, value in self.names.items():
            if value.place == Place(slot.container) and name not in self.unbound:
                return f"{name}[{slot.key}]"
        base = base or self._text_of(slot.container)
        return None if base is None else f"{base}[{slot.key}]"

    def _text_of(self, container: str) -> str | None:
        """How to write a container that itself lies in a slot."""
        for slot, value in self.slots.items():
            if value.place == Place(container) and slot.container != container:
                return self.slot_text(slot)
        return None

    def _views(self) -> Iterator[View]:
        for value in (*self.names.values(), *self.slots.values()):
            for place in value.places:
                yield from place.views


NO_OBJECTS: frozenset[str] = frozenset()
EARLIER_GROUP = "an earlier group"
KEPT = ("state", "shared", "param", "group", EARLIER_GROUP)
WALKED, PAIRS = ".walked", " in pairs"
"""How the slots begin of what an iterator, or a view of a dict, hands its items out of,
and how they end where it hands out tuples of them."""
_SOME_OF = tuple(
    (some, frozenset({one, of_another(one), of_another_group(one)}))
    for some, one in ((ANY_PARAMETER, "param"), (ANY_GRADIENT, "grad"))
)


def all_objects(value: Value | None) -> frozenset[str]:
    """What a value may denote, and what may be in it."""
    if value is None:
        return NO_OBJECTS
    return value.objects | all_objects(value.item)


def keys_of(shape: Shape) -> list[str]:
    """Under which keys a container of that shape has items."""
    if isinstance(shape, int):
        return [str(number) for number in range(shape)]
    return sorted(shape or ())
