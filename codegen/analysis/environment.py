"""What names and slots denote at one point of a body."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from codegen.analysis.keys import elements_read, is_computed, is_constant_key, variables
from codegen.analysis.store import EARLIER_GROUP as EARLIER_GROUP
from codegen.analysis.store import NO_OBJECTS, Shape, Store
from codegen.analysis.values import (
    CONTAINERS,
    MAY_HOLD_TENSORS,
    REPEATS,
    REST,
    Kind,
    Place,
    Slot,
    Value,
    View,
    is_many,
    join,
    join_all,
    several,
    showing,
)

Fact = tuple[str, bool]
"""The text of a condition, and whether it holds."""


@dataclass
class Env(Store):
    """The heap before one statement: the store, and how it changes.

    ``keyed`` are the variables that the key reads under which an object was found;
    ``kinds`` what sorts of things slots hold when the step begins, ``shapes`` which items
    the containers have that are there then (None where all is taken to be as it is
    first stored). ``facts`` are conditions that hold here, ``guarded`` what names denote
    wherever one of them holds again.
    """

    keyed: dict[str, frozenset[str]] = field(default_factory=dict)
    kinds: Mapping[Slot, Kind] = field(default_factory=dict)
    shapes: Mapping[str, Shape] | None = None
    facts: frozenset[Fact] = frozenset()
    guarded: dict[Fact, dict[str, Value]] = field(default_factory=dict)

    def fork(self) -> Env:
        return replace(
            self,
            names=dict(self.names),
            slots=dict(self.slots),
            texts=dict(self.texts),
            possibly_absent=set(self.possibly_absent),
            unbound=set(self.unbound),
            exact=dict(self.exact),
            origins=dict(self.origins),
            keyed=dict(self.keyed),
            found=dict(self.found),
            guarded=dict(self.guarded),
        )

    def joined(self, other: Env) -> Env:
        """What holds where two ways meet."""
        one_sided = {
            s
            for s in self.slots.keys() ^ other.slots.keys()
            if is_constant_key(s.key) and not s.key.startswith(".")
        }
        exact = {
            obj: length
            for obj, length in {**self.exact, **other.exact}.items()
            if all(e.exact.get(obj, length) == length for e in (self, other))
            and all(obj in e.exact or not e.knows(obj) for e in (self, other))
        }
        joined = replace(
            self,
            names=_joined(self.names, other.names),
            slots=_joined(self.slots, other.slots),
            texts={**other.texts, **self.texts},
            possibly_absent=self.possibly_absent
            | other.possibly_absent
            | self._missing(one_sided, other),
            unbound=self.unbound
            | other.unbound
            | self.names.keys() ^ other.names.keys(),
            exact=exact,
            distinct=self._both_distinct(other),
            origins={
                obj: self.origins.get(obj, NO_OBJECTS)
                | other.origins.get(obj, NO_OBJECTS)
                for obj in {**self.origins, **other.origins}
            },
            keyed={**other.keyed, **self.keyed},
            found={**other.found, **self.found},
            facts=self.facts & other.facts,
            guarded=self._guards(other),
        )
        for slot in self.slots.keys() ^ other.slots.keys():
            if not is_constant_key(slot.key) and slot.key != REST:
                del joined.slots[slot]  # on one way its key means nothing
        for slot in one_sided:
            joined.found_or_stored(slot, other if slot in self.slots else self)
        joined.possibly_absent = {
            s for s in joined.possibly_absent if joined.exact.get(s.container, -1) < 0
        }
        return joined

    def _missing(self, one_sided: set[Slot], other: Env) -> set[Slot]:
        """Those that a container which is there on both ways has on one alone."""
        made = {s.container for s in one_sided if s.container.startswith("#")}
        here = {c for c in made if not (self.knows(c) and other.knows(c))}
        return {s for s in one_sided if s.container not in here}

    # --- conditions that are asked twice ------------------------------------

    def assume(self, fact: Fact) -> None:
        """A condition holds here: names denote what they did where it held before."""
        self.names.update(self.guarded.get(fact, {}))
        other = (fact[0], not fact[1])
        self.guarded = {f: n for f, n in self.guarded.items() if f not in (fact, other)}
        self.facts = self.facts - {other} | {fact}

    def _guards(self, other: Env) -> dict[Fact, dict[str, Value]]:
        met = {f for f in self.facts if (f[0], not f[1]) in other.facts}
        asked = {*self.guarded, *other.guarded, *met, *((t, not b) for t, b in met)}
        found: dict[Fact, dict[str, Value]] = {}
        for fact in asked:
            one, two = self._where(fact), other._where(fact)
            if one is None or two is None:
                names = one if two is None else two
            else:
                names = {n: _sure(join(one[n], two[n])) for n in one if n in two}
            joined = {
                n: v
                for n, v in (names or {}).items()
                if n not in self.names
                or n not in other.names
                or v != join(self.names[n], other.names[n])
            }
            if joined:
                found[fact] = joined
        return found

    def _where(self, fact: Fact) -> dict[str, Value] | None:
        """What names denote here where ``fact`` holds; None if it can't."""
        if fact in self.facts:
            return self.names
        if (fact[0], not fact[1]) in self.facts:
            return None
        return self.names | self.guarded.get(fact, {})

    def drop_conditions(self, reading: str) -> None:
        """Conditions that read ``reading`` may come out otherwise from now on."""
        self.facts = frozenset(f for f in self.facts if reading not in variables(f[0]))
        self.guarded = {
            f: n for f, n in self.guarded.items() if reading not in variables(f[0])
        }

    def forget_conditions(self) -> None:
        """Any condition may come out otherwise from now on."""
        self.facts, self.guarded = frozenset(), {}

    # --- slots that one way doesn't know --------------------------------------

    def found_or_stored(self, slot: Slot, other: Env) -> None:
        """A slot that one way stores to holds, on the other, what it held before.

        An object that was made for this slot alone stands for both.
        """
        value = self.slots[slot]
        if slot.container.startswith("#"):
            if other.knows(slot.container) and slot.container not in other.exact:
                whole = Value(Kind.SEQUENCE, frozenset({Place(slot.container)}))
                self.slots[slot] = _sure(join(value, other.contents(whole)))
            return
        if self._stands_for_both(slot, other):
            return
        name, kind = f"{slot.container}[{slot.key}]", value.kind
        if kind is Kind.NONE:
            kind = self.kinds.get(slot, kind)
        if kind in MAY_HOLD_TENSORS and value.place != Place(name):
            held = frozenset({Place(name)})
            before = replace(value, kind=kind, places=held, parameter=False)
            self.slots[slot] = _sure(join(value, before))
            self._may_be(name, self.sharing.get(name, NO_OBJECTS))

    def _stands_for_both(self, slot: Slot, other: Env, name: str = "") -> bool:
        """Whether what a slot holds was made for it alone: then the object stands for
        what the slot, which has that ``name`` when a step begins, held before on the
        other way, too, and so do its items."""
        name = name or f"{slot.container}[{slot.key}]"
        place = self.slots[slot].place
        if place is None or not place.obj.startswith("#") or place.views:
            return False
        obj = place.obj
        holders = [s for s, v in self.slots.items() if obj in v.objects]
        if [s for s in holders if self.is_kept(s.container)] != [slot]:
            return False
        if other.knows(obj):
            return False
        self._is_called(obj, name)
        items = [(s, v, f"{name}[{s.key}]") for s, v in self.slots_of(obj)]
        for _, value, called in items:
            for part in value.objects:
                self._is_called(part, called)
        shape = self.shape(obj)
        same = shape is not None and (
            self.shapes is None or self.shapes.get(name) == shape
        )
        if not same:
            self.exact.pop(obj, None)
        for item, value, called in items:
            if not self._stands_for_both(item, other, called):
                held = replace(value, places=frozenset({Place(called)}))
                if value.kind in MAY_HOLD_TENSORS:
                    self.slots[item] = _sure(
                        join(value, replace(held, parameter=False))
                    )
                    self._is_called(called, called)
        return True

    def _is_called(self, obj: str, name: str) -> None:
        """An object has that name when a step begins, and what it may be one with then,
        it may be now."""
        others = self.sharing.get(name, NO_OBJECTS)
        if others:
            self._may_be(obj, (others | {name}) - {obj})

    def _may_be(self, obj: str, others: frozenset[str]) -> None:
        if REPEATS in others:
            self.distinct -= {obj}
            others -= {REPEATS}
        if others:
            self.origins[obj] = self.origins.get(obj, NO_OBJECTS) | others

    def _both_distinct(self, other: Env) -> frozenset[str]:
        """A container that one way doesn't know is as distinct as on the other."""
        sure = self.distinct & other.distinct
        for one, two in ((self, other), (other, self)):
            sure |= {obj for obj in one.distinct - two.distinct if not two.knows(obj)}
        return sure

    # --- contents of containers ---------------------------------------------

    def summarize(self, obj: str, more: Value | None = None) -> None:
        """Which item of ``obj`` is where is not known any more; ``more`` may be in it.

        What was found under a key before is not what is found under it from now on.
        """
        self.age([o for o, s in self.found.items() if s.container == obj])
        own = dict(self.slots_of(obj))
        rest = join_all([*own.values(), more])
        for slot in own:
            del self.slots[slot]
            self.possibly_absent.discard(slot)
        self.exact.pop(obj, None)
        if rest is not None:
            self.slots[Slot(obj, REST)] = rest

    def relist(self, obj: str, items: Sequence[Value]) -> None:
        """A list of known length has these items now."""
        self.forget_variable_keys(obj)
        for slot in [s for s, _ in self.slots_of(obj)]:
            del self.slots[slot]
        for number, item in enumerate(items):
            self.slots[Slot(obj, str(number))] = item
        self.exact[obj] = len(items)

    def forget_variable_keys(self, obj: str) -> None:
        """Items have moved: what a variable key found is not what it finds now."""
        self.age(
            [
                o
                for o, s in self.found.items()
                if s.container == obj and not is_constant_key(s.key)
            ]
        )
        for slot in [s for s, _ in self.slots_of(obj) if not is_constant_key(s.key)]:
            if slot.key != REST:
                del self.slots[slot]
                self.possibly_absent.discard(slot)

    # --- renaming -----------------------------------------------------------

    def rename(self, change: Callable[[Place], Place]) -> None:
        """Other names for objects, wherever they are referred to."""
        self.names = {n: v.with_places(change) for n, v in self.names.items()}
        self.guarded = {
            f: {n: v.with_places(change) for n, v in names.items()}
            for f, names in self.guarded.items()
        }
        slots: dict[Slot, Value] = {}
        for slot, value in self.slots.items():
            container = change(Place(slot.container)).obj
            new = slot if container == slot.container else Slot(container, slot.key)
            held = value.with_places(change)
            known = slots.get(new)
            slots[new] = held if known is None else _sure(join(known, held))
            if new != slot and slot in self.possibly_absent:
                self.possibly_absent.discard(slot)
                self.possibly_absent.add(new)
        self.slots = slots
        self.exact = {o: n for o, n in self.exact.items() if change(Place(o)).obj == o}
        origins: dict[str, frozenset[str]] = {}
        for obj, found in self.origins.items():
            name = change(Place(obj)).obj
            moved = frozenset(change(Place(f)).obj for f in found)
            origins[name] = origins.get(name, NO_OBJECTS) | moved
        self.origins = origins

    def age(self, objects: Iterable[str], new: Callable[[str], str] = several) -> None:
        """What was made or found before is apart from what is made or found now."""
        old = {obj for obj in objects if new(obj) != obj}
        if not old:
            return
        for slot, value in [*self.slots.items()]:
            if slot.container in old and slot.key != REST:
                del self.slots[slot]
                self.possibly_absent.discard(slot)
                rest = replace(slot, key=REST)
                self.slots[rest] = _sure(join(self.slots.get(rest), value))
        self.distinct -= {o for o in old if self.knows(new(o))}
        self.distinct = frozenset(new(o) if o in old else o for o in self.distinct)
        self.rename(lambda p: replace(p, obj=new(p.obj)) if p.obj in old else p)

    def forget_name(self, name: str) -> None:
        """A variable is bound again: keys and views that read it say nothing now."""
        self.unbound.discard(name)
        self.drop_conditions(name)
        self.guarded = {
            f: {n: v for n, v in names.items() if n != name}
            for f, names in self.guarded.items()
        }
        for slot in [s for s in self.slots if name in variables(s.key)]:
            del self.slots[slot]
            self.possibly_absent.discard(slot)
        self.age([obj for obj, reads in self.keyed.items() if name in reads])

        if any(name in variables(v.text) for v in self._views()):
            self.rename(dulled_by(name))

    def forget_computed_keys(self) -> None:
        """Something was written: what is read for a key, or for a view, may differ."""
        held = {n for n, v in self.names.items() if v.kind in CONTAINERS}
        held |= {"group", "self"}
        tensors = {n for n, v in self.names.items() if v.kind in _MUTABLE}

        def computed(text: str) -> bool:
            return bool(variables(text) & held or elements_read(text) & tensors)

        slots = [s for s in self.slots if is_computed(s.key, computed)]
        for slot in slots:
            del self.slots[slot]
            self.possibly_absent.discard(slot)
        self.age(
            [
                obj
                for obj, slot in self.found.items()
                if is_computed(slot.key, computed) and not is_many(obj)
            ]
        )

        def dulled(view: View) -> View:
            return view.dulled() if computed(view.text) else view

        if any(computed(v.text) for v in self._views()):
            self.rename(lambda p: showing(p, tuple(map(dulled, p.views))))

    def close(self, value: Value, names: Iterable[str]) -> Value:
        """``value`` as it is known where these variables are bound no more."""
        self.names = {RETURNED: value}
        for name in names:
            self.forget_name(name)
        return self.names[RETURNED]


RETURNED = "return"
"""What stands for a result among names: no variable is called so."""
_MUTABLE = (Kind.TENSOR, Kind.UNKNOWN)
K = TypeVar("K")


def _joined(a: dict[K, Value], b: dict[K, Value]) -> dict[K, Value]:
    keys = [*a, *(k for k in b if k not in a)]
    return {k: _sure(join(a.get(k), b.get(k))) for k in keys}


def _sure(value: Value | None) -> Value:
    assert value is not None
    return value


def dulled_by(name: str) -> Callable[[Place], Place]:
    """Places without the texts of views that read a variable, which is bound again."""

    def dulled(place: Place) -> Place:
        if not any(name in variables(v.text) for v in place.views):
            return place
        views = (v.dulled() if name in variables(v.text) else v for v in place.views)
        return showing(place, tuple(views))

    return dulled
