"""All parts of a tensor, as one operation made them: made again where it changes.

rows = g.unbind()                rows = g.unbind()
rows[1].mul_(0.5)            →   updated = rows[1].mul(0.5)
use(rows[0])                     g = ops.write_through(g, rows[1], updated)
                                 rows = g.unbind()
                                 use(rows[0])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import libcst as cst

from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.analysis.values import ANY_ITEM, Value, View, is_many, numbered
from codegen.diagnostics import walk
from codegen.rules.base import Rule
from codegen.syntax import read_names


@dataclass
class Scope:
    """What holds before a mutation: places, live names, whether grads are read again,
    and what is mutated afterwards; and names that loops walk, whatever they are bound to
    meanwhile."""

    env: Env
    live: frozenset[str]
    grads_read_later: bool = False
    mutated_later: tuple[Value, ...] = ()
    walked: frozenset[str] = frozenset()


def names_walked(body: Iterable[cst.CSTNode]) -> frozenset[str]:
    """Variables that the loops of a body read in their heads."""
    loops = (n for s in body for n in walk(s) if isinstance(n, cst.For))
    return frozenset(name for loop in loops for name in read_names(loop.iter))


class MutationRule(Rule):
    """What the propagation asks of its rule, and tells it."""

    places: Heap
    wrote_through = False
    """Whether it finds out at run time what is a view of what."""
    emits_identity_tests = False
    """Whether the translation asks at run time which tensors are the same."""
    asked_unbound: dict[str, None]
    """Names that it asks for where they may not be bound."""


class Parts:
    """Names of tuples whose items are parts of what is mutated."""

    def __init__(self, rule: MutationRule, scope: Scope) -> None:
        self.rule = rule
        self.env = scope.env
        self.live = scope.live
        self.scope = scope

    def _parts_of(self, value: Value) -> Iterator[tuple[str, str]]:
        """Live names of all parts of an object, as one operation made them, with what is
        written after it: ``.unbind()``. They can be made again of its new value."""
        for name, held in self.env.names.items():
            if name in self.live and not name in self.env.unbound | self.scope.walked:
                text = self._made_by(held, value)
                if text is not None:
                    yield name, text

    def _made_by(self, parts: Value, value: Value) -> str | None:
        """How what surely is all parts of a value's object is made of it; None where
        it may be something else."""
        container, place, item = parts.place, value.place, parts.item
        if container is None or place is None or item is None or len(item.places) != 1:
            return None
        (shown,) = item.places
        *before, last = shown.views or (View("opaque", ""),)
        how = last.text.removesuffix(ANY_ITEM)
        if shown.obj != place.obj or is_many(shown.obj) or how in ("", last.text):
            return None
        if container.obj not in self.rule.places.expressions.parted:
            return None
        if not all(view.known for view in before):
            return None
        for slot, held in self.env.slots_of(container.obj):
            if held.places != numbered(item, slot.key).places:
                return None
        return "".join(view.text for view in before) + how

    def _are_parts(self, container: str, value: Value) -> bool:
        """Whether a container holds parts that are made again, and only names hold it."""
        names = {n: v for n, v in self.env.names.items() if container in v.objects}
        held = names.values()
        inside = (v for v in self.env.slots.values() if container in v.objects)
        again = all(self._made_by(v, value) is not None for v in held)
        sure = bool(names) and not names.keys() & (self.scope.walked | self.env.unbound)
        return sure and again and not any(inside)
