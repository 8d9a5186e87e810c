"""Who must see a new value: the live names and slots of the mutated place."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from codegen.analysis.environment import EARLIER_GROUP
from codegen.analysis.values import (
    ANOTHERS,
    ANY_GRADIENT,
    ANY_PARAMETER,
    ANYTHING,
    CONTAINERS,
    PART,
    REST,
    TOLD,
    Kind,
    Place,
    Slot,
    Value,
    is_many,
    of_any,
)
from codegen.rules.r4_out_of_place.parts import MutationRule, Parts, Scope
from codegen.syntax import code, expr, is_name, same


class Holders(Parts):
    """Who holds what is mutated where it stands, shows it, or may."""

    def __init__(self, rule: MutationRule, scope: Scope, at: cst.CSTNode) -> None:
        super().__init__(rule, scope)
        self.at = at
        self.source: Slot | None = None
        self.root: cst.BaseExpression = cst.Name("x")
        self.links_left = False

    def _out_of_reach(self, value: Value) -> str | None:
        """Who may hold what is mutated where no statement could give it a new value."""
        identities = self.env.identities(value)
        if not value.places or ANYTHING.obj in identities:
            return "something that the compiler can't see"
        for place in value.places:
            told = all(view.known or view.whole for view in place.views)
            if not told or place.obj.endswith(PART):
                return self._text_of_container(place.obj)
        if ANY_PARAMETER.obj in identities:
            return "a parameter that is not the loop's"
        if any(_is_gradient_elsewhere(obj) for obj in identities):
            return "the gradient of another parameter"
        if ANOTHERS.obj in identities:
            return "the state of another parameter"
        if any(obj.startswith(TOLD) for obj in identities):
            return "another group"  # that may have been told the very tensor
        if not self.rule.context.arguments_are_local:
            if any(place.obj.startswith("argument ") for place in value.places):
                return "the caller"
        container = self._in_tuple(value)
        if container is not None:
            return self._text_of_container(container)
        for slot, held in self.env.slots.items():
            if slot.container == EARLIER_GROUP and self.env.may_alias(held, value):
                return f"{EARLIER_GROUP}'s {slot.key}"
            if slot.key != REST and not is_many(slot.container):
                continue
            if self._may_be_in_rest(slot, held, value):
                return self._text_of_container(slot.container)
        for container, held in self._summaries():
            if self._are_parts(container, value):
                continue
            if self.env.may_alias(held, value) and not self._sure_item(
                container, value
            ):
                return self._text_of_container(container)
        return None

    def _in_tuple(self, value: Value) -> str | None:
        """A tuple that may hold it, is still read, and can't get a new item."""
        for slot, held in self.env.slots.items():
            sure = value.place is not None and held.place == value.place
            if not sure and self.rule.places.expressions.may_be_tuple(slot.container):
                if self._are_parts(slot.container, value):
                    continue
                if self.env.may_alias(held, value) and self._matters(slot.container):
                    return slot.container
        return None

    def seen_by(
        self, value: Value, beside: cst.BaseExpression | None = None
    ) -> str | None:
        """Who is still read, and may be or show what ``value`` denotes, ``beside`` a
        variable."""
        lost = self._out_of_reach(value)
        held = (holder for holder, _, _ in self._related(value))
        others = (code(h) for h in held if beside is None or not same(h, beside))
        return lost if lost is not None else next(others, None)

    def shows_memory(self, parameter: Value) -> bool:
        """Whether anything that is still read may show a parameter's memory, and is not
        the parameter itself."""
        if self._out_of_reach(parameter) is not None:
            return True
        related = ((held, slot) for _, held, slot in self._related(parameter))
        return any(
            not held.parameter and slot != Slot("param", ".data")
            for held, slot in related
        )

    def _may_be_in_rest(self, slot: Slot, held: Value, value: Value) -> bool:
        """Whether an item that has no slot of its own may be what is mutated."""
        if not self.env.may_alias(held, value) or not self._matters(slot.container):
            return False
        return not self._sure_item(slot.container, value)

    def _sure_item(self, container: str, value: Value) -> bool:
        """Whether a slot surely holds it, of a container whose items are all different."""
        if container not in self.env.distinct or value.place is None:
            return False
        slots = self.env.slots_of(container)
        return any(held.place == Place(value.place.obj) for _, held in slots)

    def _is_another_item(self, slot: Slot, held: Value, value: Value) -> bool:
        """Whether a slot holds something else, for another one of its container holds
        the very object."""
        if value.place is None or held.place == Place(value.place.obj):
            return False
        twins = not self.env.has_no_twins(slot.container)
        return not twins and self._sure_item(slot.container, value)

    def _summaries(self) -> Iterator[tuple[str, Value]]:
        """Containers of which not every item is known, with what may be in them."""
        values = [v for n, v in self.env.names.items() if n in self.live]
        values += [
            v
            for s, v in self.env.slots.items()
            if v.kind in CONTAINERS and self._matters(s.container)
        ]
        for value in values:
            for place in value.places:
                if value.item is not None and place.obj not in self.env.exact:
                    yield place.obj, value.item

    def _matters(self, container: str) -> bool:
        """Whether what a container holds may still be read."""
        pending, seen = [container], set[str]()
        while pending:
            obj = pending.pop()
            kept = of_any(Place(obj)).obj
            if kept in _KEPT or obj in self.env.texts:
                return True
            if obj in seen:
                continue
            seen.add(obj)
            for name, value in self.env.names.items():
                if name in self.live and obj in value.objects:
                    return True
            holders = self.env.slots.items()
            pending += [s.container for s, v in holders if obj in v.objects]
        return False

    def _text_of_container(self, container: str) -> str:
        for name, value in self.env.names.items():
            if container in value.objects:
                return name
        for slot, value in self.env.slots.items():
            if value.place == Place(container):
                return self.env.slot_text(slot) or "a container"
        return "a container" if container[0] == "#" else of_any(Place(container)).obj

    def _holders(
        self, place: Place, root: cst.BaseExpression | None
    ) -> list[cst.BaseExpression]:
        """Slots, then live names, that surely hold the object."""
        targets: list[cst.BaseExpression] = []
        for slot, value in self.env.slots.items():
            if slot in self.env.possibly_absent and slot != self.source:
                continue
            if value.place == place and self._slot_matters(slot):
                text = self.env.slot_text(slot)
                if text is None:
                    continue
                if self.rule.places.expressions.may_be_tuple(slot.container):
                    self._refuse_tuple(slot)
                if root is not None and code(root) == text:
                    text = code(root)
                targets.append(expr(text))
        if root is not None and not is_name(root) and self._can_hold(root):
            if not any(same(root, t) for t in targets):
                targets.append(root)
        for name, value in self.env.names.items():
            if value.place == place and name in self.live:
                targets.append(cst.Name(name))
        return targets

    def _refuse_tuple(self, slot: Slot) -> None:
        name = self._text_of_container(slot.container)
        shown = self.rule.context.stands_for.get(name, name)
        self.rule.refuse(
            self.root,
            f"mutates an item of a tuple, `{shown}`, which can't get a new one",
            "keep the tensors in a list",
        )

    def _can_hold(self, node: cst.BaseExpression) -> bool:
        """Whether storing to ``node`` puts a tensor back: not where it was a copy
        (``x[mask]``) or a view (``x.T``), nor into a tuple."""
        if isinstance(node, cst.Subscript):
            held = self.rule.places.value(node.value, self.env)
            may_be_tuple = self.rule.places.expressions.may_be_tuple
            return held.kind in CONTAINERS and not any(map(may_be_tuple, held.objects))
        if isinstance(node, cst.Attribute):
            return self.rule.places.value(node.value, self.env).kind is not Kind.TENSOR
        return isinstance(node, cst.Name)

    def _slot_matters(self, slot: Slot) -> bool:
        if slot.container == "grads":
            return self.scope.grads_read_later
        return self._matters(slot.container)

    def _related(
        self, value: Value
    ) -> Iterator[tuple[cst.BaseExpression, Value, Slot | None]]:
        """Live names and slots that may denote what ``value`` does, or show it."""
        for slot, held in self.env.slots.items():
            if slot.key == REST or slot.container == "params":
                continue  # no two parameters are one: p.data is the slot of this one
            if held.kind in CONTAINERS:
                continue  # what it holds has slots of its own, or is among the rest
            if not self.env.may_alias(held, value):
                continue
            if not self._slot_matters(slot) or self._is_another_item(slot, held, value):
                continue
            if self._are_parts(slot.container, value):
                continue
            text = self.env.slot_text(slot)
            if text is not None:
                yield expr(text), held, slot
            elif not is_many(slot.container):
                self._unknown_alias(self.at, self._text_of_container(slot.container))
        for name, held in self.env.names.items():
            if name in self.live and held.kind not in CONTAINERS:
                if self.env.may_alias(held, value):
                    yield cst.Name(name), held, None

    def _may_hold(
        self, value: Value, root: cst.BaseExpression
    ) -> Iterator[cst.BaseExpression]:
        """Live names and slots that hold this object or another one."""
        whole = Place(value.place.obj) if value.place is not None else None
        for holder, held, slot in self._related(value):
            if held.place is None and any(p.views for p in held.places):
                self._unknown_alias(root, code(holder))
            elif slot in self.env.possibly_absent and slot != self.source:
                yield holder
            elif held.place is not None and held.place.obj == getattr(whole, "obj", ""):
                continue  # it is one, or shows one
            elif any(p.views for p in held.places):
                self._unknown_alias(root, code(holder))
            elif not same(holder, root):
                yield holder

    def _may_be_missing(self, holder: cst.BaseExpression) -> bool:
        if isinstance(holder, cst.Name):
            return holder.value in self.env.unbound
        return code(holder) in {self.env.slot_text(s) for s in self.env.possibly_absent}

    def _is_mutated_again(self, value: Value) -> bool:
        """Whether this very part, or one of it, is."""
        return self.links_left or any(
            self.env.may_alias(value, later)
            and any(_may_be_in(p, value.places) for p in later.places)
            for later in self.scope.mutated_later
        )

    def _shown_elsewhere(self, value: Value, place: Place) -> bool:
        """Whether anybody sees another part of the object."""
        return any(True for _ in self._parts_of(value)) or any(
            held.place != place and any(p.obj == place.obj for p in held.places)
            for _, held, _ in self._related(value)
        )

    def _named(self, whole: Place) -> list[cst.BaseExpression]:
        for name, held in self.env.names.items():
            if held.place == whole and name not in self.env.unbound:
                return [cst.Name(name)]
        return []

    def _old_base(
        self, whole: Place, root: cst.BaseExpression, place: Place
    ) -> cst.BaseExpression | None:
        # a name that nobody reads any more may not have the present value
        for name, value in self.env.names.items():
            if value.place == whole and name in self.live - self.env.unbound:
                return cst.Name(name)
        for slot, value in self.env.slots.items():
            if value.place == whole and slot not in self.env.possibly_absent - {
                self.source
            }:
                text = self.env.slot_text(slot)
                if text is not None:
                    return expr(text)
        named = self._named(whole)
        return named[0] if named else None

    def _refuse_lost(self, place: Place, root: cst.BaseExpression) -> None:
        """The parameter outlives the step: its new value must go somewhere."""
        kept = self.env.slots.get(Slot("param", ".data"))
        if place.obj == "param" and kept is not None and "param" in kept.objects:
            self._unknown_alias(root, "the parameter")

    def _unknown_alias(self, node: cst.CSTNode, other: str) -> None:
        shown = self.rule.context.stands_for.get(other, other)
        self.rule.refuse(
            node,
            f"mutates a tensor that `{shown}` may share memory with",
            "clone it first, or assign the result back",
        )


def _may_be_in(part: Place, places: frozenset[Place]) -> bool:
    """Whether a place may be one of these, or a part of one."""
    return any(
        part.obj != whole.obj
        or not all(v.known for v in (*part.views, *whole.views))
        or part.views[: len(whole.views)] == whole.views
        for whole in places
    )


def _is_gradient_elsewhere(obj: str) -> bool:
    """Whether it is one that is not beside the loop's parameter."""
    return obj == ANY_GRADIENT.obj or obj != "grad" == of_any(Place(obj)).obj


_KEPT = ("state", "param", "group", "shared", "params")
"""What the step doesn't make: it is there for the next one."""
